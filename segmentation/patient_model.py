"""Tumour labels from the patient's own intensities, with the network's answer as what is expected where.

The network knows many heads and judges each by the average one. Here the intensities of this head are modelled: its
healthy tissue by a mixture of normal distributions, learnt well away from what the network found, and each tumour
label by one normal distribution, learnt where the network found it. Labels and distributions are fitted in turn
(expectation maximisation with a spatial prior, Van Leemput et al., IEEE Trans. Med. Imaging 20:677, 2001; Markov
random field by mean field). So oedema as bright as that found is followed to where it ends, and fluid of the
ventricles, which the healthy mixture explains, is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from threadpoolctl import threadpool_limits
from torch import Tensor

from segmentation.mixture import Array, fit_mixture, log_normal, log_sum, moments, spread

_NCR, _ED, _ET = 1, 2, 3
_SAMPLE = 6000
_RARE = 0.02
_FLUID = 0.1  # fluid is darker than this share of healthy voxels
_BESIDE_MM = 4.0


@dataclass(frozen=True)
class PatientModelSettings:
    """How far the patient's intensities may overrule the network; chosen on simulated heads.

    Attributes
    ----------
    components
        Normal distributions of healthy tissue.
    healthy_mm
        Healthy tissue is learnt farther than this from what the network calls tumour.
    reach_mm
        Labels change no farther than this from what the network calls tumour.
    trust
        Power of the likelihood: neighbouring voxels share blur and texture and are fewer witnesses than voxels.
    oedema_prior, oedema_mm
        Least prior of oedema next to what the network found, and the distance over which it falls (Gaussian).
    stray
        Share of voxels of any class that belong to none of its distributions.
    firmness
        Voxels that the starting covariance of a tumour label counts for.
    smoothness
        Weight of the neighbours' labels.
    rounds
        Rounds of expectation maximisation.
    doubt
        Probabilities are returned to the power 1 / doubt, or they would be far too sure; labels do not change.
    """

    components: int = 5
    healthy_mm: float = 30.0
    reach_mm: float = 30.0
    trust: float = 0.7
    oedema_prior: float = 0.1
    oedema_mm: float = 15.0
    stray: float = 0.02
    firmness: float = 1000.0
    smoothness: float = 3.0
    rounds: int = 2
    doubt: float = 4.0


@dataclass(frozen=True)
class Refined:
    """What the patient's own intensities say.

    Attributes
    ----------
    probabilities
        float32 (4, I, J, K): background, NCR, ED, ET; the network's farther from its tumour than the settings reach.
    unlike
        bool (I, J, K): voxels less likely to be this patient's healthy tissue than 98 of 100 voxels of it are; True
        everywhere if too little healthy tissue is left to tell.
    """

    probabilities: Tensor
    unlike: Tensor


@threadpool_limits.wrap(limits=1, user_api="blas")
def refine(
    probabilities: Tensor,
    images: Tensor,
    brain: Tensor,
    spacing_mm: float,
    dark_in_fluid: Sequence[int],
    settings: PatientModelSettings | None = None,
) -> Refined:
    """Class probabilities after the patient's own intensities were heard.

    Parameters
    ----------
    probabilities
        float32 (4, I, J, K): background, NCR, ED, ET by the network.
    images
        float32 (C, I, J, K): normalised contrasts, without those that are missing.
    brain
        bool (I, J, K).
    spacing_mm
        Voxel size, isotropic.
    dark_in_fluid
        Channels in which fluid is dark: T1, T1CE and FLAIR of those given.

    """
    how = settings or PatientModelSettings()
    found = (probabilities.argmax(0) > 0) & brain
    inside = brain.numpy()
    distance = ndimage.distance_transform_edt(~found.numpy()) * spacing_mm
    healthy = _healthy_values(images, inside, distance, dark_in_fluid, how) if found.any() else None
    if healthy is None:
        return Refined(probabilities, torch.ones_like(brain))
    zone = inside & (distance < how.reach_mm)
    box = ndimage.find_objects(zone.astype(np.int8))[0]
    zone, distance = zone[box], distance[box]
    values = images.numpy()[(slice(None), *box)][:, zone].T.astype(np.float64)
    network = np.clip(probabilities.numpy()[(slice(None), *box)][:, zone].astype(np.float64), 1e-4, 1)
    expected = _expected(network / network.sum(0), distance[zone], how)
    tissue = fit_mixture(healthy, how.components)
    density = tissue.log_density(values)
    start = network * found.numpy()[box][zone]
    posterior = _posterior(values, healthy, density, expected, start, zone, how)
    refined, unlike = probabilities.clone(), torch.zeros_like(brain)
    where = torch.from_numpy(zone)
    refined[(slice(None), *box)][:, where] = torch.from_numpy(posterior.astype(np.float32))
    rare = np.quantile(tissue.log_density(healthy), _RARE)
    unlike[box][where] = torch.from_numpy(density < rare)
    return Refined(refined, unlike)


def _healthy_values(
    images: Tensor,
    brain: np.ndarray,
    distance: np.ndarray,
    dark_in_fluid: Sequence[int],
    how: PatientModelSettings,
) -> Array | None:
    """Values (N, C) of tissue away from the network's tumour, nearer to it where little is far from it.

    Fluid is learnt at any distance: far away it lies in sulci and is mixed with cortex, and a ventricle beside the
    tumour would be unlike all that is healthy.
    """
    for least_mm in (how.healthy_mm, how.healthy_mm / 3, how.healthy_mm / 10):
        away = brain & (distance > least_mm)
        if away.sum() > 0.15 * brain.sum():
            values = images.numpy()[:, away].T.astype(np.float64)
            values = values[:: max(1, len(values) // _SAMPLE)]
            near = images.numpy()[:, brain & ~away & (distance > _BESIDE_MM)].T.astype(np.float64)
            dark = list(dark_in_fluid)
            fluid = (near[:, dark] < np.quantile(values[:, dark], _FLUID, axis=0)).all(axis=1)
            step = max(1, int(fluid.sum()) * 10 // _SAMPLE)
            return np.concatenate([values, near[fluid][::step]])
    return None


def _expected(network: Array, distance: Array, how: PatientModelSettings) -> Array:
    """Log of the spatial prior (4, N): the network's answer, and oedema not ruled out around it."""
    prior = network.copy()
    nearby = how.oedema_prior * np.exp(-0.5 * (distance / how.oedema_mm) ** 2)
    prior[_ED] = np.maximum(prior[_ED], nearby)
    return np.asarray(np.log(prior / prior.sum(0)))


