"""What the tests of the catalogue share: series with a date in a folder, and how a folder is refused."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from imaging.catalog import read_catalog
from imaging.errors import ImagingError, Reason
from tests.imaging import dicom_factory as factory


def refuse(folder: Path, reason: Reason, *words: str) -> None:
    with pytest.raises(ImagingError) as error:
        read_catalog(folder)
    assert error.value.reason is reason
    assert error.value.message.endswith(".")
    for word in words:
        assert word in error.value.message


def write(folder: Path, name: str, moment: datetime, number: int = 1, **attributes: Any) -> list[Path]:
    stated = {
        "SeriesNumber": number,
        "StudyInstanceUID": factory.uid(f"study {name}"),
        **factory.dates(moment),
    }
    return factory.write_series(folder, name=name, attributes={**stated, **attributes})
