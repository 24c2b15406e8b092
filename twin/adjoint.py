"""Differentiable solution: the exact gradient of the discrete scheme, from checkpoints.

Backwards, every operation of the forward program is transposed. Diffusion is a polynomial of a symmetric operator and
so its own transpose; growth, kill and moments act on each voxel alone, and the tangents that the forward sweeps carry
give their derivatives. States are kept at about the square root of the number of operations and recomputed between.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from twin.backends import Reaction, Sweeps
from twin.errors import TwinError
from twin.grid import Box
from twin.model import ReactionDiffusion
from twin.program import Multiply, Operation, Program, React
from twin.solver import INNER, bound, checked, multiply, padded


def evolve(
    model: ReactionDiffusion,
    parameters: Mapping[str, Tensor],
    initial: Tensor,
    days: Sequence[float],
    *,
    start_day: float = 0.0,
    max_step: float = math.inf,
) -> Tensor:
    """Densities at ``days`` as a differentiable function of parameters and fields.

    Gradients flow to every entry of ``parameters``, to ``initial`` and to ``model.local_growth``, once: asking for the
    gradient of a gradient is an error of torch. They are those of the
    discrete scheme to rounding, not of the equation. For few parameters the tangents of
    :func:`twin.solver.trajectory` are cheaper; this is for fields.

    Parameters
    ----------
    model : ReactionDiffusion
        Tissue of shape (X, Y, Z), growth law, therapies.
    parameters : mapping of str to Tensor
        As in :func:`twin.solver.trajectory`, (B,).
    initial : Tensor
        Density on ``start_day``, (B, X, Y, Z), within 0..1.
    days : sequence of float
        Increasing days.
    start_day, max_step : float, optional
        As in :func:`twin.solver.trajectory`.

    Returns
    -------
    Tensor
        (len(days), B, X, Y, Z).

    Raises
    ------
    TwinError
        If shapes or values are not as said.
    """
    names = model.parameters
    if not days:
        raise TwinError("bad_days", "evolve needs at least one day to give the density of.")
    checked(model, parameters, initial.detach()[:, None], days, start_day)
    growth = model.local_growth
    if growth is not None and growth.requires_grad and not bool((growth[model.operator.domain] > 0).all()):
        raise TwinError("bad_model", "local_growth must be positive in the domain to have a gradient.")
    for name in names:
        if parameters[name].requires_grad and not bool((parameters[name] > 0).all()):
            raise TwinError("bad_parameters", f"{name} must be positive to have a gradient.")
    tape = _Tape(
        replace(model, local_growth=None if growth is None else growth.detach()),
        tuple(days),
        start_day,
        max_step,
    )
    values = [parameters[name] for name in names]
    result: Tensor = _Evolve.apply(tape, initial, growth, *values)  # type: ignore[no-untyped-call]
    return result


@dataclass
class _Tape:
    """What the backward pass needs to know of the forward one."""

    model: ReactionDiffusion
    days: tuple[float, ...]
    start_day: float
    max_step: float

    def operations(self, values: Tensor) -> list[Operation | None]:
        """The program of the whole trajectory by positive steps; None stands for an output."""
        last = self.days[-1]
        program = Program(self.model, values, 1 + values.shape[1], last - self.start_day, self.max_step)
        made: list[Operation | None] = []
        now = self.start_day
        for day in self.days:
            if day > now:
                made += program.between(now, day, positive=True)
                now = day
            made.append(None)
        return made


class _Evolve(torch.autograd.Function):
    """Forward and transposed program."""

    @staticmethod
    def forward(ctx: Any, tape: _Tape, initial: Tensor, growth: Tensor | None, *values: Tensor) -> Tensor:
        table = torch.stack([value.detach().double().cpu() for value in values], dim=1)
        operations, sweeps = tape.operations(table), bound(tape.model, _whole(tape.model))
        state = padded(tape.model.operator, initial.detach()[:, None])
        spacing = max(1, math.isqrt(len(operations)))
        kept, outputs = [], []
        for number, operation in enumerate(operations):
            if number % spacing == 0:
                kept.append(state.clone())
            if operation is None:
                outputs.append(state[INNER][:, 0].clone())
            else:
                state = _applied(tape.model, sweeps, state, operation, table)
        ctx.tape, ctx.table, ctx.operations, ctx.kept, ctx.spacing = tape, table, operations, kept, spacing
        ctx.types = [value.dtype for value in (initial, *values)]
        return torch.stack(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        model, table = ctx.tape.model, ctx.table
        back = _Backward(model, bound(model, _whole(model)), table, torch.zeros_like(ctx.kept[0]))
        outputs = len(ctx.tape.days)
        for block in reversed(range(len(ctx.kept))):
            first = block * ctx.spacing
            some = ctx.operations[first : first + ctx.spacing]
            states = [ctx.kept[block]]
            for operation in some[:-1]:
                states.append(
                    states[-1]
                    if operation is None
                    else _applied(model, back.sweeps, states[-1], operation, table)
                )
            for operation, state in zip(reversed(some), reversed(states), strict=True):
                if operation is None:
                    outputs -= 1
                    back.costate[INNER] += gradient[outputs][:, None]
                else:
                    back.through(operation, state)
        own = (back.by_log[:, n] / table[:, n].clamp(min=1e-300) for n in range(table.shape[1]))
        initial = back.costate[INNER][:, 0] * model.operator.domain
        growth = None if model.local_growth is None else back.by_growth
        types = ctx.types
        return None, initial.to(types[0]), growth, *(g.to(t) for g, t in zip(own, types[1:], strict=True))


def _applied(
    model: ReactionDiffusion, sweeps: Sweeps, state: Tensor, operation: Operation, values: Tensor
) -> Tensor:
    """Density after an operation; the one given is left alone."""
    if isinstance(operation, Multiply):
        after = state.clone()
        multiply(after[INNER], operation, values, _whole(model))
        return after
    alone = Reaction(operation.reaction.table[:, :3])
    if isinstance(operation, React):
        after = state.clone()
        sweeps.react(after, alone)
        return after
    after = torch.zeros_like(state)
    sweeps.step(after, state, operation.scheme, alone)
    return after


class _Backward:
    """Costate and gradients while the program runs backwards.

    Parameters
    ----------
    costate : Tensor
        Derivative with respect to the present state, (B, 1, X + 2, Y + 2, Z + 2).
    """

    def __init__(self, model: ReactionDiffusion, sweeps: Sweeps, values: Tensor, costate: Tensor) -> None:
        self.model, self.sweeps, self.values, self.costate = model, sweeps, values, costate
        self.by_log = torch.zeros_like(values)
        self.by_growth = torch.zeros(model.operator.domain.shape, dtype=costate.dtype, device=costate.device)

    def through(self, operation: Operation, before: Tensor) -> None:
        """Take the costate from after an operation to before it."""
        if isinstance(operation, Multiply):
            self._multiply(operation, before)
        elif isinstance(operation, React):
            self._react(operation.reaction, before)
        else:
            still = Reaction.none(len(self.values), 2)
            # the density and its derivative in log diffusivity, which starts at zero
            fields = torch.cat([before, torch.zeros_like(before)], dim=1)
            diffused = torch.zeros_like(fields)
            self.sweeps.step(diffused, fields, operation.scheme, still)
            self._react(operation.reaction, diffused[:, :1].contiguous())
            self.by_log[:, 0] += _inner(diffused[:, 1], self.costate[:, 0])
            moved = torch.zeros_like(self.costate)
            self.sweeps.step(moved, self.costate, operation.scheme, Reaction.none(len(self.values), 1))
            self.costate = moved

    def _react(self, reaction: Reaction, before: Tensor) -> None:
        """Every voxel by itself: tangents in all parameters from zero, and one in the density from one."""
        count = self.values.shape[1]
        fields = torch.zeros(
            before.shape[0], count + 2, *before.shape[2:], dtype=before.dtype, device=before.device
        )
        fields[:, :1] = before
        fields[INNER][:, -1] = 1.0
        table = Reaction.none(len(self.values), count + 2).table
        table[:, : 3 + count] = reaction.table
        self.sweeps.react(fields, Reaction(table))
        for column in range(1, count):
            self.by_log[:, column] += _inner(fields[:, column + 1], self.costate[:, 0])
        if self.model.local_growth is not None:
            local = (fields[:, 2] * self.costate[:, 0])[INNER].sum(dim=0)
            # the derivative in log proliferation, voxel by voxel, is that in the log of the local factor
            self.by_growth += torch.where(
                self.model.local_growth > 0, local / self.model.local_growth.clamp(min=1e-30), 0.0
            )
        self.costate = self.costate * fields[:, -1:]

    def _multiply(self, operation: Multiply, before: Tensor) -> None:
        column = operation.column
        scale = torch.ones(len(self.values)) if column is None else self.values[:, column]
        kill = scale.to(before.device).view(-1, 1, 1, 1) * operation.exponent.to(before.device)
        survival = torch.exp(-kill).to(before)
        costate = self.costate[INNER]
        if column is not None:
            lost = (kill * survival).nan_to_num(0.0).to(before)
            self.by_log[:, column] -= _inner(lost * before[INNER][:, 0], costate[:, 0])
        costate *= survival[:, None]


def _whole(model: ReactionDiffusion) -> Box:
    x, y, z = model.operator.domain.shape
    return Box((0, 0, 0), (x, y, z))


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """Sum of the products of every member, float64 on the CPU."""
    return (first.double() * second.double()).flatten(1).sum(dim=1).cpu()