def _posterior(
    values: Array,
    healthy: Array,
    density: Array,
    expected: Array,
    start: Array,
    zone: np.ndarray,
    how: PatientModelSettings,
) -> Array:
    """Probabilities (4, N) of the labels at the voxels of a zone, where healthy tissue has a log density (N,)."""
    whole = spread(healthy) + 0.01 * np.eye(values.shape[1])
    stray = np.log(how.stray) + log_normal(values, healthy.mean(0), 6 * whole)

    def likely(density: Array) -> Array:
        return np.logaddexp(np.log1p(-how.stray) + density, stray)

    evidence = np.full((4, len(values)), -1e3)
    evidence[0] = likely(density)
    shares = start
    for last in [False] * (how.rounds - 1) + [True]:
        for label in (_NCR, _ED, _ET):
            if shares[label].sum() >= 10:
                mean, covariance = moments(values, shares[label], 0.15 * whole, how.firmness)
                evidence[label] = likely(log_normal(values, mean, covariance))
        alone = expected + how.trust * evidence
        shares = _normalised(alone)
        for _ in range(3 if last else 1):
            shares = _normalised(alone + how.smoothness * _neighbours(shares, zone))
    return _normalised(np.log(shares + 1e-12) / how.doubt)


def _normalised(logs: Array) -> Array:
    return np.asarray(np.exp(logs - log_sum(logs)))


def _neighbours(shares: Array, zone: np.ndarray) -> Array:
    """Log of the mean share of each label in the 27 voxels around, background outside the zone: (4, N)."""
    mean = np.empty_like(shares)
    for label, one in enumerate(shares):
        spread_out = np.zeros(zone.shape, np.float32)
        spread_out[zone] = one
        if label == 0:
            spread_out[~zone] = 1
        mean[label] = ndimage.uniform_filter(spread_out, 3)[zone]
    return np.asarray(np.log(np.clip(mean, 1e-3, 1)))
