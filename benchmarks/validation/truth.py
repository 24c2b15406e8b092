"""True courses of virtual tumours, by a solver that shares nothing with the twin's.

Heun's method on the whole equation, fourth-order fluxes, a grid of 1 or 1.5 mm.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.validation import stencils
from benchmarks.validation.anatomy import Head, fibres, head
from benchmarks.validation.levels import Course, Densities, Levels, sample
from benchmarks.validation.stencils import Field, Window

CORE, WHOLE = 0.6, 0.2
"""Densities at the boundaries of core and whole tumour."""
_TRACE = 1e-6
_REFRESH = 4
_MARGIN = 5
_LONGEST_HISTORY_DAYS = 20000.0
DEADLY_MM3 = 250_000.0
"""A course ends at the first asked day after the whole tumour has passed this volume."""


@dataclass(frozen=True)
class Tumour:
    """What a truth is made from.

    Parameters
    ----------
    diffusivity : float
        In white matter, mm2/day.
    proliferation : float
        1/day.
    site : tuple of float
        Where the tumour was seeded, mm.
    volume_mm3 : float
        Volume of the whole tumour on day 0.
    """

    diffusivity: float
    proliferation: float
    site: tuple[float, float, float]
    volume_mm3: float


@dataclass(frozen=True)
class Treatment:
    """Fractions and doses of a drug in the truth.

    Parameters
    ----------
    fraction_days, dose_days : tuple of float
        Moments of the fractions and of the doses, days.
    fraction_gy, alpha, alpha_beta : float
        Dose of a fraction (Gy), linear-quadratic alpha (1/Gy) and alpha over beta (Gy).
    sensitivity, decay_rate : float
        Rate of kill just after a dose and its decay, 1/day.
    """

    fraction_days: tuple[float, ...]
    dose_days: tuple[float, ...]
    fraction_gy: float
    alpha: float
    alpha_beta: float
    sensitivity: float
    decay_rate: float

    def moments(self) -> tuple[float, ...]:
        """Days on which a step must end."""
        return tuple(sorted({*self.fraction_days, *self.dose_days}))

    def survival(self, begin: float, end: float) -> float:
        """Part of the cells that survives fractions within [begin, end) and the drug over that time."""
        fractions = sum(begin <= day < end for day in self.fraction_days)
        exponent = fractions * self.alpha * self.fraction_gy * (1 + self.fraction_gy / self.alpha_beta)
        for day in self.dose_days:
            since, until = max(begin - day, 0.0), max(end - day, 0.0)
            decayed = math.exp(-self.decay_rate * since) - math.exp(-self.decay_rate * until)
            exponent += self.sensitivity / self.decay_rate * decayed
        return math.exp(-exponent)


class Simulation(Densities, Protocol):
    """State of a truth on its own grid."""

    def advance(self, days: float) -> None:
        """Go on by exactly this time."""

    def kill(self, survival: float) -> None:
        """Multiply living cells."""


class _Window:
    """Box around everything that is not negligible, renewed every few steps."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape, self._left, self.box = shape, 0, (2, 2, 2, 2, 2, 2)

    def around(self, density: Field) -> Window:
        """The box for the next step."""
        if self._left == 0:
            self._left = _REFRESH
            seen = density > _TRACE
            bounds = []
            for axis, size in enumerate(self._shape):
                filled = np.flatnonzero(seen.any(axis=tuple(a for a in range(3) if a != axis)))
                bounds += [max(int(filled[0]) - _MARGIN, 2), min(int(filled[-1]) + 1 + _MARGIN, size - 2)]
            self.box = (bounds[0], bounds[1], bounds[2], bounds[3], bounds[4], bounds[5])
        self._left -= 1
        return self.box


def _seed(head_: Head, site: tuple[float, float, float]) -> Field:
    x, y, z = head_.centres()
    near = (x - site[0]) ** 2 + (y - site[1]) ** 2 + (z - site[2]) ** 2
    return np.ascontiguousarray(0.6 * np.exp(-near / 18.0) * head_.domain, np.float32)


def _steps(days: float, longest: float) -> tuple[int, float]:
    count = max(math.ceil(days / longest - 1e-9), 1)
    return count, days / count


