"""Calibration: which growth parameters the visits support, and how well."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from twin.acceptance import Judgement, hopeless, judge, visit_fits
from twin.coordinates import LOG_TAIL, LOG_VELOCITY, LOG_WIDTH
from twin.fit import MARGINS_MM, Fit, fit, look, speed_excess
from twin.importance import evenly
from twin.inputs import TissueMaps, TumourObservation, check_visits
from twin.likelihood import grow
from twin.priors import LogNormal, Priors
from twin.resolution import UNREFINED, Factors, Problem, factors_for, finest, refined
from twin.results import Calibration, ParameterEstimate, Posterior, Vector
from twin.sampling import sample
from twin.scene import Scene, Tissue, boundary_sd_mm
from twin.settings import CalibrationSettings
from twin.treatment import Therapy

Progress = Callable[[str, float], None]
IDENTIFIED_CONTRACTION = 0.8
_GOMPERTZ_DISCREPANCY = (0.7, 0.3)
"""Log standard deviations of diffusivity and proliferation for a Gompertz front, which never becomes the steady wave
that masks are laid on: on simulated tumours diffusivity came out two to four times too large, volumes did not."""
_TOLD_UNEXPLAINED = 1.2
"""Below, the widening of a tenth is nothing to tell."""
_UNITS = {"radiosensitivity": "/Gy", "chemosensitivity": "/d"}
"""UCUM units of the parameters of therapies."""
_log = logging.getLogger("oncotwin.twin")


def calibrate(
    tissue: TissueMaps,
    visits: Sequence[TumourObservation],
    priors: Priors | None = None,
    settings: CalibrationSettings | None = None,
    progress: Progress | None = None,
    *,
    therapies: Sequence[Therapy] = (),
) -> Calibration:
    """Infer diffusivity and proliferation from segmented visits.

    Levenberg-Marquardt in (log front velocity, log front width) with the boundary shifts of every mask as nuisance
    parameters, exact tangents, and a Laplace posterior whose likelihood counts effective samples instead of voxels.
    A front narrower than a voxel, at the first look or at the end, is fitted again on a finer grid.

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
    therapies : sequence of Therapy, optional
        Treatments on the calendar of the visits and the grid of ``tissue``; their parameters are inferred too. What is
        planned after the last visit acts in the forecast.

    Raises
    ------
    TwinError
        If the visits or therapies cannot be used; see :func:`twin.inputs.check_visits`.
    """
    therapies = tuple(therapies)
    priors, settings = priors or Priors(), settings or CalibrationSettings()
    report = progress or (lambda phase, fraction: None)
    check_visits(tissue, visits)
    prepared = Tissue.prepare(tissue, visits, settings)
    warnings = _input_warnings(prepared, visits)
    shift_sd = boundary_sd_mm(settings, tissue.spacing_mm)
    scene = Scene.build(prepared, visits, MARGINS_MM[0], settings, therapies=therapies)
    prior_mean, prior_covariance = scene.coordinates.prior(priors, shift_sd)
    unknown = Posterior(prior_mean, prior_covariance, scene.coordinates)
    report("calibration", 0.0)
    if len(visits) == 1:
        report("calibration", 1.0)
        return Calibration(
            parameters=_estimates(unknown, priors, False),
            acceptable=False,
            verdict="One visit cannot show growth: the parameters keep their priors, and forecasts rest on these.",
            fit=visit_fits(scene, visits, [fields[0] for fields in grow(scene, prior_mean, tangents=False)]),
            skill=None,
            warnings=(*warnings, *_resolution_warning(unknown, tissue.spacing_mm)),
            effective_samples=0.0,
            iterations=0,
            posterior=unknown,
            real=unknown,
            priors=priors,
            settings=settings,
            therapies=therapies,
        )
    futile = bool(hopeless(scene, visits))
    made = _fitted(Problem.given(tissue, visits, therapies), scene, unknown, futile, report)
    found, posterior, used_mm = made.found, made.posterior, made.used.tissue.spacing_mm
    judged = made.judged
    if made.refinement != UNREFINED:
        warnings = (
            f"The front of {made.narrow_mm:.2f} mm (square root of diffusivity over proliferation) is narrower than a "
            f"voxel: growth was computed on voxels of {max(used_mm):.2g} mm.",
            *warnings,
        )
    if not found.fine.minimum.converged and not futile:
        warnings = (*warnings, f"Calibration stopped after {found.iterations} steps before it had settled.")
    if judged.acceptable and judged.unexplained > _TOLD_UNEXPLAINED:
        warnings = (
            *warnings,
            f"The best fit misses the scans by {math.sqrt(judged.unexplained):.1f} times their errors: "
            "intervals of parameters and forecasts are that much wider.",
        )
    likelihood = found.fine.likelihood
    calibration = Calibration(
        parameters=_estimates(made.real, priors, judged.acceptable),
        acceptable=judged.acceptable,
        verdict=judged.verdict,
        fit=judged.fits,
        skill=None,
        warnings=(*warnings, *_resolution_warning(posterior, used_mm)),
        effective_samples=sum(target.effective for target in likelihood.known),
        iterations=found.iterations,
        posterior=posterior,
        real=made.real,
        priors=priors,
        settings=likelihood.scene.settings,
        therapies=therapies,
        refinement=made.refinement,
    )
    if settings.check_skill and len(visits) > 2:
        from twin.skill import held_out_skill  # which calibrates in its turn

        calibration = replace(calibration, skill=held_out_skill(tissue, visits, calibration))
    report("calibration", 1.0)
    _log.info("calibrated %d visits in %d steps", len(visits), found.iterations)
    return calibration


@dataclass(frozen=True)
class _Fitted:
    """A fit on the grid that its front needs.

    Parameters
    ----------
    found : Fit
        The fit.
    used : Problem
        What was given, on the grid of the fit.
    posterior, real : Posterior
        Of the parameters that fit best, and of the real ones; both the prior where the model is not acceptable.
    judged : Judgement
        Whether the model may be used.
    refinement : tuple of int
        How many times finer than the given grid.
    narrow_mm : float
        Width of the front that asked for it.
    """

    found: Fit
    used: Problem
    posterior: Posterior
    real: Posterior
    judged: Judgement
    refinement: Factors
    narrow_mm: float


def _fitted(given: Problem, scene: Scene, unknown: Posterior, futile: bool, report: Progress) -> _Fitted:
    """Fit, on a finer grid where the first look asks for it, and again where only the posterior does.

    The grid never becomes coarser again, so that a front near a voxel's width cannot go back and forth.
    """
    settings, used, factors, narrow = scene.settings, given, UNREFINED, math.nan
    begun, done, share = None, 0.3, 0.4
    if not futile:
        begun = look(scene, unknown, lambda part: report("calibration", 0.3 * part))
        factors, narrow = _needed(given, settings, factors, begun.minimum.position, narrow)
    while True:
        if factors != UNREFINED:
            used = refined(given.tissue, given.visits, given.therapies, factors)
            # the masks are no sharper on smaller voxels
            blurred = replace(settings, boundary_sd_mm=boundary_sd_mm(settings, given.tissue.spacing_mm))
            prepared = Tissue.prepare(used.tissue, used.visits, blurred)
            scene = Scene.build(prepared, used.visits, MARGINS_MM[0], blurred, therapies=used.therapies)
        found = fit(scene, used.visits, used.therapies, unknown, _part(report, done, share), begun=begun)
        done, share = done + share, share / 4.0
        likelihood, position = found.fine.likelihood, found.fine.minimum.position
        judged = judge(likelihood.scene, used.visits, likelihood.known, position)
        posterior = real = unknown
        finer, narrower = factors, narrow
        if judged.acceptable:
            finer, narrower = _needed(given, settings, factors, position, narrow)
            if finer == factors:  # else the draws would be thrown away
                posterior = _widened(_posterior(found, unknown), judged.unexplained)
                real = _with_discrepancy(posterior, found, unknown)
                finer, narrower = _needed(given, settings, factors, posterior.mean, narrow)
        report("calibration", done)
        if finer == factors:
            return _Fitted(found, used, posterior, real, judged, factors, narrow)
        factors, narrow, begun = finer, narrower, found.end


def _needed(
    given: Problem, settings: CalibrationSettings, factors: Factors, position: Vector, narrow_mm: float
) -> tuple[Factors, float]:
    """The refinement that the front at ``position`` needs beyond ``factors``, and the width that asked for it."""
    width = math.exp(position[LOG_WIDTH])
    finer = finest(factors, factors_for(given.tissue.spacing_mm, width, given.box_shape))
    return (finer, width) if settings.refine and finer != factors else (factors, narrow_mm)


def _part(report: Progress, done: float, share: float) -> Callable[[float], None]:
    """A report on a ``share`` of the work that comes after what is ``done``."""
    return lambda part: report("calibration", done + share * part)


def _posterior(found: Fit, unknown: Posterior) -> Posterior:
    """Laplace posterior of the parameters that fit best, its shape corrected by sampling."""
    fine, settings = found.fine, found.fine.likelihood.scene.settings
    mean, covariance = fine.minimum.position, np.linalg.inv(fine.minimum.at.hessian)
    draws, khat = None, math.nan
    if settings.importance_samples:
        # many solves on the coarse grid give the shape, the fine grid gives place and scale
        drawn = sample(
            found.coarse.likelihood, found.coarse.minimum, settings.importance_samples, settings.seed
        )
        coarse_root = np.linalg.cholesky(np.linalg.inv(found.coarse.minimum.at.hessian))
        standard = np.linalg.solve(coarse_root, (drawn.draws - found.coarse.minimum.position).T)
        draws, khat = mean + (np.linalg.cholesky(covariance) @ standard).T, drawn.khat
        mean, covariance = draws.mean(axis=0), np.cov(draws.T)
        draws = draws[evenly(draws[:, LOG_VELOCITY])]
    return Posterior(mean, covariance, unknown.coordinates, draws, khat)


def _widened(posterior: Posterior, unexplained: float) -> Posterior:
    """Standard deviations times the root of what the errors of the scans leave unexplained, when that is above one.

    Birge's ratio (R. T. Birge, Phys. Rev. 40, 1932). The prior is no bound: it knows of no growth but the model's.
    """
    factor = math.sqrt(max(unexplained, 1.0))
    draws = posterior.draws
    if draws is not None:
        draws = posterior.mean + factor * (draws - posterior.mean)
    return replace(posterior, covariance=factor**2 * posterior.covariance, draws=draws)


def _with_discrepancy(posterior: Posterior, found: Fit, unknown: Posterior) -> Posterior:
    """Posterior of the real parameters: widened by what no scan corrects, never beyond the prior.

    A forecast goes on with the parameters that fit best instead. What makes these differ from the real ones, tissue
    unlike its maps or a grid too coarse, acts before the last visit and after it alike.
    """
    covariance, draws = posterior.covariance, posterior.draws
    generator = np.random.default_rng(found.fine.likelihood.scene.settings.seed + 1)
    for direction, variance in _discrepancy(found):
        room = float(direction @ (unknown.covariance - covariance) @ direction)
        # half of it along either of the two coordinates that the direction adds up
        step = direction / 2.0 * math.sqrt(min(variance, max(room, 0.0)))
        covariance = covariance + np.outer(step, step)
        if draws is not None:
            draws = draws + generator.standard_normal((len(draws), 1)) * step
    return replace(posterior, covariance=covariance, draws=draws)


def _discrepancy(found: Fit) -> tuple[tuple[Vector, float], ...]:
    """Variances of log diffusivity and log proliferation that no scan removes, each with its direction.

    Beside model discrepancy, fronts that the grid makes too fast are mistaken for a lower diffusivity: their speed goes
    with its square root.
    """
    scene = found.fine.likelihood.scene
    settings = scene.settings
    grid = 2.0 * speed_excess(scene.spacing_mm, math.exp(found.fine.minimum.position[LOG_WIDTH]))
    unlike = _GOMPERTZ_DISCREPANCY if settings.growth_law == "gompertz" else (0.0, 0.0)
    velocity, width = np.eye(scene.coordinates.size)[[LOG_VELOCITY, LOG_WIDTH]]
    return (
        (velocity + width, settings.diffusivity_discrepancy**2 + grid**2 + unlike[0] ** 2),
        (velocity - width, settings.proliferation_discrepancy**2 + unlike[1] ** 2),
    )


def _estimates(posterior: Posterior, priors: Priors, acceptable: bool) -> tuple[ParameterEstimate, ...]:
    """Marginals in natural units; all are log-linear in the posterior's coordinates."""
    axes = np.eye(posterior.mean.size)
    velocity, width = axes[LOG_VELOCITY], axes[LOG_WIDTH]
    rows: list[tuple[str, str, LogNormal, Vector, float]] = [
        ("diffusivity", "mm2/d", priors.diffusivity, velocity + width, math.log(0.5)),
        ("proliferation", "/d", priors.proliferation, velocity - width, math.log(0.5)),
        ("front_velocity", "mm/d", priors.front_velocity, velocity, 0.0),
    ]
    for index, name in enumerate(posterior.coordinates.therapies, start=LOG_TAIL + 1):
        rows.append((name, _UNITS[name], priors.of(name), axes[index], 0.0))
    made = []
    for name, unit, prior, direction, offset in rows:
        sd = math.sqrt(float(direction @ posterior.covariance @ direction))
        if posterior.draws is None:
            middle = float(direction @ posterior.mean)
            low, high = middle - 1.96 * sd, middle + 1.96 * sd
        else:
            low, middle, high = np.quantile(posterior.draws @ direction, [0.025, 0.5, 0.975])
        contraction = min(sd / prior.sigma_log, 1.0)
        made.append(
            ParameterEstimate(
                name=name,
                unit=unit,
                estimate=math.exp(middle + offset),
                interval95=(math.exp(low + offset), math.exp(high + offset)),
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
    bare = [visit.day for visit in visits if not visit.has_margin]
    if bare:
        days = ", ".join(f"{day:g}" for day in bare)
        found.append(
            f"No tumour was segmented around the core on day {days}: it was taken for not drawn, so the core alone "
            "says where the tumour was. Draw the oedema too where the images show it."
        )
        if len(visits) > 2 and not (visits[-1].has_margin and visits[-2].has_margin):
            found.append("The model's skill was not checked: the last whole tumours were not segmented.")
    return tuple(found)


def _resolution_warning(posterior: Posterior, spacing_mm: tuple[float, float, float]) -> tuple[str, ...]:
    width, coarsest = math.exp(posterior.mean[LOG_WIDTH]), max(spacing_mm)
    if coarsest <= width:
        return ()
    return (
        f"The voxel of {coarsest:.2f} mm is wider than the front of {width:.2f} mm (square root of diffusivity over "
        "proliferation): simulated fronts run too fast.",
    )
