"""Heads with a known truth, made from the average brain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from imaging.atlas import load_atlas
from imaging.geometry import Geometry, Volume
from imaging.multiresolution import pooled


@dataclass(frozen=True, eq=False)
class SyntheticHead:
    """A T1 image and what it was made of: ``tissue`` is ``(3, I, J, K)`` CSF, GM, WM."""

    image: Volume
    tissue: np.ndarray
    lesion: Volume

    @property
    def brain(self) -> np.ndarray:
        return self.tissue.sum(axis=0) > 0.5


def random_displacement(shape: tuple[int, ...], spacing: float, rms_mm: float, seed: int) -> np.ndarray:
    """``(3, I, J, K)`` smooth displacement in mm with this root mean square length."""
    rng = np.random.default_rng(seed)
    field = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 18.0 / spacing) for _ in range(3)])
    return field * rms_mm / np.sqrt((field**2).sum(axis=0).mean())


def synthetic_head(
    *,
    spacing: float = 2.0,
    stretch: tuple[float, float, float] = (0.92, 0.9, 0.95),
    turn_degrees: float = 0.0,
    bend_mm: float = 4.0,
    seed: int = 0,
    skull: bool = False,
    tumour: bool = False,
    noise: float = 0.03,
    bias: float = 0.0,
    folds: float = 0.0,
) -> SyntheticHead:
    """The average brain stretched, turned, bent, dressed and spoiled.

    An average of 152 brains has none of the small folds by which one person differs from another; ``folds``
    draws some, the same for the same seed, as dark as this share of the brightness.
    """
    atlas = load_atlas()
    small = pooled(atlas.t1, spacing)
    rim = int(20 / spacing)
    shape = tuple(n + 2 * rim for n in small.geometry.shape)
    geometry = small.geometry.crop(-np.full(3, rim), np.array(small.geometry.shape) + rim)
    bend = random_displacement(shape, spacing, bend_mm, seed) if bend_mm else np.zeros((3, *shape))
    turn = sitk.Euler3DTransform()
    turn.SetRotation(np.radians(turn_degrees), 0.0, 0.0)
    matrix = np.reshape(turn.GetMatrix(), (3, 3)) @ np.diag(1 / np.asarray(stretch))
    points = geometry.to_patient(np.stack(np.indices(shape), axis=-1))
    centre = points.reshape(-1, 3).mean(axis=0)
    source = (points - centre) @ matrix.T + centre + np.moveaxis(bend, 0, -1)

    def seen(array: np.ndarray) -> np.ndarray:
        places = np.moveaxis(atlas.t1.geometry.to_index(source), -1, 0)
        return ndimage.map_coordinates(array, places, order=1, output=np.float32)

    tissue = np.stack([seen(t) for t in atlas.tissue])
    brain = tissue.sum(axis=0) > 0.5
    image = seen(atlas.t1.array) * brain
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4.0 / spacing)
    image = np.where(brain, image * (1 - folds * np.clip(texture / texture.std(), 0, 2)), 0.0)
    lesion = np.zeros(shape, dtype=bool)
    if tumour:
        middle = points[brain].mean(axis=0) + np.array([30.0, 10.0, 15.0])
        distance = np.linalg.norm(points - middle, axis=-1)
        lesion = (distance < 20.0) & brain
        image[lesion] = np.where(distance[lesion] < 12.0, 70.0, 110.0)
    rng = np.random.default_rng(seed)
    if skull:
        distance = ndimage.distance_transform_edt(~brain, sampling=spacing)
        image = np.where(brain, image, np.where(distance > 14.0, 0.0, np.where(distance > 8.0, 230.0, 15.0)))
    spoiled = image * (1 + bias * (points[..., 1] - centre[1]) / 100.0) + rng.normal(0, noise * 200.0, shape)
    if not skull:
        spoiled = np.where(brain, np.maximum(spoiled, 1.0), 0.0)
    else:
        spoiled = np.abs(spoiled)
    return SyntheticHead(Volume(spoiled.astype(np.float32), geometry), tissue, Volume(lesion, geometry))


def seen_elsewhere(image: Volume, motion: sitk.Transform, geometry: Geometry | None = None) -> Volume:
    """The image as a scanner sees it after the head has moved; ``motion`` maps new places to old ones."""
    grid = geometry or image.geometry
    return image.resampled(grid, motion)
