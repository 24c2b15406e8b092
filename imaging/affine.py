"""Affine map from a patient's head to an average brain, from many starts."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from imaging.geometry import AnyArray, FloatArray, Geometry, Volume
from imaging.head_mask import BareBrain
from imaging.multiresolution import Level, Schedule, pooled, transform_matrix

# The average brain is larger than most brains: it is shrunk by these factors to begin with.
_SCALES = (0.85, 0.95)
_PITCHES_DEGREES = (-30.0, -15.0, 0.0, 15.0, 30.0)
_TILTS_DEGREES = ((0.0, 0.0), (15.0, 0.0), (-15.0, 0.0), (0.0, 15.0), (0.0, -15.0))
_SHIFTS_MM = tuple(itertools.product((-15.0, 0.0, 15.0), (-30.0, -15.0, 0.0, 15.0, 30.0)))
_RIM_MM = 40.0

_COARSE = Schedule(spacing=5.0, blur=3.0, samples=6_000, largest_step=3.0, iterations=30)
_MIDDLE = Schedule(spacing=3.0, blur=2.0, samples=11_000, largest_step=1.0, iterations=30)


def align_affine(atlas: Volume, brain: npt.NDArray[np.bool_], bare: BareBrain, seed: int) -> FloatArray:
    """``(4, 4)`` map from LPS of ``bare`` to LPS of ``atlas``, by mutual information.

    Parameters
    ----------
    atlas : Volume
        An average brain without skull.
    brain : numpy.ndarray
        bool, its brain mask.
    bare : BareBrain
        The patient.
    seed : int
        Of the random choice of voxels.
    """
    inside, geometry = bare.mask.array, bare.image.geometry
    low, high = np.percentile(bare.image.array[inside], (0.5, 99.0))
    small = _padded(np.clip(bare.image.array, min(low, 0.0), high), geometry)
    centroid = geometry.to_patient(np.argwhere(inside)).mean(axis=0)
    zone = _zone(atlas.geometry, brain)
    coarse, middle = (Level.of(atlas, small, zone, schedule, seed) for schedule in (_COARSE, _MIDDLE))
    centre = atlas.geometry.to_patient(np.argwhere(brain[::4, ::4, ::4]) * 4.0).mean(axis=0)
    starts = sorted(_starts(centre, centroid), key=coarse.value, reverse=True)
    refined = [coarse.refine(start) for start in _different(starts, 3)]
    best = max(refined, key=coarse.value)
    full = sitk.AffineTransform(3)
    full.SetCenter(best.GetCenter())
    full.SetMatrix(best.GetMatrix())
    full.SetTranslation(best.GetTranslation())
    atlas_to_patient = transform_matrix(middle.refine(coarse.refine(full)))
    patient_to_atlas: FloatArray = np.linalg.inv(atlas_to_patient)
    return patient_to_atlas


def _padded(array: AnyArray, geometry: Geometry) -> Volume:
    """With a rim of background: a brain that grows out of the field of view must not go unpunished."""
    rim = [round(_RIM_MM / spacing) for spacing in geometry.spacing]
    start, stop = -np.asarray(rim), np.asarray(geometry.shape) + rim
    padded = np.pad(array, [(r, r) for r in rim])
    return Volume(padded, geometry.crop(start, stop))


def _zone(geometry: Geometry, brain: npt.NDArray[np.bool_]) -> Volume:
    """The brain and the first millimetres outside, where its outline is seen; 0 or 1 on a 3 mm grid."""
    small = pooled(Volume(brain, geometry), 3.0)
    distance = ndimage.distance_transform_edt(small.array < 0.5, sampling=small.geometry.spacing)
    return small.with_array((distance <= 6.0).astype(np.float32))


def _starts(atlas_centre: FloatArray, brain_centre: FloatArray) -> list[sitk.Similarity3DTransform]:
    starts = []
    for scale, pitch, (yaw, roll), (posterior, superior) in itertools.product(
        _SCALES, _PITCHES_DEGREES, _TILTS_DEGREES, _SHIFTS_MM
    ):
        turn = sitk.Euler3DTransform()
        turn.SetRotation(*np.radians((pitch, roll, yaw)).tolist())
        start = sitk.Similarity3DTransform()
        start.SetCenter(atlas_centre.tolist())
        start.SetMatrix((scale * np.asarray(turn.GetMatrix())).tolist())
        start.SetTranslation((brain_centre + np.array([0.0, posterior, superior]) - atlas_centre).tolist())
        starts.append(start)
    return starts


def _different(starts: list[sitk.Similarity3DTransform], count: int) -> list[sitk.Similarity3DTransform]:
    """The first ``count`` starts that are not neighbours of one another."""
    chosen: list[sitk.Similarity3DTransform] = []
    for start in starts:
        here = np.asarray(start.GetParameters()[3:6])
        if all(np.linalg.norm(here - other.GetParameters()[3:6]) > 10.0 for other in chosen):
            chosen.append(start)
        if len(chosen) == count:
            break
    return chosen
