"""Simulation-based calibration of the twin's inference in its own model.

``python -m benchmarks.validation.self_consistency --patients 200 --out out/self-consistency``

Talts, Betancourt, Simpson, Vehtari and Gelman (arXiv:1804.06788): if parameters are drawn from the prior and scans
from the likelihood, the rank of the true value among posterior draws is uniform. Here every step is the twin's own: the
first masks are given, the tumour that they stand for has a front width, boundary shifts and local boundary errors drawn
from the twin's laws, its own solver grows it on its own grid, and the second masks are drawn with the same errors; so
are those that the forecast is scored on. Nothing is added for a discrepancy between model and patient, so whatever
bends the ranks is the inference itself: Laplace, sampling, the effective number of samples, the way masks are compared.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.validation import plots
from benchmarks.validation.anatomy import HALF_AXES_MM
from benchmarks.validation.observation import correlated
from benchmarks.validation.report import device
from benchmarks.validation.scenarios import WITHOUT_DISCREPANCY
from benchmarks.validation.statistics import Proportion, RankTest, Vector, probability_transform, rank_test
from benchmarks.validation.trial import UNSTRETCHED, tissue_maps, twin_version
from twin import CalibrationSettings, Priors, TissueMaps, TumourObservation, calibrate, forecast
from twin.coordinates import LOG_TAIL, LOG_VELOCITY, LOG_WIDTH
from twin.distance import continued, signed_distance
from twin.priors import LogNormal
from twin.results import Calibration
from twin.scene import Scene, Tissue, boundary_sd_mm, starting_width
from twin.solver import trajectory

SPACING_MM = 2.0
DAY, HORIZON = 60.0, 90.0
"""Of the second visit, and from there to the forecast."""
_WHOLE_RADIUS_MM, _RIM_MM = (10.0, 16.0), (3.0, 6.0)
PRIORS = Priors(LogNormal(0.3, 0.5), LogNormal(0.025, 0.4))
"""Fronts that the grid resolves: below a voxel the product computes on a finer one, which takes too long here."""
PARAMETERS = ("diffusivity", "proliferation", "front_velocity")
VOLUMES = ("core_volume", "whole_volume")
QUANTITIES = (*PARAMETERS, *VOLUMES)


@dataclass(frozen=True)
class Draw:
    """One virtual patient: true coordinates of the twin (see :class:`twin.coordinates.Coordinates`), two visits.

    ``later`` are the masks segmented ``HORIZON`` days after the second, ``densities`` the true ones of these two days
    on the box of ``scene``.
    """

    position: Vector
    visits: tuple[TumourObservation, TumourObservation]
    later: TumourObservation
    scene: Scene
    densities: tuple[torch.Tensor, torch.Tensor]


def settings_for(importance_samples: int, *, discrepancy: bool = False) -> CalibrationSettings:
    """The product's settings, by default without anything that stands for a wrong model."""
    less = {} if discrepancy else WITHOUT_DISCREPANCY
    return CalibrationSettings(importance_samples=importance_samples, check_skill=False, refine=False, **less)


def draw(number: int, seed: int, tissue: TissueMaps, settings: CalibrationSettings) -> Draw:
    """Patient ``number`` from prior and likelihood."""
    generator = np.random.default_rng([seed, number])
    first = _first_masks(tissue, generator)
    scene = Scene.build(Tissue.prepare(tissue, [first], settings), [first], math.inf, settings)
    shift_sd = boundary_sd_mm(settings, tissue.spacing_mm)
    mean, covariance = scene.coordinates.prior(PRIORS, shift_sd)
    position = mean + np.linalg.cholesky(covariance) @ generator.standard_normal(mean.size)
    shifts, local = shift_sd * generator.standard_normal(2), _local(scene, settings, generator, 4)
    where = scene.coordinates.shift(0)
    displaced = [position[where + n] + local[n] for n in (0, 1)]
    start = scene.density(0, starting_width(position), *displaced).to(scene.operator.dtype)
    values = {name: torch.tensor([value]) for name, value in scene.coordinates.physical(position).items()}
    seen, densities = [], []
    for day, grown in zip(
        (DAY, DAY + HORIZON),
        trajectory(scene.model, values, start[None, None], [DAY, DAY + HORIZON]),
        strict=True,
    ):
        density = grown[0, 0].clone()  # the solver goes on in place
        errors = [shift + field for shift, field in zip(shifts, local[2:], strict=True)]
        seen.append(masks_of(scene, tissue, day, density, errors))
        densities.append(density)
        shifts = shift_sd * generator.standard_normal(2)
        local = _local(scene, settings, generator, 4)
    return Draw(position, (first, seen[0]), seen[1], scene, (densities[0], densities[1]))


