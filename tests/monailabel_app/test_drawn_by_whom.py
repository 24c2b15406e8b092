"""What counts as drawn: a person's work, not what another algorithm left with the images."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from monailabel_app.studies import FolderStudies
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_segmentation


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    factory.write_visit(tmp_path, contrasts=("t1ce",), name="one")
    return tmp_path


def draw(folder: Path, name: str, algorithm: str, hours: float = 0.0) -> Path:
    return write_segmentation(
        folder / f"{name}.dcm",
        sorted(folder.rglob("one_t1ce/*")),
        {"WT": np.ones(factory.SHAPE, bool)},
        algorithm=algorithm,
        created=factory.DATE + timedelta(hours=hours),
    )


def test_another_algorithms_segmentation_leaves_a_case_undrawn(folder: Path) -> None:
    draw(folder, "vendor", "AUTOMATIC")
    studies = FolderStudies(folder, 4.0, ())
    (key,) = studies.keys()
    assert studies.labelled() == frozenset()
    drawing = studies.examination(key).drawing
    assert drawing is not None and drawing.automatic, "it is shown all the same"


@pytest.mark.parametrize("algorithm", ["MANUAL", "SEMIAUTOMATIC"])
def test_a_persons_drawing_counts_though_an_algorithm_came_later(folder: Path, algorithm: str) -> None:
    path = draw(folder, "person", algorithm)
    draw(folder, "vendor", "AUTOMATIC", hours=2)
    studies = FolderStudies(folder, 4.0, ())
    (key,) = studies.keys()
    assert studies.labelled() == {key}
    drawing = studies.examination(key).drawing
    assert drawing is not None and drawing.path == path
