"""From aligned MR contrasts to tumour probabilities and labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from segmentation.bundle import ModelDescription, load_bundle
from segmentation.finer_labels import finer_labels
from segmentation.network_input import (
    Box,
    Shape,
    checked_shape,
    network_input,
    second_look,
    whole_brain,
    without_distrusted,
)
from segmentation.patient_model import refine
from segmentation.postprocess import (
    agreement,
    drop_healthy_parts,
    drop_open_fluid,
    drop_parts_not_found,
    drop_small_components,
    enclosed_by_core,
    entropy_map,
    healthy_looking,
    in_windows,
    interpret,
    largest_component,
    mean_entropy,
    nested_labels,
    out_of_family,
    set_background,
    set_necrosis,
)
from segmentation.resources import available_bytes, bytes_of_crop, has_native_bfloat16, pick_device

GRID_MULTIPLE = 8  # three halvings in the network
_WINDOW = 96
_VARIANTS = (1, 2, 8)


@dataclass(frozen=True)
class SegmentationResult:
    """What a network says about one visit, on the grid of the images.

    Attributes
    ----------
    probabilities
        float32 (4, I, J, K): background, NCR, ED, ET; sums to 1. Certain background outside the brain and in
        components below the size asked for, as in `labels`.
    labels
        uint8 (I, J, K): 0 background, 1 NCR, 2 ED, 3 ET, without components below the size asked for.
    uncertainty
        Mean voxel entropy inside the predicted whole tumour divided by log 4, 0 to 1; 0 where there is no tumour.
    missing_roles
        Contrasts the model knows and was not given.
    uncertainty_map
        float32 (I, J, K): voxel entropy of the averaged answers divided by log 4, 0 to 1.
    agreement
        Dice for the whole tumour between the first answer and the average of the others, 1 where there is no tumour;
        None for a single answer.
    brain_mask
        bool (I, J, K): the brain as the network sees it; None for a model without that output.
    out_of_family
        Why this case is unlike those the model knows, one sentence each; empty for a case of its family.
    """

    probabilities: Tensor
    labels: Tensor
    uncertainty: float
    missing_roles: tuple[str, ...]
    uncertainty_map: Tensor
    agreement: float | None = None
    brain_mask: Tensor | None = None
    out_of_family: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Way:
    """How to ask: images mirrored left-right, pushed by an offset in voxels, without distrusted contrasts."""

    mirrored: bool
    offset: int
    distrustful: bool


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
    variants
        Answers to average: 1; 2, with the images mirrored left-right, so that no side is preferred; or 8, these at
        four places of the network's raster of 8 voxels. Half of 2 or 8 do without `distrusted_roles`.
    brain_first
        Normalise intensities again inside the brain that a first answer has found, where the model finds one and the
        images hold much else: intensities of images stripped of their skull are the brain's already.
    bfloat16
        Compute in bfloat16; None: where the device has it in hardware.
    memory_bytes
        Memory the network may use for one whole crop; None: 60 % of what is free when it is called.
    """

    def __init__(
        self,
        description: ModelDescription,
        network: nn.Module,
        device: torch.device,
        *,
        variants: int = 2,
        brain_first: bool = True,
        bfloat16: bool | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        if variants not in _VARIANTS:
            raise ValueError(f"variants must be one of {_VARIANTS}, not {variants}")
        self.description = description
        self.device = device
        self.variants, self.brain_first = variants, brain_first
        self.memory_bytes = memory_bytes
        self._network = network.to(device, memory_format=torch.channels_last_3d).eval()
        self._bfloat16 = has_native_bfloat16(device) if bfloat16 is None else bfloat16

    @classmethod
    def load(
        cls,
        bundle: Path,
        *,
        device: str = "auto",
        variants: int = 2,
        brain_first: bool = True,
        bfloat16: bool | None = None,
        memory_bytes: int | None = None,
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
        return cls(
            description,
            network,
            pick_device(device),
            variants=variants,
            brain_first=brain_first,
            bfloat16=bfloat16,
            memory_bytes=memory_bytes,
        )

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
            bool (I, J, K) or None: nothing is tumour outside it, and intensities are normalised inside it. Without
            one the network's own takes its place where the model gives one.
        min_component_ml
            Connected parts of the whole tumour smaller than this are dropped, in mL.

        Raises
        ------
        ModelError
            If a required role is missing.
        ValueError
            If the images do not share one grid or are not finite.
        """
        shape = checked_shape(self.description, images, brain_mask)
        missing = tuple(role for role in self.description.input_roles if role not in images)
        ways = _ways(self.variants)
        region = None if brain_mask is None else brain_mask.bool()
        inputs, box = network_input(self.description, images, region)
        limit = self._memory_limit()
        total = self._sum_of_answers(inputs, ways[:1], limit)
        second = self._second_look(images, total, region, box, shape)
        if second is not None:
            images, region = second
            inputs, box = network_input(self.description, images, region)
            total = self._sum_of_answers(inputs, ways[:1], limit)
        others = self._sum_of_answers(inputs, ways[1:], limit)
        outputs = (total + others) / len(ways)
        found = self._brain(outputs, box, shape)
        if region is None and found is not None and found.any():
            region = whole_brain(images.values(), found)
        probabilities, labels = _on_whole_grid(*interpret(outputs, self.description), box, shape)
        if region is not None:
            set_background(probabilities, ~region)
            labels[~region] = 0
        minimum = min_component_ml * 1000 / self.description.spacing_mm**3
        kept, doubts = drop_small_components(labels, minimum), ()
        set_background(probabilities, (labels > 0) & (kept == 0))
        if self.description.patient_model and region is not None:
            kept, doubts = self._refine(probabilities, kept, inputs, region, box, minimum)
        entropy = entropy_map(probabilities)
        uncertainty = mean_entropy(entropy, kept)
        agreed = None
        if len(ways) > 1:
            apart = (interpret(answer, self.description)[1] for answer in (total, others / (len(ways) - 1)))
            agreed = agreement(*apart, kept[box] > 0)
        reasons = out_of_family(self.description, uncertainty, agreed, found, bool(kept.any()))
        needed = max(bytes_of_crop(_padded(inputs.shape[1:], way.offset)) for way in ways)
        if needed > limit:
            reasons = (*reasons, in_windows(needed, limit))
        return SegmentationResult(
            probabilities, kept, uncertainty, missing, entropy, agreed, found, doubts + reasons
        )

    def _refine(
        self, probabilities: Tensor, found: Tensor, inputs: Tensor, region: Tensor, box: Box, minimum: float
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Labels by the patient's own intensities, and why to doubt them (changes `probabilities`)."""
        whole, given = (slice(None), *box), inputs.flatten(1).any(1)
        roles = [r for r, there in zip(self.description.input_roles, given.tolist(), strict=True) if there]
        dark = [channel for channel, role in enumerate(roles) if role != "t2"]
        spacing = self.description.spacing_mm
        refined = refine(probabilities[whole], inputs[given], region[box], spacing, dark)
        probabilities[whole] = refined.probabilities
        unlike = torch.zeros_like(region)
        unlike[box] = refined.unlike
        labels = probabilities.argmax(0).to(torch.uint8)
        parts = drop_small_components(drop_parts_not_found(labels, found > 0), minimum)
        limits, kept = self.description.unlikeness, parts
        if limits is not None:
            closed = drop_open_fluid(parts, unlike, limits[0])
            kept = drop_small_components(drop_healthy_parts(closed, unlike, limits[0]), minimum)
        set_background(probabilities, (labels > 0) & (kept == 0))
        set_necrosis(probabilities, kept, enclosed_by_core(kept))
        left_out = int(((found > 0) & (parts > 0) & (kept == 0)).sum())
        left_out_ml = left_out * self.description.spacing_mm**3 / 1000
        return kept, healthy_looking(self.description, kept, unlike, left_out_ml)

    def labels_of_image(
        self, expected: np.ndarray, image: np.ndarray, spacing_mm: tuple[float, float, float]
    ) -> np.ndarray:
        """Labels of an image's voxels from probabilities interpolated there.

        Where the image is finer than the network's grid, and the model lets the patient's own intensities be heard,
        they decide at the tumour core; see `segmentation.finer_labels`. A model of nested regions has each region where
        it is more likely than not, which the most probable of four labels is not.

        Parameters
        ----------
        expected
            float32 (4, I, J, K): background, NCR, ED, ET of a `SegmentationResult`, interpolated.
        image
            (I, J, K): the T1CE image.
        spacing_mm
            Size of its voxels.

        Returns
        -------
        numpy.ndarray
            uint8 (I, J, K).
        """
        if self.description.patient_model and math.prod(spacing_mm) < self.description.spacing_mm**3:
            return finer_labels(expected, image, spacing_mm)
        if self.description.head == "regions":
            background, necrosis, _, enhancing = torch.from_numpy(expected)
            return nested_labels(1 - background, necrosis + enhancing, enhancing).numpy()
        return expected.argmax(axis=0).astype(np.uint8)

    def prepared(self, images: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Images as a call without a brain mask sees them in the end, and where it normalises their intensities.

        Parameters
        ----------
        images
            As for a call.

        Returns
        -------
        mapping, Tensor or None
            The images, without the coil's field where the model asks for that; bool (I, J, K), the brain that a first
            answer finds, or None: the whole head.

        Raises
        ------
        ModelError, ValueError
            As for a call.
        """
        shape = checked_shape(self.description, images, None)
        inputs, box = network_input(self.description, images, None)
        second = self._second_look(
            images, self._sum_of_answers(inputs, _ways(1), self._memory_limit()), None, box, shape
        )
        return (images, None) if second is None else second

    def _second_look(
        self, images: Mapping[str, Tensor], first: Tensor, region: Tensor | None, box: Box, shape: Shape
    ) -> tuple[Mapping[str, Tensor], Tensor] | None:
        """Images and brain of another answer after the ``first``; None where that would see the same."""
        brain = self._brain(first, box, shape) if region is None else region
        if self.description.normalisation != "head" or brain is None or not brain.any():
            return None
        background = torch.ones(shape)
        background[box] = interpret(first, self.description)[0][0]
        brain_first = region is None and self.brain_first
        brain = whole_brain(images.values(), brain) if region is None else brain
        again = second_look(self.description, images, brain, background, brain_first=brain_first)
        return None if again is None else (again, brain)

    def _brain(self, outputs: Tensor, box: Box, shape: Shape) -> Tensor | None:
        """The brain that activated outputs show, bool (I, J, K); None for a model without that output."""
        if not self.description.brain_output:
            return None
        brain = torch.zeros(shape, dtype=torch.bool)
        brain[box] = largest_component(outputs[4] > 0.5)
        return brain

    @torch.inference_mode()
    def _sum_of_answers(self, inputs: Tensor, ways: Sequence[_Way], limit: float) -> Tensor:
        """Sum of the activated outputs (C, I, J, K) by several ways, for normalised inputs of any size."""
        total = torch.zeros(self.description.channels_out, *inputs.shape[1:])
        for way in ways:
            seen = without_distrusted(self.description, inputs) if way.distrustful else inputs
            answer = self._at_offset(seen.flip(1) if way.mirrored else seen, way.offset, limit)
            total += answer.flip(1) if way.mirrored else answer
        return total

    def _at_offset(self, inputs: Tensor, offset: int, limit: float) -> Tensor:
        """The answer for images pushed `offset` voxels along each axis of the network's raster."""
        size = inputs.shape[1:]
        padding = [p for n in reversed(size) for p in (offset, -(n + offset) % GRID_MULTIPLE)]
        padded = functional.pad(inputs[None], padding, mode="replicate").to(self.device)
        padded = padded.contiguous(memory_format=torch.channels_last_3d)
        outputs = self._activated(padded, limit)[0]
        crop = (slice(None), *(slice(offset, offset + n) for n in size))
        return outputs[crop].float().cpu()

    def _memory_limit(self) -> float:
        """Bytes that one crop may take."""
        return 0.6 * available_bytes(self.device) if self.memory_bytes is None else self.memory_bytes

    def _activated(self, inputs: Tensor, limit: float) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bfloat16):
            if bytes_of_crop(inputs.shape[2:]) <= limit:
                outputs = self._network(inputs)
            else:
                outputs = SlidingWindowInferer(roi_size=_WINDOW, overlap=0.5, mode="gaussian")(
                    inputs, self._network
                )
        outputs = outputs.float()
        if self.description.head == "regions":
            return outputs.sigmoid()
        return torch.cat([outputs[:, :4].softmax(1), outputs[:, 4:].sigmoid()], dim=1)


def _padded(size: Sequence[int], offset: int) -> tuple[int, ...]:
    """Size of images pushed ``offset`` voxels along each axis and filled up to the network's raster."""
    return tuple(n + offset + -(n + offset) % GRID_MULTIPLE for n in size)


def _ways(variants: int) -> list[_Way]:
    """The answers to average; the first is of the images as they are."""
    mirrorings = (False, True) if variants > 1 else (False,)
    offsets = (0, 2, 4, 6) if variants == 8 else (0,)
    return [_Way(m, offset, distrustful=m != (offset in (2, 6))) for offset in offsets for m in mirrorings]


def _on_whole_grid(inside: Tensor, inside_labels: Tensor, box: Box, shape: Shape) -> tuple[Tensor, Tensor]:
    """Probabilities (4, I, J, K) and labels (I, J, K) known in a box, certain background around it."""
    probabilities = torch.zeros(4, *shape)
    probabilities[0] = 1
    probabilities[(slice(None), *box)] = inside
    labels = torch.zeros(shape, dtype=torch.uint8)
    labels[box] = inside_labels
    return probabilities, labels