def masks_of(
    scene: Scene, tissue: TissueMaps, day: float, density: torch.Tensor, errors: Sequence[Any]
) -> TumourObservation:
    """Masks of a density whose boundaries lie ``errors`` (mm) inside the true ones."""
    thresholds = (scene.settings.core_threshold, scene.settings.whole_threshold)
    masks = [torch.zeros_like(tissue.domain) for _ in thresholds]
    for mask, threshold, inside in zip(masks, thresholds, errors, strict=True):
        mask[scene.box.slices] = _segmented(scene, density, threshold, inside)
    return TumourObservation(day, masks[0] & masks[1], masks[1])


def _first_masks(tissue: TissueMaps, generator: np.random.Generator) -> TumourObservation:
    """Lobed masks around a place in white matter: what is given, not modelled."""
    shape, spacing = tissue.domain.shape, tissue.spacing_mm[0]
    centre = generator.uniform(-0.4, 0.4, 3) * HALF_AXES_MM + np.array([0.0, 0.0, 14.0])
    axes = [(np.arange(n) + 0.5 - n / 2) * spacing - c for n, c in zip(shape, centre, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    distance = np.sqrt(x**2 + y**2 + z**2) + 1.5 * correlated(tuple(shape), 10.0 / spacing, generator)
    radius, rim = generator.uniform(*_WHOLE_RADIUS_MM), generator.uniform(*_RIM_MM)
    domain = tissue.domain
    whole, core = (torch.from_numpy(distance < reach) & domain for reach in (radius, radius - rim))
    return TumourObservation(0.0, core, whole)


def _local(
    scene: Scene, settings: CalibrationSettings, generator: np.random.Generator, count: int
) -> list[Any]:
    """Local displacements of boundaries, mm, of the law that forecasts give a starting boundary."""
    shape, length = tuple(scene.operator.domain.shape), settings.boundary_correlation_mm / SPACING_MM
    return [
        torch.from_numpy(settings.boundary_sd_mm * correlated(shape, length, generator)) for _ in range(count)
    ]


def _segmented(scene: Scene, density: torch.Tensor, threshold: float, inside: torch.Tensor) -> torch.Tensor:
    """Mask whose boundary lies ``inside`` (mm) that of a density."""
    mask = density > threshold
    if not bool(mask.any()):
        return mask
    domain = scene.operator.domain
    # what is displaced is the front, not the edge of the tissue
    (front,) = continued([mask], domain, scene.spacing_mm)
    return (signed_distance(front, scene.spacing_mm) < -inside) & domain


Scores = dict[str, tuple[float, bool]]
"""Rank of a true value among draws, and whether the 95 % interval holds it, by quantity."""


def scores_of_parameters(
    calibration: Calibration, position: Vector, generator: np.random.Generator
) -> Scores:
    """Scores of the parameters; without draws, ranks are among draws of the Gaussian posterior."""
    posterior = calibration.real
    draws = posterior.draws
    if draws is None:
        root = np.linalg.cholesky(posterior.covariance)
        draws = posterior.mean + generator.standard_normal((1000, posterior.mean.size)) @ root.T
    true = posterior.coordinates.physical(position[: posterior.mean.size])
    found = posterior.coordinates.physical(draws)
    found["front_velocity"], true["front_velocity"] = draws[:, LOG_VELOCITY], position[LOG_VELOCITY]
    inside = {entry.name: entry.interval95 for entry in calibration.parameters}
    natural = {**true, "front_velocity": math.exp(true["front_velocity"])}
    return {
        name: (
            probability_transform(found[name], true[name]),
            bool(inside[name][0] <= natural[name] <= inside[name][1]),
        )
        for name in PARAMETERS
    }


def scores_of_volumes(calibration: Calibration, tissue: TissueMaps, drawn: Draw) -> Scores:
    """Scores of the volumes that are segmented ``HORIZON`` days later; without the conformal factor."""
    (entry,) = forecast(calibration, tissue, drawn.visits, [HORIZON], conformal=UNSTRETCHED).horizons
    estimates, masks = (
        (entry.volume_core_mm3, entry.volume_whole_mm3),
        (drawn.later.core, drawn.later.whole),
    )
    made = {}
    for number, name in enumerate(VOLUMES):
        true = float(masks[number].sum()) * tissue.voxel_mm3
        low, high = estimates[number].interval95
        rank = probability_transform(np.asarray(entry.volume_draws[number], dtype=float), true)
        made[name] = (rank, low <= true <= high)
    return made


def one(number: int, seed: int, settings: CalibrationSettings) -> dict[str, Any]:
    """Row of one patient."""
    tissue = tissue_maps(True, SPACING_MM)
    drawn = draw(number, seed, tissue, settings)
    begun = time.process_time()
    calibration = calibrate(tissue, drawn.visits, PRIORS, settings)
    seconds = time.process_time() - begun
    generator = np.random.default_rng([seed, number, 1])
    scores = scores_of_parameters(calibration, drawn.position, generator)
    scores |= scores_of_volumes(calibration, tissue, drawn)
    position, mean = drawn.position, calibration.posterior.mean
    return {
        "patient": number,
        "acceptable": calibration.acceptable,
        "verdict": calibration.verdict,
        "seconds": seconds,
        "khat": calibration.posterior.khat,
        "ranks": {name: rank for name, (rank, _) in scores.items()},
        "inside": {name: held for name, (_, held) in scores.items()},
        "true": [float(position[n]) for n in (LOG_VELOCITY, LOG_WIDTH, LOG_TAIL)],
        "mean": [float(mean[n]) for n in (LOG_VELOCITY, LOG_WIDTH, LOG_TAIL)],
        "sd": [
            math.sqrt(calibration.posterior.covariance[n, n]) for n in (LOG_VELOCITY, LOG_WIDTH, LOG_TAIL)
        ],
    }


def rank_tests(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[list[float], RankTest]]:
    """Ranks and their test by quantity, of the accepted: see :func:`benchmarks.validation.summary.rank_tests`."""
    found = {name: [row["ranks"][name] for row in rows if row["acceptable"]] for name in QUANTITIES}
    return {name: (ranks, rank_test(ranks)) for name, ranks in found.items()}


def main() -> None:
    """Run the patients that are missing, score all."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.validation.self_consistency", description=__doc__
    )
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--importance", type=int, default=128, help="0 scores Laplace's approximation")
    parser.add_argument(
        "--discrepancy", action="store_true", help="add what the product adds for a wrong model"
    )
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows and the picture")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = settings_for(arguments.importance, discrepancy=arguments.discrepancy)
    kind = f"{arguments.importance}-{'product' if arguments.discrepancy else 'alone'}-{arguments.seed}"
    path = arguments.out / f"rows-{twin_version()}-{kind}.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    for number in range(len(rows), arguments.patients):
        rows.append(one(number, arguments.seed, settings))
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(rows[-1]) + "\n")
        print(f"\r{number + 1}/{arguments.patients}", end="", flush=True)
    rows = rows[: arguments.patients]
    accepted = [row for row in rows if row["acceptable"]]
    scored = rank_tests(rows)
    print()
    for name, (ranks, test) in scored.items():
        within = Proportion(sum(row["inside"][name] for row in accepted), len(accepted))
        low, high = within.interval
        print(
            f"{name:16} n {len(ranks)}  {'inside' if test.inside else 'leaves'} the 95 % band  "
            f"95 % interval covers {within.value:.3f} [{low:.3f}, {high:.3f}]  mean rank {np.mean(ranks):.3f}"
        )
    refused = len(rows) - len(accepted)
    seconds = np.median([row["seconds"] for row in rows])
    print(
        f"{refused} of {len(rows)} were refused and are left out; {seconds:.1f} CPU-seconds a calibration (median)"
    )
    print(f"twin {twin_version()}, {device()}")
    plots.rank_plots(scored, arguments.out / "self-consistency.png")


if __name__ == "__main__":
    main()
