"""Voxel order and orientation codes of a file must not change what is segmented."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from imaging.geometry import Geometry, Volume
from segmentation.__main__ import segment
from segmentation.inference import TumourSegmenter


def _reordered(volume: Volume, axes: tuple[int, int, int], reversed_axes: tuple[int, ...]) -> Volume:
    """The same image in patient space with its voxels stored in another order."""
    affine, array = np.array(volume.geometry.affine), volume.array
    for axis in reversed_axes:
        affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
        affine[:3, axis] *= -1
        array = np.flip(array, axis)
    columns = affine[:, [*axes, 3]]
    array = np.ascontiguousarray(array.transpose(axes))
    return Volume(array, Geometry(array.shape, columns, volume.geometry.frame_of_reference_uid))


ORDERS = [((2, 0, 1), ()), ((0, 1, 2), (0, 2)), ((1, 2, 0), (1,)), ((0, 1, 2), (0, 1, 2))]


def _oblique(spacing: float) -> np.ndarray:
    """Turned about two axes, at no round place: what a scanner gives."""
    affine = np.eye(4)
    affine[:3, :3] = spacing * Rotation.from_euler("zx", [7.3, -11.9], degrees=True).as_matrix()
    affine[:3, 3] = (-41.237, 17.81, 3.0049)
    return affine


@pytest.mark.parametrize("affine", [np.diag([2.0, 2.0, 2.0, 1.0]), _oblique(1.93)], ids=["plain", "oblique"])
@pytest.mark.parametrize(("axes", "flips"), ORDERS)
def test_voxel_order_changes_nothing(
    make_labels_bundle: Callable[..., Path],
    images: dict[str, torch.Tensor],
    axes: tuple[int, int, int],
    flips: tuple[int, ...],
    affine: np.ndarray,
) -> None:
    """Not one voxel: every image and the result are stored in another order, and one image in yet another."""
    geometry = Geometry((40, 36, 30), affine, "1.2.3")
    volumes = {role: Volume(image.numpy(), geometry) for role, image in images.items()}
    segmenter = TumourSegmenter.load(make_labels_bundle(), device="cpu", bfloat16=False)
    plain = segment(volumes, segmenter, 0.05)
    reordered = {role: _reordered(v, axes, flips) for role, v in volumes.items()}
    reordered["t2"] = _reordered(volumes["t2"], (1, 0, 2), (2,))
    other = segment(reordered, segmenter, 0.05)
    expected = _reordered(plain, axes, flips)
    assert np.allclose(other.geometry.affine, expected.geometry.affine)
    assert len(np.unique(plain.array)) > 1
    assert np.array_equal(other.array, expected.array)
