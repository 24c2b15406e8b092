"""A finer grid for fronts that the given one cannot resolve.

A front narrower than a voxel runs too fast on the grid: 3.5 % at one front width sqrt(diffusivity / proliferation) a
voxel, 11 % at two. Maps and masks are then halved in voxel size, and what is computed there is averaged back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from twin.distance import signed_distance
from twin.inputs import TissueMaps, TumourObservation
from twin.treatment import Radiotherapy, Surgery, Therapy

Factors = tuple[int, int, int]
UNREFINED: Factors = (1, 1, 1)
MAX_VOXELS = 40_000_000
"""Largest grid that is refined to, voxels."""


def factors_for(
    spacing_mm: tuple[float, float, float], front_width_mm: float, shape: Sequence[int]
) -> Factors:
    """How many times each axis must be divided so that no voxel is wider than the front; at most four times.

    All ones when the grid is fine enough, or when the finer one would have more than ``MAX_VOXELS``.
    """
    x, y, z = (min(4, max(1, -int(-h // front_width_mm))) for h in spacing_mm)
    voxels = shape[0] * x * shape[1] * y * shape[2] * z
    return (x, y, z) if voxels <= MAX_VOXELS else (1, 1, 1)


@dataclass(frozen=True)
class Problem:
    """What a calibration or a forecast is given."""

    tissue: TissueMaps
    visits: tuple[TumourObservation, ...]
    therapies: tuple[Therapy, ...]


def refined(
    tissue: TissueMaps, visits: Sequence[TumourObservation], therapies: Sequence[Therapy], factors: Factors
) -> Problem:
    """The problem on voxels smaller by ``factors``; tumour stays in voxels that are tissue or showed tumour."""
    tumour = torch.stack([visit.whole for visit in visits]).any(dim=0)
    possible = _repeated(tissue.domain | tumour, factors)
    return Problem(
        refined_tissue(tissue, factors),
        tuple(refined_visit(visit, tissue.spacing_mm, factors, possible) for visit in visits),
        refined_therapies(therapies, factors),
    )


def refined_tissue(tissue: TissueMaps, factors: Factors) -> TissueMaps:
    """The same head on smaller voxels: maps linear between voxel centres, the domain as it was."""
    x, y, z = (h / n for h, n in zip(tissue.spacing_mm, factors, strict=True))
    return TissueMaps(
        white_matter=_linear(tissue.white_matter, factors),
        gray_matter=_linear(tissue.gray_matter, factors),
        domain=_repeated(tissue.domain, factors),
        spacing_mm=(x, y, z),
    )


def refined_visit(
    visit: TumourObservation,
    spacing_mm: tuple[float, float, float],
    factors: Factors,
    possible: Tensor | None = None,
) -> TumourObservation:
    """The same masks on smaller voxels: a level of the smoothed distance to their boundary that keeps the volume.

    ``possible``, bool on the smaller voxels, is where tumour may be; everywhere by default.
    """
    whole = _refined_mask(visit.whole, spacing_mm, factors, possible)
    core = _refined_mask(visit.core, spacing_mm, factors, possible) & whole
    cells = visit.cellularity
    return replace(
        visit, core=core, whole=whole, cellularity=None if cells is None else _repeated(cells, factors)
    )


def refined_therapies(therapies: Sequence[Therapy], factors: Factors) -> tuple[Therapy, ...]:
    """The same treatments; dose maps linear between voxel centres, resections as they were."""
    made: list[Therapy] = []
    for therapy in therapies:
        if isinstance(therapy, Radiotherapy) and therapy.dose_map is not None:
            therapy = replace(therapy, dose_map=_linear(therapy.dose_map, factors))
        elif isinstance(therapy, Surgery):
            therapy = replace(therapy, resection=_repeated(therapy.resection, factors))
        made.append(therapy)
    return tuple(made)


def averaged(volume: Tensor, factors: Factors) -> Tensor:
    """A volume of the finer grid back on the given one."""
    kernel = list(factors)
    return torch.nn.functional.avg_pool3d(volume[None, None].float(), kernel)[0, 0].to(volume.dtype)


def _linear(volume: Tensor, factors: Factors) -> Tensor:
    shape = [n * f for n, f in zip(volume.shape, factors, strict=True)]
    fine = torch.nn.functional.interpolate(
        volume[None, None], size=shape, mode="trilinear", align_corners=False
    )
    return fine[0, 0]


def _repeated(volume: Tensor, factors: Factors) -> Tensor:
    for axis, factor in enumerate(factors):
        volume = volume.repeat_interleave(factor, dim=axis)
    return volume


def _refined_mask(
    mask: Tensor, spacing_mm: tuple[float, float, float], factors: Factors, possible: Tensor | None
) -> Tensor:
    if not bool(mask.any()):
        return _repeated(mask, factors)
    distance = _linear(signed_distance(mask, spacing_mm), factors)
    if possible is not None:
        distance = torch.where(possible, distance, torch.inf)
    # the level that keeps the volume: distances between centres of coarse voxels have none at the boundary itself
    near = distance[distance < 2.0 * max(spacing_mm)]
    level = near.kthvalue(min(int(mask.sum()) * math.prod(factors), near.numel())).values
    return distance <= level
