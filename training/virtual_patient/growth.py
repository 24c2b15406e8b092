"""Tumour growth for virtual patients: implicit, on a fine grid, and deliberately not the product's solver.

The product integrates the same equation explicitly (Heun) with harmonic face diffusivities. Here diffusion is
locally one-dimensional Crank-Nicolson with arithmetic face diffusivities, so that a calibration that succeeds
on a phantom does not succeed because both sides share their discretisation error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Field = npt.NDArray[np.float32]
Box = tuple[slice, slice, slice]

FAINT = 1e-6
MARGIN_CELLS = 10
LONGEST_GROWTH_DAYS = 20 * 365.0


@dataclass(frozen=True, eq=False)
class FisherKpp:
    """du/dt = div(D grad u) + rho u (1 - u) with no flux through the border of the brain.

    Parameters
    ----------
    diffusivity : numpy.ndarray
        ``(I, J, K)`` diffusivity in mm2/day; zero marks what is not brain.
    proliferation : float
        Net proliferation rate rho in 1/day.
    spacing_mm : float
        Isotropic grid spacing in mm.
    step_days : float, optional
        Longest time step; by default two days, less where growth or spread is fast.

    Raises
    ------
    ValueError
        If a parameter is negative, or the spacing or the step is not positive.
    """

    diffusivity: FloatArray
    proliferation: float
    spacing_mm: float
    step_days: float = field(default=0.0)

    def __post_init__(self) -> None:
        if self.diffusivity.min() < 0 or self.proliferation < 0 or self.spacing_mm <= 0:
            raise ValueError("diffusivity and proliferation must not be negative, spacing must be positive")
        if self.step_days < 0:
            raise ValueError(f"step must be positive, not {self.step_days} days")
        if self.step_days == 0:
            limits = [2.0]
            if self.proliferation > 0:
                limits.append(0.1 / self.proliferation)
            if self.diffusivity.max() > 0:
                limits.append(self.spacing_mm**2 / float(self.diffusivity.max()))
            object.__setattr__(self, "step_days", min(limits))

    def advance(self, density: Field, days: float) -> Field:
        """Density ``days`` later; same shape as ``density``, which is left as it was."""
        steps = int(np.ceil(days / self.step_days - 1e-9))
        if steps == 0:
            return density.copy()
        states = self._march(density, days / steps)
        for _ in range(steps - 1):
            next(states)
        return next(states).copy()

    def grow_until(self, density: Field, threshold: float, volume_mm3: float) -> tuple[Field, float]:
        """Grow until the part above ``threshold`` has a volume; returns the density and the days it took.

        Raises
        ------
        ValueError
            If the volume is not reached within 20 years: the brain is too small or growth too slow.
        """
        cell = self.spacing_mm**3
        before, volume_before = density, float((density > threshold).sum()) * cell
        if volume_before >= volume_mm3:
            raise ValueError(f"the seed already exceeds {volume_mm3 / 1000:g} mL; ask for a larger tumour")
        for count, state in enumerate(self._march(density, self.step_days), start=1):
            volume = float((state > threshold).sum()) * cell
            if volume >= volume_mm3:
                part = self.step_days * (volume_mm3 - volume_before) / (volume - volume_before)
                return self.advance(before, part), (count - 1) * self.step_days + part
            if count * self.step_days > LONGEST_GROWTH_DAYS:
                break
            before, volume_before = state.copy(), volume
        raise ValueError(
            f"no tumour core of {volume_mm3 / 1000:g} mL within 20 years; ask for a smaller core or faster growth"
        )

    def _march(self, density: Field, step: float) -> Iterator[Field]:
        """Yield the state after each step; the yielded array is reused."""
        state = np.where(self.diffusivity > 0, density, 0).astype(np.float32)
        box: Box | None = None
        while True:
            if box is None or _touches_border(state, box):
                box = _box_around(state)
                sweeps = [
                    _Sweep.along(axis, self.diffusivity[box], self.spacing_mm, step) for axis in (0, 1, 2)
                ]
            window = self._react(state[box], step / 2)
            # Reversing the order every other step makes the sequence symmetric, hence second order.
            sweeps.reverse()
            for sweep in sweeps:
                window = sweep(window)
            state[box] = self._react(window, step / 2)
            yield state

    def _react(self, density: Field, days: float) -> Field:
        """Logistic growth, exact."""
        factor = np.float32(np.exp(self.proliferation * days))
        grown: Field = density * factor / (1 + density * (factor - 1))
        return grown


@dataclass(frozen=True, eq=False)
class _Sweep:
    """One Crank-Nicolson step of diffusion along one axis: tridiagonal systems factored once (Thomas)."""

    axis: int
    exchange: Field
    inverse_pivot: Field
    upper: Field

    @classmethod
    def along(cls, axis: int, diffusivity: FloatArray, spacing: float, step: float) -> _Sweep:
        lines = np.moveaxis(diffusivity, axis, 0)
        low, high = lines[:-1], lines[1:]
        faces = np.where((low > 0) & (high > 0), (low + high) / 2, 0.0)
        exchange = np.ascontiguousarray(faces * (step / 2 / spacing**2))
        diagonal = np.ones(lines.shape)
        diagonal[:-1] += exchange
        diagonal[1:] += exchange
        inverse_pivot, upper = np.empty_like(diagonal), np.zeros_like(diagonal)
        inverse_pivot[0] = 1 / diagonal[0]
        for n in range(1, len(diagonal)):
            upper[n - 1] = -exchange[n - 1] * inverse_pivot[n - 1]
            inverse_pivot[n] = 1 / (diagonal[n] + exchange[n - 1] * upper[n - 1])
        return cls(
            axis, exchange.astype(np.float32), inverse_pivot.astype(np.float32), upper.astype(np.float32)
        )

    def __call__(self, density: Field) -> Field:
        u = np.array(np.moveaxis(density, self.axis, 0), order="C")
        flux = self.exchange * np.diff(u, axis=0)
        u[:-1] += flux
        u[1:] -= flux
        u[0] *= self.inverse_pivot[0]
        for n in range(1, len(u)):
            u[n] += self.exchange[n - 1] * u[n - 1]
            u[n] *= self.inverse_pivot[n]
        for n in range(len(u) - 2, -1, -1):
            u[n] -= self.upper[n] * u[n + 1]
        return np.moveaxis(u, 0, self.axis)


def _box_around(density: Field) -> Box:
    """Box of what is not faint, with room to spread; the whole grid where nothing is there."""
    occupied = np.argwhere(density > FAINT)
    if len(occupied) == 0:
        return (slice(None), slice(None), slice(None))
    start = np.maximum(occupied.min(axis=0) - MARGIN_CELLS, 0)
    stop = np.minimum(occupied.max(axis=0) + 1 + MARGIN_CELLS, density.shape)
    i, j, k = (slice(int(low), int(high)) for low, high in zip(start, stop, strict=True))
    return i, j, k


def _touches_border(density: Field, box: Box) -> bool:
    """Whether the tumour comes near a face of the box that is not a face of the grid."""
    for axis, (part, size) in enumerate(zip(box, density.shape, strict=True)):
        window = np.moveaxis(density[box], axis, 0)
        if (part.start or 0) > 0 and window[2].max() > FAINT:
            return True
        if part.stop is not None and part.stop < size and window[-3].max() > FAINT:
            return True
    return False
