"""Distances to the boundaries of masks, against shapes whose distance is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.distance import signed_distance

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
