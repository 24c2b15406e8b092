"""MR contrasts of a simulated head: random but weakly ordered intensities, textures and scanner faults."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from training.anatomy import (
    ARTERY,
    CHOROID,
    DURA,
    EYE,
    FAT,
    MARROW,
    MUCOSA,
    MUSCLE,
    OUTER_CSF,
    SKULL,
    VESSEL,
    Head,
)
from training.fields import Shape, blur, smooth_noise
from training.scanner_faults import spoil
from training.tumours import ED, ET, NCR, Diseased

ROLES = ("t1", "t1ce", "t2", "flair")
_OUTER = 12
_CSF, _GREY, _WHITE = range(3)
_FLAIR = ROLES.index("flair")
_SURFACE = 0.2  # least share of the 27 voxels around that are no enhancing tumour


@dataclass(frozen=True)
class Contrast:
    """Everything random about how one head is imaged; arrays have one row per role.

    Attributes
    ----------
    tissue
        float (4, 3): signal of CSF, grey and white matter.
    tumour
        float (4, 4): signal by label (column 0 unused).
    outer
        float (4, 12): signal by code of `Head.outer`.
    clusters
        float (4, 7, 3): factors on the signal of three random parts of each of CSF, grey, white and labels 0 to 3.
    white_matter_change
        float (4,): signal of the white-matter change of the old.
    inflow
        Signal that moving fluid, which the inversion pulse has not met, adds to dark CSF in FLAIR; 0 in most heads.
    spoiled
        (kind, channel) of at most one scanner fault: "gibbs", "spikes" or "motion"; ("", 0) for none.
    stripped
        Skull, scalp and air are cut away and set to exactly 0.
    brain_statistics
        Intensities are normalised over the brain although the skull is there.
    rim_share
        Least share of a voxel that enhancing tumour fills at its surface: rims may be thinner than a voxel; 1 in
        half the heads.
    """

    tissue: np.ndarray
    tumour: np.ndarray
    outer: np.ndarray
    texture: np.ndarray
    tumour_texture: float
    clusters: np.ndarray
    white_matter_change: np.ndarray
    inflow: float
    spoiled: tuple[str, int]
    bias: np.ndarray
    noise: np.ndarray
    blur: np.ndarray
    gamma: np.ndarray
    thick_axis: np.ndarray
    thick_factor: np.ndarray
    shift: np.ndarray
    stripped: bool
    strip_vessels: bool
    strip_errors: bool
    brain_statistics: bool
    rim_share: float


def ordered_tissue(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tissue and tumour signal that keep the order radiologists expect, with room for vendors and field strengths."""
    tissue, tumour = np.zeros((4, 3)), np.zeros((4, 4))
    white = 1.0
    grey = white * rng.uniform(0.6, 0.97)
    csf = grey * rng.uniform(0.15, 0.7)
    tissue[0] = csf, grey, white
    # Necrosis holds protein and debris: its T1 is shorter than that of CSF, which only a cyst comes near.
    tumour[0, NCR] = rng.uniform(csf + 0.1 * (grey - csf), grey)
    tumour[0, ED] = rng.uniform(csf + 0.4 * (grey - csf), grey * 1.02)
    tumour[0, ET] = rng.uniform(csf + 0.5 * (grey - csf), white)
    if rng.random() < 0.3:  # blood and much protein: T1 as short as that of white matter, or shorter
        tumour[0, [NCR, ET]] = white * rng.uniform(0.8, 1.3, 2)

    tissue[1] = tissue[0] * rng.uniform(0.92, 1.08, 3)
    tumour[1] = tumour[0] * rng.uniform(0.92, 1.08, 4)
    tumour[1, NCR] = rng.uniform(0.8 * tissue[1, _CSF], max(tissue[1, _GREY], tumour[0, NCR]))
    tumour[1, ET] = tissue[1, _WHITE] * rng.uniform(1.1, 2.3)

    white = rng.uniform(0.25, 0.5)
    grey = white * rng.uniform(1.1, 1.7)
    csf = max(grey * rng.uniform(1.4, 3.2), 0.8)
    tissue[2] = csf, grey, white
    tumour[2, ED] = rng.uniform(1.1 * grey, 0.9 * csf)
    tumour[2, NCR] = rng.uniform(grey, csf)
    tumour[2, ET] = rng.uniform(grey * 0.9, 0.8 * csf)

    white = rng.uniform(0.45, 0.75)
    grey = white * rng.uniform(1.02, 1.4)
    csf = white * rng.uniform(0.05, 0.65)
    tissue[3] = csf, grey, white
    tumour[3, ED] = grey * rng.uniform(1.08, 2.2)
    tumour[3, NCR] = rng.uniform(csf + 0.1 * (tumour[3, ED] - csf), tumour[3, ED])
    tumour[3, ET] = rng.uniform(0.9 * grey, 1.15 * tumour[3, ED])
    return tissue, tumour


