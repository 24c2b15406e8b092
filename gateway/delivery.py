"""Sends results back: each object once, and asks the destination afterwards whether it has them.

Objects carry UIDs that depend on their content alone, so sending one again cannot make a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from gateway.commitment import Commitments, Request
from gateway.receiver import client_context
from gateway.rejections import STORED, Rejection, may_pass, words_of
from gateway.settings import StoreDestination, StowDestination
from gateway.stow import store
from gateway.web import dicomweb, every_page, session_for, value, what_failed

_SOP_INSTANCE_UID = "00080018"
# Archives that answer at once do so on the association that asked; the others open one to our receiver.
_SAME_ASSOCIATION_SECONDS = 2.0
_NO_CLASS = Rejection("its SOP class is not accepted", is_final=True)


class DeliveryError(Exception):
    """The destination did not take everything; the message is for people and holds no patient data."""


class Undeliverable(DeliveryError):
    """The destination never takes some of the objects, as it is set up now; the others are there."""


@dataclass(frozen=True)
class ResultObject:
    """One object of a result: where it is and what identifies it."""

    path: Path
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str


def objects_of(results: Path) -> list[ResultObject]:
    """The DICOM objects of a results folder."""
    found = []
    identity = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]
    for path in sorted(results.glob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=identity)
        found.append(ResultObject(path, *(str(header[keyword].value) for keyword in identity)))
    return found


@dataclass(frozen=True)
class Receipt:
    """What the destination did: objects sent (those that were there already are not sent again) and committed to."""

    sent: int
    committed: int = 0


def deliver(
    objects: Sequence[ResultObject], destination: StowDestination | StoreDestination, commitments: Commitments
) -> Receipt:
    """Bring objects to the destination.

    Raises
    ------
    Undeliverable
        When the destination does not take some of the objects: another attempt will not help.
    DeliveryError
        When some could not be delivered; to be tried again.
    """
    if isinstance(destination, StowDestination):
        return Receipt(_by_stow(objects, destination))
    return _by_store(objects, destination, commitments)


def _by_stow(objects: Sequence[ResultObject], destination: StowDestination) -> int:
    client, session = dicomweb(destination), session_for(destination)

    def present() -> set[str]:
        series = sorted({(item.study_uid, item.series_uid) for item in objects})
        return {uid for study_uid, series_uid in series for uid in _held(client, study_uid, series_uid)}

    try:
        there = present()
        missing = [item for item in objects if item.sop_uid not in there]
        rejected = {item: store(session, destination.url, item.path) for item in missing}
        there = present()
    except (requests.RequestException, ValueError) as error:
        raise DeliveryError(f"The destination did not answer as it should ({what_failed(error)}).") from error
    lacking = {item: rejected.get(item) for item in objects if item.sop_uid not in there}
    if lacking:
        raise _lacks(lacking, len(objects))
    return len(missing)


def _held(client: DICOMwebClient, study_uid: str, series_uid: str) -> set[str]:
    """Instances of one of our series, which are few: of a whole study an archive may give the first page only."""
    try:
        found = every_page(
            lambda offset: client.search_for_instances(study_uid, series_uid, offset=offset or None),
            _SOP_INSTANCE_UID,
        )
    except requests.HTTPError as error:
        if error.response is not None and error.response.status_code == requests.codes.not_found:
            return set()  # some archives say so of a series that they do not have yet
        raise
    return {value(item, _SOP_INSTANCE_UID) for item in found}


def _by_store(
    objects: Sequence[ResultObject], destination: StoreDestination, commitments: Commitments
) -> Receipt:
    entity = AE(ae_title=destination.calling_ae_title)
    for sop_class in {item.sop_class for item in objects}:
        entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    if commitments.has_receiver and destination.storage_commitment != "never":
        entity.add_requested_context(StorageCommitmentPushModel)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 60
    tls = (client_context(destination.tls), None) if destination.tls else None
    association = entity.associate(
        destination.host,
        destination.port,
        ae_title=destination.ae_title,
        tls_args=tls,  # type: ignore[arg-type]
    )
    offered = {str(context.abstract_syntax) for context in association.accepted_contexts}
    if not association.is_established:
        if association.rejected_contexts and not offered:
            raise _not_taken(objects)
        raise DeliveryError("The destination refused or did not answer the association.")
    taken = [item for item in objects if item.sop_class in offered]
    lacking = [item for item in objects if item.sop_class not in offered]
    transaction_uid = commitments.begin()
    request = Request(association, commitments, transaction_uid)
    try:
        rejected = _store(association, taken)
        if rejected:
            raise _lacks({**dict.fromkeys(lacking, _NO_CLASS), **rejected}, len(objects))
        if lacking:
            raise _not_taken(lacking)
        if not request.is_offered or not request.send((item.sop_class, item.sop_uid) for item in objects):
            if destination.storage_commitment == "required":
                raise DeliveryError("The destination does not offer storage commitment, which is required.")
            return Receipt(len(objects))
        committed = request.wait(_SAME_ASSOCIATION_SECONDS)
        association.release()
        if committed is None:
            committed = commitments.wait(transaction_uid, destination.commitment_timeout_seconds)
        return _committed(objects, committed, destination)
    except (ValueError, RuntimeError) as error:
        raise DeliveryError("The destination takes no such object, or hung up.") from error
    finally:
        commitments.end(transaction_uid)
        association.release()


def _store(association: Association, objects: Sequence[ResultObject]) -> dict[ResultObject, Rejection]:
    """Send all objects; those that the destination rejected."""
    rejected = {}
    for item in objects:
        status = association.send_c_store(_dataset(item)).get("Status")
        if status is None:
            raise DeliveryError("The destination answered no status.")
        if status not in STORED:
            rejected[item] = Rejection(f"status {words_of(status)}", not may_pass(status))
    return rejected


def _lacks(lacking: Mapping[ResultObject, Rejection | None], number: int) -> DeliveryError:
    """What the destination lacks of a number of objects, and how it rejected each; the names of the files are ours."""
    told = "; ".join(
        f"{item.path.name} ({UID(item.sop_class).name}): {rejection.answer if rejection else 'accepted, but not there'}"
        for item, rejection in lacking.items()
    )
    sentence = f"The destination lacks {len(lacking)} of {number} objects: {told}."
    if all(rejection is not None and rejection.is_final for rejection in lacking.values()):
        return Undeliverable(f"{sentence} Mend that there and retry the job.")
    return DeliveryError(sentence)


def _not_taken(objects: Sequence[ResultObject]) -> Undeliverable:
    names = " and ".join(sorted({UID(item.sop_class).name for item in objects}))
    return Undeliverable(
        f"The destination does not accept {names}, {len(objects)} objects: add it there and retry the job, or let the "
        "results go by STOW-RS or to another archive."
    )


def _committed(
    objects: Sequence[ResultObject], committed: frozenset[str] | None, destination: StoreDestination
) -> Receipt:
    """An archive that took the request owes an answer that names every object."""
    if committed is None:
        raise DeliveryError(
            "The destination took the request for storage commitment but did not answer within "
            f"{destination.commitment_timeout_seconds:g} s; does it know our receiver?"
        )
    lost = sum(item.sop_uid not in committed for item in objects)
    if lost:
        raise DeliveryError(f"The destination did not commit to {lost} of {len(objects)} objects.")
    return Receipt(len(objects), len(objects))


def _dataset(item: ResultObject) -> Dataset:
    return pydicom.dcmread(item.path)
