"""Forward solution of the growth model and of its tangents."""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from twin.errors import TwinError
from twin.operator import DiffusionOperator
from twin.stepping import StepPlan, heun_stages, plan, rkl2_stages

TANGENT_DIFFUSIVITY = 1
TANGENT_PROLIFERATION = 2
FIRST_INITIAL_TANGENT = 3
NEGATIVE = 1e-7
"""Largest negative density that is taken for rounding of a stabilised step."""


def trajectory(
    operator: DiffusionOperator,
    diffusivity: Tensor,
    proliferation: Tensor,
    initial: Tensor,
    days: Sequence[float],
    *,
    max_step: float = math.inf,
) -> Iterator[Tensor]:
    """Grow a batch of tumours and yield the fields at each of ``days``.

    Solves du/dt = diffusivity div(w grad u) + proliferation u (1 - u), zero flux at the edge of the domain, second
    order in space and time. A step ends exactly at each of ``days``.

    Parameters
    ----------
    operator : DiffusionOperator
        Tissue, of shape (X, Y, Z).
    diffusivity, proliferation : Tensor
        Parameters of the B members, shape (B,), mm2/day and 1/day, not negative.
    initial : Tensor
        Shape (B, F, X, Y, Z); field 0 is the density at day 0, within 0..1. With F = 1 nothing else is computed;
        otherwise F >= 3 and the others are initial tangents: d/d log diffusivity, d/d log proliferation, then any
        directions of the initial condition. The tensor is read, never written.
    days : sequence of float
        Increasing days since the initial condition, the first may be 0.
    max_step : float, optional
        Upper bound of the step, days.

    Yields
    ------
    Tensor
        (B, F, X, Y, Z), a view that the next iteration overwrites.

    Raises
    ------
    TwinError
        If shapes or values are not as said.
    """
    _check(operator, diffusivity, proliferation, initial, days)
    members, fields = initial.shape[:2]
    padded = (members, fields, *(n + 2 for n in operator.domain.shape))
    buffers = [torch.zeros(padded, dtype=operator.dtype, device=initial.device) for _ in range(5)]
    state, inner = buffers.pop(), (..., slice(1, -1), slice(1, -1), slice(1, -1))
    state[inner] = torch.where(operator.domain, initial.to(operator.dtype), 0.0)
    now = 0.0
    fastest = float(diffusivity.max()), float(proliferation.max())
    for day in days:
        if day > now:
            chosen = plan(day - now, *fastest, operator.row_sum, max_step)
            before = state.clone() if chosen.stages > 2 else None
            state = _advance(operator, diffusivity, proliferation, state, buffers, day - now, chosen)
            if before is not None and float(state[:, 0].min()) < -NEGATIVE:
                chosen = plan(day - now, *fastest, operator.row_sum, max_step, positive=True)
                state.copy_(before)
                state = _advance(operator, diffusivity, proliferation, state, buffers, day - now, chosen)
            now = day
        yield state[inner]


def _advance(
    operator: DiffusionOperator,
    diffusivity: Tensor,
    proliferation: Tensor,
    state: Tensor,
    free: list[Tensor],
    interval: float,
    chosen: StepPlan,
) -> Tensor:
    """Cross ``interval`` and return the buffer that holds the result; ``free`` keeps the others."""
    step = interval / chosen.steps
    scheme = heun_stages() if chosen.stages == 2 else rkl2_stages(chosen.stages)
    idle = _coefficients((0.0, 0.0, 0.0, 0.0), diffusivity, proliferation, 0.0, step / 2)
    table = [_coefficients(c, diffusivity, proliferation, step, 0.0) for c in scheme[:-1]]
    joined = _coefficients(scheme[-1], diffusivity, proliferation, step, step)
    closing = _coefficients(scheme[-1], diffusivity, proliferation, step, step / 2)

    def stage(out: Tensor, fields: tuple[Tensor, Tensor, Tensor, Tensor], coefficients: Tensor) -> None:
        operator.stage(out, *fields, operator.faces, operator.rows, coefficients)

    start = free.pop()
    stage(start, (state, state, state, state), idle)
    free.append(state)
    for number in range(chosen.steps):
        last = closing if number == chosen.steps - 1 else joined
        first = before = previous = start
        for index, coefficients in enumerate([*table, last]):
            out = free.pop()
            stage(out, (start, previous, before, first), coefficients)
            if index == 0:
                first = out
            elif before is not start and before is not first:
                free.append(before)
            before, previous = previous, out
        free.extend(t for t in _distinct(start, first, before) if t is not previous)
        start = previous
    return start


def _distinct(*tensors: Tensor) -> list[Tensor]:
    """The tensors without repetition by identity."""
    return list({id(t): t for t in tensors}.values())


def _coefficients(
    stage: tuple[float, float, float, float],
    diffusivity: Tensor,
    proliferation: Tensor,
    step: float,
    react: float,
) -> Tensor:
    """Rows (c1, c2, c3, c4 * D * step, rho * react) for every member, float64."""
    rows = torch.empty((diffusivity.shape[0], 5), dtype=torch.float64, device=diffusivity.device)
    rows[:, :3] = torch.tensor(stage[:3], dtype=torch.float64)
    rows[:, 3] = stage[3] * step * diffusivity.to(torch.float64)
    rows[:, 4] = react * proliferation.to(torch.float64)
    return rows


def _check(
    operator: DiffusionOperator,
    diffusivity: Tensor,
    proliferation: Tensor,
    initial: Tensor,
    days: Sequence[float],
) -> None:
    if initial.ndim != 5 or initial.shape[2:] != operator.domain.shape or initial.shape[1] == 2:
        raise TwinError(
            "bad_initial",
            f"The initial fields have the shape {tuple(initial.shape)}; expected (B, F, "
            f"{', '.join(map(str, operator.domain.shape))}) with F = 1 or F >= 3.",
        )
    if diffusivity.shape != (initial.shape[0],) or proliferation.shape != diffusivity.shape:
        raise TwinError(
            "bad_parameters", "diffusivity and proliferation need one value for each member of the batch."
        )
    for name, value in (("diffusivity", diffusivity), ("proliferation", proliferation)):
        if not bool(torch.isfinite(value).all()) or bool((value < 0).any()):
            raise TwinError("bad_parameters", f"{name} must be finite and not negative.")
    density = initial[:, 0]
    if not bool(torch.isfinite(density).all()) or float(density.min()) < 0.0 or float(density.max()) > 1.0:
        raise TwinError("bad_initial", "The initial density must lie between 0 and 1.")
    if any(b <= a for a, b in itertools.pairwise(days)) or any(d < 0 or not math.isfinite(d) for d in days):
        raise TwinError("bad_days", "days must be finite, not negative and increasing.")
