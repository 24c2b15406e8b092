"""Whether the model forecasts better than simple rules: the last visit, forecast from those before it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from twin.calibration import calibrate
from twin.inputs import TissueMaps, TumourObservation
from twin.prediction import forecast
from twin.results import Calibration, MaskSkill, SkillCheck
from twin.volumes import trend

_MOST_DRAWS = 32


def held_out_skill(
    tissue: TissueMaps, visits: Sequence[TumourObservation], calibration: Calibration
) -> SkillCheck | None:
    """Forecast the last visit from all others and compare with no change and with exponential growth.

    Exponential growth is extrapolated from the two visits before the last. None with fewer than three visits, and where
    the whole tumour was not segmented at the last or at the one before, whose volumes are what is forecast.

    Parameters
    ----------
    tissue, visits
        As given to :func:`twin.calibrate`.
    calibration : Calibration
        Of all visits; gives priors, settings and therapies.
    """
    if len(visits) < 3 or not (visits[-1].has_margin and visits[-2].has_margin):
        return None
    settings = calibration.settings
    shorter = replace(settings, check_skill=False, samples=min(settings.samples, _MOST_DRAWS))
    earlier, last, before = visits[:-1], visits[-1], visits[-2]
    fitted = calibrate(tissue, earlier, calibration.priors, shorter, therapies=calibration.therapies)
    elapsed = last.day - before.day
    predicted = forecast(fitted, tissue, earlier, [elapsed]).horizons[0]
    masks = {}
    for name, volume in (("core", predicted.volume_core_mm3), ("whole", predicted.volume_whole_mm3)):
        growing = trend(visits[-3], before, name, np.array([elapsed]))
        masks[name] = MaskSkill(
            observed_mm3=float(getattr(last, name).sum()) * tissue.voxel_mm3,
            forecast_mm3=volume,
            unchanged_mm3=float(getattr(before, name).sum()) * tissue.voxel_mm3,
            exponential_mm3=None if growing is None else float(growing[0]) * tissue.voxel_mm3,
        )
    return SkillCheck(last.day, masks["core"], masks["whole"], fitted.acceptable)
