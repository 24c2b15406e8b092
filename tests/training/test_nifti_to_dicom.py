"""NIfTI cases wrapped as DICOM: same voxels, same places, in whatever order the axes come."""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path

import dcm2niix
import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from imaging.errors import ImagingError
from imaging.geometry import Volume
from imaging.roles import ROLES
from tests.training.test_phantom import read_slices, read_volume
from training.nifti_to_dicom import NiftiVisit, visit_of, visits_in_folder, wrap_nifti
from training.phantom import main

OBLIQUE = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix() * (0.7, 1.1, 2.5)
AFFINES = {
    "brats": np.diag([-1.0, -1.0, 1.0]),
    "oblique": OBLIQUE,
    "mirrored": OBLIQUE * (1, 1, -1),
    "swapped": OBLIQUE[:, [2, 0, 1]],
}
# As from a tilted gantry: slices shifted along their rows against each other.
TILTED = np.diag([0.9, 0.9, 1.0]) @ np.array([[1, 0, 0], [0, 1, 0.8], [0, 0, 3.0]])


def save(path: Path, array: np.ndarray, axes: np.ndarray) -> Path:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, (12.3, -45.6, 7.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def at_same_places(read: Volume, original: Volume) -> np.ndarray:
    """Values of ``read`` in the order of ``original``, having checked that every voxel has its counterpart."""
    corners = np.array([(0, 0, 0), np.array(original.geometry.shape) - 1])
    index = read.geometry.to_index(original.geometry.to_patient(corners))
    assert (
        np.abs(read.geometry.to_patient(np.rint(index)) - original.geometry.to_patient(corners)).max() < 1e-3
    )
    flips = tuple(slice(None, None, -1 if stop < start else 1) for start, stop in np.rint(index).T)
    array: np.ndarray = read.array[flips]
    assert array.shape == original.array.shape
    flipped = read.geometry.affine[:3, :3] * [f.step for f in flips]
    assert np.allclose(flipped, original.geometry.affine[:3, :3], atol=1e-5)
    return array


@pytest.mark.parametrize("name", list(AFFINES))
def test_values_and_places_survive(name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 2, (9, 14, 6)).astype(np.float32)
    original = Volume.load_nifti(save(tmp_path / "x.nii.gz", values, AFFINES[name]))
    wrap_nifti([NiftiVisit(datetime(2020, 1, 1), {"t1": tmp_path / "x.nii.gz"})], tmp_path / "out")
    (images,) = read_slices(tmp_path / "out").values()
    step = float(images[0].RescaleSlope)
    assert step == pytest.approx(np.ptp(values) / 65535, rel=1e-6)
    assert np.abs(at_same_places(read_volume(images), original) - values).max() <= 0.501 * step


@pytest.mark.parametrize("name", list(AFFINES))
def test_dcm2niix_reads_the_same_image(name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 3000, (9, 14, 6)).astype(np.int16)
    original = Volume.load_nifti(save(tmp_path / "x.nii.gz", values, AFFINES[name]))
    wrap_nifti([NiftiVisit(datetime(2020, 1, 1), {"flair": tmp_path / "x.nii.gz"})], tmp_path / "out")
    back = tmp_path / "back"
    back.mkdir()
    subprocess.run(
        [dcm2niix.bin, "-f", "x", "-b", "n", "-o", back, tmp_path / "out"], check=True, capture_output=True
    )
    read = Volume.load_nifti(back / "x.nii")
    assert np.array_equal(at_same_places(read, original), values)


def test_slices_of_a_sheared_grid_stay_where_they_are(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 3000, (9, 14, 6)).astype(np.int16)
    original = Volume.load_nifti(save(tmp_path / "x.nii.gz", values, TILTED))
    wrap_nifti([NiftiVisit(datetime(2020, 1, 1), {"t2": tmp_path / "x.nii.gz"})], tmp_path / "out")
    (images,) = read_slices(tmp_path / "out").values()
    positions = np.array([image.ImagePositionPatient for image in images], float)
    assert np.allclose(positions, original.geometry.to_patient([(0, 0, k) for k in range(6)]), atol=1e-3)
    assert {float(image.SpacingBetweenSlices) for image in images} == {3.0}
    assert np.array_equal(np.stack([image.pixel_array.T for image in images], axis=2), values)


def test_whole_numbers_keep_their_values_and_files_are_valid(tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(-5, 3000, (8, 8, 4)).astype(np.int16)
    save(tmp_path / "x.nii.gz", values, AFFINES["brats"])
    wrap_nifti([NiftiVisit(datetime(2020, 1, 1), {"t1ce": tmp_path / "x.nii.gz"})], tmp_path / "out")
    (images,) = read_slices(tmp_path / "out").values()
    stored = np.stack([image.pixel_array.T for image in images], axis=2).astype(int)
    assert float(images[0].RescaleSlope) == 1
    assert np.array_equal(stored + int(images[0].RescaleIntercept), values)
    assert "ContrastBolusAgent" in images[0]


def test_visits_of_a_brats_reg_folder(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for stem in ("00_0000", "01_0262"):
        for role in ROLES:
            save(tmp_path / "case" / f"BraTSReg_002_{stem}_{role}.nii.gz", array, AFFINES["brats"])
    save(tmp_path / "case" / "BraTSReg_002_00_0000_seg.nii.gz", array, AFFINES["brats"])
    visits = visits_in_folder(tmp_path / "case")
    assert [len(visit.files) for visit in visits] == [4, 4]
    assert (visits[1].when - visits[0].when).days == 262
    assert main(["--from-nifti", str(tmp_path / "case"), "-o", str(tmp_path / "out")]) == 0
    for number in (1, 2):
        images = [x for s in read_slices(tmp_path / f"out/dicom/visit{number}").values() for x in s]
        assert len({x.StudyInstanceUID for x in images}) == len({x.FrameOfReferenceUID for x in images}) == 1
        assert len({x.SeriesInstanceUID for x in images}) == 4


def test_visits_typed_one_by_one(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = save(tmp_path / "a.nii.gz", array, AFFINES["brats"])
    first, second = ["2020-01-01", f"t1={path}", f"t1c={path}"], ["2020-03-01", f"t1={path}"]
    done = main(
        ["--from-nifti", *second, "--from-nifti", *first, "-o", str(tmp_path / "out"), "--patient-id", "P7"]
    )
    assert done == 0
    images = [x for s in read_slices(tmp_path / "out" / "dicom" / "visit1").values() for x in s]
    assert {x.AcquisitionDate for x in images} == {"20200101"}
    assert {x.PatientID for x in images} == {"P7"}
    for items, message in (
        (["soon", f"t1={path}"], "not a date"),
        (["2020-01-01", "t9=x"], "not ROLE=FILE"),
        (["2020-01-01", f"t1={path}", f"t1n={path}"], "two t1 images"),
        (["2020-01-01"], "at least one image"),
    ):
        with pytest.raises(ValueError, match=message):
            visit_of(items)


def test_what_dicom_cannot_hold_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array = np.ones((3, 4, 5), np.float32)
    skewed = np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1.0]])
    save(tmp_path / "skewed" / "x_t1.nii.gz", array, skewed)
    save(tmp_path / "nan" / "x_t1.nii.gz", np.full((3, 4, 5), np.nan, np.float32), AFFINES["brats"])
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("skewed", "right angles"),
        ("nan", "not finite"),
        ("empty", "holds no NIfTI image"),
    ):
        assert main(["--from-nifti", str(tmp_path / name), "-o", str(tmp_path / f"out-{name}")]) == 2
        assert message in capsys.readouterr().err
    save(tmp_path / "two" / "A_t1.nii.gz", array, AFFINES["brats"])
    save(tmp_path / "two" / "B_t1.nii.gz", array, AFFINES["brats"])
    with pytest.raises(ImagingError, match="several cases"):
        visits_in_folder(tmp_path / "two")


def test_a_real_case_comes_back_voxel_for_voxel(shared: Path, tmp_path: Path) -> None:
    case = shared / "cases" / "glioma_two_visits"
    visits = visits_in_folder(case)
    assert (visits[1].when - visits[0].when).days == 262
    chosen = NiftiVisit(visits[1].when, {"t1ce": visits[1].files["t1ce"]})
    wrap_nifti([chosen], tmp_path, "REAL")
    (images,) = read_slices(tmp_path).values()
    original = Volume.load_nifti(chosen.files["t1ce"])
    read = at_same_places(read_volume(images), original)
    assert np.abs(read - original.array).max() <= 0.501 * float(images[0].RescaleSlope)
