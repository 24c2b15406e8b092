"""What the atlas cuts off the network's answer is told."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from imaging import growth_grid
from imaging.geometry import Geometry, Volume
from imaging.labels import volumes_ml
from operators import tissue_mapper
from operators.growth_calibrator import _observation
from operators.messages import MappedStudies, SegmentedStudies, SegmentedVisit
from tests.imaging.test_growth_grid import FRAMES, Registered, field_of_view, motion, seen

GRID = Geometry((40, 40, 40), np.diag([1.0, 1.0, 1.0, 1.0]))


def mapped(monkeypatch: pytest.MonkeyPatch, *, inside: int, source: str = "network") -> MappedStudies:
    """A cube of 8 mL of which ``inside`` of 20 layers lie in the brain, as the operator hands it on."""
    labels, brain = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, dtype=bool)
    labels[10:30, 10:30, 10:30] = 3
    brain[:, : 10 + inside] = True
    prepared = SimpleNamespace(
        date=datetime(2026, 1, 1), day=0.0, visit_to_first=None, images={},
        reference=Volume(np.zeros(GRID.shape, np.float32), GRID), registration=None, first_to_visit=None,
    )  # fmt: skip
    visit = SegmentedVisit(cast(Any, prepared), Volume(labels, GRID), source, 0.1)
    studies = SegmentedStudies(cast(Any, None), (visit,), cast(Any, None), ("earlier",))
    monkeypatch.setattr(
        growth_grid, "register_atlas", lambda *_, **__: SimpleNamespace(brain_mask=Volume(brain, GRID))
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


def two_slabs(
    monkeypatch: pytest.MonkeyPatch, later: tuple[tuple[int, int, int], float], source: str
) -> MappedStudies:
    """A first visit that ends at a height of 60 mm, and a second of the whole head with a tumour at ``later``."""
    Registered(monkeypatch)
    slab, head = field_of_view(-60.0, 60.0), field_of_view(-90.0, 93.0, FRAMES[1])
    drawn = [seen(slab, ((20, 10, 40), 10)), seen(head, later, motion(), 60.0)]
    visits = tuple(SegmentedVisit(visit, labels, source, None) for visit, labels in drawn)
    return tissue_mapper.mapped(SegmentedStudies(cast(Any, None), visits, cast(Any, None), ()), 3.0, 0.2, 0)


@pytest.mark.parametrize("source", ["network", "dicom_seg"])
@pytest.mark.parametrize(("centre", "radius", "ml"), [((20, 10, 54), 18, 24.2), ((10, 5, 62), 20, 33.4)])
def test_tumour_beyond_the_first_visits_images_reaches_the_twin(
    monkeypatch: pytest.MonkeyPatch, centre: tuple[int, int, int], radius: float, ml: float, source: str
) -> None:
    found = two_slabs(monkeypatch, (centre, radius), source)
    last = found.segmented.visits[1]
    volume = volumes_ml(last.labels.array, last.labels.geometry.voxel_volume_mm3)["WT"]
    assert volume == pytest.approx(ml, rel=0.02) and found.segmented.warnings == ()
    whole = _observation(last, found).whole
    assert float(whole.sum()) * found.grid.voxel_volume_mm3 / 1000 == pytest.approx(ml, rel=0.03)


@pytest.mark.parametrize(("height", "told"), [(-78, True), (-72, False)])
def test_a_tumour_at_the_edge_of_its_own_images_is_a_lower_bound(
    monkeypatch: pytest.MonkeyPatch, height: int, told: bool
) -> None:
    """The images of the second visit begin at a height of -90 mm."""
    warnings = two_slabs(monkeypatch, ((20, 10, height), 15), "dicom_seg").segmented.warnings
    assert [sentence.startswith("Visit 2: the tumour reaches the edge") for sentence in warnings] == [
        True
    ] * told
    assert all("its volume is a lower bound" in sentence for sentence in warnings)
