"""What calibration and forecast hand back."""

import math
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from twin.conformal import Conformal
from twin.coordinates import Coordinates
from twin.priors import LogNormal, Priors
from twin.settings import CalibrationSettings
from twin.treatment import Therapy

Vector = NDArray[Any]


@dataclass(frozen=True)
class ParameterEstimate:
    """Posterior of one parameter.

    Parameters
    ----------
    name : str
        ``diffusivity`` (of white matter), ``proliferation``, ``front_velocity``, or the parameter of a therapy:
        ``radiosensitivity``, ``chemosensitivity``.
    unit : str
        UCUM: ``mm2/d``, ``/d``, ``mm/d`` or ``/Gy``.
    estimate : float
        Posterior median.
    interval95 : tuple of float
        Central 95 % interval in natural units.
    prior : LogNormal
        What was believed before.
    contraction : float
        Posterior over prior standard deviation of the logarithm; 1 says the scans taught nothing.
    identified : bool
        Whether the scans, rather than the prior, determine the parameter: contraction of at most 0.8 and a model that
        explains the scans.
    """

    name: str
    unit: str
    estimate: float
    interval95: tuple[float, float]
    prior: LogNormal
    contraction: float
    identified: bool


@dataclass(frozen=True)
class VisitFit:
    """How the calibrated model meets one visit; volumes in mm3, Dice coefficients within 0..1 or nan if undefined."""

    day: float
    dice_core: float
    dice_whole: float
    observed_core_mm3: float
    fitted_core_mm3: float
    observed_whole_mm3: float
    fitted_whole_mm3: float


@dataclass(frozen=True)
class VolumeEstimate:
    """Median and central 95 % interval of a volume, mm3."""

    estimate: float
    interval95: tuple[float, float]


@dataclass(frozen=True)
class MaskSkill:
    """Forecast of one mask's volume at a visit it had not seen, and two simple rules for the same.

    Parameters
    ----------
    observed_mm3 : float
        What was segmented.
    forecast_mm3 : VolumeEstimate
        What the model had said.
    unchanged_mm3 : float
        No change since the visit before.
    exponential_mm3 : float or None
        Exponential growth through the two visits before; None when one of them shows no such mask.
    """

    observed_mm3: float
    forecast_mm3: VolumeEstimate
    unchanged_mm3: float
    exponential_mm3: float | None

    @property
    def error_mm3(self) -> float:
        """Absolute error of the forecast median."""
        return abs(self.forecast_mm3.estimate - self.observed_mm3)

    @property
    def persistence_error_mm3(self) -> float:
        """Absolute error of assuming no change."""
        return abs(self.unchanged_mm3 - self.observed_mm3)

    @property
    def exponential_error_mm3(self) -> float | None:
        """Absolute error of extrapolating exponential growth."""
        return None if self.exponential_mm3 is None else abs(self.exponential_mm3 - self.observed_mm3)

    @property
    def inside95(self) -> bool:
        """Whether the observed volume lies in the forecast's 95 % interval."""
        return self.forecast_mm3.interval95[0] <= self.observed_mm3 <= self.forecast_mm3.interval95[1]


@dataclass(frozen=True)
class SkillCheck:
    """Forecast of the last visit from all others against persistence and exponential growth.

    Parameters
    ----------
    day : float
        Of the last visit.
    core, whole : MaskSkill
        Tumour core and whole tumour.
    acceptable : bool
        Whether the growth model explains the earlier visits alone; when not, the forecast is that of the prior and
        says nothing on the model that was fitted to all visits.
    """

    day: float
    core: MaskSkill
    whole: MaskSkill
    acceptable: bool = True

    @property
    def beats_persistence(self) -> bool:
        """Whether the whole-tumour volume was forecast better than by assuming no change."""
        return self.whole.error_mm3 < self.whole.persistence_error_mm3

    @property
    def beats_exponential(self) -> bool | None:
        """Whether the whole-tumour volume was forecast better than by exponential growth; None if it has none."""
        error = self.whole.exponential_error_mm3
        return None if error is None else self.whole.error_mm3 < error


