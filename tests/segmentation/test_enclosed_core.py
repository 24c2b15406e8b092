"""What a ring of tumour core encloses is core; what lies beside it or in an open one is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segmentation.postprocess import enclosed_by_core, set_necrosis

SHAPE = (30, 32, 28)
GRID = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"))
CENTRE = (15, 16, 14)
NCR, ED, ET = 1, 2, 3


def _distance(centre: tuple[float, float, float] = CENTRE) -> np.ndarray:
    return np.sqrt(sum((g - c) ** 2 for g, c in zip(GRID, centre, strict=True)))


def _ring(inside: int) -> np.ndarray:
    """Oedema of radius 12, in it an enhancing shell from 6 to 8 around something."""
    labels = np.where(_distance() < 12, ED, 0).astype(np.uint8)
    labels[_distance() < 8] = ET
    labels[_distance() < 6] = inside
    return labels


def _enclosed(labels: np.ndarray) -> np.ndarray:
    return enclosed_by_core(torch.from_numpy(labels)).numpy()


def test_what_a_closed_ring_holds_is_core_and_nothing_else() -> None:
    assert np.array_equal(_enclosed(_ring(ED)), _distance() < 6)
    half = _ring(ED)
    half[(half == ED) & (_distance() < 6) & (GRID[0] < CENTRE[0])] = NCR
    assert np.array_equal(_enclosed(half), (_distance() < 6) & (GRID[0] >= CENTRE[0]))


def test_fluid_stays_in_a_ring_and_beside_it() -> None:
    """A cavity in the ring, a ventricle that touches it and one that opens it."""
    assert not _enclosed(_ring(0)).any()
    beside = _ring(ED)
    beside[(_distance((15, 16, 27)) < 8) & (_distance() >= 8)] = 0
    assert np.array_equal(_enclosed(beside), _distance() < 6)
    opened = _ring(ED)
    opened[(GRID[2] > 12) & (np.hypot(GRID[0] - 15, GRID[1] - 16) < 7)] = 0
    assert not _enclosed(opened)[opened != ED].any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_open_rims_enclose_nothing(axis: int) -> None:
    """A shallow cup, a C that runs through many slices, and a flat ring."""
    along, other = GRID[axis] - CENTRE[axis], (axis + 1) % 3
    cup = _ring(ED)
    cup[(along > -3) & (cup == ET)] = ED
    assert not _enclosed(cup).any()
    across = np.sqrt(_distance() ** 2 - along**2)
    tube = np.where(across < 12, ED, 0).astype(np.uint8)
    tube[(across >= 5) & (across < 8) & (np.abs(along) < 9)] = ET
    opening = (GRID[other] > CENTRE[other]) & (np.abs(GRID[3 - axis - other] - CENTRE[3 - axis - other]) < 5)
    tube[opening & (tube == ET)] = ED
    assert (tube == ET).any() and not _enclosed(tube).any()
    flat = _ring(ED)
    flat[(np.abs(along) > 1) & (flat == ET)] = ED
    assert not _enclosed(flat).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gaps_and_open_ends_of_thick_slices_do_not_open_a_rim(axis: int) -> None:
    gap = _ring(ED)
    gap[(GRID[axis] == CENTRE[axis]) & (GRID[axis - 1] > CENTRE[axis - 1]) & (gap == ET)] = ED
    assert _enclosed(gap)[_distance() < 6].mean() > 0.9
    open_ended = _ring(ED)
    open_ended[(np.abs(GRID[axis] - CENTRE[axis]) > 5) & (open_ended == ET)] = ED
    middle = np.abs(GRID[axis] - CENTRE[axis]) <= 1
    assert _enclosed(open_ended)[(_distance() < 6) & middle].mean() > 0.9
    assert not (_enclosed(open_ended) | _enclosed(gap))[_distance() >= 8].any()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(0,), (1,), (2,), (0, 1, 2)]), st.permutations([0, 1, 2]))
def test_once_is_enough_and_no_side_or_axis_is_preferred(
    seed: int, flipped: tuple[int, ...], order: list[int]
) -> None:
    smooth = ndimage.gaussian_filter(
        np.random.default_rng(seed).standard_normal((4, *SHAPE)), (0, 1.5, 1.5, 1.5)
    )
    labels = smooth.argmax(0).astype(np.uint8)
    found = _enclosed(labels)
    assert found.any() and (labels[found] == ED).all()
    assert not _enclosed(np.where(found, NCR, labels).astype(np.uint8)).any()
    assert np.array_equal(_enclosed(np.flip(labels, flipped).copy()), np.flip(found, flipped))
    assert np.array_equal(_enclosed(labels.transpose(order).copy()), found.transpose(order))


def test_nothing_is_enclosed_without_core() -> None:
    assert not _enclosed(np.where(_distance() < 12, ED, 0).astype(np.uint8)).any()
    assert not _enclosed(np.zeros(SHAPE, dtype=np.uint8)).any()


def test_oedema_becomes_necrosis_in_labels_and_probabilities() -> None:
    labels = torch.from_numpy(_ring(ED))
    probabilities = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(3)).softmax(0)
    before, where = probabilities.clone(), enclosed_by_core(labels)
    set_necrosis(probabilities, labels, where)
    assert np.array_equal(labels.numpy(), _ring(NCR))
    assert torch.equal(probabilities[:, ~where], before[:, ~where])
    assert (
        torch.equal(probabilities[1, where], (before[1] + before[2])[where])
        and not probabilities[2, where].any()
    )
    assert torch.allclose(probabilities.sum(0), torch.ones(SHAPE))
