"""One virtual patient in one scenario: observe, calibrate, forecast, and write down what is needed for scoring."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from benchmarks.validation import cohort, observation
from benchmarks.validation.anatomy import head
from benchmarks.validation.code_version import ROOT, digest_of_folder, digest_of_modules
from benchmarks.validation.cohort import COARSE_MM, Patient
from benchmarks.validation.levels import Levels
from benchmarks.validation.observation import Segmenter, deformed, displaced, segment
from benchmarks.validation.scenarios import Scenario
from benchmarks.validation.statistics import probability_transform
from twin import (
    Calibration,
    CalibrationSettings,
    Forecast,
    HorizonForecast,
    ParameterEstimate,
    Priors,
    TissueMaps,
    TumourObservation,
    TwinError,
    calibrate,
    forecast,
)
from twin.conformal import Conformal
from twin.coordinates import LOG_VELOCITY
from twin.treatment import Chemotherapy, Radiotherapy, Therapy

Row = dict[str, Any]
REFERENCE_DOSE = 75.0


@dataclass(frozen=True)
class Case:
    """What the twin is given, and the truth it is scored on.

    Parameters
    ----------
    tissue : TissueMaps
        As told to the twin.
    visits : tuple of TumourObservation
        As segmented.
    therapies : tuple of Therapy
        As told to the twin.
    true : mapping of float to dict
        By horizon: true masks ``core`` and ``whole``, and the volumes (mm3) that a segmentation of that day reports,
        ``seen_core`` and ``seen_whole``.
    """

    tissue: TissueMaps
    visits: tuple[TumourObservation, ...]
    therapies: tuple[Therapy, ...]
    true: Mapping[float, Mapping[str, Any]]


Predictor = Callable[[Case, Sequence[float]], tuple[Calibration, Forecast]]
UNSTRETCHED = Conformal(1.0, 1.0, "none, for scoring")


def twin_predictor(settings: CalibrationSettings, priors: Priors | None = None) -> Predictor:
    """The product: calibrate, then forecast. The conformal factor is left out; scoring applies it."""

    def predict(case: Case, horizons: Sequence[float]) -> tuple[Calibration, Forecast]:
        calibration = calibrate(case.tissue, case.visits, priors, settings, therapies=case.therapies)
        return calibration, forecast(calibration, case.tissue, case.visits, horizons, conformal=UNSTRETCHED)

    return predict


def version_of(scenario: Scenario, settings: CalibrationSettings, seed: int) -> str:
    """Digest of everything that a row depends on beside the patient's number."""
    codes = [cohort_version(), cohort.truth_version(), twin_version()]
    everything = [asdict(scenario), asdict(settings), seed, COARSE_MM, *codes]
    return digest_of_modules([], json.dumps(everything, sort_keys=True))


@lru_cache(maxsize=1)
def cohort_version() -> str:
    """Digest of the code that draws and observes patients, taken once a process."""
    return digest_of_modules([cohort, observation])


@lru_cache(maxsize=1)
def twin_version() -> str:
    """Digest of the twin's code, taken once a process."""
    return digest_of_folder(ROOT / "twin")


def tissue_maps(told_gray: bool, spacing: float) -> TissueMaps:
    """The head as the twin is told it is."""
    sampled = head(spacing)
    white = sampled.white if told_gray else sampled.domain.astype(float)
    gray = sampled.gray if told_gray else np.zeros_like(white)
    maps = [torch.from_numpy(part).float().clamp(0, 1) for part in (white, gray)]
    return TissueMaps(maps[0], maps[1], torch.from_numpy(sampled.domain.copy()), (spacing,) * 3)


def build(scenario: Scenario, patient: Patient, seed: int, folder: Path, spacing: float = COARSE_MM) -> Case:
    """Observe a patient as the scenario says; the noise of a patient and day is the same in all scenarios.

    Parameters
    ----------
    seed : int
        Seed of the cohort.
    folder : Path
        Where the true courses are kept.
    spacing : float, optional
        Grid on which the twin sees the patient, mm.
    """
    course = cohort.course(scenario.truth, patient, folder, spacing)
    visit_days = cohort.VISIT_DAYS if scenario.treatment == "none" else cohort.TREATED_VISIT_DAYS
    own = np.random.default_rng([seed, patient.number, 1])
    segmenter = _segmenter(own) if scenario.own_thresholds else Segmenter()
    first = course.at(visit_days[0])

    def generator(day: float) -> np.random.Generator:
        return np.random.default_rng([seed, patient.number, 2, round(day)])

    def state(day: float) -> Levels:
        levels = course.at(day)
        return deformed(levels, first, scenario.mass_effect, spacing) if scenario.mass_effect else levels

    visits = []
    for number, day in enumerate(visit_days):
        levels, noise = state(day), scenario.later if number else scenario.first
        if number and scenario.registration_mm:
            away = generator(day + 1000).standard_normal(3)
            away *= scenario.registration_mm / np.linalg.norm(away)
            levels = displaced(levels, (away[0], away[1], away[2]), spacing)
        visits.append(segment(day, levels, spacing, noise, generator(day), segmenter))
    true = {}
    for horizon in scenario.horizons:
        day = visit_days[-1] + horizon
        if day in course.days:
            levels = state(day)
            seen = segment(day, levels, spacing, scenario.later, generator(day), segmenter)
            true[horizon] = {
                "core": levels.distance("core", segmenter.core) < 0,
                "whole": levels.distance("whole", segmenter.whole) < 0,
                "seen_core": float(seen.core.sum()) * spacing**3,
                "seen_whole": float(seen.whole.sum()) * spacing**3,
            }
    told = _therapies(patient) if scenario.treatment == "told" else ()
    return Case(tissue_maps(scenario.told_gray, spacing), tuple(visits), told, true)


