"""The part of the head that is computed: operator, visits and the coordinates of the parameters on one box."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from twin.coordinates import LOG_TAIL, LOG_WIDTH, Coordinates
from twin.distance import continued
from twin.grid import Box, bounding_box
from twin.inputs import TissueMaps, TumourObservation
from twin.model import ReactionDiffusion
from twin.observation import BoundaryDistances, StartingDensity, density_from_masks, mask_density
from twin.operator import DiffusionOperator
from twin.results import Vector
from twin.settings import CalibrationSettings
from twin.treatment import Radiotherapy, Surgery, Therapy

_BAND_MM = 6.0
_LEAST_EXPOSURE = 1e-3
"""Exponent of the survival, for a parameter of one, below which what is left of a drug counts as nothing."""


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
    model : ReactionDiffusion
        Growth law and therapies on the box; holds the operator.
    coordinates : Coordinates
        What is inferred.
    cellularity : tuple of (Tensor or None)
        Density seen by diffusion imaging at each visit, float64 (X, Y, Z), nan where it was not measured.
    spacing_mm : tuple of float
        Voxel size, mm.
    root_weight : float
        Mean square root of the tissue weight around the first tumour: front width there over that in white matter.
    """

    tissue: Tissue
    box: Box
    model: ReactionDiffusion
    coordinates: Coordinates
    distances: tuple[BoundaryDistances, ...]
    cellularity: tuple[Tensor | None, ...]
    spacing_mm: tuple[float, float, float]
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
        therapies: Sequence[Therapy] = (),
    ) -> "Scene":
        """Scene of a box ``margin_mm`` around the tumours of all ``visits``.

        ``threads`` is for each sweep; ``therapies`` are on the whole grid.
        """
        tumour = torch.stack([visit.whole for visit in visits]).any(dim=0)
        box = Box.around(tumour, margin_mm, tissue.spacing_mm, tissue.limit)
        sd = boundary_sd_mm(settings, tissue.spacing_mm)
        masks = [mask[box.slices] for visit in visits for mask in (visit.core, visit.whole)]
        masks = continued(masks, tissue.domain[box.slices], tissue.spacing_mm)
        with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="twin-distance") as pool:
            distances = tuple(
                pool.map(
                    lambda visit, core, whole: BoundaryDistances.measure(
                        visit.day, core, whole, tissue.spacing_mm, sd, visit.has_margin
                    ),
                    visits,
                    masks[0::2],
                    masks[1::2],
                )
            )
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
            device=settings.solver_device(),
        )
        model = ReactionDiffusion(
            operator,
            law=settings.growth_law,
            therapies=tuple(cropped(therapy, box.slices) for therapy in therapies),
        )
        coordinates = Coordinates(model.parameters[2:], len(visits))
        cellularity = tuple(
            None if visit.cellularity is None else visit.cellularity[box.slices].double() for visit in visits
        )
        root = max(root, 0.1)
        return cls(tissue, box, model, coordinates, distances, cellularity, tissue.spacing_mm, root, settings)

    @property
    def operator(self) -> DiffusionOperator:
        """Operator of the model."""
        return self.model.operator

    def start(
        self, visit: int, log_width: float, core: Tensor | float = 0.0, whole: Tensor | float = 0.0
    ) -> StartingDensity:
        """Density that visit number ``visit`` stands for, with boundaries shifted outward (mm).

        The front width around the tumour is that in white matter scaled to the tissue there, at least half a voxel.
        """
        width = self.front_width_mm(log_width)
        start = density_from_masks(self.distances[visit], width, self.settings, core, whole)
        if width > math.exp(log_width) * self.root_weight:
            start = replace(start, by_log_width=torch.zeros_like(start.by_log_width))
        measured = self.cellularity[visit]
        if measured is None:
            return start
        known = torch.isfinite(measured)
        parts = (
            torch.where(known, 0.0, part) for part in (start.by_log_width, start.by_core, start.by_whole)
        )
        return StartingDensity(torch.where(known, measured, start.density), *parts)

    def treated_before(self, visit: int) -> bool:
        """Whether a therapy has acted between the first visit and visit number ``visit``."""
        return treated(self.model.therapies, self.distances[0].day, self.distances[visit].day)

    def front_width_mm(self, log_width: float) -> float:
        """Front width of the densities that stand for masks, mm."""
        return max(math.exp(log_width) * self.root_weight, min(self.tissue.spacing_mm) / 2)

    def density(
        self, visit: int, log_width: float, core: Tensor | float = 0.0, whole: Tensor | float = 0.0
    ) -> Tensor:
        """The density alone, zero outside the domain."""
        width = self.front_width_mm(log_width)
        density = mask_density(self.distances[visit], width, self.settings, core, whole)
        measured = self.cellularity[visit]
        if measured is not None:
            density = torch.where(torch.isfinite(measured), measured, density)
        return torch.where(self.operator.domain, density, 0.0)


def boundary_sd_mm(settings: CalibrationSettings, spacing_mm: tuple[float, float, float]) -> float:
    """Standard deviation of the shift of a whole boundary, mm: at least that of rounding to a voxel."""
    return max(settings.boundary_sd_mm, max(spacing_mm) / math.sqrt(12.0))


def starting_width(position: Vector) -> float:
    """Log front width of the densities that stand for masks."""
    return float(position[LOG_WIDTH] + position[LOG_TAIL])


def mapped(therapy: Therapy, function: Callable[[Tensor], Tensor]) -> Therapy:
    """The therapy with its dose map or resection, where it has one, replaced by ``function`` of it."""
    if isinstance(therapy, Radiotherapy) and therapy.dose_map is not None:
        return replace(therapy, dose_map=function(therapy.dose_map))
    if isinstance(therapy, Surgery):
        return replace(therapy, resection=function(therapy.resection))
    return therapy


def cropped(therapy: Therapy, index: tuple[slice, slice, slice]) -> Therapy:
    """The therapy on a part of the grid."""
    return mapped(therapy, lambda volume: volume[index])


def treated(therapies: Sequence[Therapy], start: float, stop: float) -> bool:
    """Whether any therapy acts between two days."""
    begin, end = np.array([start]), np.array([stop])
    return any(
        any(start <= day < stop for day in therapy.times) or therapy.between(begin, end)[0] > _LEAST_EXPOSURE
        for therapy in therapies
    )
