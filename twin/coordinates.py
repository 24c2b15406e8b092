"""The numbers that a calibration infers, and what they mean."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.priors import Priors

Vector = NDArray[Any]
LOG_VELOCITY, LOG_WIDTH, LOG_TAIL = 0, 1, 2
TAIL_SIGMA_LOG = 0.3
"""How far the front width that masks are given may differ from that of a steady wave, log standard deviation."""
MAX_DIFFUSIVITY, MAX_PROLIFERATION = 20.0, 1.0
"""Hard limits of what is ever simulated, mm2/day and 1/day."""


@dataclass(frozen=True)
class Coordinates:
    """Order of the inferred numbers.

    First log front velocity (mm/day), log front width (mm) and log tail factor: that of the front width which masks
    are given, over that of a steady wave. Then the log parameters of the therapies. Last two shifts a visit, of core
    and whole tumour, in mm: how far the true boundary lies outside the segmented one. Where no core was segmented, the
    core's shift says how dense the tumour is inside: see :func:`twin.observation.inner_rise`.

    Velocity 2 sqrt(D rho) and width sqrt(D / rho) are what two masks show almost separately; both logarithms are
    linear in log D and log rho.

    Parameters
    ----------
    therapies : tuple of str
        Names of the therapies' parameters, in the order of the model's.
    visits : int
        Number of visits.
    """

    therapies: tuple[str, ...]
    visits: int

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each number."""
        shifts = (f"shift_{mask}_{visit}" for visit in range(self.visits) for mask in ("core", "whole"))
        return (
            "log_velocity",
            "log_width",
            "log_tail",
            *(f"log_{name}" for name in self.therapies),
            *shifts,
        )

    @property
    def first_shift(self) -> int:
        """Index of the first boundary shift."""
        return 3 + len(self.therapies)

    @property
    def size(self) -> int:
        """How many numbers."""
        return self.first_shift + 2 * self.visits

    def shift(self, visit: int) -> int:
        """Index of the core shift of visit number ``visit``; that of the whole tumour follows."""
        return self.first_shift + 2 * visit

    def physical(self, positions: Vector) -> dict[str, Vector]:
        """Model parameters, (...), at ``positions`` (..., size): mm2/day, 1/day, then the therapies' units."""
        velocity, width = np.exp(positions[..., LOG_VELOCITY]), np.exp(positions[..., LOG_WIDTH])
        own = {name: np.exp(positions[..., 3 + n]) for n, name in enumerate(self.therapies)}
        return {
            "diffusivity": np.minimum(velocity * width / 2, MAX_DIFFUSIVITY),
            "proliferation": np.minimum(velocity / (2 * width), MAX_PROLIFERATION),
            **own,
        }

    def prior(self, priors: Priors, shift_sd_mm: float) -> tuple[Vector, Vector]:
        """Mean and covariance before any scan.

        Raises
        ------
        TwinError
            If ``priors`` does not know a therapy's parameter.
        """
        log_d, log_rho = priors.diffusivity, priors.proliferation
        mean = np.zeros(self.size)
        mean[LOG_VELOCITY] = math.log(2.0) + (log_d.mean_log + log_rho.mean_log) / 2
        mean[LOG_WIDTH] = (log_d.mean_log - log_rho.mean_log) / 2
        mixing = np.array([[0.5, 0.5], [0.5, -0.5]])
        covariance = np.eye(self.size) * shift_sd_mm**2
        covariance[LOG_TAIL, LOG_TAIL] = TAIL_SIGMA_LOG**2
        covariance[:2, :2] = mixing @ np.diag([log_d.sigma_log**2, log_rho.sigma_log**2]) @ mixing.T
        for index, name in enumerate(self.therapies, start=3):
            prior = priors.of(name)
            mean[index], covariance[index, index] = prior.mean_log, prior.sigma_log**2
        return mean, covariance
