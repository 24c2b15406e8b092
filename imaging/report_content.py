"""What a report says, before it is said in any format.

The structured report, the PDF and ``result.json`` are three renderings of one :class:`ReportContent`, so that
they cannot disagree. Nothing here knows how a number was obtained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import numpy as np
import numpy.typing as npt

from imaging.geometry import Volume
from imaging.roles import Role

FloatVector = npt.NDArray[np.float64]


class Status(str, Enum):
    """Outcome of a run that produced a report."""

    OK = "ok"
    SINGLE_VISIT = "single_visit"
    NO_TUMOUR = "no_tumour"
    TUMOUR_GONE = "tumour_gone"
    NOT_EXPLAINED = "not_explained"


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval ``(low, high)``, in the unit its owner states."""

    estimate: float
    interval95: tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self.interval95
        if not low <= high or not all(np.isfinite((self.estimate, low, high))):
            raise ValueError(f"interval {self.interval95} of {self.estimate} is not an interval")


@dataclass(frozen=True)
class RegistrationQuality:
    """How well two images were brought together.

    Parameters
    ----------
    similarity : float
        The measure named by ``metric``; what passes is ``threshold``.
    metric : str
        Name of the measure in words.
    threshold : float
        Below this a registration counts as failed.
    rotation_degrees, translation_mm : float
        Size of the rigid motion found.
    """

    similarity: float
    metric: str
    threshold: float
    rotation_degrees: float
    translation_mm: float


@dataclass(frozen=True, eq=False)
class VisitReport:
    """One examination and what was measured in it.

    Parameters
    ----------
    date : datetime.datetime
        Acquisition date and time.
    day : float
        Days since the first visit.
    volumes_ml : mapping
        Volume in mL of NCR, ED, ET, TC, WT.
    series : mapping
        Role to SeriesInstanceUID of the series used.
    segmentation_source : str
        ``"network"``; ``"dicom_seg"`` / ``"rtstruct"`` when a clinician's correction was found; ``"other_algorithm"``
        when it was found and says that no person made it.
    registration : RegistrationQuality or None
        To the first visit; None for the first visit itself.
    series_registration : mapping
        Role to quality of the registration to the visit's reference series.
    uncertainty : float or None
        Mean voxel entropy (0..1) inside the predicted tumour, None when it is not the network's.
    image : Volume
        Reference image (T1CE when present) on its own grid, for the pictures.
    labels : Volume
        uint8 label map on the grid of ``image``.
    """

    date: datetime
    day: float
    volumes_ml: Mapping[str, float]
    series: Mapping[Role, str]
    segmentation_source: str
    registration: RegistrationQuality | None
    series_registration: Mapping[Role, RegistrationQuality]
    uncertainty: float | None
    image: Volume
    labels: Volume


@dataclass(frozen=True)
class ParameterReport:
    """A fitted growth parameter.

    Parameters
    ----------
    name, unit : str
        For instance ``"diffusivity"`` and ``"mm2/d"`` (UCUM).
    value : Estimate
        Posterior median and 95 % interval.
    prior_median, prior_sigma_log : float
        Log-normal prior.
    contraction : float
        Posterior over prior standard deviation in log space; 1 means the scans said nothing.
    identified : bool
        False when the contraction exceeds 0.8: the number is then the prior's, not the patient's.
    """

    name: str
    unit: str
    value: Estimate
    prior_median: float
    prior_sigma_log: float
    contraction: float
    identified: bool


@dataclass(frozen=True, eq=False)
class ForecastReport:
    """The predicted tumour at one horizon.

    Parameters
    ----------
    horizon_days : float
        Days after the last visit.
    day : float
        Days after the first visit.
    core_volume_ml, whole_volume_ml : Estimate
        Predicted volume of tumour core (TC) and whole tumour (WT) in mL.
    density_mean, density_sd : Volume
        Cell density as fraction of the carrying capacity, in the frame of reference of the last visit.
    labels : Volume
        uint8 on the grid of the last visit's reference image: 1 predicted core, 2 predicted rest of the
        whole tumour.
    """

    horizon_days: float
    day: float
    core_volume_ml: Estimate
    whole_volume_ml: Estimate
    density_mean: Volume
    density_sd: Volume
    labels: Volume


@dataclass(frozen=True, eq=False)
class GrowthCurve:
    """Volume over time for the plot: ``(n,)`` days since the first visit and mL with the 95 % band."""

    days: FloatVector
    core_ml: FloatVector
    core_low_ml: FloatVector
    core_high_ml: FloatVector
    whole_ml: FloatVector
    whole_low_ml: FloatVector
    whole_high_ml: FloatVector


@dataclass(frozen=True)
class VisitFitReport:
    """How well the calibrated model reproduces one visit; ``dice_core`` is None where neither shows any core."""

    day: float
    dice_core: float | None
    dice_whole: float


@dataclass(frozen=True)
class CalibrationReport:
    """Whether the growth model may be believed.

    Parameters
    ----------
    acceptable : bool
        False when the model does not explain the scans.
    verdict : str
        One plain sentence.
    effective_samples : float
        Number of independent data points the residuals amount to.
    fit : tuple of VisitFitReport
        Per visit.
    """

    acceptable: bool
    verdict: str
    effective_samples: float
    fit: tuple[VisitFitReport, ...]


