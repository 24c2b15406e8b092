"""The solver against memory bandwidth and against plain torch Runge-Kutta: ``python -m benchmarks.solver [--json]``.

The problem: an ellipsoidal head of 128 mm with a ventricle, diffusivity 0.1 mm2/day, proliferation 0.05 /day, 90 days,
with and without radio- and chemotherapy. The baseline is the classical fourth-order method with half-day steps in
float64 and plain torch, as published twins use it. Errors are relative L2 differences to our solver in float64 with
quarter-day steps on the same grid. Floors come from the copy bandwidth measured in the same run.
"""

import argparse
import json
import math
import os
import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from twin.backends import Reaction
from twin.backends.torch_reference import divergence
from twin.grid import bounding_box
from twin.model import ReactionDiffusion
from twin.operator import DiffusionOperator
from twin.solver import bound, march, padded
from twin.stepping import plan, scheme
from twin.treatment import Chemotherapy, Radiotherapy

DIFFUSIVITY, PROLIFERATION, DAYS, EXTENT_MM = 0.1, 0.05, 90.0, 128.0
PUBLISHED_MM3 = {
    ("none", 30): 15838.36,
    ("none", 90): 56437.42,
    ("treated", 30): 1680.59,
    ("treated", 90): 2368.19,
}
"""Totals of a published twin on 64 voxels cubed, whose boundary gains mass: a per cent of difference is expected."""
_FLOATS_A_STEP = 6
"""Memory traffic of a voxel in a dense step: three faces and the density read, the result allocated and written."""


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


