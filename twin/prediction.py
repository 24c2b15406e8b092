"""Forecast: posterior draws grown from the last visit."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import norm, qmc
from torch import Tensor

from twin.errors import TwinError
from twin.grid import Box, bounding_box, surface_mm2, voxels
from twin.inputs import TissueMaps, TumourObservation, check_visits
from twin.results import (
    Calibration,
    Forecast,
    GrowthCurve,
    HorizonForecast,
    Vector,
    VolumeEstimate,
)
from twin.scene import (
    FIRST_SHIFT,
    LOG_VELOCITY,
    LOG_WIDTH,
    Scene,
    Tissue,
    boundary_sd_mm,
    physical,
    starting_width,
)
from twin.settings import CalibrationSettings
from twin.solver import trajectory

Progress = Callable[[str, float], None]
_FRONT_WIDTHS = 8.0
# Density that counts as nothing; what lies ``_FRONT_WIDTHS`` beyond it is a thousand times less.
_TRACE = 1e-5
_CURVE_POINTS = 12
_PAST_DRAWS = 16


def forecast(
    calibration: Calibration,
    tissue: TissueMaps,
    visits: Sequence[TumourObservation],
    horizons_days: Sequence[float],
    progress: Progress | None = None,
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

    Raises
    ------
    TwinError
        If the horizons or visits cannot be used.
    """
    check_visits(tissue, visits)
    horizons = sorted({float(h) for h in horizons_days})
    if not horizons or horizons[0] <= 0 or not math.isfinite(horizons[-1]):
        raise TwinError(
            "bad_horizon", "Forecast horizons must be positive numbers of days after the last visit."
        )
    if calibration.posterior.mean.size != FIRST_SHIFT + 2 * len(visits):
        raise TwinError("bad_visit", "The calibration belongs to another number of visits.")
    report = progress or (lambda phase, fraction: None)
    prepared = Tissue.prepare(tissue, visits, calibration.settings)
    draws = _draw(calibration, len(visits))
    days = sorted({*horizons, *(horizons[-1] * np.arange(_CURVE_POINTS + 1) / _CURVE_POINTS)})
    future = _Ensemble.empty(tissue, horizons, calibration.settings)
    last = visits[-1]
    reach = max(_reach_mm(draw, horizons[-1]) for draw in draws)
    # draws run side by side, so each sweep keeps to one thread
    scene = Scene.build(prepared, [last], reach, calibration.settings, threads=1)
    jitter = _jitter_fields(scene, calibration.settings)
    report("forecast", 0.0)
    grow = partial(_grow, scene, last, days, horizons)
    workers = torch.get_num_threads()
    with ThreadPoolExecutor(workers, thread_name_prefix="twin-draw") as pool:
        # a few at a time, since every finished draw holds its densities until it is added
        for first in range(0, len(draws), 2 * workers):
            some = range(first, min(first + 2 * workers, len(draws)))
            for number, grown in zip(
                some,
                pool.map(grow, (draws[n] for n in some), (jitter[n % len(jitter)] for n in some)),
                strict=True,
            ):
                future.add(grown)
                report("forecast", 0.9 * (number + 1) / len(draws))
    volumes = [_segmented(future, draws, mask, last, tissue, calibration.settings) for mask in (0, 1)]
    past = _past(calibration, prepared, visits, draws)
    hull = _hull(calibration, visits, days, tissue)
    bands = [_band(volumes[mask], hull[mask]) for mask in (0, 1)]
    report("forecast", 1.0)
    return Forecast(
        horizons=tuple(
            _horizon(future, index, last.day, [bands[m][:, days.index(h)] for m in (0, 1)])
            for index, h in enumerate(horizons)
        ),
        curve=_curve(past, bands, last.day, days),
        warnings=_warnings(calibration, visits),
    )


@dataclass(frozen=True)
class _Draw:
    """One joint sample: parameters, boundary shifts (mm) of every visit, change of pace, segmentation errors."""

    position: Vector
    pace: float
    error: Vector

    @property
    def parameters(self) -> tuple[float, float]:
        diffusivity, proliferation = physical(self.position)
        return diffusivity * self.pace, proliferation * self.pace


def _draw(calibration: Calibration, visits: int) -> list[_Draw]:
    """Draws by a scrambled Sobol sequence, more even than independent ones."""
    posterior, settings = calibration.posterior, calibration.settings
    size = posterior.mean.size
    engine = qmc.Sobol(size + 3, scramble=True, rng=settings.seed)
    uniform = engine.random_base2((settings.samples - 1).bit_length())[: settings.samples].clip(
        1e-6, 1 - 1e-6
    )
    normal = norm.ppf(uniform)
    root = np.linalg.cholesky(posterior.covariance)
    draws = []
    for row in normal:
        position = posterior.mean + root @ row[:size]
        draws.append(_Draw(position, math.exp(settings.growth_discrepancy * row[size]), row[size + 1 :]))
    return draws