def outer_signal(rng: np.random.Generator, tissue: np.ndarray) -> np.ndarray:
    """Signal (4, 12) of what is not brain tissue, by code of `Head.outer`, next to that of tissue (4, 3)."""
    outer = np.zeros((4, _OUTER))
    brightest = tissue.max(1)
    outer[:, OUTER_CSF] = tissue[:, _CSF]
    outer[:, SKULL] = brightest * rng.uniform(0.0, 0.25)
    fat = rng.uniform([0.8, 0.6, 0.3, 0.6], [2.2, 2.2, 1.3, 1.8])
    if rng.random() < 0.2:
        fat *= rng.uniform(0.1, 0.5)  # fat suppression
    outer[:, FAT] = brightest * fat
    outer[:, MARROW] = outer[:, FAT] * rng.uniform(0.3, 1.0)
    outer[:, MUSCLE] = tissue[:, _GREY] * rng.uniform([0.5, 0.6, 0.3, 0.4], [1.0, 1.5, 0.9, 1.1])
    outer[:, EYE] = tissue[:, _CSF] * rng.uniform(0.8, 1.2, 4)
    outer[:, VESSEL] = tissue[:, _GREY] * rng.uniform([0.3, 0.0, 0.1, 0.2], [1.1, 0.0, 1.0, 1.0])
    outer[:, ARTERY] = tissue[:, _GREY] * rng.uniform([0.2, 0.0, 0.0, 0.1], [1.2, 0.0, 0.6, 0.9])
    outer[:, CHOROID] = tissue[:, _GREY] * rng.uniform([0.7, 0.0, 0.9, 0.7], [1.1, 0.0, 1.8, 1.4])
    outer[:, DURA] = tissue[:, _GREY] * rng.uniform([0.4, 0.0, 0.2, 0.5], [1.0, 0.0, 1.0, 1.3])
    outer[:, MUCOSA] = tissue[:, _GREY] * rng.uniform([0.6, 0.0, 1.0, 0.9], [1.1, 0.0, 2.6, 1.8])
    for code, low, high in (
        (VESSEL, 1.0, 2.4),
        (ARTERY, 0.4, 2.3),  # flow voids in some sequences
        (CHOROID, 0.9, 2.0),
        (DURA, 0.6, 1.9),
        (MUCOSA, 0.9, 2.1),
    ):
        outer[1, code] = tissue[1, _WHITE] * rng.uniform(low, high)
    return outer