def _segmenter(generator: np.random.Generator) -> Segmenter:
    return Segmenter(
        core=generator.uniform(0.5, 0.75),
        whole=generator.uniform(0.12, 0.32),
        core_offset_mm=generator.standard_normal(),
        whole_offset_mm=generator.standard_normal(),
    )


def _therapies(patient: Patient) -> tuple[Therapy, ...]:
    given = patient.treatment
    radiotherapy = Radiotherapy(
        given.fraction_days, [given.fraction_gy] * len(given.fraction_days), alpha_beta=given.alpha_beta
    )
    drug = Chemotherapy(
        given.dose_days,
        [REFERENCE_DOSE] * len(given.dose_days),
        decay_rate=given.decay_rate,
        reference_dose=REFERENCE_DOSE,
    )
    return radiotherapy, drug


def run(scenario: Scenario, patient: Patient, case: Case, predict: Predictor) -> Row:
    """One row of results; plain numbers, ready for JSON.

    A case the twin refuses with an error keeps its code and has no horizons.
    """
    row: Row = {"patient": patient.number, "refused": "", "parameters": {}, "horizons": {}, "medians": {}}
    begin = time.process_time()
    try:
        calibration, predicted = predict(case, sorted(scenario.horizons))
    except TwinError as error:
        return {**row, "refused": error.code, "acceptable": False, "verdict": str(error)}
    row["seconds"] = time.process_time() - begin
    row |= {"acceptable": calibration.acceptable, "verdict": calibration.verdict}
    if scenario.true_parameters:
        row["parameters"] = _parameters(calibration, patient)
    for entry in predicted.horizons:
        row["medians"][f"{entry.horizon_days:g}"] = entry.volume_whole_mm3.estimate
        if entry.horizon_days in case.true:
            true = case.true[entry.horizon_days]
            row["horizons"][f"{entry.horizon_days:g}"] = _horizon(entry, true, case)
    return row


def _parameters(calibration: Calibration, patient: Patient) -> Row:
    tumour = patient.tumour
    truth = {
        "diffusivity": tumour.diffusivity,
        "proliferation": tumour.proliferation,
        "front_velocity": 2 * math.sqrt(tumour.diffusivity * tumour.proliferation),
        "radiosensitivity": patient.alpha,
        "chemosensitivity": patient.sensitivity,
    }
    rows = {}
    for found in calibration.parameters:
        lower, upper = found.interval95
        rows[found.name] = {
            "true": truth[found.name],
            "estimate": found.estimate,
            "interval": [lower, upper],
            "identified": found.identified,
            "contraction": found.contraction,
            "rank": _rank(calibration, found, truth[found.name]),
        }
    return rows


def _rank(calibration: Calibration, found: ParameterEstimate, true: float) -> float:
    """Rank of the truth in the marginal posterior: among its draws, or in the log-normal that it is without them."""
    posterior = calibration.real
    if posterior.draws is None:
        lower, upper = found.interval95
        sd = math.log(upper / lower) / (2 * float(norm.ppf(0.975)))
        return float(norm.cdf(math.log(true / found.estimate) / sd))
    if found.name == "front_velocity":
        return probability_transform(posterior.draws[:, LOG_VELOCITY], math.log(true))
    return probability_transform(posterior.coordinates.physical(posterior.draws)[found.name], true)


def _horizon(entry: HorizonForecast, true: Mapping[str, Any], case: Case) -> Row:
    rows: Row = {}
    before, last = case.visits[-2:]
    spacing, voxel = case.tissue.spacing_mm[0], case.tissue.voxel_mm3
    volumes = {"core": entry.volume_core_mm3, "whole": entry.volume_whole_mm3}
    for index, (name, volume) in enumerate(volumes.items()):
        draws = np.asarray(entry.volume_draws[index], dtype=float)
        now, earlier = (float(getattr(v, name).sum()) * voxel for v in (last, before))
        growth = (now / earlier) ** (entry.horizon_days / (last.day - before.day)) if earlier else 1.0
        likely = (entry.probability_core if name == "core" else entry.probability_whole) > 0.5
        mask = torch.from_numpy(true[name])
        rows[name] = {
            "true": float(mask.sum()) * voxel,
            "seen": true[f"seen_{name}"],
            "estimate": volume.estimate,
            "interval": list(volume.interval95),
            "raw": [float(v) for v in np.quantile(draws, [0.025, 0.5, 0.975], method="weibull")],
            "rank": probability_transform(draws, true[f"seen_{name}"]),
            "persistence": now,
            "exponential": now * growth,
            "dice": _dice(mask, likely),
            "distance_mm": _distance_mm(mask, likely, spacing),
        }
    return rows


def _dice(first: Tensor, second: Tensor) -> float | None:
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else None


def _distance_mm(first: Tensor, second: Tensor, spacing: float) -> float | None:
    """Distance between centres of mass, mm."""
    if not bool(first.any()) or not bool(second.any()):
        return None
    centres = [mask.nonzero().double().mean(dim=0) for mask in (first, second)]
    return float(torch.linalg.vector_norm(centres[0] - centres[1])) * spacing
