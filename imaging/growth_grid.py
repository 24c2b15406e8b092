"""Where the growth model lives: a grid that holds what the visits show, and the brain on it.

Visits of one patient may see different parts of the head. The grid is in the frame of the first one and reaches as far
as any of them; the atlas is laid on the image that sees most of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from imaging.atlas import TissueMaps, register_atlas
from imaging.geometry import FloatArray, Geometry, Volume
from imaging.labels import discard_outside
from imaging.preparation import PreparedVisit, combined_lesion, mask_on_grid

DrawnVisit = tuple[PreparedVisit, Volume]
"""A visit, and its label map on the grid of its reference image."""

# A side on which another visit sees no more than this beyond the first one stays where it is, mm.
_SAME_VIEW_MM = 10.0
# A side is moved out by no more than this for what is seen there, mm: a brain is 20 cm long. Tumour has no limit.
_FARTHEST_MM = 100.0
# How far from a brain that the edge of its image cuts more brain may lie, mm.
_CUT_BRAIN_MM = 30.0
_EDGE_VOXELS = 3  # within which a brain that its image cuts ends before the edge
_ROUNDING = 1e-3  # of a voxel


def growth_grid(visits: Sequence[DrawnVisit], spacing_mm: float) -> Geometry:
    """Isotropic grid along the patient's axes, in the frame of reference of the first visit.

    It is the cover of the first visit's images, continued by whole voxels to what the other visits see and to every
    tumour: where all see about the same it is that cover, and elsewhere the voxels in common stay the same.

    Parameters
    ----------
    visits : sequence of (PreparedVisit, Volume)
        Visits with their label maps, in the order of time.
    spacing_mm : float
        Spacing of the grid in mm.
    """
    cover = visits[0][0].reference.geometry.axis_aligned_cover(spacing_mm)
    slack, farthest = _SAME_VIEW_MM / spacing_mm, _FARTHEST_MM / spacing_mm
    extent = np.array(cover.shape, dtype=float)
    start, stop = np.zeros(3), extent
    for visit, labels in visits:
        seen = cover.to_index(_in_first(_face_centres(visit.reference.geometry), visit)) + 0.5
        seen = np.clip(seen, -farthest, extent + farthest)
        drawn = cover.to_index(_in_first(_tumour_corners(labels), visit)) + 0.5
        for points, least in ((seen, slack), (drawn, _ROUNDING)):
            if len(points):
                low, high = points.min(axis=0), points.max(axis=0)
                start = np.where(low < -least, np.minimum(start, np.floor(low)), start)
                stop = np.where(high > extent + least, np.maximum(stop, np.ceil(high)), stop)
    return cover.crop(start, stop)


@dataclass(frozen=True, eq=False)
class BrainMap:
    """The brain of the patient on the grid of the growth model.

    Parameters
    ----------
    tissue : TissueMaps
        On that grid.
    number : int
        Visit, from 1, on whose image the atlas was laid.
    beyond : Volume
        bool, where that image does not reach.
    may_be_brain : Volume
        bool, the brain, and the part of ``beyond`` that it may go on into where the edge of the image cuts it.
    """

    tissue: TissueMaps
    number: int
    beyond: Volume
    may_be_brain: Volume

    def inside(self, labels: Volume, visit: PreparedVisit, min_component_ml: float) -> Volume:
        """Automatic labels of a visit without what is no brain, see :func:`imaging.labels.discard_outside`."""
        brain = mask_on_grid(self.may_be_brain, labels.geometry, visit.visit_to_first)
        return discard_outside(labels, brain, min_component_ml)

    def beyond_ml(self, tumour: Volume, visit: PreparedVisit) -> float:
        """Volume of a bool mask of a visit beyond the image that the atlas was laid on, mL."""
        beyond = mask_on_grid(self.beyond, tumour.geometry, visit.visit_to_first).array
        count = float(np.count_nonzero(tumour.array & beyond))
        return count * tumour.geometry.voxel_volume_mm3 / 1000


def map_brain(visits: Sequence[DrawnVisit], grid: Geometry, *, seed: int = 0) -> BrainMap:
    """Lay the atlas on the first visit, or on the one that sees most where the grid reaches beyond the first.

    Parameters
    ----------
    visits : sequence of (PreparedVisit, Volume)
        As for :func:`growth_grid`.
    grid : Geometry
        From :func:`growth_grid`.
    seed : int
        Of the random choice of voxels.

    Raises
    ------
    ImagingError
        As :func:`imaging.atlas.register_atlas`.
    """
    lesion = combined_lesion(visits, grid)
    first = visits[0][0]
    if grid.matches(first.reference.geometry.axis_aligned_cover(grid.spacing[0])):
        tissue = register_atlas(_atlas_image(first, first), grid, lesion=lesion, seed=seed)
        nowhere = Volume(np.zeros(grid.shape, dtype=bool), grid)
        return BrainMap(tissue, 1, nowhere, tissue.brain_mask)
    reach = [_seen(visit, grid) for visit, _ in visits]
    # the tumours first, then the head; of visits that see about the same the earliest
    most = max(
        range(len(reach)),
        key=lambda n: (round(_share(reach[n], lesion.array), 2), round(float(reach[n].mean()), 1)),
    )
    image = _atlas_image(visits[most][0], first)
    tissue = register_atlas(image, grid, lesion=lesion, seed=seed)
    beyond = ~reach[most]
    brain = tissue.brain_mask.array
    may_be_brain = brain | _next_to_cut_brain(brain, beyond, grid)
    return BrainMap(tissue, most + 1, Volume(beyond, grid), Volume(may_be_brain, grid))


def _atlas_image(visit: PreparedVisit, first: PreparedVisit) -> Volume:
    """T1 or else reference image of a visit, its grid carried into the frame of the first visit."""
    image = visit.aligned("t1") if "t1" in visit.images else visit.reference
    if visit.registration is None:
        return image
    frame = first.reference.geometry.frame_of_reference_uid
    return Volume(image.array, image.geometry.moved(visit.registration.inverse_matrix, frame))


def _seen(visit: PreparedVisit, grid: Geometry) -> np.ndarray:
    """Voxels of a grid in the first visit's frame that the reference image of a visit reaches."""
    image = visit.reference.geometry
    # its whole field of view as one voxel: no need to resample millions of them
    affine = image.affine.copy()
    affine[:3, :3] *= image.shape
    affine[:3, 3] = image.centre
    view = Volume(np.ones((1, 1, 1), dtype=bool), Geometry((1, 1, 1), affine, image.frame_of_reference_uid))
    return np.asarray(mask_on_grid(view, grid, visit.first_to_visit).array)


