"""Smooth differences of brightness that a receive coil leaves across a head, estimated and divided out.

Brain tissue is a mixture of a few normal distributions of the logarithms of all contrasts, and each contrast's
logarithm has a polynomial of the place added to it; both are fitted in turn (Van Leemput et al., IEEE Trans. Med.
Imaging 18:885, 1999). All contrasts together name a voxel's tissue better than one that is uneven does alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from segmentation.mixture import Array, fit_mixture, log_normal, log_sum, mixture_of, spread

_SAMPLE = 8000  # voxels that teach the field: it has 19 numbers a contrast
_ORDER = 3
_COMPONENTS = 4
_ROUNDS = 8
_STRAY = 0.02  # share of voxels that belong to no component
_OFFSET = 0.1  # of the span of intensities: keeps logarithms of dark noise finite
_RIDGE = 1e-3


@threadpool_limits.wrap(limits=1, user_api="blas")  # thousands of small products: threads only wait
def without_coil_field(
    images: Mapping[str, Tensor], brain: Tensor, healthy: Tensor
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Images whose brain is evenly bright.

    Parameters
    ----------
    images
        Role -> float32 (I, J, K), raw or z-scored.
    brain
        bool (I, J, K): where images are corrected; elsewhere they stay.
    healthy
        bool (I, J, K), part of `brain`: voxels that may teach the field, without suspected tumour.

    Returns
    -------
    tuple
        The corrected images, and for each role the standard deviation of the field's logarithm inside the brain. The
        images as they are, with zeros, if fewer than 500 voxels could teach.
    """
    places = np.argwhere(brain.numpy())
    taught = np.flatnonzero(healthy.numpy()[brain.numpy()])
    taught = taught[:: max(1, len(taught) // _SAMPLE)]
    if len(taught) < 500:
        return dict(images), dict.fromkeys(images, 0.0)
    low, high = places.min(0), places.max(0)
    basis = _polynomials(2 * (places - low) / np.maximum(high - low, 1) - 1)
    logs, darks = {}, {}
    for role, image in images.items():
        inside = image[brain].numpy().astype(np.float64)
        dark, bright = np.quantile(inside, [0.005, 0.98])
        darks[role] = float(dark)
        unit = max(float(bright - dark), 1e-12)
        logs[role] = np.log(np.maximum((inside[taught] - dark) / unit + _OFFSET, 0.5 * _OFFSET))
    fields = _fields(np.stack(list(logs.values()), axis=1), basis[taught]) @ basis.T
    corrected, sizes = {}, {}
    for (role, image), field in zip(images.items(), fields, strict=True):
        even = image.clone()
        factor = torch.from_numpy(np.exp(-field).astype(np.float32))
        even[brain] = (image[brain] - darks[role]) * factor + darks[role]
        corrected[role], sizes[role] = even, float(field.std())
    return corrected, sizes


def _polynomials(places: Array) -> Array:
    """Products of Legendre polynomials up to a total order of 3, without the constant: (N, 19) for (N, 3)."""
    powers = [np.ones_like(places), places]
    for n in range(1, _ORDER):
        powers.append(((2 * n + 1) * places * powers[-1] - n * powers[-2]) / (n + 1))
    orders = [
        (a, b, c)
        for a in range(_ORDER + 1)
        for b in range(_ORDER + 1 - a)
        for c in range(_ORDER + 1 - a - b)
        if a + b + c > 0
    ]
    return np.stack([powers[a][:, 0] * powers[b][:, 1] * powers[c][:, 2] for a, b, c in orders], axis=1)


def _fields(logs: Array, basis: Array) -> Array:
    """Coefficients (C, 19) of the polynomials in each contrast, for logarithms (N, C) and polynomials (N, 19)."""
    channels = logs.shape[1]
    extra = 1e-3 * np.eye(channels)
    coefficients = np.zeros((channels, basis.shape[1]))
    mixture = fit_mixture(logs, _COMPONENTS, rounds=10)
    for _ in range(_ROUNDS):
        even = logs - basis @ coefficients.T
        joint = mixture.log_joint(even)
        stray = np.log(_STRAY) + log_normal(even, even.mean(0), 6 * spread(even) + extra)
        shares = np.exp(joint - np.logaddexp(log_sum(joint), stray))
        mixture = mixture_of(even, shares, extra)
        variances = np.diagonal(mixture.covariances, axis1=1, axis2=2)
        for channel in range(channels):
            weights = shares / variances[:, channel, None]
            precision = weights.sum(0)
            expected = (weights * mixture.means[:, channel, None]).sum(0) / np.maximum(precision, 1e-12)
            weighted = basis * precision[:, None]
            normal = weighted.T @ basis + _RIDGE * precision.sum() * np.eye(basis.shape[1])
            coefficients[channel] = np.linalg.solve(normal, weighted.T @ (logs[:, channel] - expected))
    return coefficients
