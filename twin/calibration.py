"""Calibration: which growth parameters the visits support, and how well."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from twin.acceptance import judge, visit_fits
from twin.grid import leak
from twin.inputs import TissueMaps, TumourObservation, check_visits
from twin.least_squares import Minimum, minimise
from twin.likelihood import Target, cost, grow, linearise, reweighted, targets
from twin.priors import LogNormal, Priors
from twin.results import Calibration, ParameterEstimate, Posterior, SkillCheck, Vector
from twin.scene import (
    LOG_VELOCITY,
    LOG_WIDTH,
    Scene,
    Tissue,
    boundary_sd_mm,
    physical,
    prior_position,
    starting_width,
)
from twin.settings import CalibrationSettings

Progress = Callable[[str, float], None]
IDENTIFIED_CONTRACTION = 0.8
_MARGINS_MM = (15.0, 30.0, 60.0, math.inf)
_LEAK = 1e-3
_ROUNDS = 3
_STARTS = (0.0, -1.2, 0.9)
_log = logging.getLogger("oncotwin.twin")


def calibrate(
    tissue: TissueMaps,
    visits: Sequence[TumourObservation],
    priors: Priors | None = None,
    settings: CalibrationSettings | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Infer diffusivity and proliferation from segmented visits.

    Levenberg-Marquardt in (log front velocity, log front width) with the boundary shifts of every mask as nuisance
    parameters, exact tangents, and a Laplace posterior whose likelihood counts effective samples instead of voxels.

    Parameters
    ----------
    tissue : TissueMaps
        Tissue of the head.
    visits : sequence of TumourObservation
        One or more, by increasing day. With one, the posterior is the prior.
    priors : Priors, optional
        Defaults to LN(0.1 mm2/day, 0.9) and LN(0.03 /day, 0.6).
    settings : CalibrationSettings, optional
        Defaults.
    progress : callable, optional
        Told a phase and the fraction done, 0..1.

    Raises
    ------
    TwinError
        If the visits cannot be used; see :func:`twin.inputs.check_visits`.
    """
    priors, settings = priors or Priors(), settings or CalibrationSettings()
    report = progress or (lambda phase, fraction: None)
    check_visits(tissue, visits)
    prepared = Tissue.prepare(tissue, visits, settings)
    warnings = _input_warnings(prepared, visits)
    shift_sd = boundary_sd_mm(settings, tissue.spacing_mm)
    prior_mean, prior_covariance = prior_position(priors, len(visits), shift_sd)
    unknown = Posterior(prior_mean, prior_covariance)
    report("calibration", 0.0)
    if len(visits) == 1:
        report("calibration", 1.0)
        scene = Scene.build(prepared, visits, _MARGINS_MM[0], settings)
        return Calibration(
            parameters=_estimates(unknown, priors, False),
            acceptable=False,
            verdict="One visit cannot show growth: the parameters keep their priors, and forecasts rest on these.",
            fit=visit_fits(scene, visits, prior_mean),
            skill=None,
            warnings=(*warnings, *_resolution_warning(unknown, tissue.spacing_mm)),
            effective_samples=0.0,
            iterations=0,
            posterior=unknown,
            priors=priors,
            settings=settings,
        )
    scene, known, minimum, iterations = _fit(prepared, visits, unknown, settings, report)
    report("calibration", 0.8)
    acceptable, verdict = judge(scene, visits, known, minimum.position)
    if not minimum.converged:
        warnings = (*warnings, f"Calibration stopped after {iterations} steps before it had settled.")
    posterior = _posterior(minimum, scene, unknown) if acceptable else unknown
    calibration = Calibration(
        parameters=_estimates(posterior, priors, acceptable),
        acceptable=acceptable,
        verdict=verdict,
        fit=visit_fits(scene, visits, minimum.position),
        skill=None,
        warnings=(*warnings, *_resolution_warning(posterior, tissue.spacing_mm)),
        effective_samples=sum(target.effective for target in known),
        iterations=iterations,
        posterior=posterior,
        priors=priors,
        settings=settings,
    )
    if settings.check_skill and len(visits) > 2:
        calibration = replace(calibration, skill=_skill(tissue, visits, priors, settings))
    report("calibration", 1.0)
    _log.info("calibrated %d visits in %d steps", len(visits), iterations)
    return calibration


