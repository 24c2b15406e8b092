"""Where a head ends and its brain begins, before and after a stripper."""

from __future__ import annotations

import pytest
import torch

from segmentation.network_input import whole_brain

SHAPE = (40, 40, 40)


def _ball(radius: float) -> torch.Tensor:
    axes = [torch.arange(n) - n // 2 for n in SHAPE]
    i, j, k = torch.meshgrid(*axes, indexing="ij")
    return (i**2 + j**2 + k**2).sqrt() < radius


@pytest.mark.parametrize("empty", [0.0, -4.0])
def test_a_stripped_brain_ends_where_it_was_cut(empty: float) -> None:
    """The network's mask misses its outermost voxels; what the stripper left far from it is no brain."""
    cut = _ball(14)
    left = cut.clone()
    left[:3, :3, :3] = True
    image = torch.where(left, torch.rand(SHAPE) + 1, torch.tensor(empty))
    assert torch.equal(whole_brain([image, image], _ball(13)), cut)


def test_the_brain_within_a_skull_is_the_networks() -> None:
    brain = _ball(12)
    image = torch.where(_ball(18), torch.rand(SHAPE) + 1, torch.tensor(0.0))
    assert torch.equal(whole_brain([image], brain), brain)
    assert torch.equal(whole_brain([torch.rand(SHAPE)], brain), brain)
