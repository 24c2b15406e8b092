"""What a solver does between two days: the exact sequence of reactions, steps and moments of therapies."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twin.backends import Reaction
from twin.coordinates import Vector
from twin.model import ReactionDiffusion
from twin.stepping import PRECISE, Accuracy, StepPlan, plan, scheme
from twin.treatment import Therapy


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
    accuracy : Accuracy
        How large steps may be.
    """

    model: ReactionDiffusion
    values: Tensor
    fields: int
    horizon: float
    max_step: float
    accuracy: Accuracy = PRECISE

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
        plans = [self._plan(end - begin, positive) for begin, end in itertools.pairwise(edges)]
        counts = [chosen.steps for chosen in plans]
        lengths = np.repeat(np.diff(edges) / counts, counts)
        within = np.concatenate([np.arange(count) for count in counts])
        days = np.repeat(edges[:-1], counts) + within * lengths
        reactions = self._reactions(days, lengths, within == 0)
        stages = np.repeat([chosen.stages for chosen in plans], counts)
        diffusivity = self.values[:, 0].numpy()
        yield React(Reaction(reactions[0]))
        for number, day in enumerate(days):
            coefficients = np.tile(scheme(int(stages[number])), (len(diffusivity), 1, 1))
            coefficients[..., 3] *= lengths[number] * diffusivity[:, None]
            yield Step(float(day), torch.from_numpy(coefficients), Reaction(reactions[number + 1]))

    def _plan(self, interval: float, positive: bool) -> StepPlan:
        diffusivity, rate = (float(value) for value in self.values[:, :2].amax(dim=0))
        if self.model.local_growth is not None:
            rate *= float(self.model.local_growth.max())
        return plan(
            interval,
            diffusivity,
            rate,
            self.model.operator.row_sum,
            self.horizon,
            self.max_step,
            accuracy=self.accuracy,
            positive=positive,
        )

    def _reactions(self, days: Vector, lengths: Vector, opens: Vector) -> Tensor:
        """Tables (S + 1, B, 2 + F) of the reactions around S steps.

        Each is growth and kill of the half steps on its two sides, with the kill of the moment between them: a step
        that opens an interval begins at such a moment.
        """
        before, after = np.append(0.0, lengths) / 2, np.append(lengths, 0.0) / 2
        middle = np.append(days, days[-1] + lengths[-1])
        values = self.values.numpy()
        table = np.zeros((middle.size, len(values), 2 + self.fields))
        table[:, :, 0] = before[:, None] * values[:, 1]
        table[:, :, 1] = after[:, None] * values[:, 1]
        named = (therapy for therapy in self.model.therapies if therapy.parameter is not None)
        for column, therapy in enumerate(named, start=2):
            exponents = therapy.between(middle - before, middle) + therapy.between(middle, middle + after)
            exponents[:-1] += [
                self._moment(therapy, day) if new else 0.0 for day, new in zip(days, opens, strict=True)
            ]
            kill = exponents[:, None] * values[:, column]
            table[:, :, 2] += kill
            if self.fields > 1 + column:
                table[:, :, 2 + 1 + column] += kill
        return torch.from_numpy(table)

    def _moment(self, therapy: Therapy, day: float) -> float:
        """Exponent of a therapy's moment on ``day`` where it is the same everywhere."""
        if day not in therapy.times:
            return 0.0
        local = therapy.at(day, self.model.operator.domain.shape)
        return 0.0 if isinstance(local, Tensor) else local
