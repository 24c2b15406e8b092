"""Refinement keeps what was there, and repairs the speed of a front that the grid cannot resolve."""

import math
from dataclasses import replace

import pytest
import torch

from tests.twin.heads import CORE, WHOLE, grow, head, resample
from twin import (
    CalibrationSettings,
    LogNormal,
    Priors,
    TissueMaps,
    TumourObservation,
    calibrate,
    forecast,
)
from twin.coordinates import LOG_WIDTH
from twin.fit import fit, look
from twin.grid import Box, bounding_box
from twin.model import ReactionDiffusion
from twin.operator import DiffusionOperator
from twin.resolution import averaged, factors_for, refined, refined_therapies, refined_tissue, refined_visit
from twin.solver import trajectory
from twin.treatment import Chemotherapy, Radiotherapy, Surgery

EVERYTHING = Box((0, 0, 0), (6, 6, 6))


def ball(n, spacing, radius):
    axes = [(torch.arange(n) + 0.5) * h - n * h / 2 for h in spacing]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return x**2 + y**2 + z**2 < radius**2


def test_factors_make_voxels_no_wider_than_the_front():
    assert factors_for((1.5, 1.5, 3.0), 1.6, (100, 100, 50)) == (1, 1, 2)
    assert factors_for((1.0, 1.0, 1.0), 0.45, (80, 80, 80)) == (3, 3, 3)
    assert factors_for((2.0, 2.0, 2.0), 2.0, (100, 100, 100)) == (1, 1, 1)
    assert factors_for((1.0, 1.0, 1.0), 0.1, (100, 100, 100)) == (2, 2, 2)  # no more for want of memory
    assert factors_for((1.0, 1.0, 1.0), 0.1, (200, 200, 200)) == (1, 1, 1)


def test_volumes_and_maps_survive_the_way_there_and_back():
    spacing, factors = (2.0, 2.0, 3.0), (2, 2, 3)
    mask = ball(24, spacing, 15.0)
    visit = TumourObservation(0.0, ball(24, spacing, 8.0), mask)
    fine = refined_visit(visit, spacing, factors)
    for name in ("core", "whole"):
        before = float(getattr(visit, name).sum()) * math.prod(spacing)
        after = float(getattr(fine, name).sum()) * math.prod(spacing) / math.prod(factors)
        assert after == pytest.approx(before, rel=0.005)
    white = torch.rand(24, 24, 24)
    tissue = refined_tissue(TissueMaps(white, 1 - white, mask, spacing), factors)
    assert tissue.spacing_mm == pytest.approx((1.0, 1.0, 1.0))
    box = Box((0, 0, 0), (24, 24, 24))
    assert torch.equal(averaged(tissue.domain.float(), factors, box, (24, 24, 24)) > 0.5, mask)
    smooth = torch.linspace(0, 1, 24).expand(24, 24, 24).contiguous()
    again = averaged(
        refined_tissue(TissueMaps(smooth, 1 - smooth, mask, spacing), factors).white_matter,
        factors,
        box,
        (24, 24, 24),
    )
    torch.testing.assert_close(again[..., 1:-1], smooth[..., 1:-1], atol=1e-6, rtol=0.0)


def test_an_empty_core_stays_empty():
    mask = ball(12, (2.0,) * 3, 8.0)
    fine = refined_visit(TumourObservation(5.0, torch.zeros_like(mask), mask), (2.0,) * 3, (2, 2, 2))
    assert fine.day == 5.0 and not bool(fine.core.any())


def test_treatments_keep_their_calendar():
    dose = torch.rand(6, 6, 6)
    cut = ball(6, (1.0,) * 3, 2.0)
    chemo = Chemotherapy([1.0], [75.0])
    radio, drug, knife = refined_therapies(
        [Radiotherapy([2.0], [2.0], dose_map=dose), chemo, Surgery(4.0, cut)], (2, 2, 2), EVERYTHING
    )
    assert drug is chemo and radio.times == (2.0,) and knife.times == (4.0,)
    assert radio.dose_map.shape == (12, 12, 12)
    assert torch.equal(averaged(knife.resection.float(), (2, 2, 2), EVERYTHING, (6, 6, 6)) > 0.5, cut)


def test_a_narrow_front_slows_down_to_its_speed():
    """Front width 0.5 voxels: too fast on the grid, within 3 % of the fine solution when refined four times."""
    d, rho, n, spacing = 0.02, 0.02, 120, 2.0
    weight, mask = torch.ones(n, 1, 1), torch.ones(n, 1, 1, dtype=torch.bool)

    def travelled(factor):
        tissue = refined_tissue(TissueMaps(weight, 0 * weight, mask, (spacing, 1.0, 1.0)), (factor, 1, 1))
        operator = DiffusionOperator.build(
            tissue.white_matter, tissue.domain, tissue.spacing_mm, dtype=torch.float64
        )
        start = torch.zeros(n * factor, 1, 1, dtype=torch.float64)
        start[: 10 * factor] = 1.0
        parameters = {"diffusivity": torch.tensor([d]), "proliferation": torch.tensor([rho])}
        model = ReactionDiffusion(operator)
        states = trajectory(model, parameters, start[None, None], [1000.0, 3000.0])
        fronts = [float(state.sum()) * spacing / factor for state in states]
        return fronts[1] - fronts[0]

    exact = travelled(8)
    factor = factors_for((spacing, 1.0, 1.0), math.sqrt(d / rho), (n, 1, 1))[0]
    assert factor == 2 and travelled(1) > 1.08 * exact
    assert travelled(factor) == pytest.approx(exact, rel=0.04)


