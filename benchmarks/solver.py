"""Our solver against plain torch Runge-Kutta on one problem, in one run: ``python -m benchmarks.solver [--json]``.

The problem: an ellipsoidal head of 128 mm with a ventricle, diffusivity 0.1 mm2/day, proliferation 0.05 /day, 90 days.
The baseline is the classical fourth-order method with half-day steps in float64, as published twins use it. Errors are
relative L2 differences to our solver in float64 with eighth-day steps.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor

from twin.backends.torch_reference import divergence
from twin.operator import DiffusionOperator
from twin.solver import trajectory

DIFFUSIVITY, PROLIFERATION, DAYS, EXTENT_MM = 0.1, 0.05, 90.0, 128.0


def problem(voxels: int) -> tuple[float, Tensor, Tensor]:
    """Spacing (mm), domain and initial density of the benchmark on ``voxels`` cubed."""
    spacing = EXTENT_MM / voxels
    axis = (torch.arange(voxels, dtype=torch.float64) + 0.5) * spacing - EXTENT_MM / 2
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    ventricle = (x / 8) ** 2 + ((y - 4) / 20) ** 2 + ((z - 2) / 10) ** 2 <= 1
    domain = ((x / 56) ** 2 + (y / 60) ** 2 + (z / 48) ** 2 <= 1) & ~ventricle
    density = 0.8 * torch.exp(-((x - 22) ** 2 + (y + 6) ** 2 + (z - 4) ** 2) / 128)
    density[(density < 0.01) | ~domain] = 0
    return spacing, domain, density


def ours(
    operator: DiffusionOperator, density: Tensor, max_step: float = float("inf"), fields: int = 1
) -> Tensor:
    """Density after the benchmark's time."""
    initial = torch.zeros(1, fields, *density.shape, dtype=operator.dtype)
    initial[0, 0] = density
    parameters = (torch.tensor([v], dtype=torch.float64) for v in (DIFFUSIVITY, PROLIFERATION))
    (state,) = trajectory(operator, *parameters, initial, [DAYS], max_step=max_step)
    return state[0, 0].clone()


def runge_kutta(operator: DiffusionOperator, density: Tensor, step: float = 0.5) -> Tensor:
    """The same right-hand side by the classical fourth-order method."""

    def slope(u: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(u, (1,) * 6)
        return DIFFUSIVITY * divergence(padded, operator.faces) + PROLIFERATION * u * (1 - u)

    u = density.to(operator.dtype)
    for _ in range(round(DAYS / step)):
        a = slope(u)
        b = slope(u + step / 2 * a)
        c = slope(u + step / 2 * b)
        u = u + step / 6 * (a + 2 * b + 2 * c + slope(u + step * c))
    return u


def timed(function: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    """Least wall time of ``repeats`` runs, s, and the result."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - begin)
    return min(times), result


def measure(voxels: int, repeats: int) -> dict[str, float]:
    """All figures for one grid."""
    spacing, domain, density = problem(voxels)

    def built(dtype: torch.dtype) -> DiffusionOperator:
        return DiffusionOperator.build(torch.ones(domain.shape), domain, (spacing,) * 3, dtype=dtype)

    single, double = built(torch.float32), built(torch.float64)
    first, _ = timed(lambda: ours(single, density), 1)
    forward, result = timed(lambda: ours(single, density), repeats)
    tangents, _ = timed(lambda: ours(single, density, fields=5), repeats)
    baseline, classical = timed(lambda: runge_kutta(double, density), 1)
    reference = ours(double, density, max_step=0.125)

    def error(u: Tensor) -> float:
        return float((u.double() - reference).norm() / reference.norm())

    return {
        "voxels": voxels,
        "first_call_s": first,
        "forward_s": forward,
        "forward_and_4_tangents_s": tangents,
        "relative_error": error(result),
        "total_mm3": float(result.double().sum()) * spacing**3,
        "runge_kutta_s": baseline,
        "runge_kutta_relative_error": error(classical),
        "speedup": baseline / forward,
    }


def main() -> None:
    """Print the table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solver", description=__doc__)
    parser.add_argument(
        "--voxels", type=int, nargs="+", default=[32, 64], help="grid sizes; the full one is 128"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(voxels, options.repeats) for voxels in options.voxels]
    machine = {
        "threads": torch.get_num_threads(),
        "load_1min": os.getloadavg()[0],
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if options.json:
        print(json.dumps({"machine": machine, "forward": rows}, indent=2))
        return
    print(", ".join(f"{name} {value:.4g}" for name, value in machine.items()))
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
