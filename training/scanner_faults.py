"""Faults of a scanner on one simulated image, with MONAI's transforms: Gibbs ringing, k-space spikes, motion."""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.transforms import GibbsNoise, KSpaceSpikeNoise
from torch import Tensor


def _motion(rng: np.random.Generator, image: Tensor) -> Tensor:
    """Ghosts of a head that moves to another place for part of the phase-encoding lines."""
    axis = int(rng.integers(2))
    moved = torch.roll(image, int(rng.choice([-2, -1, 1, 2])), int(rng.integers(3)))
    still, other = (torch.fft.fft(one, dim=axis) for one in (image, moved))
    lines = torch.from_numpy(rng.random(image.shape[axis]) < rng.uniform(0.05, 0.3))
    lines[0] = False  # the mean stays
    shape = [1, 1, 1]
    shape[axis] = -1
    return torch.fft.ifft(torch.where(lines.view(shape), other, still), dim=axis).abs()


def spoil(rng: np.random.Generator, kind: str, image: Tensor) -> Tensor:
    """An image with one fault.

    Parameters
    ----------
    kind
        "gibbs", "spikes" or "motion".
    image
        float32 (I, J, K).
    """
    if kind == "motion":
        return _motion(rng, image)
    if kind == "gibbs":
        spoiled = GibbsNoise(alpha=float(rng.uniform(0.3, 0.6)))(image[None])[0]
    elif kind == "spikes":
        centre = [n // 2 for n in image.shape]
        # Off the centre of k-space: a spike there would change the mean and draw no stripes.
        distance = [int(rng.integers(c // 8 + 1, c // 2 + 1)) for c in centre]
        place = tuple(c + d * int(rng.choice([-1, 1])) for c, d in zip(centre, distance, strict=True))
        # MONAI wants the log of the spike's magnitude; over the number of voxels it is the height of the stripes.
        bright = float(np.quantile(image.numpy(), 0.98))
        height = max(bright, 1e-6) * rng.uniform(0.03, 0.15)
        intensity = math.log(height * image.numel())
        spoiled = KSpaceSpikeNoise(loc=(0, *place), k_intensity=intensity)(image[None])[0]
    else:
        raise ValueError(f"no scanner fault is called {kind!r}")
    return torch.as_tensor(spoiled, dtype=torch.float32).abs()
