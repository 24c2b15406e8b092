"""Patient-specific growth model of a tumour: solver, calibration from segmented visits, forecast with intervals.

Torch tensors in and out; knows no image format.
"""

from twin.calibration import calibrate
from twin.errors import TwinError
from twin.inputs import TissueMaps, TumourObservation
from twin.prediction import forecast
from twin.priors import LogNormal, Priors
from twin.results import (
    Calibration,
    Forecast,
    GrowthCurve,
    HorizonForecast,
    ParameterEstimate,
    SkillCheck,
    VisitFit,
    VolumeEstimate,
)
from twin.settings import CalibrationSettings

__all__ = [
    "Calibration",
    "CalibrationSettings",
    "Forecast",
    "GrowthCurve",
    "HorizonForecast",
    "LogNormal",
    "ParameterEstimate",
    "Priors",
    "SkillCheck",
    "TissueMaps",
    "TumourObservation",
    "TwinError",
    "VisitFit",
    "VolumeEstimate",
    "calibrate",
    "forecast",
]
