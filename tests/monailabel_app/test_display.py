"""Voxels of the series shown against voxels of the reference image, through a rotation."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from imaging.geometry import Geometry, Volume
from monailabel_app.display import Display


def test_labels_and_clicks_meet_at_the_same_place() -> None:
    reference = Geometry((40, 44, 48), np.diag([1.0, 1.0, 1.0, 1.0]), "1.2")
    shown = Geometry(
        (30, 24, 28), np.array([[0, 0, -1.5, 40], [1.5, 0, 0, 2], [0, -1.5, 0, 40], [0, 0, 0, 1.0]])
    )
    motion = sitk.Euler3DTransform()
    motion.SetCenter((20, 20, 20))
    motion.SetRotation(0.1, -0.05, 0.2)
    motion.SetTranslation((1, -2, 1.5))
    display = Display(shown, motion, False)
    labels = np.zeros(reference.shape, np.uint8)
    labels[18:26, 16:24, 20:30] = 3
    seen = display.labels(Volume(labels, reference))
    assert seen.geometry is shown and set(np.unique(seen.array)) == {0, 3}
    voxels = np.argwhere(np.ones(shown.shape, bool)).astype(float)
    there = np.round(display.on_reference(voxels, reference)).astype(int)
    inside = ((there >= 0) & (there < reference.shape)).all(axis=1)
    expected = np.zeros(len(voxels), np.uint8)
    expected[inside] = labels[tuple(there[inside].T)]
    assert (expected == seen.array.ravel()).mean() > 0.999
