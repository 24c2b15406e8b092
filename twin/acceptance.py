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


def visit_fits(
    scene: Scene, visits: Sequence[TumourObservation], densities: Sequence[Tensor]
) -> tuple[VisitFit, ...]:
    """Overlap and volumes of the model with every visit, for its ``densities`` there, (X, Y, Z) each."""
    voxel = math.prod(scene.tissue.spacing_mm)
    fits = []
    for visit, density in zip(visits, densities, strict=True):
        core, whole = visit.core[scene.box.slices], visit.whole[scene.box.slices]
        fitted_core = density > scene.settings.core_threshold
        fitted_whole = density > scene.settings.whole_threshold
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
) -> tuple[bool, str, tuple[VisitFit, ...]]:
    """Decide whether the calibrated model may be used, and say why in one sentence; with its fit to every visit.

    The model is refused when a mask shrank beyond its boundary error without treatment, when a fitted volume misses
    the observed one by more than four boundary errors and a fifth, or when it fits worse than assuming no change.
    """
    densities = [fields[0] for fields in grow(scene, position, tangents=False)]
    fits = visit_fits(scene, visits, densities)
    reason = (
        shrinking(scene, visits)
        or _misfit(scene, visits, fits)
        or _worse_than_persistence(scene, known, position, densities)
    )
    if reason:
        verdict = f"The growth model does not explain the scans: {reason}. The parameters keep their priors."
        return False, verdict, fits
    return True, f"The growth model explains the {len(visits)} visits.", fits


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


def _misfit(scene: Scene, visits: Sequence[TumourObservation], fits: Sequence[VisitFit]) -> str:
    spacing = scene.tissue.spacing_mm
    most = _MISFIT_SD * boundary_sd_mm(scene.settings, spacing)
    for visit, fit in zip(visits[1:], fits[1:], strict=True):
        if visit.cellularity is not None:
            continue
        pairs = (
            ("core", visit.core, fit.observed_core_mm3, fit.fitted_core_mm3),
            ("whole-tumour", visit.whole, fit.observed_whole_mm3, fit.fitted_whole_mm3),
        )
        for name, mask, observed, fitted in pairs:
            error = abs(fitted - observed)
            # what a boundary error hides altogether has no surface to be seen: a ball of that radius
            hidden = 4.0 / 3.0 * math.pi * most**3
            if error > max(most * surface_mm2(mask, spacing), _MISFIT_RELATIVE * observed, hidden):
                return (
                    f"its best {name} volume on day {visit.day:g} is {fitted / 1000:.1f} mL "
                    f"where {observed / 1000:.1f} mL were segmented"
                )
    return ""


def _worse_than_persistence(
    scene: Scene, known: Sequence[Asked], position: Vector, densities: Sequence[Tensor]
) -> str:
    nothing, shift = np.zeros_like(position), scene.coordinates.shift(0)
    start = scene.density(0, starting_width(position), position[shift], position[shift + 1])
    start = start.to(scene.operator.dtype)
    model = sum(misfit(target, densities[target.visit], nothing, scene.settings) for target in known)
    persistence = sum(misfit(target, start, nothing, scene.settings) for target in known)
    # a margin, since a tumour that did not change is explained by slow growth as well as by none
    if model > 1.1 * persistence:
        return "assuming no change since the first visit fits better"
    return ""
