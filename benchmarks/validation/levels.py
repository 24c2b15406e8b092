"""How a true tumour is kept: level functions on the twin's grid whose zero sets are the true boundaries."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.validation.anatomy import Array, Head, head
from benchmarks.validation.stencils import Field

_LOGIT_LIMIT = 12.0
_FLATTEST = 0.05


class Densities(Protocol):
    """What is sampled: densities on a grid of their own."""

    spacing: float
    tissue: NDArray[np.bool_]

    def core(self) -> Field:
        """Density whose threshold bounds the core, (X, Y, Z)."""

    def whole(self) -> Field:
        """Density whose threshold bounds the whole tumour, (X, Y, Z)."""


@dataclass(frozen=True)
class Levels:
    """A true tumour on one day, on the whole coarse grid.

    Parameters
    ----------
    core, whole : ndarray
        Logit of the density that bounds core and whole tumour, (X, Y, Z), within -12..12.
    core_slope, whole_slope : ndarray
        Length of its gradient, 1/mm.
    """

    core: Field
    core_slope: Field
    whole: Field
    whole_slope: Field

    def distance(self, mask: str, threshold: float) -> Field:
        """Distance to the boundary where the density is ``threshold``, mm, negative inside; exact near the boundary.

        The logit of a front's density is nearly linear across it, hence its distance to the level over its slope.
        """
        logit = self.core if mask == "core" else self.whole
        slope = self.core_slope if mask == "core" else self.whole_slope
        return (math.log(threshold / (1 - threshold)) - logit) / np.maximum(slope, _FLATTEST)


@dataclass(frozen=True)
class Course:
    """True states by day after day 0; a course may end early, see ``DEADLY_MM3``."""

    days: tuple[float, ...]
    states: tuple[Levels, ...]

    def at(self, day: float) -> Levels:
        """State of a day that was asked for."""
        return self.states[self.days.index(day)]


def sample(simulation: Densities, coarse: float) -> Levels:
    """Levels at the voxel centres of the coarse grid."""
    core = _sampled(simulation.core(), simulation, coarse)
    whole = (
        core if simulation.core() is simulation.whole() else _sampled(simulation.whole(), simulation, coarse)
    )
    return Levels(*core, *whole)


def _sampled(density: Field, simulation: Densities, coarse: float) -> tuple[Field, Field]:
    logit = np.full(density.shape, -_LOGIT_LIMIT)
    seen = density > 1e-9
    bounds = [np.flatnonzero(seen.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = tuple(slice(max(int(b[0]) - 2, 0), int(b[-1]) + 3) for b in bounds)
    inside = density[box].astype(np.float64).clip(1e-9, 1 - 1e-9)
    logit[box] = np.log(inside / (1 - inside)).clip(-_LOGIT_LIMIT, _LOGIT_LIMIT)
    slope = np.zeros_like(logit)
    slope[box] = _slope(logit[box], simulation.tissue[box], simulation.spacing)
    fine, target = head(simulation.spacing), head(coarse)
    share = simulation.tissue.astype(np.float64)
    weight = np.maximum(_interpolate(share, fine, target), 1e-6)
    made = []
    for value, outside in ((logit, -_LOGIT_LIMIT), (slope, 0.0)):
        # a voxel of the coarse grid's tissue takes its value from tissue alone
        mean = _interpolate((value - outside) * share, fine, target) / weight + outside
        made.append(np.where(target.domain, mean, outside).astype(np.float32))
    return made[0], made[1]


def _slope(logit: Array, tissue: NDArray[np.bool_], spacing: float) -> Array:
    """Length of the gradient by differences between voxels of tissue."""
    total = np.zeros_like(logit)
    for axis in range(3):
        value, inside = np.moveaxis(logit, axis, 0), np.moveaxis(tissue, axis, 0)
        jump = np.diff(value, axis=0) * (inside[1:] & inside[:-1])
        usable = (inside[1:] & inside[:-1]).astype(np.float64)
        rise, count = np.zeros_like(value), np.zeros_like(value)
        rise[1:] += jump
        rise[:-1] += jump
        count[1:] += usable
        count[:-1] += usable
        total += np.moveaxis((rise / np.maximum(count, 1.0) / spacing) ** 2, 0, axis)
    return np.sqrt(total)


def _interpolate(values: Array, fine: Head, coarse: Head) -> Array:
    """Trilinear values at the voxel centres of another sampling of the head; the edge value beyond the edge."""
    for axis, (source, target) in enumerate(zip(fine.axes, coarse.axes, strict=True)):
        position = np.clip((target - source[0]) / fine.spacing, 0, source.size - 1.000001)
        low = position.astype(int)
        part = (position - low).reshape([-1 if a == axis else 1 for a in range(3)])
        values = values.take(low, axis) * (1 - part) + values.take(low + 1, axis) * part
    return values
