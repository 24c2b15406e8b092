"""Whether the growth model explains the scans, in a sentence a person can check."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from twin.grid import surface_mm2
from twin.inputs import TumourObservation
from twin.likelihood import grow
from twin.results import Vector, VisitFit
from twin.scene import Scene, boundary_sd_mm, starting_width, treated
from twin.targets import Asked, misfit

_SHRINK_SD = 2.0
_MISFIT_SD = 4.0
_MISFIT_RELATIVE = 0.2


def visit_fits(scene: Scene, visits: Sequence[TumourObservation], position: Vector) -> tuple[VisitFit, ...]:
    """Overlap and volumes of the model at ``position`` with every visit."""
    voxel = math.prod(scene.tissue.spacing_mm)
    fits = []
    for visit, fields in zip(visits, grow(scene, position, tangents=False), strict=True):
        core, whole = visit.core[scene.box.slices], visit.whole[scene.box.slices]
        fitted_core = fields[0] > scene.settings.core_threshold
        fitted_whole = fields[0] > scene.settings.whole_threshold
        fits.append(
            VisitFit(
                day=visit.day,
                dice_core=dice(fitted_core, core),
                dice_whole=dice(fitted_whole, whole),
                observed_core_mm3=float(core.sum()) * voxel,
                fitted_core_mm3=float(fitted_core.sum()) * voxel,
                observed_whole_mm3=float(whole.sum()) * voxel,
                fitted_whole_mm3=float(fitted_whole.sum()) * voxel,
            )
        )
    return tuple(fits)


def dice(first: Tensor, second: Tensor) -> float:
    """Dice coefficient of two masks; nan when both are empty."""
    total = float(first.sum() + second.sum())
    return 2.0 * float((first & second).sum()) / total if total else math.nan


def judge(
    scene: Scene, visits: Sequence[TumourObservation], known: Sequence[Asked], position: Vector
) -> tuple[bool, str]:
    """Decide whether the calibrated model may be used, and say why in one sentence.

    The model is refused when a mask shrank beyond its boundary error without treatment, when a fitted volume misses
    the observed one by more than four boundary errors and a fifth, or when it fits worse than assuming no change.
    """
    reason = (
        shrinking(scene, visits)
        or _misfit(scene, visits, position)
        or _worse_than_persistence(scene, known, position)
    )
    if reason:
        return (
            False,
            f"The growth model does not explain the scans: {reason}. The parameters keep their priors.",
        )
    return True, f"The growth model explains the {len(visits)} visits."


def shrinking(scene: Scene, visits: Sequence[TumourObservation]) -> str:
    """Which mask shrank beyond its boundary error without a therapy that could explain it, or nothing."""
    spacing = scene.tissue.spacing_mm
    least = _SHRINK_SD * math.sqrt(2.0) * boundary_sd_mm(scene.settings, spacing)
    for before, after in itertools.pairwise(visits):
        if treated(scene.model.therapies, before.day, after.day):
            continue
        pairs = (("core", before.core, after.core), ("whole tumour", before.whole, after.whole))
        for name, earlier, later in pairs:
            lost = float(earlier.sum() - later.sum()) * math.prod(spacing)
            if lost > 0 and lost > least * surface_mm2(earlier, spacing):
                percent = 100 * lost / (float(earlier.sum()) * math.prod(spacing))
                return (
                    f"the {name} shrank by {percent:.0f} % between day {before.day:g} and day {after.day:g}"
                )
    return ""


def _misfit(scene: Scene, visits: Sequence[TumourObservation], position: Vector) -> str:
    spacing = scene.tissue.spacing_mm
    most = _MISFIT_SD * boundary_sd_mm(scene.settings, spacing)
    for visit, fit in zip(visits[1:], visit_fits(scene, visits, position)[1:], strict=True):
        if visit.cellularity is not None:
            continue
        pairs = (
            ("core", visit.core, fit.observed_core_mm3, fit.fitted_core_mm3),
            ("whole-tumour", visit.whole, fit.observed_whole_mm3, fit.fitted_whole_mm3),
        )
        for name, mask, observed, fitted in pairs:
            error = abs(fitted - observed)
            if error > max(most * surface_mm2(mask, spacing), _MISFIT_RELATIVE * observed):
                return (
                    f"its best {name} volume on day {visit.day:g} is {fitted / 1000:.1f} mL "
                    f"where {observed / 1000:.1f} mL were segmented"
                )
    return ""


def _worse_than_persistence(scene: Scene, known: Sequence[Asked], position: Vector) -> str:
    densities = grow(scene, position, tangents=False)
    nothing, shift = np.zeros_like(position), scene.coordinates.shift(0)
    start = scene.density(0, starting_width(position), position[shift], position[shift + 1])
    start = start.to(scene.operator.dtype)
    model = sum(misfit(target, densities[target.visit][0], nothing, scene.settings) for target in known)
    persistence = sum(misfit(target, start, nothing, scene.settings) for target in known)
    # a margin, since a tumour that did not change is explained by slow growth as well as by none
    if model > 1.1 * persistence:
        return "assuming no change since the first visit fits better"
    return ""