def _reach_mm(draw: _Draw, days: float) -> float:
    """Distance that a front travels, with its tail."""
    velocity, width = math.exp(draw.position[LOG_VELOCITY]) * draw.pace, math.exp(draw.position[LOG_WIDTH])
    return velocity * days + _FRONT_WIDTHS * width + 3.0


@dataclass
class _Ensemble:
    """Running sums over draws on the full grid, and the volumes of every draw."""

    horizons: list[float]
    settings: CalibrationSettings
    voxel_mm3: float
    sums: list[dict[str, Tensor]]
    volumes: list[list[tuple[float, float]]] = field(default_factory=list)

    @classmethod
    def empty(cls, tissue: TissueMaps, horizons: list[float], settings: CalibrationSettings) -> "_Ensemble":
        names = ("density", "square", "core", "whole")
        sums = [{name: torch.zeros(tissue.shape) for name in names} for _ in horizons]
        return cls(horizons, settings, tissue.voxel_mm3, sums)

    def add(self, grown: "_Grown") -> None:
        """Take in one draw."""
        self.volumes.append([(core * self.voxel_mm3, whole * self.voxel_mm3) for core, whole in grown.counts])
        for sums, density in zip(self.sums, grown.densities, strict=True):
            core, whole = density > self.settings.core_threshold, density > self.settings.whole_threshold
            for name, value in (
                ("density", density),
                ("square", density**2),
                ("core", core),
                ("whole", whole),
            ):
                sums[name][grown.box.slices] += value


@dataclass(frozen=True)
class _Grown:
    """One draw: voxels of core and whole tumour on every day, densities on ``box`` at the horizons."""

    box: Box
    counts: list[tuple[int, int]]
    densities: list[Tensor]


def _grow(
    scene: Scene,
    last: TumourObservation,
    days: list[float],
    horizons: list[float],
    draw: _Draw,
    jitter: Tensor,
) -> _Grown:
    """Grow one draw from the last visit, on its own box; cells the front cannot reach in time are not visited."""
    settings, tissue = scene.settings, scene.tissue
    box = Box.around(last.whole, _reach_mm(draw, days[-1]), tissue.spacing_mm, tissue.limit)
    core, whole = draw.position[-2], draw.position[-1]
    start = scene.density(0, starting_width(draw.position), core + jitter, whole + jitter)
    part = box.within(scene.box)
    operator = scene.operator.crop(part)
    density = start[part].to(operator.dtype).clone()
    limit = bounding_box(torch.ones_like(operator.domain))
    diffusivity, proliferation = (torch.tensor([value]) for value in draw.parameters)
    now, counts, densities = 0.0, [], []
    for day in days:
        active = Box.around(density > _TRACE, _reach_mm(draw, day - now), tissue.spacing_mm, limit).slices
        fields = density[active][None, None]
        (grown,) = trajectory(operator.crop(active), diffusivity, proliferation, fields, [day - now])
        density[active] = grown[0, 0]
        now = day
        counts.append(
            (
                voxels(density[active] > settings.core_threshold),
                voxels(density[active] > settings.whole_threshold),
            )
        )
        if day in horizons:
            densities.append(density.float().clone())
    return _Grown(box, counts, densities)


def _jitter_fields(scene: Scene, settings: CalibrationSettings) -> list[Tensor]:
    """Correlated displacements of the starting boundary (mm) with mean zero over the tumour's surroundings."""
    generator = np.random.default_rng(settings.seed)
    spacing = scene.tissue.spacing_mm
    sigma = [settings.boundary_correlation_mm / math.sqrt(2.0) / h for h in spacing]
    sd = boundary_sd_mm(settings, spacing)
    near = scene.distances[0].whole.abs() < 3.0 * max(spacing)
    inside = np.ix_(*(np.unique(axis) for axis in near.nonzero().numpy().T))
    fields = []
    for _ in range(settings.initial_ensemble):
        whole = np.zeros(near.shape)
        shape = tuple(index.size for index in inside)
        smooth = gaussian_filter(generator.standard_normal(shape), sigma, mode="wrap", truncate=3.0)
        whole[inside] = smooth * (sd / smooth.std())
        fields.append(torch.from_numpy(whole))
    return fields


def _segmented(
    future: _Ensemble,
    draws: Sequence[_Draw],
    mask: int,
    last: TumourObservation,
    tissue: TissueMaps,
    settings: CalibrationSettings,
) -> Vector:
    """Volumes (draws, days) as a segmentation would report them: surface times a random shift is added."""
    volumes = np.array([[pair[mask] for pair in one] for one in future.volumes])
    seen = (last.core, last.whole)[mask]
    if not bool(seen.any()):
        return volumes
    # surface of a body of the same shape but another volume
    surface = surface_mm2(seen, tissue.spacing_mm) * (volumes / (float(seen.sum()) * tissue.voxel_mm3)) ** (
        2 / 3
    )
    errors = np.array([draw.error[mask] for draw in draws])[:, None] * boundary_sd_mm(
        settings, tissue.spacing_mm
    )
    return np.asarray((volumes + surface * errors).clip(min=0.0))


