"""Examinations in a PACS, through DICOMweb: found by query, fetched when opened, drawings stored back."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass
from pydicom.dataset import Dataset

from imaging.annotation_index import Annotation, index_annotation
from imaging.files import DicomFile, text, tolerant_dicom
from imaging.role_selection import RoleRule
from monailabel_app.refusal import Refusal
from monailabel_app.studies import Examination, FolderStudies, place
from monailabel_app.upstream import upstream_settings

_FETCHED = ("MR", "SEG", "RTSTRUCT")
_ATTEMPTS = 2
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True)
class ArchivedSeries:
    """A series as the archive lists it."""

    study_uid: str
    series_uid: str
    modality: str
    count: str


class Archive:
    """What this server asks of a DICOMweb service; every failure becomes a sentence for the viewer.

    Parameters
    ----------
    client : dicomweb_client.DICOMwebClient
        Of the service.
    """

    def __init__(self, client: DICOMwebClient) -> None:
        self._client = client

    @classmethod
    def at(cls, url: str) -> Archive:
        """The archive at a DICOMweb URL; user and password as MONAI Label names them in the environment."""
        user = upstream_settings.MONAI_LABEL_DICOMWEB_USERNAME
        password = upstream_settings.MONAI_LABEL_DICOMWEB_PASSWORD
        session = create_session_from_user_pass(user, password) if user and password else None
        client = DICOMwebClient(url=url, session=session)
        # A person waits for the answer: not five attempts in half a minute.
        client.set_http_retry_params(max_attempts=_ATTEMPTS)
        return cls(client)

    def series(self, **filters: str) -> list[ArchivedSeries]:
        """Series that match attributes exactly; those without valid UIDs are left out.

        Values must not need percent-encoding: some archives then find nothing.
        """
        fields = ["StudyInstanceUID", "Modality", "NumberOfSeriesRelatedInstances"]
        with _answering():
            found = self._client.search_for_series(search_filters=dict(filters), fields=fields)
        listed = [_listed(Dataset.from_json(one)) for one in found]
        return [one for one in listed if _UID.fullmatch(one.study_uid) and _UID.fullmatch(one.series_uid)]

    def patient_of(self, study_uid: str) -> str:
        """Patient ID of a study."""
        with _answering():
            found = self._client.search_for_studies(
                search_filters={"StudyInstanceUID": study_uid}, fields=["PatientID"]
            )
        return text(Dataset.from_json(found[0]), "PatientID") if found else ""

    def studies_of(self, patient_id: str) -> list[str]:
        """Studies of a patient; compared here, since a query treats some characters as wild cards."""
        with _answering():
            found = self._client.search_for_studies(
                search_filters={"PatientID": patient_id}, fields=["PatientID"]
            )
        studies = [Dataset.from_json(one) for one in found]
        return [text(one, "StudyInstanceUID") for one in studies if text(one, "PatientID") == patient_id]

    def header(self, series: ArchivedSeries) -> Dataset:
        """Header of the first instance of a series."""
        with _answering():
            found = self._client.retrieve_series_metadata(series.study_uid, series.series_uid)
        return Dataset.from_json(found[0])

    def fetch(self, series: ArchivedSeries, folder: Path) -> None:
        """Write every instance of a series into a folder, which appears when all are there."""
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with _answering(), tolerant_dicom():
            for number, instance in enumerate(
                self._client.retrieve_series(series.study_uid, series.series_uid)
            ):
                instance.save_as(part / f"{number:05d}.dcm", enforce_file_format=True)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)

    def store(self, file: Path) -> None:
        """Store one object."""
        with _answering():
            answer = self._client.store_instances([pydicom.dcmread(file)])
        if text(answer, "FailedSOPSequence") or not answer.get("ReferencedSOPSequence"):
            raise Refusal("The archive did not take the drawing.", status=502)


class ArchivedStudies:
    """Examinations of an archive: one a study.

    Parameters
    ----------
    archive : Archive
        Where they are.
    folder : pathlib.Path
        What was fetched.
    kept : pathlib.Path
        For drawings that the archive did not take.
    visit_gap_hours, rules
        As for :class:`monailabel_app.studies.FolderStudies`.
    """

    def __init__(
        self, archive: Archive, folder: Path, kept: Path, visit_gap_hours: float, rules: Sequence[RoleRule]
    ) -> None:
        self._archive = archive
        self._folder = folder
        self._kept = kept
        self._visit_gap_hours = visit_gap_hours
        self._rules = tuple(rules)
        self._patients: dict[str, FolderStudies] = {}
        self._is_drawing: dict[str, bool] = {}
        self._study_of: dict[str, str] = {}

    def keys(self) -> Sequence[str]:
        """Studies with MR images."""
        return list(dict.fromkeys(sorted(one.study_uid for one in self._archive.series(Modality="MR"))))

    def labelled(self) -> frozenset[str]:
        """Studies with a person's drawing; answers of this application and of other algorithms are none."""
        listed = self._archive.series(Modality="SEG") + self._archive.series(Modality="RTSTRUCT")
        return frozenset(one.study_uid for one in listed if self._holds_drawing(one))

    def find(self, name: str) -> str:
        """See :class:`monailabel_app.studies.Studies`."""
        if _UID.fullmatch(name):
            if self._archive.series(StudyInstanceUID=name, Modality="MR"):
                return name
            if name not in self._study_of:
                found = self._archive.series(SeriesInstanceUID=name)
                self._study_of.update({one.series_uid: one.study_uid for one in found})
            if name in self._study_of:
                return self._study_of[name]
        raise Refusal(
            "This image is not in the archive: OncoTwin needs whole studies with their sibling series. Send the study "
            "to the archive and take it from there by Next Sample.",
            status=404,
        )

    def examination(self, key: str) -> Examination:
        """The examination; what the archive has of the patient and is not here yet is fetched."""
        patient = self._archive.patient_of(key)
        name = hashlib.sha256(patient.encode()).hexdigest()[:16]
        # Without a Patient ID nobody knows which other studies are of the same person.
        studies = self._archive.studies_of(patient) if patient else [key]
        for study in studies or [key]:
            self._fetch_study(study, self._folder / name)
        if name not in self._patients:
            self._patients[name] = FolderStudies(self._folder / name, self._visit_gap_hours, self._rules)
        of_patient = self._patients[name]
        return of_patient.examination(of_patient.find(key))

    def keep(self, examination: Examination, drawing: Path) -> None:
        """Store the drawing in the archive; if it does not take it, nothing is lost."""
        try:
            self._archive.store(drawing)
        except Refusal as refused:
            self._kept.mkdir(parents=True, exist_ok=True)
            place(drawing, self._kept / drawing.name)
            raise Refusal(
                f"{refused.detail} The drawing is kept on the server as {drawing.name}; submit again when the archive "
                "is back.",
                status=502,
            ) from refused

    def _fetch_study(self, study_uid: str, folder: Path) -> None:
        for series in self._archive.series(StudyInstanceUID=study_uid):
            if series.modality not in _FETCHED:
                continue
            here = folder / study_uid / series.series_uid
            if not here.is_dir() or (series.count and len(list(here.iterdir())) != int(series.count)):
                self._archive.fetch(series, here)

    def _holds_drawing(self, series: ArchivedSeries) -> bool:
        if series.series_uid not in self._is_drawing:
            header = self._archive.header(series)
            file = DicomFile(Path(series.series_uid), series.series_uid, header, "")
            with tolerant_dicom():
                found = index_annotation(file)
            self._is_drawing[series.series_uid] = isinstance(found, Annotation) and not found.automatic
        return self._is_drawing[series.series_uid]


def _listed(found: Dataset) -> ArchivedSeries:
    count = text(found, "NumberOfSeriesRelatedInstances")
    return ArchivedSeries(
        text(found, "StudyInstanceUID"), text(found, "SeriesInstanceUID"), text(found, "Modality"), count
    )


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except requests.RequestException as error:
        raise Refusal(
            f"The archive does not answer as it should ({type(error).__name__}); try again later.", status=502
        ) from error
