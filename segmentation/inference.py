"""From aligned MR contrasts to tumour probabilities and labels."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from monai.inferers import SlidingWindowInferer
from scipy import ndimage
from torch import Tensor, nn

from segmentation.bundle import ModelDescription, load_bundle
from segmentation.errors import ModelError
from segmentation.resources import available_bytes, has_native_bfloat16, pick_device
from segmentation.transforms import head_mask, normalise, normalise_nonzero

log = logging.getLogger("oncotwin.segmentation")

GRID_MULTIPLE = 8  # three halvings in the network
_MARGIN = 4  # voxels kept around the head
_BYTES_PER_VOXEL = 500  # SegResNet with 16 filters in float32: 380 measured, and a margin
_WINDOW = 96


@dataclass(frozen=True)
class SegmentationResult:
    """What a network says about one visit, on the grid of the images.

    Attributes
    ----------
    probabilities
        float32 (4, I, J, K): background, NCR, ED, ET; sums to 1.
    labels
        uint8 (I, J, K): 0 background, 1 NCR, 2 ED, 3 ET, without components below the size asked for.
    uncertainty
        Mean voxel entropy inside the predicted whole tumour divided by log 4, 0 to 1; 0 where there is no tumour.
    missing_roles
        Contrasts the model knows and was not given.
    """

    probabilities: Tensor
    labels: Tensor
    uncertainty: float
    missing_roles: tuple[str, ...]


class TumourSegmenter:
    """A loaded model; call it with images.

    Parameters
    ----------
    description
        What the model expects and gives.
    network
        float32 (B, C, I, J, K) -> (B, 4 or 3, I, J, K).
    device
        Where it runs.
    mirror
        Average with the answer for the left-right mirrored images: twice the time, no preferred side.
    memory_bytes
        Memory the network may use for one whole crop; None: 60 % of what is free when it is called.
    """

    def __init__(
        self,
        description: ModelDescription,
        network: nn.Module,
        device: torch.device,
        *,
        mirror: bool = True,
        memory_bytes: int | None = None,
    ) -> None:
        self.description = description
        self.device = device
        self.mirror = mirror
        self.memory_bytes = memory_bytes
        self._network = network.to(device, memory_format=torch.channels_last_3d).eval()
        self._bfloat16 = has_native_bfloat16(device)

    @classmethod
    def load(
        cls, bundle: Path, *, device: str = "auto", mirror: bool = True, memory_bytes: int | None = None
    ) -> TumourSegmenter:
        """Load a MONAI bundle.

        Parameters
        ----------
        bundle
            Folder of the bundle, see `segmentation.bundle.find_bundle`.
        device
            "auto" (a GPU when there is one), "cpu", "cuda" or "cuda:N".

        Raises
        ------
        ModelError
            If the bundle or the device cannot be used.
        """
        description, network = load_bundle(bundle)
        return cls(description, network, pick_device(device), mirror=mirror, memory_bytes=memory_bytes)

    def __call__(
        self, images: Mapping[str, Tensor], *, brain_mask: Tensor | None = None, min_component_ml: float = 0.1
    ) -> SegmentationResult:
        """Segment one visit.

        Parameters
        ----------
        images
            Role -> float32 (I, J, K), all on one axis-aligned LPS grid of `description.spacing_mm`; roles that the
            model does not require may be left out. Raw, z-scored, with or without skull.
        brain_mask
            bool (I, J, K) or None: nothing is tumour outside it, and intensities are normalised inside it.
        min_component_ml
            Connected parts of the whole tumour smaller than this are dropped from the labels, in mL.

        Raises
        ------
        ModelError
            If a required role is missing.
        ValueError
            If the images do not share one grid or are not finite.
        """
        shape = self._check(images, brain_mask)
        missing = tuple(role for role in self.description.input_roles if role not in images)
        inputs = self._inputs(images, brain_mask, shape)
        box = _bounding_box(inputs if brain_mask is None else brain_mask[None], shape)
        outputs = self._run(inputs[(slice(None), *box)])
        inside, inside_labels = _interpret(outputs, self.description)

        probabilities = torch.zeros(4, *shape)
        probabilities[0] = 1
        probabilities[(slice(None), *box)] = inside
        labels = torch.zeros(shape, dtype=torch.uint8)
        labels[box] = inside_labels
        if brain_mask is not None:
            outside = ~brain_mask.bool()
            probabilities[:, outside] = torch.tensor([1.0, 0.0, 0.0, 0.0])[:, None]
            labels[outside] = 0
        minimum = min_component_ml * 1000 / self.description.spacing_mm**3
        labels = drop_small_components(labels, minimum)
        return SegmentationResult(probabilities, labels, _uncertainty(probabilities, labels), missing)

    def _check(self, images: Mapping[str, Tensor], brain_mask: Tensor | None) -> tuple[int, int, int]:
        roles = self.description.input_roles
        lacking = [role for role in roles if role in self.description.required_roles and role not in images]
        if lacking or not any(role in images for role in roles):
            wanted = ", ".join(lacking or roles).upper()
            raise ModelError(f"model {self.description.name} cannot do without {wanted}; add the series.")
        known = [images[role] for role in roles if role in images]
        shapes = {tuple(image.shape) for image in known}
        if brain_mask is not None:
            shapes.add(tuple(brain_mask.shape))
        if len(shapes) != 1 or known[0].dim() != 3:
            raise ValueError(f"images and mask must share one (I, J, K) grid, not {sorted(shapes)}")
        if not all(bool(torch.isfinite(image).all()) for image in known):
            raise ValueError("images hold values that are not finite numbers")
        i, j, k = known[0].shape
        return i, j, k

    def _inputs(
        self, images: Mapping[str, Tensor], brain_mask: Tensor | None, shape: tuple[int, int, int]
    ) -> Tensor:
        channels = []
        for role in self.description.input_roles:
            if role not in images:
                channels.append(torch.zeros(shape))
            elif self.description.normalisation == "head":
                channels.append(
                    normalise(images[role].float(), None if brain_mask is None else brain_mask.bool())
                )
            else:
                channels.append(normalise_nonzero(images[role].float()))
        return torch.stack(channels)

    @torch.inference_mode()
    def _run(self, inputs: Tensor) -> Tensor:
        """Activated outputs (C, I, J, K) for normalised inputs (4, I, J, K) of any size."""
        size = inputs.shape[1:]
        padding = [p for n in reversed(size) for p in (0, -n % GRID_MULTIPLE)]
        padded = functional.pad(inputs[None], padding, mode="replicate").to(self.device)
        padded = padded.contiguous(memory_format=torch.channels_last_3d)
        outputs = self._activated(padded)
        if self.mirror:
            outputs = 0.5 * (outputs + self._activated(padded.flip(2)).flip(2))
        return outputs[0, :, : size[0], : size[1], : size[2]].float().cpu()

    def _activated(self, inputs: Tensor) -> Tensor:
        limit = self.memory_bytes if self.memory_bytes is not None else 0.6 * available_bytes(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bfloat16):
            if math.prod(inputs.shape[2:]) * _BYTES_PER_VOXEL <= limit:
                outputs = self._network(inputs)
            else:
                log.info(
                    "not enough memory for one crop of %s voxels: sliding window", tuple(inputs.shape[2:])
                )
                outputs = SlidingWindowInferer(roi_size=_WINDOW, overlap=0.5, mode="gaussian")(
                    inputs, self._network
                )
        outputs = outputs.float()
        return outputs.softmax(1) if self.description.head == "labels" else outputs.sigmoid()


def _bounding_box(inputs: Tensor, shape: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    """Smallest box with a margin that holds the head (from normalised channels) or the mask (from bool)."""
    filled = inputs.any(0) if inputs.dtype == torch.bool else head_mask(inputs)
    sides = []
    for axis, length in enumerate(shape):
        others = [a for a in range(3) if a != axis]
        used = torch.nonzero(filled.any(dim=others[1]).any(dim=others[0]))
        low, high = (int(used[0]), int(used[-1])) if len(used) else (0, length - 1)
        sides.append(slice(max(0, low - _MARGIN), min(length, high + 1 + _MARGIN)))
    return sides[0], sides[1], sides[2]


def _interpret(outputs: Tensor, description: ModelDescription) -> tuple[Tensor, Tensor]:
    """Class probabilities (4, ...) and labels (...) from the network's activated outputs."""
    if description.head == "labels":
        return outputs, outputs.argmax(0).to(torch.uint8)
    whole, core, enhancing = (
        outputs[description.region_order.index(region)] for region in ("WT", "TC", "ET")
    )
    core = torch.maximum(core, enhancing)
    whole = torch.maximum(whole, core)
    probabilities = torch.stack([1 - whole, core - enhancing, whole - core, enhancing])
    labels = torch.zeros(whole.shape, dtype=torch.uint8)
    labels[whole > 0.5] = 2
    labels[core > 0.5] = 1
    labels[enhancing > 0.5] = 3
    return probabilities, labels


def drop_small_components(labels: Tensor, minimum_voxels: float) -> Tensor:
    """Labels without connected parts (26 neighbours) of the whole tumour smaller than a number of voxels."""
    tumour = labels.numpy() > 0
    parts, count = ndimage.label(tumour, structure=np.ones((3, 3, 3)))
    if count == 0:
        return labels
    sizes = np.bincount(parts.ravel())
    kept = sizes >= minimum_voxels
    kept[0] = False
    return labels * torch.from_numpy(kept[parts])


def _uncertainty(probabilities: Tensor, labels: Tensor) -> float:
    inside = probabilities[:, labels > 0]
    if inside.shape[1] == 0:
        return 0.0
    entropy = -(inside * inside.clamp(min=1e-12).log()).sum(0) / math.log(4)
    return float(entropy.mean().clamp(0, 1))
