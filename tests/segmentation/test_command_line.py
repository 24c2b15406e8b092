"""``python -m segmentation``: output on the reference image's grid, volumes printed, exit code 2 with one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segmentation.__main__ import main


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """T1CE at 3 mm in RAS order with an oblique axis, FLAIR on another grid of the same space."""
    rng = np.random.default_rng(0)
    paths = {}
    for role, shape, spacing in (("t1ce", (24, 20, 16), 3.0), ("flair", (36, 30, 12), 2.0)):
        affine = np.diag([spacing, spacing, 4.0, 1.0])
        affine[:3, 3] = -spacing * shape[0] / 2, -spacing * shape[1] / 2, -2.0 * shape[2]
        angle = 0.1
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        paths[role] = tmp_path / f"{role}.nii.gz"
        nib.save(nib.Nifti1Image(rng.normal(100, 20, shape).astype(np.float32), turn @ affine), paths[role])
    return paths


def test_label_map_lies_on_the_t1ce_grid(
    files: dict[str, Path],
    make_labels_bundle: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = make_labels_bundle(required_roles=["t1ce"]).parent
    out = tmp_path / "out.nii.gz"
    arguments = [
        "--flair",
        str(files["flair"]),
        "--t1ce",
        str(files["t1ce"]),
        "-o",
        str(out),
        "-m",
        str(models / "labels"),
    ]
    assert main(arguments) == 0
    result, reference = nib.load(out), nib.load(files["t1ce"])
    assert result.shape == reference.shape and np.allclose(result.affine, reference.affine, atol=1e-4)
    assert result.get_data_dtype() == np.uint8
    printed = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    labels = np.asarray(result.dataobj)
    assert float(printed["WT"]) == pytest.approx((labels > 0).sum() * 36 / 1000, abs=0.01)
    assert float(printed["TC"]) == pytest.approx(np.isin(labels, (1, 3)).sum() * 36 / 1000, abs=0.01)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"t1ce": "absent.nii.gz"}, "does not exist"),
        ({"t1ce": "text.nii.gz"}, "cannot be read as NIfTI"),
        ({"t1ce": "infinite.nii.gz"}, "not finite"),
        ({"t1ce": "empty"}, "holds no files"),
        ({"t1ce": None}, "cannot do without T1CE"),
        ({"t1ce": None, "flair": None}, "no image is given"),
        ({"out": "out.txt"}, "must end in .nii"),
        ({"out": "absent/out.nii.gz"}, "create it first"),
        ({"models": "absent"}, "does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    files: dict[str, Path],
    make_labels_bundle: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str | None],
    sentence: str,
) -> None:
    (tmp_path / "text.nii.gz").write_text("not an image")
    (tmp_path / "empty").mkdir()
    nib.save(nib.Nifti1Image(np.full((8, 8, 8), np.nan, np.float32), np.eye(4)), tmp_path / "infinite.nii.gz")
    bundle = make_labels_bundle(required_roles=["t1ce"])
    given = (
        {role: path.name for role, path in files.items()}
        | {"out": "out.nii.gz", "models": bundle.name}
        | change
    )
    arguments = ["-o", str(tmp_path / str(given["out"])), "-m", str(tmp_path / str(given["models"]))]
    for role in ("t1ce", "flair"):
        if given[role] is not None:
            arguments += [f"--{role}", str(tmp_path / str(given[role]))]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not (tmp_path / "out.nii.gz").exists()


def test_real_dicom_folders(shared: Path, make_labels_bundle: Callable[..., Path], tmp_path: Path) -> None:
    """T1CE and FLAIR as DICOM folders; the label map lies on the T1CE series."""
    bundle = make_labels_bundle(required_roles=["t1ce"], spacing_mm=4.0)
    case, out = shared / "cases" / "glioma_dicom", tmp_path / "out.nii.gz"
    arguments = [
        "--t1ce",
        str(case / "pat1_t1post"),
        "--flair",
        str(case / "pat1_flair"),
        "-o",
        str(out),
        "-m",
        str(bundle),
    ]
    assert main(arguments) == 0
    assert nib.load(out).shape[2] == len(list((case / "pat1_t1post").glob("*.dcm")))
    shutil.rmtree(bundle)
