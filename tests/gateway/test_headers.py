"""What the gateway reads in its own process: a deflated object must not fill the memory, whatever it inflates to."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from gateway.headers import Header, read_header
from tests.gateway.world import make_study

INFLATED = 1 << 26


@pytest.fixture
def image(tmp_path: Path) -> pydicom.Dataset:
    return pydicom.dcmread(make_study(tmp_path / "study", 80)[0])


def deflated(image: pydicom.Dataset, path: Path) -> Path:
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)
    return path


def test_a_deflated_head_is_read_like_any_other(image: pydicom.Dataset, tmp_path: Path) -> None:
    plain = tmp_path / "plain.dcm"
    image.save_as(plain)
    assert read_header(plain) != Header()
    assert read_header(deflated(image, tmp_path / "deflated.dcm")) == read_header(plain)


@pytest.mark.parametrize("before_the_head", [False, True])
def test_a_deflated_bomb_is_not_inflated(
    image: pydicom.Dataset, tmp_path: Path, before_the_head: bool
) -> None:
    if before_the_head:
        image.add_new(0x00091001, "OB", bytes(INFLATED))
    else:
        image.PixelData = bytes(INFLATED)
    uid = image.StudyInstanceUID
    bomb = deflated(image, tmp_path / "bomb.dcm")
    assert bomb.stat().st_size < INFLATED // 100
    tracemalloc.start()
    header = read_header(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < INFLATED * 0.8
    assert header.study_uid == ("" if before_the_head else uid)
