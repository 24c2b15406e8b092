"""Labels on the grid of the T1CE image, whose voxels are smaller than the network's.

A rim that takes up contrast agent is often one or two millimetres thick, and the network sees voxels of two. What it
says is therefore only where to expect each label; which voxels of the image are rim, necrosis or oedema is decided by
their brightness, among voxels next to the tumour core. Each label is one normal distribution, learnt where it is
expected (expectation maximisation with a spatial prior, Van Leemput et al., IEEE Trans. Med. Imaging 20:677, 2001).
A rim too thin for the network is learnt from the tumour around necrosis that is brighter than healthy tissue.
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
Mask = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]

_NCR, _ET = 1, 3
_LEAST_EXPECTED = 1e-4
_CERTAIN = 0.99  # background that no brightness changes: scalp, dura and vessels outside the brain
_FLOOR = 0.02  # least variance of a label, as a share of that of all voxels
_STRAY_SPREAD = 6.0
_LEAST_HEALTHY = 100


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
    rim_prior
        Least prior of enhancing tumour around necrosis, where an enhancing rim shows.
    brighter_than, least_rim
        A rim shows where at least this share of the tumour around necrosis is brighter than this share of the healthy
        tissue near the tumour.
    rounds
        Rounds of expectation maximisation.
    """

    reach_mm: float = 3.0
    trust: float = 0.7
    smoothness: float = 0.5
    smooth_mm: float = 0.8
    stray: float = 0.02
    least_voxels: int = 10
    rim_prior: float = 0.5
    brighter_than: float = 0.99
    least_rim: float = 0.1
    rounds: int = 2


def finer_labels(
    expected: Probabilities,
    image: npt.NDArray[np.generic],
    spacing_mm: Spacing,
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
        uint8 (I, J, K): those of ``expected`` farther from the core than the settings reach, but for oedema that core
        encloses, which is NCR at any distance.
    """
    how = settings or FinerLabelSettings()
    labels: Labels = expected.argmax(axis=0).astype(np.uint8)
    core = np.isin(labels, (_NCR, _ET))
    zone = _near(core, how.reach_mm, spacing_mm) & (expected[0] < _CERTAIN)
    there = np.bincount(labels[zone], minlength=4) >= how.least_voxels
    zone &= there[labels]
    values = np.asarray(image[zone], dtype=np.float64)[:, None]
    if not len(values) or np.ptp(values) == 0:
        return labels
    prior = np.clip(expected[:, zone].astype(np.float64), _LEAST_EXPECTED, 1)
    prior[~there] = 0.0
    start = prior / prior.sum(axis=0)
    wall, rim = (mask[zone] for mask in _rim(labels, expected, image, spacing_mm, how))
    prior[_ET, wall] = np.maximum(prior[_ET, wall], how.rim_prior)
    start[:, rim] = np.eye(4)[:, [_ET]]
    posterior, alone = start, np.empty_like(start)
    for _ in range(how.rounds):
        alone = _unnormalised(values, prior, posterior, how)
        posterior = _normalised(alone)
    around = _neighbours(expected, posterior, zone, spacing_mm, how.smooth_mm)
    plain = labels.copy()
    labels[zone] = (alone + how.smoothness * around).argmax(axis=0)
    apart = _apart_from(core, np.isin(labels, (_NCR, _ET)))
    labels[apart] = plain[apart]
    labels[enclosed_by_core(torch.from_numpy(labels)).numpy()] = _NCR
    return labels


def _near(mask: Mask, reach_mm: float, spacing_mm: Spacing) -> Mask:
    """Voxels within a distance of a mask; none where it is empty."""
    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= reach_mm)


def _apart_from(core: Mask, found: Mask) -> Mask:
    """Connected parts (26 neighbours) of what was found that hold nothing of the core: small vessels beside it."""
    parts, count = ndimage.label(found, structure=np.ones((3, 3, 3)))
    joined = np.zeros(count + 1, dtype=bool)
    joined[np.unique(parts[core])] = True
    joined[0] = True
    return np.asarray(~joined[parts])


def _rim(
    labels: Labels,
    expected: Probabilities,
    image: npt.NDArray[np.generic],
    spacing_mm: Spacing,
    how: FinerLabelSettings,
) -> tuple[Mask, Mask]:
    """The tumour around necrosis and which of it is brighter than healthy tissue; both empty where no rim shows."""
    necrosis = labels == _NCR
    healthy = image[(labels == 0) & (expected[0] < _CERTAIN)]
    nothing = np.zeros_like(necrosis)
    if healthy.size < _LEAST_HEALTHY or necrosis.sum() < how.least_voxels:
        return nothing, nothing
    wall = _near(necrosis, how.reach_mm, spacing_mm) & (labels > 0) & ~necrosis & (expected[0] < _CERTAIN)
    bright = wall & (image > np.quantile(healthy, how.brighter_than))
    if bright.sum() < max(how.least_voxels, how.least_rim * wall.sum()):
        return nothing, nothing
    return wall, bright


def _unnormalised(values: Array, prior: Array, shares: Array, how: FinerLabelSettings) -> Array:
    """Log of prior times likelihood (4, N) of values (N, 1), each label learnt where it has a share."""
    floor = _FLOOR * spread(values)
    stray = np.log(how.stray) + log_normal(values, values.mean(axis=0), _STRAY_SPREAD * spread(values))
    logs = np.full(prior.shape, -np.inf)
    for label in np.flatnonzero(prior.any(axis=1)):
        mean, covariance = moments(values, shares[label] ** 2, floor)
        own = np.log1p(-how.stray) + log_normal(values, mean, covariance + floor)
        with np.errstate(divide="ignore"):
            logs[label] = np.log(prior[label]) + how.trust * np.logaddexp(own, stray)
    return logs


def _normalised(logs: Array) -> Array:
    return np.asarray(np.exp(logs - log_sum(logs)))


def _neighbours(
    expected: Probabilities, posterior: Array, zone: Mask, spacing_mm: Spacing, smooth_mm: float
) -> Array:
    """Log of the share of each label around each voxel of the zone, (4, N); what is expected counts outside it."""
    sigma = [smooth_mm / side for side in spacing_mm]
    around = np.empty_like(posterior)
    for label, one in enumerate(expected):
        shares = one.astype(np.float32)
        shares[zone] = posterior[label]
        around[label] = ndimage.gaussian_filter(shares, sigma, truncate=2)[zone]
    return np.asarray(np.log(np.clip(around, 1e-3, 1)))
