"""Images on the network's grid, and its answer on the grid of the report."""

from __future__ import annotations

import numpy as np
import pytest

from imaging.geometry import Geometry, Volume
from imaging.preparation import averaged_on_grid, labels_on_grid

GRID = Geometry((30, 28, 26), np.diag([2.0, 2.0, 2.0, 1.0]))


def _probabilities(seed: int = 0) -> tuple[Volume, Volume, Volume, Volume]:
    """Random probabilities in a block, certain background around it."""
    rng = np.random.default_rng(seed)
    array = np.zeros((4, *GRID.shape), dtype=np.float32)
    array[0] = 1
    array[:, 9:17, 8:15, 10:18] = rng.dirichlet(np.ones(4), (8, 7, 8)).transpose(3, 0, 1, 2)
    background, ncr, ed, et = (Volume(channel, GRID) for channel in array)
    return background, ncr, ed, et


def _oblique(shape: tuple[int, int, int], origin: tuple[float, float, float]) -> Geometry:
    turn = np.deg2rad(20)
    affine = np.eye(4)
    affine[:3, :3] = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    ) * np.array([0.9, 0.9, 1.7])
    affine[:3, 3] = origin
    return Geometry(shape, affine)


@pytest.mark.parametrize(
    "geometry",
    [
        _oblique((60, 60, 30), (5, -8, 2)),
        _oblique((20, 20, 12), (18, 10, 20)),
        _oblique((8, 8, 8), (200, 200, 200)),
        GRID,
    ],
)
def test_labels_are_the_most_probable_everywhere(geometry: Geometry) -> None:
    """Only voxels near tumour are computed; they must be those of the whole grid."""
    probabilities = _probabilities()
    whole = [
        p.resampled(geometry, outside=1.0 if label == 0 else 0.0).array
        for label, p in enumerate(probabilities)
    ]
    assert np.array_equal(labels_on_grid(probabilities, geometry).array, np.argmax(np.stack(whole), axis=0))


def test_no_tumour_is_no_label() -> None:
    nothing = np.zeros((4, *GRID.shape), dtype=np.float32)
    nothing[0] = 1
    background, ncr, ed, et = (Volume(channel, GRID) for channel in nothing)
    assert not labels_on_grid((background, ncr, ed, et), GRID).array.any()


def test_coarser_grid_averages() -> None:
    """A pattern finer than the grid becomes its mean, where sampling alone would show it."""
    fine = Geometry((80, 80, 80), np.diag([0.5, 0.5, 0.5, 1.0]))
    checked = np.indices(fine.shape).sum(0) % 2 * 100.0
    seen = averaged_on_grid(Volume(checked, fine), Geometry((16, 16, 16), GRID.affine))
    assert np.abs(seen.array[3:-3, 3:-3, 3:-3] - 50).max() < 2


def test_beyond_the_image_lies_its_darkest_value() -> None:
    shifted = Geometry((20, 20, 20), np.diag([2.0, 2.0, 2.0, 1.0]))
    image = Volume(np.full((5, 5, 5), -3.0) + np.arange(5), Geometry((5, 5, 5), np.diag([2.0, 2, 2, 1])))
    assert averaged_on_grid(image, shifted).array[10:, 10:, 10:].max() == -3
