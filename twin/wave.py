"""Steady travelling wave of the Fisher-KPP equation: the shape of a grown tumour's front."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEP = 0.02
"""Between two entries of a profile, front widths."""
_FAINT = 1e-5
"""Densities this close to 0 or 1 say nothing of their place on the wave."""


@dataclass(frozen=True)
class WaveProfile:
    """Density U of the wave of minimal speed against distance in front widths sqrt(diffusivity / proliferation).

    U'' + 2 U' + U (1 - U) = 0 with U = 1 behind and U = 0 ahead (Kolmogorov, Petrovsky and Piskunov 1937). The origin
    is where U = 1/2.

    Parameters
    ----------
    start : float
        Position of the first entry of ``table``.
    values : ndarray
        Decreasing densities at steps of 0.02.
    """

    start: float
    values: NDArray[np.float64]

    def density(self, position: Tensor) -> Tensor:
        """Density at ``position``; 1 or 0 beyond the table."""
        table, low, share = self._entries(position)
        return torch.lerp(table[:-1][low], table[1:][low], share)

    def density_and_slope(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Density at ``position`` and its derivative."""
        table, low, share = self._entries(position)
        left, rise = table[low], table.diff()[low]
        return left + share * rise, rise / STEP

    def _entries(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The table, the entry at or before each position, and the way from it to the next one, 0..1."""
        table = torch.as_tensor(self.values, dtype=position.dtype, device=position.device)
        index = ((position - self.start) / STEP).clamp(0.0, table.numel() - 1.001)
        low = index.long()
        return table, low, index - low

    def place(self, density: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where the wave has each ``density``, and the derivative: zero where no wave shows, near 0 and 1."""
        held = np.clip(density, _FAINT, 1.0 - _FAINT)
        entry = np.searchsorted(-self.values, -held, side="right") - 1
        entry = entry.clip(0, self.values.size - 2)
        fall = self.values[entry + 1] - self.values[entry]
        share = (held - self.values[entry]) / fall
        return self.start + STEP * (entry + share), np.where(held == density, STEP / fall, 0.0)

    def position(self, density: float) -> float:
        """Where the wave has ``density``, within 0.001..0.999."""
        places = self.start + STEP * np.arange(self.values.size)
        return float(np.interp(-density, -self.values, places))


@lru_cache(maxsize=1)
def wave_profile() -> WaveProfile:
    """Integrate the wave from its unstable manifold behind the front to where the density is 1e-9."""

    def slope(state: tuple[float, float]) -> tuple[float, float]:
        return state[1], -2.0 * state[1] - state[0] * (1.0 - state[0])

    def moved(state: tuple[float, float], by: tuple[float, float], step: float) -> tuple[float, float]:
        return state[0] + step * by[0], state[1] + step * by[1]

    deficit, rate = 1e-6, 2.0**0.5 - 1.0
    state, values = (1.0 - deficit, -deficit * rate), [1.0]
    while state[0] > 1e-9:
        values.append(state[0])
        k1 = slope(state)
        k2 = slope(moved(state, k1, STEP / 2))
        k3 = slope(moved(state, k2, STEP / 2))
        k4 = slope(moved(state, k3, STEP))
        state = (
            state[0] + STEP / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0]),
            state[1] + STEP / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1]),
        )
    values.append(0.0)
    table = np.asarray(values)
    half = float(np.interp(-0.5, -table, np.arange(table.size)))
    return WaveProfile(start=-half * STEP, values=table)