def test_a_calibration_refines_itself_and_its_forecast_comes_back_on_the_given_grid():
    """Front of 1.4 mm on voxels of 3 mm: fitted and forecast on 1.5 mm, maps handed out on 3 mm."""
    maps = head(3.0)[0]
    densities = [resample(u, 3.0) for u in grow(0.04, 0.02, [0.0, 120.0], volume_ml=4.0)]
    visits = [TumourObservation(t, u > CORE, u > WHOLE) for t, u in zip((0.0, 120.0), densities, strict=True)]
    priors = Priors(LogNormal(0.04, 0.2), LogNormal(0.02, 0.2))
    settings = CalibrationSettings(samples=8, initial_ensemble=2, importance_samples=0)
    calibration = calibrate(maps, visits, priors, settings)
    assert calibration.acceptable, calibration.verdict
    assert calibration.refinement in ((2, 2, 2), (3, 3, 3))
    assert "narrower than a voxel" in calibration.warnings[0]
    horizon = forecast(calibration, maps, visits, [30.0]).horizons[0]
    assert horizon.density_mean.shape == maps.domain.shape
    seen = float((horizon.probability_whole > 0.5).sum()) * 27
    assert seen == pytest.approx(horizon.volume_whole_mm3.estimate, rel=0.25)
    given = calibrate(maps, visits, priors, replace(settings, refine=False))
    assert given.refinement == (1, 1, 1)


def test_only_the_part_with_tissue_is_refined():
    """Air around the head costs nothing, and what was averaged back is where it was."""
    mask, spacing, factors = ball(12, (2.0,) * 3, 8.0), (2.0,) * 3, (2, 2, 2)
    wide = torch.zeros(20, 30, 24, dtype=torch.bool)
    wide[5:17, 8:20, 3:15] = mask
    tissue = TissueMaps(wide.float(), 0.0 * wide, wide, spacing)
    dose = torch.rand(20, 30, 24)
    fine = refined(
        tissue, [TumourObservation(0.0, wide, wide)], [Radiotherapy([1.0], [2.0], dose_map=dose)], factors
    )
    own = bounding_box(wide)
    assert fine.box == own and fine.tissue.shape == tuple(
        2 * (b - a) for a, b in zip(own.start, own.stop, strict=True)
    )
    assert fine.therapies[0].dose_map.shape == fine.tissue.domain.shape
    back = averaged(fine.visits[0].whole.float(), factors, fine.box, wide.shape)
    assert float(back.sum()) == pytest.approx(float(wide.sum()), rel=0.02)
    assert torch.equal(averaged(fine.tissue.domain.float(), factors, fine.box, wide.shape) > 0.5, wide)


def test_a_front_that_is_narrow_only_in_the_end_is_refined_as_well(monkeypatch):
    """The first look, made to see a wide front, leaves the grid; the posterior's front of 1.4 mm does not."""
    maps = head(3.0)[0]
    densities = [resample(u, 3.0) for u in grow(0.04, 0.02, [0.0, 120.0], volume_ml=4.0)]
    visits = [TumourObservation(t, u > CORE, u > WHOLE) for t, u in zip((0.0, 120.0), densities, strict=True)]
    priors = Priors(LogNormal(0.04, 0.2), LogNormal(0.02, 0.2))
    settings = CalibrationSettings(samples=8, initial_ensemble=2, importance_samples=0)
    seen, told = [], []

    def mistaken(scene, unknown, report):
        first = look(scene, unknown, report)
        position = first.minimum.position.copy()
        position[LOG_WIDTH] = math.log(3.5)
        return replace(first, minimum=replace(first.minimum, position=position))

    def counted(scene, *others, **named):
        seen.append(scene.spacing_mm[0])
        return fit(scene, *others, **named)

    monkeypatch.setattr("twin.calibration.look", mistaken)
    monkeypatch.setattr("twin.calibration.fit", counted)
    calibration = calibrate(maps, visits, priors, settings, lambda phase, done: told.append(done))
    assert calibration.acceptable, calibration.verdict
    width = math.exp(calibration.posterior.mean[LOG_WIDTH])
    assert seen[0] == 3.0 and len(seen) in (2, 3) and seen == sorted(seen, reverse=True)
    assert seen[-1] == 3.0 / calibration.refinement[0] <= width + 1e-9
    assert "narrower than a voxel" in calibration.warnings[0]
    assert not any("run too fast" in warning for warning in calibration.warnings)
    assert told == sorted(told) and told[-1] == 1.0


def test_a_front_that_the_grid_resolves_is_fitted_once(monkeypatch):
    maps = head(3.0)[0]
    densities = [resample(u, 3.0) for u in grow(0.36, 0.02, [0.0, 60.0], volume_ml=20.0)]
    visits = [TumourObservation(t, u > CORE, u > WHOLE) for t, u in zip((0.0, 60.0), densities, strict=True)]
    priors = Priors(LogNormal(0.36, 0.1), LogNormal(0.02, 0.1))
    settings = CalibrationSettings(samples=8, initial_ensemble=2, importance_samples=0)
    calls = []
    monkeypatch.setattr(
        "twin.calibration.fit", lambda *given, **named: calls.append(1) or fit(*given, **named)
    )
    calibration = calibrate(maps, visits, priors, settings)
    assert calibration.refinement == (1, 1, 1) and len(calls) == 1
    plain = calibrate(maps, visits, priors, replace(settings, refine=False))
    assert [p.estimate for p in plain.parameters] == [p.estimate for p in calibration.parameters]
