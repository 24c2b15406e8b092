"""Normalisation: the same answer whatever the unit, with or without skull, with air noise or exact zeros."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation.transforms import (
    exact_background,
    foreground_statistics,
    head_mask,
    normalise,
    normalise_nonzero,
)


def _brain(background: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 3, indexing="ij")
    inside = sum(a**2 for a in axes) < 0.7
    image = 300 + 60 * torch.randn(32, 32, 32, generator=generator)
    return torch.where(inside, image, torch.tensor(background)), inside


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-500, 500))
def test_unit_and_offset_do_not_matter(scale: float, shift: float) -> None:
    image, inside = _brain()
    moved = image * scale + shift * scale  # the background moves along, as in an earlier z-scoring
    assert torch.allclose(normalise(moved)[inside], normalise(image)[inside], atol=2e-2)


def test_stripped_brain_has_zero_mean_unit_variance() -> None:
    image, inside = _brain()
    result = normalise(image)
    assert (
        abs(float(result[inside].mean())) < 0.08
    )  # the darkest tenth of the span is left out of the statistics
    assert float(result[inside].std()) == pytest.approx(1, abs=0.1)
    assert (result[~inside] == result[~inside][0]).all() and float(result[~inside][0]) < -2


def test_air_noise_is_not_part_of_the_statistics() -> None:
    image, inside = _brain()
    noisy = image + (~inside) * 8 * torch.rand(image.shape, generator=torch.Generator().manual_seed(2))
    assert float((normalise(noisy) - normalise(image)).abs()[inside].mean()) < 0.1


def test_region_restricts_the_statistics() -> None:
    image, inside = _brain()
    with_fat = torch.where(inside, image, torch.tensor(900.0))
    result = normalise(with_fat, region=inside)
    assert abs(float(result[inside].mean())) < 0.02


def test_exact_background_is_zero_or_the_minimum() -> None:
    image, inside = _brain(background=-3.5)
    assert torch.equal(exact_background(image), ~inside)
    assert not exact_background(torch.randn(8, 8, 8)).any()


def test_constant_image_gives_zeros() -> None:
    assert not normalise(torch.full((8, 8, 8), 7.0)).any()
    assert not normalise(torch.zeros(8, 8, 8)).any()
    assert not normalise_nonzero(torch.full((8, 8, 8), 7.0)).any()


def test_nonzero_agrees_with_monai() -> None:
    from monai.transforms import NormalizeIntensity

    image, _ = _brain()
    expected = NormalizeIntensity(nonzero=True)(image[None])[0]
    assert torch.allclose(normalise_nonzero(image), torch.as_tensor(expected), atol=1e-4)


def test_head_mask_ignores_missing_contrasts() -> None:
    image, inside = _brain()
    mask = head_mask(torch.stack([normalise(image), torch.zeros_like(image)]))
    assert not (mask & ~inside).any()
    assert float((mask & inside).sum() / inside.sum()) > 0.95


def test_resampling_a_stripped_brain_moves_nothing() -> None:
    """Half a voxel's shift mixes brain and exact background on every face: neither level, spread nor "dark" follow."""
    image, inside = _brain()
    moved = image.clone()
    for axis in range(3):
        moved = 0.5 * (moved + moved.roll(1, axis))
    smooth = torch.where(inside, moved, torch.tensor(0.0))  # the same texture, without the mixed voxels
    assert foreground_statistics(moved, resampled=True) == pytest.approx(
        foreground_statistics(smooth, resampled=True), rel=0.05
    )
    assert foreground_statistics(moved)[1] > 1.5 * foreground_statistics(moved, resampled=True)[1]


def test_exact_background_in_a_region_does_not_count() -> None:
    image, inside = _brain()
    region = torch.ones_like(inside)
    assert foreground_statistics(image, region) == foreground_statistics(image, inside)