def random_contrast(rng: np.random.Generator) -> Contrast:
    """Draw how a head is imaged: seven in eight weakly ordered, the rest with signals at random."""
    if rng.random() < 0.88:
        tissue, tumour = ordered_tissue(rng)
        outer = outer_signal(rng, tissue)
    else:
        tissue, tumour, outer = (rng.uniform(0.05, 1.2, (4, n)) for n in (3, 4, _OUTER))
    outer[:, 0] = 0.0
    change = tissue[:, _WHITE] * rng.uniform([0.85, 0.85, 1.0, 1.0], [1.0, 1.0, 1.5, 1.4])
    scale = rng.uniform(0.6, 1.4, (4, 1)) / np.maximum(tissue.max(1, keepdims=True), 1e-3)
    thick = rng.random(4) < 0.3
    common = rng.random() < 0.3
    axis = np.full(4, rng.choice([0, 1, 2], p=[0.2, 0.15, 0.65]))
    stripped = bool(rng.random() < 0.42)
    return Contrast(
        tissue=tissue * scale,
        tumour=tumour * scale,
        outer=outer * scale,
        texture=rng.uniform(0.01, 0.09, 4),
        tumour_texture=rng.uniform(1.0, 3.0),
        clusters=np.exp(
            rng.normal(0, 1, (4, 7, 3)) * np.r_[[0.06] * 3, [0.15] * 4].reshape(7, 1) * rng.random()
        ),
        white_matter_change=change * scale[:, 0],
        inflow=float(scale[3, 0] * tissue[3, _GREY] * rng.uniform(0.3, 1.5) * (rng.random() < 0.3)),
        spoiled=(
            str(rng.choice(["", "gibbs", "spikes", "motion"], p=[0.8, 0.1, 0.03, 0.07])),
            int(rng.integers(4)),
        ),
        bias=rng.uniform(0.0, 0.35, 4),
        noise=rng.uniform(0.004, 0.06, 4),
        blur=rng.uniform(0.0, 0.75, 4),
        gamma=np.exp(rng.normal(0, 0.15, 4)),
        thick_axis=axis,
        thick_factor=np.where(thick | common, rng.uniform(1.5, 3.5, 4), 1.0),
        shift=np.where(rng.random(4) < 0.4, rng.normal(0, 0.5, (3, 4)), 0.0).T,
        stripped=stripped,
        strip_vessels=bool(rng.random() < 0.5),
        strip_errors=bool(rng.random() < 0.15),
        brain_statistics=bool(not stripped and rng.random() < 0.4),
        rim_share=float(rng.choice([1.0, rng.uniform(0.25, 1.0)])),
    )


def _thicken(image: Tensor, axis: int, factor: float) -> Tensor:
    """One channel (1, I, J, K) as if acquired in slices `factor` voxels thick and interpolated back."""
    shape = list(image.shape[1:])
    reduced = list(shape)
    reduced[axis] = max(2, round(shape[axis] / factor))
    coarse = functional.interpolate(image[None], size=reduced, mode="area")
    return functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=False)[0]


def _thinned(rng: np.random.Generator, images: Tensor, enhancing: Tensor, least: float) -> Tensor:
    """Images in which enhancing tumour at its surface shares its voxels with what lies beside it."""
    shape: Shape = tuple(enhancing.shape)  # type: ignore[assignment]
    others = (~enhancing).float()
    share, *beside = functional.avg_pool3d(torch.cat([others[None], images * others])[None], 3, 1, 1)[0]
    filled = least + (1 - least) * (0.5 + 0.5 * smooth_noise(rng, shape, 6)[0]).clamp(0, 1)
    filled = torch.where(enhancing & (share > _SURFACE), filled, 1.0)
    return filled * images + (1 - filled) * torch.stack(beside) / share.clamp(min=_SURFACE)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _parts(rng: np.random.Generator, shape: Shape) -> Tensor:
    """Three random parts of space that cluster each class in two or three, int64 (I, J, K) in 0, 1, 2."""
    field = smooth_noise(rng, shape, rng.uniform(4, 16))[0]
    low, high = rng.uniform(-0.8, 0.2), rng.uniform(0.2, 0.9)
    return (field > low).long() + (field > high).long()


def _shifted(image: Tensor, shift: np.ndarray) -> Tensor:
    """One channel (1, I, J, K) moved by a fraction of a voxel or more along each axis, as registration leaves it."""
    for axis, distance in enumerate(shift.tolist()):
        whole = math.floor(distance)
        rest = distance - whole
        if distance != 0:
            moved = torch.roll(image, whole, 1 + axis)
            image = (1 - rest) * moved + rest * torch.roll(moved, 1, 1 + axis)
    return image