def therapies(days: float) -> tuple[Radiotherapy, Chemotherapy]:
    """30 fractions of 2 Gy from day 10, five a week, and a daily dose on days 10 to 51, those before ``days``."""
    fractions = [float(10 + 7 * (n // 5) + n % 5) for n in range(30)]
    doses = [float(day) for day in range(10, 52)]
    fractions, doses = ([day for day in some if day < days] for some in (fractions, doses))
    return Radiotherapy(fractions, [2.0] * len(fractions)), Chemotherapy(doses, [75.0] * len(doses))


def model_on(voxels: int, dtype: torch.dtype, days: float | None = None) -> tuple[ReactionDiffusion, Tensor]:
    """The model, treated if ``days`` are given, and its initial density."""
    spacing, domain, density = problem(voxels)
    operator = DiffusionOperator.build(torch.ones(domain.shape), domain, (spacing,) * 3, dtype=dtype)
    return ReactionDiffusion(operator, therapies=() if days is None else therapies(days)), density


def ours(
    model: ReactionDiffusion,
    density: Tensor,
    *,
    days: float = DAYS,
    fields: int = 1,
    members: int = 1,
    max_step: float = float("inf"),
) -> Tensor:
    """Density of the first member on the box that holds it."""
    initial = torch.zeros(members, fields, *density.shape, dtype=model.operator.dtype)
    initial[:, 0] = density
    values = {"diffusivity": DIFFUSIVITY, "proliferation": PROLIFERATION}
    values |= {"radiosensitivity": 0.05, "chemosensitivity": 0.2}
    parameters = {
        name: torch.full((members,), values[name], dtype=torch.float64) for name in model.parameters
    }
    (grown,) = march(model, parameters, initial, [days], max_step=max_step)
    return grown.fields[0, 0]


def on_whole(model: ReactionDiffusion, density: Tensor, **options: Any) -> Tensor:
    """The same on the whole grid, float64."""
    initial = density[None, None].to(model.operator.dtype)
    values = {"diffusivity": DIFFUSIVITY, "proliferation": PROLIFERATION}
    parameters = {name: torch.tensor([value]) for name, value in values.items()}
    (grown,) = march(model, parameters, initial, [DAYS], **options)
    whole = torch.zeros(density.shape, dtype=torch.float64)
    whole[grown.box.slices] = grown.fields[0, 0].double()
    return whole


def runge_kutta(
    operator: DiffusionOperator, density: Tensor, days: float = DAYS, step: float = 0.5
) -> Tensor:
    """The same right-hand side by the classical fourth-order method."""

    def slope(u: Tensor) -> Tensor:
        around = torch.nn.functional.pad(u, (1,) * 6)
        return DIFFUSIVITY * divergence(around, operator.faces) + PROLIFERATION * u * (1 - u)

    u = density.to(operator.dtype)
    for _ in range(round(days / step)):
        a = slope(u)
        b = slope(u + step / 2 * a)
        c = slope(u + step / 2 * b)
        u = u + step / 6 * (a + 2 * b + 2 * c + slope(u + step * c))
    return u


def sampled_drug(operator: DiffusionOperator, density: Tensor, days: float, step: float = 0.5) -> Tensor:
    """The treated problem as published: 3/8-rule steps that sample the drug's concentration four times each.

    A half-life of 1.8 h is far below half a day, and the last sample of a step sees the dose that only then begins, so
    every dose kills about 60 % too much.
    """
    radio, drug = therapies(days)
    survival = torch.exp(torch.tensor(-0.05 * 2.0 * 1.2, dtype=torch.float64))

    def slope(u: Tensor, day: float) -> Tensor:
        around = torch.nn.functional.pad(u, (1,) * 6)
        concentration = sum(math.exp(-drug.decay_rate * (day - when)) for when in drug.days if when <= day)
        growth = PROLIFERATION * u * (1 - u) - 0.2 * concentration * u
        return DIFFUSIVITY * divergence(around, operator.faces) + growth

    u = density.to(operator.dtype)
    for number in range(round(days / step)):
        day = number * step
        if day in radio.days:
            u = u * survival
        a = slope(u, day)
        b = slope(u + step / 3 * a, day + step / 3)
        c = slope(u + step * (b - a / 3), day + 2 * step / 3)
        u = u + step / 8 * (a + 3 * b + 3 * c + slope(u + step * (a - b + c), day + step))
    return u


def timed(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Least wall time of ``repeats`` runs, s, and the result."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - begin)
    return min(times), result


def copy_bandwidth() -> float:
    """Bytes read and written a second by copying 128 MiB with all threads."""
    source = torch.zeros(2**25)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds, _ = timed(lambda: target.copy_(source), 10)
    return 2 * source.numel() * source.element_size() / seconds


def dense_sweep(voxels: int, bandwidth: float, repeats: int) -> dict[str, float]:
    """One step over every voxel of a full cube against what its memory traffic would take at copy bandwidth."""
    operator = DiffusionOperator.build(
        torch.ones((voxels,) * 3), torch.ones((voxels,) * 3, dtype=torch.bool), (1.0, 1.0, 1.0)
    )
    model = ReactionDiffusion(operator)
    sweeps = bound(model, bounding_box(operator.domain))
    state = padded(operator, 0.5 * torch.rand(1, 1, voxels, voxels, voxels))
    out = torch.zeros_like(state)
    reaction = Reaction.none(1, 1)
    reaction.table[:, 0] = 0.05
    coefficients = torch.tensor([scheme(2)], dtype=torch.float64)
    coefficients[..., 3] *= 0.15
    seconds, _ = timed(lambda: sweeps.step(out, state, coefficients, reaction), 3 * repeats)
    floor = 4 * _FLOATS_A_STEP * voxels**3 / bandwidth
    return {"voxels": voxels, "step_s": seconds, "floor_s": floor, "share_of_copy_bandwidth": floor / seconds}


def measure(voxels: int, repeats: int, bandwidth: float, *, baseline: bool) -> dict[str, float]:
    """All figures for one grid."""
    model, density = model_on(voxels, torch.float32)
    double, _ = model_on(voxels, torch.float64)
    first, _ = timed(lambda: ours(model, density), 1)
    forward, result = timed(lambda: ours(model, density), repeats)
    tangents, _ = timed(lambda: ours(model, density, fields=5), repeats)
    exact = on_whole(double, density, max_step=0.25)
    found = on_whole(model, density)
    row_sum = model.operator.row_sum
    chosen = plan(DAYS, DIFFUSIVITY, PROLIFERATION, row_sum, DAYS, float("inf"))
    row = {
        "voxels": voxels,
        "first_call_s": first,
        "forward_s": forward,
        "steps": chosen.steps,
        "stages": chosen.stages,
        "dense_floor_s": chosen.steps * 4 * _FLOATS_A_STEP * voxels**3 / bandwidth,
        "forward_and_4_tangents_s": tangents,
        "tangents_over_forward": tangents / forward,
        "relative_error": float((found - exact).norm() / exact.norm()),
        "total_mm3": float(result.double().sum()) * (EXTENT_MM / voxels) ** 3,
    }
    if baseline:
        seconds, classical = timed(lambda: runge_kutta(double.operator, density), 1)
        row["runge_kutta_s"] = seconds
        row["runge_kutta_relative_error"] = float((classical - exact).norm() / exact.norm())
        row["speedup"] = seconds / forward
    return row


def growth_of_cost(repeats: int) -> dict[str, list[dict[str, float]]]:
    """Seconds against grid, horizon, tangents and batch."""
    model, density = model_on(64, torch.float32)
    table: dict[str, list[dict[str, float]]] = {"grid": [], "horizon": [], "tangents": [], "batch": []}
    for voxels in (32, 48, 64, 96):
        other, start = model_on(voxels, torch.float32)
        table["grid"].append({"voxels": voxels, "s": timed(lambda m=other, u=start: ours(m, u), repeats)[0]})
    for days in (30.0, 90.0, 180.0, 360.0):
        table["horizon"].append(
            {"days": days, "s": timed(lambda d=days: ours(model, density, days=d), repeats)[0]}
        )
    for fields in (1, 3, 5, 7):
        seconds = timed(lambda f=fields: ours(model, density, fields=f), repeats)[0]
        table["tangents"].append({"tangents": fields - 1, "s": seconds})
    for members in (1, 4, 16):
        seconds = timed(lambda b=members: ours(model, density, members=b), repeats)[0]
        table["batch"].append({"members": members, "s": seconds, "s_a_member": seconds / members})
    return table


def treated(repeats: int, *, baseline: bool) -> list[dict[str, float | str]]:
    """Totals with and without treatment on 64 voxels cubed beside the published ones.

    The published treated totals are met by sampling the drug as published (the last row), not by integrating it.
    """
    rows: list[dict[str, float | str]] = []
    for (arm, days), published in PUBLISHED_MM3.items():
        model, density = model_on(64, torch.float32, days if arm == "treated" else None)
        ours(model, density, days=days)
        seconds, result = timed(lambda m=model, u=density, d=days: ours(m, u, days=d), repeats)
        total = float(result.double().sum()) * 8.0
        rows.append(
            {
                "arm": arm,
                "days": days,
                "s": seconds,
                "total_mm3": total,
                "published_mm3": published,
                "difference_percent": 100 * (total / published - 1),
            }
        )
    if baseline:
        model, density = model_on(64, torch.float64)
        total = float(sampled_drug(model.operator, density, 30.0).sum()) * 8.0
        published = PUBLISHED_MM3["treated", 30]
        difference = 100 * (total / published - 1)
        rows.append(
            {"arm": "drug sampled as published", "days": 30, "total_mm3": total, "published_mm3": published}
        )
        rows[-1]["difference_percent"] = difference
    return rows


def main() -> None:
    """Print tables or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solver", description=__doc__)
    parser.add_argument("--voxels", type=int, nargs="+", default=[64, 128], help="grid sizes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--no-baseline", action="store_true", help="leave out Runge-Kutta, which takes a minute at 128"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bandwidth = copy_bandwidth()
    found = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "load_1min": os.getloadavg()[0],
            "copy_gb_per_s": bandwidth / 1e9,
        },
        "dense_sweep": [dense_sweep(128, bandwidth, options.repeats)],
        "forward": [
            measure(voxels, options.repeats, bandwidth, baseline=not options.no_baseline)
            for voxels in options.voxels
        ],
        "treated": treated(options.repeats, baseline=not options.no_baseline),
        **growth_of_cost(options.repeats),
    }
    found["peak_memory_mib"] = [{"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}]
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for title, rows in found.items():
        print(title)
        for row in rows if isinstance(rows, list) else [rows]:
            print(
                "  "
                + "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
            )


if __name__ == "__main__":
    main()
