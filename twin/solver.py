"""Forward solution of the growth model and of its tangents."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twin.backends import Medium, Sweeps, bind
from twin.errors import TwinError
from twin.grid import Box, bounding_box
from twin.model import ReactionDiffusion
from twin.operator import DiffusionOperator
from twin.program import Multiply, Operation, Program, React, Step
from twin.stepping import PRECISE, Accuracy

TANGENT_DIFFUSIVITY, TANGENT_PROLIFERATION = 1, 2
NEGATIVE = 1e-7
"""Largest negative density that is taken for rounding of a stabilised step."""
_TRACE = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Density that counts as nothing on the last day; on day t it must be smaller by what growth can still make of it."""
_TAIL = 6.0
"""Front widths ahead of the front that are taken for its tail at first; the box grows where that is not enough."""
_FOLLOW_STEPS = 4
"""Steps between two looks at how far the front has come."""
_ALL_KILLED = 1e3
INNER = (..., slice(1, -1), slice(1, -1), slice(1, -1))


def trajectory(
    model: ReactionDiffusion,
    parameters: Mapping[str, Tensor],
    initial: Tensor,
    days: Sequence[float],
    *,
    start_day: float = 0.0,
    max_step: float = math.inf,
    accuracy: Accuracy = PRECISE,
) -> Iterator[Tensor]:
    """Grow a batch of tumours and yield the fields at each of ``days``.

    Steps are computed on the device of ``model.operator``; the fields come back on that of ``initial``.

    Second order in space and time; see :class:`twin.model.ReactionDiffusion` for the equation. Steps end exactly at
    each of ``days`` and at each moment of a therapy. The fields of a day are those before what happens at that moment,
    and a therapy at ``start_day`` acts: to go on from a yielded state continues the same trajectory.

    Parameters
    ----------
    model : ReactionDiffusion
        Tissue, of shape (X, Y, Z), growth law and therapies.
    parameters : mapping of str to Tensor
        For each of ``model.parameters`` the values of the B members, (B,), not negative: ``diffusivity`` (mm2/day),
        ``proliferation`` (1/day) and those of the therapies.
    initial : Tensor
        Shape (B, F, X, Y, Z); field 0 is the density on ``start_day``, within 0..1. With F = 1 nothing else is
        computed; otherwise the others are initial tangents: one with respect to the logarithm of each of
        ``model.parameters``, in their order, then any directions of the initial condition. The tensor is read, never
        written.
    days : sequence of float
        Increasing days on the calendar of the therapies, the first may be ``start_day``.
    start_day : float, optional
        Day of the initial condition.
    max_step : float, optional
        Upper bound of the step, days.
    accuracy : Accuracy, optional
        How large the solver's own steps may be.

    Yields
    ------
    Tensor
        (B, F, X, Y, Z), a view that the next iteration overwrites.

    Raises
    ------
    TwinError
        If shapes or values are not as said.
    """
    shape = model.operator.domain.shape
    whole: Tensor | None = None
    options = {"start_day": start_day, "max_step": max_step}
    for grown in march(model, parameters, initial, days, accuracy=accuracy, **options):
        if grown.fields.shape[2:] == shape:
            yield grown.fields
            continue
        if whole is None:
            whole = torch.zeros(
                (*grown.fields.shape[:2], *shape), dtype=grown.fields.dtype, device=initial.device
            )
        whole[(..., *grown.box.slices)] = grown.fields
        yield whole


@dataclass(frozen=True)
class Grown:
    """Fields (B, F, x, y, z) on the box that holds all there is of them."""

    box: Box
    fields: Tensor


def march(
    model: ReactionDiffusion,
    parameters: Mapping[str, Tensor],
    initial: Tensor,
    days: Sequence[float],
    *,
    start_day: float = 0.0,
    max_step: float = math.inf,
    accuracy: Accuracy = PRECISE,
) -> Iterator[Grown]:
    """Like :func:`trajectory`, but only where the tumour is: everything outside the boxes is zero.

    The boxes grow with the tumour; the fields are overwritten by the next iteration.
    """
    values = checked(model, parameters, initial, days, start_day)
    last_day = days[-1] if days else start_day
    program = Program(model, values, initial.shape[1], last_day - start_day, max_step, accuracy)
    run, now = _Run.begin(program, initial, last_day), start_day
    for day in days:
        if day > now:
            run.cross(now, day)
            now = day
        yield Grown(run.box, run.state[INNER].to(initial.device))


