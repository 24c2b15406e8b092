"""Displacements of boundaries: known ones are found, their derivatives hold, and outliers count less."""

import math

import numpy as np
import pytest
import torch

from tests.twin.heads import CORE, WHOLE, head
from twin import CalibrationSettings, Priors, TumourObservation
from twin.displacement import Surface, displacement
from twin.likelihood import Likelihood, grow
from twin.scene import Scene, Tissue, boundary_sd_mm, starting_width
from twin.targets import Displacement, Target, targets
from twin.wave import wave_profile

SPACING = 3.0
SETTINGS = CalibrationSettings()


def scene_of(visits):
    return Scene.build(Tissue.prepare(head(SPACING)[0], visits, SETTINGS), visits, 21.0, SETTINGS)


def balls(core, whole):
    x, y, z = head(SPACING)[1]
    radius = torch.sqrt((x - 24) ** 2 + (y - 8) ** 2 + (z - 10) ** 2)
    return radius < core, radius < whole


def front(scene, mask, away):
    wave, threshold = wave_profile(), (CORE, WHOLE)[mask]
    distance = (scene.distances[1].core, scene.distances[1].whole)[mask]
    return wave.density(wave.position(threshold) + (distance - away) / 4.0)


@pytest.fixture(scope="module")
def scene():
    return scene_of([TumourObservation(0.0, *balls(7, 12)), TumourObservation(60.0, *balls(12, 17))])


@pytest.mark.parametrize("density", [0.999, 0.6, 0.3, 0.02, 1e-4])
def test_a_place_on_the_wave_has_the_density_it_was_read_from(density):
    place, slope = wave_profile().place(np.array([density]))
    again, by_place = wave_profile().density_and_slope(torch.from_numpy(place))
    assert float(again[0]) == pytest.approx(density, rel=1e-6)
    assert slope[0] * float(by_place[0]) == pytest.approx(1.0, rel=1e-6)


def test_where_no_wave_shows_there_is_no_slope():
    place, slope = wave_profile().place(np.array([0.0, 1.0]))
    assert np.isfinite(place).all() and (slope == 0.0).all()


def test_a_surface_has_every_face_once(scene):
    whole = scene.distances[1].whole
    surface = Surface.of(whole, scene.operator.domain, scene.spacing_mm)
    # voxels outside the tissue have no faces, and those next to the edge ahead none either
    side = torch.where(scene.operator.domain, torch.where(whole < 0, 1, 2), 0).numpy()
    faces = 0
    for axis in range(3):
        for along in (side, np.flip(side, axis)):
            inner, outer, ahead = (along.take(range(n, along.shape[axis] - 2 + n), axis) for n in range(3))
            faces += int(((inner == 1) & (outer == 2) & (ahead > 0)).sum())
    assert surface.share.size == faces
    assert ((surface.share > 0) & (surface.share < 1)).all()
    values = surface.taken(whole)
    assert (values[surface.inside] < 0).all() and (values[surface.outside] >= 0).all()
    assert surface.crossing(values) == pytest.approx(np.zeros(faces), abs=1e-9)


@pytest.mark.parametrize("away", [-2.5, 0.0, 1.0, 3.0])
@pytest.mark.parametrize("mask", [0, 1])
def test_a_displaced_front_is_found(scene, away, mask):
    """A steady front of 4 mm whose boundary lies ``away`` mm outside the later mask's."""
    nothing = np.zeros(scene.coordinates.size)
    density = front(scene, mask, away)
    found = displacement(scene, 1, mask, density)
    millimetres = found.rows(density) / found.root
    # minus: the residual is how far the segmented boundary lies outside the model's
    assert float(np.median(millimetres)) == pytest.approx(-away, abs=0.4)
    shift = found.first_shift + mask
    assert np.flatnonzero(np.abs(found.shift_rows).sum(axis=1)) == [mask]
    assert found.misfit(density, nothing + away * np.eye(nothing.size)[shift]) < 0.5 * max(
        found.misfit(density, nothing), 1e3 * (away == 0)
    )


def test_outliers_count_less(scene):
    density = front(scene, 1, 0.0)
    whole = scene.distances[1].whole
    x = torch.arange(whole.shape[0])[:, None, None].expand(whole.shape)
    centre = (whole < 0).nonzero()[:, 0].double().mean()
    density = torch.where(x > centre + 4, front(scene, 1, 12.0), density)
    found = displacement(scene, 1, 1, density)
    trust = found.root**2
    far = np.abs(found.rows(density) / found.root) > 8.0
    assert far.any() and trust[far].max() < 0.3 and np.median(trust[~far]) > 0.8


@pytest.mark.parametrize("cells", [1, 2])
def test_a_mask_drawn_a_little_short_of_the_edge_of_the_tissue_has_no_front_there(cells):
    """A front that fills the tissue up to its edge does not lie ahead of a mask that stops ``cells`` voxels short."""
    size, spacing = 30, 2.0
    domain = torch.ones((size,) * 3, dtype=torch.bool)
    domain[size // 2 :] = False
    middle = (torch.arange(size).double() + 0.5 - size / 2) * spacing
    x, y, z = torch.meshgrid(middle, middle, middle, indexing="ij")
    distance = (x**2 + y**2 + z**2).sqrt() - 14.0
    mask = (distance < 0) & domain
    mask[size // 2 - cells :] = False
    drawn = torch.where(mask, -distance.abs(), distance.abs())
    surface = Surface.of(drawn, domain, (spacing,) * 3)
    inner, outer = (surface.voxels[0][end] for end in (surface.inside, surface.outside))
    along_edge = (inner == size // 2 - cells - 1) & (outer == size // 2 - cells)
    assert not along_edge.any() if cells == 1 else along_edge.any()
    assert inner.size > 300


def test_an_empty_mask_has_none(scene):
    bare = scene_of([TumourObservation(0.0, *balls(7, 12)), TumourObservation(60.0, *balls(0, 17))])
    assert displacement(bare, 1, 0, torch.zeros(bare.operator.domain.shape)) is None


def test_the_likelihood_has_the_derivatives_of_its_own_cost(scene):
    """Against central differences in double precision, with every coordinate off."""
    settings = CalibrationSettings(double_precision=True)
    visits = [TumourObservation(0.0, *balls(7, 12)), TumourObservation(60.0, *balls(12, 17))]
    exact = Scene.build(Tissue.prepare(head(SPACING)[0], visits, settings), visits, 21.0, settings)
    mean, covariance = exact.coordinates.prior(Priors(), boundary_sd_mm(settings, exact.spacing_mm))
    position = mean + 0.2 * np.cos(np.arange(mean.size))
    grown = [fields[0] for fields in grow(exact, position, tangents=False)]
    asked = targets(exact, starting_width(position), grown, position)
    assert [type(target) for target in asked] == [Displacement, Displacement]
    likelihood = Likelihood(exact, asked, mean, np.linalg.inv(covariance))
    gradient = likelihood.linearise(position).gradient
    assert likelihood.linearise(position).cost == pytest.approx(likelihood.cost(position), rel=1e-9)
    for index in range(mean.size):
        step = 1e-4 * np.eye(mean.size)[index]
        central = (likelihood.cost(position + step) - likelihood.cost(position - step)) / 2e-4
        assert gradient[index] == pytest.approx(central, rel=2e-3, abs=2e-3 * math.hypot(*gradient))


def test_masks_are_soft_until_the_model_has_been_grown(scene):
    assert all(isinstance(target, Target) for target in targets(scene, 1.0))
