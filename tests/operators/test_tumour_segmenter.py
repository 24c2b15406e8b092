"""Segmentations found in the input take the place of the network's, and whose they are is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from imaging.annotations import Correction, Source
from imaging.geometry import Geometry, Volume
from operators.tumour_segmenter import taken_over


@pytest.mark.parametrize(
    ("source", "warned"), [("dicom_seg", False), ("rtstruct", False), ("other_algorithm", True)]
)
def test_another_algorithm_in_the_networks_place_is_warned_of(source: Source, warned: bool) -> None:
    labels = Volume(np.ones((2, 2, 2), np.uint8), Geometry((2, 2, 2), np.eye(4)))
    warnings = ["earlier"]
    visit = taken_over(cast(Any, None), Correction(labels, source, Path("seg.dcm")), 2, warnings)
    assert (visit.labels, visit.source, visit.uncertainty) == (labels, source, None)
    assert len(warnings) == 1 + warned
    assert all(
        sentence.startswith("Visit 2: a segmentation by another algorithm") for sentence in warnings[1:]
    )


def test_a_newer_object_that_no_person_made_is_named() -> None:
    labels = Volume(np.ones((2, 2, 2), np.uint8), Geometry((2, 2, 2), np.eye(4)))
    warnings: list[str] = []
    found = Correction(labels, "dicom_seg", Path("drawn.dcm"), Path("elsewhere/vendor.dcm"))
    taken_over(cast(Any, None), found, 1, warnings)
    (warning,) = warnings
    assert "drawn.dcm was used and not vendor.dcm" in warning and "elsewhere" not in warning
