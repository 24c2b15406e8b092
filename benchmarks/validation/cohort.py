"""Virtual patients: drawn, grown once, kept on disk."""

import copy
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from benchmarks.validation import anatomy, levels, stencils, truth
from benchmarks.validation.code_version import digest_of_modules
from benchmarks.validation.levels import Course, Levels
from benchmarks.validation.truth import (
    InModel,
    Treatment,
    Tumour,
    TwoSpecies,
    established,
    follow,
    grid_for,
)
from twin import Priors
from twin.priors import LogNormal

PRIORS = Priors(diffusivity=LogNormal(0.25, 0.4), proliferation=LogNormal(0.03, 0.35))
"""Of the cohort. Most fronts are wider than the 2 mm on which the twin sees them: the product computes narrower ones on
a finer grid, at eight times the cost."""
COARSE_MM = 2.0
"""Grid on which the twin sees the patients, mm."""
VISIT_DAYS = (0.0, 60.0)
HORIZONS = (30.0, 60.0, 90.0, 120.0, 150.0, 180.0)
TREATED_VISIT_DAYS = (0.0, 40.0, 100.0)
_START_ML = (4.0, 15.0)
_ANISOTROPY = 4.0
_LOGIT_STEP, _SLOPE_STEP = 1e-3, 1.0 / 64.0


@dataclass(frozen=True)
class Patient:
    """One virtual patient.

    Parameters
    ----------
    number : int
        From 0.
    tumour : Tumour
        Parameters from the priors, site and starting volume.
    alpha, sensitivity : float
        Radiosensitivity (1/Gy) and sensitivity to the drug (1/day) in the treated scenarios.
    """

    number: int
    tumour: Tumour
    alpha: float
    sensitivity: float

    @property
    def treatment(self) -> Treatment:
        """Six fractions of 2 Gy on weekdays and a daily drug over eight days, between the last two of three visits."""
        weekdays = tuple(50.0 + week * 7 + day for week in range(2) for day in range(5))[:FRACTIONS]
        daily = tuple(50.0 + day for day in range(DOSES))
        return Treatment(weekdays, daily, 2.0, self.alpha, 10.0, self.sensitivity, 9.242)


FRACTIONS, DOSES = 6, 8


def draw(number: int, seed: int) -> Patient:
    """Patient ``number`` of the cohort of ``seed``; the same whatever else is asked."""
    generator, priors = np.random.default_rng([seed, number]), PRIORS
    diffusivity, proliferation = (
        prior.median * math.exp(prior.sigma_log * generator.standard_normal())
        for prior in (priors.diffusivity, priors.proliferation)
    )
    volume = 1000 * math.exp(generator.uniform(*np.log(_START_ML)))
    # in white matter, clear of the ventricle and of the rim
    while True:
        place = generator.uniform(-1, 1, 3)
        if not 0.4 < float(np.linalg.norm(place)) < 0.75:
            continue
        x, y, z = place * np.array(anatomy.HALF_AXES_MM)
        if (x / 14) ** 2 + (y / 26) ** 2 + (z / 14) ** 2 > 1:
            break
    alpha = 0.04 * math.exp(0.5 * generator.standard_normal())
    sensitivity = 0.2 * math.exp(0.7 * generator.standard_normal())
    return Patient(
        number,
        Tumour(diffusivity, proliferation, (float(x), float(y), float(z)), volume),
        alpha,
        sensitivity,
    )


def course(kind: str, patient: Patient, folder: Path, spacing: float = COARSE_MM) -> Course:
    """The patient's true course, simulated at the first call and read from ``folder`` afterwards.

    Parameters
    ----------
    kind : {"in_model", "anisotropic", "two_species", "treated"}
        Which truth.
    spacing : float, optional
        Grid on which the twin will see the patient, mm.
    """
    paths = {
        made: _path(made, patient, folder, spacing) for made in ((kind,) if kind in _ALONE else _TOGETHER)
    }
    if not paths[kind].exists():
        for made, grown in _simulate(kind, patient, spacing).items():
            _save(paths[made], grown)
    return _load(paths[kind])


_TOGETHER = ("in_model", "treated")
_ALONE = ("anisotropic", "two_species")


def _path(kind: str, patient: Patient, folder: Path, spacing: float) -> Path:
    return folder / f"truth-{truth_version()}-{spacing:g}mm" / kind / f"{_name(patient)}.npz"


def _simulate(kind: str, patient: Patient, spacing: float) -> dict[str, Course]:
    """The course asked for, and what comes with the same history."""
    last, tumour = VISIT_DAYS[-1], patient.tumour
    near = (*VISIT_DAYS, *(last + h for h in HORIZONS if h <= 90))
    if kind == "anisotropic":
        make = partial(InModel, anisotropy=_ANISOTROPY)
        return {kind: follow(established(make, tumour, 0.75 * spacing), near, spacing)}
    if kind == "two_species":
        return {kind: follow(established(TwoSpecies, tumour, 0.75 * spacing), near, spacing)}
    if kind not in _TOGETHER:
        raise ValueError(f"There is no truth called {kind}.")
    untouched = established(InModel, tumour, grid_for(tumour, spacing))
    treated = copy.deepcopy(untouched)
    days = (*VISIT_DAYS, *(last + h for h in HORIZONS))
    later = (*TREATED_VISIT_DAYS, *(TREATED_VISIT_DAYS[-1] + h for h in HORIZONS if h <= 90))
    return {
        "in_model": follow(untouched, days, spacing, always=last + 90),
        "treated": follow(treated, later, spacing, treatment=patient.treatment),
    }


@lru_cache(maxsize=1)
def truth_version() -> str:
    """Digest of the code and the choices that make the truths."""
    days = f"{VISIT_DAYS} {TREATED_VISIT_DAYS} {HORIZONS} {_ANISOTROPY} {FRACTIONS} {DOSES}"
    return digest_of_modules([anatomy, levels, stencils, truth], days)


def _name(patient: Patient) -> str:
    content = json.dumps(asdict(patient), sort_keys=True).encode()
    return f"{patient.number:04d}-{hashlib.sha256(content).hexdigest()[:12]}"


def _save(path: Path, made: Course) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # a killed run must not leave half a file
    unfinished = path.with_name(f"{path.stem}.part.npz")
    arrays = {"days": np.asarray(made.days)}
    for number, state in enumerate(made.states):
        same = state.core is state.whole
        for name in ("core", "whole")[: 1 if same else 2]:
            logit, slope = getattr(state, name), getattr(state, f"{name}_slope")
            arrays[f"{name}{number}"] = np.round(logit / _LOGIT_STEP).astype(np.int16)
            arrays[f"{name}_slope{number}"] = np.round(slope / _SLOPE_STEP).clip(0, 255).astype(np.uint8)
    np.savez_compressed(unfinished, **arrays)
    unfinished.replace(path)


def _load(path: Path) -> Course:
    with np.load(path) as stored:
        days, states = tuple(float(d) for d in stored["days"]), []
        for number in range(len(days)):
            fields = []
            for name in ("core", "whole"):
                if f"{name}{number}" in stored:
                    logit = stored[f"{name}{number}"].astype(np.float32) * np.float32(_LOGIT_STEP)
                    slope = stored[f"{name}_slope{number}"].astype(np.float32) * np.float32(_SLOPE_STEP)
                    fields.append((logit, slope))
            states.append(Levels(*fields[0], *fields[-1]))
    return Course(days, tuple(states))