def _share(mask: np.ndarray, of: np.ndarray) -> float:
    return float(mask[of].mean()) if of.any() else 1.0


def _next_to_cut_brain(brain: np.ndarray, beyond: np.ndarray, grid: Geometry) -> np.ndarray:
    """Voxels beyond an image that may be brain since the edge of the image cuts it there."""
    cut: np.ndarray = brain & ~beyond & ndimage.binary_dilation(beyond, iterations=_EDGE_VOXELS)
    if not cut.any():
        return cut
    away = ndimage.distance_transform_edt(~cut, sampling=grid.spacing)
    near: np.ndarray = beyond & (away <= _CUT_BRAIN_MM)
    return near


def _in_first(points: FloatArray, visit: PreparedVisit) -> FloatArray:
    """Points ``(N, 3)`` of a visit in the frame of the first one."""
    if visit.registration is None:
        return points
    motion = visit.registration.inverse_matrix
    moved: FloatArray = points @ motion[:3, :3].T + motion[:3, 3]
    return moved


def _face_centres(geometry: Geometry) -> FloatArray:
    """Centres ``(6, 3)`` of a grid's faces: unlike its corners they hardly move when the head turns a little."""
    middle = (np.asarray(geometry.shape) - 1) / 2
    half = np.diag(np.asarray(geometry.shape) / 2)
    return geometry.to_patient(np.concatenate([middle - half, middle + half]))


def _tumour_corners(labels: Volume) -> FloatArray:
    """Corners ``(8, 3)`` of the box around a tumour in patient coordinates; ``(0, 3)`` without one."""
    voxels = np.argwhere(labels.array > 0)
    if not len(voxels):
        return np.empty((0, 3))
    ends = np.stack([voxels.min(axis=0) - 0.5, voxels.max(axis=0) + 0.5])
    return labels.geometry.to_patient(np.stack(np.meshgrid(*ends.T), axis=-1).reshape(-1, 3))
