"""The coarse grid of the search: geometry, what is averaged, and that growth on it is nearly the same."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.twin.heads import CORE, WHOLE, grow, head, resample
from twin import CalibrationSettings, Priors, Radiotherapy, TumourObservation, calibrate
from twin.coarse import coarsened
from twin.coordinates import LOG_VELOCITY
from twin.fit import MARGINS_MM, fit, look
from twin.likelihood import grow as simulate
from twin.results import Posterior
from twin.scene import Scene, Tissue, boundary_sd_mm

SPACING = 1.5
SETTINGS = CalibrationSettings()


def visits_at(spacing, *, cellularity=None):
    """Two balls in the white matter, 60 days apart."""
    x, y, z = head(spacing)[1]
    radius = torch.sqrt((x - 24) ** 2 + (y - 8) ** 2 + (z - 10) ** 2)
    return [
        TumourObservation(0.0, radius < 7, radius < 12, cellularity),
        TumourObservation(60.0, radius < 12, radius < 17),
    ]


def scene_at(spacing, visits, therapies=()):
    tissue = Tissue.prepare(head(spacing)[0], visits, SETTINGS)
    return Scene.build(tissue, visits, 6.0, SETTINGS, therapies=therapies)


@pytest.fixture(scope="module")
def fine():
    return scene_at(SPACING, visits_at(SPACING))


def test_voxels_are_doubled_only_up_to_three_millimetres(fine):
    coarse = coarsened(fine)
    assert coarse is not None and coarse.spacing_mm == (3.0, 3.0, 3.0)
    assert tuple(coarse.operator.domain.shape) == tuple((n + 1) // 2 for n in fine.operator.domain.shape)
    assert coarsened(coarse) is None
    thick = replace(fine, spacing_mm=(1.5, 1.5, 2.0))
    only_plane = coarsened(thick)
    assert only_plane is not None and only_plane.spacing_mm == (3.0, 3.0, 2.0)
    assert only_plane.operator.domain.shape[2] == fine.operator.domain.shape[2]


def test_boundaries_keep_their_place(fine):
    """Volumes inside the averaged boundary distances agree to a tenth of the coarse voxel."""
    coarse = coarsened(fine)
    for before, after in zip(fine.distances, coarse.distances, strict=True):
        assert after.day == before.day
        for fine_map, coarse_map in ((before.core, after.core), (before.whole, after.whole)):
            radii = []
            for map_, spacing in ((fine_map, SPACING), (coarse_map, 2 * SPACING)):
                # partial voxels at the boundary, so that the volume is not a count
                volume = float((0.5 - map_ / spacing).clamp(0, 1).sum()) * spacing**3
                radii.append((0.75 * volume / math.pi) ** (1 / 3))
            assert radii[1] == pytest.approx(radii[0], abs=0.1 * 2 * SPACING)


def test_dose_maps_and_cellularity_are_averaged_over_what_was_measured():
    shape = head(SPACING)[0].shape
    x = head(SPACING)[1][0]
    dose = torch.linspace(0, 1, shape[0]).reshape(-1, 1, 1).expand(shape).contiguous()
    cells = torch.where(x > 24, 0.5, torch.nan)
    visits = visits_at(SPACING, cellularity=cells)
    scene = scene_at(SPACING, visits, [Radiotherapy([10.0, 11.0], [2.0, 2.0], dose_map=dose)])
    coarse = coarsened(scene)
    (before,), (after,) = scene.model.therapies, coarse.model.therapies
    assert after.dose_map.shape == coarse.operator.domain.shape
    assert float(after.dose_map[0, 0, 0]) == pytest.approx(float(before.dose_map[:2, 0, 0].mean()), abs=1e-6)
    measured = coarse.cellularity[0]
    assert coarse.cellularity[1] is None
    known = torch.isfinite(measured)
    assert bool((measured[known] == 0.5).all())
    share = float(torch.isfinite(scene.cellularity[0]).double().mean())
    assert float(known.double().mean()) == pytest.approx(share, abs=0.1)


def test_growth_on_the_coarse_grid_is_nearly_that_of_the_fine_one(fine):
    shift_sd = boundary_sd_mm(SETTINGS, (SPACING,) * 3)
    position, _ = fine.coordinates.prior(Priors(), shift_sd)
    coarse, radii = coarsened(fine), []
    for scene in (fine, coarse):
        density = simulate(scene, position, tangents=False)[-1][0]
        volume = float(torch.sigmoid((density - WHOLE) / 0.05).sum()) * math.prod(scene.spacing_mm)
        radii.append((0.75 * volume / math.pi) ** (1 / 3))
    assert radii[1] == pytest.approx(radii[0], abs=0.6)
    assert radii[0] > 12.5


def test_the_search_ends_on_the_fine_grid_from_where_the_coarse_one_led(fine):
    """Both stages agree, and the fine one is the minimum that is handed back."""
    mean, covariance = fine.coordinates.prior(Priors(), boundary_sd_mm(SETTINGS, (SPACING,) * 3))
    told = []
    visits = visits_at(SPACING)
    unknown = Posterior(mean, covariance, fine.coordinates)
    found = fit(fine, visits, (), unknown, told.append, begun=look(fine, unknown, lambda done: None))
    assert found.coarse.likelihood.scene.spacing_mm == (3.0, 3.0, 3.0)
    assert found.fine.likelihood.scene.spacing_mm == (SPACING,) * 3
    sd = np.sqrt(np.linalg.inv(found.fine.minimum.at.hessian)[LOG_VELOCITY, LOG_VELOCITY])
    gap = found.fine.minimum.position[LOG_VELOCITY] - found.coarse.minimum.position[LOG_VELOCITY]
    assert abs(gap) < max(0.15, 2 * sd)
    assert found.iterations >= len(told) > 0
    assert all(0 <= share < 1 for share in told) and told == sorted(told)


def test_a_grid_that_is_coarse_already_is_fitted_once():
    visits = visits_at(3.0)
    scene = scene_at(3.0, visits)
    mean, covariance = scene.coordinates.prior(Priors(), boundary_sd_mm(SETTINGS, (3.0,) * 3))
    unknown = Posterior(mean, covariance, scene.coordinates)
    begun = look(scene, unknown, lambda done: None)
    found = fit(scene, visits, (), unknown, lambda done: None, begun=begun)
    assert found.fine is found.coarse


def test_a_hopeless_case_never_reaches_the_fine_grid():
    first, later = visits_at(SPACING)
    shrinking = [replace(later, day=0.0), replace(first, day=60.0)]
    scene = scene_at(SPACING, shrinking)
    mean, covariance = scene.coordinates.prior(Priors(), boundary_sd_mm(SETTINGS, (SPACING,) * 3))
    unknown = Posterior(mean, covariance, scene.coordinates)
    found = fit(scene, shrinking, (), unknown, lambda done: None, begun=None)
    assert found.fine.minimum is found.coarse.minimum
    assert found.coarse.likelihood.scene.spacing_mm == (3.0, 3.0, 3.0)
    assert found.fine.likelihood.scene is scene
    assert found.iterations <= 4


def test_the_box_grows_until_the_tumour_does_not_reach_its_edge(monkeypatch):
    """A diffuse tumour, whose density runs far beyond the masks that it shows."""
    maps, _ = head(4.0)
    visits = [
        TumourObservation(day, u > CORE, u > WHOLE)
        for day, u in zip(
            (0.0, 40.0), (resample(u, 4.0) for u in grow(2.0, 0.05, [0.0, 40.0], spacing=4.0)), strict=True
        )
    ]
    margins, build = [], Scene.build

    def watched(tissue, seen, margin, *others, **named):
        margins.append(margin)
        return build(tissue, seen, margin, *others, **named)

    monkeypatch.setattr(Scene, "build", watched)
    settings = CalibrationSettings(importance_samples=0)
    found = calibrate(maps, visits, settings=settings)
    assert len(margins) > 1 and margins == list(MARGINS_MM[: len(margins)])
    monkeypatch.setattr("twin.calibration.MARGINS_MM", (math.inf,))
    monkeypatch.setattr("twin.fit.MARGINS_MM", (math.inf,))
    unlimited = calibrate(maps, visits, settings=settings)
    for one, other in zip(found.parameters, unlimited.parameters, strict=True):
        assert one.estimate == pytest.approx(other.estimate, rel=0.03)