def _band(volumes: Vector, hull: tuple[Vector, Vector] | None) -> Vector:
    """Lower bound, median and upper bound by day, (3, days)."""
    lower, median, upper = np.quantile(volumes, [0.025, 0.5, 0.975], axis=0, method="weibull")
    if hull is not None:
        lower, upper = np.minimum(lower, hull[0]), np.maximum(upper, hull[1])
    return np.stack([lower, median, upper])


def _hull(
    calibration: Calibration, visits: Sequence[TumourObservation], days: Sequence[float], tissue: TissueMaps
) -> list[tuple[Vector, Vector] | None]:
    """Smallest and largest of persistence and observed trend, where the model does not explain the scans."""
    if calibration.acceptable or len(visits) < 2:
        return [None, None]
    elapsed, made = visits[-1].day - visits[-2].day, list[tuple[Vector, Vector] | None]()
    for name in ("core", "whole"):
        before, now = (float(getattr(visit, name).sum()) * tissue.voxel_mm3 for visit in visits[-2:])
        ratio = min(max(now / before, 0.05), 20.0) if before else 1.0
        trend = now * ratio ** (np.asarray(days) / elapsed)
        made.append((np.minimum(now, trend), np.maximum(now, trend)))
    return made


def _past(
    calibration: Calibration, prepared: Tissue, visits: Sequence[TumourObservation], draws: Sequence[_Draw]
) -> tuple[Vector, Vector]:
    """Days and bands (2, 3, days) of the calibrated trajectory before the last visit."""
    settings, first = calibration.settings, visits[0]
    elapsed = [visit.day - first.day for visit in visits[:-1]]
    if not elapsed:
        return np.zeros(0), np.zeros((2, 3, 0))
    between = np.linspace(0.0, visits[-1].day - first.day, _CURVE_POINTS, endpoint=False)
    days = sorted({*elapsed, *(float(day) for day in between)})
    chosen = draws[:_PAST_DRAWS]
    scene = Scene.build(prepared, visits, max(_reach_mm(draw, days[-1]) for draw in chosen), settings)
    voxel = math.prod(prepared.spacing_mm)
    volumes = np.zeros((2, len(chosen), len(days)))
    for number, draw in enumerate(chosen):
        position = draw.position
        diffusivity, proliferation = (torch.tensor([value]) for value in physical(position))
        start = scene.density(0, starting_width(position), position[FIRST_SHIFT], position[FIRST_SHIFT + 1])
        states = trajectory(scene.operator, diffusivity, proliferation, start[None, None], days)
        for index, state in enumerate(states):
            for mask, threshold in enumerate((settings.core_threshold, settings.whole_threshold)):
                volumes[mask, number, index] = voxels(state > threshold) * voxel
    return np.asarray(days) + first.day, np.stack([_band(one, None) for one in volumes])


def _horizon(future: _Ensemble, index: int, last_day: float, bands: Sequence[Vector]) -> HorizonForecast:
    sums, count = future.sums[index], len(future.volumes)
    mean = sums["density"] / count
    core, whole = (VolumeEstimate(float(b[1]), (float(b[0]), float(b[2]))) for b in bands)
    return HorizonForecast(
        day=last_day + future.horizons[index],
        horizon_days=future.horizons[index],
        density_mean=mean,
        density_sd=(sums["square"] / count - mean**2).clamp(min=0.0).sqrt(),
        probability_core=sums["core"] / count,
        probability_whole=sums["whole"] / count,
        volume_core_mm3=core,
        volume_whole_mm3=whole,
    )


def _curve(
    past: tuple[Vector, Vector], bands: Sequence[Vector], last_day: float, days: Sequence[float]
) -> GrowthCurve:
    joined = [np.concatenate([past[1][mask], bands[mask]], axis=1) for mask in (0, 1)]
    return GrowthCurve(
        days=np.concatenate([past[0], last_day + np.asarray(days)]),
        core_lower=joined[0][0],
        core_median=joined[0][1],
        core_upper=joined[0][2],
        whole_lower=joined[1][0],
        whole_median=joined[1][1],
        whole_upper=joined[1][2],
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
    if calibration.skill is not None and not calibration.skill.beats_persistence:
        found.append(
            "At the last visit, assuming no change forecast the whole-tumour volume better than the model."
        )
    if not bool(visits[-1].core.any()):
        found.append("No core was segmented at the last visit: forecast core volumes have no starting point.")
    return tuple(found)