class InModel:
    """Fisher-KPP in white and grey matter (1 to ``ratio``), optionally with a diffusion tensor in white matter.

    Parameters
    ----------
    tumour : Tumour
        Parameters and seed.
    spacing : float
        Of the truth's grid, mm.
    ratio : float, optional
        Diffusivity of white over that of grey matter.
    anisotropy : float, optional
        Diffusivity along the fibres of white matter over that across them; the trace of the tensor is kept.
    refine : float, optional
        Divides the time step.
    """

    def __init__(
        self,
        tumour: Tumour,
        spacing: float,
        *,
        ratio: float = 10.0,
        anisotropy: float = 1.0,
        refine: float = 1.0,
    ) -> None:
        head_ = head(spacing)
        self.spacing, self.tissue = spacing, head_.domain
        self._across = 3.0 / (2.0 + anisotropy)
        self._excess = (anisotropy - 1.0) * self._across
        white = head_.white.astype(np.float32)
        slow = (head_.gray / ratio).astype(np.float32)
        self._white, self._fibres, parts = white, (), [white + slow] * 3
        if anisotropy != 1.0:
            self._fibres = tuple(np.ascontiguousarray(e, np.float32) for e in fibres(head_))
            parts = [slow + white * (self._across + self._excess * e**2) for e in self._fibres]
            self._inside = head_.domain.astype(np.float32)
            self._flux = tuple(np.zeros_like(white) for _ in range(3))
        self._faces = [w for axis in range(3) for w in stencils.face_weights(parts[axis], axis)]
        self._diffusivity, self._rate = tumour.diffusivity, tumour.proliferation
        fastest = tumour.diffusivity * (self._across + self._excess)
        self._longest = min(spacing**2 / (8.0 * fastest), 0.12 / tumour.proliferation) / refine
        self._u = _seed(head_, tumour.site)
        self._stage, self._change = np.zeros_like(self._u), np.zeros_like(self._u)
        self._window = _Window(self._u.shape)

    def _diffuse(self, u: Field, window: Window) -> None:
        scale = self._diffusivity / self.spacing**2
        stencils.add_diffusion(u, *self._faces, np.float32(scale), window, self._change)
        if self._fibres:
            stencils.cross_flux(
                u,
                self._inside,
                self._white,
                *self._fibres,
                np.float32(0.5 / self.spacing),
                window,
                *self._flux,
            )
            strength = self._diffusivity * self._excess / (2.0 * self.spacing)
            stencils.add_divergence(*self._flux, self._inside, np.float32(strength), window, self._change)

    def advance(self, days: float) -> None:
        """Go on by exactly this time."""
        count, step = _steps(days, self._longest)
        rate, step = np.float32(self._rate), np.float32(step)
        for _ in range(count):
            window = self._window.around(self._u)
            for state, share, out in (
                (self._u, np.float32(1), self._stage),
                (self._stage, np.float32(0.5), self._u),
            ):
                self._diffuse(state, window)
                stencils.logistic_stage(state, self._u, self._change, rate, share, step, window, out)

    def kill(self, survival: float) -> None:
        """Multiply living cells."""
        self._u *= np.float32(survival)

    def core(self) -> Field:
        """Density, (X, Y, Z)."""
        return self._u

    def whole(self) -> Field:
        """Density, (X, Y, Z)."""
        return self._u


