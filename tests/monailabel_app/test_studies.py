"""A folder of studies that changes, or that cannot be read for a while, under a running server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from monailabel_app.refusal import Refusal
from monailabel_app.studies import FolderStudies
from tests.imaging import dicom_factory as factory

KEY = factory.uid("visit")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    factory.write_visit(tmp_path / "studies", name="visit", contrasts=("t1ce", "flair"))
    return tmp_path / "studies"


def test_a_link_without_a_target_costs_nobody_else_anything(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    studies = FolderStudies(folder, 4.0, ())
    (folder / "last.dcm").symlink_to("nowhere")
    assert studies.keys() == [KEY] and studies.examination(KEY).key == KEY
    assert "1 files of the studies are damaged or missing" in caplog.text and "last" not in caplog.text


def test_a_file_that_vanishes_while_the_folder_is_read_does_not_empty_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = FolderStudies(folder, 4.0, ())
    note, real = folder / "zz.part", Path.read_bytes
    note.touch()

    def read(path: Path) -> bytes:
        note.unlink(missing_ok=True)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert studies.keys() == [KEY]


def test_a_file_that_may_not_be_read_is_told_until_it_is_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = FolderStudies(folder, 4.0, ())
    assert studies.keys() == [KEY]
    locked, real = folder / "locked.dcm", Path.read_bytes
    locked.touch()

    def denied(path: Path) -> bytes:
        if path == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    for _ in range(2):
        with pytest.raises(Refusal, match=r"locked\.dcm may not be read"):
            studies.keys()
    locked.unlink()
    assert studies.keys() == [KEY] and studies.find(KEY) == KEY


def test_a_folder_without_files_is_empty_and_one_that_is_gone_is_an_error(folder: Path) -> None:
    studies = FolderStudies(folder, 4.0, ())
    assert studies.keys() == [KEY]
    away = folder.rename(folder.with_name("away"))
    for _ in range(2):
        with pytest.raises(Refusal, match="studies does not exist"):
            studies.keys()
    folder.mkdir()
    assert studies.keys() == []
    shutil.rmtree(folder)
    away.rename(folder)
    assert studies.keys() == [KEY]
