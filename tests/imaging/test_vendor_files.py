"""Real vendor files: the same voxels at the same places as dcm2niix gives, or refused for the right reason."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from imaging.catalog import Catalog, RefusedSeries, Series, read_catalog, read_inventory
from imaging.errors import Reason
from imaging.geometry import LPS_TO_RAS, Geometry, Volume
from imaging.pixels import decode_pixels
from imaging.reader import read_volume
from imaging.role_selection import select_roles

READ = [
    "dicom/dicom2nifti/failing/slicecount/001",
    "dicom/dicom2nifti/ge/anatomical/001",
    "dicom/dicom2nifti/ge/anatomical/001_implicit",
    "dicom/dicom2nifti/generic/anatomical/001",
    "dicom/dicom2nifti/generic/anatomical/001_implicit",
    "dicom/dicom2nifti/generic/anatomical/002_non_isotropic",
    "dicom/dicom2nifti/generic/compressed/001",
    "dicom/dicom2nifti/generic/compressed_j2k/001",
    "dicom/dicom2nifti/generic/compressed_jpeg/001",
    "dicom/dicom2nifti/generic/compressed_jpegls/001",
    "dicom/dicom2nifti/generic/compressed_rle/001",
    "dicom/dicom2nifti/hitachi/anatomical/001",
    "dicom/dicom2nifti/hitachi/anatomical/001_implicit",
    "dicom/dicom2nifti/siemens_multiframe/anatomical/001",
    "dicom/ge_t1_defaced/In",
    "cases/glioma_dicom/pat1_t1",
    "cases/glioma_dicom/pat1_t1post",
    "cases/glioma_dicom/pat1_t2",
    "cases/glioma_dicom/pat1_flair",
]
REFUSED = {
    "dicom/dicom2nifti/failing/notavolume/001": (Reason.SINGLE_POSITION, "4 images of a single"),
    "dicom/dicom2nifti/failing/sliceincrement/001": (
        Reason.MISSING_SLICE,
        "lacks 1 of 5 slices (gap of 10.00 mm",
    ),
    "dicom/dicom2nifti/failing/sliceincrement/002": (
        Reason.MISSING_SLICE,
        "lacks 1 of 5 slices (gap of 1.50 mm",
    ),
    "dicom/dicom2nifti/failing/sliceorientation/001": (Reason.MIXED_ORIENTATION, "ImageOrientationPatient"),
    "dicom/dicom2nifti/ge/anatomical/001_single_slice": (Reason.SINGLE_POSITION, "a single image"),
    "dicom/dicom2nifti/ge/dti/001": (Reason.DUPLICATE_POSITION, "ImagePositionPatient"),
    "dicom/dicom2nifti/ge/dti/001_implicit": (Reason.DUPLICATE_POSITION, "ImagePositionPatient"),
    "dicom/dicom2nifti/ge/dti/002": (Reason.DUPLICATE_POSITION, "ImagePositionPatient"),
    "dicom/dicom2nifti/ge/fmri/001": (Reason.DUPLICATE_POSITION, "ImagePositionPatient"),
    "dicom/dicom2nifti/ge/fmri/001_implicit": (Reason.DUPLICATE_POSITION, "ImagePositionPatient"),
    "dicom/transfer_syntaxes/In": (Reason.UNSUPPORTED, "MOSAIC"),
}
# Tested on their own below.
OTHERS = {"dicom/dicom2nifti/failing/gantrytilting/001", "dicom/dicom2nifti/generic/rgb/001"}


def one_patient(folder: Path) -> Catalog:
    (patient,) = read_inventory(folder).patients
    return patient


def one_series(folder: Path) -> Series | RefusedSeries:
    (visit,) = one_patient(folder).visits
    (series,) = [*visit.series, *visit.refused]
    return series


@pytest.fixture(scope="session")
def dcm2niix() -> str:
    found = shutil.which("dcm2niix", path=str(Path(sys.executable).parent)) or shutil.which("dcm2niix")
    if found is None:
        pytest.fail("dcm2niix is not installed: make test installs it from requirements-dev.txt")
    return found


def convert(program: str, folder: Path, target: Path) -> dict[str, Any]:
    command = [program, "-z", "n", "-b", "n", "-f", "out", "-o", str(target), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return {path.stem: nib.load(path) for path in target.glob("*.nii")}


def test_every_series_is_expected_somewhere(shared: Path) -> None:
    folders = {
        str(path.parent.relative_to(shared))
        for root in (shared / "dicom", shared / "cases" / "glioma_dicom")
        for path in root.rglob("*")
        if path.is_file() and path.read_bytes()[128:132] == b"DICM"
    }
    assert folders == {*READ, *REFUSED, *OTHERS}


@pytest.mark.parametrize("folder", READ)
def test_read_as_dcm2niix_does(shared: Path, tmp_path: Path, dcm2niix: str, folder: str) -> None:
    series = one_series(shared / folder)
    assert isinstance(series, Series)
    volume = read_volume(series)
    (theirs,) = convert(dcm2niix, shared / folder, tmp_path).values()

    ours = LPS_TO_RAS @ volume.geometry.affine
    to_theirs = np.round(np.linalg.inv(theirs.affine) @ ours)
    assert sorted(np.abs(to_theirs[:3, :3]).sum(axis=0)) == [1, 1, 1]
    corners = np.c_[
        np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(volume.geometry.shape) - 1), np.ones(8)
    ]
    assert np.abs((theirs.affine @ to_theirs - ours) @ corners.T).max() < 1e-3

    index = np.indices(volume.geometry.shape).reshape(3, -1)
    i, j, k = (to_theirs @ np.vstack([index, np.ones(index.shape[1])]))[:3].astype(int)
    values = np.asarray(theirs.dataobj, dtype=np.float32)[i, j, k].reshape(volume.array.shape)
    # One series has a slope of its own in each slice, which NIfTI rounds to a single float.
    tolerance = 1e-5 if "002_non_isotropic" in folder else 0
    assert np.abs(values - volume.array).max() <= tolerance


@pytest.mark.parametrize("folder", REFUSED)
def test_refused_with_a_reason(shared: Path, folder: str) -> None:
    reason, words = REFUSED[folder]
    series = one_series(shared / folder)
    assert isinstance(series, RefusedSeries)
    assert series.reason is reason
    assert words in series.sentence


def test_colour_captures_are_ignored_with_a_reason(shared: Path) -> None:
    catalog = one_patient(shared / "dicom/dicom2nifti/generic/rgb/001")
    assert not catalog.visits
    assert {file.reason for file in catalog.ignored} == {"Secondary Capture Image, not an MR or CT image"}


def test_gantry_tilt_lies_where_dcm2niix_straightens_it(shared: Path, tmp_path: Path, dcm2niix: str) -> None:
    folder = shared / "dicom/dicom2nifti/failing/gantrytilting/001"
    series = one_series(folder)
    assert isinstance(series, Series)
    volume = read_volume(series)
    assert not volume.geometry.is_orthogonal
    for k, file in enumerate(series.files):
        position = [float(x) for x in pydicom.dcmread(file, stop_before_pixels=True).ImagePositionPatient]
        np.testing.assert_allclose(volume.geometry.to_patient((0, 0, k)), position, atol=1e-3)

    straight = convert(dcm2niix, folder, tmp_path)["out_Tilt_1"]
    values = np.asarray(straight.dataobj, dtype=np.float32)
    seen = volume.resampled(Geometry(values.shape, LPS_TO_RAS @ straight.affine), outside=-1024)
    both = (seen.array > -1000) & (values > -1000)
    # The opposite tilt would differ by 50 HU.
    assert np.abs(seen.array - values)[both].mean() < 1


def test_fault_12_nine_encodings_of_one_image(shared: Path) -> None:
    files = sorted((shared / "dicom/transfer_syntaxes/In").glob("*.dcm"))
    assert len(files) == 9
    datasets = [pydicom.dcmread(file) for file in files]
    assert len({dataset.file_meta.TransferSyntaxUID for dataset in datasets}) >= 7
    decoded = [decode_pixels(dataset, file) for dataset, file in zip(datasets, files, strict=True)]
    for pixels in decoded[1:]:
        np.testing.assert_array_equal(pixels, decoded[0])
    assert decoded[0].std() > 0


def test_roles_of_the_real_glioma_case(shared: Path) -> None:
    catalog = read_catalog(shared / "cases/glioma_dicom")
    (visit,) = catalog.visits
    assert len({series.study_uid for series in visit.series}) == 4
    selection = select_roles(visit, required=frozenset({"t1", "t1ce", "t2", "flair"}))
    assert {role: series.number for role, series in selection.chosen.items()} == {
        "t1": 2,
        "t1ce": 14,
        "t2": 3,
        "flair": 12,
    }
    assert selection.chosen["flair"].headers.contrast_agent
    assert set(selection.reasons) == {series.uid for series in visit.series}


def test_volume_of_the_real_case_is_a_head(shared: Path) -> None:
    series = one_series(shared / "cases/glioma_dicom/pat1_t2")
    assert isinstance(series, Series)
    volume: Volume = read_volume(series)
    size_ml = (
        (volume.array > 0.1 * np.percentile(volume.array, 99)).sum() * volume.geometry.voxel_volume_mm3 / 1000
    )
    assert 1000 < size_ml < 7000
