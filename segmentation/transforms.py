"""Intensity normalisation, the same function for training and inference."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_SAMPLE = 200_000  # voxels looked at for quantiles; more changes them by less than the noise
_CLIP = 5.0


def exact_background(image: Tensor) -> Tensor:
    """Voxels of (I, J, K) that hold one repeated value, as skull-stripping and defacing leave: bool (I, J, K).

    The value is 0 or the image's minimum, if at least 5 % of the voxels hold exactly it; otherwise nothing is marked.
    """
    best, most = torch.zeros_like(image, dtype=torch.bool), 0
    for value in {0.0, float(image.min())}:
        same = image == value
        count = int(torch.count_nonzero(same))
        if count >= 0.05 * image.numel() and count > most:
            best, most = same, count
    return best


def _sample(values: Tensor) -> Tensor:
    return values[:: max(1, values.numel() // _SAMPLE)]


def _quantiles(values: Tensor, low: float, high: float) -> tuple[float, float]:
    """Two quantiles; NumPy partitions where torch sorts, which takes eight times as long."""
    first, second = np.quantile(values.cpu().numpy(), [low, high])
    return float(first), float(second)


def _without_edge(kept: Tensor) -> Tensor:
    """A bool mask (I, J, K) less the voxels that touch what it leaves out; the image's border is no edge."""
    for axis, length in enumerate(kept.shape):
        inner = kept.clone()
        inner.narrow(axis, 1, length - 1).logical_and_(kept.narrow(axis, 0, length - 1))
        inner.narrow(axis, 0, length - 1).logical_and_(kept.narrow(axis, 1, length - 1))
        kept = inner
    return kept


def foreground_statistics(
    image: Tensor, region: Tensor | None = None, *, resampled: bool = False
) -> tuple[float, float, float]:
    """Mean and standard deviation of the head, and the intensity of "dark".

    Air is told from the head by a tenth of the span between the darkest and the brightest voxels, so scaling or
    shifting the image scales or shifts the answer. Values are clipped to their 1st and 99th percentile, so that
    bright fat or vessels move the result little.

    Parameters
    ----------
    image
        float32 (I, J, K).
    region
        bool (I, J, K): take the statistics here only, for instance in the brain.
    resampled
        Leave out voxels next to exact background: interpolation mixes both there, in a tenth of a stripped brain, and
        what is mixed is darker than anything in the head.

    Returns
    -------
    tuple of float
        (mean, standard deviation, dark); the standard deviation is 0 if there is nothing but one value.
    """
    kept = ~exact_background(image)
    if resampled:
        kept = _without_edge(kept)
    if region is not None:
        kept &= region
    values = _sample(torch.from_numpy(image.cpu().numpy()[kept.cpu().numpy()]))  # torch selects far slower
    if values.numel() < 2:
        return 0.0, 0.0, 0.0
    dark, bright = _quantiles(values, 0.005, 0.98)
    head = values if region is not None else values[values > dark + 0.1 * (bright - dark)]
    if head.numel() < 2:
        return float(values.mean()), 0.0, dark
    low, high = _quantiles(head, 0.01, 0.99)
    head = head.clamp(low, high)
    return float(head.mean()), float(head.std()), dark


def apply_statistics(image: Tensor, statistics: tuple[float, float, float]) -> Tensor:
    """(image - mean) / std clipped to ±5; exact background becomes the head's "dark"; all 0 for an empty image."""
    mean, std, dark = statistics
    if std <= 1e-6 * max(1.0, abs(mean)):
        return torch.zeros_like(image)
    image = torch.where(exact_background(image), torch.tensor(dark, dtype=image.dtype), image)
    return ((image - mean) / std).clamp(-_CLIP, _CLIP)


def normalise(image: Tensor, region: Tensor | None = None) -> Tensor:
    """z-score of one contrast over the head (or over `region`), robust to skull, air noise and earlier z-scoring.

    Parameters
    ----------
    image
        float32 (I, J, K), any unit.
    region
        bool (I, J, K) or None: where to take mean and standard deviation.

    Returns
    -------
    Tensor
        float32 (I, J, K) in [-5, 5].
    """
    return apply_statistics(image, foreground_statistics(image, region, resampled=True))


def normalise_nonzero(image: Tensor) -> Tensor:
    """z-score over non-zero voxels, zeros kept: ``NormalizeIntensity(nonzero=True)`` of public bundles."""
    kept = image != 0
    values = image[kept]
    if values.numel() < 2 or float(values.std(correction=0)) == 0.0:
        return torch.zeros_like(image)
    result = torch.zeros_like(image)
    result[kept] = (values - values.mean()) / values.std(correction=0)
    return result


def head_mask(channels: Tensor) -> Tensor:
    """Voxels where any normalised contrast is brighter than air and skull: bool (I, J, K) from (C, I, J, K).

    Air lies within a tenth of the span above the darkest value, as in `foreground_statistics`; a missing contrast
    (all 0) marks nothing, zeros of a channel in which they are the repeated background neither.
    """
    filled = torch.zeros(channels.shape[1:], dtype=torch.bool)
    for channel in channels:
        values = _sample(channel.flatten())
        dark, bright = _quantiles(values, 0.005, 0.995)
        if bright > dark:
            filled |= (channel > dark + 0.1 * (bright - dark)) & ~exact_background(channel)
    return filled
