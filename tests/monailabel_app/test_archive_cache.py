"""What was fetched from an archive agrees with the archive, whatever is deleted, moved or replaced there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from pydicom.dataset import Dataset

from imaging.files import text
from monailabel_app import archive as module
from monailabel_app.archive import Archive, ArchivedStudies
from monailabel_app.cases import images_digest
from monailabel_app.refusal import Refusal
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_segmentation

FIRST, SECOND = factory.uid("first"), factory.uid("second")
_OF_STUDY = ("StudyInstanceUID", "PatientID")
_OF_SERIES = ("SeriesInstanceUID", *_OF_STUDY, "Modality")


class StandIn:
    """A DICOMweb service of objects in memory; counts what it sends."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.sent = 0
        self.listed = 0
        self.silent_after: int | None = None
        self.longest_list = 1000

    def receive(self, folder: Path) -> None:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            dataset = pydicom.dcmread(path)
            self.objects[text(dataset, "SOPInstanceUID")] = path.read_bytes()

    def change(self, modality: str, study: str, **values: Any) -> None:
        """Other values of every object of a modality in a study, as an administrator or a sender makes them."""
        for uid, dataset in self._all().items():
            if text(dataset, "Modality") == modality and text(dataset, "StudyInstanceUID") == study:
                del self.objects[uid]
                for keyword, value in values.items():
                    setattr(dataset, keyword, value() if callable(value) else value)
                buffer = BytesIO()
                dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
                dataset.save_as(buffer)
                self.objects[text(dataset, "SOPInstanceUID")] = buffer.getvalue()

    def delete(self, modality: str, study: str) -> None:
        for uid, dataset in self._all().items():
            if text(dataset, "Modality") == modality and text(dataset, "StudyInstanceUID") == study:
                del self.objects[uid]

    def _all(self) -> dict[str, Dataset]:
        return {uid: pydicom.dcmread(BytesIO(content)) for uid, content in self.objects.items()}

    def _found(self, keywords: Sequence[str], filters: Mapping[str, str] | None) -> list[Any]:
        """One entry for each value of the first keyword."""
        if self.silent_after is not None:
            self.silent_after -= 1
            if self.silent_after < 0:
                raise requests.ConnectionError
        found: dict[str, Dataset] = {}
        for dataset in self._all().values():
            if any(text(dataset, keyword) != value for keyword, value in (filters or {}).items()):
                continue
            one = found.setdefault(text(dataset, keywords[0]), Dataset())
            for keyword in keywords:
                if keyword in dataset:
                    setattr(one, keyword, dataset[keyword].value)
            if keywords is _OF_SERIES:
                one.NumberOfSeriesRelatedInstances = 1 + int(one.get("NumberOfSeriesRelatedInstances", 0))
        return [one.to_json_dict() for one in found.values()]

    def search_for_studies(self, search_filters: Any = None, fields: Any = None) -> list[Any]:
        if " " in (search_filters or {}).get("PatientID", ""):
            return []  # as Orthanc does
        return self._found(_OF_STUDY, search_filters)

    def search_for_series(self, search_filters: Any = None, fields: Any = None) -> list[Any]:
        return self._found(_OF_SERIES, search_filters)

    def search_for_instances(self, study: str, series: str, fields: Sequence[str]) -> list[Any]:
        self.listed += 1
        return self._found(fields, {"SeriesInstanceUID": series})[: self.longest_list]

    def retrieve_series(self, study: str, series: str) -> list[Dataset]:
        self.sent += 1
        return [one for one in self._all().values() if text(one, "SeriesInstanceUID") == series]


@pytest.fixture
def service(tmp_path: Path) -> StandIn:
    """One patient with two visits, the first of which is drawn on."""
    sent = tmp_path / "sent"
    for number, name in enumerate(("first", "second")):
        when = factory.DATE + number * timedelta(days=30)
        factory.write_visit(sent, when, name=name, contrasts=("t1ce", "flair"))
    images = sorted((sent / "first_t1ce").iterdir())
    drawing = pydicom.dcmread(
        write_segmentation(sent / "d.dcm", images, {"WT": np.ones(factory.SHAPE, bool)})
    )
    drawing.StudyInstanceUID, drawing.Modality = FIRST, "SEG"
    drawing.save_as(sent / "d.dcm")
    found = StandIn()
    found.receive(sent)
    return found


@pytest.fixture
def studies(service: StandIn, tmp_path: Path) -> ArchivedStudies:
    return ArchivedStudies(Archive(service), tmp_path / "archive", tmp_path / "kept", 4.0, ())  # type: ignore[arg-type]


def visits(studies: ArchivedStudies, key: str) -> list[str]:
    """Studies in the catalogue of an examination."""
    return [visit.series[0].study_uid for visit in studies.examination(key).catalog.visits]


