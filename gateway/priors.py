"""From the archive by DICOMweb: the patient's earlier studies, and images of a study that only drawings came of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

from dicomweb_client.api import DICOMwebClient

from app.engine import Outcome
from gateway.examination import DRAWINGS, Examination, examine
from gateway.folders import is_uid, key_of, remove
from gateway.settings import PriorsSection
from gateway.web import dicomweb, every_page, value

_STUDY_DATE = "00080020"
_MODALITIES_IN_STUDY = "00080061"
_MODALITY = "00080060"
_PATIENT_ID = "00100020"
_ISSUER = "00100021"
_STUDY_UID = "0020000D"
_SERIES_UID = "0020000E"
_WILDCARDS = set("*?\\")
# Of a patient with hundreds of other examinations not all are fetched.
_TRIED_IN_VAIN = 15
_NO_SEX = "O"


def fetch_priors(
    settings: PriorsSection,
    study_uid: str,
    study: Examination,
    needed: frozenset[str],
    folder: Path,
    memory_gb: float,
) -> tuple[str, ...]:
    """Retrieve the patient's latest earlier studies that the application can use together with the one that came.

    Parameters
    ----------
    settings : PriorsSection
        Where and how many.
    study_uid : str
        The study that came; not retrieved again.
    study : Examination
        Whose and when.
    needed : frozenset of str
        Contrasts that every visit must have.
    folder : pathlib.Path
        Gets a folder for each study; exists.
    memory_gb : float
        Limit of the process that reads a study, 0 for none.

    Returns
    -------
    tuple of str
        Why studies were left out, one reason each; no patient data.

    Raises
    ------
    requests.RequestException
        When the archive does not answer.
    """
    # In a query these characters would match other patients.
    if not study.patient_id or _WILDCARDS & set(study.patient_id) or not study.date:
        return ()
    client = dicomweb(settings)
    found = every_page(
        lambda offset: client.search_for_studies(
            search_filters={"PatientID": study.patient_id, "StudyDate": f"-{study.date}"},
            fields=["ModalitiesInStudy", "IssuerOfPatientID"],
            offset=offset or None,
        ),
        _STUDY_UID,
    )
    candidates = [item for item in found if _is_prior(item, study_uid, study, settings)]
    candidates.sort(key=lambda item: value(item, _STUDY_DATE), reverse=True)
    kept, left_out = [study], list[str]()
    for uid in (value(item, _STUDY_UID) for item in candidates):
        if len(kept) > settings.max_studies:
            break
        if len(left_out) >= _TRIED_IN_VAIN:
            left_out.append("too_many")
            break
        place = folder / key_of(uid)
        prior = _fetched(client, uid, {*settings.modalities, *DRAWINGS}, place, memory_gb)
        objection = prior.reason if isinstance(prior, Outcome) else _objection(prior, kept, needed)
        if objection:
            remove(place)
            left_out.append(objection)
        elif isinstance(prior, Examination):
            kept.append(prior)
    return tuple(left_out)


def _fetched(
    client: DICOMwebClient, study_uid: str, modalities: set[str], place: Path, memory_gb: float
) -> Examination | Outcome:
    place.mkdir()
    try:
        _retrieve(client, study_uid, modalities, place)
    except OSError:
        raise
    except Exception:  # whatever a hostile object makes pydicom raise, the answer is the same
        return Outcome(3, "unreadable", "An object of the study cannot be read.")
    if not any(place.iterdir()):
        return Outcome(3, "empty_input", "The archive gives no object of the study.")
    prior = examine(place, memory_gb)
    if isinstance(prior, Outcome) and not prior.is_final:  # killed: by chance, or by what it read
        return examine(place, memory_gb)
    return prior


def _objection(prior: Examination, kept: Sequence[Examination], needed: frozenset[str]) -> str:
    """Why the application would refuse a prior together with those kept, as its own reasons are called."""
    if not all(_is_same_patient(prior, other) for other in kept):
        return "several_patients"
    if prior.refusal:
        return prior.refusal[0]
    if not needed <= set(prior.roles_of_every_visit):
        return "missing_sequence"
    if any(_is_too_close(prior, other) for other in kept):
        return "zero_interval"
    return ""


def _is_same_patient(one: Examination, other: Examination) -> bool:
    """What both state must be equal; so the ingest sees it when it reads them together."""
    pairs = ((one.issuer, other.issuer), (one.birth_date, other.birth_date), (one.sex, other.sex))
    return one.patient_id == other.patient_id and all(
        a == b or not {a, b}.isdisjoint({"", _NO_SEX}) for a, b in pairs
    )


def _is_too_close(one: Examination, other: Examination) -> bool:
    shortest = timedelta(hours=max(one.interval_hours, other.interval_hours))
    moments = product(map(datetime.fromisoformat, one.visits), map(datetime.fromisoformat, other.visits))
    return any(abs(a - b) < shortest for a, b in moments)


def fetch_images(settings: PriorsSection, study_uid: str, folder: Path) -> None:
    """Retrieve the images of a study, without its drawings; files that are there already stay.

    Raises
    ------
    requests.RequestException
        When the archive does not answer.
    """
    _retrieve(dicomweb(settings), study_uid, set(settings.modalities), folder)


def _retrieve(client: DICOMwebClient, study_uid: str, modalities: set[str], folder: Path) -> None:
    found = every_page(lambda offset: client.search_for_series(study_uid, offset=offset or None), _SERIES_UID)
    for series in found:
        if value(series, _MODALITY) not in modalities:
            continue
        for dataset in client.iter_series(
            study_uid, value(series, _SERIES_UID), media_types=(("application/dicom", "*"),)
        ):
            path = folder / f"{key_of(str(dataset.SOPInstanceUID))}.dcm"
            if not path.exists():  # it may be a link to the file that arrived
                dataset.save_as(path, enforce_file_format=True)


def _is_prior(item: dict[str, Any], study_uid: str, study: Examination, settings: PriorsSection) -> bool:
    """Archives match identifiers loosely; what they return is compared again."""
    issuer = value(item, _ISSUER)
    modalities = item.get(_MODALITIES_IN_STUDY, {}).get("Value") or list(settings.modalities)
    return (
        value(item, _PATIENT_ID) == study.patient_id
        and not (issuer and study.issuer and issuer != study.issuer)
        and is_uid(value(item, _STUDY_UID))
        and value(item, _STUDY_UID) != study_uid
        and "" < value(item, _STUDY_DATE) <= study.date
        and bool(set(modalities) & set(settings.modalities))
    )
