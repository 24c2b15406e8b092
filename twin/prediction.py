"""Forecast: posterior draws grown from the last visit."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from twin.conformal import Conformal, shipped
from twin.draws import Draw, draws_of, grain_fields, jitter_fields
from twin.ensemble import Grown, Starts, Sums, grow_draw, in_order
from twin.errors import TwinError
from twin.grid import Box
from twin.inputs import TissueMaps, TumourObservation, check_visits
from twin.past import Past
from twin.resolution import UNREFINED, Factors, averaged, refined, refined_therapies
from twin.results import Calibration, Forecast, GrowthCurve, HorizonForecast, Vector, VolumeEstimate
from twin.scene import Scene, Tissue, cropped, treated
from twin.treatment import Therapy
from twin.volumes import bands, no_change_and_trend, quantiles, segmented
from twin.wave import WaveProfile

Progress = Callable[[str, float], None]
_CURVE_POINTS = 6
# from 40 draws on the quantile of 2.5 % lies among them; all 64 would cost up to 10 % of a forecast more
_PAST_DRAWS = 40


def forecast(
    calibration: Calibration,
    tissue: TissueMaps,
    visits: Sequence[TumourObservation],
    horizons_days: Sequence[float],
    progress: Progress | None = None,
    *,
    therapies: Sequence[Therapy] | None = None,
    conformal: Conformal | None = None,
) -> Forecast:
    """Forecast density and volumes at horizons after the last visit.

    Every draw takes parameters and the boundary shifts of the last visit jointly from the posterior, a local jitter of
    the starting boundary, a change of pace, and the segmentation error of the day it forecasts. When the calibration
    is not acceptable although several visits exist, intervals are widened to hold persistence and the observed trend.

    Parameters
    ----------
    calibration : Calibration
        Of the same visits.
    tissue, visits
        As given to :func:`twin.calibrate`.
    horizons_days : sequence of float
        Days after the last visit, positive.
    progress : callable, optional
        Told a phase and the fraction done, 0..1.
    therapies : sequence of Therapy, optional
        Treatments on the calendar of the visits and the grid of ``tissue``; those of the calibration by default. Past
        ones act through what is left of their drugs, those from the last visit on as planned. The parameter of a
        therapy that the calibration did not know comes from its prior.
    conformal : Conformal, optional
        Factors on the intervals of volumes; those of the package by default.

    Raises
    ------
    TwinError
        If the horizons, visits or therapies cannot be used.
    """
    horizons = checked_horizons(calibration, tissue, visits, horizons_days)
    planned = checked_therapies(calibration, calibration.therapies if therapies is None else therapies)
    if calibration.refinement != UNREFINED:
        factors = calibration.refinement
        finer = refined(tissue, visits, calibration.therapies, factors)
        own = replace(calibration, therapies=finer.therapies, refinement=UNREFINED)
        later = refined_therapies(planned, factors, finer.box)
        found = forecast(
            own, finer.tissue, finer.visits, horizons, progress, therapies=later, conformal=conformal
        )
        return replace(
            found, horizons=tuple(_averaged(h, factors, finer.box, tissue.shape) for h in found.horizons)
        )
    conformal = conformal or shipped()
    report = progress or (lambda phase, fraction: None)
    draws = draws_of(calibration)
    days = _curve_days(horizons)
    future = Future.prepare(calibration, tissue, visits, draws, horizons[-1])
    sums = [Sums(future.scene) for _ in horizons]
    voxels = []
    report("forecast", 0.0)
    for number, grown in enumerate(future.grow(planned, days, horizons), start=1):
        voxels.append(grown.counts)
        for total, kept in zip(sums, grown.kept, strict=True):
            total.add(kept)
        report("forecast", 0.9 * number / len(draws))
    counts = np.stack(voxels, axis=1)
    volumes = segmented(counts, draws, visits[-1], tissue, calibration.settings)
    band = bands(volumes, conformal, no_change_and_trend(calibration, visits, days, tissue))
    past = _past_bands(future.past)
    report("forecast", 1.0)
    return Forecast(
        horizons=tuple(
            _horizon(total, tissue, visits[-1].day, h, band[..., days.index(h)], volumes[..., days.index(h)])
            for total, h in zip(sums, horizons, strict=True)
        ),
        curve=_curve(past, band, visits[-1].day, days),
        warnings=(
            *_warnings(calibration, visits),
            *_treatment_warnings(calibration, planned, visits, horizons[-1]),
        ),
        conformal=conformal,
    )


def _averaged(horizon: HorizonForecast, factors: Factors, box: Box, shape: Sequence[int]) -> HorizonForecast:
    """Maps of a finer grid on the given one."""
    return replace(
        horizon,
        density_mean=averaged(horizon.density_mean, factors, box, shape),
        density_sd=averaged(horizon.density_sd, factors, box, shape),
        probability_core=averaged(horizon.probability_core, factors, box, shape),
        probability_whole=averaged(horizon.probability_whole, factors, box, shape),
    )


def checked_horizons(
    calibration: Calibration,
    tissue: TissueMaps,
    visits: Sequence[TumourObservation],
    horizons_days: Sequence[float],
) -> list[float]:
    """The horizons in order, once they and the visits can be used.

    Raises
    ------
    TwinError
        ``bad_horizon``, ``bad_visit`` and those of :func:`twin.inputs.check_visits`.
    """
    check_visits(tissue, visits)
    horizons = sorted({float(h) for h in horizons_days})
    if not horizons or not all(0 < h < math.inf for h in horizons):
        raise TwinError(
            "bad_horizon", "Forecast horizons must be positive numbers of days after the last visit."
        )
    if calibration.posterior.coordinates.visits != len(visits):
        raise TwinError("bad_visit", "The calibration belongs to another number of visits.")
    return horizons


def checked_therapies(calibration: Calibration, therapies: Sequence[Therapy]) -> tuple[Therapy, ...]:
    """The therapies, once something is known of each one's parameter.

    Raises
    ------
    TwinError
        ``no_prior``.
    """
    for therapy in therapies:
        if therapy.parameter is not None:
            calibration.priors.of(therapy.parameter)
    return tuple(therapies)


@dataclass(frozen=True)
class Future:
    """Growth of all draws from the last visit on.

    Parameters
    ----------
    scene : Scene
        The box that the fastest draw can reach, without therapies.
    past : Past or None
        What came before; None with one visit.
    fronts : dict
        Profiles of the fronts at the last visit by number of the draw, as far as they were asked for.
    """

    scene: Scene
    draws: Sequence[Draw]
    starts: Starts
    start_day: float
    shift: int
    past: Past | None
    fronts: dict[int, WaveProfile | None] = field(default_factory=dict)

    @classmethod
    def prepare(
        cls,
        calibration: Calibration,
        tissue: TissueMaps,
        visits: Sequence[TumourObservation],
        draws: Sequence[Draw],
        horizon: float,
    ) -> "Future":
        """For ``horizon`` days."""
        prepared = Tissue.prepare(tissue, visits, calibration.settings)
        reach = max(draw.reach_mm(horizon) for draw in draws)
        # draws run side by side, so each sweep keeps to one thread
        scene = Scene.build(prepared, [visits[-1]], reach, calibration.settings, threads=1)
        settings = calibration.settings
        starts = Starts(scene, jitter_fields(scene, settings), grain_fields(scene, settings))
        shift = calibration.posterior.coordinates.shift(len(visits) - 1)
        past = Past.prepare(calibration, prepared, visits, draws) if len(visits) > 1 else None
        return cls(scene, draws, starts, visits[-1].day, shift, past)

    def grow(
        self, therapies: Sequence[Therapy], days: Sequence[float], keep: Sequence[float] = ()
    ) -> Iterator[Grown]:
        """Every draw under ``therapies``, in order; ``days`` and those to ``keep`` are days after the last visit."""
        scene = under(self.scene, therapies)
        when = [self.start_day + day for day in days]
        kept = [self.start_day + day for day in keep]

        def one(number: int) -> Grown:
            draw = self.draws[number]
            if number not in self.fronts:
                self.fronts[number] = None if self.past is None else self.past.front(number)
            start = self.starts.density(number, draw.position, self.shift, self.fronts[number])
            return grow_draw(scene, start, draw, when, self.start_day, kept)

        return in_order(one, range(len(self.draws)), torch.get_num_threads())


def under(scene: Scene, therapies: Sequence[Therapy]) -> Scene:
    """The scene with these treatments, which are given on the whole grid."""
    local = [cropped(therapy, scene.box.slices) for therapy in therapies]
    return replace(scene, model=scene.model.with_therapies(local))


def _curve_days(horizons: Sequence[float]) -> list[float]:
    """Horizons, the last visit, and days between where horizons lie far apart."""
    longest = horizons[-1] / _CURVE_POINTS
    days = [0.0]
    for horizon in horizons:
        parts = math.ceil((horizon - days[-1]) / longest - 1e-9)
        days += [days[-1] + (horizon - days[-1]) * part / parts for part in range(1, parts)] + [horizon]
    return days


def _past_bands(past: Past | None) -> tuple[Vector, Vector]:
    """Days and bands (2, 3, days) of the calibrated trajectory before the last visit."""
    if past is None:
        return np.zeros(0), np.zeros((2, 3, 0))
    seen = [visit.day for visit in past.visits]
    between = np.linspace(seen[0], seen[-1], _CURVE_POINTS, endpoint=False)
    days = sorted({*seen[:-1], *(float(day) for day in between)})
    chosen = range(min(_PAST_DRAWS, len(past.draws)))
    grown = in_order(lambda number: past.grow(number, days).counts, chosen, torch.get_num_threads())
    volumes = np.stack(list(grown), axis=1) * math.prod(past.scene.spacing_mm)
    return np.asarray(days), np.stack([quantiles(mask) for mask in volumes])


def _horizon(
    total: Sums, tissue: TissueMaps, last_day: float, horizon: float, band: Vector, volumes: Vector
) -> HorizonForecast:
    mean, deviation, likely_core, likely_whole = total.maps(tissue.shape)
    core, whole = (VolumeEstimate(float(b[1]), (float(b[0]), float(b[2]))) for b in band)
    return HorizonForecast(
        day=last_day + horizon,
        horizon_days=horizon,
        density_mean=mean,
        density_sd=deviation,
        probability_core=likely_core,
        probability_whole=likely_whole,
        volume_core_mm3=core,
        volume_whole_mm3=whole,
        volume_draws=volumes,
    )


def _curve(past: tuple[Vector, Vector], band: Vector, last_day: float, days: Sequence[float]) -> GrowthCurve:
    core, whole = np.concatenate([past[1], band], axis=2)
    return GrowthCurve(
        days=np.concatenate([past[0], last_day + np.asarray(days)]),
        core_lower=core[0],
        core_median=core[1],
        core_upper=core[2],
        whole_lower=whole[0],
        whole_median=whole[1],
        whole_upper=whole[2],
    )


def _warnings(calibration: Calibration, visits: Sequence[TumourObservation]) -> tuple[str, ...]:
    found = []
    if len(visits) == 1:
        found.append("The forecast follows the priors alone: one visit cannot show growth.")
    elif not calibration.acceptable:
        found.append(
            "The growth model does not explain the scans: the forecast follows the priors, and its intervals are "
            "widened to hold both no change and the trend between the last two visits."
        )
    if calibration.skill is not None:
        rules = {
            "assuming no change": calibration.skill.beats_persistence,
            "exponential growth": calibration.skill.beats_exponential,
        }
        better = [rule for rule, beaten in rules.items() if beaten is False]
        if not calibration.skill.acceptable:
            found.append(
                "The skill of the model is unknown: it does not explain the visits before the last alone, and the last "
                "one was forecast from the priors."
            )
        elif better:
            found.append(
                f"At the last visit, {' and '.join(better)} forecast the whole-tumour volume better than the model."
            )
    if not bool(visits[-1].core.any()):
        found.append("No core was segmented at the last visit: forecast core volumes have no starting point.")
    return tuple(found)


def _treatment_warnings(
    calibration: Calibration,
    planned: Sequence[Therapy],
    visits: Sequence[TumourObservation],
    horizon: float,
) -> tuple[str, ...]:
    guessed = unobserved(calibration, planned, visits, horizon)
    if not guessed:
        return ()
    return (
        f"The effect of planned treatment follows the prior of the {' and the '.join(guessed)}: no visit has shown it.",
    )


def unobserved(
    calibration: Calibration,
    therapies: Sequence[Therapy],
    visits: Sequence[TumourObservation],
    horizon: float,
) -> tuple[str, ...]:
    """Parameters that act in the ``horizon`` days after the last visit and that no treatment between visits shows."""
    first, last = visits[0].day, visits[-1].day
    shown = {
        therapy.parameter
        for therapy in calibration.therapies
        if calibration.acceptable and treated([therapy], first, last)
    }
    acting = {
        therapy.parameter
        for therapy in therapies
        if therapy.parameter is not None and treated([therapy], last, last + horizon)
    }
    return tuple(sorted(acting - shown))
