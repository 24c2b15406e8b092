"""The patient's twin up to a visit: registered, mapped and calibrated as the application does it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from imaging.geometry import Geometry, Volume
from imaging.growth_grid import BrainMap, growth_grid, map_brain
from imaging.labels import region_mask
from imaging.preparation import PreparedVisit, mask_on_grid, require_intervals
from imaging.registration import register_rigid
from monailabel_app.cases import images_digest, labels_of
from monailabel_app.refusal import Refusal
from monailabel_app.studies import Examination, siblings
from monailabel_app.tasks import Server
from twin import (
    Calibration,
    CalibrationSettings,
    HorizonForecast,
    LogNormal,
    Priors,
    TissueMaps,
    TumourObservation,
    calibrate,
    forecast,
)

_KEPT = 4
_NOTHING_THERE = "This visit shows no tumour, so there is nothing to grow; nothing is predicted."


@dataclass(frozen=True, eq=False)
class Twin:
    """A calibrated growth model.

    Parameters
    ----------
    visits : tuple of PreparedVisit
        What it was calibrated on, each registered to the first.
    grid : Geometry
        Isotropic grid in the first visit's frame of reference.
    tissue : TissueMaps
        On ``grid``.
    observations : tuple of TumourObservation
        The visits that show tumour, on ``grid``.
    calibration : Calibration
        What they say about growth.
    """

    visits: tuple[PreparedVisit, ...]
    grid: Geometry
    tissue: TissueMaps
    observations: tuple[TumourObservation, ...]
    calibration: Calibration

    @property
    def rests_on_prior(self) -> bool:
        """Whether one visit only was there, which cannot show growth."""
        return len(self.observations) == 1

    def at(self, days: float) -> tuple[HorizonForecast, tuple[str, ...]]:
        """The tumour expected so many days after its last visit, and warnings.

        Raises
        ------
        TwinError
            If it cannot be computed.
        """
        found = forecast(self.calibration, self.tissue, self.observations, [days])
        return found.horizons[0], (*self.calibration.warnings, *found.warnings)


class Growth:
    """Calibrates twins and keeps the last few."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._twins: OrderedDict[tuple[str, ...], Twin] = OrderedDict()

    def twin(self, examination: Examination, visits: int) -> Twin:
        """The twin of the first ``visits`` visits of the patient.

        Raises
        ------
        Refusal
            If the application would predict nothing from these visits either, or ``app.yaml`` lists treatments:
            they belong to one patient, and nobody says to which.
        ImagingError, ModelError, TwinError
            If images, model or visits cannot be used.
        """
        if self._server.configuration.growth.has_treatments:
            raise Refusal(
                "app.yaml lists treatments, which are those of one patient, while this server has many; run the "
                "application for a forecast under treatment."
            )
        chosen = siblings(examination, self._server.configuration.rules)[:visits]
        model = self._server.models.segmenter.description.sha256
        which = (model, *(f"{images_digest(one)} {one.token}" for one in chosen))
        if which not in self._twins:
            self._twins[which] = self._calibrated(chosen)
            while len(self._twins) > _KEPT:
                self._twins.popitem(last=False)
        self._twins.move_to_end(which)
        return self._twins[which]

    def labels(self, examination: Examination, visit: PreparedVisit) -> Volume:
        """The tumour of a visit: the newest drawing, else the network's answer."""
        if visit.correction is not None:
            return visit.correction.labels
        result, grid = self._server.network.result(examination)
        return labels_of(self._server.models.segmenter, result, grid, visit.reference)

    def prepared(self, examinations: Sequence[Examination]) -> tuple[PreparedVisit, ...]:
        """The visits, each registered to the first."""
        made: list[PreparedVisit] = []
        for one in examinations:
            visit = self._server.cases.prepared(one)
            if made:
                first = made[0]
                seed = self._server.configuration.seed
                motion = register_rigid(first.reference, visit.reference, purpose="visit", seed=seed)
                days = (visit.date - first.date).total_seconds() / 86400
                visit = replace(visit, day=days, registration=motion)
            made.append(visit)
        return tuple(made)

    def _calibrated(self, examinations: Sequence[Examination]) -> Twin:
        settings, seed = self._server.configuration.growth, self._server.configuration.seed
        require_intervals([one.visit for one in examinations])
        # The cheap question first: registering all visits takes a minute.
        last = examinations[-1]
        if not np.any(self.labels(last, self._server.cases.prepared(last)).array):
            raise Refusal(_NOTHING_THERE)
        visits = self.prepared(examinations)
        labels = [self.labels(one, visit) for one, visit in zip(examinations, visits, strict=True)]
        seen_by = list(zip(visits, labels, strict=True))
        grid = growth_grid(seen_by, settings.grid_mm)
        brain = map_brain(seen_by, grid, seed=seed)
        maps = brain.tissue
        labels = [self._inside_brain(drawn, visit, brain) for visit, drawn in seen_by]
        with_tumour = [bool(np.any(drawn.array)) for drawn in labels]
        if not with_tumour[-1]:
            raise Refusal(_NOTHING_THERE)
        # Growth from nothing is not in the model: visits up to the last one without tumour are left out.
        last_without = max((n for n, shown in enumerate(with_tumour) if not shown), default=-1)
        observations = tuple(
            _observation(visit, drawn, grid)
            for visit, drawn in zip(visits[last_without + 1 :], labels[last_without + 1 :], strict=True)
        )
        white, gray = (torch.from_numpy(m.array) for m in (maps.white_matter, maps.gray_matter))
        domain = torch.from_numpy(maps.brain_mask.array) & (white + gray >= 0.5)
        tissue = TissueMaps(white_matter=white, gray_matter=gray, domain=domain, spacing_mm=grid.spacing)
        calibration = calibrate(
            tissue,
            observations,
            Priors(
                LogNormal.parse(settings.diffusivity_prior), LogNormal.parse(settings.proliferation_prior)
            ),
            CalibrationSettings(
                core_threshold=settings.core_threshold,
                whole_threshold=settings.whole_threshold,
                gray_matter_ratio=settings.gray_matter_ratio,
                device=settings.device,
                seed=seed,
                # Its result is reported by the application; it costs another calibration.
                check_skill=False,
            ),
        )
        if len(observations) > 1 and not calibration.acceptable:
            raise Refusal(
                f"The growth model does not explain these visits, so nothing is predicted. {calibration.verdict}"
            )
        return Twin(visits, grid, tissue, observations, calibration)

    def _inside_brain(self, labels: Volume, visit: PreparedVisit, brain: BrainMap) -> Volume:
        """The network's labels within the brain; a clinician's stand as they are."""
        if visit.correction is not None or not np.any(labels.array):
            return labels
        return brain.inside(labels, visit, self._server.configuration.min_component_ml)


def _observation(visit: PreparedVisit, labels: Volume, grid: Geometry) -> TumourObservation:
    core, whole = (
        mask_on_grid(labels.with_array(region_mask(labels.array, region)), grid, visit.first_to_visit).array
        for region in ("TC", "WT")
    )
    return TumourObservation(visit.day, torch.from_numpy(core & whole), torch.from_numpy(whole))


def on_visit(probability: Tensor, grid: Geometry, visit: PreparedVisit) -> Volume:
    """A map of the twin on the grid of a visit's reference image."""
    values = Volume(probability.detach().cpu().float().numpy(), grid)
    return values.resampled(visit.reference.geometry, visit.visit_to_first)