class TwoSpecies:
    """Proliferating cells that turn into invading ones where it is crowded and die where it is more crowded still.

    With p, q, n for proliferating, invading and necrotic cells, T for their sum and h_k(a, T) = T^k / (T^k + a^k):

        dp/dt = D/10 lap p + 1.5 rho p (1 - T) - rho/5 h_4(0.7, T) p + rho (1 - h_4(0.7, T)) q - rho h_12(0.9, T) p
        dq/dt = D lap q + rho/2 q (1 - T) + rho/5 h_4(0.7, T) p - rho (1 - h_4(0.7, T)) q
        dn/dt = rho h_12(0.9, T) p

    with the tissue weights of the in-model truth. Core is where p + n exceeds its threshold, whole tumour where T does.
    """

    def __init__(self, tumour: Tumour, spacing: float) -> None:
        head_ = head(spacing)
        self.spacing, self.tissue = spacing, head_.domain
        weight = (head_.white + head_.gray / 10).astype(np.float32)
        self._faces = [w for axis in range(3) for w in stencils.face_weights(weight, axis)]
        self._diffusivity, self._rate = tumour.diffusivity, tumour.proliferation
        self._longest = min(spacing**2 / (8.0 * tumour.diffusivity), 0.08 / tumour.proliferation)
        seed = _seed(head_, tumour.site)
        self._now = [seed, np.zeros_like(seed), np.zeros_like(seed)]
        self._stage = [np.zeros_like(seed) for _ in range(3)]
        self._changes = [np.zeros_like(seed) for _ in range(2)]
        self._window = _Window(seed.shape)

    def advance(self, days: float) -> None:
        """Go on by exactly this time."""
        count, step = _steps(days, self._longest)
        scale = self._diffusivity / self.spacing**2
        for _ in range(count):
            window = self._window.around(self.whole())
            for state, share, out in ((self._now, 1.0, self._stage), (self._stage, 0.5, self._now)):
                for cells, speed, change in zip(state[:2], (0.1, 1.0), self._changes, strict=True):
                    stencils.add_diffusion(cells, *self._faces, np.float32(speed * scale), window, change)
                stencils.two_species_stage(
                    *state,
                    *self._now,
                    *self._changes,
                    np.float32(self._rate),
                    np.float32(share),
                    np.float32(step),
                    window,
                    *out,
                )

    def kill(self, survival: float) -> None:
        """Multiply living cells."""
        for cells in self._now[:2]:
            cells *= np.float32(survival)

    def core(self) -> Field:
        """Proliferating and necrotic cells, (X, Y, Z)."""
        return self._now[0] + self._now[2]

    def whole(self) -> Field:
        """All cells, (X, Y, Z)."""
        return self._now[0] + self._now[1] + self._now[2]


def grid_for(tumour: Tumour, coarse: float) -> float:
    """Grid of the truth, mm: three quarters of the twin's, or half of it where the front is narrow."""
    width = math.sqrt(tumour.diffusivity / tumour.proliferation)
    return 0.75 * coarse if width > 0.6 * coarse else 0.5 * coarse


def established(make: Callable[[Tumour, float], Simulation], tumour: Tumour, spacing: float) -> Simulation:
    """A simulation grown from its seed to the tumour's volume on day 0.

    Parameters
    ----------
    make : callable
        Builds the simulation from the tumour and a spacing.
    spacing : float
        Grid of the truth, mm.

    Raises
    ------
    RuntimeError
        If the tumour does not reach its volume.
    """
    simulation, age, pause = make(tumour, spacing), 0.0, 0.05 / tumour.proliferation
    while np.count_nonzero(simulation.whole() > WHOLE) * spacing**3 < tumour.volume_mm3:
        if age > _LONGEST_HISTORY_DAYS:
            raise RuntimeError(f"The tumour {tumour} does not reach {tumour.volume_mm3:g} mm3.")
        simulation.advance(pause)
        age += pause
    return simulation


def follow(
    simulation: Simulation,
    days: Sequence[float],
    coarse: float,
    *,
    treatment: Treatment | None = None,
    always: float = math.inf,
) -> Course:
    """Let a simulation run on through ``days``; it is changed.

    Parameters
    ----------
    days : sequence of float
        Days to keep, from 0, increasing.
    coarse : float
        Spacing of the grid on which states are kept, mm.
    always : float, optional
        Days up to this one are kept however large the tumour is.
    """
    moments = treatment.moments() if treatment else ()
    now, kept, states = 0.0, list[float](), list[Levels]()
    for day in days:
        for stop in (*(m for m in moments if now < m < day), day):
            _until(simulation, treatment, now, stop)
            now = stop
        kept.append(day)
        states.append(sample(simulation, coarse))
        volume = np.count_nonzero(simulation.whole() > WHOLE) * simulation.spacing**3
        if day >= always and volume > DEADLY_MM3:
            break
    return Course(tuple(kept), tuple(states))


def _until(simulation: Simulation, treatment: Treatment | None, now: float, stop: float) -> None:
    """Advance without meeting a moment inside; while a drug is in the blood, by quarters of a day."""
    if treatment is None:
        if stop > now:
            simulation.advance(stop - now)
        return
    # a fraction on ``now`` acts first; the drug acts over the steps
    fraction = treatment.survival(now, now + 1e-12)
    if fraction < 1.0:
        simulation.kill(fraction)
    drugged = any(now - 1.0 < day <= now for day in treatment.dose_days)
    while stop - now > 1e-9:
        step = min(0.25, stop - now) if drugged else stop - now
        drug = treatment.survival(now + 1e-12, now + step)
        if drug < 1.0:
            simulation.kill(math.sqrt(drug))
        simulation.advance(step)
        if drug < 1.0:
            simulation.kill(math.sqrt(drug))
        now += step
