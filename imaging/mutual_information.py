"""Mutual information at a few thousand points, cheap enough to try hundreds of positions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from imaging.geometry import FloatArray, Volume

_BINS = 32
# With fewer points left in view a chance resemblance beats the true position.
_SMALLEST_SHARE_IN_VIEW = 0.4


class MutualInformation:
    """Mutual information (nats) of two images as a function of the map between them.

    Parameters
    ----------
    fixed, moving : Volume
        The images.
    mask : numpy.ndarray
        bool on the grid of ``fixed``: where to look.
    points : int
        How many voxels of the mask to draw.
    seed : int
        Of the draw.
    """

    def __init__(
        self, fixed: Volume, moving: Volume, mask: npt.NDArray[np.bool_], points: int, seed: int
    ) -> None:
        candidates = np.flatnonzero(mask)
        rng = np.random.default_rng(seed)
        drawn = rng.choice(candidates, size=min(points, candidates.size), replace=False)
        index = np.stack(np.unravel_index(drawn, mask.shape), axis=-1)
        self._points = fixed.geometry.to_patient(index)
        self._fixed_bins = _binned(fixed.array.ravel()[drawn])
        self._moving = moving.with_array(_binned(moving.array).astype(np.float32))

    def __call__(self, matrix: FloatArray) -> float:
        """Value for a ``(4, 4)`` map from fixed to moving LPS; minus infinity where too little overlaps."""
        places = self._moving.geometry.to_index(self._points @ matrix[:3, :3].T + matrix[:3, 3])
        values = ndimage.map_coordinates(
            self._moving.array, places.T, order=1, mode="constant", cval=-1e6, output=np.float32
        )
        seen = values >= 0
        if seen.sum() < _SMALLEST_SHARE_IN_VIEW * seen.size:
            return -np.inf
        pairs = self._fixed_bins[seen] * _BINS + np.rint(values[seen]).astype(np.intp)
        joint = np.bincount(pairs, minlength=_BINS**2).reshape(_BINS, _BINS) / seen.sum()
        expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
        full = joint > 0
        return float((joint[full] * np.log(joint[full] / expected[full])).sum())


def _binned(array: FloatArray) -> npt.NDArray[np.intp]:
    low, high = float(array.min()), float(array.max())
    scale = (_BINS - 1) / (high - low) if high > low else 0.0
    bins: npt.NDArray[np.intp] = np.rint((array - low) * scale).astype(np.intp)
    return bins
