"""From voxels of many draws to volumes with intervals, as a segmentation of that day would report them."""

from collections.abc import Sequence

import numpy as np

from twin.conformal import Conformal, stretched
from twin.draws import Draw
from twin.grid import surface_mm2
from twin.inputs import TissueMaps, TumourObservation
from twin.results import Calibration, Vector
from twin.scene import boundary_sd_mm
from twin.settings import CalibrationSettings

MASKS = ("core", "whole")
_MOST_CHANGE = 20.0
"""Largest factor of growth or shrinkage between two visits that is taken for a trend."""


def segmented(
    voxels: Vector,
    draws: Sequence[Draw],
    last: TumourObservation,
    tissue: TissueMaps,
    settings: CalibrationSettings,
) -> Vector:
    """Volumes (2, draws, days) in mm3 from voxel counts of the same shape.

    A random shift of the boundary times the surface is added: the error of the segmentation to come. The surface is
    that of the last visit, scaled to a body of the same shape but another volume.
    """
    made = []
    for mask, counts in enumerate(voxels):
        volumes, seen = counts * tissue.voxel_mm3, (last.core, last.whole)[mask]
        if bool(seen.any()):
            relative = volumes / (float(seen.sum()) * tissue.voxel_mm3)
            surface = surface_mm2(seen, tissue.spacing_mm) * relative ** (2 / 3)
            errors = np.array([draw.error[mask] for draw in draws]) * boundary_sd_mm(
                settings, tissue.spacing_mm
            )
            volumes = (volumes + surface * errors[:, None]).clip(min=0.0)
        made.append(volumes)
    return np.stack(made)


def quantiles(volumes: Vector) -> Vector:
    """2.5 %, 50 % and 97.5 % quantiles over the draws, (3, days) from (draws, days)."""
    return np.quantile(volumes, [0.025, 0.5, 0.975], axis=0, method="weibull")


def bands(volumes: Vector, conformal: Conformal, hull: Vector | None) -> Vector:
    """Lower bound, median and upper bound, (2, 3, days), of volumes (2, draws, days).

    Stretched by the conformal factors, then widened to hold ``hull`` (2, 2, days) if there is one.
    """
    made = []
    for mask, factor in enumerate((conformal.core, conformal.whole)):
        lower, median, upper = stretched(quantiles(volumes[mask]), factor)
        if hull is not None:
            lower, upper = np.minimum(lower, hull[mask][0]), np.maximum(upper, hull[mask][1])
        made.append(np.stack([lower, median, upper]))
    return np.stack(made)


def trend(
    earlier: TumourObservation, later: TumourObservation, mask: str, after_days: Vector
) -> Vector | None:
    """Voxels of a mask that exponential growth through two visits gives ``after_days`` after the later one.

    None when the mask was empty at either visit, which no exponential passes through, or is the whole tumour and was
    drawn beyond the core at one of them only.
    """
    before, now = (float(getattr(visit, mask).sum()) for visit in (earlier, later))
    if before == 0.0 or now == 0.0 or (mask == "whole" and earlier.has_margin != later.has_margin):
        return None
    rate = np.log(now / before) / (later.day - earlier.day)
    return np.asarray(now * np.exp(rate * np.asarray(after_days)))


def no_change_and_trend(
    calibration: Calibration, visits: Sequence[TumourObservation], days: Sequence[float], tissue: TissueMaps
) -> Vector | None:
    """Smaller and larger of persistence and trend, (2, 2, days) in mm3, where the model does not explain the scans."""
    if calibration.acceptable or len(visits) < 2:
        return None
    made, elapsed = [], visits[-1].day - visits[-2].day
    most = _MOST_CHANGE ** (np.asarray(days) / elapsed)
    for mask in MASKS:
        now = float(getattr(visits[-1], mask).sum())
        going = trend(visits[-2], visits[-1], mask, np.asarray(days))
        going = np.full(len(days), now) if going is None else going.clip(now / most, now * most)
        made.append(np.stack([np.minimum(now, going), np.maximum(now, going)]) * tissue.voxel_mm3)
    return np.stack(made)
