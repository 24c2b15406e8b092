"""Examinations in a PACS, through DICOMweb: found by query, fetched when opened, drawings stored back."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
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

_DRAWN = ("SEG", "RTSTRUCT")
_FETCHED = ("MR", *_DRAWN)
_ATTEMPTS = 2
# What a listing can tell of an object's content without sending it; archives leave out what they do not know.
_MADE = (
    "InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime", "StructureSetDate",
    "StructureSetTime",
)  # fmt: skip
# Listing every slice of a patient takes seconds, so images are compared this seldom; drawings, each one object, always.
_COMPARED_AGAIN_SECONDS = 600.0
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
        """Studies of a patient; compared here, since a query treats some characters as wild cards.

        Some archives find nothing by a value that needs percent-encoding: there all studies are looked through.
        """
        for filters in ({"PatientID": patient_id}, {}):
            with _answering():
                found = self._client.search_for_studies(search_filters=filters, fields=["PatientID"])
            listed = [Dataset.from_json(one) for one in found]
            studies = [
                text(one, "StudyInstanceUID") for one in listed if text(one, "PatientID") == patient_id
            ]
            if studies:
                return [study for study in studies if _UID.fullmatch(study)]
        return []

    def instances(self, series: ArchivedSeries) -> dict[str, str]:
        """SOP Instance UIDs of a series, each with a file name that changes with what is listed of the instance."""
        with _answering():
            found = self._client.search_for_instances(
                series.study_uid, series.series_uid, fields=["SOPInstanceUID", *_MADE]
            )
        listed = [Dataset.from_json(one) for one in found]
        return {
            text(one, "SOPInstanceUID"): _file_name(*(text(one, word) for word in ("SOPInstanceUID", *_MADE)))
            for one in listed
        }

    def header(self, series: ArchivedSeries) -> Dataset:
        """Header of the first instance of a series."""
        with _answering():
            found = self._client.retrieve_series_metadata(series.study_uid, series.series_uid)
        return Dataset.from_json(found[0])

    def fetch(self, series: ArchivedSeries, names: Mapping[str, str], folder: Path) -> None:
        """Write every instance of a series into a folder, which appears when all are there.

        Parameters
        ----------
        names : mapping
            SOP Instance UID to file name, as listed.
        """
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with _answering(), tolerant_dicom():
            for instance in self._client.retrieve_series(series.study_uid, series.series_uid):
                uid = text(instance, "SOPInstanceUID")
                # One that arrived since the listing has no name there.
                instance.save_as(part / names.get(uid, _file_name(uid)), enforce_file_format=True)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)

    def store(self, file: Path) -> None:
        """Store one object; where the answer does not say what became of it, ask whether it is there."""
        stored = pydicom.dcmread(file)
        with _answering():
            answer = self._client.store_instances([stored])
        failed, taken = answer.get("FailedSOPSequence"), answer.get("ReferencedSOPSequence")
        if failed or not (taken or self._lists(stored)):
            raise Refusal("The archive did not take the drawing.", status=502)

    def _lists(self, instance: Dataset) -> bool:
        with _answering():
            found = self._client.search_for_instances(
                text(instance, "StudyInstanceUID"),
                text(instance, "SeriesInstanceUID"),
                search_filters={"SOPInstanceUID": text(instance, "SOPInstanceUID")},
            )
        return bool(found)


class ArchivedStudies:
    """Examinations of an archive: one a study.

    What was fetched is kept, and made to agree with the archive whenever an examination is asked for: what it lists no
    more for the patient goes, what it lists otherwise is fetched again. While it does not answer, nothing changes.
    Training and scoring work on the same folder in processes of their own, so a patient is locked meanwhile. Images
    that go while another process reads them are an error there, never a mixture: file names change with the listing.

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
        self._is_drawing: dict[ArchivedSeries, bool] = {}
        self._compared: dict[ArchivedSeries, float] = {}

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
            of_series = self._archive.series(SeriesInstanceUID=name)
            if of_series:
                return of_series[0].study_uid
        raise Refusal(
            "This image is not in the archive: OncoTwin needs whole studies with their sibling series. Send the study "
            "to the archive and take it from there by Next Sample.",
            status=404,
        )

    def examination(self, key: str) -> Examination:
        """The examination, as the archive has the patient now."""
        patient = self._archive.patient_of(key)
        studies = self._archive.studies_of(patient) if patient else []
        if key not in studies:
            # Without a Patient ID nobody knows which other studies are of the same person.
            patient, studies = f"alone\n{key}", [key]
        name = hashlib.sha256(patient.encode()).hexdigest()[:16]
        with self._locked(name):
            self._agree(self._folder / name, studies)
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

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Keep other processes from changing what is here of a patient."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _agree(self, folder: Path, studies: Sequence[str]) -> None:
        """Make the folder of a patient hold what the archive has of these studies."""
        # All answers first: what an archive that fails in between has not said is not taken for gone.
        listed = {
            study: {
                one.series_uid: one
                for one in self._archive.series(StudyInstanceUID=study)
                if one.modality in _FETCHED
            }
            for study in studies
        }
        folder.mkdir(parents=True, exist_ok=True)
        _keep_only(folder, listed)
        for study, of_study in listed.items():
            _keep_only(folder / study, of_study)
            for uid, series in of_study.items():
                self._update(series, folder / study / uid)

    def _update(self, series: ArchivedSeries, here: Path) -> None:
        """Fetch a series that is not here, or is listed otherwise than when it was fetched."""
        files = {path.name for path in here.iterdir()} if here.is_dir() else set()
        complete = series.count in ("", str(len(files)))
        last = self._compared.get(series)
        lately = last is not None and time.monotonic() - last < _COMPARED_AGAIN_SECONDS
        if files and complete and lately and series.modality not in _DRAWN:
            return
        names = self._archive.instances(series)
        listed = set(names.values())
        # Some archives list only the first so many instances, however many they have.
        if not files or not (files == listed or (complete and series.count and listed < files)):
            self._archive.fetch(series, names, here)
        self._compared[series] = time.monotonic()

    def _holds_drawing(self, series: ArchivedSeries) -> bool:
        if series not in self._is_drawing:
            header = self._archive.header(series)
            file = DicomFile(Path(series.series_uid), series.series_uid, header, "")
            with tolerant_dicom():
                found = index_annotation(file)
            self._is_drawing[series] = isinstance(found, Annotation) and not found.automatic
        return self._is_drawing[series]


def _keep_only(folder: Path, names: Mapping[str, object]) -> None:
    """Delete the other folders in a folder, left-overs of an interrupted fetch among them."""
    for here in folder.iterdir() if folder.is_dir() else ():
        if here.name not in names:
            shutil.rmtree(here)


def _file_name(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32] + ".dcm"


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