def _fit(
    prepared: Tissue,
    visits: Sequence[TumourObservation],
    unknown: Posterior,
    settings: CalibrationSettings,
    report: Progress,
) -> tuple[Scene, tuple[Target, ...], Minimum, int]:
    """Alternate Levenberg-Marquardt and weighing of the residuals, on a larger box if the tumour reaches its edge."""
    precision = np.linalg.inv(unknown.covariance)
    scale = 3.0 * np.sqrt(np.diag(unknown.covariance))
    scale[[LOG_VELOCITY, LOG_WIDTH]] = 0.8
    position, iterations = unknown.mean.copy(), 0
    for attempt, margin in enumerate(_MARGINS_MM):
        scene = Scene.build(prepared, visits, margin, settings)
        known = targets(scene, starting_width(position))
        if attempt == 0 and settings.multi_start:
            starts = [position + shift * np.eye(position.size)[LOG_VELOCITY] for shift in _STARTS]
            costs = [cost(scene, known, unknown.mean, precision, start) for start in starts]
            position = starts[int(np.argmin(costs))]
        for round_ in range(_ROUNDS):
            if round_ > 0:
                known = reweighted(scene, known, position)
            function = partial(linearise, scene, known, unknown.mean, precision)
            limit = settings.max_iterations if round_ == 0 else max(5, settings.max_iterations // 3)
            done = 0.05 + 0.25 * round_

            def step(number: int, done: float = done, limit: int = limit) -> None:
                report("calibration", done + 0.25 * number / limit)

            minimum = minimise(function, position, scale, limit, on_step=step)
            position, iterations = minimum.position, iterations + minimum.iterations
        last = grow(scene, position, tangents=False)[-1]
        if leak(last[0], scene.box, prepared.limit) < _LEAK:
            break
    return scene, known, minimum, iterations


def _posterior(minimum: Minimum, scene: Scene, unknown: Posterior) -> Posterior:
    """Laplace posterior widened by what no scan corrects; nothing becomes wider than the prior.

    Model discrepancy, the grid's error of the front speed (3.5 % times voxel over front width squared) and, where the
    first visit shows no core, the unknown density inside it.
    """
    covariance, settings = np.linalg.inv(minimum.at.hessian), scene.settings
    grid = 0.035 * (max(scene.tissue.spacing_mm) / math.exp(minimum.position[LOG_WIDTH])) ** 2
    hidden = settings.coreless_discrepancy if scene.distances[0].core is None else 0.0
    floors = ((LOG_VELOCITY, settings.velocity_discrepancy), (LOG_WIDTH, settings.width_discrepancy))
    for index, discrepancy in floors:
        room = max(unknown.covariance[index, index] - covariance[index, index], 0.0)
        covariance[index, index] += min(discrepancy**2 + grid**2 + hidden**2, room)
    return Posterior(minimum.position, covariance)


def _estimates(posterior: Posterior, priors: Priors, acceptable: bool) -> tuple[ParameterEstimate, ...]:
    """Marginals in natural units; all three are log-linear in the posterior's coordinates."""
    diffusivity, proliferation = (math.log(value) for value in physical(posterior.mean))
    rows: list[tuple[str, str, float, LogNormal, Vector]] = [
        ("diffusivity", "mm2/d", diffusivity, priors.diffusivity, np.array([1.0, 1.0])),
        ("proliferation", "/d", proliferation, priors.proliferation, np.array([1.0, -1.0])),
        (
            "front_velocity",
            "mm/d",
            float(posterior.mean[LOG_VELOCITY]),
            priors.front_velocity,
            np.array([1.0, 0.0]),
        ),
    ]
    made = []
    for name, unit, centre, prior, direction in rows:
        sd = math.sqrt(float(direction @ posterior.covariance[:2, :2] @ direction))
        contraction = min(sd / prior.sigma_log, 1.0)
        made.append(
            ParameterEstimate(
                name=name,
                unit=unit,
                estimate=math.exp(centre),
                interval95=(math.exp(centre - 1.96 * sd), math.exp(centre + 1.96 * sd)),
                prior=prior,
                contraction=contraction,
                identified=acceptable and contraction <= IDENTIFIED_CONTRACTION,
            )
        )
    return tuple(made)


def _input_warnings(prepared: Tissue, visits: Sequence[TumourObservation]) -> tuple[str, ...]:
    found = []
    if prepared.outside_fraction > 0.05:
        found.append(
            f"{100 * prepared.outside_fraction:.0f} % of the segmented tumour lies outside the tissue of the maps; "
            "it was treated as slow tissue: check the registration of the tissue maps."
        )
    empty = [visit.day for visit in visits if not bool(visit.core.any())]
    if empty:
        days = ", ".join(f"{day:g}" for day in empty)
        found.append(
            f"No tumour core was segmented on day {days}: core volumes there rest on the whole-tumour mask."
        )
    return tuple(found)


def _resolution_warning(posterior: Posterior, spacing_mm: tuple[float, float, float]) -> tuple[str, ...]:
    width, coarsest = math.exp(posterior.mean[LOG_WIDTH]), max(spacing_mm)
    if coarsest <= width:
        return ()
    return (
        f"The voxel of {coarsest:.1f} mm is wider than the front of {width:.1f} mm (square root of diffusivity over "
        "proliferation): simulated fronts run too fast; use a finer grid.",
    )


def _skill(
    tissue: TissueMaps, visits: Sequence[TumourObservation], priors: Priors, settings: CalibrationSettings
) -> SkillCheck:
    """Forecast the last visit from the others."""
    from twin.prediction import forecast

    shorter = replace(settings, check_skill=False, samples=min(settings.samples, 32))
    earlier, last, before = visits[:-1], visits[-1], visits[-2]
    calibration = calibrate(tissue, earlier, priors, shorter)
    predicted = forecast(calibration, tissue, earlier, [last.day - before.day]).horizons[0]
    observed = [float(mask.sum()) * tissue.voxel_mm3 for mask in (last.core, last.whole)]
    unchanged = [float(mask.sum()) * tissue.voxel_mm3 for mask in (before.core, before.whole)]
    volumes = (predicted.volume_core_mm3, predicted.volume_whole_mm3)
    inside = [v.interval95[0] <= seen <= v.interval95[1] for v, seen in zip(volumes, observed, strict=True)]
    return SkillCheck(
        day=last.day,
        core_error_mm3=abs(volumes[0].estimate - observed[0]),
        core_persistence_error_mm3=abs(unchanged[0] - observed[0]),
        core_inside95=inside[0],
        whole_error_mm3=abs(volumes[1].estimate - observed[1]),
        whole_persistence_error_mm3=abs(unchanged[1] - observed[1]),
        whole_inside95=inside[1],
    )
