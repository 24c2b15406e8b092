"""Random human heads: ICBM152 tissue maps under random deformation, with skull, scalp, face and vessels around.

The maps are those that the nilearn wheel carries (MNI ICBM152 2009a, McGill notice); they are read from the
installed wheel and never copied.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as functional
from scipy import ndimage
from torch import Tensor

from training.fields import Shape, smooth_noise
from training.vessels import REACH_MM, STRUCTURES, closeness_maps

SPACING_MM = 2.0
HEAD_SHAPE: Shape = (112, 128, 112)

# Codes of `Head.outer`, the tissues that are not brain. Vessels, choroid plexus, dura and mucosa enhance normally.
NO_TISSUE, OUTER_CSF, SKULL, MARROW, FAT, MUSCLE, VESSEL, EYE, CHOROID, DURA, MUCOSA, ARTERY = range(12)


@dataclass(frozen=True)
class Head:
    """A head without tumour on a (I, J, K) grid of 2 mm voxels, axis-aligned LPS.

    Attributes
    ----------
    tissue
        float32 (3, I, J, K): fractions of CSF, grey and white matter; their sum is at most 1.
    outer
        uint8 (I, J, K): code of the tissue that fills the rest of the voxel, `NO_TISSUE` in air.
    brain
        bool (I, J, K): inside the brain's outer surface, with its fluid, vessels and choroid plexus.
    """

    tissue: Tensor
    outer: Tensor
    brain: Tensor


def _wheel_map(kind: str) -> np.ndarray:
    """One ICBM152 map of the nilearn wheel, float32 in [0, 1], flipped to LPS array order, 1 mm."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "nilearn is not installed, whose wheel carries the ICBM152 maps: pip install nilearn"
        )
    name = f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    image = nib.load(Path(spec.origin).parent / "datasets" / "data" / name)
    data = np.asarray(image.dataobj, dtype=np.float32)
    return data[::-1, ::-1] / data.max()


@lru_cache(maxsize=1)
def atlas() -> Tensor:
    """ICBM152 fractions of CSF, grey, white matter and superior sagittal sinus, then `closeness_maps`; 2 mm.

    Returns
    -------
    Tensor
        float32 (4 + len(STRUCTURES), I, J, K), LPS array order.
    """
    grey, white, t1 = (_wheel_map(kind) for kind in ("gm", "wm", "t1"))
    mask = ndimage.binary_fill_holes(t1 > 0)
    csf = np.clip(mask - grey - white, 0, 1) * mask
    outside = ndimage.distance_transform_edt(~mask)
    middle = abs(np.arange(mask.shape[0]) - (mask.shape[0] - 1) / 2)[:, None, None]
    upper = np.arange(mask.shape[2])[None, None] > 0.45 * mask.shape[2]
    sinus = (outside > 0) & (outside < 7) & (middle < 4) & upper
    maps = torch.from_numpy(np.stack([csf, grey * mask, white * mask, sinus]).astype(np.float32))
    maps = functional.avg_pool3d(maps[None], 2, ceil_mode=True)[0]
    axes = [2 * np.arange(n) + 0.5 for n in maps.shape[1:]]
    i, j, k = np.meshgrid(*axes, indexing="ij")
    # The template's world origin lies at voxel (98, 134, 72) of its 1 mm grid; i and j are flipped here.
    closeness = closeness_maps(np.stack([98 - i, 98 - j, k - 72], axis=-1))
    return torch.cat([maps, torch.from_numpy(closeness)])


def _rotation(angles: np.ndarray) -> np.ndarray:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_i = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_j = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_k = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_i @ about_j @ about_k


def grid_positions(shape: Shape) -> Tensor:
    """Voxel indices relative to the centre of the grid, float32 (3, I, J, K)."""
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample_at(maps: Tensor, positions: Tensor) -> Tensor:
    """Linear interpolation of (C, I, J, K) at positions (3, I', J', K') in voxels from its centre; 0 outside."""
    extent = torch.tensor(maps.shape[1:], dtype=torch.float32).view(3, 1, 1, 1)
    unit = (positions / (extent / 2)).flip(0).permute(1, 2, 3, 0)
    return functional.grid_sample(maps[None], unit[None], align_corners=False)[0]


