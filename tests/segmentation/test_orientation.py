"""Voxel order and orientation codes of a file must not change what is segmented."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize(("axes", "flips"), [((2, 0, 1), ()), ((0, 1, 2), (0, 2)), ((1, 2, 0), (1,))])
def test_voxel_order_changes_nothing(
    make_labels_bundle: Callable[..., Path],
    images: dict[str, torch.Tensor],
    axes: tuple[int, int, int],
    flips: tuple[int, ...],
) -> None:
    geometry = Geometry((40, 36, 30), np.diag([2.0, 2.0, 2.0, 1.0]), "1.2.3")
    volumes = {role: Volume(image.numpy(), geometry) for role, image in images.items()}
    segmenter = TumourSegmenter.load(make_labels_bundle(), device="cpu", bfloat16=False)
    plain = segment(volumes, segmenter, 0.0)
    other = segment({role: _reordered(v, axes, flips) for role, v in volumes.items()}, segmenter, 0.0)
    expected = _reordered(plain, axes, flips)
    assert np.allclose(other.geometry.affine, expected.geometry.affine)
    assert len(np.unique(plain.array)) > 1
    assert (other.array == expected.array).mean() > 0.999
