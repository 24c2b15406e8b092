"""The grid a drawing was made on, among those of its visit.

Planes of a thick series often are planes of a thin one too. A drawing read on the wrong one of the two would fill only
every third or fifth slice, or be thicker than it was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imaging.annotation_index import Annotation
from imaging.catalog import RefusedSeries, Series, Visit
from imaging.geometry import Geometry

# Of slice distances: 1 is the same one, 2 the nearest that lets planes coincide.
_SAME_STEP = 1.5


@dataclass(frozen=True, eq=False)
class Candidate:
    """A grid that a drawing may have been made on; ``referenced`` when the drawing refers to its series."""

    geometry: Geometry
    referenced: bool


def refers_to(annotation: Annotation, series: Series | RefusedSeries) -> bool:
    """Whether a drawing refers to a series, by its UID or by one of its instances."""
    return series.uid in annotation.referenced_series_uids or bool(
        annotation.referenced_instance_uids.intersection(series.instance_uids)
    )


def candidates_of(
    visit: Visit, annotation: Annotation, reference: Series, geometry: Geometry
) -> list[Candidate]:
    """Grids that a drawing may have been made on.

    Parameters
    ----------
    visit : Visit
        The visit of the drawing.
    annotation : Annotation
        The drawing.
    reference : Series
        The series whose grid is wanted.
    geometry : Geometry
        That grid; it comes first, so that of equal grids it is the one taken.
    """
    others = [
        Candidate(series.geometry, refers_to(annotation, series))
        for series in visit.series
        if series.geometry is not None
        and (
            refers_to(annotation, series)
            or series.geometry.frame_of_reference_uid == annotation.frame_of_reference_uid
        )
    ]
    return [Candidate(geometry, refers_to(annotation, reference)), *others]


def drawn_on(visit: Visit, annotation: Annotation, grid: Geometry) -> Series | RefusedSeries | None:
    """The one series that a drawing was made on; None where that cannot be told.

    It is the only one that the drawing refers to. Where it refers to several, or says nothing, the grid that it was
    read on decides, unless several of them have it.

    Parameters
    ----------
    visit : Visit
        The visit of the drawing.
    annotation : Annotation
        The drawing.
    grid : Geometry
        The grid that it was read on.
    """
    everything: list[Series | RefusedSeries] = [*visit.series, *visit.refused]
    referred = [series for series in everything if refers_to(annotation, series)]
    if len(referred) == 1:
        return referred[0]
    if not referred and (annotation.referenced_series_uids or annotation.referenced_instance_uids):
        return None  # on a series that is not here
    fitting = [
        series
        for series in visit.series
        if (series in referred or not referred)
        and series.geometry is not None
        and series.geometry.matches(grid)
    ]
    return fitting[0] if len(fitting) == 1 else None


def grid_of(
    candidates: Sequence[Candidate],
    slices_in: Callable[[Geometry], list[int] | None],
    step: float | None = None,
) -> tuple[Geometry, list[int]] | None:
    """The grid a drawing was made on, and the slice of each of its planes.

    Grids of the series it refers to go first. Of several the one whose slices are as far apart as the drawing's planes
    is taken, or the coarsest when that is unknown.

    Parameters
    ----------
    candidates : sequence of Candidate
        The grids.
    slices_in : callable
        Slice of each plane in a grid; None when some plane is none of its slices.
    step : float or None
        Distance of the slices drawn on in mm; None when unknown.

    Returns
    -------
    tuple or None
        None when no grid has these planes, or only grids of thinner slices that the drawing does not refer to.
    """

    def rank(candidate: Candidate) -> tuple[bool, float]:
        of_grid = candidate.geometry.spacing[2]
        return not candidate.referenced, round(abs(math.log(of_grid / step)) if step else -of_grid, 2)

    for candidate in sorted(candidates, key=rank):
        too_thin = step is not None and step > _SAME_STEP * candidate.geometry.spacing[2]
        slices = None if too_thin and not candidate.referenced else slices_in(candidate.geometry)
        if slices is not None:
            return candidate.geometry, slices
    return None
