"""From the archive by DICOMweb: the patient's earlier studies, and images of a study that only drawings came of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dicomweb_client.api import DICOMwebClient

from gateway.examination import DRAWINGS, Examination
from gateway.folders import is_uid, key_of
from gateway.settings import PriorsSection
from gateway.web import dicomweb, value

_STUDY_DATE = "00080020"
_MODALITIES_IN_STUDY = "00080061"
_MODALITY = "00080060"
_PATIENT_ID = "00100020"
_ISSUER = "00100021"
_STUDY_UID = "0020000D"
_SERIES_UID = "0020000E"
_WILDCARDS = set("*?\\")


def fetch_priors(settings: PriorsSection, study_uid: str, study: Examination, folder: Path) -> int:
    """Retrieve the patient's latest earlier studies.

    Parameters
    ----------
    settings : PriorsSection
        Where and how many.
    study_uid : str
        The study that came; not retrieved again.
    study : Examination
        Whose and when.
    folder : pathlib.Path
        Gets the files; exists.

    Returns
    -------
    int
        Number of studies retrieved.

    Raises
    ------
    requests.RequestException
        When the archive does not answer.
    """
    # In a query these characters would match other patients.
    if not study.patient_id or _WILDCARDS & set(study.patient_id) or not study.date:
        return 0
    client = dicomweb(settings)
    found = client.search_for_studies(
        search_filters={"PatientID": study.patient_id, "StudyDate": f"-{study.date}"},
        fields=["ModalitiesInStudy", "IssuerOfPatientID"],
    )
    priors = [item for item in found if _is_prior(item, study_uid, study, settings)]
    priors.sort(key=lambda item: value(item, _STUDY_DATE), reverse=True)
    for item in priors[: settings.max_studies]:
        _retrieve(client, value(item, _STUDY_UID), {*settings.modalities, *DRAWINGS}, folder)
    return len(priors[: settings.max_studies])


def fetch_images(settings: PriorsSection, study_uid: str, folder: Path) -> None:
    """Retrieve the images of a study, without its drawings; files that are there already stay.

    Raises
    ------
    requests.RequestException
        When the archive does not answer.
    """
    _retrieve(dicomweb(settings), study_uid, set(settings.modalities), folder)


def _retrieve(client: DICOMwebClient, study_uid: str, modalities: set[str], folder: Path) -> None:
    for series in client.search_for_series(study_uid):
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
