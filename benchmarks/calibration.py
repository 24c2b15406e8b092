"""Calibration of growth and therapies, LM with Laplace and resampled: ``python -m benchmarks.calibration [--json]``.

Two problems. ``treated``: 77 x 116 x 36 voxels of 1.5 x 1.5 x 3 mm, five visits over 120 days, 30 fractions of 2 Gy and
42 daily doses of a drug, four growth and therapy parameters. ``fine``: 128 cubed at 1 mm, three visits over 180 days.
The visits come from our own solver in small steps, with boundaries that are off as segmentations are. The baseline is
101 solves by Runge-Kutta in plain torch, half-day steps, float64, as a published twin needs; one is measured.
"""

import argparse
import json
import math
import os
import resource
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from benchmarks.solver import copy_bandwidth, runge_kutta, timed
from twin import Calibration, CalibrationSettings, TissueMaps, TumourObservation, calibrate
from twin.distance import signed_distance
from twin.model import ReactionDiffusion
from twin.operator import DiffusionOperator
from twin.solver import trajectory
from twin.treatment import Chemotherapy, Radiotherapy, Therapy

TRUTH = {"diffusivity": 0.1, "proliferation": 0.05, "radiosensitivity": 0.015, "chemosensitivity": 0.05}
RUNGE_KUTTA_SOLVES = 101
"""Forward solves of a published four-parameter Levenberg-Marquardt fit with finite differences."""
SAMPLES = 512


@dataclass(frozen=True)
class Problem:
    """One virtual patient."""

    name: str
    maps: TissueMaps
    start: Tensor
    days: tuple[float, ...]
    therapies: tuple[Therapy, ...]

    def model(self, dtype: torch.dtype = torch.float32) -> ReactionDiffusion:
        """Growth model on the whole grid."""
        weight = self.maps.white_matter + self.maps.gray_matter / 10
        operator = DiffusionOperator.build(weight, self.maps.domain, self.maps.spacing_mm, dtype=dtype)
        return ReactionDiffusion(operator, therapies=self.therapies)

    def densities(self) -> list[Tensor]:
        """True densities of all visits."""
        model = self.model()
        values = {name: torch.tensor([TRUTH[name]]) for name in model.parameters}
        states = trajectory(model, values, self.start[None, None].float(), self.days, max_step=1.0)
        return [state[0, 0].clone() for state in states]

    def visits(self, seed: int = 1) -> list[TumourObservation]:
        """Masks whose boundary is off by a whole shift of 0.5 mm sd and a correlated local one of 0.7 mm sd."""
        generator, spacing = np.random.default_rng(seed), self.maps.spacing_mm
        made = []
        for day, density in zip(self.days, self.densities(), strict=True):
            noise = generator.standard_normal(tuple(density.shape))
            local = gaussian_filter(noise, [5.0 / 2**0.5 / h for h in spacing], mode="wrap")
            shift = torch.from_numpy(0.7 * local / local.std())
            masks = []
            for threshold in (0.6, 0.2):
                mask, whole = density > threshold, 0.5 * generator.standard_normal()
                masks.append(signed_distance(mask, spacing) < shift + whole if bool(mask.any()) else mask)
            made.append(TumourObservation(day, masks[0] & masks[1], masks[1]))
        return made


def problem(name: str) -> Problem:
    """``treated`` or ``fine``; see the module."""
    treated = name == "treated"
    shape, spacing = ((77, 116, 36), (1.5, 1.5, 3.0)) if treated else ((128,) * 3, (1.0,) * 3)
    axes = [
        (torch.arange(n, dtype=torch.float64) + 0.5) * h - n * h / 2
        for n, h in zip(shape, spacing, strict=True)
    ]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    half = [n * h / 2 for n, h in zip(shape, spacing, strict=True)]
    radius = ((x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / half[2]) ** 2).sqrt()
    domain = (radius < 1.0) & ((x / 8) ** 2 + ((y - 4) / 20) ** 2 + ((z - 2) / 10) ** 2 > 1)
    gray = torch.sigmoid((radius - 0.84) / 0.03) * domain
    maps = TissueMaps((domain * 1.0 - gray).clamp(0, 1).float(), gray.float(), domain, spacing)
    distance = ((x - 24) ** 2 + (y + 6) ** 2 + (z - 4) ** 2).sqrt()
    width = math.sqrt(TRUTH["diffusivity"] / TRUTH["proliferation"])
    start = torch.sigmoid((12.0 - distance) / width) * domain
    if not treated:
        return Problem(name, maps, start, (0.0, 90.0, 180.0), ())
    fractions = [10.0 + 7 * week + day for week in range(6) for day in range(5)]
    therapies = (
        Radiotherapy(fractions, [2.0] * 30),
        Chemotherapy([10.0 + day for day in range(42)], [75.0] * 42),
    )
    return Problem(name, maps, start, (0.0, 30.0, 60.0, 90.0, 120.0), therapies)


