"""Scores of a cohort: coverage, ranks, error by horizon, skill, and the factor that intervals lack."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.validation.statistics import (
    Proportion,
    RankTest,
    conformal_factor,
    rank_test,
    stretch_needed,
)
from benchmarks.validation.trial import Row
from benchmarks.validation.truth import DEADLY_MM3
from twin.conformal import Conformal, stretched

MASKS = ("core", "whole")
TARGET = (0.90, 0.98)
"""Coverage of a nominal 95 % interval of a forecast that counts as right."""
LEAST_ML = 1.0
"""Relative errors are taken of at least this volume, mL: a tumour of nothing has no relative error."""


@dataclass(frozen=True)
class Volume:
    """One forecast volume of one patient, mm3 where it is a volume."""

    accepted: bool
    true: float
    seen: float
    estimate: float
    interval: tuple[float, float]
    raw: tuple[float, float, float]
    rank: float
    persistence: float
    exponential: float
    dice: float | None
    distance_mm: float | None

    @property
    def covered(self) -> bool:
        """Whether the volume that a segmentation reports lies in the interval."""
        return self.interval[0] <= self.seen <= self.interval[1]

    def error(self, guess: float) -> float:
        """Relative error of a guess of the true volume."""
        return abs(guess - self.true) / max(self.true, 1000 * LEAST_ML)

    @property
    def needed(self) -> float:
        """Factor by which the model's own interval would have had to be stretched."""
        return stretch_needed((self.raw[0], self.raw[2]), self.raw[1], self.seen)

    def stretched_by(self, factor: float) -> "Volume":
        """The same with a conformal factor, applied as the product applies it."""
        lower, _, upper = (float(v) for v in stretched(np.array(self.raw)[:, None], factor)[:, 0])
        held = (min(lower, self.interval[0]), max(upper, self.interval[1]))
        interval = (lower, upper) if self.accepted else held
        return Volume(**{**self.__dict__, "interval": interval})


def volumes(rows: Iterable[Row], horizon: float, mask: str) -> list[Volume]:
    """Forecasts of one mask at one horizon, of all patients that have one."""
    found = []
    for row in rows:
        entry = row["horizons"].get(f"{horizon:g}")
        if entry is not None:
            values = dict(entry[mask])
            values["interval"], values["raw"] = tuple(values["interval"]), tuple(values["raw"])
            found.append(Volume(accepted=row["acceptable"], **values))
    return found


def proportion(flags: Iterable[bool]) -> Proportion:
    """Share of the true ones."""
    values = list(flags)
    return Proportion(sum(values), len(values))


def median(values: Iterable[float | None]) -> float:
    """Median of what is there; nan when nothing is."""
    present = [value for value in values if value is not None]
    return float(np.median(present)) if present else math.nan


def parameter_coverage(
    rows: Iterable[Row], name: str, chosen: Callable[[Row], bool] = lambda row: True
) -> Proportion:
    """Share of the patients chosen by their parameter's row whose interval holds the truth."""
    entries = (row["parameters"][name] for row in rows if name in row["parameters"])
    return proportion(e["interval"][0] <= e["true"] <= e["interval"][1] for e in entries if chosen(e))


def parameter_ranks(rows: Iterable[Row], name: str) -> list[float]:
    """Ranks of the true parameters in their posteriors."""
    return [row["parameters"][name]["rank"] for row in rows if name in row["parameters"]]


def refusals(rows: Iterable[Row]) -> Counter[str]:
    """What became of the patients: accepted, not explained, or the code of an error."""
    return Counter(row["refused"] or ("accepted" if row["acceptable"] else "not explained") for row in rows)


def judgement(covered: Proportion) -> str:
    """In one word, against the target."""
    if not covered.total:
        return "nothing to score"
    low, high = covered.interval
    if TARGET[0] <= covered.value <= TARGET[1]:
        return "on target"
    side = "too narrow" if covered.value < TARGET[0] else "too wide"
    return f"{side}, within chance of it" if low <= TARGET[1] and high >= TARGET[0] else side


def rank_tests(rows: Sequence[Row], horizon: float) -> dict[str, tuple[list[float], RankTest]]:
    """Ranks and their test for every quantity of simulation-based calibration.

    Of the accepted patients: to refuse looks at the scans alone, so a right posterior has uniform ranks among them too,
    while a refused one has no posterior but the prior.
    """
    rows = [row for row in rows if row["acceptable"]]
    ranks = {name: parameter_ranks(rows, name) for name in ("diffusivity", "proliferation", "front_velocity")}
    for mask in MASKS:
        ranks[f"{mask} volume"] = [volume.rank for volume in volumes(rows, horizon, mask)]
    return {name: (values, rank_test(values)) for name, values in ranks.items() if values}


