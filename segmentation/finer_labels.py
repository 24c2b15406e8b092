"""Labels on the grid of the T1CE image, whose voxels are smaller than the network's.

A rim that takes up contrast agent is often one or two millimetres thick, and the network sees voxels of two. What it
says is therefore only where to expect each label; which voxels of the image are rim, necrosis or oedema is decided by
their brightness, among voxels next to the tumour core. Each label is one normal distribution, learnt where it is
expected (expectation maximisation with a spatial prior, Van Leemput et al., IEEE Trans. Med. Imaging 20:677, 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from segmentation.mixture import Array, log_normal, log_sum, moments, spread
from segmentation.postprocess import enclosed_by_core

Probabilities = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

_NCR, _ET = 1, 3
_LEAST_EXPECTED = 1e-4
_CERTAIN = 0.99  # background that no brightness changes: scalp, dura and vessels outside the brain
_STRAY_SPREAD = 6.0
_FLOOR = 0.02  # least variance of a label, as a share of that of all voxels


@dataclass(frozen=True)
class FinerLabelSettings:
    """How far brightness may overrule what is expected; chosen on simulated heads of the other generator.

    Attributes
    ----------
    reach_mm
        Labels change no farther than this from the core that is expected.
    trust
        Power of the likelihood: neighbouring voxels share blur and are fewer witnesses than voxels.
    smoothness, smooth_mm
        Weight of the neighbours' labels, and how far neighbours count (standard deviation of a Gaussian).
    stray
        Share of voxels of any label that are as bright as none of them.
    least_voxels
        A label that fewer voxels are expected to have is neither given nor taken away.
    rounds
        Rounds of expectation maximisation.
    """

    reach_mm: float = 3.0
    trust: float = 0.7
    smoothness: float = 0.5
    smooth_mm: float = 0.8
    stray: float = 0.02
    least_voxels: int = 10
    rounds: int = 2


def finer_labels(
    expected: Probabilities,
    image: npt.NDArray[np.generic],
    spacing_mm: tuple[float, float, float],
    settings: FinerLabelSettings | None = None,
) -> Labels:
    """Most probable labels after the brightness of each voxel was heard.

    Parameters
    ----------
    expected
        float32 (4, I, J, K): background, NCR, ED, ET, interpolated from a coarser grid.
    image
        (I, J, K): the T1CE image.
    spacing_mm
        Size of a voxel along each axis.

    Returns
    -------
    numpy.ndarray
        uint8 (I, J, K): those of ``expected`` farther from the core than the settings reach.
    """
    how = settings or FinerLabelSettings()
    labels: Labels = expected.argmax(axis=0).astype(np.uint8)
    core = np.isin(labels, (_NCR, _ET))
    if not core.any():
        return labels
    zone = ndimage.distance_transform_edt(~core, sampling=spacing_mm) <= how.reach_mm
    zone &= expected[0] < _CERTAIN
    there = np.bincount(labels[zone], minlength=4) >= how.least_voxels
    zone &= there[labels]
    values = np.asarray(image[zone], dtype=np.float64)[:, None]
    if not len(values) or np.ptp(values) == 0:
        return labels
    prior = np.clip(expected[:, zone].astype(np.float64), _LEAST_EXPECTED, 1)
    prior[~there] = 0.0
    posterior = prior / prior.sum(axis=0)
    floor = _FLOOR * spread(values)
    stray = np.log(how.stray) + log_normal(values, values.mean(axis=0), _STRAY_SPREAD * spread(values))
    for last in [False] * (how.rounds - 1) + [True]:
        alone = np.full(prior.shape, -np.inf)
        for label in np.flatnonzero(there):
            mean, covariance = moments(values, posterior[label] ** 2, floor)
            own = np.log1p(-how.stray) + log_normal(values, mean, covariance + floor)
            alone[label] = np.log(prior[label]) + how.trust * np.logaddexp(own, stray)
        posterior = _normalised(alone)
        if last:
            near = _neighbours(expected, posterior, zone, spacing_mm, how.smooth_mm)
            posterior = _normalised(alone + how.smoothness * near)
    labels[zone] = posterior.argmax(axis=0)
    labels[enclosed_by_core(torch.from_numpy(labels)).numpy()] = _NCR
    return labels


def _normalised(logs: Array) -> Array:
    return np.asarray(np.exp(logs - log_sum(logs)))


def _neighbours(
    expected: Probabilities,
    posterior: Array,
    zone: np.ndarray,
    spacing_mm: tuple[float, float, float],
    smooth_mm: float,
) -> Array:
    """Log of the share of each label around each voxel of the zone, (4, N); what is expected counts outside it."""
    around = np.empty_like(posterior)
    for label, one in enumerate(expected):
        shares = one.astype(np.float32)
        shares[zone] = posterior[label]
        around[label] = ndimage.gaussian_filter(
            shares, [smooth_mm / side for side in spacing_mm], truncate=2
        )[zone]
    return np.asarray(np.log(np.clip(around, 1e-3, 1)))