def measure(name: str, repeats: int, *, baseline: bool) -> dict[str, Any]:
    """Times, memory and what was found for one problem."""
    case = problem(name)
    visits = case.visits()
    # both fronts are about as wide as a voxel: the product may decide on a finer grid, which is another problem
    laplace = CalibrationSettings(check_skill=False, importance_samples=0, refine=False)

    def calibrated(settings: CalibrationSettings) -> Calibration:
        return calibrate(case.maps, visits, settings=settings, therapies=case.therapies)

    calibrated(laplace)
    before = resident_mib()
    seconds, fitted = timed(lambda: calibrated(laplace), repeats)
    sampled, posterior = timed(lambda: calibrated(replace(laplace, importance_samples=SAMPLES)), 1)
    row: dict[str, Any] = {
        "problem": name,
        "voxels": list(case.maps.shape),
        "visits": len(visits),
        "calibration_s": seconds,
        "steps": fitted.iterations,
        "with_posterior_s": sampled,
        "posterior_s": sampled - seconds,
        "importance_samples": SAMPLES,
        "khat": posterior.posterior.khat,
        "peak_memory_over_start_mib": peak_mib() - before,
        "peak_memory_mib": peak_mib(),
        "acceptable": fitted.acceptable,
        "parameters": {
            p.name: {"true": truth_of(p.name), "estimate": p.estimate, "interval95": p.interval95}
            for p in posterior.parameters
        },
    }
    if baseline:
        solve, _ = timed(lambda: one_published_solve(case), 1)
        row["runge_kutta_solve_s"] = solve
        row["runge_kutta_calibration_s"] = RUNGE_KUTTA_SOLVES * solve
        row["speedup"] = RUNGE_KUTTA_SOLVES * solve / seconds
    return row


def truth_of(name: str) -> float:
    """True value of a reported parameter."""
    if name == "front_velocity":
        return 2.0 * math.sqrt(TRUTH["diffusivity"] * TRUTH["proliferation"])
    return TRUTH[name]


def one_published_solve(case: Problem) -> Tensor:
    """Plain torch Runge-Kutta, half-day steps, float64, over all days of the visits; growth alone."""
    operator = case.model(torch.float64).operator
    return runge_kutta(operator, case.start.double(), days=case.days[-1])


def resident_mib() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def peak_mib() -> float:
    """Largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print tables or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--problems", nargs="+", choices=("treated", "fine"), default=["treated", "fine"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-baseline", action="store_true", help="leave out Runge-Kutta")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(name, options.repeats, baseline=not options.no_baseline) for name in options.problems]
    machine = {"threads": torch.get_num_threads(), "load_1min": os.getloadavg()[0]}
    machine["copy_gb_per_s"] = copy_bandwidth() / 1e9
    if options.json:
        print(json.dumps({"machine": machine, "calibration": rows}, indent=2))
        return
    print("  ".join(f"{name} {value:.4g}" for name, value in machine.items()))
    for row in rows:
        for name, value in row.items():
            if name != "parameters":
                print(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
        for name, found in row["parameters"].items():
            low, high = found["interval95"]
            print(f"  {name}: {found['estimate']:.4g} ({low:.4g} to {high:.4g}), true {found['true']:.4g}")


if __name__ == "__main__":
    main()
