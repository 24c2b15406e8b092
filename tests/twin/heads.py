"""A synthetic head, and tumours grown in it on a grid and by steps of their own."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from twin import TissueMaps, TumourObservation
from twin.model import ReactionDiffusion
from twin.operator import DiffusionOperator
from twin.settings import GrowthLaw
from twin.solver import trajectory

CORE, WHOLE = 0.6, 0.2


def head(spacing: float) -> tuple[TissueMaps, list[Tensor]]:
    """Ellipsoidal head of white matter with a folded grey rim and one ventricle; also voxel centres in mm."""
    axes = [
        (torch.arange(int(extent / spacing)) + 0.5) * spacing - extent / 2 for extent in (120.0, 132.0, 108.0)
    ]
    x, y, z = torch.meshgrid(*(a.double() for a in axes), indexing="ij")
    radius = torch.sqrt((x / 56) ** 2 + (y / 62) ** 2 + (z / 50) ** 2)
    domain = (radius < 1) & ((x / 9) ** 2 + (y / 22) ** 2 + (z / 9) ** 2 > 1)
    fold = torch.sin(x / 6 + torch.sin(y / 9)) * torch.sin(z / 7 + torch.cos(y / 8))
    gray = torch.sigmoid((radius - 0.84 + 0.05 * fold) / 0.03) * domain
    maps = TissueMaps((domain * 1.0 - gray).clamp(0, 1).float(), gray.float(), domain, (spacing,) * 3)
    return maps, [x, y, z]


def grow(
    diffusivity: float,
    proliferation: float,
    days: Sequence[float],
    *,
    spacing: float = 2.0,
    volume_ml: float = 12.0,
    law: GrowthLaw = "logistic",
) -> list[Tensor]:
    """Densities at ``days`` after the whole tumour has reached ``volume_ml``, grown from a small seed."""
    maps, (x, y, z) = head(spacing)
    operator = DiffusionOperator.build(
        maps.white_matter + maps.gray_matter / 10, maps.domain, maps.spacing_mm
    )
    seed = 0.6 * torch.exp(-((x - 24) ** 2 + (y - 8) ** 2 + (z - 10) ** 2) / 18.0) * maps.domain
    parameters = {"diffusivity": torch.tensor([diffusivity]), "proliferation": torch.tensor([proliferation])}
    model = ReactionDiffusion(operator, law=law)
    start = seed[None, None].float()
    for state in trajectory(model, parameters, start, list(np.arange(8.0, 3000.0, 8.0)), max_step=2.0):
        if float((state > WHOLE).sum()) * spacing**3 > 1000 * volume_ml:
            break
    start = state.clone()
    return [state[0, 0].clone() for state in trajectory(model, parameters, start, days, max_step=1.0)]


def resample(density: Tensor, spacing: float) -> Tensor:
    """Trilinear values at the voxel centres of the head of another spacing."""
    _, centres = head(spacing)
    extent = torch.tensor([120.0, 132.0, 108.0], dtype=torch.float64) / 2
    points = torch.stack([c / e for c, e in zip(centres, extent, strict=True)], dim=-1).flip(-1).float()
    return torch.nn.functional.grid_sample(density[None, None], points[None], align_corners=False)[0, 0]


def noisy_visit(
    day: float, density: Tensor, spacing: float, generator: np.random.Generator
) -> TumourObservation:
    """Masks whose boundary is off by a whole shift of 0.5 mm sd and a correlated local one of 0.7 mm sd."""
    from scipy.ndimage import gaussian_filter

    from twin.distance import signed_distance

    local = gaussian_filter(
        generator.standard_normal(tuple(density.shape)), 5.0 / spacing / 2**0.5, mode="wrap"
    )
    shift = torch.from_numpy(0.7 * local / local.std())
    masks = []
    for threshold in (CORE, WHOLE):
        mask = density > threshold
        offset = shift + 0.5 * generator.standard_normal()
        # what shows nothing has no boundary to be off
        masks.append(signed_distance(mask, (spacing,) * 3) < offset if bool(mask.any()) else mask)
    return TumourObservation(day, masks[0] & masks[1], masks[1])
