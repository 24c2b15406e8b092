"""The part of the head that is computed: operator, visits and the coordinates of the parameters on one box."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twin.grid import Box, bounding_box
from twin.inputs import TissueMaps, TumourObservation
from twin.observation import BoundaryDistances, StartingDensity, density_from_masks
from twin.operator import DiffusionOperator
from twin.priors import Priors
from twin.results import Vector
from twin.settings import CalibrationSettings

LOG_VELOCITY, LOG_WIDTH, LOG_TAIL, FIRST_SHIFT = 0, 1, 2, 3
TAIL_SIGMA_LOG = 0.3
"""How far the front width that masks are given may differ from that of a steady wave, log standard deviation."""
_BAND_MM = 6.0
MAX_DIFFUSIVITY, MAX_PROLIFERATION = 20.0, 1.0
"""Hard limits of what is ever simulated, mm2/day and 1/day."""


@dataclass(frozen=True)
class Tissue:
    """Diffusivity weight and domain of the whole grid once tumour is known to be where the visits show it."""

    weight: Tensor
    domain: Tensor
    limit: Box
    spacing_mm: tuple[float, float, float]
    outside_fraction: float

    @classmethod
    def prepare(
        cls, maps: TissueMaps, visits: Sequence[TumourObservation], settings: CalibrationSettings
    ) -> "Tissue":
        """Weight white matter 1 and grey matter 1 / ratio; tumour is tissue even where the maps say otherwise."""
        tumour = torch.stack([visit.whole for visit in visits]).any(dim=0)
        slow = 1.0 / settings.gray_matter_ratio
        weight = maps.white_matter.double() + slow * maps.gray_matter.double()
        weight = weight.clamp(0.0, 1.0)
        weight = torch.where(tumour, weight.clamp(min=slow), weight)
        domain = maps.domain | tumour
        outside = float((tumour & ~maps.domain).sum() / tumour.sum())
        return cls(weight, domain, bounding_box(domain), maps.spacing_mm, outside)


@dataclass(frozen=True)
class Scene:
    """Everything on one box.

    Parameters
    ----------
    root_weight : float
        Mean square root of the tissue weight around the first tumour: front width there over that in white matter.
    """

    tissue: Tissue
    box: Box
    operator: DiffusionOperator
    distances: tuple[BoundaryDistances, ...]
    root_weight: float
    settings: CalibrationSettings

    @classmethod
    def build(
        cls,
        tissue: Tissue,
        visits: Sequence[TumourObservation],
        margin_mm: float,
        settings: CalibrationSettings,
        threads: int | None = None,
    ) -> "Scene":
        """Scene of a box ``margin_mm`` around the tumours of all ``visits``; ``threads`` for each sweep."""
        tumour = torch.stack([visit.whole for visit in visits]).any(dim=0)
        box = Box.around(tumour, margin_mm, tissue.spacing_mm, tissue.limit)
        distances = tuple(BoundaryDistances.measure(visit, box.slices, tissue.spacing_mm) for visit in visits)
        rim = (distances[0].whole > 0) & (distances[0].whole < _BAND_MM) & tissue.domain[box.slices]
        weight = tissue.weight[box.slices]
        root = float(weight[rim].sqrt().mean()) if bool(rim.any()) else 1.0
        operator = DiffusionOperator.build(
            weight,
            tissue.domain[box.slices],
            tissue.spacing_mm,
            backend=settings.backend,
            dtype=torch.float64 if settings.double_precision else torch.float32,
            threads=threads,
        )
        return cls(tissue, box, operator, distances, max(root, 0.1), settings)

    def start(
        self, visit: int, log_width: float, core: Tensor | float = 0.0, whole: Tensor | float = 0.0
    ) -> StartingDensity:
        """Density that visit number ``visit`` stands for, with boundaries shifted outward (mm).

        The front width around the tumour is that in white matter scaled to the tissue there, at least half a voxel.
        """
        width = max(math.exp(log_width) * self.root_weight, min(self.tissue.spacing_mm) / 2)
        return density_from_masks(self.distances[visit], width, self.settings, core, whole)

    def density(
        self, visit: int, log_width: float, core: Tensor | float = 0.0, whole: Tensor | float = 0.0
    ) -> Tensor:
        """The density alone, zero outside the domain."""
        return torch.where(self.operator.domain, self.start(visit, log_width, core, whole).density, 0.0)


def boundary_sd_mm(settings: CalibrationSettings, spacing_mm: tuple[float, float, float]) -> float:
    """Standard deviation of the shift of a whole boundary, mm."""
    return max(settings.boundary_sd_mm, 0.5 * max(spacing_mm))


def starting_width(position: Vector) -> float:
    """Log front width of the densities that stand for masks."""
    return float(position[LOG_WIDTH] + position[LOG_TAIL])


def physical(position: Vector) -> tuple[float, float]:
    """Diffusivity (mm2/day) and proliferation (1/day) at a position in (log velocity, log width)."""
    velocity, width = math.exp(position[LOG_VELOCITY]), math.exp(position[LOG_WIDTH])
    return min(velocity * width / 2, MAX_DIFFUSIVITY), min(velocity / (2 * width), MAX_PROLIFERATION)


def prior_position(priors: Priors, visits: int, shift_sd_mm: float) -> tuple[Vector, Vector]:
    """Mean and covariance of the prior over (log velocity, log width, log tail factor, boundary shifts).

    With velocity 2 sqrt(D rho) and width sqrt(D / rho), both logarithms are linear in log D and log rho.
    """
    log_d, log_rho = priors.diffusivity, priors.proliferation
    mean = np.zeros(FIRST_SHIFT + 2 * visits)
    mean[LOG_VELOCITY] = math.log(2.0) + (log_d.mean_log + log_rho.mean_log) / 2
    mean[LOG_WIDTH] = (log_d.mean_log - log_rho.mean_log) / 2
    mixing = np.array([[0.5, 0.5], [0.5, -0.5]])
    covariance = np.eye(mean.size) * shift_sd_mm**2
    covariance[LOG_TAIL, LOG_TAIL] = TAIL_SIGMA_LOG**2
    covariance[:2, :2] = mixing @ np.diag([log_d.sigma_log**2, log_rho.sigma_log**2]) @ mixing.T
    return mean, covariance
