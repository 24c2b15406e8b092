"""Patient-specific growth model of a tumour: solver, calibration from segmented visits, forecast with intervals.

Torch tensors in and out; knows no image format.
"""

from twin.arms import ArmForecast, Comparison, compare_treatments
from twin.calibration import calibrate
from twin.conformal import Conformal
from twin.errors import TwinError
from twin.estimator import EstimatedParameters, ParameterEstimator
from twin.inputs import TissueMaps, TumourObservation
from twin.prediction import forecast
from twin.priors import LogNormal, Priors
from twin.results import (
    Calibration,
    Forecast,
    GrowthCurve,
    HorizonForecast,
    MaskSkill,
    ParameterEstimate,
    SkillCheck,
    VisitFit,
    VolumeEstimate,
)
from twin.settings import CalibrationSettings
from twin.treatment import Chemotherapy, Radiotherapy, Surgery, Therapy

__all__ = [
    "ArmForecast",
    "Calibration",
    "CalibrationSettings",
    "Chemotherapy",
    "Comparison",
    "Conformal",
    "EstimatedParameters",
    "Forecast",
    "GrowthCurve",
    "HorizonForecast",
    "LogNormal",
    "MaskSkill",
    "ParameterEstimate",
    "ParameterEstimator",
    "Priors",
    "Radiotherapy",
    "SkillCheck",
    "Surgery",
    "Therapy",
    "TissueMaps",
    "TumourObservation",
    "TwinError",
    "VisitFit",
    "VolumeEstimate",
    "calibrate",
    "compare_treatments",
    "forecast",
]