@dataclass
class _Run:
    """State and second buffer of one trajectory, on a box around the tumour that grows with it."""

    program: Program
    box: Box
    limit: Box
    margin: tuple[int, int, int]
    sweeps: Sweeps
    state: Tensor
    spare: Tensor
    last_day: float
    steps_done: int = 0

    @classmethod
    def begin(cls, program: Program, initial: Tensor, last_day: float) -> "_Run":
        model = program.model
        operator, limit = model.operator, bounding_box(model.operator.domain)
        margin = _margin(program)
        present = (initial[:, 0] > 0).any(dim=0) & operator.domain
        box = Box.around_voxels(present, margin, limit) if bool(present.any()) else limit
        state = padded(operator.crop(box.slices), initial[(..., *box.slices)]).to(operator.device)
        return cls(program, box, limit, margin, bound(model, box), state, torch.zeros_like(state), last_day)

    def cross(self, start: float, stop: float) -> None:
        """Advance from ``start`` to ``stop``; once more by a positive scheme if the density went below zero."""
        operations = list(self.program.between(start, stop))
        stages = max(op.scheme.shape[1] for op in operations if isinstance(op, Step))
        before = (self.box, self.sweeps, self.state.clone()) if stages > 2 else None
        self._run(operations, stages)
        if before is not None and float(self.state[:, 0].min()) < -NEGATIVE:
            self.box, self.sweeps, self.state = before
            self.spare = torch.zeros_like(self.state)
            self._run(list(self.program.between(start, stop, positive=True)), 2)

    def _run(self, operations: Sequence[Operation], stages: int) -> None:
        fresh = True
        for operation in operations:
            if isinstance(operation, Multiply):
                multiply(self.state[INNER], operation, self.program.values, self.box)
            elif isinstance(operation, React):
                self.sweeps.react(self.state, operation.reaction)
            else:
                if fresh or self.steps_done % _FOLLOW_STEPS == 0:
                    # once the edge is smooth, a step carries nothing of note over every cell it can reach
                    self._follow(operation.day, _FOLLOW_STEPS * (stages if fresh else stages - 1))
                fresh = False
                self.steps_done += 1
                self.sweeps.step(self.spare, self.state, operation.scheme, operation.reaction)
                self.state, self.spare = self.spare, self.state

    def _follow(self, day: float, reach: int) -> None:
        """Find out how far the tumour can come by the next look; grow the box if that is beyond it."""
        growth = float(self.program.values[:, 1].max()) * max(self.last_day - day, 0.0)
        trace = _TRACE.get(self.state.dtype, 0.0) * math.exp(-min(growth, 50.0))
        low, high = self.sweeps.follow(self.state, trace, reach)
        starts, stops = [], []
        for axis in range(3):
            start, stop = self.box.start[axis] + low[axis] - reach, self.box.start[axis] + high[axis] + reach
            starts.append(max(start, self.limit.start[axis]))
            stops.append(min(stop, self.limit.stop[axis]))
        inside = all(a >= b for a, b in zip(starts, self.box.start, strict=True))
        if low[0] < high[0] and not (
            inside and all(a <= b for a, b in zip(stops, self.box.stop, strict=True))
        ):
            self._grow()
            self.sweeps.follow(self.state, trace, reach)

    def _grow(self) -> None:
        """Take a larger box."""
        old, state = self.box, self.state
        start, stop = (
            tuple(
                min(max(edge + side * more, least), most)
                for edge, more, least, most in zip(
                    edges, self.margin, self.limit.start, self.limit.stop, strict=True
                )
            )
            for side, edges in ((-1, old.start), (1, old.stop))
        )
        self.box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        shape = (*state.shape[:2], *(b - a + 2 for a, b in zip(start, stop, strict=True)))
        self.state = torch.zeros(shape, dtype=state.dtype, device=state.device)
        self.state[INNER][(..., *old.within(self.box))] = state[INNER]
        self.spare = torch.zeros_like(self.state)
        self.sweeps = bound(self.program.model, self.box)


