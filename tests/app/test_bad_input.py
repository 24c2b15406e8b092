"""Bad input: an exit code, one sentence, nothing written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pydicom
import pytest

from imaging.catalog import read_catalog
from imaging.role_selection import select_roles
from operators.failures import ExitCode
from tests.app.conftest import ROOT, Run

RunApp = Callable[..., Run]
NOBODY = 65534


def assert_refused(run: Run, code: ExitCode, reason: str) -> None:
    assert run.exit_code == code, run.stderr
    sentences = [line for line in run.stderr.splitlines() if line.startswith("oncotwin: ")]
    assert len(sentences) == 1
    assert sentences[0].endswith(f". [{reason}]"), sentences
    assert not run.output.exists(), "something was written"


def files_of(patient: Path, visit: int, role: str) -> list[Path]:
    """Files of a role's series, in slice order."""
    selection = select_roles(read_catalog(patient).visits[visit], required=frozenset())
    return list(selection.chosen[role].files)


def change(path: Path, **attributes: object) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def test_empty_folder(run_app: RunApp, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(run_app(tmp_path / "empty"), ExitCode.INPUT, "empty_input")


def test_absent_folder(run_app: RunApp, tmp_path: Path) -> None:
    run = run_app(tmp_path / "absent")
    assert run.exit_code == ExitCode.INPUT
    assert not run.output.exists()


def test_not_dicom(run_app: RunApp, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "letter.txt").write_text("not an image")
    assert_refused(run_app(tmp_path / "texts"), ExitCode.INPUT, "not_dicom")


def test_no_permission(patient: Path) -> None:
    """As root everything can be read, so the folder is asked for as another user."""
    locked = patient / "visit1"
    locked.chmod(0)
    code = (
        "import os, sys; from pathlib import Path; from imaging.catalog import read_catalog;"
        "from imaging.errors import ImagingError\n"
        f"if os.geteuid() == 0: os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "try: read_catalog(Path(sys.argv[1]))\n"
        "except ImagingError as error: print(error.reason.value, error.message)"
    )
    opened = list(open_to_everybody(patient))
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(patient)], cwd=ROOT, capture_output=True, text=True
        )
    finally:
        locked.chmod(0o755)
        for folder, mode in opened:
            folder.chmod(mode)
    assert done.stdout.startswith("no_permission "), done.stdout + done.stderr


def open_to_everybody(folder: Path) -> Iterator[tuple[Path, int]]:
    """Make the parents that pytest keeps private passable; yields what to restore."""
    for parent in [folder, *folder.parents]:
        mode = parent.stat().st_mode & 0o777
        if mode & 0o005 != 0o005 and os.access(parent, os.W_OK):
            parent.chmod(mode | 0o055)
            yield parent, mode


def test_truncated_pixel_data(run_app: RunApp, patient: Path) -> None:
    path = files_of(patient, 0, "t1ce")[10]
    path.write_bytes(path.read_bytes()[:-2000])
    run = run_app(patient)
    assert run.exit_code == ExitCode.INPUT
    assert "truncated" in run.stderr
    assert not run.output.exists()


def test_truncated_header(run_app: RunApp, patient: Path) -> None:
    path = files_of(patient, 1, "flair")[3]
    path.write_bytes(path.read_bytes()[:700])
    run = run_app(patient)
    assert run.exit_code == ExitCode.INPUT
    assert not run.output.exists()


def test_two_patients(run_app: RunApp, patient: Path) -> None:
    for path in (patient / "visit2").rglob("*.dcm"):
        change(path, PatientID="SOMEBODY-ELSE")
    assert_refused(run_app(patient), ExitCode.INPUT, "several_patients")


