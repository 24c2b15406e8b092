"""Sends results back: each object once, and asks the destination afterwards whether it has them.

Objects carry UIDs that depend on their content alone, so sending one again cannot make a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
import requests
from pydicom.dataset import Dataset
from pynetdicom import AE

from gateway.receiver import client_context
from gateway.settings import StoreDestination, StowDestination
from gateway.web import dicomweb, value

_SOP_INSTANCE_UID = "00080018"
_SUCCESS_OR_WARNING = (0x0000, 0xB000, 0xB006, 0xB007)


class DeliveryError(Exception):
    """The destination did not take everything; the message is for people and holds no patient data."""


@dataclass(frozen=True)
class ResultObject:
    """One object of a result: where it is and what identifies it."""

    path: Path
    study_uid: str
    sop_uid: str
    sop_class: str


def objects_of(results: Path) -> list[ResultObject]:
    """The DICOM objects of a results folder."""
    found = []
    for path in sorted(results.glob("*.dcm")):
        header = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SOPInstanceUID", "SOPClassUID"]
        )
        found.append(ResultObject(path, header.StudyInstanceUID, header.SOPInstanceUID, header.SOPClassUID))
    return found


def deliver(objects: Sequence[ResultObject], destination: StowDestination | StoreDestination) -> int:
    """Bring objects to the destination.

    Returns
    -------
    int
        How many were sent; those that were there already are not sent again.

    Raises
    ------
    DeliveryError
        When some could not be delivered; to be tried again.
    """
    if isinstance(destination, StowDestination):
        return _by_stow(objects, destination)
    return _by_store(objects, destination)


def _by_stow(objects: Sequence[ResultObject], destination: StowDestination) -> int:
    client = dicomweb(destination)

    def present() -> set[str]:
        return {
            value(item, _SOP_INSTANCE_UID)
            for study in {item.study_uid for item in objects}
            for item in client.search_for_instances(study)
        }

    try:
        there = present()
        missing = [item for item in objects if item.sop_uid not in there]
        for item in missing:
            client.store_instances([_dataset(item)])
        there = present()
    except (requests.RequestException, ValueError) as error:
        # The text of the error may quote the answer: its kind must do.
        raise DeliveryError(
            f"The destination did not answer as it should ({type(error).__name__})."
        ) from error
    lost = sum(item.sop_uid not in there for item in objects)
    if lost:
        raise DeliveryError(
            f"The destination accepted the results but lacks {lost} of {len(objects)} objects."
        )
    return len(missing)


def _by_store(objects: Sequence[ResultObject], destination: StoreDestination) -> int:
    entity = AE(ae_title="ONCOTWIN")
    for sop_class in {item.sop_class for item in objects}:
        entity.add_requested_context(sop_class)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 60
    tls = (client_context(destination.tls), None) if destination.tls else None
    association = entity.associate(
        destination.host, destination.port, ae_title=destination.ae_title, tls_args=tls
    )
    if not association.is_established:
        raise DeliveryError("The destination refused or did not answer the association.")
    try:
        for item in objects:
            try:
                status = association.send_c_store(_dataset(item)).get("Status")
            except (ValueError, RuntimeError) as error:
                raise DeliveryError("The destination takes no such object, or hung up.") from error
            if status not in _SUCCESS_OR_WARNING:
                told = "no status" if status is None else f"status {status:#06x}"
                raise DeliveryError(f"The destination answered {told}.")
    finally:
        association.release()
    return len(objects)


def _dataset(item: ResultObject) -> Dataset:
    return pydicom.dcmread(item.path)