def _margin(program: Program) -> tuple[int, int, int]:
    """Voxels around the tumour that its front and the tail ahead of it are likely to need."""
    diffusivity, rate = (float(value) for value in program.values[:, :2].amax(dim=0))
    spread = math.sqrt(2.0 * diffusivity * program.horizon)
    travel = 2.0 * math.sqrt(diffusivity * rate) * program.horizon + _TAIL * min(
        math.sqrt(diffusivity / max(rate, 1e-12)), spread
    )
    x, y, z = (
        2 * _FOLLOW_STEPS + math.ceil(min(travel / h, float(n)))
        for h, n in zip(program.model.operator.spacing_mm, program.model.operator.domain.shape, strict=True)
    )
    return x, y, z


def padded(operator: DiffusionOperator, initial: Tensor) -> Tensor:
    """Fields on the domain with the halo of zeros that backends need, in the operator's floating type."""
    shape = (*initial.shape[:2], *(n + 2 for n in operator.domain.shape))
    fields = torch.zeros(shape, dtype=operator.dtype, device=initial.device)
    torch.mul(initial, operator.domain, out=fields[INNER])
    return fields


def bound(model: ReactionDiffusion, box: Box) -> Sweeps:
    """The backend that the operator asks for, bound to the model's tissue and growth law on a box."""
    operator = model.operator.placed.crop(box.slices)
    maps = (
        None
        if value is None
        else torch.nn.functional.pad(value[box.slices].to(operator.domain.device, operator.dtype), (1,) * 6)
        for value in (model.capacity, model.local_growth)
    )
    return bind(operator.backend, Medium(operator.faces, operator.domain, model.law, *maps), operator.threads)


def multiply(fields: Tensor, operation: Multiply, values: Tensor, box: Box) -> None:
    """Multiply (B, F, X, Y, Z) on ``box`` by the survival of a map, in place, tangents with it."""
    column = operation.column
    scale = torch.ones(len(values)) if column is None else values[:, column]
    kill = scale.to(fields.device).view(-1, 1, 1, 1) * operation.exponent[box.slices].to(fields.device)
    if fields.shape[1] > 1 and column is not None:
        # the tangent in the logarithm of the parameter; what is killed for good has none
        fields[:, column + 1] -= (kill.clamp(max=_ALL_KILLED) * fields[:, 0]).to(fields)
    fields *= torch.exp(-kill).to(fields)[:, None]


def checked(
    model: ReactionDiffusion,
    parameters: Mapping[str, Tensor],
    initial: Tensor,
    days: Sequence[float],
    start_day: float,
) -> Tensor:
    """The parameters as (B, P), float64, once everything is as said."""
    names, shape = model.parameters, model.operator.domain.shape
    fewest = 1 + len(names)
    if initial.ndim != 5 or initial.shape[2:] != shape or 1 < initial.shape[1] < fewest:
        raise TwinError(
            "bad_initial",
            f"The initial fields have the shape {tuple(initial.shape)}; expected (B, F, "
            f"{', '.join(map(str, shape))}) with F = 1 or F >= {fewest}.",
        )
    if set(parameters) != set(names):
        raise TwinError(
            "bad_parameters",
            f"The model has the parameters {', '.join(names)}; given were {', '.join(sorted(parameters)) or 'none'}.",
        )
    for name, value in parameters.items():
        if value.shape != (initial.shape[0],):
            raise TwinError("bad_parameters", f"{name} needs one value for each member of the batch.")
        if not bool(torch.isfinite(value).all()) or bool((value < 0).any()):
            raise TwinError("bad_parameters", f"{name} must be finite and not negative.")
    least, most = initial[:, 0].aminmax()
    if not (float(least) >= 0.0 and float(most) <= 1.0):  # refuses nan as well
        raise TwinError("bad_initial", "The initial density must lie between 0 and 1.")
    if any(b <= a for a, b in itertools.pairwise(days)) or any(
        d < start_day or not math.isfinite(d) for d in days
    ):
        raise TwinError("bad_days", "days must be finite, increasing and not before start_day.")
    return torch.stack([parameters[name].detach().double().cpu() for name in names], dim=1)
