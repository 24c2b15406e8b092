"""The grid of the growth model holds what any visit shows; the brain is mapped from the image that sees most of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from imaging import growth_grid as grids
from imaging.geometry import Geometry, Volume
from imaging.growth_grid import DrawnVisit, growth_grid, map_brain
from imaging.preparation import PreparedVisit, mask_on_grid
from imaging.registration import RigidRegistration
from imaging.report_content import RegistrationQuality
from tests.imaging.synthetic_head import synthetic_head

FRAMES = ("1.2.1", "1.2.2")
QUALITY = RegistrationQuality(0.9, "edges", 0.5, 0.0, 0.0)


def motion(degrees: float = 0.0, shift: Sequence[float] = (0.0, 0.0, 0.0)) -> RigidRegistration:
    """From the first visit to another one."""
    transform = sitk.Euler3DTransform()
    transform.SetRotation(np.radians(degrees), 0.0, 0.0)
    transform.SetTranslation(tuple(shift))
    return RigidRegistration(transform, QUALITY)


def field_of_view(low: float, high: float, frame: str = FRAMES[0], slices_mm: float = 3.0) -> Geometry:
    """Axial slices of 180 x 180 mm between two heights."""
    affine = np.diag([2.0, 2.0, slices_mm, 1.0])
    affine[:3, 3] = (-89.0, -89.0, low + slices_mm / 2)
    return Geometry((90, 90, round((high - low) / slices_mm)), affine, frame)


def ball(grid: Geometry, centre: Sequence[float], radius: float) -> np.ndarray:
    points = grid.to_patient(np.moveaxis(np.indices(grid.shape), 0, -1))
    return np.asarray(((points - np.asarray(centre)) ** 2).sum(axis=-1) < radius**2)


def seen(
    image: Geometry | Volume,
    tumour: tuple[Sequence[float], float] | None = None,
    registration: RigidRegistration | None = None,
    day: float = 0.0,
) -> DrawnVisit:
    """A visit with a ball of tumour, centre in its own frame and radius, mm."""
    reference = image if isinstance(image, Volume) else Volume(np.ones(image.shape, np.float32), image)
    drawn = np.zeros(reference.geometry.shape, dtype=np.uint8)
    if tumour is not None:
        drawn[ball(reference.geometry, *tumour)] = 2
    visit = PreparedVisit(
        date=datetime(2026, 1, 1) + timedelta(days=day),
        day=day,
        series={},
        reference_role="t1ce",
        images={"t1ce": reference},
        series_registrations={},
        registration=registration,
        correction=None,
    )
    return visit, Volume(drawn, reference.geometry)


def held_ml(visit: DrawnVisit, grid: Geometry) -> tuple[float, float]:
    """Volume of the tumour as drawn and on a grid, mL."""
    mask = visit[1].with_array(visit[1].array > 0)
    on_grid = mask_on_grid(mask, grid, visit[0].first_to_visit)
    drawn, held = (float(v.array.sum()) * v.geometry.voxel_volume_mm3 / 1000 for v in (mask, on_grid))
    return drawn, held


@pytest.mark.parametrize("spacing", [1.5, 2.0, 3.0])
@pytest.mark.parametrize(
    ("degrees", "shift"), [(0.0, (0.0, 0.0, 0.0)), (8.0, (4.0, -6.0, 7.0)), (-12.0, (0.0, 3.0, -6.0))]
)
def test_where_all_see_about_the_same_the_grid_is_the_first_visits(
    spacing: float, degrees: float, shift: tuple[float, float, float]
) -> None:
    slab = field_of_view(-60.0, 60.0)
    tumour = ((20.0, 10.0, 20.0), 15.0)
    other = field_of_view(-60.0, 60.0, FRAMES[1])
    visits = [seen(slab, tumour), seen(other, tumour, motion(degrees, shift), 60.0)]
    cover = slab.axis_aligned_cover(spacing)
    found = growth_grid(visits, spacing)
    assert found.shape == cover.shape and found.frame_of_reference_uid == FRAMES[0]
    np.testing.assert_array_equal(found.affine, cover.affine)


@pytest.mark.parametrize("shift", [0.0, 11.0])
def test_tumour_beyond_the_first_slab_is_held_as_a_whole(shift: float) -> None:
    """The first visit ends at a height of 60 mm, the second tumour reaches 72 mm."""
    slab, head = field_of_view(-60.0, 60.0), field_of_view(-69.0, 93.0, FRAMES[1])
    registration = motion(shift=(0.0, shift, 0.0))
    visits = [seen(slab, ((20, 10, 45), 10)), seen(head, ((20, 10 + shift, 54), 18), registration, 60.0)]
    cover = slab.axis_aligned_cover(1.5)
    drawn, cut = held_ml(visits[1], cover)
    assert (drawn, cut) == pytest.approx((24.4, 18.0), abs=0.3), "what is at stake"
    grid = growth_grid(visits, 1.5)
    assert held_ml(visits[1], grid)[1] == pytest.approx(drawn, rel=0.02)
    # by whole voxels, upwards only: 9 mm below are about the same view
    added = cover.to_index(grid.affine[:3, 3])
    across = 0 if shift == 0.0 else 8
    assert grid.shape == (120, 120 + across, 80 + 22)
    np.testing.assert_allclose(added, np.round(added), atol=1e-9)


def test_a_tumour_in_a_view_that_is_about_the_same_is_held_too() -> None:
    slab, higher = field_of_view(-60.0, 60.0), field_of_view(-51.0, 69.0)
    visits = [seen(slab, ((0, 0, 40), 12)), seen(higher, ((0, 0, 52), 14), motion(), 60.0)]
    drawn, held = held_ml(visits[1], growth_grid(visits, 2.0))
    assert held == pytest.approx(drawn, rel=0.03)


def test_the_grid_grows_no_farther_than_a_brain() -> None:
    visits = [seen(field_of_view(-60.0, 60.0)), seen(field_of_view(-600.0, 60.0), None, motion(), 60.0)]
    assert growth_grid(visits, 2.0).shape == (90, 90, 60 + 50)


class Registered:
    """Stands for the atlas: a ball of brain wherever the image reaches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: list[Volume] = []
        monkeypatch.setattr(grids, "register_atlas", self)

    def __call__(
        self, image: Volume, grid: Geometry, *, lesion: Volume | None = None, seed: int = 0
    ) -> SimpleNamespace:
        self.images.append(image)
        reach = image.with_array(np.ones(image.geometry.shape, dtype=np.float32)).resampled(grid).array > 0.5
        return SimpleNamespace(brain_mask=Volume(ball(grid, (0, 0, 0), 85.0) & reach, grid))


