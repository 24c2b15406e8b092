"""Whether the growth model explains the scans, in a sentence a person can check."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from twin.coordinates import LOG_TAIL, TAIL_SIGMA_LOG
from twin.distance import signed_distance
from twin.grid import surface_mm2
from twin.inputs import TumourObservation
from twin.likelihood import grow
from twin.results import Vector, VisitFit
from twin.scene import Scene, boundary_sd_mm, starting_width, treated
from twin.targets import Asked, Target, misfit, rows, shift_rows
from twin.treatment import Surgery

_SHRINK_SD = 2.0
_MISFIT_SD = 4.0
_MISFIT_RELATIVE = 0.2
_APART_SD = 2.0
_UNEXPLAINED = 9.0
_LEAST_LEFT = 0.2
_NAMES = {"core": "core", "whole": "whole tumour"}


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


@dataclass(frozen=True)
class Judgement:
    """Whether the calibrated model may be used.

    Parameters
    ----------
    acceptable : bool
        It may.
    verdict : str
        Why, one plain sentence.
    fits : tuple of VisitFit
        How it meets every visit.
    unexplained : float
        See :func:`unexplained`.
    """

    acceptable: bool
    verdict: str
    fits: tuple[VisitFit, ...]
    unexplained: float


def judge(
    scene: Scene, visits: Sequence[TumourObservation], known: Sequence[Asked], position: Vector
) -> Judgement:
    """Decide whether the calibrated model may be used.

    It is refused when the scans cannot show growth (see :func:`hopeless`), when a fitted volume misses the observed one
    by more than four boundary errors and a fifth, when the fitted tumour does not lie where the segmented one is (see
    :func:`_misplaced`), when what boundary errors leave unexplained is three times as large
    as they are, or when it fits worse than assuming no change. Whole tumours that were not drawn beyond their core
    (:attr:`twin.TumourObservation.has_margin`) are not compared.
    """
    densities = [fields[0] for fields in grow(scene, position, tangents=False)]
    fits = visit_fits(scene, visits, densities)
    left = unexplained(scene, known, position, densities)
    reason = (
        hopeless(scene, visits)
        or _misfit(scene, visits, densities, fits)
        or _misplaced(scene, visits, densities)
        or _too_much(left)
        or _worse_than_persistence(scene, known, position, densities)
    )
    if reason:
        verdict = f"The growth model does not explain the scans: {reason}. The parameters keep their priors."
        return Judgement(False, verdict, fits, left)
    return Judgement(True, f"The growth model explains the {len(visits)} visits.", fits, left)


def unexplained(scene: Scene, known: Sequence[Asked], position: Vector, densities: Sequence[Tensor]) -> float:
    """What the scans show beyond their own errors, in squared standard deviations a degree of freedom.

    Shifts of whole boundaries and the first front's shape are errors that the best fit asks for; residuals count as far
    as they exceed the scatter that they were weighted with. Degrees of freedom are the masks beyond the two that
    velocity and width can always fit, at least two. Of the order of one, or less, when growth and noise are as assumed.
    """
    coordinates = scene.coordinates
    shift_sd = boundary_sd_mm(scene.settings, scene.tissue.spacing_mm)
    left = (position[LOG_TAIL] / TAIL_SIGMA_LOG) ** 2
    left += float(np.square(position[coordinates.first_shift :] / shift_sd).sum())
    for target in known:
        expected = 0.0 if isinstance(target, Target) and target.at_most else target.effective
        left += misfit(target, densities[target.visit], position, scene.settings) - expected
    return float(left) / max(len(known) - 2, 2)


def hopeless(scene: Scene, visits: Sequence[TumourObservation]) -> str:
    """Why no growth parameters can explain or be learned from these visits, or nothing."""
    return _without_margin(scene) or _shrinking(scene, visits) or _vanished(scene, visits)


def _without_margin(scene: Scene) -> str:
    """Whether how density falls off around the first core was not seen, from which all growth starts.

    On simulated patients with the steady wave there instead, proliferation came out up to twice too large.
    """
    if scene.distances[0].has_margin or scene.cellularity[0] is not None:
        return ""
    return (
        f"on day {scene.distances[0].day:g} no tumour was segmented around the core, and without it the start of "
        "growth is unknown"
    )


def _vanished(scene: Scene, visits: Sequence[TumourObservation]) -> str:
    """Whether drugs or radiation left less of the tumour to see than tells how dense the rest is.

    Where density has come close to the threshold, a little noise decides how much of it shows, and whether what does
    not show is just below or nothing decides how soon it is back.
    """
    therapies = scene.model.therapies
    for before, after in itertools.pairwise(visits):
        if not treated(therapies, before.day, after.day):
            continue
        if any(isinstance(t, Surgery) and treated([t], before.day, after.day) for t in therapies):
            continue
        name = "whole" if before.has_margin and after.has_margin else "core"
        share = float(getattr(after, name).sum() / getattr(before, name).sum())
        if share < _LEAST_LEFT:
            return (
                f"under treatment the {_NAMES[name]} shrank by {100 * (1 - share):.0f} % between day {before.day:g} "
                f"and day {after.day:g}, and how dense the rest is no longer shows"
            )
    return ""


def _shrinking(scene: Scene, visits: Sequence[TumourObservation]) -> str:
    """Which mask shrank beyond its boundary error without a therapy that could explain it, or nothing."""
    spacing = scene.tissue.spacing_mm
    least = _SHRINK_SD * math.sqrt(2.0) * boundary_sd_mm(scene.settings, spacing)
    for before, after in itertools.pairwise(visits):
        if treated(scene.model.therapies, before.day, after.day):
            continue
        pairs = [("core", before.core, after.core)]
        if before.has_margin and after.has_margin:
            pairs.append(("whole tumour", before.whole, after.whole))
        for name, earlier, later in pairs:
            lost = float(earlier.sum() - later.sum()) * math.prod(spacing)
            if lost > 0 and lost > _hidden_by_error(earlier, spacing, least, name):
                percent = 100 * lost / (float(earlier.sum()) * math.prod(spacing))
                return (
                    f"the {name} shrank by {percent:.0f} % between day {before.day:g} and day {after.day:g}"
                )
    return ""


def _hidden_by_error(mask: Tensor, spacing: tuple[float, float, float], depth: float, name: str) -> float:
    """Volume (mm3) that a mask (X, Y, Z) may lose to a boundary error of ``depth`` mm.

    A small ball holds less within that depth than its surface times it, which can be more than the ball. A core may
    lose that much nevertheless: the model thins a small core below its threshold.
    """
    if name == "core":
        return depth * surface_mm2(mask, spacing)
    return float((mask & (signed_distance(mask, spacing) > -depth)).sum()) * math.prod(spacing)


def _misfit(
    scene: Scene, visits: Sequence[TumourObservation], densities: Sequence[Tensor], fits: Sequence[VisitFit]
) -> str:
    spacing, settings = scene.tissue.spacing_mm, scene.settings
    voxel, most = math.prod(spacing), _MISFIT_SD * boundary_sd_mm(settings, spacing)
    for visit, density, fit in zip(visits[1:], densities[1:], fits[1:], strict=True):
        if visit.cellularity is not None:
            continue
        pairs = (
            ("core", visit.core, settings.core_threshold, fit.observed_core_mm3, fit.fitted_core_mm3),
            (
                "whole-tumour",
                visit.whole,
                settings.whole_threshold,
                fit.observed_whole_mm3,
                fit.fitted_whole_mm3,
            ),
        )
        for name, mask, threshold, observed, fitted in pairs[: 1 + visit.has_margin]:
            # a threshold is no sharper than its width: where density is flat, volumes jump as it passes
            least, largest = (
                float((density > threshold + side * settings.threshold_width).sum()) * voxel
                for side in (1, -1)
            )
            error = max(least - observed, observed - largest, 0.0)
            # what a boundary error hides altogether has no surface to be seen
            if error > max(most * surface_mm2(mask, spacing), _MISFIT_RELATIVE * observed, _ball_mm3(most)):
                return (
                    f"its best {name} volume on day {visit.day:g} is {fitted / 1000:.1f} mL "
                    f"where {observed / 1000:.1f} mL were segmented"
                )
    return ""


def _misplaced(scene: Scene, visits: Sequence[TumourObservation], densities: Sequence[Tensor]) -> str:
    """Which fitted mask does not lie where the segmented one is, or nothing.

    Residuals are weighed by their own scatter and volumes say nothing about places: a tumour that lies centimetres off
    passes both. What fitted and segmented mask do not share, as far as no threshold within its own width would make
    them share it, is compared with a boundary error over the whole surface. Simulated patients with noisy boundaries
    reach 0.1 of it, a tumour 10 mm off or a second focus 3.5 to 6.
    """
    spacing, settings = scene.tissue.spacing_mm, scene.settings
    voxel, most = math.prod(spacing), _APART_SD * boundary_sd_mm(settings, spacing)
    for visit, density in zip(visits[1:], densities[1:], strict=True):
        if visit.cellularity is not None:
            continue
        pairs = (
            ("core", visit.core, settings.core_threshold),
            ("whole tumour", visit.whole, settings.whole_threshold),
        )
        for name, mask, threshold in pairs[: 1 + visit.has_margin]:
            segmented = mask[scene.box.slices]
            surely, perhaps = (density > threshold + side * settings.threshold_width for side in (1.0, -1.0))
            apart = float(((segmented & ~perhaps) | (surely & ~segmented)).sum()) * voxel
            if segmented.any() and apart > max(most * surface_mm2(mask, spacing), _ball_mm3(2.0 * most)):
                return (
                    f"its best fit does not lie where the {name} of day {visit.day:g} was segmented: "
                    f"{apart / 1000:.1f} mL belong to only one of the two"
                )
    return ""


def _ball_mm3(radius: float) -> float:
    """Volume of a ball of ``radius`` mm: what a boundary error of that size hides altogether."""
    return 4.0 / 3.0 * math.pi * radius**3


def _too_much(left: float) -> str:
    if left <= _UNEXPLAINED:
        return ""
    return f"its best fit misses the masks by {math.sqrt(left):.1f} times their errors"


def _worse_than_persistence(
    scene: Scene, known: Sequence[Asked], position: Vector, densities: Sequence[Tensor]
) -> str:
    """Whether the first visit, left as it was, meets the others better, with the same freedom of boundary errors.

    Without that freedom a boundary drawn half a millimetre wider says that days of growth were none. Visits after a
    treatment are not asked: that growth and treatment cancelled is no sign against either.
    """
    visits = [visit for visit in range(1, len(densities)) if not scene.treated_before(visit)]
    shift = scene.coordinates.shift(0)
    start = scene.density(0, starting_width(position), position[shift], position[shift + 1])
    start = start.to(scene.operator.dtype)
    model = sum(_least_misfit(scene, known, visit, densities[visit]) for visit in visits)
    persistence = sum(_least_misfit(scene, known, visit, start) for visit in visits)
    # a margin, since a tumour that did not change is explained by slow growth as well as by none
    if model > 1.1 * persistence:
        return "assuming no change since the first visit fits better"
    return ""


def _least_misfit(scene: Scene, known: Sequence[Asked], visit: int, density: Tensor) -> float:
    """Misfit of a density (X, Y, Z) at a visit for the shifts of its boundaries that suit it best, with their prior."""
    sd = boundary_sd_mm(scene.settings, scene.tissue.spacing_mm)
    squares, mixed, curvature = 0.0, np.zeros(2), np.eye(2) / sd**2
    for target in known:
        if target.visit != visit:
            continue
        (residual,), shifts = rows(target, density[None], scene.settings), shift_rows(target)
        squares += target.weight * float(residual @ residual)
        mixed += target.weight * (shifts @ residual)
        curvature += target.weight * (shifts @ shifts.T)
    return squares - float(mixed @ np.linalg.solve(curvature, mixed))
