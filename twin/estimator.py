"""Two visits in, growth parameters with intervals out: calibration under one call."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args

from twin.calibration import calibrate
from twin.errors import TwinError
from twin.inputs import TissueMaps, TumourObservation
from twin.priors import LogNormal, Priors
from twin.results import Calibration, ParameterEstimate
from twin.settings import CalibrationSettings

ModelType = Literal["reaction_diffusion"]
Optimization = Literal["bayesian"]
PriorDistributions = Mapping[str, LogNormal | tuple[str, float, float]]


@dataclass(frozen=True)
class EstimatedParameters:
    """Result of :meth:`ParameterEstimator.estimate`.

    Parameters
    ----------
    parameters : mapping of str to ParameterEstimate
        ``diffusivity`` (mm2/d), ``proliferation`` (/d) and ``front_velocity`` (mm/d), each with estimate, interval95,
        contraction and identified.
    verdict : str
        Whether the model explains the visits, one plain sentence.
    acceptable : bool
        The same for a machine. When False the parameters keep their priors.
    khat : float
        Shape of the tail of the importance weights; above 0.7 the draws come from tempered sequential Monte Carlo, nan
        where nothing was drawn.
    effective_samples : float
        Independent boundary observations that the voxels of the second visit amount to.
    calibration : Calibration
        Everything else; what :func:`twin.forecast` needs.
    """

    parameters: Mapping[str, ParameterEstimate]
    verdict: str
    acceptable: bool
    khat: float
    effective_samples: float
    calibration: Calibration


@dataclass(frozen=True)
class ParameterEstimator:
    """Estimates growth parameters from two visits.

    Parameters
    ----------
    model_type : {"reaction_diffusion"}, optional
        Growth model.
    optimization : {"bayesian"}, optional
        Posterior under priors, see :func:`twin.calibrate`.
    settings : CalibrationSettings, optional
        Defaults.

    Raises
    ------
    TwinError
        ``unknown_model`` or ``unknown_optimization``.
    """

    model_type: ModelType = "reaction_diffusion"
    optimization: Optimization = "bayesian"
    settings: CalibrationSettings | None = None

    def __post_init__(self) -> None:
        choices = (
            ("model_type", ModelType, "unknown_model"),
            ("optimization", Optimization, "unknown_optimization"),
        )
        for name, known, code in choices:
            if getattr(self, name) not in get_args(known):
                raise TwinError(
                    code, f"{name} must be one of {', '.join(get_args(known))}, not {getattr(self, name)!r}."
                )

    def estimate(
        self,
        tissue: TissueMaps,
        imaging_t0: TumourObservation,
        imaging_t1: TumourObservation,
        time_interval_days: float,
        prior_distributions: PriorDistributions | None = None,
    ) -> EstimatedParameters:
        """Posterior of the growth parameters.

        Parameters
        ----------
        tissue : TissueMaps
            Tissue of the head.
        imaging_t0, imaging_t1 : TumourObservation
            Masks, and cellularity where it was measured, of the earlier and the later visit on the grid of ``tissue``.
        time_interval_days : float
            Days between them; must agree with the days of the visits.
        prior_distributions : mapping, optional
            Priors by name, ``{"diffusivity": ("lognormal", median, sigma_log), ...}``: diffusivity in mm2/day,
            proliferation in 1/day. Those left out are the defaults of :class:`twin.Priors`.

        Raises
        ------
        TwinError
            ``bad_interval`` if the interval and the days differ, ``unknown_prior``, ``bad_prior`` or
            ``unphysical_prior`` for the priors, and what :func:`twin.inputs.check_visits` refuses.
        """
        between = imaging_t1.day - imaging_t0.day
        if not abs(between - time_interval_days) < 1e-6:
            raise TwinError(
                "bad_interval",
                f"time_interval_days is {time_interval_days:g}, but the visits are on day {imaging_t0.day:g} and day "
                f"{imaging_t1.day:g}: make them agree.",
            )
        priors = _priors(prior_distributions or {})
        found = calibrate(tissue, (imaging_t0, imaging_t1), priors, self.settings)
        return EstimatedParameters(
            parameters={parameter.name: parameter for parameter in found.parameters},
            verdict=found.verdict,
            acceptable=found.acceptable,
            khat=found.posterior.khat,
            effective_samples=found.effective_samples,
            calibration=found,
        )


def _priors(written: PriorDistributions) -> Priors:
    """Priors from their written form; what is not written keeps its default."""
    known = {entry.name for entry in fields(Priors)}
    for name in written:
        if name not in known:
            raise TwinError(
                "unknown_prior",
                f"There is no parameter {name!r} to give a prior; known are {', '.join(sorted(known))}.",
            )
    return Priors(
        **{
            name: prior if isinstance(prior, LogNormal) else LogNormal.parse(prior)
            for name, prior in written.items()
        }
    )
