"""Loss and score over the three nested tumour regions."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

REGIONS = ("WT", "TC", "ET")


def regions_of(probabilities: Tensor) -> Tensor:
    """Whole tumour, tumour core and enhancing tumour (B, 3, ...) from class probabilities (B, 4, ...)."""
    ncr, ed, et = probabilities[:, 1], probabilities[:, 2], probabilities[:, 3]
    return torch.stack([ncr + ed + et, ncr + et, et], dim=1)


def dice_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean soft Dice loss of WT, TC and ET, plus voxel cross-entropy, plus that of the label given tumour.

    The last term keeps a training from the plateau on which the nested regions share one label: there the others'
    probabilities, and with them the gradients of the Dice terms, vanish, and tumour is too small a part of the
    volume for the plain cross-entropy to notice.

    Parameters
    ----------
    logits
        float (B, 4, I, J, K).
    labels
        integer (B, I, J, K).
    """
    truth = functional.one_hot(labels.long(), 4).movedim(-1, 1).to(logits.dtype)
    predicted, expected = regions_of(logits.softmax(1)), regions_of(truth)
    axes = (0, 2, 3, 4)
    overlap = (predicted * expected).sum(axes)
    dice = (2 * overlap + 10) / (predicted.sum(axes) + expected.sum(axes) + 10)
    loss = (1 - dice).mean() + functional.cross_entropy(logits, labels.long())
    tumour = labels > 0
    if tumour.any():
        among = logits.movedim(1, -1)[tumour][:, 1:]
        loss = loss + functional.cross_entropy(among, labels[tumour].long() - 1)
    return loss


def brain_loss(logits: Tensor, brain: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice loss of the brain mask.

    Parameters
    ----------
    logits
        float (B, I, J, K).
    brain
        (B, I, J, K): 1 inside the brain.
    """
    truth = brain.to(logits.dtype)
    predicted = logits.sigmoid()
    axes = (1, 2, 3)
    dice = (2 * (predicted * truth).sum(axes) + 10) / (predicted.sum(axes) + truth.sum(axes) + 10)
    return functional.binary_cross_entropy_with_logits(logits, truth) + (1 - dice).mean()


def region_dice(predicted: Tensor, expected: Tensor) -> dict[str, float]:
    """Dice of WT, TC and ET between two label maps (I, J, K); NaN for a region that neither has."""
    scores = {}
    for name, members in zip(REGIONS, ((1, 2, 3), (1, 3), (3,)), strict=True):
        one, other = (torch.isin(m, torch.tensor(members, dtype=m.dtype)) for m in (predicted, expected))
        total = int(one.sum() + other.sum())
        scores[name] = 2 * int((one & other).sum()) / total if total else float("nan")
    return scores
