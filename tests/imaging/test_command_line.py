"""``python -m imaging``: what people and machines get to read."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from imaging.__main__ import main
from imaging.geometry import Volume
from tests.imaging import dicom_factory as factory


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factory.write_visit(tmp_path)
    broken = factory.write_series(
        tmp_path / "gap", name="gap", attributes={"SeriesNumber": 9, "StudyInstanceUID": factory.uid("visit")}
    )
    broken[2].unlink()
    (tmp_path / "notes.txt").write_text("hello")
    assert main([str(tmp_path)]) == 0
    output = capsys.readouterr().out
    for words in (
        "Patient P-001",
        "Visit 2024-03-01 09:30",
        "12 x 10 x 8, 1 x 1 x 2 mm, axial",
        "Chosen as t1ce: series 2 is T1 by description and timing",
        "refused: series 9 lacks 1 of 8 slices",
        "ignored notes.txt: not a DICOM file",
    ):
        assert words in output
    assert "Doe" not in output


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factory.write_visit(tmp_path, contrasts=("t1", "t2"))
    assert main([str(tmp_path), "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    (patient,) = listing["patients"]
    (visit,) = patient["visits"]
    assert [item["role"] for item in visit["series"]] == ["t1", "t2"]
    assert visit["series"][0]["geometry"]["shape"] == [12, 10, 8]
    np.testing.assert_allclose(visit["series"][0]["geometry"]["affine_lps"], factory.affine())
    assert set(visit["problems"]) == {"t1ce", "flair"}


def test_nifti(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factory.write_series(tmp_path / "in")
    assert main([str(tmp_path / "in"), "--nifti", str(tmp_path / "out"), "--json"]) == 0
    (patient,) = json.loads(capsys.readouterr().out)["patients"]
    (path,) = (tmp_path / "out").iterdir()
    assert patient["visits"][0]["series"][0]["nifti"] == str(path)
    image = nib.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), factory.pattern())
    np.testing.assert_allclose(image.affine, np.diag([-1, -1, 1, 1]) @ factory.affine(), atol=1e-5)


def test_several_patients_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("A", "B"):
        factory.write_series(tmp_path, name=name, attributes={"PatientID": name})
    assert main([str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "Patient A" in output
    assert "Patient B" in output


def test_ambiguity_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in (3, 8):
        stated = {**factory.CONTRASTS["t2"], "SeriesNumber": n}
        factory.write_series(tmp_path, name=f"s{n}", attributes=stated)
    assert main([str(tmp_path)]) == 0
    assert "series 3 and series 8" in capsys.readouterr().out


@pytest.mark.parametrize("junk", [False, True])
def test_unusable_input_is_one_sentence_and_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], junk: bool
) -> None:
    if junk:
        (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8" * 500)
    assert main([str(tmp_path)]) == 3
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert error.endswith(".")


def test_usage_is_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main([])
    assert leave.value.code == 2


def test_it_starts_as_a_module() -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "imaging", "--help"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert "--nifti" in run.stdout


def test_a_reader_that_stops_early_is_no_fault(tmp_path: Path) -> None:
    factory.write_visit(tmp_path)
    command = [sys.executable, "-m", "imaging", str(tmp_path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_file_where_images_should_go_is_told(
    inside: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    factory.write_series(tmp_path / "in")
    (tmp_path / "out").write_text("precious")
    assert main([str(tmp_path / "in"), "--nifti", str(tmp_path / "out" / inside)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert str(tmp_path / "out") in captured.err and "--nifti" in captured.err
    assert (tmp_path / "out").read_text() == "precious"


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Volume, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    factory.write_series(tmp_path / "in")
    monkeypatch.setattr(Volume, "save_nifti", full)
    assert main([str(tmp_path / "in"), "--nifti", str(tmp_path / "out")]) == 2
    assert "No space left" in capsys.readouterr().err
