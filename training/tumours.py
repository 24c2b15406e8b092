"""Random gliomas in a head: where they sit, how they grew, and which voxels are NCR, ED and ET.

Three growth laws (`training.growth`) give the solid tumour and a fourth the oedema; rims, necrosis and missing
enhancement are cut from them with random thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from training.anatomy import SPACING_MM, Head, grid_positions, sample_at, white_matter_change
from training.fields import Shape, smooth_noise
from training.growth import Growth, ellipsoid, fisher_kpp, spread_oedema, two_species

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
        float32 (I, J, K) in [0, 1]: how fully oedema has replaced the tissue's own signal; outside the tumour, how
        fully the white-matter change of the old has.
    """

    head: Head
    labels: Tensor
    oedema: Tensor


def _regions(rng: np.random.Generator, growth: Growth, tissue: Tensor) -> tuple[Tensor, Tensor]:
    """Labels of one tumour and its oedema weight."""
    shape: Shape = tuple(growth.coordinate.shape)  # type: ignore[assignment]
    inside = (tissue.sum(0) > 0.5) & (tissue[0] < 0.75)
    solid = ((growth.coordinate > 0.5) & (tissue.sum(0) > 0.4)).numpy()
    solid = torch.from_numpy(ndimage.binary_fill_holes(solid))
    fluid = _oedema_density(rng, growth, tissue, solid)
    edge = rng.uniform(0.2, 0.6)
    oedema = (fluid > edge) & inside & ~solid

    depth = torch.from_numpy(ndimage.distance_transform_edt(solid.numpy()).astype(np.float32)) * SPACING_MM
    noise = smooth_noise(rng, shape, 5, 2)
    if growth.necrosis is not None and rng.random() < 0.7:
        necrosis = solid & growth.necrosis & (depth > 1.5)
    else:
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
    weight = ((fluid - edge) / rng.uniform(0.05, 0.4)).clamp(0, 1)
    floor = rng.uniform(0.25, 1.0)  # infiltrated margins are faint
    return labels, torch.where(oedema, floor + (1 - floor) * weight, 0.0)


def _oedema_density(rng: np.random.Generator, growth: Growth, tissue: Tensor, solid: Tensor) -> Tensor:
    """Fluid in [0, 1]: nearly none, along white matter, or all around as the growth coordinate falls."""
    kind = rng.choice(["along white matter", "around", "none"], p=[0.62, 0.28, 0.1])
    if kind == "along white matter":
        ratio = np.exp(rng.uniform(np.log(0.5), np.log(6)))
        return spread_oedema(rng, tissue, solid, ratio * float(solid.sum()))
    shape: Shape = tuple(growth.coordinate.shape)  # type: ignore[assignment]
    coordinate = growth.coordinate + 0.12 * smooth_noise(rng, shape, 6)[0] * (growth.coordinate > 0.02)
    coordinate = coordinate - rng.uniform(0, 0.3) * tissue[1]
    lowest = rng.uniform(0.03, 0.42) if kind == "around" else 0.48
    return ((coordinate - lowest) / (0.5 - lowest) * 0.8 + 0.2).clamp(0, 1)


def _push(head: Head, centre: Tensor, radius: float, strength: float) -> Head:
    """The head after tissue has moved away from a centre (voxels): mass effect, fading over twice the radius."""
    shape: Shape = tuple(head.outer.shape)  # type: ignore[assignment]
    positions = grid_positions(shape)
    relative = positions - centre.view(3, 1, 1, 1)
    fade = strength * torch.exp(-(relative**2).sum(0) / (2 * (1.3 * radius) ** 2))
    moved = sample_at(head.tissue, positions - relative * fade)
    solid = head.tissue.sum(0) > 0.5
    return Head(moved * solid, head.outer, head.brain)


def _moved(growth: Growth, offset: Tensor) -> Growth:
    positions = grid_positions((BOX, BOX, BOX)) + offset.view(3, 1, 1, 1)
    dead = growth.necrosis
    return Growth(
        sample_at(growth.coordinate[None], positions)[0],
        None if dead is None else sample_at(dead.float()[None], positions)[0] > 0.5,
    )


def _box(centre: Tensor, shape: Shape) -> tuple[slice, ...]:
    low = [int(min(max(int(c) - BOX // 2, 0), n - BOX)) for c, n in zip(centre, shape, strict=True)]
    return tuple(slice(start, start + BOX) for start in low)


def add_tumours(rng: np.random.Generator, head: Head, *, healthy_rate: float = 0.2) -> Diseased:
    """Grow 0 to 3 foci in a head; none with probability `healthy_rate`."""
    shape: Shape = tuple(head.outer.shape)  # type: ignore[assignment]
    labels = torch.zeros(shape, dtype=torch.uint8)
    oedema = torch.zeros(shape)
    healthy = rng.random() < healthy_rate
    aged = white_matter_change(rng, head) if rng.random() < 0.25 else oedema
    if healthy:
        return Diseased(head, labels, aged)
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
        law = (fisher_kpp, two_species, ellipsoid)[int(rng.choice(3, p=[0.3, 0.3, 0.4]))]
        growth = _moved(law(rng, centred, target), -offset)
        new, weight = _regions(rng, growth, local)
        old = labels[box]
        replace = (new > 0) & ((old == 0) | ((old == ED) & (new != ED)))
        old[replace] = new[replace]
        oedema[box] = torch.maximum(oedema[box], weight)
    if rng.random() < 0.08:
        head = _resect(rng, head, labels)
    return Diseased(
        head, labels, torch.where(labels > 0, oedema * (labels == ED), aged * (head.tissue[2] > 0.4))
    )


def _resect(rng: np.random.Generator, head: Head, labels: Tensor) -> Head:
    """Replace most of the necrotic core by fluid that is no longer tumour: a resection cavity (changes `labels`)."""
    noise = smooth_noise(rng, tuple(labels.shape), 6)[0]  # type: ignore[arg-type]
    cavity = (labels == NCR) & (noise > -0.8)
    tissue = head.tissue.clone()
    tissue[0][cavity], tissue[1][cavity], tissue[2][cavity] = 1.0, 0.0, 0.0
    labels[cavity] = 0
    return Head(tissue, head.outer, head.brain)