def render(rng: np.random.Generator, contrast: Contrast, case: Diseased) -> Tensor:
    """Images of a case or of a piece of it.

    Returns
    -------
    Tensor
        float32 (4, I, J, K), raw intensities of t1, t1ce, t2, flair; not negative.
    """
    tissue, outer, labels = case.head.tissue, case.head.outer, case.labels
    shape: Shape = tuple(labels.shape)  # type: ignore[assignment]
    fraction = tissue.sum(0).clamp(0, 1)
    part = _parts(rng, shape)
    factors = _tensor(contrast.clusters)
    # Signal of a class = first + [part > 0] (second - first) + [part > 1] (third - second): one matrix product.
    steps = np.diff(contrast.tissue[:, :, None] * contrast.clusters[:, :3], axis=2, prepend=0.0)
    shares = torch.cat([tissue, tissue * (part > 0), tissue * (part > 1)])
    images = torch.einsum("rc,cijk->rijk", _tensor(np.concatenate(np.moveaxis(steps, 2, 0), axis=1)), shares)
    images += functional.embedding(outer.long(), _tensor(contrast.outer.T)).movedim(-1, 0) * (1 - fraction)
    if contrast.inflow > 0:
        moving = (2 * smooth_noise(rng, shape, 9)[0] - 1).clamp(0, 1)
        fluid = tissue[0] + (outer == OUTER_CSF) * (1 - fraction)
        images[_FLAIR] += contrast.inflow * moving * fluid
    aged = torch.where(labels == 0, case.oedema, 0.0)
    images += aged * (_tensor(contrast.white_matter_change).view(4, 1, 1, 1) - images)
    inside = labels > 0
    if inside.any():
        signal = (_tensor(contrast.tumour)[:, :, None] * factors[:, 3:])[
            :, labels[inside].long(), part[inside]
        ]
        weight = torch.where(labels == ED, case.oedema, 1.0)[inside]
        before = images[:, inside]
        images[:, inside] = before + weight * (signal - before)
    if contrast.rim_share < 1 and bool((labels == ET).any()):
        images = _thinned(rng, images, labels == ET, contrast.rim_share)

    texture = smooth_noise(rng, shape, 3, 4) + smooth_noise(rng, shape, 7, 4)
    strength = _tensor(contrast.texture).view(4, 1, 1, 1)
    images = images * (1 + strength * texture * (1 + (contrast.tumour_texture - 1) * (labels > 0)))
    for channel in range(4):
        one = images[channel : channel + 1]
        one = _shifted(one, contrast.shift[channel])
        one = blur(one, float(contrast.blur[channel]))
        if contrast.thick_factor[channel] > 1:
            one = _thicken(one, int(contrast.thick_axis[channel]), float(contrast.thick_factor[channel]))
        images[channel : channel + 1] = one
    field = torch.exp(_tensor(contrast.bias).view(4, 1, 1, 1) * smooth_noise(rng, shape, 40, 4))
    images = images * field
    kind, channel = contrast.spoiled
    if kind:
        images[channel] = spoil(rng, kind, images[channel])
    # Rician noise: the length of a complex signal with the same Gaussian noise on both parts.
    level = _tensor(contrast.noise).view(4, 1, 1, 1)
    real, imaginary = torch.from_numpy(rng.standard_normal((2, 4, *shape), dtype=np.float32))
    images = ((images + level * real).square() + (level * imaginary).square()).sqrt()
    images = images ** _tensor(contrast.gamma).view(4, 1, 1, 1)
    if contrast.stripped:
        images = images * brain_region(rng, contrast, case.head)
    return images


def brain_region(rng: np.random.Generator, contrast: Contrast, head: Head) -> Tensor:
    """Voxels that a skull-stripper leaves, bool (I, J, K): some vessels more, and in a few heads pieces too little."""
    kept = head.brain | (head.outer == OUTER_CSF)
    if not contrast.strip_vessels:
        kept = kept | (head.outer == VESSEL) | (head.outer == DURA)
    if contrast.strip_errors:
        surface = functional.avg_pool3d(head.brain.float()[None, None], 7, stride=1, padding=3)[0, 0] < 0.8
        bite = smooth_noise(rng, tuple(head.outer.shape), 14)[0] > 0.9  # type: ignore[arg-type]
        kept = kept & ~(surface & bite)
    return kept
