"""Fine-tuning of the network's last layer alone: seconds on a CPU, and one drawing cannot undo what was trained.

The last convolution turns the features of a voxel into label scores. With the features held, fitting it to drawings is
a regression with few unknowns, pulled towards the weights there were as by a prior; the brain output is left as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from monailabel_app.fine_tuning import MEMBERS, DrawnCase, network_inputs
from monailabel_app.refusal import Refusal
from segmentation.bundle import ModelDescription
from segmentation.inference import GRID_MULTIPLE

_LABELS = 4  # background, NCR, ED, ET
_PULL = 0.1
"""Weight of the squared change of the layer, beside the loss of one drawing: with n drawings it is an n-th of that."""
_CERTAIN = 1e-4
"""Voxels that are drawn as background and that the network finds tumour in with less than this do not teach."""
_ITERATIONS = 60


@dataclass(frozen=True)
class _Lesson:
    """Features (F, n) and labels (n,) of the voxels of one image that can teach."""

    features: Tensor
    labels: Tensor


def with_last_layer_fitted(
    description: ModelDescription, network: nn.Module, cases: Sequence[DrawnCase]
) -> nn.Module:
    """A copy of the network whose last layer is fitted to the cases and to their mirror images.

    Minimises cross-entropy plus the soft Dice loss of whole tumour, core and enhancing tumour plus the pull, by L-BFGS
    from the weights there are.

    Parameters
    ----------
    description : ModelDescription
        Of a model with a "labels" head.
    network : torch.nn.Module
        Left as it is.
    cases : sequence of DrawnCase
        To learn from.

    Raises
    ------
    Refusal
        If the network does not end in a convolution of one voxel.
    """
    fitted = copy.deepcopy(network).eval()
    layer = _last_layer(fitted, _padded(network_inputs(description, cases[0])))
    lessons = [_lesson(fitted, layer, description, case, mirrored) for case in cases for mirrored in (0, 1)]
    assert layer.bias is not None
    start = torch.cat([layer.weight.detach().flatten(1), layer.bias.detach()[:, None]], dim=1)[:_LABELS]
    weights = start.clone().requires_grad_()
    search = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        search.zero_grad()
        total = _PULL / len(cases) * ((weights - start) ** 2).sum()
        for lesson in lessons:
            total = total + _loss(weights, lesson) / len(lessons)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    search.step(cost)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        layer.weight[:_LABELS] = weights[:, :-1].view_as(layer.weight[:_LABELS])
        layer.bias[:_LABELS] = weights[:, -1]
    return fitted


def _last_layer(network: nn.Module, images: Tensor) -> nn.Conv3d:
    """The convolution that is executed last."""
    executed = list[nn.Conv3d]()
    hooks = [
        module.register_forward_hook(lambda module, given, made: executed.append(module))
        for module in network.modules()
        if isinstance(module, nn.Conv3d)
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    if not executed or executed[-1].kernel_size != (1, 1, 1) or executed[-1].bias is None:
        raise Refusal(
            "The model does not end in a convolution of one voxel with a bias: train all of its layers instead."
        )
    return executed[-1]


def _lesson(
    network: nn.Module, layer: nn.Conv3d, description: ModelDescription, case: DrawnCase, mirrored: int
) -> _Lesson:
    """What one image, or its mirror image, teaches."""
    images, labels = network_inputs(description, case), case.labels.long()
    if mirrored:
        images, labels = images.flip(1), labels.flip(0)
    given = list[Tensor]()
    hook = layer.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    with torch.no_grad():
        found = network(_padded(images))
    hook.remove()
    x, y, z = labels.shape
    background = found[0, :_LABELS, :x, :y, :z].softmax(0)[0]
    teaching = (labels > 0) | (background < 1 - _CERTAIN)
    return _Lesson(given[0][0, :, :x, :y, :z][:, teaching], labels[teaching])


def _padded(images: Tensor) -> Tensor:
    """One image (1, C, I, J, K) that the network can halve as often as it does, its far sides repeated."""
    padding = [p for n in reversed(images.shape[1:]) for p in (0, -n % GRID_MULTIPLE)]
    return functional.pad(images[None], padding, mode="replicate")


def _loss(weights: Tensor, lesson: _Lesson) -> Tensor:
    """Cross-entropy plus the mean soft Dice loss of the regions."""
    scores = weights[:, :-1] @ lesson.features + weights[:, -1:]
    share = scores.softmax(0)
    loss = functional.cross_entropy(scores.T, lesson.labels)
    for members in MEMBERS.values():
        found = share[list(members)].sum(0)
        drawn = torch.isin(lesson.labels, torch.tensor(members)).float()
        overlap = 2 * (found * drawn).sum() + 1
        loss = loss + (1 - overlap / (found.sum() + drawn.sum() + 1)) / len(MEMBERS)
    return loss
