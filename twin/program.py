"""What a solver does between two days: the exact sequence of reactions, steps and moments of therapies."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from twin.backends import Reaction
from twin.model import ReactionDiffusion
from twin.stepping import StepPlan, plan, scheme


@dataclass(frozen=True)
class Multiply:
    """Multiplication by exp(-exponent) where the exponent is a map, (X, Y, Z), for one of the parameters or for none.

    Parameters
    ----------
    column : int or None
        Which of ``model.parameters`` scales the exponent.
    """

    exponent: Tensor
    column: int | None


@dataclass(frozen=True)
class React:
    """A reaction alone."""

    reaction: Reaction


@dataclass(frozen=True)
class Step:
    """A step of diffusion and the reaction up to the middle of the next one.

    Parameters
    ----------
    day : float
        When it begins.
    scheme : Tensor
        (B, S, 4), see :mod:`twin.backends`.
    """

    day: float
    scheme: Tensor
    reaction: Reaction


Operation = Multiply | React | Step


@dataclass(frozen=True)
class Program:
    """All operations of a trajectory.

    Parameters
    ----------
    values : Tensor
        (B, P) float64 on the CPU, in the order of ``model.parameters``.
    fields : int
        Fields of every member.
    horizon : float
        Days of the whole trajectory.
    max_step : float
        Upper bound of the step, days.
    """

    model: ReactionDiffusion
    values: Tensor
    fields: int
    horizon: float
    max_step: float

    def between(self, start: float, stop: float, *, positive: bool = False) -> Iterator[Operation]:
        """Operations from ``start`` to ``stop``, with every moment of a therapy in [start, stop).

        With ``positive`` every step is one of Heun's.
        """
        moments = sorted({t for therapy in self.model.therapies for t in therapy.times if start < t < stop})
        halts = [start, *(t for t in moments if self._maps(t)), stop]
        for begin, end in itertools.pairwise(halts):
            yield from self._maps(begin)
            yield from self._steps([begin, *(t for t in moments if begin < t < end), end], positive)

    def _maps(self, day: float) -> list[Multiply]:
        shape, made, column = self.model.operator.domain.shape, [], 2
        for therapy in self.model.therapies:
            exponent = therapy.at(day, shape) if day in therapy.times else 0.0
            named = therapy.parameter is not None
            if isinstance(exponent, Tensor):
                made.append(Multiply(exponent, column if named else None))
            column += named
        return made

    def _steps(self, edges: list[float], positive: bool) -> Iterator[Operation]:
        """Operations between ``edges``, inside which therapies act through numbers alone."""
        steps = [
            _Cut(
                begin + n * (end - begin) / chosen.steps, (end - begin) / chosen.steps, chosen.stages, n == 0
            )
            for begin, end in itertools.pairwise(edges)
            for chosen in (self._plan(end - begin, positive),)
            for n in range(chosen.steps)
        ]
        yield React(self._reaction(None, steps[0]))
        for step, following in itertools.zip_longest(steps, steps[1:]):
            coefficients = torch.tensor([scheme(step.stages)], dtype=torch.float64)
            coefficients = coefficients.repeat(len(self.values), 1, 1)
            coefficients[..., 3] *= step.length * self.values[:, :1]
            yield Step(step.day, coefficients, self._reaction(step, following))

    def _plan(self, interval: float, positive: bool) -> StepPlan:
        diffusivity, rate = (float(value) for value in self.values[:, :2].amax(dim=0))
        if self.model.local_growth is not None:
            rate *= float(self.model.local_growth.max())
        row_sum = self.model.operator.row_sum
        return plan(interval, diffusivity, rate, row_sum, self.horizon, self.max_step, positive=positive)

    def _reaction(self, done: "_Cut | None", coming: "_Cut | None") -> Reaction:
        """Growth, kill of both half steps and of the moment between them, growth."""
        table = Reaction.none(len(self.values), self.fields).table
        rate = self.values[:, 1]
        if done is not None:
            table[:, 0] = rate * done.length / 2
        if coming is not None:
            table[:, 1] = rate * coming.length / 2
        named = (therapy for therapy in self.model.therapies if therapy.parameter is not None)
        for column, therapy in enumerate(named, start=2):
            exponent = 0.0
            if done is not None:
                exponent += therapy.between(done.day + done.length / 2, done.day + done.length)
            if coming is not None:
                exponent += therapy.between(coming.day, coming.day + coming.length / 2)
                if coming.opens and coming.day in therapy.times:
                    local = therapy.at(coming.day, self.model.operator.domain.shape)
                    exponent += 0.0 if isinstance(local, Tensor) else local
            kill = exponent * self.values[:, column]
            table[:, 2] += kill
            if self.fields > 1 + column:
                table[:, 2 + 1 + column] += kill
        return Reaction(table)


@dataclass(frozen=True)
class _Cut:
    """One step: when it begins, its length (days), its stages and whether it begins an interval."""

    day: float
    length: float
    stages: int
    opens: bool
