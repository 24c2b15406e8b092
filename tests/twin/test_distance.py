"""Distances to the boundaries of masks, against shapes whose distance is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.twin.balls import ball, block
from twin import CalibrationSettings, TissueMaps, TumourObservation
from twin.distance import continued, signed_distance
from twin.scene import Scene, Tissue

Shape = tuple[torch.Tensor, torch.Tensor]


def _ball(radius: float, spacing: tuple[float, float, float], centre: tuple[float, float, float]) -> Shape:
    """Distance to a ball (mm), and its mask."""
    axes = [
        (torch.arange(math.ceil(2.6 * radius / h)).double() + 0.5) * h - 1.3 * radius - c
        for h, c in zip(spacing, centre, strict=True)
    ]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    distance = (x**2 + y**2 + z**2).sqrt() - radius
    return distance, distance < 0


@pytest.mark.parametrize("radius", [12.0, 20.0])
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 1.0, 1.0), (1.5, 1.5, 3.0)])
def test_balls_are_found_without_bias(radius: float, spacing: tuple[float, float, float]) -> None:
    errors = []
    for centre in np.random.default_rng(0).uniform(-1, 1, (4, 3)):
        true, mask = _ball(radius, spacing, tuple(centre))
        found = signed_distance(mask, spacing)
        errors.append((found - true)[true.abs() < 3.0])
    error = torch.cat(errors) / max(spacing)
    assert abs(float(error.mean())) < 0.07, "share of a voxel"
    assert float(error.std()) < 0.2, "share of a voxel"


def test_half_spaces_are_found_in_every_direction() -> None:
    generator, axis = np.random.default_rng(1), torch.arange(40).double() - 19.5
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    for _ in range(6):
        direction = generator.standard_normal(3)
        direction /= np.linalg.norm(direction)
        true = direction[0] * x + direction[1] * y + direction[2] * z - generator.uniform(-1, 1)
        error = signed_distance(true < 0, (1.0, 1.0, 1.0)) - true
        inner = (slice(8, -8),) * 3
        assert abs(float(error[inner].mean())) < 0.03
        assert float(error[inner].abs().max()) < 0.6


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.02, 0.6))
def test_exactly_the_voxels_of_a_mask_are_negative(seed: int, share: float) -> None:
    mask = torch.from_numpy(np.random.default_rng(seed).random((7, 6, 5)) < share)
    mask[3, 3, 2] = True
    found = signed_distance(mask, (1.0, 2.0, 0.5))
    assert torch.equal(found < 0, mask)
    assert bool(torch.isfinite(found).all())


def test_a_mask_without_outside_is_deep_everywhere() -> None:
    assert float(signed_distance(torch.ones(4, 4, 4, dtype=torch.bool), (1.0, 1.0, 1.0)).max()) < -100.0


def _halved(maps: TissueMaps) -> TissueMaps:
    """The same block of which the far half along the first axis has no tissue, but for its last plane."""
    domain = maps.domain.clone()
    domain[domain.shape[0] // 2 : -1] = False
    return replace(maps, white_matter=maps.white_matter * domain, domain=domain)


def test_tumour_against_the_edge_of_the_tissue_is_half_of_one_that_goes_on() -> None:
    """Zero flux is a mirror: what is cut off in the middle has the densities that the whole one has there."""
    spacing, cells = 2.0, 40
    whole_block = block(cells, spacing)
    starts = []
    for maps in (whole_block, _halved(whole_block)):
        masks = (ball(cells, spacing, radius) & maps.domain for radius in (10.0, 16.0))
        visits = [TumourObservation(0.0, *masks)]
        settings = CalibrationSettings()
        scene = Scene.build(Tissue.prepare(maps, visits, settings), visits, math.inf, settings)
        full = torch.zeros(cells, cells, cells, dtype=torch.float64)
        full[scene.box.slices] = scene.density(0, math.log(2.5))
        starts.append(full)
    near = starts[0][: cells // 2]
    assert float(near[-1, cells // 2, cells // 2]) > 0.8
    torch.testing.assert_close(starts[1][: cells // 2], near, atol=0.1, rtol=0.0)
    assert float(starts[1][: cells // 2].sum() / near.sum()) == pytest.approx(1.0, abs=0.005)
    assert not starts[1][cells // 2 : -1].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 0.95))
def test_masks_go_on_outside_the_tissue_alone(seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    domain = torch.from_numpy(generator.random((9, 8, 7)) < share)
    mask = torch.from_numpy(generator.random((9, 8, 7)) < 0.5) & domain
    mask[4, 4, 4] = domain[4, 4, 4] = True
    (found,) = continued([mask], domain, (1.0, 1.0, 2.0))
    assert torch.equal(found & domain, mask)
    (everywhere,) = continued([domain], domain, (0.1, 0.1, 0.2))
    assert bool(everywhere.all()), "tissue that is all tumour ends nowhere"


def test_where_all_is_tissue_masks_stay_as_they_are() -> None:
    mask = ball(12, 2.0, 6.0)
    (found,) = continued([mask], torch.ones_like(mask), (2.0, 2.0, 2.0))
    assert torch.equal(found, mask)
