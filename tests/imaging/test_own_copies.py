"""The application's own segmentations come back with the images: as it wrote them, or edited by somebody."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from imaging.annotation_index import Annotation, index_annotation
from imaging.catalog import read_catalog
from imaging.files import DicomFile, IgnoredFile, read_folder
from imaging.geometry import Volume
from imaging.report_content import ModelIdentity, SoftwareIdentity
from imaging.visit_selection import select_visits
from imaging.writers.identity import RunIdentity, is_own_uid, uid_of
from imaging.writers.segmentation import write_segmentation as write_own
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_segmentation as draw
from tests.imaging.drawings import boxes, labels_of, read, reference, write_drawn_visit
from tests.imaging.writers import patients, validators

MODEL = ModelIdentity("network", "1", "3" * 64)
COPY = "segmentation_visit1.dcm"
NOBODY_EDITED = "this application's own copy of a drawing, which nobody has edited, not a correction"
ALL_BUT_ED = {"ET": boxes()["ET"], "NCR": boxes()["NCR"]}
REVISED = {**boxes(), "ET": boxes()["NCR"], "NCR": boxes()["ET"]}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    return write_drawn_visit(tmp_path)


def give_back(folder: Path, source: str = "dicom_seg", product: str = "OncoTwin", **changes: Any) -> Path:
    """What a run on this folder writes of a drawing, in the folder."""
    catalog = read_catalog(folder)
    series = reference(catalog)
    found = read(folder)
    array = labels_of(boxes()) if found is None else found[0]
    assert series.geometry is not None
    software = SoftwareIdentity(product, "0.1.0", "OncoTwin", catalog.digest, "2" * 64)
    write_own(
        folder / COPY,
        sources=series.datasets(),
        labels=Volume(array, series.geometry),
        kind="measured",
        identity=RunIdentity.of(software, MODEL),
        software=software,
        model=MODEL,
        date=catalog.visits[0].date,
        segmentation_source=source,
        **changes,
    )
    return folder / COPY


def reasons(folder: Path) -> dict[str, str]:
    return {file.path: file.reason for file in read_catalog(folder).ignored}


class TestTheDrawingAndItsCopy:
    """What a clinician has drawn or deleted counts, and what the last run made of it does not."""

    @pytest.mark.parametrize("regions", [ALL_BUT_ED, boxes()], ids=["without ED", "all"])
    @pytest.mark.parametrize("later", [0, 1], ids=["dated as the images", "a day later"])
    def test_a_rerun_uses_the_same_drawing(
        self, tmp_path: Path, files: Any, regions: dict[str, np.ndarray], later: int
    ) -> None:
        draw(tmp_path / "drawn.dcm", files["t1ce"], regions, created=factory.DATE + timedelta(days=later))
        first, digest = read(tmp_path), read_catalog(tmp_path).digest
        give_back(tmp_path)
        second = read(tmp_path)
        assert first is not None and second is not None
        np.testing.assert_array_equal(first[0], second[0])
        assert reasons(tmp_path)[COPY] == NOBODY_EDITED
        assert read_catalog(tmp_path).digest == digest, "the rerun is the same run"

    def test_a_deleted_drawing_does_not_live_on(self, tmp_path: Path, files: Any) -> None:
        drawn = draw(tmp_path / "drawn.dcm", files["t1ce"], boxes())
        give_back(tmp_path)
        drawn.unlink()
        assert read(tmp_path) is None

    def test_a_revision_of_the_same_day_counts_though_its_time_is_zero(
        self, tmp_path: Path, files: Any
    ) -> None:
        midnight = factory.DATE.replace(hour=0, minute=0)
        drawn = draw(tmp_path / "drawn.dcm", files["t1ce"], boxes(), created=midnight)
        give_back(tmp_path)
        drawn.unlink()
        draw(tmp_path / "revised.dcm", files["t1ce"], REVISED, created=midnight)
        found = read(tmp_path)
        assert found is not None
        np.testing.assert_array_equal(found[0], labels_of(REVISED))

    @pytest.mark.parametrize("source", ["dicom_seg", "rtstruct", "network", "other_algorithm"])
    def test_no_copy_is_a_correction(self, tmp_path: Path, files: Any, source: str) -> None:
        give_back(tmp_path, source)
        assert read(tmp_path) is None

    def test_nor_is_one_without_tumour(self, tmp_path: Path, files: Any) -> None:
        nothing = {label: np.zeros_like(mask) for label, mask in boxes().items()}
        drawn = draw(tmp_path / "drawn.dcm", files["t1ce"], nothing)
        give_back(tmp_path)
        drawn.unlink()
        assert read(tmp_path) is None

    @pytest.mark.parametrize("source", ["dicom_seg", "corrected_network"])
    def test_what_the_label_server_stores_is_a_drawing(self, tmp_path: Path, files: Any, source: str) -> None:
        give_back(tmp_path, source, product="OncoTwin Label")
        found = read(tmp_path)
        assert found is not None and found[1] == "dicom_seg"
        np.testing.assert_array_equal(found[0], labels_of(boxes()))


def told(folder: Path) -> tuple[str, ...]:
    """What the report warns of."""
    return select_visits(read_catalog(folder).visits, required=frozenset()).warnings


class TestACopyAlone:
    """It is ignored, since the drawing may have been withdrawn; the report says so, since it may only not be here."""

    def test_it_is_told(self, tmp_path: Path, files: Any) -> None:
        drawn = draw(tmp_path / "drawn.dcm", files["t1ce"], boxes())
        give_back(tmp_path)
        assert told(tmp_path) == ()
        drawn.unlink()
        (warning,) = told(tmp_path)
        assert warning.startswith(f"Visit 1: no drawing was used, though {COPY} shows that there was one")

    def test_another_algorithm_is_no_original(self, tmp_path: Path, files: Any) -> None:
        give_back(tmp_path)
        draw(tmp_path / "vendor.dcm", files["t1ce"], boxes(), algorithm="AUTOMATIC")
        assert len(told(tmp_path)) == 1

    def test_the_networks_own_answer_was_no_drawing(self, tmp_path: Path, files: Any) -> None:
        give_back(tmp_path, "network")
        assert told(tmp_path) == ()

    def test_a_revision_takes_the_place_of_the_original(self, tmp_path: Path, files: Any) -> None:
        give_back(tmp_path)
        draw(tmp_path / "revised.dcm", files["t1ce"], REVISED)
        assert told(tmp_path) == ()


def rename(dataset: Dataset) -> None:
    """As an archive does that moves an object to the right patient, or a de-identifier that keeps equipment."""
    dataset.PatientName = "Other^Name"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = factory.uid("another instance")
    dataset.SeriesInstanceUID = factory.uid("another series")
    dataset.ContentDate, dataset.ContentTime = "20300101", "000000"


def transcode(dataset: Dataset) -> None:
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def reorder(dataset: Dataset) -> None:
    pixels = dataset.pixel_array[::-1]
    dataset.PerFrameFunctionalGroupsSequence = list(dataset.PerFrameFunctionalGroupsSequence)[::-1]
    set_pixels(dataset, pixels)


def leave_out_empty_frames(dataset: Dataset) -> None:
    pixels = dataset.pixel_array
    kept = [frame for frame in range(len(pixels)) if pixels[frame].any()]
    assert len(kept) < len(pixels)
    groups = dataset.PerFrameFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = [groups[frame] for frame in kept]
    set_pixels(dataset, pixels[kept])


def pad_numbers(dataset: Dataset) -> None:
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        place = groups.PlanePositionSequence[0]
        place.ImagePositionPatient = [f"{float(value):.9e}" for value in place.ImagePositionPatient]


def paint(dataset: Dataset) -> None:
    """By a tool that leaves the rest as it is, even the UID."""
    pixels = dataset.pixel_array.copy()
    pixels[len(pixels) // 2, 1, 1] ^= 1
    set_pixels(dataset, pixels)


def erase(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence, dataset.PixelData
    dataset.NumberOfFrames = 0


def call_it_necrosis(dataset: Dataset) -> None:
    """Enhancing tumour and necrosis change places."""
    numbers = [segment.SegmentNumber for segment in dataset.SegmentSequence]
    for segment, number in zip(dataset.SegmentSequence, (numbers[2], numbers[1], numbers[0]), strict=True):
        segment.SegmentNumber = number


def move(dataset: Dataset) -> None:
    """By one slice, the last one to the place of the first."""
    groups = dataset.PerFrameFunctionalGroupsSequence
    places = [item.PlanePositionSequence for item in groups]
    for item, place in zip(groups, places[1:] + places[:1], strict=True):
        item.PlanePositionSequence = place


def take_on(dataset: Dataset) -> None:
    """A person answers for what an algorithm made."""
    for segment in dataset.SegmentSequence:
        segment.SegmentAlgorithmType = "SEMIAUTOMATIC"
        segment.SegmentAlgorithmName = "network"


def write_under_another_name(dataset: Dataset) -> None:
    dataset.Manufacturer = "Workstation"


def set_pixels(dataset: Dataset, pixels: np.ndarray) -> None:
    dataset.NumberOfFrames = len(pixels)
    packed = np.packbits(pixels.ravel(), bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)


def change(path: Path, how: Callable[[Dataset], None]) -> None:
    dataset = pydicom.dcmread(path)
    how(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    dataset.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=True)


@pytest.mark.parametrize("source", ["dicom_seg", "network"])
class TestChanges:
    @pytest.mark.parametrize("how", [rename, transcode, reorder, leave_out_empty_frames, pad_numbers])
    def test_what_an_archive_does_is_no_edit(self, tmp_path: Path, files: Any, how: Any, source: str) -> None:
        change(give_back(tmp_path, source), how)
        assert read(tmp_path) is None
        assert "this application's own" in reasons(tmp_path)[COPY]

    @pytest.mark.parametrize("how", [paint, erase, call_it_necrosis, move, take_on, write_under_another_name])
    def test_what_a_person_does_counts(self, tmp_path: Path, files: Any, how: Any, source: str) -> None:
        change(give_back(tmp_path, source), how)
        assert COPY not in reasons(tmp_path)
        ((annotation,),) = [visit.annotations for visit in read_catalog(tmp_path).visits]
        said_so = source == "dicom_seg" or how is take_on
        assert annotation.automatic == (not said_so), "who made it is what its segments say"

    @pytest.mark.parametrize("manufacturer", ["OncoTwin", "Workstation"])
    def test_an_object_of_a_viewer_counts(
        self, tmp_path: Path, files: Any, manufacturer: str, source: str
    ) -> None:
        """Viewers make a new object of what was edited; some take our equipment over, and not its mark."""
        give_back(tmp_path, source).unlink()
        stated = {"ManufacturerModelName": "OncoTwin"}
        draw(tmp_path / COPY, files["t1ce"], REVISED, manufacturer=manufacturer, attributes=stated)
        found = read(tmp_path)
        assert found is not None and found[1] == "dicom_seg"
        np.testing.assert_array_equal(found[0], labels_of(REVISED))


def without_mark(dataset: Dataset) -> None:
    del dataset.ContributingEquipmentSequence


class TestWithoutAMark:
    """Objects of earlier versions, and what de-identifiers leave."""

    def test_one_under_its_first_uid_is_a_copy(self, tmp_path: Path, files: Any) -> None:
        change(give_back(tmp_path), without_mark)
        assert read(tmp_path) is None
        assert reasons(tmp_path)[COPY] == NOBODY_EDITED

    def test_one_under_another_uid_counts(self, tmp_path: Path, files: Any) -> None:
        path = give_back(tmp_path)
        change(path, without_mark)
        change(path, rename)
        found = read(tmp_path)
        assert found is not None and found[1] == "dicom_seg"

    def test_one_that_a_person_took_on_counts(self, tmp_path: Path, files: Any) -> None:
        path = give_back(tmp_path, "network")
        change(path, without_mark)
        change(path, take_on)
        found = read(tmp_path)
        assert found is not None and found[1] == "dicom_seg"

    def test_an_algorithms_answer_counts_under_no_uid(self, tmp_path: Path, files: Any) -> None:
        path = give_back(tmp_path, "network")
        change(path, without_mark)
        change(path, rename)
        assert read(tmp_path) is None

    @pytest.mark.parametrize(
        ("named", "counts"), [(uid_of("copy"), False), (factory.uid("of a viewer"), True)]
    )
    def test_a_header_alone_goes_by_its_uid(
        self, tmp_path: Path, files: Any, named: str, counts: bool
    ) -> None:
        """A label server asks an archive for headers."""
        header = pydicom.dcmread(give_back(tmp_path), stop_before_pixels=True)
        header.SOPInstanceUID = named
        found = index_annotation(DicomFile(tmp_path / "not here", "not here", header, ""))
        assert isinstance(found, Annotation if counts else IgnoredFile)

    def test_nobody_else_makes_such_uids(self) -> None:
        assert is_own_uid(uid_of("anything"))
        others: Sequence[str] = [
            "", "2.25.", "2.25.1", factory.uid("1"), pydicom.uid.generate_uid(), f"{uid_of('1')}.1", f"2.25.{'9' * 40}",
            *(pydicom.uid.generate_uid(prefix=None) for _ in range(50)),
        ]  # fmt: skip
        assert not any(is_own_uid(uid) for uid in others)


@pytest.mark.parametrize(
    "shape", [{}, {"enhanced": True}, {"tilt": (0.1, 0.07)}, {"spacing": (0.9375, 0.46875, 1.1)}]
)
@pytest.mark.parametrize("omit", [False, True])
def test_the_mark_fits_what_is_stored(shape: dict[str, Any], omit: bool, tmp_path: Path) -> None:
    """Positions have more digits in memory than in a file."""
    sources = patients.make_sources(tmp_path / "in", **shape)
    labels = patients.tumour(sources.geometry)
    os.mkdir(tmp_path / "out")
    stated = {"date": patients.DATE, "segmentation_source": "rtstruct", "omit_empty_frames": omit}
    path = tmp_path / "out" / COPY
    write_own(path, sources=sources.datasets, labels=labels, kind="measured", **stated, **patients.WHO)
    assert validators.dciodvfy_errors(path) == []
    (file,) = read_folder(tmp_path / "out").objects
    change(path, rename)
    found = index_annotation(file)
    assert isinstance(found, IgnoredFile) and found.reason == NOBODY_EDITED
