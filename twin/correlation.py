"""How many independent observations a field of correlated residuals amounts to."""

import math

import numpy as np
import torch
from scipy.fft import irfftn, next_fast_len, rfftn
from torch import Tensor

from twin.results import Vector

LONGEST = 3.0
"""Errors of a boundary are correlated over so many of the shortest correlation lengths at most: what a whole boundary
has in common is a shift, and those are parameters of their own. Without a limit one poor step makes a mask worth a
single observation, and the fit then never comes back to it."""


def effective_samples(
    residual: Tensor,
    band: Tensor,
    spacing_mm: tuple[float, float, float],
    shortest_mm: float,
    longest_mm: float = math.inf,
) -> float:
    """Effective number of independent samples among the residuals on a band of voxels.

    N_eff = N^2 / sum over pairs of the correlation of the pair, the correlation being the isotropic autocorrelation of
    the residuals themselves up to where it first falls to zero, and never less than a Gaussian of the length
    ``shortest_mm``. Treating every voxel as independent makes 95 % intervals cover a few per cent of the truth.

    Parameters
    ----------
    residual : Tensor
        (X, Y, Z).
    band : Tensor
        bool (X, Y, Z), the voxels that count.
    spacing_mm : tuple of float
        Voxel size, mm.
    shortest_mm : float
        Lower bound of the correlation length, mm.
    longest_mm : float, optional
        Distance beyond which residuals count as independent, mm.

    Returns
    -------
    float
        At least 1, at most the number of voxels in the band.
    """
    if not bool(band.any()):
        return 1.0
    filled = band.nonzero()
    index = tuple(slice(int(a), int(b) + 1) for a, b in zip(filled.amin(0), filled.amax(0), strict=True))
    inside = band[index].cpu().numpy().astype(np.float32)
    field = residual[index].cpu().numpy().astype(np.float32) * inside
    # lags that count, and just enough zeros that the others do not wrap around into them
    most = [int(min(longest_mm / h + 1.0, n - 1)) for n, h in zip(inside.shape, spacing_mm, strict=True)]
    shape = [next_fast_len(n + lag, real=True) for n, lag in zip(inside.shape, most, strict=True)]
    lags = [np.arange(-lag, lag + 1) for lag in most]
    pairs, products = (
        irfftn(np.abs(rfftn(part, shape, workers=2)) ** 2, shape, workers=2)[np.ix_(*lags)]
        for part in (inside, field)
    )
    pairs = pairs.round()
    x, y, z = np.ix_(*(lag * h for lag, h in zip(lags, spacing_mm, strict=True)))
    distance = np.sqrt(x**2 + y**2 + z**2)
    shell = (distance / min(spacing_mm) + 0.5).astype(np.int32)
    count = np.bincount(shell.ravel(), pairs.ravel())
    product = np.bincount(shell.ravel(), products.ravel())
    floor = np.exp(-0.5 * (np.arange(count.size) * min(spacing_mm) / shortest_mm) ** 2)
    correlation = np.maximum(_until_zero(product, count), floor)
    correlation[np.arange(count.size) * min(spacing_mm) > longest_mm] = 0.0
    voxels = float(count[0])
    return min(max(voxels**2 / float((count * correlation).sum()), 1.0), voxels)


def _until_zero(product: Vector, count: Vector) -> Vector:
    """Autocorrelation by shell of distance, cut where it first is not positive."""
    covariance = np.where(count > 0.5, product / np.maximum(count, 1.0), 0.0)
    if covariance[0] <= 0.0 or not math.isfinite(float(covariance[0])):
        return np.zeros_like(covariance)
    correlation = (covariance / covariance[0]).clip(max=1.0)
    ends = np.flatnonzero(correlation <= 0.0)
    if ends.size:
        correlation[ends[0] :] = 0.0
    return np.asarray(correlation, dtype=np.float64)


def informative_band(model: Tensor, target: Tensor) -> Tensor:
    """Voxels where either soft mask is neither clearly in nor clearly out, or where the two disagree."""
    low, high = 0.15, 0.85
    return (
        ((model > low) & (model < high)) | ((target > low) & (target < high)) | ((model - target).abs() > 0.3)
    )


def robust_sd(errors: Vector) -> float:
    """Standard deviation of the normal law around zero whose absolute values have the median of those of ``errors``."""
    return 1.4826 * float(np.median(np.abs(errors)))


def sum_squares(residual: Tensor) -> float:
    """Sum of squares in double precision."""
    return float(torch.linalg.vector_norm(residual, dtype=torch.float64) ** 2)
