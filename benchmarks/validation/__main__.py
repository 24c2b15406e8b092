"""``python -m benchmarks.validation``: virtual patients, coverage, ranks, skill, and the page that says so."""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

from benchmarks.validation import archive, cohort_run, report
from benchmarks.validation.cohort_run import Plan
from benchmarks.validation.scenarios import SCENARIOS
from twin import CalibrationSettings

SEED = 20261121


def main(arguments: list[str]) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validation", description=__doc__)
    parser.add_argument("--patients", type=int, default=200, help="patients for each scenario (200)")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the rows, the JSON and the pictures"
    )
    parser.add_argument(
        "--scenario", action="append", choices=list(SCENARIOS), help="one scenario; repeat for more"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (1)")
    parser.add_argument("--samples", type=int, default=64, help="posterior draws of a forecast (64)")
    parser.add_argument(
        "--importance",
        type=int,
        default=CalibrationSettings().importance_samples,
        help="simulations that correct each posterior; 0 scores the Laplace posterior (the product's default)",
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop computing after this time")
    parser.add_argument("--report-only", action="store_true", help="score the rows that are on disk")
    parser.add_argument(
        "--archive",
        type=Path,
        help="file of rows: those of this very code are taken from it first, and all are kept in it at the end",
    )
    parser.add_argument(
        "--page", type=Path, help="write this Markdown page, its pictures into images beside it"
    )
    parser.add_argument("--learn-conformal", type=Path, help="write the conformal factors to this file")
    asked = parser.parse_args(arguments)
    plan = Plan(
        scenarios=tuple(asked.scenario or SCENARIOS),
        patients=asked.patients,
        seed=asked.seed,
        samples=asked.samples,
        importance=asked.importance,
        pool=asked.out,
    )
    command = f"python -m benchmarks.validation --patients {asked.patients} --samples {asked.samples}"
    command += f" --importance {asked.importance} --seed {asked.seed} --out out/validation"
    command += "".join(f" --scenario {shlex.quote(name)}" for name in asked.scenario or ())
    if asked.archive:
        command += f" --archive {shlex.quote(str(asked.archive))}"
        print(f"{archive.restore(asked.archive, plan)} rows of this code in {asked.archive}")
    if not asked.report_only:
        end = time.monotonic() + 60 * asked.minutes
        cohort_run.run(
            plan, asked.workers, lambda words: print(words, flush=True), lambda: time.monotonic() > end
        )
    if asked.archive:
        archive.keep(asked.archive, plan)
    if asked.learn_conformal:
        try:
            learned = report.conformal_document(plan, f"{command} --learn-conformal twin/data/conformal.json")
        except ValueError as error:
            parser.exit(2, f"{error}\n")
        asked.learn_conformal.write_text(json.dumps(learned, indent=2) + "\n", "utf-8")
    if asked.page:
        command += f" --page {shlex.quote(str(asked.page))}"
    document = report.write(plan, command, asked.out, asked.page)
    for name, score in document["scenarios"].items():
        shares = "  ".join(f"{mask} {score[mask]['all']['value']:.3f}" for mask in ("whole", "core"))
        print(f"{name:18} n {score['patients']:4}  {shares}  {score['outcome']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
