"""Drawings that replace the application's own segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.sr.coding import Code

from imaging.annotations import read_annotation
from imaging.catalog import Catalog, Series, read_catalog
from imaging.contours import rasterise
from imaging.errors import ImagingError, Reason
from imaging.geometry import AnyArray, Geometry
from imaging.labels import TumourLabel
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_segmentation, write_structure_set

NCR = Code("6574001", "SCT", "Necrosis")
ED = Code("79654002", "SCT", "Edema")
ET = Code("C113842", "NCIt", "Enhancing Lesion")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
BY_LABEL = {"NCR": NCR, "ED": ED, "ET": ET}


def boxes() -> dict[str, AnyArray]:
    """Three regions side by side, none of them symmetric."""
    masks = {label: np.zeros(factory.SHAPE, dtype=bool) for label in BY_LABEL}
    masks["NCR"][2:4, 2:5, 2:4] = True
    masks["ED"][4:9, 2:7, 2:6] = True
    masks["ET"][2:4, 5:7, 3:5] = True
    return masks


def labels_of(masks: Mapping[str, AnyArray]) -> AnyArray:
    labels = np.zeros(factory.SHAPE, dtype=np.uint8)
    for name in ("ED", "NCR", "ET"):
        labels[masks[name]] = TumourLabel[name]
    return labels


def reference(catalog: Catalog, description: str = "post") -> Series:
    (series,) = [item for item in catalog.visits[0].series if description in item.description]
    return series


def read(folder: Path, description: str = "post") -> tuple[AnyArray, str] | None:
    catalog = read_catalog(folder)
    series = reference(catalog, description)
    assert series.geometry is not None
    found = read_annotation(catalog.visits[0], series, series.geometry)
    if found is None:
        return None
    assert found.labels.geometry.matches(series.geometry)
    assert found.labels.array.dtype == np.uint8
    assert found.path.is_file()
    return found.labels.array, found.source


def refuse(folder: Path, *words: str) -> None:
    with pytest.raises(ImagingError) as error:
        read(folder)
    assert error.value.reason is Reason.BAD_ANNOTATION
    for word in words:
        assert word in error.value.message


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    """A visit on an oblique, anisotropic grid; T1 has slices half as thick."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    matrix = factory.affine(spacing=(1.0, 1.5, 2.0), rotation=turn)
    written = factory.write_visit(tmp_path, matrix=matrix, contrasts=("t1ce", "t2", "flair"))
    fine = factory.affine(spacing=(1.0, 1.5, 1.0), rotation=turn)
    stated = {
        "FrameOfReferenceUID": factory.uid("visit frame"),
        "StudyInstanceUID": factory.uid("visit"),
        "SeriesNumber": 9,
    }
    written["t1"] = factory.write_series(
        tmp_path / "t1",
        factory.pattern((12, 10, 15)),
        fine,
        name="t1",
        attributes={**factory.CONTRASTS["t1"], **stated},
    )
    return written


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


def test_drawn_on_another_series_of_the_same_frame_of_reference(tmp_path: Path, files: Any) -> None:
    """The T1 slices lie 1 mm apart, those of T1CE 2 mm: every second one is the same plane."""
    masks = {label: np.zeros((12, 10, 15), dtype=bool) for label in BY_LABEL}
    for label, mask in boxes().items():
        masks[label][:, :, ::2] = mask
        masks[label][:, :, 1::2] = mask[:, :, :-1]
    write_segmentation(tmp_path / "seg.dcm", files["t1"], masks)
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], labels_of(boxes()))


def test_frames_without_tumour_left_out(tmp_path: Path, files: Any) -> None:
    """Without the source series in the folder only the drawn frames tell the grid."""
    masks = {label: np.zeros((12, 10, 15), dtype=bool) for label in BY_LABEL}
    masks["ET"][3:6, 2:4, 4:8] = True
    masks["ED"][3:6, 2:4, 12] = True
    write_segmentation(tmp_path / "seg.dcm", files["t1"], masks)
    expected = np.where(masks["ET"], 3, 0) + np.where(masks["ED"], 2, 0)
    before = read(tmp_path, "t1_mprage_sag post")
    for file in files["t1"]:
        file.unlink()
    after = read(tmp_path, "t1_mprage_sag post")
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(before[0], expected[:, :, ::2])
    np.testing.assert_array_equal(after[0], expected[:, :, ::2])


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
        ("algorithm", "manufacturer"), [("SEMIAUTOMATIC", "OncoTwin"), ("AUTOMATIC", "Other")]
    )
    def test_edited_or_foreign_ones_replace(
        self, tmp_path: Path, files: Any, algorithm: str, manufacturer: str
    ) -> None:
        write_segmentation(
            tmp_path / "seg.dcm", files["t1ce"], boxes(), algorithm=algorithm, manufacturer=manufacturer
        )
        assert read(tmp_path) is not None

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


