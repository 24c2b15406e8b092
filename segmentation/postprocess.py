"""From the network's activated outputs to labels: regions, small components, entropy, and what is out of family."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from segmentation.bundle import ModelDescription

_NEIGHBOURS = np.ones((3, 3, 3))
_NCR, _ED, _ET = 1, 2, 3
_ENCLOSED = 0.6  # least share of the voxels around necrosis that are tumour
_BACKGROUND = (1.0, 0.0, 0.0, 0.0)
_MOST_LINES = 10  # of 13 through what core encloses that meet it on both sides
_UNDECIDED = 0.4  # mean entropy of answers that stand three to one between two labels


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
    return probabilities, nested_labels(whole, core, enhancing)


def nested_labels(whole: Tensor, core: Tensor, enhancing: Tensor) -> Tensor:
    """Labels (...) of nested regions: each where its probability exceeds one half, the inner ones over the outer."""
    labels = torch.zeros(whole.shape, dtype=torch.uint8)
    labels[whole > 0.5] = _ED
    labels[core > 0.5] = _NCR
    labels[enhancing > 0.5] = _ET
    return labels


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


def drop_parts_not_found(labels: Tensor, found: Tensor) -> Tensor:
    """Labels without connected parts (26 neighbours) of the whole tumour that hold no voxel of bool `found`."""
    parts, count = ndimage.label(labels.numpy() > 0, structure=_NEIGHBOURS)
    kept = np.zeros(count + 1, dtype=bool)
    kept[np.unique(parts[found.numpy()])] = True
    kept[0] = False
    return labels * torch.from_numpy(kept[parts])


def drop_healthy_parts(labels: Tensor, unlike: Tensor, least: float) -> Tensor:
    """Labels without connected parts (26 neighbours) that look like healthy tissue.

    Parameters
    ----------
    labels
        uint8 (I, J, K).
    unlike
        bool (I, J, K): voxels unlike the patient's healthy tissue.
    least
        Share of a part's voxels that must be unlike healthy tissue for the part to stay.
    """
    parts, count = ndimage.label(labels.numpy() > 0, structure=_NEIGHBOURS)
    if count == 0:
        return labels
    share = np.bincount(parts.ravel(), weights=unlike.numpy().ravel()) / np.bincount(parts.ravel())
    kept = share >= least
    kept[0] = False
    return labels * torch.from_numpy(kept[parts])


def drop_open_fluid(labels: Tensor, unlike: Tensor, least: float) -> Tensor:
    """Labels without NCR that looks like healthy tissue and lies open: fluid of ventricles and sulci.

    Necrosis can look like fluid, but tumour encloses it; of the voxels around a ventricle few are tumour.

    Parameters
    ----------
    labels, unlike, least
        As in `drop_healthy_parts`, for connected parts of NCR.
    """
    necrosis = labels.numpy() == _NCR
    parts, _ = ndimage.label(necrosis, structure=_NEIGHBOURS)
    kept = labels.clone()
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        wider = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
        part = parts[wider] == number
        around = ndimage.binary_dilation(part) & ~part
        enclosed = (labels[wider].numpy()[around] > 0).mean()
        if unlike[wider].numpy()[part].mean() < least and enclosed < _ENCLOSED:
            kept[wider][torch.from_numpy(part)] = 0
    return kept


def enclosed_by_core(labels: Tensor) -> Tensor:
    """Oedema that tumour core closes in: what a ring of core holds is core too, however it looks.

    A voxel is enclosed if at least 10 of the 13 straight lines through it and its neighbours meet NCR or ET on both
    sides. So a rim may have gaps, or be open at both ends where slices are thick, but a C or a shallow cup encloses
    nothing. What is found is core in turn, until nothing more is. Background stays: its place does not tell the fluid
    of a cavity or of a ventricle from a cyst.

    Parameters
    ----------
    labels
        uint8 (I, J, K).

    Returns
    -------
    Tensor
        bool (I, J, K), voxels of ED only.
    """
    enclosed = torch.zeros(labels.shape, dtype=torch.bool)
    core = np.isin(labels.numpy(), (_NCR, _ET))
    if core.any():
        box = ndimage.find_objects(core.astype(np.int8))[0]
        wall, oedema = core[box].copy(), labels.numpy()[box] == _ED
        while (new := oedema & ~wall & (_lines_between(wall) >= _MOST_LINES)).any():
            wall |= new
        enclosed[box] = torch.from_numpy(wall & oedema)
    return enclosed


def _lines_between(wall: np.ndarray) -> np.ndarray:
    """How many of 13 lines through each voxel meet a bool array (I, J, K) on both sides."""
    count = np.zeros(wall.shape, dtype=np.uint8)
    for direction in itertools.product((-1, 0, 1), repeat=3):
        if direction > (0, 0, 0):
            count += _seen_along(wall, direction) & _seen_along(wall, tuple(-step for step in direction))
    return count


def _seen_along(wall: np.ndarray, direction: tuple[int, ...]) -> np.ndarray:
    """Whether a bool array (I, J, K) is True anywhere in a direction from each voxel."""
    met, reach = _seen_at(wall, direction), 1
    while reach < max(wall.shape):
        met |= _seen_at(met, tuple(reach * step for step in direction))
        reach *= 2
    return met


def _seen_at(mask: np.ndarray, offset: tuple[int, ...]) -> np.ndarray:
    """What each voxel of a bool array sees at an offset; False beyond the border."""
    seen = np.zeros_like(mask)
    here = tuple(slice(max(0, -d), max(0, n - max(0, d))) for n, d in zip(mask.shape, offset, strict=True))
    there = tuple(slice(max(0, d), max(0, n + min(0, d))) for n, d in zip(mask.shape, offset, strict=True))
    seen[here] = mask[there]
    return seen


def set_necrosis(probabilities: Tensor, labels: Tensor, where: Tensor) -> None:
    """Make oedema necrosis, (4, I, J, K) and (I, J, K), both changed; `where` is bool (I, J, K), voxels of ED."""
    probabilities[_NCR][where] += probabilities[_ED][where]
    probabilities[_ED][where] = 0
    labels[where] = _NCR


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


def agreement(one: Tensor, other: Tensor, kept: Tensor) -> float:
    """Dice between the whole tumours of two answers, (I, J, K) of labels each; 1 where nothing was kept.

    Of each answer the connected parts count that hold a voxel of what was ``kept``, bool (I, J, K): of what was left
    out nobody needs to be sure.
    """
    if not kept.any():
        return 1.0
    first, second = (drop_parts_not_found(labels, kept) > 0 for labels in (one, other))
    return float(2 * (first & second).sum() / (first.sum() + second.sum()).clamp(min=1))


def in_windows(needed: float, free: float) -> str:
    """That the network saw the images in parts, for want of memory (bytes): it answers otherwise then."""
    return (
        f"The images were segmented in windows, since one crop needs {needed / 1e9:.2f} GB of memory and "
        f"{free / 1e9:.2f} may be used; the network answers otherwise then, so give it more memory and run again."
    )


def out_of_family(
    description: ModelDescription,
    uncertainty: float,
    agreed: float | None,
    brain_mask: Tensor | None,
    tumour_found: bool,
) -> tuple[str, ...]:
    """Why a case is unlike those the model knows: one sentence for each reason, none for a case of its family."""
    reasons = []
    least = description.least_agreement
    if tumour_found and agreed is not None and least is not None and agreed < least:
        reasons.append(
            f"The network's answers to the images and to their mirror image agree less on the tumour (Dice "
            f"{agreed:.2f}) than in 95 of 100 cases it was checked on ({least:.2f})."
        )
    limit = description.largest_uncertainty
    if tumour_found and limit is not None and uncertainty > limit:
        reasons.append(
            f"The network is less sure of the tumour (mean entropy {uncertainty:.2f}) than in 95 of 100 cases it "
            f"was checked on ({limit:.2f})."
        )
    elif tumour_found and limit is None and uncertainty > _UNDECIDED:
        reasons.append(
            f"The network is unsure of the tumour (mean entropy {uncertainty:.2f}, 0 sure to 1 guessing), and its "
            f"bundle states no limit: check its contours before using any number."
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


def healthy_looking(
    description: ModelDescription, labels: Tensor, unlike: Tensor, left_out_ml: float
) -> tuple[str, ...]:
    """One sentence for what was left out as healthy, and one for a tumour that looks much like healthy tissue.

    Parameters
    ----------
    labels
        uint8 (I, J, K): what is called tumour.
    unlike
        bool (I, J, K): voxels unlike the patient's healthy tissue.
    left_out_ml
        Volume that the network called tumour and that was left out, mL.
    """
    reasons = []
    if left_out_ml > 0:
        reasons.append(
            f"{left_out_ml:.1f} mL that the network called tumour have the intensities of this patient's healthy "
            f"tissue and were left out: look at the images there."
        )
    share = float(unlike[labels > 0].float().mean()) if bool((labels > 0).any()) else 1.0
    if description.unlikeness is not None and share < description.unlikeness[1]:
        reasons.append(
            f"Only {100 * share:.0f} % of what is called tumour have intensities that this patient's healthy tissue "
            f"has not: there may be no tumour, or one that hardly shows."
        )
    return tuple(reasons)
