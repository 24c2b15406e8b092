"""How simulated tumours grow in a box of tissue: three laws for the solid tumour, one for the oedema around it.

Lengths are voxels of 2 mm and times are steps; only shapes matter here, not rates in mm and days. The diffusivity and
the growth rate of every law are multiplied by random smooth fields, so that no two outlines are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.anatomy import grid_positions
from training.fields import Shape, smooth_noise

_STABLE = 0.16  # largest diffusivity of the explicit scheme, below 1/6
_CHECK_EVERY = 8


@dataclass(frozen=True)
class Growth:
    """A grown tumour.

    Attributes
    ----------
    coordinate
        float32 (I, J, K) in [0, 1]: falls from the centre outwards; the solid tumour is where it exceeds 0.5.
    necrosis
        bool (I, J, K) where the law itself says which part is dead, else None.
    """

    coordinate: Tensor
    necrosis: Tensor | None = None


class _Diffusion:
    """Conservative flux form of div(D grad u), no flux through the faces of the box."""

    def __init__(self, diffusivity: Tensor) -> None:
        self.shape: Shape = tuple(diffusivity.shape)  # type: ignore[assignment]
        self.faces = [
            0.5 * (diffusivity.narrow(a, 1, n - 1) + diffusivity.narrow(a, 0, n - 1))
            for a, n in enumerate(self.shape)
        ]

    def add_to(self, change: Tensor, density: Tensor) -> None:
        for axis, face in enumerate(self.faces):
            flux = face * torch.diff(density, dim=axis)
            n = self.shape[axis] - 1
            change.narrow(axis, 0, n).add_(flux)
            change.narrow(axis, 1, n).sub_(flux)


def _shape(tissue: Tensor) -> Shape:
    i, j, k = tissue.shape[1:]
    return i, j, k


def _medium(rng: np.random.Generator, tissue: Tensor) -> tuple[Tensor, Tensor]:
    """Diffusivity and growth rate: more mobile in white matter than in grey, both perturbed, none in fluid."""
    shape = _shape(tissue)
    mobility = (tissue[2] + rng.uniform(0.08, 0.5) * tissue[1]) * (1 - tissue[0]).clamp(min=0)
    mobility = mobility * torch.exp(0.7 * smooth_noise(rng, shape, 6)[0])
    diffusivity = _STABLE * (mobility / mobility.max().clamp(min=1e-3)).clamp(max=1)
    rate = 0.07 / rng.uniform(1.2, 2.6) ** 2 * torch.exp(0.5 * smooth_noise(rng, shape, 9)[0])
    return diffusivity, rate * (tissue[0] < 0.6) * (tissue.sum(0) > 0.4)


def _seed(shape: Shape) -> Tensor:
    return torch.exp(-(grid_positions(shape) ** 2).sum(0) / (2 * 2.5**2))


def fisher_kpp(rng: np.random.Generator, tissue: Tensor, target_voxels: float) -> Growth:
    """Reaction and diffusion of one species (Swanson et al. 2000), until u > 0.5 fills the target."""
    diffusivity, rate = _medium(rng, tissue)
    diffusion = _Diffusion(diffusivity)
    density = _seed(_shape(tissue))
    for step in range(420):
        change = rate * density * (1 - density)
        diffusion.add_to(change, density)
        density = density + change
        if step % _CHECK_EVERY == 0 and float((density > 0.5).sum()) >= target_voxels:
            break
    return Growth(density.clamp(0, 1))


def two_species(rng: np.random.Generator, tissue: Tensor, target_voxels: float) -> Growth:
    """Proliferating and necrotic cells with a nutrient that they use up (as FK_2c of TumorGrowthToolkit).

    dP/dt = div(D grad P) + rho S P (1 - P - N) - l P [S < s],  dN/dt = l P [S < s],
    dS/dt = Ds lap S - c S P + b (1 - S) (1 - P - N): the last term is supply by vessels that tumour displaces.
    """
    shape = _shape(tissue)
    diffusivity, rate = _medium(rng, tissue)
    cells = _Diffusion(diffusivity)
    nutrient_flow = _Diffusion(torch.full(shape, 0.12))
    need, death = rng.uniform(0.25, 0.6), rng.uniform(0.03, 0.12)
    use, supply = rng.uniform(0.01, 0.05), rng.uniform(0.005, 0.03)
    alive, dead, nutrient = _seed(shape), torch.zeros(shape), torch.ones(shape)
    for step in range(420):
        room = (1 - alive - dead).clamp(min=0)
        dying = death * alive * (nutrient < need)
        change = 1.5 * rate * nutrient * alive * room - dying
        cells.add_to(change, alive)
        flow = supply * (1 - nutrient) * room - use * nutrient * alive
        nutrient_flow.add_to(flow, nutrient)
        alive = (alive + change).clamp(min=0)
        dead, nutrient = dead + dying, (nutrient + flow).clamp(0, 1)
        if step % _CHECK_EVERY == 0 and float((alive + dead > 0.5).sum()) >= target_voxels:
            break
    return Growth((alive + dead).clamp(0, 1), dead > 0.5)


def ellipsoid(rng: np.random.Generator, tissue: Tensor, target_voxels: float) -> Growth:
    """No law at all: an ellipsoid with a noisy surface, drawn towards white matter."""
    shape = _shape(tissue)
    radius = (3 * target_voxels / (4 * np.pi)) ** (1 / 3)
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0] @ np.diag(rng.uniform(0.65, 1.4, 3))
    turned = torch.einsum("ab,bijk->aijk", torch.from_numpy(axes.astype(np.float32)), grid_positions(shape))
    distance = turned.norm(dim=0) / radius
    distance = distance + rng.uniform(0.1, 0.35) * smooth_noise(rng, shape, max(3.0, 0.7 * radius))[0]
    distance = distance + rng.uniform(0, 0.12) * smooth_noise(rng, shape, 3)[0]
    reach = rng.uniform(0.6, 1.6)
    preference = rng.uniform(0, 0.8) * (tissue[2] - 0.5) * (distance > 1)
    return Growth(torch.sigmoid(-(distance - 1 - preference) / reach * 2.5))


def spread_oedema(rng: np.random.Generator, tissue: Tensor, solid: Tensor, target_voxels: float) -> Tensor:
    """Fluid that creeps from the solid tumour along white matter and stops at cortex, float32 (I, J, K) in [0, 1].

    A front that advances in white matter only, in a random medium: oedema sends fingers into gyri and spares grey
    matter. It ends when it fills `target_voxels` beside the solid tumour, or 120 steps (some 9 cm) later.
    """
    shape = _shape(tissue)
    conduct = tissue[2] ** 2 + rng.uniform(0.0, 0.12) * tissue[1]
    conduct = conduct * torch.exp(0.9 * smooth_noise(rng, shape, 7)[0]) * (tissue[0] < 0.5)
    conduct = conduct.clamp(max=1.5) / 1.5
    diffusion = _Diffusion(_STABLE * conduct)
    density = solid.float()
    for step in range(120):
        change = 0.3 * conduct * density * (1 - density)
        diffusion.add_to(change, density)
        density = (density + change).clamp(0, 1)
        if step % 4 == 0 and float(((density > 0.5) & ~solid).sum()) >= target_voxels:
            break
    return density