def _ventricle_change(rng: np.random.Generator, positions: Tensor) -> Tensor:
    """Displacement that widens or narrows the middle of the brain (larger ventricles, atrophy), voxels.

    Its centre lies off the middle: the ventricle beside an old lesion or a cavity is the wider one.
    """
    strength = rng.uniform(-0.5, 0.1)
    centre = torch.tensor([rng.normal(0, 3), 0, 0], dtype=torch.float32).view(3, 1, 1, 1)
    weight = torch.exp(-((positions - centre) ** 2).sum(0) / (2 * 13.0**2))
    return (positions - centre) * weight * strength


def random_head(rng: np.random.Generator, shape: Shape = HEAD_SHAPE) -> Head:
    """A head of random pose, size and shape with random layers outside the brain."""
    positions = grid_positions(shape)
    linear = _rotation(rng.normal(0, 0.12, 3)) @ np.diag(rng.uniform(0.86, 1.14, 3))
    if rng.random() < 0.5:
        linear[0] *= -1
    shift = torch.from_numpy(rng.uniform(-4, 4, 3).astype(np.float32)).view(3, 1, 1, 1)
    bend = smooth_noise(rng, shape, 28, 3) * rng.uniform(0, 3.5) + smooth_noise(
        rng, shape, 11, 3
    ) * rng.uniform(0, 1.0)
    source = torch.einsum("ab,bijk->aijk", torch.from_numpy(linear.astype(np.float32)), positions + shift)
    source = source + bend
    source = source + _ventricle_change(rng, source)
    warped = sample_at(atlas(), source)
    tissue = warped[:3]
    brain = torch.from_numpy(ndimage.binary_fill_holes((tissue.sum(0) > 0.5).numpy()))
    if rng.random() < 0.5:
        _widen_sulci(rng, tissue)
    return Head(tissue, _outer_layers(rng, tissue, warped[3:], brain, shape), brain)


def _widen_sulci(rng: np.random.Generator, tissue: Tensor) -> None:
    """Atrophy: fluid takes the place of grey matter next to it, more so in some lobes (changes `tissue`)."""
    near_fluid = functional.avg_pool3d(tissue[None, :1], 3, stride=1, padding=1)[0, 0]
    lobes = 1 + 0.6 * smooth_noise(rng, tuple(tissue.shape[1:]), 24)[0]  # type: ignore[arg-type]
    lost = tissue[1] * (rng.uniform(0.2, 1.6) * near_fluid * lobes.clamp(min=0)).clamp(max=0.9)
    tissue[0] += lost
    tissue[1] -= lost


def white_matter_change(rng: np.random.Generator, head: Head) -> Tensor:
    """Caps, rims and spots in the white matter of the old, which are bright in FLAIR and no tumour.

    Returns
    -------
    Tensor
        float32 (I, J, K) in [0, 1]: how fully the change has replaced white matter's own signal.
    """
    shape: Shape = tuple(head.outer.shape)  # type: ignore[assignment]
    cortex = (
        torch.from_numpy(ndimage.distance_transform_edt(head.brain.numpy()).astype(np.float32)) * SPACING_MM
    )
    deep = (head.tissue[0] > 0.5) & (cortex > 22)
    if not deep.any():
        return torch.zeros(shape)
    ventricle = (
        torch.from_numpy(ndimage.distance_transform_edt(~deep.numpy()).astype(np.float32)) * SPACING_MM
    )
    noise = smooth_noise(rng, shape, 7)[0]
    rim = ((rng.uniform(0, 4) * (1 + 0.5 * noise) - ventricle) / 3 + 0.5).clamp(0, 1)
    spots = ((smooth_noise(rng, shape, 3)[0] - rng.uniform(1.3, 2.2)) * 3).clamp(0, 1) * (cortex > 8)
    return torch.maximum(rim, spots * (rng.random() < 0.4)) * (head.tissue[2] > 0.5)


