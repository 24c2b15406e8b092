"""Drawings that replace the application's own segmentation."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.sr.coding import Code

from imaging.annotations import read_annotation
from imaging.catalog import read_catalog
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_segmentation
from tests.imaging.drawings import boxes, labels_of, read, reference, refuse, write_drawn_visit

NCR = Code("6574001", "SCT", "Necrosis")
ED = Code("79654002", "SCT", "Edema")
ET = Code("C113842", "NCIt", "Enhancing Lesion")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
BY_LABEL = {"NCR": NCR, "ED": ED, "ET": ET}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    return write_drawn_visit(tmp_path)


def test_nobody_drew(tmp_path: Path, files: Any) -> None:
    assert read(tmp_path) is None


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segmentation_replaces_inference(tmp_path: Path, files: Any, kind: str) -> None:
    masks = boxes()
    write_segmentation(tmp_path / "seg.dcm", files["t1ce"], masks, codes_by_label=BY_LABEL, kind=kind)
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], labels_of(masks))
    assert found[1] == "dicom_seg"


def test_fractions_count_from_one_half(tmp_path: Path, files: Any) -> None:
    masks = {label: mask.astype(np.float32) * 0.4 for label, mask in boxes().items()}
    masks["ET"] = boxes()["ET"] * np.float32(0.6)
    write_segmentation(tmp_path / "seg.dcm", files["t1ce"], masks, codes_by_label=BY_LABEL, kind="FRACTIONAL")
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], np.where(boxes()["ET"], 3, 0))


def test_codes_serve_without_names(tmp_path: Path, files: Any) -> None:
    masks = {f"Segment {n}": mask for n, mask in enumerate(boxes().values())}
    by_label = dict(zip(masks, BY_LABEL.values(), strict=True))
    write_segmentation(tmp_path / "seg.dcm", files["t1ce"], masks, codes_by_label=by_label)
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], labels_of(boxes()))


def test_names_serve_without_codes(tmp_path: Path, files: Any) -> None:
    names = ("Necrotic core", "Peritumoral edema", "Enhancing tumor")
    masks = dict(zip(names, boxes().values(), strict=True))
    write_segmentation(tmp_path / "seg.dcm", files["t1ce"], masks)
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], labels_of(boxes()))


def test_overlaps_resolve_as_et_over_ncr_over_ed(tmp_path: Path, files: Any) -> None:
    masks = boxes()
    masks["ED"][:] = False
    masks["ED"][1:9, 1:8, 1:7] = True
    masks["NCR"] |= masks["ET"]
    write_segmentation(tmp_path / "seg.dcm", files["t1ce"], masks)
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], labels_of(masks))
    assert (found[0] == 3).sum() == masks["ET"].sum()


def test_nested_regions_become_disjoint_labels(tmp_path: Path, files: Any) -> None:
    masks = boxes()
    nested = {
        "Whole tumor": masks["NCR"] | masks["ED"] | masks["ET"],
        "Tumor core": masks["NCR"] | masks["ET"],
        "Enhancing tumor": masks["ET"],
    }
    write_segmentation(
        tmp_path / "seg.dcm", files["t1ce"], nested, codes_by_label=dict.fromkeys(nested, NEOPLASM)
    )
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], labels_of(masks))


@pytest.mark.parametrize("names", [("WT",), ("WT", "TC"), ("TC",)])
def test_nested_regions_without_the_inner_one_are_refused(
    tmp_path: Path, files: Any, names: tuple[str, ...]
) -> None:
    write_segmentation(tmp_path / "seg.dcm", files["t1ce"], dict.fromkeys(names, boxes()["ED"]))
    refuse(tmp_path, "seg.dcm", "add ET")


@pytest.mark.parametrize(
    ("names", "lacking"),
    [(("WT", "ET"), "NCR"), (("WT", "NCR"), "ET"), (("WT", "ED", "ET"), "NCR"), (("WT", "ED"), "ET and NCR")],
)
def test_a_whole_tumour_without_all_of_its_core_is_refused(
    tmp_path: Path, files: Any, names: tuple[str, ...], lacking: str
) -> None:
    """The necrosis inside a ring that alone is drawn would become oedema."""
    masks = {**boxes(), "WT": boxes()["NCR"] | boxes()["ED"] | boxes()["ET"]}
    write_segmentation(tmp_path / "seg.dcm", files["t1ce"], {name: masks[name] for name in names})
    refuse(tmp_path, "seg.dcm", "whole tumour (WT)", f"add {lacking}, empty")


@pytest.mark.parametrize("empty", [(), ("NCR",), ("ET",), ("NCR", "ET")])
def test_a_whole_tumour_is_told_by_its_parts_of_which_some_may_be_empty(
    tmp_path: Path, files: Any, empty: tuple[str, ...]
) -> None:
    masks = {name: mask & (name not in empty) for name, mask in boxes().items()}
    whole = {"WT": boxes()["NCR"] | boxes()["ED"] | boxes()["ET"], "NCR": masks["NCR"], "ET": masks["ET"]}
    write_segmentation(tmp_path / "seg.dcm", files["t1ce"], whole)
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], labels_of({**masks, "ED": whole["WT"]}))


def test_an_empty_whole_tumour_needs_nothing_inside(tmp_path: Path, files: Any) -> None:
    write_segmentation(
        tmp_path / "seg.dcm", files["t1ce"], {"WT": boxes()["ED"] & False, "ET": boxes()["ET"]}
    )
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], np.where(boxes()["ET"], 3, 0))


def test_several_segments_of_one_region_are_joined(tmp_path: Path, files: Any) -> None:
    masks = boxes()
    parts = {"ET": masks["ET"], "Enhancing": masks["NCR"], "ED": masks["ED"]}
    write_segmentation(tmp_path / "seg.dcm", files["t1ce"], parts)
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0] == 3, masks["ET"] | masks["NCR"])


def test_unknown_segment_is_refused_by_name(tmp_path: Path, files: Any) -> None:
    write_segmentation(tmp_path / "seg.dcm", files["t1ce"], {"Brainstem": boxes()["ED"]})
    refuse(tmp_path, "Brainstem", "seg.dcm", "NCR, ED, ET")


def test_name_and_code_that_contradict_are_refused(tmp_path: Path, files: Any) -> None:
    write_segmentation(tmp_path / "seg.dcm", files["t1ce"], {"ET": boxes()["ED"]}, codes_by_label={"ET": ED})
    refuse(tmp_path, "'ET'", "named ET but coded as ED")


def test_no_tumour_is_an_answer(tmp_path: Path, files: Any) -> None:
    empty = dict.fromkeys(BY_LABEL, np.zeros(factory.SHAPE, dtype=bool))
    write_segmentation(tmp_path / "seg.dcm", files["t1ce"], empty)
    found = read(tmp_path)
    assert found is not None
    assert not found[0].any()


def test_no_frames_is_no_tumour(tmp_path: Path, files: Any) -> None:
    path = write_segmentation(tmp_path / "seg.dcm", files["t1ce"], boxes())
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 0
    del dataset.PerFrameFunctionalGroupsSequence, dataset.PixelData
    dataset.save_as(path)
    found = read(tmp_path)
    assert found is not None
    assert not found[0].any()


def test_another_frame_of_reference_is_refused(tmp_path: Path) -> None:
    stated = {"FrameOfReferenceUID": factory.uid("other"), **factory.CONTRASTS["t2"], "SeriesNumber": 7}
    files = factory.write_visit(tmp_path, contrasts=("t1ce",))
    other = factory.write_series(tmp_path / "other", name="other", attributes=stated)
    assert files
    write_segmentation(tmp_path / "seg.dcm", other, boxes())
    refuse(tmp_path, "FrameOfReferenceUID", "series 1")


def test_tumour_outside_the_reference_is_refused(tmp_path: Path) -> None:
    factory.write_visit(tmp_path, contrasts=("t1ce",))
    shifted = factory.affine(origin=(-20.0, -30.0, 50.0))
    stated = {
        "FrameOfReferenceUID": factory.uid("visit frame"),
        "StudyInstanceUID": factory.uid("visit"),
        **factory.CONTRASTS["t2"],
    }
    other = factory.write_series(tmp_path / "other", matrix=shifted, name="other", attributes=stated)
    write_segmentation(tmp_path / "seg.dcm", other, boxes())
    refuse(tmp_path, "outside")


class TestWhichOne:
    @pytest.mark.parametrize("hours", [-1, 0, 1])
    def test_a_persons_drawing_goes_before_an_algorithms(
        self, tmp_path: Path, files: Any, hours: int
    ) -> None:
        persons = {"NCR": boxes()["NCR"]}
        write_segmentation(tmp_path / "person.dcm", files["t1ce"], persons)
        created = factory.DATE + timedelta(hours=hours)
        write_segmentation(
            tmp_path / "vendor.dcm", files["t1ce"], boxes(), algorithm="AUTOMATIC", created=created
        )
        catalog = read_catalog(tmp_path)
        series = reference(catalog)
        assert series.geometry is not None
        found = read_annotation(catalog.visits[0], series, series.geometry)
        assert found is not None and found.source == "dicom_seg"
        np.testing.assert_array_equal(found.labels.array, labels_of({**boxes(), **persons}) == 1)
        assert found.set_aside == (tmp_path / "vendor.dcm" if hours > 0 else None)

    def test_without_a_person_the_newest_algorithm_counts(self, tmp_path: Path, files: Any) -> None:
        for name, hours in (("old", 0), ("new", 1)):
            created = factory.DATE + timedelta(hours=hours)
            shape = boxes() if name == "new" else {**boxes(), "ED": boxes()["NCR"]}
            path = tmp_path / f"{name}.dcm"
            write_segmentation(path, files["t1ce"], shape, algorithm="AUTOMATIC", created=created)
        found = read(tmp_path)
        assert found is not None and found[1] == "other_algorithm"
        np.testing.assert_array_equal(found[0], labels_of(boxes()))

    def test_newest_wins(self, tmp_path: Path, files: Any) -> None:
        old = {label: np.zeros_like(mask) for label, mask in boxes().items()}
        write_segmentation(
            tmp_path / "a.dcm", files["t1ce"], boxes(), created=factory.DATE + timedelta(hours=2)
        )
        write_segmentation(tmp_path / "b.dcm", files["t1ce"], old, created=factory.DATE + timedelta(hours=1))
        found = read(tmp_path)
        assert found is not None
        np.testing.assert_array_equal(found[0], labels_of(boxes()))

    def test_a_tie_is_refused(self, tmp_path: Path, files: Any) -> None:
        for name in ("a.dcm", "b.dcm"):
            write_segmentation(tmp_path / name, files["t1ce"], boxes())
        refuse(tmp_path, "a.dcm and b.dcm")

    @pytest.mark.parametrize("names", [("a.dcm", "b.dcm"), ("a/seg.dcm", "b/seg.dcm")])
    def test_two_versions_of_one_uid_are_refused(
        self, tmp_path: Path, files: Any, names: tuple[str, str]
    ) -> None:
        for hour, name in enumerate(names):
            path = write_segmentation(
                tmp_path / name, files["t1ce"], boxes(), created=factory.DATE + timedelta(hours=hour)
            )
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = factory.uid("seg")
            dataset.save_as(path)
        refuse(tmp_path, f"{names[0]} and {names[1]}", "SOPInstanceUID")

    def test_one_object_a_region_is_refused(self, tmp_path: Path, files: Any) -> None:
        for n, (label, mask) in enumerate(boxes().items()):
            created = factory.DATE + timedelta(seconds=n)
            write_segmentation(tmp_path / f"{label}.dcm", files["t1ce"], {label: mask}, created=created)
        refuse(tmp_path, "ET.dcm", "one object")

    def test_forecasts_are_never_corrections(self, tmp_path: Path, files: Any) -> None:
        write_segmentation(
            tmp_path / "seg.dcm",
            files["t1ce"],
            boxes(),
            content_label="FORECAST_D30",
            manufacturer="OncoTwin",
        )
        assert read(tmp_path) is None
        assert "forecast" in read_catalog(tmp_path).ignored[0].reason

    def test_a_relabelled_forecast_is_no_correction(self, tmp_path: Path, files: Any) -> None:
        write_segmentation(tmp_path / "seg.dcm", files["t1ce"], {"FORECAST +30 d core": boxes()["ET"]})
        assert read(tmp_path) is None

    def test_own_automatic_segmentation_is_no_correction(self, tmp_path: Path, files: Any) -> None:
        write_segmentation(
            tmp_path / "seg.dcm", files["t1ce"], boxes(), algorithm="AUTOMATIC", manufacturer="OncoTwin"
        )
        assert read(tmp_path) is None
        assert "own automatic" in read_catalog(tmp_path).ignored[0].reason

    @pytest.mark.parametrize(
        ("algorithm", "manufacturer", "source"),
        [
            ("SEMIAUTOMATIC", "OncoTwin", "dicom_seg"),
            ("MANUAL", "Other", "dicom_seg"),
            ("SEMIAUTOMATIC", "Other", "dicom_seg"),
            ("AUTOMATIC", "Other", "other_algorithm"),
        ],
    )
    @pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
    def test_edited_or_foreign_ones_replace(
        self, tmp_path: Path, files: Any, algorithm: str, manufacturer: str, source: str, kind: str
    ) -> None:
        write_segmentation(
            tmp_path / "seg.dcm",
            files["t1ce"],
            boxes(),
            algorithm=algorithm,
            manufacturer=manufacturer,
            kind=kind,
        )
        found = read(tmp_path)
        assert found is not None
        assert found[1] == source

    def test_one_segment_of_a_person_makes_it_a_persons(self, tmp_path: Path, files: Any) -> None:
        path = write_segmentation(
            tmp_path / "seg.dcm", files["t1ce"], boxes(), algorithm="AUTOMATIC", manufacturer="Other"
        )
        dataset = pydicom.dcmread(path)
        dataset.SegmentSequence[1].SegmentAlgorithmType = "MANUAL"
        dataset.save_as(path)
        found = read(tmp_path)
        assert found is not None
        assert found[1] == "dicom_seg"

    def test_each_visit_gets_its_own(self, tmp_path: Path) -> None:
        first = factory.write_visit(tmp_path, contrasts=("t1ce",), name="one")
        later = factory.write_visit(tmp_path, factory.DATE.replace(month=9), contrasts=("t1ce",), name="two")
        write_segmentation(tmp_path / "seg.dcm", later["t1ce"], boxes())
        catalog = read_catalog(tmp_path)
        assert [len(visit.annotations) for visit in catalog.visits] == [0, 1]
        assert first

    def test_a_drawing_on_images_that_are_not_there_is_ignored(self, tmp_path: Path) -> None:
        factory.write_visit(tmp_path / "in", contrasts=("t1ce",), name="one")
        other = factory.write_visit(tmp_path / "out", contrasts=("t1ce",), name="two")
        write_segmentation(tmp_path / "in" / "seg.dcm", other["t1ce"], boxes())
        (ignored,) = read_catalog(tmp_path / "in").ignored
        assert "refers to no image" in ignored.reason

    def test_it_counts_in_the_digest(self, tmp_path: Path, files: Any) -> None:
        before = read_catalog(tmp_path).digest
        write_segmentation(tmp_path / "seg.dcm", files["t1ce"], boxes())
        assert read_catalog(tmp_path).digest != before