def test_missing_sequence(run_app: RunApp, patient: Path, tmp_path: Path) -> None:
    """A bundle that cannot do without a contrast makes its absence an error."""
    models = tmp_path / "models"
    shutil.copytree(ROOT / "models", models)
    metadata = next(models.glob("*/configs/metadata.json"))
    text = metadata.read_text()
    assert '"required_roles"' in text
    demanding = text.replace(
        text[text.index('"required_roles"') :].split("]")[0] + "]", '"required_roles": ["flair", "t1ce"]'
    )
    metadata.write_text(demanding)
    for path in files_of(patient, 1, "flair"):
        path.unlink()
    assert_refused(run_app(patient, "-m", str(models)), ExitCode.INPUT, "missing_sequence")


def test_missing_slice(run_app: RunApp, patient: Path) -> None:
    files_of(patient, 0, "t1ce")[20].unlink()
    assert_refused(run_app(patient), ExitCode.INPUT, "missing_slice")


def test_mixed_orientation(run_app: RunApp, patient: Path) -> None:
    for path in files_of(patient, 0, "t1ce")[:5]:
        change(path, ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    assert_refused(run_app(patient), ExitCode.INPUT, "mixed_orientation")


def test_interval_of_zero_days(run_app: RunApp, patient: Path) -> None:
    """Two visits on one day can be ordered, but no growth can be measured between them."""
    first = read_catalog(patient).visits[0].date
    later = first + timedelta(hours=9)
    for path in (patient / "visit2").rglob("*.dcm"):
        day, time = later.strftime("%Y%m%d"), later.strftime("%H%M%S")
        change(path, StudyDate=day, SeriesDate=day, AcquisitionDate=day, ContentDate=day)
        change(path, StudyTime=time, SeriesTime=time, AcquisitionTime=time, ContentTime=time)
    assert_refused(run_app(patient), ExitCode.INPUT, "zero_interval")


def test_no_date(run_app: RunApp, patient: Path) -> None:
    for path in (patient / "visit1").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        for element in list(dataset):
            if element.VR in ("DA", "DT") and element.keyword != "PatientBirthDate":
                dataset[element.tag].value = ""
        dataset.save_as(path)
    assert_refused(run_app(patient), ExitCode.INPUT, "missing_date")


def test_output_folder_in_use(run_app: RunApp, patient: Path, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "precious.txt").write_text("keep me")
    run = run_app(patient, output=used)
    assert run.exit_code == ExitCode.OUTPUT
    assert [path.name for path in used.iterdir()] == ["precious.txt"]


@pytest.mark.slow
def test_full_disk(drawn_patient: Path, quick_settings: Path, tmp_path: Path) -> None:
    """The results of two visits do not fit on a disk of 300 kB; nothing is left on it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = (
        f"mount -t tmpfs -o size=300k none {disk} && "
        f"{sys.executable} -m app -i {drawn_patient} -o {disk}/results --config {quick_settings}; "
        f"code=$?; ls -A {disk}; exit $code"
    )
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    done = subprocess.run([*unshare, "sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == ExitCode.OUTPUT, done.stderr
    assert "is full" in done.stderr
    assert done.stdout.strip() == ""


def test_unusable_settings(patient: Path, tmp_path: Path, run_app: RunApp) -> None:
    settings = tmp_path / "broken.yaml"
    settings.write_text((ROOT / "app.yaml").read_text().replace("seed: 0", "sede: 0"))
    run = run_app(patient, "--config", str(settings))
    assert run.exit_code == ExitCode.USAGE
    assert "oncotwin.sede" in run.stderr
    assert not run.output.exists()


@pytest.mark.parametrize("arguments", [["-o", "out"], ["-i", "in"]])
def test_missing_arguments(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from app.__main__ import parse_arguments

    for name in ("HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(arguments)
    assert stopped.value.code == ExitCode.USAGE


def test_holoscan_variables_stand_in_for_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from app.__main__ import parse_arguments

    for name in ("INPUT", "OUTPUT", "MODEL", "CONFIG"):
        monkeypatch.setenv(f"HOLOSCAN_{name}_PATH", str(tmp_path / name))
    options = parse_arguments([])
    assert (options.input, options.output) == (tmp_path / "INPUT", tmp_path / "OUTPUT")
    assert (options.models, options.config) == (tmp_path / "MODEL", tmp_path / "CONFIG")
