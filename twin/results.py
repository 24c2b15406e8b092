"""What calibration and forecast hand back."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from twin.priors import LogNormal, Priors
from twin.settings import CalibrationSettings

Vector = NDArray[Any]


@dataclass(frozen=True)
class ParameterEstimate:
    """Posterior of one parameter.

    Parameters
    ----------
    name : str
        ``diffusivity`` (of white matter), ``proliferation`` or ``front_velocity``.
    unit : str
        UCUM: ``mm2/d``, ``/d`` or ``mm/d``.
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
class SkillCheck:
    """Forecast of the last visit from all others, against persistence (no change since the visit before).

    Errors are absolute differences of volume, mm3; ``inside95`` says whether the observed volumes fell within the
    forecast's 95 % intervals.
    """

    day: float
    core_error_mm3: float
    core_persistence_error_mm3: float
    core_inside95: bool
    whole_error_mm3: float
    whole_persistence_error_mm3: float
    whole_inside95: bool

    @property
    def beats_persistence(self) -> bool:
        """Whether the whole-tumour volume was forecast better than by assuming no change."""
        return self.whole_error_mm3 < self.whole_persistence_error_mm3


@dataclass(frozen=True)
class Posterior:
    """Gaussian over (log front velocity, log front width, log tail factor, then boundary shifts in mm).

    The tail factor is that of the front width which masks are given, over that of a steady wave.

    The shifts are two a visit, core and whole tumour, in the order of the visits: how far the true boundary lies
    outside the segmented one.
    """

    mean: Vector
    covariance: Vector


@dataclass(frozen=True)
class Calibration:
    """Result of :func:`twin.calibrate`.

    Parameters
    ----------
    parameters : tuple of ParameterEstimate
        diffusivity, proliferation and front_velocity.
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
    posterior, priors, settings
        What a forecast needs.
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
    priors: Priors
    settings: CalibrationSettings


@dataclass(frozen=True)
class VolumeEstimate:
    """Median and central 95 % interval of a volume, mm3."""

    estimate: float
    interval95: tuple[float, float]


@dataclass(frozen=True)
class HorizonForecast:
    """Forecast for one day.

    Volumes on the full grid, float32 (X, Y, Z), zero where no draw reaches: mean and standard deviation of the density
    and the probabilities that it exceeds the core and the whole-tumour thresholds. The intervals hold for the volume
    that a segmentation of that day would report, its own error included.
    """

    day: float
    horizon_days: float
    density_mean: Tensor
    density_sd: Tensor
    probability_core: Tensor
    probability_whole: Tensor
    volume_core_mm3: VolumeEstimate
    volume_whole_mm3: VolumeEstimate


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
