"""What the tests of the reader ask of a folder with one series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imaging.catalog import RefusedSeries, Series, read_inventory
from imaging.errors import Reason
from imaging.geometry import Volume
from imaging.reader import read_volume


def only(folder: Path) -> Series | RefusedSeries:
    """The one series of a folder, usable or not."""
    (patient,) = read_inventory(folder).patients
    found = [*patient.unplaced]
    for visit in patient.visits:
        found += [*visit.series, *visit.refused]
    (series,) = found
    return series


def read(folder: Path) -> Volume:
    series = only(folder)
    assert isinstance(series, Series), series.sentence
    return read_volume(series)


def refused(folder: Path, reason: Reason, *words: str) -> None:
    """The series is refused for this reason, in a sentence that has these words."""
    series = only(folder)
    assert isinstance(series, RefusedSeries)
    assert series.reason is reason, series.sentence
    for word in ("series 1", *words):
        assert word in series.sentence
    assert series.sentence.endswith(".")


def same(volume: Volume, array: Any, matrix: Any) -> None:
    """Exact voxels and the affine to the precision of decimal strings."""
    np.testing.assert_allclose(volume.geometry.affine, matrix, atol=1e-6)
    np.testing.assert_array_equal(volume.array, array.astype(np.float32))
