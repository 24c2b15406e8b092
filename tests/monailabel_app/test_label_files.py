"""Label maps that viewers send: read from their own bytes alone, and only on the grid that was given."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from imaging.geometry import Geometry, Volume
from monailabel_app.label_files import read_labels, write_labels
from monailabel_app.refusal import Refusal

GRID = Geometry((6, 5, 4), np.diag([1.0, 1.0, 2.0, 1.0]))
DRAWN = np.arange(120, dtype=np.uint8).reshape(GRID.shape) % 4
NRRD = (
    "NRRD0005\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 6 5 4\nencoding: raw\n"
    "space directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (0,0,0)\n"
)
META = "ObjectType = Image\nNDims = 3\nDimSize = 6 5 4\nElementSpacing = 1 1 2\nElementType = MET_UCHAR\n"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_label_map_comes_back_as_it_was_written(suffix: str) -> None:
    path = write_labels(Volume(DRAWN, GRID), suffix)
    np.testing.assert_array_equal(read_labels(path, GRID).array, DRAWN)
    path.unlink()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "named",
    ["data file: {}", "DataFile: {}", "DATA FILE: {}", "data file: LIST\n{}", "data file: {}%d 1 1 1"],
)
def test_a_header_cannot_name_another_file(named: str, end: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    os.mkfifo(secret)  # reading it would wait for ever
    sent = tmp_path / "sent.nrrd"
    sent.write_bytes((NRRD + named.format(secret) + "\n\n").replace("\n", end).encode())
    with pytest.raises(Refusal, match="does not hold its own pixels"):
        read_labels(sent, GRID)


def test_a_header_that_ends_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sent.nrrd").write_text(NRRD)
    with pytest.raises(Refusal, match="does not hold its own pixels"):
        read_labels(tmp_path / "sent.nrrd", GRID)


@pytest.mark.parametrize("name", ["sent.nhdr", "sent.mha", "sent.mhd", "sent.seg.nrrd", "sent.vtk"])
def test_formats_whose_pixels_may_lie_elsewhere_are_not_taken(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(META + "ElementDataFile = /etc/passwd\n")
    with pytest.raises(Refusal, match=r"\.nii\.gz or \.nrrd"):
        read_labels(tmp_path / name, GRID)


@pytest.mark.parametrize("name", ["sent.nii", "sent.nii.gz", "sent.nrrd"])
def test_a_name_does_not_choose_another_reader(name: str, tmp_path: Path) -> None:
    pixels = tmp_path / "pixels.raw"
    pixels.write_bytes(DRAWN.tobytes())
    (tmp_path / name).write_text(META + f"ElementDataFile = {pixels}\n")
    with pytest.raises(Refusal):
        read_labels(tmp_path / name, GRID)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_pixels_on_another_grid_are_never_read(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    larger = Volume(np.zeros((600, 50, 40), np.uint8), Geometry((600, 50, 40), GRID.affine))
    path = write_labels(larger, suffix)
    monkeypatch.setattr(sitk.ImageFileReader, "Execute", lambda _: pytest.fail("read"))
    monkeypatch.setattr(sitk, "ReadImage", lambda *_: pytest.fail("read"))
    with pytest.raises(Refusal, match="grid"):
        read_labels(path, GRID)
    path.unlink()


@pytest.mark.parametrize("value", [0.5, -1.0])
def test_values_that_are_no_labels_are_refused(value: float, tmp_path: Path) -> None:
    path = tmp_path / "sent.nii"
    Volume(np.full(GRID.shape, value, np.float32), GRID).save_nifti(path)
    with pytest.raises(Refusal, match="whole numbers"):
        read_labels(path, GRID)
