"""Contours of an RT Structure Set as labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from imaging.catalog import read_catalog
from imaging.contours import rasterise
from imaging.geometry import AnyArray, Geometry
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_structure_set
from tests.imaging.drawings import read, reference, refuse, write_drawn_visit


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    return write_drawn_visit(tmp_path)


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

    def test_rois_of_one_region_are_joined(self, tmp_path: Path, files: Any) -> None:
        """Where they overlap neither is a hole of the other."""
        geometry = reference(read_catalog(tmp_path)).geometry
        assert geometry is not None
        contours = {
            "edema": [
                outline(geometry, (1.5, 6.5), (1.5, 7.5), 3),
                outline(geometry, (2.5, 3.5), (2.5, 3.5), 3),
            ],
            "FLAIR hyperintensity": [outline(geometry, (4.5, 9.5), (1.5, 7.5), 3)],
            "ED": [outline(geometry, (4.5, 9.5), (1.5, 7.5), 3)],
            "ET": [],
            "NCR": [],
        }
        write_structure_set(tmp_path / "rt.dcm", files["t1ce"][0], contours)
        found = read(tmp_path)
        assert found is not None
        expected = np.zeros(factory.SHAPE, dtype=np.uint8)
        expected[2:10, 2:8, 3] = 2
        expected[3, 3, 3] = 0
        np.testing.assert_array_equal(found[0], expected)

    @pytest.mark.parametrize(
        ("types", "source"),
        [
            (("AUTOMATIC",) * 3, "other_algorithm"),
            (("AUTOMATIC", "MANUAL", "AUTOMATIC"), "rtstruct"),
            (("",) * 3, "rtstruct"),
        ],
    )
    def test_contours_of_an_algorithm_are_no_clinicians(
        self, tmp_path: Path, files: Any, types: tuple[str, ...], source: str
    ) -> None:
        self.write(tmp_path, files)
        dataset = pydicom.dcmread(tmp_path / "rt.dcm")
        for roi, generated in zip(dataset.StructureSetROISequence, types, strict=True):
            roi.ROIGenerationAlgorithm = generated
        dataset.save_as(tmp_path / "rt.dcm")
        found = read(tmp_path)
        assert found is not None
        assert found[1] == source

    def test_contours_between_slices_are_refused(self, tmp_path: Path, files: Any) -> None:
        self.write(tmp_path, files, k=3.4)
        refuse(tmp_path, "rt.dcm", "slices")

    def test_contours_in_slices_of_a_finer_series_of_the_visit_are_read_there(
        self, tmp_path: Path, files: Any
    ) -> None:
        self.write(tmp_path, files, k=2.5)
        assert read(tmp_path) is not None

    def test_a_drawing_on_every_other_slice_is_refused(self, tmp_path: Path, files: Any) -> None:
        geometry = reference(read_catalog(tmp_path)).geometry
        assert geometry is not None

        def write(*slices: float) -> None:
            drawn = [outline(geometry, (1.5, 6.5), (1.5, 7.5), k) for k in slices]
            write_structure_set(tmp_path / "rt.dcm", files["t1ce"][0], {"ED": drawn, "ET": [], "NCR": []})

        write(1, 3, 5)
        refuse(tmp_path, "rt.dcm draws ED on 3 slices", "interpolate")
        for slices in ((1, 2, 3, 5), (1, 3), (2,)):
            write(*slices)
            found = read(tmp_path)
            assert found is not None and found[0].any(axis=(0, 1)).sum() == len(slices)

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
