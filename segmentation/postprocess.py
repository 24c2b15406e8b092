"""From the network's activated outputs to labels: regions, small components, entropy, and what is out of family."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from segmentation.bundle import ModelDescription

_NEIGHBOURS = np.ones((3, 3, 3))
_BACKGROUND = (1.0, 0.0, 0.0, 0.0)


def interpret(outputs: Tensor, description: ModelDescription) -> tuple[Tensor, Tensor]:
    """Class probabilities (4, ...) and labels (...) from the network's activated outputs."""
    if description.head == "labels":
        probabilities = outputs[:4]
        return probabilities, probabilities.argmax(0).to(torch.uint8)
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


def largest_component(mask: Tensor) -> Tensor:
    """The largest connected part of a bool mask (I, J, K), its holes filled; all False if the mask is."""
    parts, count = ndimage.label(mask.numpy())
    if count == 0:
        return mask
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return torch.from_numpy(ndimage.binary_fill_holes(largest))


def drop_small_components(labels: Tensor, minimum_voxels: float) -> Tensor:
    """Labels without connected parts (26 neighbours) of the whole tumour smaller than a number of voxels."""
    tumour = labels.numpy() > 0
    parts, count = ndimage.label(tumour, structure=_NEIGHBOURS)
    if count == 0:
        return labels
    sizes = np.bincount(parts.ravel())
    kept = sizes >= minimum_voxels
    kept[0] = False
    return labels * torch.from_numpy(kept[parts])


def set_background(probabilities: Tensor, where: Tensor) -> None:
    """Make voxels certain background (changes `probabilities`, (4, I, J, K); `where` is bool (I, J, K))."""
    probabilities[:, where] = torch.tensor(_BACKGROUND)[:, None]


def entropy_map(probabilities: Tensor) -> Tensor:
    """Entropy of the four classes divided by log 4: float32 (I, J, K), 0 sure to 1 at chance."""
    entropy = -(probabilities * probabilities.clamp(min=1e-12).log()).sum(0) / math.log(4)
    return entropy.clamp(0, 1)


def mean_entropy(entropy: Tensor, labels: Tensor) -> float:
    """Mean of `entropy_map` inside the whole tumour; 0 where there is none."""
    inside = entropy[labels > 0]
    return float(inside.mean()) if inside.numel() else 0.0


def out_of_family(
    description: ModelDescription, uncertainty: float, brain_mask: Tensor | None, tumour_found: bool
) -> tuple[str, ...]:
    """Why a case is unlike those the model knows: one sentence for each reason, none for a case of its family."""
    reasons = []
    limit = description.largest_uncertainty
    if tumour_found and limit is not None and uncertainty > limit:
        reasons.append(
            f"The network is less sure of the tumour (mean entropy {uncertainty:.2f}) than in 95 of 100 cases it "
            f"was checked on ({limit:.2f})."
        )
    if brain_mask is not None and description.brain_volume_ml is not None:
        low, high = description.brain_volume_ml
        volume = float(brain_mask.sum()) * description.spacing_mm**3 / 1000
        if not low <= volume <= high:
            reasons.append(
                f"The network finds a brain of {volume:.0f} mL, outside the {low:.0f} to {high:.0f} mL it knows: "
                f"part of the brain is missing, or the images are of another kind."
            )
    return tuple(reasons)