def _outer_layers(
    rng: np.random.Generator, tissue: Tensor, structures: Tensor, inside: Tensor, shape: Shape
) -> Tensor:
    brain = inside.numpy()
    outside = torch.from_numpy(ndimage.distance_transform_edt(~brain).astype(np.float32)) * SPACING_MM
    variation = smooth_noise(rng, shape, 16, 3)
    position = grid_positions(shape) * SPACING_MM
    centre = [float(position[axis][torch.from_numpy(brain)].mean()) for axis in range(3)]
    below = torch.sigmoid((centre[2] - 35 - position[2]) / 12)
    front = torch.sigmoid((centre[1] - 20 - position[1]) / 20)

    csf_end = rng.uniform(0, 4) * (1 + 0.5 * variation[0])
    skull_end = csf_end.clamp(min=0) + rng.uniform(3, 9) * (1 + 0.3 * variation[1]).clamp(min=0.3)
    face = below * (rng.uniform(5, 30) + front * rng.uniform(10, 50))
    scalp_end = skull_end + rng.uniform(3, 10) * (1 + 0.4 * variation[2]).clamp(min=0.3) + face

    outer = torch.zeros(shape, dtype=torch.uint8)
    soft = smooth_noise(rng, shape, 5, 2)
    outer[outside <= scalp_end] = FAT
    muscle = (soft[0] > rng.uniform(-0.3, 0.5)) & ((outside < skull_end + rng.uniform(1, 5)) | (below > 0.4))
    outer[(outside <= scalp_end) & muscle] = MUSCLE
    airway = rng.uniform(0.6, 1.0)
    outer[(outside <= scalp_end) & (below > 0.4) & (soft[1] > airway - rng.uniform(0.05, 0.5))] = MUCOSA
    outer[(outside <= scalp_end) & (below > 0.4) & (soft[1] > airway)] = NO_TISSUE  # sinuses, airways
    outer[(outside <= scalp_end) & (outside > scalp_end - 2.5) & (soft[1] < 0.2)] = MUSCLE  # skin
    outer[outside <= skull_end] = SKULL
    diploe = (outside - csf_end) / (skull_end - csf_end).clamp(min=0.1)
    if rng.random() < 0.8:
        outer[(diploe > 0.3) & (diploe < 0.7) & (soft[0] > rng.uniform(-1, 0.6))] = MARROW
    outer[(outside <= skull_end) & (below > 0.7) & (soft[1] > 0.2)] = MUSCLE  # skull base, orbit, neck
    outer[outside <= csf_end] = OUTER_CSF
    _add_eyes(rng, outer, position, centre, brain)
    _add_enhancing(rng, outer, tissue, structures, outside, shape)
    return outer


def _add_eyes(
    rng: np.random.Generator, outer: Tensor, position: Tensor, centre: list[float], brain: np.ndarray
) -> None:
    rows = np.flatnonzero(brain.any(axis=(0, 2)))
    forehead = (rows[0] - (brain.shape[1] - 1) / 2) * SPACING_MM
    for side in (-1, 1):
        eye = [
            centre[0] + side * rng.uniform(28, 36),
            forehead + rng.uniform(-8, 12),
            centre[2] - rng.uniform(28, 42),
        ]
        distance = torch.sqrt(sum((position[a] - eye[a]) ** 2 for a in range(3)))
        free = torch.from_numpy(~brain)
        outer[(distance < rng.uniform(16, 22)) & free] = FAT
        outer[(distance < rng.uniform(10, 13)) & free] = EYE


def _add_enhancing(
    rng: np.random.Generator, outer: Tensor, tissue: Tensor, structures: Tensor, outside: Tensor, shape: Shape
) -> None:
    """Normal structures that take up contrast. They replace brain and fluid (change `outer` and `tissue`)."""
    near = dict(zip(STRUCTURES, structures[1:], strict=True))
    wobble = 0.8 * smooth_noise(rng, shape, 5)[0]

    def within(name: str, low: float, high: float) -> Tensor:
        """Closer to a structure than a random radius (mm) that varies along it."""
        return near[name] > REACH_MM - rng.uniform(low, high) + wobble

    curves = smooth_noise(rng, shape, 9, 2)
    veins = (curves.abs() < rng.uniform(0.05, 0.16)).all(0) & (outside < 4) & (tissue[2] < 0.5)
    patches = smooth_noise(rng, shape, 12)[0] > rng.uniform(-1, 1.5)
    dura = (outside > 0) & (outside <= rng.uniform(1, 4.5)) & patches
    dura |= within("falx", -1.0, 1.6) | within("tentorium", -1.0, 1.8)
    plexus = within("choroid", 1.0, 5.0) & (tissue[0] > rng.uniform(0.2, 0.5))
    depth = torch.from_numpy(ndimage.distance_transform_edt((outside == 0).numpy())) * SPACING_MM
    plexus |= (depth > 24) & (tissue[0] > 0.5) & (smooth_noise(rng, shape, 4)[0] > rng.uniform(0.7, 1.6))
    sinuses = (structures[0] > 0.4) | within("lateral sinus", 2.0, 5.0)
    sinuses |= within("deep veins", 0.5, 3.0) | within("skull base", 2.0, 7.0) | veins
    for code, where in (
        (DURA, dura),
        (CHOROID, plexus),
        (ARTERY, within("arteries", 0.3, 2.8)),
        (VESSEL, sinuses),
    ):
        outer[where] = code
        tissue *= ~where