@dataclass(frozen=True)
class VolumeSkill:
    """The volume of one mask at a visit that the model had not seen, in mL: measured, forecast, and by simple rules.

    Parameters
    ----------
    observed_ml : float
        What was segmented.
    forecast_ml : Estimate
        What the model had said.
    unchanged_ml : float
        No change since the visit before.
    exponential_ml : float or None
        Exponential growth through the two visits before; None when one of them shows no such mask.
    acceptable : bool
        Whether the growth model explains the earlier visits alone; when not, the prior made the forecast.
    """

    observed_ml: float
    forecast_ml: Estimate
    unchanged_ml: float
    exponential_ml: float | None
    acceptable: bool = True

    @property
    def error_ml(self) -> float:
        """Absolute error of the forecast."""
        return abs(self.forecast_ml.estimate - self.observed_ml)

    @property
    def unchanged_error_ml(self) -> float:
        """Absolute error of assuming no change."""
        return abs(self.unchanged_ml - self.observed_ml)

    @property
    def exponential_error_ml(self) -> float | None:
        """Absolute error of exponential growth."""
        return None if self.exponential_ml is None else abs(self.exponential_ml - self.observed_ml)

    @property
    def inside95(self) -> bool | None:
        """Whether the measured volume lies in the forecast's interval; None where the prior made the forecast."""
        if not self.acceptable:
            return None
        low, high = self.forecast_ml.interval95
        return low <= self.observed_ml <= high


@dataclass(frozen=True)
class SkillReport:
    """The last visit forecast from all earlier ones; ``day`` counts from the first visit."""

    day: float
    core: VolumeSkill
    whole: VolumeSkill


@dataclass(frozen=True)
class ConformalReport:
    """Factors by which the intervals of forecast volumes were widened, and what they were learned on.

    Parameters
    ----------
    core, whole : float
        On the logarithm of the volume; 1 leaves the intervals as the model gives them.
    provenance, sentence : str
        Where the factors come from, alone and as a whole sentence.
    """

    core: float
    whole: float
    provenance: str
    sentence: str


@dataclass(frozen=True)
class SoftwareIdentity:
    """Who computed this: product, version and digests that make a run repeatable."""

    name: str
    version: str
    manufacturer: str
    input_digest: str
    settings_digest: str


@dataclass(frozen=True)
class ModelIdentity:
    """The segmentation model used."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, eq=False)
class ReportContent:
    """Everything a report says.

    ``parameters``, ``forecasts``, ``curve`` and ``calibration`` are empty or None when there was no tumour to
    model. ``skill`` is None when there are fewer than three visits to check a forecast with, ``conformal`` when nothing
    was forecast. ``treatments`` are sentences on the schedule that was given.
    """

    status: Status
    visits: tuple[VisitReport, ...]
    parameters: tuple[ParameterReport, ...]
    forecasts: tuple[ForecastReport, ...]
    curve: GrowthCurve | None
    calibration: CalibrationReport | None
    warnings: tuple[str, ...]
    software: SoftwareIdentity
    model: ModelIdentity
    skill: SkillReport | None = None
    conformal: ConformalReport | None = None
    treatments: tuple[str, ...] = ()

    @property
    def registration_metrics(self) -> tuple[str, ...]:
        """Measures of similarity that the registrations of series and of visits state, each once."""
        qualities = [quality for visit in self.visits for quality in visit.series_registration.values()]
        qualities += [visit.registration for visit in self.visits if visit.registration is not None]
        return tuple(sorted({quality.metric for quality in qualities}))

    @property
    def skill_sentences(self) -> tuple[str, ...]:
        """Whether the model has forecast better than simple rules, in words; empty when nothing was modelled."""
        if self.calibration is None:
            return ()
        if self.skill is None:
            return (
                "The skill of the forecast could not be checked: that takes a third visit with tumour, forecast from "
                "those before it.",
            )
        return tuple(
            _skill_sentence(name, skill)
            for name, skill in (("whole tumour", self.skill.whole), ("tumour core", self.skill.core))
        )


def _skill_sentence(name: str, skill: VolumeSkill) -> str:
    low, high = skill.forecast_ml.interval95
    rules = [f"no change {skill.unchanged_error_ml:.1f} mL"]
    if skill.exponential_error_ml is not None:
        rules.append(f"exponential growth {skill.exponential_error_ml:.1f} mL")
    forecast = f"{skill.forecast_ml.estimate:.1f} mL [{low:.1f}, {high:.1f}]"
    if skill.acceptable:
        start = f"Skill at the last visit, {name}: {forecast} forecast from the earlier visits"
    else:
        start = (
            f"Skill at the last visit, {name}: not known, since the growth model does not explain the earlier visits "
            f"alone; this is the prior's forecast, {forecast}"
        )
    return f"{start}, {skill.observed_ml:.1f} mL measured; error {skill.error_ml:.1f} mL, {', '.join(rules)}."
