"""Operator: visits with tumours to a growth model fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import torch
from monai.deploy.core import Fragment, Operator, OperatorSpec

from imaging.dose import chosen_dose, dose_on_grid
from imaging.dose_index import DoseFile
from imaging.errors import ImagingError, Reason
from imaging.labels import region_mask, volumes_ml
from imaging.preparation import mask_on_grid
from imaging.report_content import Status
from operators.messages import CalibratedTwin, MappedStudies, SegmentedVisit
from operators.progress import about, say
from operators.treatment_plan import (
    Course,
    acts_between,
    asked_dose,
    sentences_of,
    therapies_of,
    without_effect,
)
from twin import CalibrationSettings, LogNormal, Priors, TumourObservation, calibrate
from twin import TissueMaps as TwinTissueMaps
from twin.settings import DeviceName

# Least share of the whole tumour on the twin's grid about which nothing is told.
_LEAST_HELD = 0.95


class GrowthCalibratorOperator(Operator):
    """Fits the growth model to the visits that show a tumour.

    Named input
    -----------
    mapped : operators.messages.MappedStudies

    Named output
    ------------
    calibrated : operators.messages.CalibratedTwin
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        diffusivity_prior: Sequence[str | float],
        proliferation_prior: Sequence[str | float],
        core_threshold: float,
        whole_threshold: float,
        gray_matter_ratio: float,
        device: DeviceName,
        seed: int,
        courses: Sequence[Course] = (),
        horizons_days: Sequence[float] = (),
        **kwargs: Any,
    ) -> None:
        self.courses = tuple(courses)
        self.horizons_days = tuple(horizons_days)
        self.priors = Priors(LogNormal.parse(diffusivity_prior), LogNormal.parse(proliferation_prior))
        self.settings = CalibrationSettings(
            core_threshold=core_threshold,
            whole_threshold=whole_threshold,
            gray_matter_ratio=gray_matter_ratio,
            device=device,
            seed=seed,
        )
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("mapped")
        spec.output("calibrated")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        mapped: MappedStudies = op_input.receive("mapped")
        twin = calibrated_twin(mapped, self.priors, self.settings, self.courses, self.horizons_days)
        op_output.emit(twin, "calibrated")


def calibrated_twin(
    mapped: MappedStudies,
    priors: Priors,
    settings: CalibrationSettings,
    courses: Sequence[Course] = (),
    horizons_days: Sequence[float] = (),
) -> CalibratedTwin:
    """Decide what can be fitted, and fit it under the courses of treatment.

    Parameters
    ----------
    mapped : MappedStudies
        The visits.
    priors, settings
        Of the growth model.
    courses : sequence of Course
        Treatment, by date.
    horizons_days : sequence of float
        Days after the last visit for which growth will be predicted: they say which course acts at all.

    Raises
    ------
    ImagingError
        ``BAD_DOSE`` if the RT Dose cannot be used or does not reach all of the tumour.
    TwinError
        If the model cannot be fitted.
    """
    visits = mapped.segmented.visits
    if mapped.tissue is None:
        return CalibratedTwin(mapped, Status.NO_TUMOUR, None, (), None, ())
    # What is too small for the twin's grid cannot be modelled.
    seen = tuple(_observation(visit, mapped) for visit in visits)
    with_tumour = [bool(observation.whole.any()) for observation in seen]
    if not any(with_tumour):
        return CalibratedTwin(mapped, Status.NO_TUMOUR, None, (), None, _too_small(visits, seen))
    if not with_tumour[-1]:
        shows = (
            "no tumour" if not np.any(visits[-1].labels.array) else "no tumour that the growth model can hold"
        )
        sentence = f"The last visit shows {shows}: growth was not modelled and nothing is predicted."
        return CalibratedTwin(
            mapped, Status.TUMOUR_GONE, None, (), None, (sentence, *_too_small(visits, seen))
        )
    first_visit = visits[0].prepared.date
    warnings = [*_too_small(visits, seen), *_incomplete(visits, seen, mapped)]
    # Growth from nothing is not in the model, so it starts after the last visit without a tumour.
    last_without = max((n for n, there in enumerate(with_tumour) if not there), default=-1)
    observations = seen[last_without + 1 :]
    modelled = (observations[0].day, observations[-1].day + max(horizons_days, default=0.0))
    warnings += _untreated(courses, first_visit, observations, modelled)
    if last_without >= 0:
        warnings.append(
            f"The first {last_without + 1} visit(s) were left out: no tumour at visit {last_without + 1}."
        )
    if not observations[-1].has_margin:
        warnings.append(
            "The last visit shows no tumour around the core: of the predictions only those of the core have a "
            "counterpart in the scans."
        )
    tissue = _twin_tissue(mapped)
    dose = _asked_dose(courses, mapped)
    plan_gy = None if dose is None else _plan_dose(dose, mapped, observations)
    if dose is None and mapped.segmented.catalog.doses:
        warnings.append(
            "The input holds an RT Dose, but no course of radiotherapy in the settings asks for it (rtdose): it was "
            "not used."
        )
    treatments = sentences_of(
        courses, first_visit, modelled, plan_gy, "" if dose is None else dose.sop_instance_uid
    )
    say("calibrating the growth model")
    progress = about("calibrating the growth model")
    calibration = calibrate(
        tissue,
        observations,
        priors,
        settings,
        progress=lambda step, fraction: progress(f"{step} ({fraction:.0%})"),
        therapies=therapies_of(courses, first_visit, plan_gy),
    )
    if len(observations) == 1:
        status = Status.SINGLE_VISIT
        warnings.append(
            "One visit: growth could not be identified; parameters and forecasts come from the prior."
        )
    else:
        status = Status.OK if calibration.acceptable else Status.NOT_EXPLAINED
    if status is Status.NOT_EXPLAINED:
        warnings.append(calibration.verdict)
    told = (*warnings, *calibration.warnings)
    return CalibratedTwin(mapped, status, tissue, observations, calibration, told, treatments, dose)


