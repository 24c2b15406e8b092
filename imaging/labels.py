"""The tumour regions, numbered as in BraTS."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from imaging.geometry import Volume


class TumourLabel(IntEnum):
    """Value of a voxel in a label map."""

    BACKGROUND = 0
    NCR = 1
    ED = 2
    ET = 3


# Regions that are measured: each label alone, and the two nested sums of the BraTS challenge.
REGIONS: dict[str, tuple[TumourLabel, ...]] = {
    "NCR": (TumourLabel.NCR,),
    "ED": (TumourLabel.ED,),
    "ET": (TumourLabel.ET,),
    "TC": (TumourLabel.NCR, TumourLabel.ET),
    "WT": (TumourLabel.NCR, TumourLabel.ED, TumourLabel.ET),
}


def region_mask(labels: npt.NDArray[Any], region: str) -> npt.NDArray[np.bool_]:
    """Voxels of one region of ``REGIONS``; same shape as ``labels``."""
    return np.isin(labels, REGIONS[region])


def volumes_ml(labels: npt.NDArray[Any], voxel_volume_mm3: float) -> dict[str, float]:
    """Volume of every region in mL."""
    counts = {region: float(region_mask(labels, region).sum()) for region in REGIONS}
    return {region: count * voxel_volume_mm3 / 1000 for region, count in counts.items()}


def reaches_edge(labels: Volume) -> bool:
    """Whether the whole tumour has a voxel on a face of its grid, behind which it may go on unseen."""
    tumour = labels.array > 0
    return any(bool(np.take(tumour, end, axis).any()) for axis in range(3) for end in (0, -1))


def left_out_ml(before: Volume, after: Volume) -> float:
    """Volume of the whole tumour of one label map that another one on the same grid does not have, mL."""
    lost = np.count_nonzero((before.array > 0) & (after.array == 0))
    return float(lost) * before.geometry.voxel_volume_mm3 / 1000


def discard_outside(labels: Volume, mask: Volume, min_component_ml: float) -> Volume:
    """Labels inside a mask, without the components that it cuts down to crumbs.

    A component with more than half of its voxels outside the mask is not a tumour that reaches over its edge,
    it is something else (scalp, sinus, eye) and goes as a whole.

    Parameters
    ----------
    labels : Volume
        uint8 label map.
    mask : Volume
        bool, on the same grid.
    min_component_ml : float
        Components smaller than this in mL after the cut are dropped.
    """
    tumour = labels.array > 0
    components, count = ndimage.label(tumour)
    if count == 0:
        return labels
    sizes = ndimage.sum_labels(tumour, components, range(1, count + 1))
    inside = ndimage.sum_labels(tumour & mask.array, components, range(1, count + 1))
    ml = inside * labels.geometry.voxel_volume_mm3 / 1000
    kept = np.flatnonzero((inside > 0.5 * sizes) & (ml >= min_component_ml)) + 1
    keep = np.isin(components, kept) & mask.array
    return labels.with_array(np.where(keep, labels.array, 0).astype(labels.array.dtype))
