"""The density that masks stand for where they say least: inside a tumour without core, and around a core alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.twin.heads import WHOLE, grow, head, resample
from twin import CalibrationSettings, TumourObservation, calibrate
from twin.observation import BoundaryDistances, density_from_masks, inner_rise

SETTINGS = CalibrationSettings()
SD_MM = 1.5


def ball(radius_mm: float) -> BoundaryDistances:
    """A tumour without core on voxels of 2 mm."""
    axis = (torch.arange(24).double() + 0.5) * 2 - 24
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return BoundaryDistances(0.0, None, (x**2 + y**2 + z**2).sqrt() - radius_mm, SD_MM)


@given(st.floats(-9.0, 9.0))
def test_no_shift_makes_a_core_that_was_not_seen(shift):
    density = density_from_masks(ball(14.0), 2.5, SETTINGS, shift).density
    assert SETTINGS.whole_threshold - 0.01 < float(density.max()) <= SETTINGS.core_threshold


def test_every_density_inside_is_as_probable_as_another():
    shares = [inner_rise(SD_MM * z, SD_MM)[0] for z in np.random.default_rng(0).standard_normal(4000)]
    assert np.quantile(shares, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.03)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 2.0])
def test_derivatives_without_a_core_are_those_of_the_density(shift):
    step, distances = 1e-4, ball(13.0)
    found = density_from_masks(distances, 2.5, SETTINGS, shift)
    above, below = (density_from_masks(distances, 2.5, SETTINGS, shift + s).density for s in (step, -step))
    assert float(found.by_core.abs().max()) > 0.01
    torch.testing.assert_close(found.by_core, (above - below) / (2 * step), atol=1e-5, rtol=1e-3)
    wide, narrow = (
        density_from_masks(distances, 2.5 * math.exp(s), SETTINGS, shift).density for s in (step, -step)
    )
    numeric = (wide - narrow) / (2 * step)
    # the voxels that cross the flat part within the step have no derivative
    assert float(((numeric - found.by_log_width).abs() > 1e-3).double().mean()) < 1e-3


def test_derivatives_around_a_core_alone_are_those_of_the_density():
    step, core = 1e-4, replace(ball(13.0), core=ball(13.0).whole, has_margin=False)
    found = density_from_masks(core, 2.5, SETTINGS, 0.5)
    sides = [density_from_masks(core, 2.5, SETTINGS, 0.5 + s).density for s in (step, -step)]
    torch.testing.assert_close(found.by_core, (sides[0] - sides[1]) / (2 * step), atol=1e-5, rtol=1e-3)
    sides = [density_from_masks(core, 2.5 * math.exp(s), SETTINGS, 0.5).density for s in (step, -step)]
    # the profile is linear between its knots
    torch.testing.assert_close(found.by_log_width, (sides[0] - sides[1]) / (2 * step), atol=1e-3, rtol=1e-2)
    assert not bool(found.by_whole.any())
    assert float((found.density > SETTINGS.whole_threshold).sum()) > 1.3 * float((core.core < 0).sum())


def test_a_faint_tumour_is_found_faint():
    """First seen with a peak density of 0.35, and without a core still, a while before one shows."""
    spacing, truth = 3.0, {"diffusivity": 0.42, "proliferation": 0.0225}
    maps, _ = head(spacing)
    grown = grow(*truth.values(), [0.0, 40.0], volume_ml=14.0)
    visits = [
        TumourObservation(day, u > SETTINGS.core_threshold, u > WHOLE)
        for day, u in zip((0.0, 40.0), (resample(u, spacing) for u in grown), strict=True)
    ]
    assert not any(bool(visit.core.any()) for visit in visits)
    found = calibrate(maps, visits, settings=replace(SETTINGS, samples=32))
    assert found.acceptable, found.verdict
    for parameter in found.parameters[:2]:
        low, high = parameter.interval95
        assert low < truth[parameter.name] < high
