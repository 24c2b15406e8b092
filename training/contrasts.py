"""MR contrasts of a simulated head: random but weakly ordered intensities, textures and scanner faults."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from training.anatomy import EYE, FAT, MARROW, MUSCLE, OUTER_CSF, SKULL, VESSEL
from training.fields import Shape, blur, smooth_noise
from training.tumours import ED, ET, NCR

ROLES = ("t1", "t1ce", "t2", "flair")
_OUTER = 8
_CSF, _GREY, _WHITE = range(3)


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
        float (4, 8): signal by code of `Head.outer`.
    stripped
        Skull, scalp and air are cut away and set to exactly 0.
    brain_statistics
        Intensities are normalised over the brain although the skull is there.
    """

    tissue: np.ndarray
    tumour: np.ndarray
    outer: np.ndarray
    texture: np.ndarray
    tumour_texture: float
    bias: np.ndarray
    noise: np.ndarray
    blur: np.ndarray
    gamma: np.ndarray
    thick_axis: np.ndarray
    thick_factor: np.ndarray
    shift: np.ndarray
    stripped: bool
    strip_vessels: bool
    brain_statistics: bool


def _ordered_tissue(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tissue and tumour signal that keep the order radiologists expect, with room for vendors and field strengths."""
    tissue, tumour = np.zeros((4, 3)), np.zeros((4, 4))
    white = 1.0
    grey = white * rng.uniform(0.6, 0.97)
    csf = grey * rng.uniform(0.15, 0.7)
    tissue[0] = csf, grey, white
    tumour[0, NCR] = rng.uniform(csf, grey)
    tumour[0, ED] = rng.uniform(csf + 0.4 * (grey - csf), grey * 1.02)
    tumour[0, ET] = rng.uniform(csf + 0.5 * (grey - csf), white)
    if rng.random() < 0.12:  # blood products
        tumour[0, [NCR, ET]] *= rng.uniform(1.1, 1.5, 2)

    tissue[1] = tissue[0] * rng.uniform(0.92, 1.08, 3)
    tumour[1] = tumour[0] * rng.uniform(0.92, 1.08, 4)
    tumour[1, NCR] = rng.uniform(0.8 * tissue[1, _CSF], tissue[1, _GREY])
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
    tumour[3, ED] = grey * rng.uniform(1.15, 2.0)
    tumour[3, NCR] = rng.uniform(csf, tumour[3, ED])
    tumour[3, ET] = rng.uniform(0.9 * grey, 1.15 * tumour[3, ED])
    return tissue, tumour


def _outer_signal(rng: np.random.Generator, tissue: np.ndarray) -> np.ndarray:
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
    outer[1, VESSEL] = tissue[1, _WHITE] * rng.uniform(0.9, 2.2)
    return outer


def random_contrast(rng: np.random.Generator) -> Contrast:
    """Draw how a head is imaged: seven in eight weakly ordered, the rest with signals at random."""
    if rng.random() < 0.88:
        tissue, tumour = _ordered_tissue(rng)
        outer = _outer_signal(rng, tissue)
    else:
        tissue, tumour, outer = (rng.uniform(0.05, 1.2, (4, n)) for n in (3, 4, _OUTER))
    outer[:, 0] = 0.0
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
        bias=rng.uniform(0.0, 0.35, 4),
        noise=rng.uniform(0.004, 0.06, 4),
        blur=rng.uniform(0.0, 0.75, 4),
        gamma=np.exp(rng.normal(0, 0.15, 4)),
        thick_axis=axis,
        thick_factor=np.where(thick | common, rng.uniform(1.5, 3.5, 4), 1.0),
        shift=np.where(rng.random(4) < 0.3, rng.normal(0, 0.5, (3, 4)), 0.0).T,
        stripped=stripped,
        strip_vessels=bool(rng.random() < 0.5),
        brain_statistics=bool(not stripped and rng.random() < 0.3),
    )


def _thicken(image: Tensor, axis: int, factor: float) -> Tensor:
    """One channel (1, I, J, K) as if acquired in slices `factor` voxels thick and interpolated back."""
    shape = list(image.shape[1:])
    reduced = list(shape)
    reduced[axis] = max(2, round(shape[axis] / factor))
    coarse = functional.interpolate(image[None], size=reduced, mode="area")
    return functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=False)[0]


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def render(
    rng: np.random.Generator,
    contrast: Contrast,
    tissue: Tensor,
    outer: Tensor,
    labels: Tensor,
    oedema: Tensor,
) -> Tensor:
    """Images of a head or of a piece of it.

    Parameters
    ----------
    tissue, outer, labels, oedema
        float32 (3, I, J, K), uint8, uint8 and float32 (I, J, K), as `Head` and `Diseased` hold them.

    Returns
    -------
    Tensor
        float32 (4, I, J, K), raw intensities of t1, t1ce, t2, flair; not negative.
    """
    shape: Shape = tuple(labels.shape)  # type: ignore[assignment]
    fraction = tissue.sum(0).clamp(0, 1)
    images = torch.einsum("rt,tijk->rijk", _tensor(contrast.tissue), tissue)
    images = images + _tensor(contrast.outer)[:, outer.long()] * (1 - fraction)
    signal = _tensor(contrast.tumour)[:, labels.long()]
    weight = torch.where(labels == ED, oedema, (labels > 0).float())
    images = images + weight * (signal - images)

    texture = smooth_noise(rng, shape, 3, 4) + smooth_noise(rng, shape, 7, 4)
    strength = _tensor(contrast.texture).view(4, 1, 1, 1)
    images = images * (1 + strength * texture * (1 + (contrast.tumour_texture - 1) * (labels > 0)))
    for channel in range(4):
        one = images[channel : channel + 1]
        shift = np.rint(contrast.shift[channel]).astype(int).tolist()
        if any(shift):
            one = torch.roll(one, shift, dims=(1, 2, 3))
        one = blur(one, float(contrast.blur[channel]))
        if contrast.thick_factor[channel] > 1:
            one = _thicken(one, int(contrast.thick_axis[channel]), float(contrast.thick_factor[channel]))
        images[channel : channel + 1] = one
    field = torch.exp(_tensor(contrast.bias).view(4, 1, 1, 1) * smooth_noise(rng, shape, 40, 4))
    noise = torch.from_numpy(rng.standard_normal((4, *shape), dtype=np.float32))
    images = (images * field + _tensor(contrast.noise).view(4, 1, 1, 1) * noise).abs()
    images = images ** _tensor(contrast.gamma).view(4, 1, 1, 1)
    if contrast.stripped:
        images = images * brain_region(contrast, fraction, outer)
    return images


def brain_region(contrast: Contrast, fraction: Tensor, outer: Tensor) -> Tensor:
    """Voxels that a skull-stripper would leave, bool (I, J, K)."""
    kept = (fraction > 0.35) | (outer == OUTER_CSF)
    return kept | (outer == VESSEL) if contrast.strip_vessels else kept
