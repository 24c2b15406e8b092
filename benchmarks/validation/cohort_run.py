"""Many patients in many scenarios, with every row kept on disk so that a killed run goes on."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.validation import cohort, trial
from benchmarks.validation.scenarios import SCENARIOS
from benchmarks.validation.trial import Row
from twin import CalibrationSettings


@dataclass(frozen=True)
class Plan:
    """What to run.

    Parameters
    ----------
    scenarios : tuple of str
        Names, in the order in which every patient goes through them.
    patients : int
        Numbers 0 to this, exclusive.
    seed : int
        Seed of the cohort.
    samples : int
        Posterior draws of a forecast.
    importance : int
        Simulations that correct the Laplace posterior of each calibration; 0 scores the Laplace posterior.
    pool : Path
        Folder of the true courses and of the rows.
    """

    scenarios: tuple[str, ...]
    patients: int
    seed: int
    samples: int
    importance: int
    pool: Path

    def settings(self, name: str) -> CalibrationSettings:
        """Settings of the calibration in a scenario."""
        return CalibrationSettings(
            samples=self.samples,
            importance_samples=self.importance,
            check_skill=False,
            **SCENARIOS[name].settings,
        )

    def path(self, name: str, number: int) -> Path:
        """File of one row."""
        version = trial.version_of(SCENARIOS[name], self.settings(name), self.seed)
        return self.pool / "rows" / f"{name}-{version}" / f"{number:04d}.json"

    def write(self, name: str, row: Row) -> None:
        """Put a row on the disk, whole or not at all."""
        path = self.path(name, row["patient"])
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(row), "utf-8")
        unfinished.replace(path)

    def rows(self) -> dict[str, list[Row]]:
        """The rows that are on disk, by scenario."""
        found = {}
        for name in self.scenarios:
            paths = (self.path(name, number) for number in range(self.patients))
            found[name] = [json.loads(path.read_text("utf-8")) for path in paths if path.exists()]
        return found


def one(job: tuple[Plan, str, int]) -> Row:
    """Compute one row and keep it."""
    plan, name, number = job
    scenario, patient = SCENARIOS[name], cohort.draw(number, plan.seed)
    case = trial.build(scenario, patient, plan.seed, plan.pool)
    priors = cohort.PRIORS if scenario.own_priors else None
    row = trial.run(scenario, patient, case, trial.twin_predictor(plan.settings(name), priors))
    plan.write(name, row)
    return row


def run(plan: Plan, workers: int, told: Callable[[str], None], deadline: Callable[[], bool]) -> None:
    """Compute the rows that are missing, patient by patient, until all are there or ``deadline`` says stop."""
    jobs = [
        (plan, name, number)
        for number in range(plan.patients)
        for name in plan.scenarios
        if not plan.path(name, number).exists()
    ]
    told(f"{len(jobs)} rows to compute, {plan.patients * len(plan.scenarios) - len(jobs)} on disk")
    for count, (job, row) in enumerate(zip(jobs, _results(jobs, workers), strict=False), start=1):
        told(
            f"{count}/{len(jobs)} patient {job[2]} {job[1]}: {row.get('seconds', 0.0):.1f} s {row['refused']}"
        )
        if deadline():
            told("time is up; the rows so far are kept")
            return


def _results(jobs: Sequence[tuple[Plan, str, int]], workers: int) -> Iterator[Row]:
    if workers == 1:
        _one_thread()
        yield from map(one, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_one_thread) as pool:
        yield from pool.imap(one, jobs)


def _one_thread() -> None:
    """One thread a worker: the volumes are small, and workers would fight for cores."""

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