def skill(found: Sequence[Volume]) -> dict[str, float]:
    """Median relative errors of the forecast and of the two baselines, and how often the forecast is nearer."""
    return {
        "error": median(v.error(v.estimate) for v in found),
        "persistence": median(v.error(v.persistence) for v in found),
        "exponential": median(v.error(v.exponential) for v in found),
        "beats_persistence": proportion(v.error(v.estimate) < v.error(v.persistence) for v in found).value,
        "beats_exponential": proportion(v.error(v.estimate) < v.error(v.exponential) for v in found).value,
    }


def width(found: Iterable[Volume]) -> float:
    """Median of upper over lower bound of the intervals, a bound counting for at least a tenth of a millilitre."""
    return median(max(v.interval[1], 100.0) / max(v.interval[0], 100.0) for v in found)


@dataclass(frozen=True)
class Learned:
    """Conformal factor of one mask.

    Parameters
    ----------
    factor : float
        Learned on one half of the patients, at least 1.
    learned_on : int
        Forecasts of that half.
    before, after : Proportion
        Coverage of the other half without and with the factor.
    """

    factor: float
    learned_on: int
    before: Proportion
    after: Proportion


def learn(rows_by_scenario: Mapping[str, Sequence[Row]], horizon: float, mask: str) -> Learned:
    """Learn the factor on patients of even number and test it on the others, accepted forecasts only.

    The scenarios are pooled; halves are split by patient, since a patient appears in every scenario.
    """
    halves: list[list[Volume]] = [[], []]
    for rows in rows_by_scenario.values():
        for half in (0, 1):
            some = [row for row in rows if row["patient"] % 2 == half]
            halves[half] += [v for v in volumes(some, horizon, mask) if v.accepted]
    factor = max(conformal_factor([v.needed for v in halves[0]]), 1.0)
    before = proportion(v.covered for v in halves[1])
    after = before if math.isinf(factor) else proportion(v.stretched_by(factor).covered for v in halves[1])
    return Learned(factor, len(halves[0]), before, after)


def scored(rows: Sequence[Row], horizon: float, conformal: Conformal) -> dict[str, Any]:
    """Everything about one scenario that is reported, plain numbers."""
    result: dict[str, Any] = {
        "patients": len(rows),
        "outcome": dict(refusals(rows)),
        "seconds": median(r.get("seconds") for r in rows),
    }
    for name in ("diffusivity", "proliferation", "front_velocity", "radiosensitivity", "chemosensitivity"):
        groups = {
            "all": parameter_coverage(rows, name),
            "identified": parameter_coverage(rows, name, lambda e: e["identified"]),
            "not_identified": parameter_coverage(rows, name, lambda e: not e["identified"]),
        }
        if groups["all"].total:
            result[name] = {group: counted(value) for group, value in groups.items()}
    for mask in MASKS:
        raw = volumes(rows, horizon, mask)
        found = [v.stretched_by(getattr(conformal, mask)) for v in raw]
        accepted = proportion(v.covered for v in found if v.accepted)
        result[mask] = {
            "all": counted(proportion(v.covered for v in found)),
            "accepted": counted(accepted),
            "not_explained": counted(proportion(v.covered for v in found if not v.accepted)),
            "without_factor": counted(proportion(v.covered for v in raw if v.accepted)),
            "true_volume": counted(proportion(v.interval[0] <= v.true <= v.interval[1] for v in found)),
            "judgement": judgement(accepted),
            "width": width(v for v in found if v.accepted),
            **skill(found),
            "dice": median(v.dice for v in found),
            "distance_mm": median(v.distance_mm for v in found),
        }
    return result


def by_horizon(rows: Sequence[Row], horizons: Sequence[float], conformal: Conformal) -> list[dict[str, Any]]:
    """Errors and coverage at every horizon of the patients whose forecast is still below ``DEADLY_MM3``.

    The forecast says who leaves, not the truth: patients whose tumour stays small are those whose forecast was too
    large, whatever a forecast is worth. ``ended`` counts patients who stay but whose truth had passed that volume on
    an earlier day and was not grown on.
    """
    made = []
    for horizon in horizons:
        day = f"{horizon:g}"
        alive = [row for row in rows if row["medians"].get(day, math.inf) <= DEADLY_MM3]
        entry: dict[str, Any] = {"days": horizon, "ended": sum(day not in row["horizons"] for row in alive)}
        for mask in MASKS:
            found = [v.stretched_by(getattr(conformal, mask)) for v in volumes(alive, horizon, mask)]
            entry[mask] = {
                "patients": len(found),
                "coverage": counted(proportion(v.covered for v in found)),
                "dice": median(v.dice for v in found),
                "distance_mm": median(v.distance_mm for v in found),
                **skill(found),
            }
        made.append(entry)
    return made


def counted(share: Proportion) -> dict[str, Any]:
    """A proportion as plain numbers."""
    return {"covered": share.count, "of": share.total, "value": share.value, "wilson95": list(share.interval)}