def _too_small(visits: Sequence[SegmentedVisit], seen: Sequence[TumourObservation]) -> tuple[str, ...]:
    """A sentence for each visit whose tumour no voxel of the twin's grid holds."""
    return tuple(
        f"The tumour of visit {number} is too small for the growth model's grid and counts as none there."
        for number, (visit, observation) in enumerate(zip(visits, seen, strict=True), start=1)
        if np.any(visit.labels.array) and not bool(observation.whole.any())
    )


def _incomplete(
    visits: Sequence[SegmentedVisit], seen: Sequence[TumourObservation], mapped: MappedStudies
) -> tuple[str, ...]:
    """A sentence for each visit of whose tumour the twin's grid holds a part only."""
    told = []
    for number, (visit, observation) in enumerate(zip(visits, seen, strict=True), start=1):
        drawn = volumes_ml(visit.labels.array, visit.labels.geometry.voxel_volume_mm3)["WT"]
        held = float(observation.whole.sum()) * mapped.grid.voxel_volume_mm3 / 1000
        if 0 < held < _LEAST_HELD * drawn:
            told.append(
                f"Visit {number}: the growth model's grid holds {held:.3g} mL of the {drawn:.3g} mL of the whole "
                "tumour: growth and forecast are those of a smaller one."
            )
    return tuple(told)


def _untreated(
    courses: Sequence[Course],
    first_visit: datetime,
    observations: Sequence[TumourObservation],
    modelled: tuple[float, float],
) -> tuple[str, ...]:
    """What to tell where treatment is not known, or known and without effect on the model."""
    untreated = "growth is modelled as if untreated between the visits."
    if not courses:
        return (f"No treatment schedule was given: {untreated}",)
    first, last = observations[0].day, observations[-1].day
    silent = without_effect(courses, first_visit, *modelled)
    if len(observations) > 1 and not acts_between(courses, first_visit, first, last):
        return (f"No treatment of the schedule acts between the visits: {untreated}", *silent)
    return silent


def _asked_dose(courses: Sequence[Course], mapped: MappedStudies) -> DoseFile | None:
    """The RT Dose that a course asks for; None when there is no such course."""
    wanted = asked_dose(courses)
    return None if wanted is None else chosen_dose(mapped.segmented.catalog.doses, wanted)


def _plan_dose(
    dose: DoseFile, mapped: MappedStudies, observations: Sequence[TumourObservation]
) -> torch.Tensor:
    """Dose of the course that has an RT Dose, Gy on the twin's grid.

    Raises
    ------
    ImagingError
        ``BAD_DOSE`` if the RT Dose cannot be used or does not reach all of the tumour.
    """
    visits = [visit.prepared for visit in mapped.segmented.visits]
    plan_gy = torch.from_numpy(dose_on_grid(dose, visits, mapped.grid).array)
    tumour = torch.stack([observation.whole for observation in observations]).any(dim=0)
    if bool(torch.isnan(plan_gy[tumour]).any()):
        raise ImagingError(
            Reason.BAD_DOSE,
            f"The grid of {dose.path.name} does not reach all of the tumour: export the dose on a grid that covers the "
            "brain.",
        )
    # beyond the grid there was no dose worth computing
    return plan_gy.nan_to_num(0.0)


def _observation(visit: SegmentedVisit, mapped: MappedStudies) -> TumourObservation:
    def region(name: str) -> torch.Tensor:
        mask = visit.labels.with_array(region_mask(visit.labels.array, name))
        return torch.from_numpy(mask_on_grid(mask, mapped.grid, visit.prepared.first_to_visit).array)

    core, whole = region("TC"), region("WT")
    return TumourObservation(day=visit.prepared.day, core=core & whole, whole=whole)


def _twin_tissue(mapped: MappedStudies) -> TwinTissueMaps:
    tissue = mapped.tissue
    assert tissue is not None
    white, gray = torch.from_numpy(tissue.white_matter.array), torch.from_numpy(tissue.gray_matter.array)
    # Cerebrospinal fluid is no tissue to grow in; what was seen as tumour is, as the twin knows.
    domain = torch.from_numpy(tissue.brain_mask.array) & (white + gray >= 0.5)
    spacing = mapped.grid.spacing
    return TwinTissueMaps(white_matter=white, gray_matter=gray, domain=domain, spacing_mm=spacing)
