"""A finer grid for fronts that the given one cannot resolve.

A front narrower than a voxel runs too fast on the grid: 3.5 % at one front width sqrt(diffusivity / proliferation) a
voxel, 11 % at two. The part of the maps and masks that holds tissue is then taken to smaller voxels, and what is
computed there is averaged back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from twin.distance import signed_distance
from twin.grid import Box, bounding_box
from twin.inputs import TissueMaps, TumourObservation
from twin.treatment import Radiotherapy, Surgery, Therapy

Factors = tuple[int, int, int]
UNREFINED: Factors = (1, 1, 1)
MAX_VOXELS = 16_000_000
"""Largest grid that is refined to, voxels: a forecast keeps about a hundred bytes for each."""
_FINEST = 4


def factors_for(
    spacing_mm: tuple[float, float, float], front_width_mm: float, shape: Sequence[int]
) -> Factors:
    """How many times each axis must be divided so that no voxel is wider than the front; at most four times.

    Fewer where the finer grid would have more than ``MAX_VOXELS``; all ones when the grid is fine enough.

    Parameters
    ----------
    spacing_mm : tuple of float
        Voxel size, mm.
    front_width_mm : float
        sqrt(diffusivity / proliferation), mm.
    shape : sequence of int
        Voxels of the part that holds tissue.
    """
    for most in range(_FINEST, 1, -1):
        x, y, z = (min(most, max(1, -int(-h // front_width_mm))) for h in spacing_mm)
        if shape[0] * x * shape[1] * y * shape[2] * z <= MAX_VOXELS:
            return x, y, z
    return UNREFINED


def finest(first: Factors, second: Factors) -> Factors:
    """Along each axis the finer of two refinements."""
    x, y, z = (max(pair) for pair in zip(first, second, strict=True))
    return x, y, z


@dataclass(frozen=True)
class Problem:
    """What a calibration or a forecast is given.

    Parameters
    ----------
    box : Box
        The part of the grid that holds tissue or tumour. A finer grid has only this part.
    """

    tissue: TissueMaps
    visits: tuple[TumourObservation, ...]
    therapies: tuple[Therapy, ...]
    box: Box

    @classmethod
    def given(
        cls, tissue: TissueMaps, visits: Sequence[TumourObservation], therapies: Sequence[Therapy]
    ) -> "Problem":
        """On its own grid."""
        present = torch.stack([tissue.domain, *(visit.whole for visit in visits)]).any(dim=0)
        return cls(tissue, tuple(visits), tuple(therapies), bounding_box(present))

    @property
    def box_shape(self) -> Factors:
        """Voxels of the box along the three axes."""
        x, y, z = (b - a for a, b in zip(self.box.start, self.box.stop, strict=True))
        return x, y, z


def refined(
    tissue: TissueMaps, visits: Sequence[TumourObservation], therapies: Sequence[Therapy], factors: Factors
) -> Problem:
    """The problem on voxels smaller by ``factors``; tumour stays in voxels that are tissue or showed tumour.

    Only the box that holds any of these is refined.
    """
    box = Problem.given(tissue, visits, therapies).box
    index = box.slices
    tissue = replace(
        tissue,
        white_matter=tissue.white_matter[index],
        gray_matter=tissue.gray_matter[index],
        domain=tissue.domain[index],
    )
    visits = [
        replace(
            visit,
            core=visit.core[index],
            whole=visit.whole[index],
            cellularity=None if visit.cellularity is None else visit.cellularity[index],
        )
        for visit in visits
    ]
    tumour = torch.stack([visit.whole for visit in visits]).any(dim=0)
    possible = _repeated(tissue.domain | tumour, factors)
    return Problem(
        refined_tissue(tissue, factors),
        tuple(refined_visit(visit, tissue.spacing_mm, factors, possible) for visit in visits),
        refined_therapies(therapies, factors, box),
        box,
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


def refined_therapies(therapies: Sequence[Therapy], factors: Factors, box: Box) -> tuple[Therapy, ...]:
    """The same treatments in ``box``; dose maps linear between voxel centres, resections as they were."""
    made: list[Therapy] = []
    for therapy in therapies:
        if isinstance(therapy, Radiotherapy) and therapy.dose_map is not None:
            therapy = replace(therapy, dose_map=_linear(therapy.dose_map[box.slices], factors))
        elif isinstance(therapy, Surgery):
            therapy = replace(therapy, resection=_repeated(therapy.resection[box.slices], factors))
        made.append(therapy)
    return tuple(made)


def averaged(volume: Tensor, factors: Factors, box: Box, shape: Sequence[int]) -> Tensor:
    """A volume of the finer grid, which covers ``box``, back on the given one of ``shape``; zero elsewhere."""
    whole = torch.zeros(tuple(shape), dtype=volume.dtype, device=volume.device)
    whole[box.slices] = torch.nn.functional.avg_pool3d(volume[None, None].float(), list(factors))[0, 0].to(
        volume.dtype
    )
    return whole


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
