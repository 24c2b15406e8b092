"""The output folder appears whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from imaging.errors import ImagingError, Reason
from imaging.writers.publish import StagedFolder


def test_everything_appears_at_the_end_only(tmp_path: Path) -> None:
    output = tmp_path / "new" / "out"
    with StagedFolder(output) as staged:
        (staged.path / "a.dcm").write_bytes(b"a")
        (staged.path / "nifti").mkdir()
        (staged.path / "nifti" / "b.nii").write_bytes(b"b")
        assert [item.name.startswith(".partial-") for item in output.iterdir()] == [True]
    assert sorted(str(item.relative_to(output)) for item in output.rglob("*")) == [
        "a.dcm",
        "nifti",
        "nifti/b.nii",
    ]


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_leaves_nothing(error: BaseException, exists: bool, tmp_path: Path) -> None:
    output = tmp_path / "out"
    if exists:
        output.mkdir()
    with pytest.raises(type(error)), StagedFolder(output) as staged:
        (staged.path / "a.dcm").write_bytes(b"a")
        raise error
    assert output.exists() == exists
    assert list(tmp_path.rglob("*")) == ([output] if exists else [])


def test_a_folder_with_something_in_it_is_refused_and_kept(tmp_path: Path) -> None:
    kept = tmp_path / "result.json"
    kept.write_text("precious")
    with pytest.raises(ImagingError, match="not empty") as caught, StagedFolder(tmp_path):
        pytest.fail("must not get here")
    assert caught.value.reason is Reason.BAD_OUTPUT_FOLDER
    assert kept.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [kept]


def test_what_a_killed_run_left_does_not_block_the_next(tmp_path: Path) -> None:
    (tmp_path / ".partial-0123456789abcdef").mkdir()
    with StagedFolder(tmp_path) as staged:
        (staged.path / "a.dcm").write_bytes(b"a")
    assert (tmp_path / "a.dcm").read_bytes() == b"a"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_text("a file")
    with pytest.raises(ImagingError, match="not a folder"), StagedFolder(output):
        pytest.fail("must not get here")
    assert output.read_text() == "a file"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_while_writing_is_one_sentence(number: int, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(ImagingError, match="is full") as caught, StagedFolder(output) as staged:
        (staged.path / "a.dcm").write_bytes(b"a")
        raise OSError(number, "no room")
    assert caught.value.reason is Reason.BAD_OUTPUT_FOLDER
    assert not output.exists()


def test_a_full_disk_while_publishing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ImagingError, match="is full"), StagedFolder(output) as staged:
        (staged.path / "a.dcm").write_bytes(b"a")
    assert not output.exists()


def test_a_rename_that_fails_halfway_takes_back_what_appeared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "b.dcm":
            raise OSError(errno.EIO, "disk failed")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ImagingError, match="cannot be used"), StagedFolder(output) as staged:
        (staged.path / "a.dcm").write_bytes(b"a")
        (staged.path / "b.dcm").write_bytes(b"b")
    assert not output.exists()


FULL_DISK = """
import sys
from pathlib import Path
from imaging.errors import ImagingError
from imaging.writers.publish import StagedFolder
try:
    with StagedFolder(Path(sys.argv[1]) / "out") as staged:
        for number in range(64):
            (staged.path / f"{number}.dcm").write_bytes(bytes(65536))
except ImagingError as error:
    print(error)
    raise SystemExit(3 if not list(Path(sys.argv[1]).iterdir()) else 4)
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size=1m none "{tmp_path}" && exec "{sys.executable}" - "{tmp_path}"'
    run = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        input=FULL_DISK,
        text=True,
        capture_output=True,
        cwd=Path(__file__).parents[3],
    )
    if "unshare" in run.stderr or "mount" in run.stderr:
        pytest.skip("this machine allows no small file system of one's own; the simulated tests stand")
    assert run.returncode == 3, run.stdout + run.stderr
    assert "is full" in run.stdout


def test_a_folder_without_permission_is_refused() -> None:
    locked = Path(tempfile.mkdtemp())
    locked.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:  # may write everywhere, so be somebody else
            os.seteuid(65534)
        with pytest.raises(ImagingError, match="cannot be written"), StagedFolder(locked / "out"):
            pytest.fail("must not get here")
    finally:
        os.seteuid(user)
        locked.rmdir()


def test_a_read_only_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(ImagingError, match="cannot be written"), StagedFolder(tmp_path / "out"):
        pytest.fail("must not get here")
