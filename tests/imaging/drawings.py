"""What the tests of drawings share: a visit to draw on, a drawing, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from imaging.annotations import read_annotation
from imaging.catalog import Catalog, Series, read_catalog
from imaging.errors import ImagingError, Reason
from imaging.geometry import AnyArray
from imaging.labels import TumourLabel
from tests.imaging import dicom_factory as factory

LABELS = ("NCR", "ED", "ET")


def boxes() -> dict[str, AnyArray]:
    """Three regions side by side, none of them symmetric."""
    masks = {label: np.zeros(factory.SHAPE, dtype=bool) for label in LABELS}
    masks["NCR"][2:4, 2:5, 2:4] = True
    masks["ED"][4:9, 2:7, 2:6] = True
    masks["ET"][2:4, 5:7, 3:5] = True
    return masks


def labels_of(masks: Mapping[str, AnyArray]) -> AnyArray:
    labels = np.zeros(factory.SHAPE, dtype=np.uint8)
    for name in ("ED", "NCR", "ET"):
        labels[masks[name]] = TumourLabel[name]
    return labels


def reference(catalog: Catalog, description: str = "post") -> Series:
    (series,) = [item for item in catalog.visits[0].series if description in item.description]
    return series


def read(folder: Path, description: str = "post") -> tuple[AnyArray, str] | None:
    catalog = read_catalog(folder)
    series = reference(catalog, description)
    assert series.geometry is not None
    found = read_annotation(catalog.visits[0], series, series.geometry)
    if found is None:
        return None
    assert found.labels.geometry.matches(series.geometry)
    assert found.labels.array.dtype == np.uint8
    assert found.path.is_file()
    return found.labels.array, found.source


def refuse(folder: Path, *words: str, reason: Reason = Reason.BAD_ANNOTATION) -> None:
    with pytest.raises(ImagingError) as error:
        read(folder)
    assert error.value.reason is reason
    for word in words:
        assert word in error.value.message


def write_drawn_visit(folder: Path) -> dict[str, list[Path]]:
    """A visit on an oblique, anisotropic grid; T1 has slices half as thick."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    matrix = factory.affine(spacing=(1.0, 1.5, 2.0), rotation=turn)
    written = factory.write_visit(folder, matrix=matrix, contrasts=("t1ce", "t2", "flair"))
    fine = factory.affine(spacing=(1.0, 1.5, 1.0), rotation=turn)
    stated = {
        "FrameOfReferenceUID": factory.uid("visit frame"),
        "StudyInstanceUID": factory.uid("visit"),
        "SeriesNumber": 9,
    }
    written["t1"] = factory.write_series(
        folder / "t1",
        factory.pattern((12, 10, 15)),
        fine,
        name="t1",
        attributes={**factory.CONTRASTS["t1"], **stated},
    )
    return written
