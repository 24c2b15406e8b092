"""DICOM SEG: the right voxels at the right place under the right name, whatever the source looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest

from imaging import codes
from imaging.geometry import Geometry, Volume
from imaging.writers.identity import WrittenObject, tracking_uid
from imaging.writers.segmentation import write_segmentation
from tests.imaging import dicom_factory as factory
from tests.imaging.writers import patients, validators
from tests.imaging.writers.patients import DATE, WHO, Sources


def write(path: Path, sources: Sources, labels: Volume, **changes: Any) -> WrittenObject:
    stated = {
        "sources": sources.datasets,
        "labels": labels,
        "kind": "measured",
        "date": DATE,
        **WHO,
        **changes,
    }
    return write_segmentation(path, **stated)


SOURCES = {
    "oblique": {},
    "axial": {"rotation": None, "spacing": (1.0, 1.0, 1.0)},
    "sagittal": {"rotation": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])},
    "head to foot": {"file_order": range(13, -1, -1)},
    "enhanced": {"enhanced": True},
    "enhanced in disorder": {"enhanced": True, "file_order": [*range(1, 14, 2), *range(0, 14, 2)]},
}


@pytest.mark.parametrize("kind", SOURCES)
def test_voxels_come_back_where_they_were(kind: str, tmp_path: Path) -> None:
    sources = patients.make_sources(tmp_path, **SOURCES[kind])
    labels = patients.tumour(sources.geometry)
    written = write(tmp_path / "seg.dcm", sources, labels)
    assert validators.dciodvfy_errors(written.path) == []

    points = validators.voxel_points(sources.geometry)
    read, meta = validators.dcmqi_volumes("segimage2itkimage", written.path, tmp_path / "dcmqi")
    numbers = {item["SegmentLabel"]: item["labelID"] for group in meta["segmentAttributes"] for item in group}
    assert numbers == {"NCR": 1, "ED": 2, "ET": 3}
    for number in numbers.values():
        seen = validators.at_points(read[str(number)], points) > 0
        np.testing.assert_array_equal(seen, labels.array == number)

    own = hd.seg.segread(written.path).get_volume(combine_segments=True)
    # highdicom indexes slice, row, column.
    affine = own.affine @ np.eye(4)[:, [2, 1, 0, 3]]
    array = own.array.transpose(2, 1, 0)
    seen = validators.at_points(Volume(array, Geometry(array.shape, affine)), points)
    np.testing.assert_array_equal(seen, labels.array)


@pytest.mark.parametrize("enhanced", [False, True])
def test_every_frame_names_the_source_it_lies_on(enhanced: bool, tmp_path: Path) -> None:
    order = [*range(1, 14, 2), *range(0, 14, 2)]
    sources = patients.make_sources(tmp_path, enhanced=enhanced, file_order=order)
    written = write(tmp_path / "seg.dcm", sources, patients.tumour(sources.geometry))
    dataset = pydicom.dcmread(written.path)
    seen = set()
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        (reference,) = groups.DerivationImageSequence[0].SourceImageSequence
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        source = next(
            item for item in sources.datasets if item.SOPInstanceUID == reference.ReferencedSOPInstanceUID
        )
        if enhanced:
            frame = source.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
            expected = frame.PlanePositionSequence[0].ImagePositionPatient
        else:
            expected = source.ImagePositionPatient
        np.testing.assert_allclose(position, np.array(expected, float), atol=1e-6)
        seen.add((reference.ReferencedSOPInstanceUID, reference.get("ReferencedFrameNumber")))
    assert len(seen) == patients.SHAPE[2]
    listed = {item.ReferencedSOPInstanceUID for item in dataset.SourceImageSequence}
    assert listed == {item.SOPInstanceUID for item in sources.datasets}


def test_segments_say_what_they_are(sources: Sources, tmp_path: Path) -> None:
    written = write(tmp_path / "seg.dcm", sources, patients.tumour(sources.geometry))
    dataset = pydicom.dcmread(written.path)
    found = {}
    for item in dataset.SegmentSequence:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        found[item.SegmentLabel] = (kind.CodeValue, kind.CodingSchemeDesignator)
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("oncotwin_brats", "0.3.1")
        assert item.TrackingUID == tracking_uid("P-001", item.TrackingID)
    assert found == {"NCR": ("6574001", "SCT"), "ED": ("79654002", "SCT"), "ET": ("C113842", "NCIt")}
    assert dataset.ContentQualification == "RESEARCH"
    assert dataset.SeriesDescription.endswith("RESEARCH - not for clinical use")
    assert dataset.Manufacturer == "OncoTwin"
    assert dataset.FrameOfReferenceUID == sources.datasets[0].FrameOfReferenceUID


@pytest.mark.parametrize("source", ["dicom_seg", "rtstruct"])
def test_what_a_clinician_drew_is_not_claimed_by_an_algorithm(
    source: str, sources: Sources, tmp_path: Path
) -> None:
    labels = patients.tumour(sources.geometry)
    written = write(tmp_path / "seg.dcm", sources, labels, segmentation_source=source)
    assert validators.dciodvfy_errors(written.path) == []
    for item in pydicom.dcmread(written.path).SegmentSequence:
        assert item.SegmentAlgorithmType == "MANUAL"
        assert "SegmentAlgorithmName" not in item


def test_what_another_algorithm_made_is_claimed_by_nobody_here(sources: Sources, tmp_path: Path) -> None:
    labels = patients.tumour(sources.geometry)
    written = write(tmp_path / "seg.dcm", sources, labels, segmentation_source="other_algorithm")
    assert validators.dciodvfy_errors(written.path) == []
    for item in pydicom.dcmread(written.path).SegmentSequence:
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        assert item.SegmentAlgorithmName.startswith("another algorithm")
        assert "SegmentationAlgorithmIdentificationSequence" not in item


def test_no_tumour_is_a_valid_segmentation(sources: Sources, tmp_path: Path) -> None:
    written = write(tmp_path / "seg.dcm", sources, patients.empty(sources.geometry))
    assert validators.dciodvfy_errors(written.path) == []
    read = hd.seg.segread(written.path)
    assert read.number_of_segments == 3
    assert not read.get_volume(combine_segments=True).array.any()


def test_frames_without_tumour_can_be_left_out(sources: Sources, tmp_path: Path) -> None:
    labels = patients.tumour(sources.geometry)
    written = write(tmp_path / "seg.dcm", sources, labels, omit_empty_frames=True)
    assert validators.dciodvfy_errors(written.path) == []
    expected = sum(int((labels.array == number).any(axis=(0, 1)).sum()) for number in (1, 2, 3))
    assert pydicom.dcmread(written.path).NumberOfFrames == expected


def test_a_forecast_cannot_be_taken_for_a_measurement(sources: Sources, tmp_path: Path) -> None:
    labels = patients.forecast(sources, 30.0, 0.0).labels
    written = write(tmp_path / "seg.dcm", sources, labels, kind="forecast", horizon_days=30.0)
    assert validators.dciodvfy_errors(written.path) == []
    dataset = pydicom.dcmread(written.path)
    assert dataset.ContentLabel.startswith("FORECAST")
    assert dataset.SeriesDescription.startswith("FORECAST +30 d")
    for item in dataset.SegmentSequence:
        assert item.SegmentLabel.startswith("FORECAST +30 d")
        for sequence in (item.SegmentedPropertyCategoryCodeSequence, item.SegmentedPropertyTypeCodeSequence):
            assert sequence[0].CodingSchemeDesignator == codes.PRIVATE_SCHEME
        assert item.TrackingID.startswith("Forecast 2024-03-31")


def test_labels_off_the_source_grid_are_refused(sources: Sources, tmp_path: Path) -> None:
    shifted = sources.geometry.affine.copy()
    shifted[:3, 3] += 0.5
    elsewhere = Geometry(patients.SHAPE, shifted)
    with pytest.raises(ValueError, match="lie on no source image"):
        write(tmp_path / "seg.dcm", sources, patients.tumour(elsewhere))
    turned = sources.geometry.affine @ np.diag([-1.0, 1, 1, 1])
    with pytest.raises(ValueError, match="lie on no source image"):
        write(tmp_path / "seg.dcm", sources, patients.tumour(Geometry(patients.SHAPE, turned)))
    assert not (tmp_path / "seg.dcm").exists()


def test_labels_of_another_size_are_refused(sources: Sources, tmp_path: Path) -> None:
    small = Geometry((5, 5, 5), sources.geometry.affine)
    with pytest.raises(ValueError, match="do not fit"):
        write(tmp_path / "seg.dcm", sources, patients.empty(small))


@pytest.mark.parametrize(
    "changes",
    [{"horizon_days": 30.0}, {"kind": "forecast"}],
    ids=["measured at a horizon", "forecast without"],
)
def test_kind_and_horizon_must_agree(changes: dict[str, Any], sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="horizon"):
        write(tmp_path / "seg.dcm", sources, patients.empty(sources.geometry), **changes)


def test_unknown_labels_are_refused(sources: Sources, tmp_path: Path) -> None:
    labels = patients.empty(sources.geometry)
    labels.array[0, 0, 0] = 4
    with pytest.raises(ValueError, match=r"\[4\]"):
        write(tmp_path / "seg.dcm", sources, labels)


def test_a_tilted_stack_keeps_the_position_of_every_slice(tmp_path: Path) -> None:
    sources = patients.make_sources(tmp_path, tilt=(0.0, 1.1))
    written = write(tmp_path / "seg.dcm", sources, patients.tumour(sources.geometry))
    assert validators.dciodvfy_errors(written.path) == []
    for groups in pydicom.dcmread(written.path).PerFrameFunctionalGroupsSequence:
        uid = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        source = next(item for item in sources.datasets if item.SOPInstanceUID == uid)
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(np.array(position, float), np.array(source.ImagePositionPatient, float))


DIRTY = {
    "no type 2 attributes": dict.fromkeys(
        (
            "AccessionNumber",
            "StudyID",
            "ReferringPhysicianName",
            "PatientBirthDate",
            "PatientSex",
            "StudyTime",
        )
    ),
    "odd sex and date": {"PatientSex": "X", "StudyDate": "2024-03-01", "PatientBirthDate": "1970"},
    "laterality": {"Laterality": "L", "BodyPartExamined": "HEAD_NECK"},
    "no frame of reference": {"FrameOfReferenceUID": None},
    "no manufacturer": {"Manufacturer": None},
    "long texts": {"StudyDescription": "x" * 80, "ManufacturerModelName": "y" * 80},
    "latin charset": {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen"},
    "japanese charset": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    },
}


@pytest.mark.parametrize("fault", DIRTY)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_faults_of_the_input_do_not_reach_the_output(fault: str, tmp_path: Path) -> None:
    sources = patients.make_sources(tmp_path, attributes=DIRTY[fault])
    written = write(tmp_path / "seg.dcm", sources, patients.tumour(sources.geometry))
    assert validators.dciodvfy_errors(written.path) == []
    read = pydicom.dcmread(written.path)
    assert str(read.PatientName) == DIRTY[fault].get("PatientName", patients.NAME)
    assert read.PatientID == "P-001"
    assert read.StudyInstanceUID == factory.uid("study")
