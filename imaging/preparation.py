"""From the series of a visit to aligned images: what the network and the twin see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from imaging.annotations import Correction, read_annotation
from imaging.catalog import Series, Visit
from imaging.errors import ImagingError, Reason
from imaging.geometry import Geometry, Volume
from imaging.labels import TumourLabel
from imaging.multiresolution import single_thread
from imaging.reader import read_volume
from imaging.registration import Purpose, RigidRegistration, register_rigid
from imaging.roles import ROLES, Role

# The contrast that carries the results: the first of these that the visit has.
REFERENCE_ORDER: tuple[Role, ...] = ("t1ce", "t1", "flair", "t2")

Progress = Callable[[str], None]

# Background, NCR, ED and ET probabilities on one grid.
Volume4 = tuple[Volume, Volume, Volume, Volume]

# Probabilities (4, I, J, K), an image (I, J, K) and the size of its voxels in mm to labels, uint8 (I, J, K).
Decision = Callable[[np.ndarray, np.ndarray, tuple[float, float, float]], np.ndarray]


# Growth cannot be measured between scans of one day: registration error exceeds it.
SHORTEST_INTERVAL_DAYS = 1.0

# Of what `network_images` gives for the same series; raised with every change of it, so that nobody uses kept ones.
NETWORK_IMAGES_VERSION = 2

_CUT_AWAY = 0.05  # least share of an image's voxels with one value that were cut away, not measured
_AROUND_TUMOUR = 2  # voxels of the network's grid around its tumour in which labels of an image are decided
_NUDGE = 1e-3  # voxels by which a mask's grid is moved aside when the mask is sampled
_REGION = 0.01  # least share of the voxels in a connected region of them


def require_intervals(visits: Sequence[Visit]) -> None:
    """Refuse visits too close in time for growth to be measured.

    Raises
    ------
    ImagingError
        With ``Reason.ZERO_INTERVAL``, if two successive visits are less than a day apart.
    """
    for number, (earlier, later) in enumerate(pairwise(visits), start=1):
        days = (later.date - earlier.date).total_seconds() / 86400
        if days < SHORTEST_INTERVAL_DAYS:
            raise ImagingError(
                Reason.ZERO_INTERVAL,
                f"Visits {number} and {number + 1} are {days:.2f} days apart (Acquisition Date and Time); "
                f"growth needs at least {SHORTEST_INTERVAL_DAYS:g} day: leave one of them out of the input.",
            )


@dataclass(frozen=True, eq=False)
class PreparedVisit:
    """The images of one visit, brought together.

    Parameters
    ----------
    date : datetime.datetime
        Acquisition date and time.
    day : float
        Days since the first visit.
    series : mapping
        Role to the series chosen.
    reference_role : str
        Role whose grid carries the results.
    images : mapping
        Role to image on its own grid.
    series_registrations : mapping
        Role to the rigid registration from the reference image; the reference itself is absent.
    registration : RigidRegistration or None
        Maps points of the first visit's reference image to this one's; None for the first visit.
    correction : Correction or None
        Replaces inference when present.
    """

    date: datetime
    day: float
    series: Mapping[Role, Series]
    reference_role: Role
    images: Mapping[Role, Volume]
    series_registrations: Mapping[Role, RigidRegistration]
    registration: RigidRegistration | None
    correction: Correction | None

    @property
    def reference(self) -> Volume:
        """Reference image on its own grid."""
        return self.images[self.reference_role]

    @property
    def reference_series(self) -> Series:
        """Series of the reference image."""
        return self.series[self.reference_role]

    def motion_of(self, series_uid: str) -> sitk.Transform | None:
        """Maps points of the reference image to points of another series of the visit; None where that is not known."""
        found = (of for role, of in self.series_registrations.items() if self.series[role].uid == series_uid)
        return next((registration.transform for registration in found), None)

    @property
    def first_to_visit(self) -> sitk.Transform | None:
        """Maps points of the first visit to points of this one; None for the first visit."""
        return None if self.registration is None else self.registration.transform

    @property
    def visit_to_first(self) -> sitk.Transform | None:
        """Maps points of this visit to points of the first one; None for the first visit."""
        return None if self.registration is None else self.registration.transform.GetInverse()

    def aligned(self, role: Role) -> Volume:
        """One contrast moved onto the grid of the reference image."""
        registration = self.series_registrations.get(role)
        if registration is None:
            return self.images[role]
        return self.images[role].resampled(self.reference.geometry, registration.transform)


def reference_role(chosen: Mapping[Role, Series]) -> Role:
    """The contrast that the others of its visit are registered to."""
    return next(role for role in REFERENCE_ORDER if role in chosen)


def prepare_visits(
    selected: Sequence[tuple[Visit, Mapping[Role, Series]]],
    *,
    seed: int = 0,
    progress: Progress = lambda step: None,
) -> tuple[PreparedVisit, ...]:
    """Read the series of all visits; register each to its visit's reference image, and that to the first visit.

    Parameters
    ----------
    selected : sequence of (Visit, mapping)
        The visits in order, each with its role to series, as ``select_roles`` gives it. The first one is the baseline.
    seed : int
        Seed of the registrations' sampling.
    progress : callable
        Told in words what is about to happen.

    Raises
    ------
    ImagingError
        If a series cannot be read or a registration fails.
    """
    read = []
    for number, (_, chosen) in enumerate(selected, start=1):
        progress(f"visit {number} of {len(selected)}: reading {len(chosen)} series")
        read.append({role: read_volume(chosen[role]) for role in ROLES if role in chosen})
    references = [reference_role(chosen) for _, chosen in selected]
    baseline = read[0][references[0]]
    # Registrations know nothing of each other: all of them share the processors.
    with single_thread(), ThreadPoolExecutor() as pool:

        def align(fixed: Volume, moving: Volume, purpose: Purpose) -> Future[RigidRegistration]:
            return pool.submit(register_rigid, fixed, moving, purpose=purpose, seed=seed)

        within: list[dict[Role, Future[RigidRegistration]]] = []
        between: list[Future[RigidRegistration]] = []
        for number, (images, role) in enumerate(zip(read, references, strict=True), start=1):
            others = [other for other in images if other != role]
            if others:
                progress(f"visit {number} of {len(read)}: registering {', '.join(others)} to {role}")
            within.append({other: align(images[role], images[other], "series") for other in others})
            if number > 1:
                progress(f"visit {number} of {len(read)}: registering to the first visit")
                between.append(align(baseline, images[role], "visit"))
        try:
            series_registrations = [
                {other: _found(pending, visit, chosen[other]) for other, pending in of_visit.items()}
                for (visit, chosen), of_visit in zip(selected, within, strict=True)
            ]
            registrations = [
                None,
                *(
                    _found(pending, visit, chosen[role])
                    for (visit, chosen), role, pending in zip(
                        selected[1:], references[1:], between, strict=True
                    )
                ),
            ]
        except ImagingError:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    first_date = selected[0][0].date
    prepared = (
        PreparedVisit(
            date=visit.date,
            day=(visit.date - first_date).total_seconds() / 86400,
            series=dict(chosen),
            reference_role=role,
            images=images,
            series_registrations=aligned,
            registration=registration,
            correction=None,
        )
        for (visit, chosen), role, images, aligned, registration in zip(
            selected, references, read, series_registrations, registrations, strict=True
        )
    )
    return tuple(
        replace(
            one,
            correction=read_annotation(visit, one.reference_series, one.reference.geometry, one.motion_of),
        )
        for one, (visit, _) in zip(prepared, selected, strict=True)
    )


def _found(pending: Future[RigidRegistration], visit: Visit, series: Series) -> RigidRegistration:
    """A registration, or its error with the name of what could not be moved: it may be another head, or none."""
    try:
        return pending.result()
    except ImagingError as error:
        sentence = error.message[0].lower() + error.message[1:]
        raise ImagingError(
            error.reason, f"The visit of {visit.date:%Y-%m-%d}, {series.label}: {sentence}"
        ) from error


def network_images(visit: PreparedVisit, spacing_mm: float) -> dict[Role, Volume]:
    """All contrasts of a visit on the axis-aligned grid that a network expects.

    Parameters
    ----------
    visit : PreparedVisit
        The visit.
    spacing_mm : float
        Isotropic spacing of the grid in mm.
    """
    grid = visit.reference.geometry.canonical().axis_aligned_cover(spacing_mm)

    def on_network_grid(role: Role) -> Volume:
        registration = visit.series_registrations.get(role)
        return averaged_on_grid(
            visit.images[role], grid, None if registration is None else registration.transform
        )

    with ThreadPoolExecutor() as pool:  # the filter is of one thread and lets others run
        return dict(zip(visit.images, pool.map(on_network_grid, visit.images), strict=True))


def averaged_on_grid(image: Volume, grid: Geometry, transform: sitk.Transform | None = None) -> Volume:
    """An image on a grid that may be coarser: averaged first, since interpolation alone would alias thin structures.

    Where a stripper or a defacer has left one repeated value, the cut stays sharp: what is left is averaged without
    that value, and a voxel of which more than half was cut away holds exactly it.

    Parameters
    ----------
    image : Volume
        Of real numbers.
    grid : Geometry
        The grid wanted, of equal spacing along its axes; the image's darkest value, or the repeated one, lies where it
        reaches beyond.
    transform : SimpleITK.Transform or None
        Maps points of ``grid`` to points of ``image``.
    """
    image = image.canonical()
    ratio = grid.spacing[0] / np.asarray(image.geometry.spacing)
    sigma = np.sqrt(np.maximum(ratio**2 - 1, 0)) * 0.4
    array = image.array.astype(np.float32)

    def averaged(values: np.ndarray, outside: float) -> np.ndarray:
        smooth = image.with_array(ndimage.gaussian_filter(values, sigma) if sigma.any() else values)
        return smooth.resampled(grid, transform, outside=outside).array

    empty, kept = _cut_away(array)
    if kept.all():
        return Volume(averaged(array, float(array.min())), grid)
    share = averaged(kept.astype(np.float32), 0.0)
    left = averaged(np.where(kept, array - empty, np.float32(0)), 0.0) / np.maximum(share, 0.5)
    return Volume(np.where(share < 0.5, empty, empty + left), grid)


def _cut_away(array: np.ndarray) -> tuple[np.float32, np.ndarray]:
    """The value that a stripper or a defacer left, 0 or the darkest, and what it left as it was: bool (I, J, K).

    Only connected regions of that value count: fluid may hold single zeros, which are as real as their neighbours.
    """
    counts = {value: int(np.count_nonzero(array == value)) for value in {0.0, float(array.min())}}
    empty, count = max(counts.items(), key=lambda item: (item[1], -item[0]))
    if count < _CUT_AWAY * array.size:
        return np.float32(empty), np.ones(array.shape, dtype=bool)
    regions, _ = ndimage.label(array == empty)
    large = np.bincount(regions.ravel()) >= _REGION * array.size
    large[0] = False
    return np.float32(empty), ~large[regions]


def most_probable(
    probabilities: np.ndarray, image: np.ndarray, spacing: tuple[float, float, float]
) -> np.ndarray:
    """Most probable label of each voxel, whatever the image shows: a `Decision`."""
    return np.asarray(probabilities.argmax(axis=0), dtype=np.uint8)


def labels_on_image(probabilities: Volume4, image: Volume, decide: Decision = most_probable) -> Volume:
    """Labels at every voxel of an image, from probabilities on another grid.

    Parameters
    ----------
    probabilities : tuple of Volume
        Four images on one grid: background, NCR, ED, ET, summing to one.
    image : Volume
        In the same frame of reference; gets the labels.
    decide : callable
        Labels of the voxels near tumour, from the probabilities there and the image, in canonical order of voxels.

    Returns
    -------
    Volume
        uint8 label map; background outside the grid of ``probabilities``.
    """
    target = image.geometry.canonical()
    labels = np.zeros(target.shape, dtype=np.uint8)
    grid = probabilities[0].geometry
    # Some label may be decided where background has less than one half, even if no other is as probable.
    tumour = np.argwhere(probabilities[0].array < 0.5)
    if len(tumour) == 0:
        return Volume(np.zeros(image.geometry.shape, dtype=np.uint8), image.geometry)
    # Where background has more than one half at all eight neighbours it has in between: only voxels near others count.
    near = grid.crop(tumour.min(axis=0) - _AROUND_TUMOUR, tumour.max(axis=0) + 1 + _AROUND_TUMOUR)
    around = target.to_index(near.corners())
    start = np.clip(np.floor(around.min(axis=0)).astype(int), 0, target.shape)
    stop = np.clip(np.ceil(around.max(axis=0)).astype(int) + 1, start, target.shape)
    if np.all(stop > start):
        box = target.crop(start, stop)
        channels = [
            channel.resampled(box, outside=1.0 if label == TumourLabel.BACKGROUND else 0.0).array
            for label, channel in enumerate(probabilities)
        ]
        inside = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        labels[inside] = decide(np.stack(channels), image.canonical().array[inside], target.spacing)
    return Volume(labels, target).stored_as(image.geometry)


def mask_on_grid(mask: Volume, geometry: Geometry, transform: sitk.Transform | None) -> Volume:
    """A boolean mask on another grid: voxels at least half inside it.

    Parameters
    ----------
    mask : Volume
        bool.
    geometry : Geometry
        The grid wanted.
    transform : SimpleITK.Transform or None
        Maps points of ``geometry`` to points of ``mask``; None when both share a frame of reference.
    """
    # Points of one grid often lie exactly half way between voxels of another. Taken as inside on both sides of a mask
    # they make it larger, as outside smaller; a nudge lets those of one side in.
    nudge = np.eye(4)
    nudge[:3, 3] = _NUDGE
    nudged = Geometry(geometry.shape, geometry.affine @ nudge, geometry.frame_of_reference_uid)
    moved = mask.with_array(mask.array.astype(np.float32)).resampled(nudged, transform)
    return Volume(moved.array >= 0.5, geometry)


def combined_lesion(visits: Sequence[tuple[PreparedVisit, Volume]], geometry: Geometry) -> Volume:
    """Where any visit shows tumour, on a grid in the first visit's frame of reference.

    Parameters
    ----------
    visits : sequence of (PreparedVisit, Volume)
        Visits with their label maps.
    geometry : Geometry
        The grid wanted.
    """
    lesion = np.zeros(geometry.shape, dtype=bool)
    for visit, labels in visits:
        tumour = labels.with_array(labels.array > 0)
        lesion |= mask_on_grid(tumour, geometry, visit.first_to_visit).array
    return Volume(lesion, geometry)