def test_the_brain_is_mapped_from_the_first_visit_where_the_views_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    atlas = Registered(monkeypatch)
    slab = field_of_view(-60.0, 60.0)
    visits = [seen(slab, ((0, 0, 0), 10)), seen(slab, ((0, 0, 0), 20), motion(5.0), 60.0)]
    found = map_brain(visits, growth_grid(visits, 3.0))
    assert atlas.images == [visits[0][0].reference] and found.number == 1
    assert found.may_be_brain is found.tissue.brain_mask and not found.beyond.array.any()


def test_the_brain_is_mapped_from_the_visit_that_sees_most(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = Registered(monkeypatch)
    slab, head = field_of_view(-60.0, 60.0), field_of_view(-90.0, 93.0, FRAMES[1])
    registration = motion(0.0, (3.0, -4.0, 2.0))
    visits = [seen(slab, ((20, 10, 45), 10)), seen(head, ((23, 6, 56), 18), registration, 60.0)]
    found = map_brain(visits, growth_grid(visits, 3.0))
    (image,) = atlas.images
    assert found.number == 2 and image.geometry.frame_of_reference_uid == FRAMES[0]
    np.testing.assert_allclose(image.geometry.affine[:3, 3], head.affine[:3, 3] - (3.0, -4.0, 2.0), atol=1e-9)
    # 33 mL of the second visit's tumour that the first visit's images do not show
    tumour = np.where(ball(head, (3.0, -4.0, 72.0), 20.0), 3, 0).astype(np.uint8)
    kept = found.inside(Volume(tumour, head), visits[1][0], 0.2)
    assert np.count_nonzero(kept.array) > 0.8 * np.count_nonzero(tumour)


def test_what_no_image_of_the_brain_shows_is_not_called_outside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slabs: the atlas lies on the lower one, which cuts the brain at a height of 60 mm."""
    Registered(monkeypatch)
    lower, upper = field_of_view(-90.0, 60.0), field_of_view(15.0, 93.0, FRAMES[1])
    visits = [seen(lower, ((20, 10, 20), 10)), seen(upper, ((20, 10, 40), 12), motion(), 60.0)]
    grid = growth_grid(visits, 3.0)
    found = map_brain(visits, grid)
    assert found.number == 1 and not found.tissue.brain_mask.array[:, :, -5:].any()
    above = np.where(ball(upper, (0, 0, 72), 10.0), 3, 0).astype(np.uint8)
    beside = np.where(ball(upper, (82, 82, 30), 6.0), 3, 0).astype(np.uint8)
    kept = found.inside(Volume(above | beside, upper), visits[1][0], 0.2)
    np.testing.assert_array_equal(kept.array, above)
    whole = kept.with_array(kept.array > 0)
    assert found.beyond_ml(whole, visits[1][0]) == pytest.approx(4.19, rel=0.05)


def test_a_slab_first_and_the_whole_head_later_give_the_whole_brain() -> None:
    """With the real atlas: the first visit's slab ends 40 mm below the top of the brain."""
    head = synthetic_head(seed=3, bend_mm=4.0, tumour=True)
    whole = head.image.geometry
    top = int(np.flatnonzero(head.brain.any(axis=(0, 1))).max()) - 20
    slab = Volume(head.image.array[:, :, :top], whole.crop((0, 0, 0), (*whole.shape[:2], top)))
    registration = motion(7.0, (4.0, -3.0, 2.0))
    turned = head.image.resampled(whole, registration.transform.GetInverse())
    visits = [seen(slab, ((0, 0, 0), 0)), seen(turned, ((0, 0, 0), 0), registration, 60.0)]
    grid = growth_grid(visits, 3.0)
    found = map_brain(visits, grid)
    truth = Volume(head.brain, whole).resampled(grid, interpolation="nearest").array
    brain = found.tissue.brain_mask.array
    above = slice(round(float(grid.to_index(slab.geometry.corners())[:, 2].max())) + 1, None)
    assert found.number == 2 and truth[:, :, above].sum() * 0.027 > 60.0
    for part in (slice(None), above):
        overlap = 2 * (brain & truth)[:, :, part].sum() / (brain[:, :, part].sum() + truth[:, :, part].sum())
        assert overlap > 0.9