@dataclass(frozen=True)
class Posterior:
    """Gaussian over the numbers of :class:`twin.coordinates.Coordinates`.

    Parameters
    ----------
    mean : ndarray
        (p,).
    covariance : ndarray
        (p, p).
    coordinates : Coordinates
        Their order.
    draws : ndarray, optional
        (n, p), equally weighted draws where the posterior was sampled; any number of the first ones spreads evenly over
        the front velocity.
    khat : float, optional
        Shape of the tail of the importance weights; up to 0.7 they were used, above it the draws come from tempered
        sequential Monte Carlo. nan where the posterior was not sampled.
    """

    mean: Vector
    covariance: Vector
    coordinates: Coordinates
    draws: Vector | None = None
    khat: float = math.nan

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each number: log_velocity, log_width, log_tail, therapies' logs, shifts."""
        return self.coordinates.names


@dataclass(frozen=True)
class Calibration:
    """Result of :func:`twin.calibrate`.

    Parameters
    ----------
    parameters : tuple of ParameterEstimate
        diffusivity, proliferation and front_velocity, then those of the therapies.
    acceptable : bool
        Whether the growth model explains the scans. False with one visit, where growth cannot be seen. When False the
        posterior is the prior.
    verdict : str
        One plain sentence.
    fit : tuple of VisitFit
        One for each visit.
    skill : SkillCheck or None
        None when fewer than three visits leave nothing to check against.
    warnings : tuple of str
        Sentences for the report.
    effective_samples : float
        Number of independent boundary observations that the voxels of all follow-up masks amount to.
    iterations : int
        Levenberg-Marquardt steps taken.
    posterior : Posterior
        Of the parameters that fit best, which a forecast goes on with.
    real : Posterior
        Of the real parameters, wider by the discrepancy between model and tumour: what ``parameters`` report.
    priors, settings
        What a forecast needs beside.
    therapies : tuple of Therapy
        Treatments, past and planned, on the calendar of the visits and the grid of the tissue maps.
    refinement : tuple of int
        How many times the voxels were divided along each axis for a front narrower than a voxel.
    """

    parameters: tuple[ParameterEstimate, ...]
    acceptable: bool
    verdict: str
    fit: tuple[VisitFit, ...]
    skill: SkillCheck | None
    warnings: tuple[str, ...]
    effective_samples: float
    iterations: int
    posterior: Posterior
    real: Posterior
    priors: Priors
    settings: CalibrationSettings
    therapies: tuple[Therapy, ...] = ()
    refinement: tuple[int, int, int] = (1, 1, 1)


@dataclass(frozen=True)
class HorizonForecast:
    """Forecast for one day.

    Volumes on the full grid, float32 (X, Y, Z), zero where no draw reaches: mean and standard deviation of the density
    and the probabilities that it exceeds the core and the whole-tumour thresholds. The intervals hold for the volume
    that a segmentation of that day would report, its own error included. ``volume_draws`` (2, draws) are the volumes of
    core and whole tumour, mm3, that made the intervals, before the conformal factor and before any widening towards no
    change and the trend.
    """

    day: float
    horizon_days: float
    density_mean: Tensor
    density_sd: Tensor
    probability_core: Tensor
    probability_whole: Tensor
    volume_core_mm3: VolumeEstimate
    volume_whole_mm3: VolumeEstimate
    volume_draws: Vector


@dataclass(frozen=True)
class GrowthCurve:
    """Volume against day: median and 95 % band of the draws, mm3, through the visits and on to the last horizon."""

    days: Vector
    core_median: Vector
    core_lower: Vector
    core_upper: Vector
    whole_median: Vector
    whole_lower: Vector
    whole_upper: Vector


@dataclass(frozen=True)
class Forecast:
    """Result of :func:`twin.forecast`."""

    horizons: tuple[HorizonForecast, ...]
    curve: GrowthCurve
    warnings: tuple[str, ...]
    conformal: Conformal
