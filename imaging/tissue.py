"""Voxels into fluid, grey and white matter, by intensity and by where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from imaging.geometry import FloatArray

TISSUES = ("csf", "gray_matter", "white_matter")

BoolArray = npt.NDArray[np.bool_]

_BIAS_SIGMA_MM = 30.0
_ITERATIONS = 6


@dataclass(frozen=True, eq=False)
class Mixture:
    """Normal distribution of the intensity of each class, and the field that the coil multiplied it with."""

    means: FloatArray
    variances: FloatArray
    bias: npt.NDArray[np.float32]


def classify(
    intensity: FloatArray,
    priors: FloatArray,
    region: BoolArray,
    spacing: Sequence[float],
    trust: float = 1.0,
) -> tuple[npt.NDArray[np.float32], Mixture]:
    """Posterior probability of each class: one normal distribution per class, a prior map, a smooth bias.

    Expectation maximisation as in unified segmentation (Ashburner and Friston 2005), with the bias field
    estimated as a Gaussian-weighted ratio (Wells et al. 1996).

    Parameters
    ----------
    intensity : numpy.ndarray
        ``(I, J, K)``, background 0.
    priors : numpy.ndarray
        ``(C, I, J, K)`` probabilities.
    region : numpy.ndarray
        ``(I, J, K)`` voxels that may teach the means; the posterior is returned everywhere.
    spacing : sequence of float
        mm.
    trust : float
        Exponent of the likelihood in the posterior that is returned. Neighbouring voxels share noise, bias
        and partial volume, so that they are fewer witnesses than voxels; below 1 the maps gain weight.

    Returns
    -------
    posterior : numpy.ndarray
        ``(C, I, J, K)`` float32, sums to 1.
    mixture : Mixture
        Means and variances of the classes, and the bias field around 1.
    """
    values, weights = intensity[region], priors[:, region]
    bias = np.ones(values.shape, dtype=np.float32)
    field = np.ones(intensity.shape, dtype=np.float32)
    means, variances = _moments(values, weights)
    sigma = [_BIAS_SIGMA_MM / s for s in spacing]
    for _ in range(_ITERATIONS):
        posterior = _posterior(values / bias, weights, means, variances)
        means, variances = _moments(values / bias, posterior)
        field = _bias(values, posterior, means, variances, region, sigma)
        bias = field[region]
    mixture = Mixture(means, variances, field)
    return _posterior(intensity / field, priors, means, variances, trust), mixture


def _moments(values: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    total = weights.sum(axis=1) + 1e-6
    means = weights @ values / total
    deviation = (values - means[:, None]) ** 2
    # A class cannot be narrower than 2 % of the range, or it would swallow one intensity and nothing else.
    floor = (0.02 * float(np.ptp(values))) ** 2 + 1e-12
    return means, np.maximum((weights * deviation).sum(axis=1) / total, floor)


def _posterior(
    values: FloatArray, priors: FloatArray, means: FloatArray, variances: FloatArray, trust: float = 1.0
) -> npt.NDArray[np.float32]:
    joint = np.empty(priors.shape, dtype=np.float32)
    for c, (mean, variance) in enumerate(zip(means, variances, strict=True)):
        # Beyond 3.5 standard deviations every class explains a voxel equally badly: the prior decides.
        distance = np.minimum((values - mean) ** 2 / variance, 12.0)
        likelihood = np.exp(-0.5 * distance) / np.sqrt(variance)
        joint[c] = (priors[c] + 1e-4) * likelihood**trust
    posterior: npt.NDArray[np.float32] = joint / joint.sum(axis=0)
    return posterior


def _bias(
    values: FloatArray,
    posterior: FloatArray,
    means: FloatArray,
    variances: FloatArray,
    region: BoolArray,
    sigma: Sequence[float],
) -> npt.NDArray[np.float32]:
    precision = (posterior / variances[:, None]).sum(axis=0)
    expected = (posterior * (means / variances)[:, None]).sum(axis=0) / precision
    seen, wanted = np.zeros(region.shape, np.float32), np.zeros(region.shape, np.float32)
    seen[region], wanted[region] = values * expected * precision, expected**2 * precision
    floor = 1e-3 * float(wanted.max()) + 1e-12
    smooth_seen = _smooth(seen, sigma) + floor
    smooth_wanted = _smooth(wanted, sigma) + floor
    ratio: npt.NDArray[np.float32] = np.clip(smooth_seen / smooth_wanted, 0.3, 3.0)
    return ratio


def _smooth(array: npt.NDArray[np.float32], sigma: Sequence[float]) -> npt.NDArray[np.float32]:
    """Three box filters, whose cost does not grow with their width, in place of one Gaussian."""
    width = [max(1, round(float(np.sqrt(4 * s**2 + 1)))) for s in sigma]
    for _ in range(3):
        array = ndimage.uniform_filter(array, width, mode="constant")
    return array
