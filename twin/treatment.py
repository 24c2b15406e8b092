"""Treatments: what they do to tumour cells, and when.

Every therapy is a table of moments. A moment multiplies the density by exp(-exponent), where the exponent is linear in
the therapy's own parameter; a decaying drug acts in addition over every interval, through its exactly integrated
effect. Times are days on the calendar of the first visit; a solver may start at any of them.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from twin.coordinates import Vector
from twin.errors import TwinError


class Therapy(Protocol):
    """What a solver asks of a therapy."""

    @property
    def parameter(self) -> str | None:
        """Name of the parameter that scales the effect; None when there is nothing to scale."""

    @property
    def times(self) -> tuple[float, ...]:
        """Days at which a step must end, increasing; the effect of a moment follows its day."""

    def at(self, day: float, shape: torch.Size) -> "float | Tensor":
        """Exponent of the survival at a moment for a parameter of one: a number, or a map of ``shape``."""

    def between(self, start: Vector, stop: Vector) -> Vector:
        """Exponents (n,) of the survival over open intervals (n,), for a parameter of one."""


def _schedule(days: Sequence[float], doses: Sequence[float], unit: str) -> tuple[tuple[float, float], ...]:
    """Pairs (day, dose) by day; two doses of one moment stay two."""
    if len(days) != len(doses) or not days:
        raise TwinError(
            "bad_treatment",
            f"A treatment needs one dose for each day; {len(days)} days and {len(doses)} doses were given.",
        )
    if not all(math.isfinite(day) for day in days):
        raise TwinError("bad_treatment", "The days of a treatment must be finite numbers.")
    if not all(math.isfinite(dose) and dose >= 0 for dose in doses):
        raise TwinError("bad_treatment", f"Doses must be finite and not negative ({unit}).")
    return tuple(sorted(zip(map(float, days), map(float, doses), strict=True)))


def _distinct(days: Sequence[float]) -> tuple[float, ...]:
    return tuple(day for day, _ in itertools.groupby(sorted(days)))


@dataclass(frozen=True)
class Radiotherapy:
    """Fractions whose survival is linear-quadratic: S = exp(-alpha d (1 + d / (alpha/beta))).

    Fowler, Br. J. Radiol. 62 (1989). The parameter is ``radiosensitivity``, alpha in 1/Gy.

    Parameters
    ----------
    days : sequence of float
        Moment of every fraction; several a day are as many moments.
    doses : sequence of float
        Dose of every fraction where the map is one, Gy.
    alpha_beta : float, optional
        Ratio alpha/beta, Gy.
    dose_map : Tensor, optional
        Dose relative to ``doses``, (X, Y, Z), not negative; one everywhere by default.
    """

    days: Sequence[float]
    doses: Sequence[float]
    alpha_beta: float = 10.0
    dose_map: Tensor | None = None
    _fractions: tuple[tuple[float, float], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_fractions", _schedule(self.days, self.doses, "Gy"))
        if not (math.isfinite(self.alpha_beta) and self.alpha_beta > 0):
            raise TwinError("bad_treatment", f"alpha_beta must be positive, not {self.alpha_beta} Gy.")
        relative = self.dose_map
        if relative is not None and (
            relative.ndim != 3 or not bool(torch.isfinite(relative).all()) or float(relative.min()) < 0.0
        ):
            raise TwinError(
                "bad_treatment", "dose_map must have three axes and finite values that are not negative."
            )

    @property
    def parameter(self) -> str:
        """``radiosensitivity``, 1/Gy."""
        return "radiosensitivity"

    @cached_property
    def times(self) -> tuple[float, ...]:
        """Moments of the fractions."""
        return _distinct([day for day, _ in self._fractions])

    def at(self, day: float, shape: torch.Size) -> float | Tensor:
        """Sum of d (1 + d / (alpha/beta)) of the fractions of this moment, Gy."""
        doses = [dose for when, dose in self._fractions if when == day]
        if self.dose_map is None:
            return sum(dose * (1.0 + dose / self.alpha_beta) for dose in doses)
        if self.dose_map.shape != shape:
            raise TwinError(
                "bad_treatment",
                f"dose_map has the shape {tuple(self.dose_map.shape)}, the tissue {tuple(shape)}; resample it.",
            )
        return self._of_map(tuple(doses), self.dose_map)

    def _of_map(self, doses: tuple[float, ...], relative: Tensor) -> Tensor:
        """Exponent of the fractions of one moment; most moments of a course have the same."""
        if doses not in self._known:
            total = torch.zeros_like(relative, dtype=torch.float64)
            for dose in doses:
                local = dose * relative.double()
                total += local * (1.0 + local / self.alpha_beta)
            self._known[doses] = total
        return self._known[doses]

    @cached_property
    def _known(self) -> dict[tuple[float, ...], Tensor]:
        """Exponents by the doses of a moment."""
        return {}

    def between(self, start: Vector, stop: Vector) -> Vector:
        """Nothing: fractions are moments."""
        return np.zeros_like(stop - start)


@dataclass(frozen=True)
class Chemotherapy:
    """Doses of a drug whose concentration decays exponentially and kills in proportion.

    The rate of kill is parameter * sum_j (dose_j / reference_dose) exp(-decay_rate (t - t_j)), integrated analytically
    over every step. The parameter is ``chemosensitivity``, 1/day at the reference dose. Doses are absolute: twice the
    dose kills twice as much in the exponent.

    Parameters
    ----------
    days : sequence of float
        Moment of every dose; several a day are as many moments.
    doses : sequence of float
        In the unit of ``reference_dose``.
    decay_rate : float, optional
        ln 2 over the half-life, 1/day. The default is that of temozolomide (half-life 1.8 h).
    reference_dose : float, optional
        Dose to which the parameter belongs, 75 mg/m2 of temozolomide by default.
    """

    days: Sequence[float]
    doses: Sequence[float]
    decay_rate: float = 9.242
    reference_dose: float = 75.0
    _given: tuple[tuple[float, float], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_given", _schedule(self.days, self.doses, "unit of reference_dose"))
        for name in ("decay_rate", "reference_dose"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise TwinError("bad_treatment", f"{name} must be positive, not {value}.")

    @property
    def parameter(self) -> str:
        """``chemosensitivity``, 1/day."""
        return "chemosensitivity"

    @cached_property
    def times(self) -> tuple[float, ...]:
        """Moments of the doses."""
        return _distinct([day for day, _ in self._given])

    def at(self, day: float, shape: torch.Size) -> float:
        """Nothing: a dose acts over the time that follows it."""
        del day, shape
        return 0.0

    def between(self, start: Vector, stop: Vector) -> Vector:
        """Integral of the relative concentration, days: (e^{-beta (a - t_j)} - e^{-beta (b - t_j)}) / beta, summed."""
        when, dose = np.asarray(self._given).T
        begin, end = (np.maximum(edge[:, None] - when, 0.0) for edge in (start, stop))
        kept = np.exp(-self.decay_rate * begin) - np.exp(-self.decay_rate * end)
        return np.asarray(kept @ dose) / (self.reference_dose * self.decay_rate)


@dataclass(frozen=True)
class Surgery:
    """Removal of tissue: the density is multiplied by one minus the mask.

    Parameters
    ----------
    day : float
        Moment of the operation.
    resection : Tensor
        Part of the cells that is removed, (X, Y, Z), 0..1; a boolean mask removes all.
    """

    day: float
    resection: Tensor

    def __post_init__(self) -> None:
        part = self.resection.double()
        if part.ndim != 3 or not bool(((part >= 0) & (part <= 1)).all()):
            raise TwinError("bad_treatment", "resection must have three axes and values between 0 and 1.")
        if not math.isfinite(self.day):
            raise TwinError("bad_treatment", "The day of an operation must be a finite number.")

    @property
    def parameter(self) -> None:
        """None: what is removed does not depend on a parameter."""
        return

    @property
    def times(self) -> tuple[float, ...]:
        """The operation."""
        return (self.day,)

    def at(self, day: float, shape: torch.Size) -> Tensor:
        """-log(1 - resection), infinite where all is removed."""
        del day
        if self.resection.shape != shape:
            raise TwinError(
                "bad_treatment",
                f"resection has the shape {tuple(self.resection.shape)}, the tissue {tuple(shape)}; resample it.",
            )
        return -torch.log1p(-self.resection.double())

    def between(self, start: Vector, stop: Vector) -> Vector:
        """Nothing."""
        return np.zeros_like(stop - start)
