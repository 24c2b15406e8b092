"""Fitting the last layer: what it learns, what it leaves, and that one drawing cannot carry it far."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastapi import HTTPException
from torch import Tensor, nn

from monailabel_app.fine_tuning import DrawnCase, network_inputs
from monailabel_app.last_layer import with_last_layer_fitted
from segmentation.bundle import ModelDescription, load_bundle

SIDE = 21  # not a multiple of what the network halves


class TwoFeatures(nn.Module):
    """Two of the four contrasts, then a layer that finds enhancing tumour where T1CE is brighter than ``least``."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.last = nn.Conv3d(2, 5, 1)
        with torch.no_grad():
            self.last.weight.zero_()
            self.last.bias.zero_()
            self.last.weight[3, 0] = 4.0
            self.last.bias[3] = -4.0 * least
            self.last.weight[4], self.last.bias[4] = 0.5, 0.25
            self.last.bias[1:3] = -20.0

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.last(images[:, 1:3])
        return found


@pytest.fixture(scope="module")
def description(small_bundle: Path) -> ModelDescription:
    return load_bundle(small_bundle)[0]


def drawn(description: ModelDescription, least: float, seed: int) -> DrawnCase:
    """A noisy head in which all that is brighter than ``least`` in T1CE was drawn as enhancing tumour."""
    generator = torch.Generator().manual_seed(seed)
    shape = (SIDE,) * 3
    images = {role: 100 + 10 * torch.randn(shape, generator=generator) for role in ("t1ce", "flair")}
    region = torch.ones(shape, dtype=torch.bool)
    case = DrawnCase(images, torch.zeros(shape, dtype=torch.uint8), region)
    bright = network_inputs(description, case)[description.input_roles.index("t1ce")] > least
    return DrawnCase(images, torch.where(bright, 3, 0).to(torch.uint8), region)


def found(network: nn.Module, description: ModelDescription, case: DrawnCase) -> Tensor:
    with torch.no_grad():
        scores: Tensor = network(network_inputs(description, case)[None])[0]
    return scores


def dice(scores: Tensor, labels: Tensor) -> float:
    one, other = scores[:4].argmax(0) == 3, labels == 3
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_drawings_move_what_the_network_finds_towards_them(description: ModelDescription) -> None:
    assert description.input_roles[1] == "t1ce"
    network = TwoFeatures(least=1.6)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fitted = with_last_layer_fitted(description, network, [drawn(description, 0.8, n) for n in range(4)])
    unseen = drawn(description, 0.8, 9)
    gained = [dice(found(one, description, unseen), unseen.labels) for one in (network, fitted)]
    assert gained[0] < 0.5 and gained[1] > 0.75
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
    brain = [found(one, description, unseen)[4] for one in (network, fitted)]
    assert torch.equal(brain[0], brain[1])


def test_one_drawing_carries_it_less_far_than_four(description: ModelDescription) -> None:
    network = TwoFeatures(least=1.6)
    moved = []
    for count in (1, 4):
        cases = [drawn(description, 0.8, n) for n in range(count)]
        fitted = with_last_layer_fitted(description, network, cases)
        changes = (a - b for a, b in zip(fitted.parameters(), network.parameters(), strict=True))
        moved.append(sum(float((change.detach() ** 2).sum()) for change in changes))
    assert 0 < moved[0] < moved[1]


def test_drawings_that_agree_change_little(description: ModelDescription) -> None:
    network = TwoFeatures(least=1.2)
    cases = [drawn(description, 1.2, n) for n in range(2)]
    unseen = drawn(description, 1.2, 9)
    fitted = with_last_layer_fitted(description, network, cases)
    assert dice(found(fitted, description, unseen), unseen.labels) > 0.95


def test_a_network_that_ends_otherwise_is_refused(description: ModelDescription) -> None:
    with pytest.raises(HTTPException, match="all of its layers"):
        with_last_layer_fitted(
            description,
            nn.Conv3d(len(description.input_roles), 5, 3, padding=1),
            [drawn(description, 1.0, 0)],
        )
