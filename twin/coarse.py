"""The same scene on a coarser grid, for the many solves that need no more."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from twin.operator import DiffusionOperator
from twin.scene import Scene, mapped

_COARSEST_MM = 3.0


def coarsened(scene: Scene) -> Scene | None:
    """Scene with voxels of twice the edge wherever these stay within 3 mm; None if no axis can be coarsened.

    Boundary distances, weights and densities are averages of the fine voxels, so boundaries keep their place to a
    fraction of a voxel.
    """
    factors = [2 if 2.0 * h <= _COARSEST_MM + 1e-6 else 1 for h in scene.spacing_mm]
    if max(factors) == 1:
        return None
    spacing = (
        scene.spacing_mm[0] * factors[0],
        scene.spacing_mm[1] * factors[1],
        scene.spacing_mm[2] * factors[2],
    )

    def pooled(volume: Tensor) -> Tensor:
        values = volume.double()[None, None]
        size = (factors[0], factors[1], factors[2])
        return torch.nn.functional.avg_pool3d(values, size, size, ceil_mode=True, count_include_pad=False)[
            0, 0
        ]

    inside = scene.operator.domain
    share = pooled(inside)
    weight = pooled(torch.where(inside, scene.tissue.weight[scene.box.slices], 0.0)) / share.clamp(min=1e-9)
    operator = DiffusionOperator.build(
        weight,
        share >= 0.5,
        spacing,
        backend=scene.operator.backend,
        dtype=scene.operator.dtype,
        threads=scene.operator.threads,
        device=scene.operator.device,
    )
    therapies = tuple(mapped(therapy, pooled) for therapy in scene.model.therapies)
    distances = tuple(
        replace(d, core=None if d.core is None else pooled(d.core), whole=pooled(d.whole))
        for d in scene.distances
    )
    cellularity = tuple(
        None if map_ is None else _mean_of_measured(map_, pooled) for map_ in scene.cellularity
    )
    return replace(
        scene,
        model=replace(scene.model, operator=operator, therapies=therapies),
        distances=distances,
        cellularity=cellularity,
        spacing_mm=spacing,
    )


def _mean_of_measured(values: Tensor, pooled: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over the measured voxels; nan where less than half were."""
    measured = torch.isfinite(values)
    share = pooled(measured)
    mean = pooled(values.nan_to_num(0.0)) / share.clamp(min=1e-9)
    return torch.where(share >= 0.5, mean.clamp(0.0, 1.0), torch.nan)
