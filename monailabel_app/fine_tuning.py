"""Fine-tuning a network on drawings: patches around the tumour, the brain output held where it was."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.nn import functional

from segmentation.bundle import ModelDescription
from segmentation.inference import GRID_MULTIPLE, SegmentationResult
from segmentation.transforms import normalise

log = logging.getLogger("oncotwin.label")

_BRAIN_WEIGHT = 0.3
# A contrast is left out this often, so that the model keeps coping without the ones it may miss.
_MISSING = 0.2
MEMBERS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}

Part = Literal["last layer", "all layers"]


@dataclass(frozen=True, eq=False)
class DrawnCase:
    """A case to learn from or to be checked on.

    Parameters
    ----------
    images : dict
        Role to float32 (I, J, K) on the network's grid.
    labels : Tensor
        uint8 (I, J, K), what a clinician drew, on the same grid.
    region : Tensor or None
        bool (I, J, K), where intensities are normalised: the brain that the model finds; None: the whole head.
    """

    images: dict[str, Tensor]
    labels: Tensor
    region: Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """How much is trained.

    Parameters
    ----------
    part : {"last layer", "all layers"}
        What of the network: see :mod:`monailabel_app.last_layer`; the rest of the plan is for all layers.
    epochs : int
        Passes over the cases, four patches of each.
    learning_rate : float
        Of AdamW, falling to zero.
    seed : int
        Of patches and their changes.
    patch : int
        Side of a patch in voxels, where the image is as large.
    """

    part: Part = "last layer"
    epochs: int = 20
    learning_rate: float = 3e-4
    seed: int = 0
    patch: int = 64


def mean_dice(
    segmenter: Callable[..., SegmentationResult], cases: Sequence[DrawnCase], min_component_ml: float
) -> float:
    """Mean Dice of whole tumour, core and enhancing tumour; 1 where a region is rightly found to be absent.

    Parameters
    ----------
    segmenter : callable
        A :class:`segmentation.inference.TumourSegmenter`.
    cases : sequence of DrawnCase
        To measure on.
    min_component_ml : float
        Smaller isolated pieces are dropped.
    """
    scores = []
    for case in cases:
        found = segmenter(case.images, min_component_ml=min_component_ml).labels
        for members in MEMBERS.values():
            one, other = (torch.isin(m, torch.tensor(members, dtype=m.dtype)) for m in (found, case.labels))
            total = int(one.sum() + other.sum())
            scores.append(2 * int((one & other).sum()) / total if total else 1.0)
    return sum(scores) / len(scores)


def fine_tuned(
    description: ModelDescription,
    network: nn.Module,
    cases: Sequence[DrawnCase],
    plan: Plan,
    measure: Callable[[nn.Module], float],
) -> nn.Module:
    """The network after the epoch that ``measure`` likes best, in evaluation mode.

    Parameters
    ----------
    description : ModelDescription
        Of a model with a "labels" head.
    network : torch.nn.Module
        To begin with; it is left as it is.
    cases : sequence of DrawnCase
        To learn from.
    plan : Plan
        How much.
    measure : callable
        Larger is better; called after every fifth epoch and the last.
    """
    generator = torch.Generator().manual_seed(plan.seed)
    teacher, student = network.eval(), copy.deepcopy(network).train()
    dice = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)
    optimiser = torch.optim.AdamW(student.parameters(), lr=plan.learning_rate, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan.epochs)
    inputs = [network_inputs(description, case) for case in cases]
    best, kept = float("-inf"), copy.deepcopy(student.state_dict())
    for epoch in range(1, plan.epochs + 1):
        for number in torch.randperm(4 * len(cases), generator=generator).tolist():
            images, labels = _patch(
                inputs[number % len(cases)], cases[number % len(cases)].labels, plan.patch, generator
            )
            logits = student(images)
            loss = dice(logits[:, :4], labels)
            if description.brain_output:
                with torch.no_grad():
                    brain = teacher(images)[:, 4].sigmoid()
                loss = loss + _BRAIN_WEIGHT * functional.binary_cross_entropy_with_logits(logits[:, 4], brain)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimiser.step()
        schedule.step()
        if epoch % 5 == 0 or epoch == plan.epochs:
            measured = measure(student.eval())
            student.train()
            log.info("epoch %d of %d: validation Dice %.3f", epoch, plan.epochs, measured)
            if measured > best:
                best, kept = measured, copy.deepcopy(student.state_dict())
    student.load_state_dict(kept)
    return student.eval()


def network_inputs(description: ModelDescription, case: DrawnCase) -> Tensor:
    """(C, I, J, K) in the order and units of the network; a contrast that the case lacks is zero."""
    empty = torch.zeros(case.labels.shape)
    channels = [
        normalise(case.images[role], case.region) if role in case.images else empty
        for role in description.input_roles
    ]
    return torch.stack(channels)


def _patch(inputs: Tensor, labels: Tensor, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One changed patch (1, C, p, p, p) and its labels (1, 1, p, p, p); three of four hold tumour."""
    size = [min(side, n // GRID_MULTIPLE * GRID_MULTIPLE) for n in labels.shape]

    def draw(below: int) -> int:
        return int(torch.randint(max(below, 1), (1,), generator=generator))

    tumour = labels.nonzero()
    if len(tumour) and draw(4):
        middle = tumour[draw(len(tumour))].tolist()
        start = [min(max(m - draw(s), 0), n - s) for m, s, n in zip(middle, size, labels.shape, strict=True)]
    else:
        start = [draw(n - s + 1) for s, n in zip(size, labels.shape, strict=True)]
    box = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
    images, drawn = inputs[(slice(None), *box)].clone(), labels[box][None].long()
    if draw(2):
        images, drawn = images.flip(1), drawn.flip(1)
    gain = 1 + 0.1 * torch.randn(len(images), 1, 1, 1, generator=generator)
    shift = 0.1 * torch.randn(len(images), 1, 1, 1, generator=generator)
    images = images * gain + shift
    present = [number for number in range(len(images)) if bool(inputs[number].any())]
    if len(present) > 2 and float(torch.rand(1, generator=generator)) < _MISSING:
        images[present[draw(len(present))]] = 0
    return images[None], drawn[None]
