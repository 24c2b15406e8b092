"""Effective samples against the sum over all pairs."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from twin.correlation import effective_samples, robust_sd

SPACING = (1.0, 1.0, 2.0)


def shell_of_noise(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.arange(n) - n / 2 for n in (22, 20, 12)), indexing="ij")
    band = np.abs(np.sqrt(x**2 + y**2 + (2 * z) ** 2) - 8.0) < 0.8
    noise = gaussian_filter(generator.standard_normal(band.shape), 1.5)
    return torch.from_numpy(noise / noise.std()), torch.from_numpy(band)


@pytest.mark.parametrize("longest", [4.0, 9.0, math.inf])
def test_pairs_far_apart_do_not_count_and_none_is_lost(longest):
    """White residuals: the floor, a Gaussian of the shortest length, is all the correlation there is."""
    residual, band = shell_of_noise(0)
    white = torch.where(torch.arange(residual.numel()).view_as(residual) % 2 == 0, 1.0, -1.0).double()
    found = effective_samples(white, band, SPACING, 3.0, longest)
    places = band.nonzero().double().numpy() * SPACING
    apart = cdist(places, places)
    shells = np.floor(apart + 0.5)  # of one millimetre
    floor = np.where(shells > longest, 0.0, np.exp(-0.5 * (shells / 3.0) ** 2))
    assert found == pytest.approx(len(places) ** 2 / floor.sum(), rel=0.02)


def test_a_limit_beyond_the_correlation_changes_nothing():
    residual, band = shell_of_noise(1)
    size = max(n * h for n, h in zip(band.shape, SPACING, strict=True))
    near, all_ = (effective_samples(residual, band, SPACING, 2.0, end) for end in (3.0 * size, math.inf))
    assert near == pytest.approx(all_, rel=1e-6)


def test_correlated_residuals_count_less_than_independent_ones():
    residual, band = shell_of_noise(2)
    white = torch.from_numpy(np.random.default_rng(3).standard_normal(band.shape))
    assert effective_samples(residual, band, SPACING, 0.5) < 0.5 * effective_samples(
        white, band, SPACING, 0.5
    )


def test_the_robust_sd_is_that_of_a_normal_law_and_forgives_outliers():
    errors = 0.7 * np.random.default_rng(4).standard_normal(20000)
    errors[:500] = 50.0
    assert robust_sd(errors) == pytest.approx(0.7, rel=0.05)
