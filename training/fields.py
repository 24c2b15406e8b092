"""Random smooth fields and small filters on voxel grids, the raw material of every simulated variation."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

Shape = tuple[int, int, int]


def smooth_noise(rng: np.random.Generator, shape: Shape, scale: float, channels: int = 1) -> Tensor:
    """Gaussian noise on a coarse lattice, interpolated linearly to the grid.

    Parameters
    ----------
    rng
        Source of randomness; the same state gives the same field.
    shape
        Grid size (I, J, K) in voxels.
    scale
        Distance between lattice points in voxels: the correlation length.
    channels
        Number of independent fields.

    Returns
    -------
    Tensor
        float32 (channels, I, J, K), zero mean, standard deviation somewhat below 1.
    """
    lattice = [max(2, round(n / scale) + 1) for n in shape]
    coarse = rng.standard_normal((1, channels, *lattice), dtype=np.float32)
    return functional.interpolate(torch.from_numpy(coarse), size=shape, mode="trilinear", align_corners=True)[
        0
    ]


def blur_axis(images: Tensor, axis: int, sigma: float) -> Tensor:
    """Gaussian blur of (C, I, J, K) along one spatial axis (0, 1 or 2), sigma in voxels, edges replicated."""
    radius = max(1, int(np.ceil(2.5 * sigma)))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = weights / weights.sum()
    length = images.shape[1 + axis]
    ends = images.narrow(1 + axis, 0, 1), images.narrow(1 + axis, length - 1, 1)
    before, after = (
        end.expand(*(radius if a == 1 + axis else n for a, n in enumerate(end.shape))) for end in ends
    )
    padded = torch.cat([before, images, after], dim=1 + axis)
    blurred = torch.zeros_like(images)
    for start, weight in enumerate(weights.tolist()):
        blurred.add_(padded.narrow(1 + axis, start, length), alpha=weight)
    return blurred


def blur(images: Tensor, sigma: float) -> Tensor:
    """Isotropic Gaussian blur of (C, I, J, K), sigma in voxels; no change below 0.15 voxels."""
    if sigma < 0.15:
        return images
    for axis in range(3):
        images = blur_axis(images, axis, sigma)
    return images