def outline(geometry: Geometry, i: tuple[float, float], j: tuple[float, float], k: float) -> AnyArray:
    """Rectangle through voxel indices, in LPS mm."""
    corners = [(i[0], j[0], k), (i[1], j[0], k), (i[1], j[1], k), (i[0], j[1], k)]
    return geometry.to_patient(corners)


class TestStructureSets:
    def write(self, folder: Path, files: Any, k: float = 3.0, **more: Any) -> None:
        geometry = reference(read_catalog(folder)).geometry
        assert geometry is not None
        contours = {
            "Enhancing Tumor": [
                outline(geometry, (1.5, 6.5), (1.5, 7.5), k),
                outline(geometry, (3.5, 4.5), (3.5, 5.5), k),
            ],
            "edema": [
                outline(geometry, (6.5, 9.5), (1.5, 7.5), k),
                outline(geometry, (6.5, 9.5), (1.5, 7.5), k + 1),
            ],
            "NCR": [],
        }
        write_structure_set(folder / "rt.dcm", files["t1ce"][0], contours, **more)

    def test_contours_become_labels_with_holes(self, tmp_path: Path, files: Any) -> None:
        self.write(tmp_path, files)
        found = read(tmp_path)
        assert found is not None
        expected = np.zeros(factory.SHAPE, dtype=np.uint8)
        expected[2:7, 2:8, 3] = 3
        expected[4, 4:6, 3] = 0
        expected[7:10, 2:8, 3:5] = 2
        np.testing.assert_array_equal(found[0], expected)
        assert found[1] == "rtstruct"

    def test_contours_between_slices_are_refused(self, tmp_path: Path, files: Any) -> None:
        self.write(tmp_path, files, k=3.4)
        refuse(tmp_path, "rt.dcm", "slices")

    def test_contours_in_slices_of_a_finer_series_of_the_visit_are_read_there(
        self, tmp_path: Path, files: Any
    ) -> None:
        self.write(tmp_path, files, k=2.5)
        assert read(tmp_path) is not None

    def test_points_and_open_lines_are_refused(self, tmp_path: Path, files: Any) -> None:
        self.write(tmp_path, files, geometric_type="OPEN_PLANAR")
        refuse(tmp_path, "OPEN_PLANAR")

    def test_contours_outside_the_images_are_refused(self, tmp_path: Path, files: Any) -> None:
        self.write(tmp_path, files, k=9.0)
        refuse(tmp_path, "rt.dcm")


def test_rasterised_area_converges_to_the_polygon() -> None:
    """A disc of radius 20 mm on voxels of 0.5 mm: its area within half a percent."""
    geometry = Geometry((100, 100, 1), np.diag([0.5, 0.5, 1.0, 1.0]))
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    disc = np.c_[25 + 20 * np.cos(angle), 25 + 20 * np.sin(angle), np.zeros(400)]
    area = rasterise([disc], geometry).sum() * 0.25
    assert area == pytest.approx(np.pi * 400, rel=5e-3)


def test_rasterising_counts_vertices_on_rows_once() -> None:
    geometry = Geometry((9, 9, 1), np.eye(4))
    diamond = np.array([[4.0, 1, 0], [7, 4, 0], [4, 7, 0], [1, 4, 0]])
    mask = rasterise([diamond], geometry)[:, :, 0]
    i, j = np.indices((9, 9))
    inside = np.abs(i - 4) + np.abs(j - 4) < 3
    on_edge = np.abs(i - 4) + np.abs(j - 4) == 3
    np.testing.assert_array_equal(mask[~on_edge], inside[~on_edge])
