"""What the atlas cuts off the network's answer is told."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from imaging.geometry import Geometry, Volume
from imaging.labels import volumes_ml
from operators import tissue_mapper
from operators.messages import MappedStudies, SegmentedStudies, SegmentedVisit

GRID = Geometry((40, 40, 40), np.diag([1.0, 1.0, 1.0, 1.0]))


def mapped(monkeypatch: pytest.MonkeyPatch, *, inside: int, source: str = "network") -> MappedStudies:
    """A cube of 8 mL of which ``inside`` of 20 layers lie in the brain, as the operator hands it on."""
    labels, brain = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, dtype=bool)
    labels[10:30, 10:30, 10:30] = 3
    brain[:, : 10 + inside] = True
    prepared = SimpleNamespace(
        date=datetime(2026, 1, 1), day=0.0, visit_to_first=None, images={},
        reference=Volume(np.zeros(GRID.shape, np.float32), GRID),
    )  # fmt: skip
    visit = SegmentedVisit(cast(Any, prepared), Volume(labels, GRID), source, 0.1)
    studies = SegmentedStudies(cast(Any, None), (visit,), cast(Any, None), ("earlier",))
    monkeypatch.setattr(tissue_mapper, "combined_lesion", lambda visits, grid: None)
    monkeypatch.setattr(
        tissue_mapper, "register_atlas", lambda *_, **__: SimpleNamespace(brain_mask=Volume(brain, GRID))
    )
    return tissue_mapper.mapped(studies, grid_mm=1.0, min_component_ml=0.2, seed=0)


@pytest.mark.parametrize(("inside", "kept_ml", "told"), [(9, 0.0, "8.0 mL"), (12, 4.8, "3.2 mL")])
def test_what_lies_outside_the_brain_is_left_out_and_told(
    monkeypatch: pytest.MonkeyPatch, inside: int, kept_ml: float, told: str
) -> None:
    (visit,), warnings = (found := mapped(monkeypatch, inside=inside).segmented).visits, found.warnings
    assert volumes_ml(visit.labels.array, 1.0)["ET"] == pytest.approx(kept_ml)
    assert warnings[0] == "earlier"
    (sentence,) = warnings[1:]
    assert sentence.startswith(f"Visit 1: {told}")


def test_nothing_is_told_where_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mapped(monkeypatch, inside=20).segmented.warnings == ("earlier",)


def test_what_a_clinician_drew_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    found = mapped(monkeypatch, inside=9, source="dicom_seg").segmented
    assert volumes_ml(found.visits[0].labels.array, 1.0)["ET"] == pytest.approx(8.0)
    assert found.warnings == ("earlier",)
