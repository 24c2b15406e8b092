"""The tumour regions, numbered as in BraTS."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt


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
