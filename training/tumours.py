"""Random gliomas in a head: where they sit, how they grew, and which voxels are NCR, ED and ET.

Two growth laws give the outline: a reaction-diffusion front (Fisher-KPP with diffusion preferring white matter, as
in Swanson et al. 2000) in a random medium, and noise-perturbed ellipsoids. Both end in one growth coordinate from
which the three nested regions are cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from training.anatomy import SPACING_MM, Head, grid_positions, sample_at
from training.fields import Shape, smooth_noise

NCR, ED, ET = 1, 2, 3
BOX = 60  # voxels, 120 mm: holds the largest simulated tumour with its oedema


@dataclass(frozen=True)
class Diseased:
    """A head with labels; every array shares one (I, J, K) grid.

    Attributes
    ----------
    head
        The anatomy, displaced by the tumour's mass effect; resection cavities are fluid.
    labels
        uint8 (I, J, K): 0 background, 1 NCR, 2 ED, 3 ET.
    oedema
        float32 (I, J, K) in [0, 1]: how fully oedema has replaced the tissue's own signal.
    """

    head: Head
    labels: Tensor
    oedema: Tensor


def _front(rng: np.random.Generator, tissue: Tensor, target_voxels: float) -> Tensor:
    """Cell density of a Fisher-KPP tumour, float32 (I, J, K) in [0, 1], grown until u > 0.5 fills the target."""
    shape: Shape = tuple(tissue.shape[1:])  # type: ignore[assignment]
    medium = torch.exp(0.7 * smooth_noise(rng, shape, 6)[0])
    grey_factor = rng.uniform(0.08, 0.5)
    diffusivity = (tissue[2] + grey_factor * tissue[1]) * (1 - tissue[0]).clamp(min=0) * medium
    diffusivity = 0.16 * (diffusivity / diffusivity.max().clamp(min=1e-3)).clamp(max=1)
    width = rng.uniform(1.2, 2.6)
    growth = 0.07 / width**2 * torch.exp(0.5 * smooth_noise(rng, shape, 9)[0])
    growth = growth * (tissue[0] < 0.6) * (tissue.sum(0) > 0.4)
    faces = [
        0.5 * (diffusivity.narrow(a, 1, n - 1) + diffusivity.narrow(a, 0, n - 1)) for a, n in enumerate(shape)
    ]
    density = torch.exp(-(grid_positions(shape) ** 2).sum(0) / (2 * 2.5**2))
    for step in range(420):
        change = growth * density * (1 - density)
        for axis, face in enumerate(faces):
            flux = face * torch.diff(density, dim=axis)
            n = shape[axis] - 1
            change.narrow(axis, 0, n).add_(flux)
            change.narrow(axis, 1, n).sub_(flux)
        density = density + change
        if step % 8 == 7 and float((density > 0.5).sum()) >= target_voxels:
            break
    return density.clamp(0, 1)


def _ellipsoid(rng: np.random.Generator, tissue: Tensor, target_voxels: float) -> Tensor:
    """Growth coordinate of a noise-perturbed ellipsoid, float32 (I, J, K): 1 at the centre, 0.5 on its surface."""
    shape: Shape = tuple(tissue.shape[1:])  # type: ignore[assignment]
    radius = (3 * target_voxels / (4 * np.pi)) ** (1 / 3)
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0] @ np.diag(rng.uniform(0.65, 1.4, 3))
    turned = torch.einsum("ab,bijk->aijk", torch.from_numpy(axes.astype(np.float32)), grid_positions(shape))
    distance = turned.norm(dim=0) / radius
    distance = distance + rng.uniform(0.1, 0.35) * smooth_noise(rng, shape, max(3.0, 0.7 * radius))[0]
    distance = distance + rng.uniform(0, 0.12) * smooth_noise(rng, shape, 3)[0]
    reach = rng.uniform(0.6, 1.6)
    preference = rng.uniform(0, 0.8) * (tissue[2] - 0.5) * (distance > 1)
    return torch.sigmoid(-(distance - 1 - preference) / reach * 2.5)


def _regions(rng: np.random.Generator, growth: Tensor, tissue: Tensor) -> tuple[Tensor, Tensor]:
    """Labels of one tumour and its oedema weight from the growth coordinate."""
    shape: Shape = tuple(growth.shape)  # type: ignore[assignment]
    inside = (tissue.sum(0) > 0.5) & (tissue[0] < 0.75)
    solid = ((growth > 0.5) & (tissue.sum(0) > 0.4)).numpy()
    solid = torch.from_numpy(ndimage.binary_fill_holes(solid))
    edge = rng.uniform(0.03, 0.42) if rng.random() < 0.88 else 0.48
    spread = (
        growth + 0.12 * smooth_noise(rng, shape, 6)[0] * (growth > 0.02) - rng.uniform(0, 0.3) * tissue[1]
    )
    oedema = (spread > edge) & inside & ~solid

    depth = torch.from_numpy(ndimage.distance_transform_edt(solid.numpy()).astype(np.float32)) * SPACING_MM
    noise = smooth_noise(rng, shape, 5, 2)
    rim = rng.choice([rng.uniform(1.5, 4), rng.uniform(3, 8), 60.0], p=[0.5, 0.35, 0.15])
    necrosis = solid & (depth > rim * (1 + 0.5 * noise[0]))
    labels = torch.zeros(shape, dtype=torch.uint8)
    labels[oedema] = ED
    labels[solid] = ET
    labels[necrosis] = NCR
    if rng.random() < 0.35:  # enhancement is missing on part of the rim
        labels[solid & (noise[1] > rng.uniform(0.3, 1.2))] = NCR
    if rng.random() < 0.07:  # no enhancement at all
        labels[solid] = NCR
    weight = ((spread - edge) / rng.uniform(0.02, 0.3)).clamp(0, 1)
    floor = rng.uniform(0.4, 1.0)
    return labels, torch.where(oedema, floor + (1 - floor) * weight, 0.0)


def _push(head: Head, centre: Tensor, radius: float, strength: float) -> Head:
    """The head after tissue has moved away from a centre (voxels): mass effect, fading over twice the radius."""
    shape: Shape = tuple(head.outer.shape)  # type: ignore[assignment]
    positions = grid_positions(shape)
    relative = positions - centre.view(3, 1, 1, 1)
    fade = strength * torch.exp(-(relative**2).sum(0) / (2 * (1.3 * radius) ** 2))
    moved = sample_at(head.tissue, positions - relative * fade)
    brain = head.tissue.sum(0) > 0.5
    return Head(moved * brain, head.outer)


def _box(centre: Tensor, shape: Shape) -> tuple[slice, ...]:
    low = [int(min(max(int(c) - BOX // 2, 0), n - BOX)) for c, n in zip(centre, shape, strict=True)]
    return tuple(slice(start, start + BOX) for start in low)


def add_tumours(rng: np.random.Generator, head: Head, *, healthy_rate: float = 0.1) -> Diseased:
    """Grow 0 to 3 foci in a head; none with probability `healthy_rate`."""
    shape: Shape = tuple(head.outer.shape)  # type: ignore[assignment]
    labels = torch.zeros(shape, dtype=torch.uint8)
    oedema = torch.zeros(shape)
    if rng.random() < healthy_rate:
        return Diseased(head, labels, oedema)
    for focus in range(int(rng.choice([1, 2, 3], p=[0.8, 0.14, 0.06]))):
        candidates = torch.nonzero(head.tissue[2] > 0.4)
        centre = candidates[rng.integers(len(candidates))]
        # Glioblastomas are tens of mL when found; a sixth of the foci are small ones.
        low, high = (3e3, 80e3) if rng.random() < 0.85 else (0.6e3, 3e3)
        target = np.exp(rng.uniform(np.log(low), np.log(high))) / SPACING_MM**3 / (1 + 2 * focus)
        radius = (3 * target / (4 * np.pi)) ** (1 / 3)
        middle = torch.tensor([(n - 1) / 2 for n in shape])
        if rng.random() < 0.7:
            head = _push(head, centre.float() - middle, radius, rng.uniform(0.1, 0.55))
        box = _box(centre, shape)
        # The growth laws seed the middle of their box, so shift the tissue until the focus is there.
        offset = torch.tensor(
            [c - s.start - (BOX - 1) / 2 for c, s in zip(centre.tolist(), box, strict=True)]
        )
        local = head.tissue[(slice(None), *box)]
        centred = sample_at(local, grid_positions((BOX, BOX, BOX)) + offset.view(3, 1, 1, 1))
        law = _front if rng.random() < 0.55 else _ellipsoid
        growth = law(rng, centred, target)
        growth = sample_at(growth[None], grid_positions((BOX, BOX, BOX)) - offset.view(3, 1, 1, 1))[0]
        new, weight = _regions(rng, growth, local)
        old = labels[box]
        replace = (new > 0) & ((old == 0) | ((old == ED) & (new != ED)))
        old[replace] = new[replace]
        oedema[box] = torch.maximum(oedema[box], weight)
    if rng.random() < 0.08:
        head = _resect(rng, head, labels)
    return Diseased(head, labels, oedema * (labels == ED))


def _resect(rng: np.random.Generator, head: Head, labels: Tensor) -> Head:
    """Replace most of the necrotic core by fluid that is no longer tumour: a resection cavity (changes `labels`)."""
    noise = smooth_noise(rng, tuple(labels.shape), 6)[0]  # type: ignore[arg-type]
    cavity = (labels == NCR) & (noise > -0.8)
    tissue = head.tissue.clone()
    tissue[0][cavity], tissue[1][cavity], tissue[2][cavity] = 1.0, 0.0, 0.0
    labels[cavity] = 0
    return Head(tissue, head.outer)