def test_what_has_not_changed_is_fetched_once(studies: ArchivedStudies, service: StandIn) -> None:
    assert studies.examination(FIRST).drawn and visits(studies, SECOND) == [FIRST, SECOND]
    assert (service.sent, service.listed) == (5, 5 + 1), "images are listed once, the drawing each time"


@pytest.mark.parametrize("restarted", [False, True])
def test_a_drawing_deleted_in_the_archive_is_none_here(
    studies: ArchivedStudies, service: StandIn, restarted: bool, tmp_path: Path
) -> None:
    assert studies.examination(FIRST).drawn
    service.delete("SEG", FIRST)
    if restarted:
        studies = ArchivedStudies(Archive(service), tmp_path / "archive", tmp_path / "kept", 4.0, ())  # type: ignore[arg-type]
    assert not studies.examination(FIRST).drawn and studies.labelled() == frozenset()


def test_a_study_filed_under_another_patient_leaves_this_one(
    studies: ArchivedStudies, service: StandIn
) -> None:
    assert visits(studies, SECOND) == [FIRST, SECOND]
    for modality in ("MR", "SEG"):
        service.change(modality, FIRST, PatientID="ANOTHER")
    assert visits(studies, SECOND) == [SECOND]
    assert visits(studies, FIRST) == [FIRST] and studies.examination(FIRST).drawn


def test_a_study_that_is_gone_is_unknown(studies: ArchivedStudies, service: StandIn) -> None:
    studies.examination(FIRST)
    for modality in ("MR", "SEG"):
        service.delete(modality, FIRST)
    with pytest.raises(Refusal) as error:
        studies.examination(FIRST)
    assert error.value.status_code == 404


def test_a_drawing_replaced_under_its_uid_is_fetched_again(
    studies: ArchivedStudies, service: StandIn
) -> None:
    before = studies.examination(FIRST).token
    service.change("SEG", FIRST, ContentTime="235959")
    assert studies.examination(FIRST).token != before and service.sent == 6


def test_images_replaced_are_fetched_again_within_minutes(
    studies: ArchivedStudies, service: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many other instances, and the same ones made anew."""
    for values in ({"SOPInstanceUID": pydicom.uid.generate_uid}, {"InstanceCreationTime": "111111"}):
        before = images_digest(studies.examination(SECOND))
        service.change("MR", SECOND, **values)
        assert images_digest(studies.examination(SECOND)) == before
        monkeypatch.setattr(module, "_COMPARED_AGAIN_SECONDS", 0.0)
        assert images_digest(studies.examination(SECOND)) != before
        monkeypatch.undo()


@pytest.mark.parametrize("answers", range(4))
def test_an_archive_that_falls_silent_takes_nothing_away(
    studies: ArchivedStudies, service: StandIn, answers: int, tmp_path: Path
) -> None:
    """Whichever of its listings is the last that it answers."""
    studies.examination(FIRST)
    there = sorted((tmp_path / "archive").rglob("*.dcm"))
    service.delete("SEG", FIRST)
    service.silent_after = answers
    with pytest.raises(Refusal) as error:
        studies.examination(FIRST)
    assert error.value.status_code == 502
    assert sorted((tmp_path / "archive").rglob("*.dcm")) == there
    service.silent_after = None
    assert not studies.examination(FIRST).drawn


def test_left_overs_of_an_interrupted_fetch_are_no_images(
    studies: ArchivedStudies, service: StandIn, tmp_path: Path
) -> None:
    before = images_digest(studies.examination(FIRST))
    series = next((tmp_path / "archive").glob(f"*/{SECOND}/*"))
    part = series.with_name(f".{series.name}.part")
    series.rename(part)
    assert visits(studies, FIRST) == [FIRST, SECOND] and not part.exists() and series.is_dir()
    assert images_digest(studies.examination(FIRST)) == before


def test_an_archive_that_lists_few_instances_is_not_asked_for_all_of_them_each_time(
    studies: ArchivedStudies, service: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.longest_list = 3
    monkeypatch.setattr(module, "_COMPARED_AGAIN_SECONDS", 0.0)
    for _ in range(2):
        assert visits(studies, FIRST) == [FIRST, SECOND]
    assert service.sent == 5


def test_a_patient_whom_the_archive_does_not_find_by_id_has_all_visits(
    studies: ArchivedStudies, service: StandIn
) -> None:
    for study in (FIRST, SECOND):
        for modality in ("MR", "SEG"):
            service.change(modality, study, PatientID="P 001")
    assert visits(studies, SECOND) == [FIRST, SECOND]


def test_studies_without_a_patient_id_are_not_taken_for_one_person(
    studies: ArchivedStudies, service: StandIn
) -> None:
    for study in (FIRST, SECOND):
        for modality in ("MR", "SEG"):
            service.change(modality, study, PatientID="")
    assert visits(studies, FIRST) == [FIRST]
    assert visits(studies, SECOND) == [SECOND]
    assert service.sent == 5
