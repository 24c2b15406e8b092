"""Likeness of two images at a few thousand points, cheap enough to try hundreds of positions."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from imaging.geometry import FloatArray, Volume

Measure = Literal["mutual_information", "correlation"]

_BINS = 32
# With fewer points left in view a chance resemblance beats the true position.
_SMALLEST_SHARE_IN_VIEW = 0.4


class Similarity:
    """Likeness of two images as a function of the map between them.

    Parameters
    ----------
    fixed, moving : Volume
        The images.
    mask : numpy.ndarray
        bool on the grid of ``fixed``: where to look.
    measure : {"mutual_information", "correlation"}
        Mutual information in nats, for any two contrasts, or Pearson correlation, for the same contrast.
    points : int
        How many voxels of the mask to draw.
    seed : int
        Of the draw.
    """

    def __init__(
        self,
        fixed: Volume,
        moving: Volume,
        mask: npt.NDArray[np.bool_],
        measure: Measure,
        points: int,
        seed: int,
    ) -> None:
        candidates = np.flatnonzero(mask)
        rng = np.random.default_rng(seed)
        drawn = rng.choice(candidates, size=min(points, candidates.size), replace=False)
        self._points = fixed.geometry.to_patient(np.stack(np.unravel_index(drawn, mask.shape), axis=-1))
        self._fixed = _scaled(fixed.array.ravel()[drawn])
        self._moving = moving.with_array(_scaled(moving.array))
        self._measure = _mutual_information if measure == "mutual_information" else _correlation

    def __call__(self, matrix: FloatArray) -> float:
        """Value for a ``(4, 4)`` map from fixed to moving LPS; minus infinity where too little overlaps."""
        places = self._moving.geometry.to_index(self._points @ matrix[:3, :3].T + matrix[:3, 3])
        values = ndimage.map_coordinates(
            self._moving.array, places.T, order=1, mode="constant", cval=-1e6, output=np.float32
        )
        seen = values >= 0
        if seen.sum() < max(1, _SMALLEST_SHARE_IN_VIEW * seen.size):
            return -np.inf
        return self._measure(self._fixed[seen], values[seen])


def _scaled(array: FloatArray) -> npt.NDArray[np.float32]:
    """From 0 to 1."""
    low, high = float(array.min()), float(array.max())
    scaled: npt.NDArray[np.float32] = ((array - low) / max(high - low, 1e-12)).astype(np.float32)
    return scaled


def _mutual_information(fixed: FloatArray, moving: FloatArray) -> float:
    bins = [np.rint(values * (_BINS - 1)).astype(np.intp) for values in (fixed, moving)]
    joint = np.bincount(bins[0] * _BINS + bins[1], minlength=_BINS**2).reshape(_BINS, _BINS) / fixed.size
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    full = joint > 0
    return float((joint[full] * np.log(joint[full] / expected[full])).sum())


def _correlation(fixed: FloatArray, moving: FloatArray) -> float:
    fixed, moving = fixed - fixed.mean(), moving - moving.mean()
    return float((fixed * moving).sum() / np.sqrt((fixed**2).sum() * (moving**2).sum() + 1e-12))
