"""Many patients: ``python -m app.cohort DIR -o OUT`` runs the application on every folder of DIR and writes one table.

``DIR/NAME.yaml``, where it exists, holds treatments and series_rules of the patient in ``DIR/NAME`` (``app``'s
``--patient-settings``).
A run that was stopped goes on where it was. Needs ``requirements-gateway.txt``.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from distributed import Client, as_completed

from app.engine import ANY_PATIENT, Outcome, RunLimits, open_cluster, run_application, split_command

FAILED = ".failed"
TABLE = "cohort"
MADE_BY = ("software_version", "software_settings_digest", "model_sha256")
"""Columns that differ where a cohort went on with another release, other settings or another model."""
USAGE, INPUT = 2, 3
# A spreadsheet takes text that begins so for a formula, and folder names come from anywhere.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def patients_in(folder: Path) -> list[Path]:
    """Folders of patients in the order of their names; links and hidden folders are none."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith(".")
    )


def process(
    patient: Path, output: Path, command: Sequence[str], limits: RunLimits, extra: Sequence[str]
) -> Outcome:
    """Run one patient on a worker; the results, or a note of the failure, appear in the output folder."""
    own = patient.with_name(f"{patient.name}.yaml")
    settings = (ANY_PATIENT, "--patient-settings", str(own)) if own.is_file() else (ANY_PATIENT,)
    outcome = run_application(command, patient, output / patient.name, limits, (*extra, *settings))
    note = output / FAILED / f"{patient.name}.json"
    if outcome.succeeded:
        note.unlink(missing_ok=True)
    else:
        write_aside(note, json.dumps(asdict(outcome)).encode())
    return outcome


def row_of(patient: str, output: Path) -> dict[str, Any]:
    """One row of the table: volumes in mL, parameters in the units of ``result.json``, dates as text."""
    note = output / FAILED / f"{patient}.json"
    result_file = output / patient / "result.json"
    if not result_file.is_file():
        failure = json.loads(note.read_text()) if note.is_file() else asdict(Outcome(1, "not_run"))
        return {"patient": patient, "status": "failed", **failure}
    result = json.loads(result_file.read_text(encoding="utf-8"))
    row: dict[str, Any] = {
        "patient": patient,
        "status": result["status"],
        "exit_code": 0,
        "reason": "",
        "sentence": "",
    }
    visits = result["visits"]
    row |= {
        "visits": len(visits),
        "first_visit": visits[0]["date"][:10],
        "last_visit": visits[-1]["date"][:10],
    }
    row |= {f"last_{region}_ml": volume for region, volume in visits[-1]["volumes_ml"].items()}
    for name, parameter in result["parameters"].items():
        row |= _with_interval(name, parameter) | {f"{name}_identified": parameter["identified"]}
    for forecast in result["forecasts"]:
        day = f"day{forecast['horizon_days']:03.0f}"
        row |= _with_interval(f"core_ml_{day}", forecast["core_volume_ml"])
        row |= _with_interval(f"whole_ml_{day}", forecast["volume_ml"])
    row["warnings"] = " ".join(result["warnings"])
    row |= {
        f"software_{key}": result["software"][key] for key in ("version", "settings_digest", "input_digest")
    }
    row["model_sha256"] = result["model"]["sha256"]
    return row


def write_table(rows: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Write ``cohort.parquet`` and ``cohort.csv``; every row has every column, empty where it does not apply."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    full = [{column: row.get(column) for column in columns} for row in rows]
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.Table.from_pylist(full), sink)
    write_aside(output / f"{TABLE}.parquet", sink.getvalue().to_pybytes())
    aside = output / f".{TABLE}.csv.partial"
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({key: _harmless(value) for key, value in row.items()} for row in full)
    aside.rename(output / f"{TABLE}.csv")


def write_aside(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    aside.write_bytes(content)
    aside.rename(path)


def pending(patients: Sequence[Path], output: Path, *, retry: bool) -> list[Path]:
    """Patients that still need a run. Refusals of the input are left, unless asked for."""

    def is_settled(patient: Path) -> bool:
        if (output / patient.name / "result.json").is_file():
            return True
        note = output / FAILED / f"{patient.name}.json"
        return note.is_file() and not retry and Outcome(**json.loads(note.read_text())).is_final

    return [patient for patient in patients if not is_settled(patient)]


def run_all(
    client: Client,
    patients: Sequence[Path],
    output: Path,
    command: Sequence[str],
    limits: RunLimits,
    extra: Sequence[str],
) -> Iterator[tuple[str, Outcome]]:
    """Run patients on the cluster; yields each as it ends."""
    names = {}
    for patient in patients:
        future = client.submit(process, patient, output, command, limits, extra, pure=False)
        names[future] = patient.name
    for future in as_completed(list(names), loop=client.loop):
        try:
            yield names[future], future.result()
        except Exception as error:  # the worker died: the patient stays pending
            yield names[future], Outcome(1, "worker_lost", f"The worker ended ({type(error).__name__}).")


def parse_arguments(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Arguments of the cohort, and those that go on to the application."""
    parser = argparse.ArgumentParser(
        prog="python -m app.cohort",
        description="The application on many patients. Other arguments (--config, -m, --nifti) go to it.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, help="one folder per patient")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="one folder per patient, and the table"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="runs at once; each needs about 3 GB (default: 1)"
    )
    parser.add_argument(
        "--scheduler", default="", help="address of a Dask scheduler whose workers see the same folders"
    )
    parser.add_argument(
        "--time-limit", type=float, default=3600.0, help="seconds for one patient (default: 3600)"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="run patients again whose input was refused"
    )
    parser.add_argument("--command", default="", help="the application (default: this one)")
    return parser.parse_known_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the cohort; 0 when every patient has a result, 1 when some failed, 2 and 3 as the application."""
    options, extra = parse_arguments(arguments)
    source, output = options.folder.resolve(), options.output.resolve()
    patients = patients_in(source) if source.is_dir() else []
    if not patients:
        print(
            f"oncotwin: {options.folder} holds no folders; give a folder with one folder per patient.",
            file=sys.stderr,
        )
        return INPUT
    output.mkdir(parents=True, exist_ok=True)
    waiting = pending(patients, output, retry=options.retry_failed)
    settled = len(patients) - len(waiting)
    started = time.monotonic()
    _say(started, settled, len(patients), "found earlier" if settled else "starting")
    if waiting:
        client = open_cluster(options.scheduler, options.workers)
        limits = RunLimits(time_s=options.time_limit)
        try:
            ended = run_all(client, waiting, output, split_command(options.command), limits, extra)
            for done, (name, outcome) in enumerate(ended, start=settled + 1):
                told = "done" if outcome.succeeded else f"failed: {outcome.sentence} [{outcome.reason}]"
                _say(started, done, len(patients), f"{name} {told}")
        finally:
            if client.cluster is not None:
                client.cluster.close(timeout=10)
            client.close(timeout=10)
    rows = [row_of(patient.name, output) for patient in patients]
    write_table(rows, output)
    made_by = {tuple(row.get(key) for key in MADE_BY) for row in rows if row["status"] != "failed"}
    if len(made_by) > 1:
        print(
            f"oncotwin: the results were made in {len(made_by)} ways; see {', '.join(MADE_BY)} in the table.",
            file=sys.stderr,
        )
    failed = sum(row["status"] == "failed" for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} patients have results; {output / TABLE}.csv and .parquet")
    return 1 if failed else 0


def _with_interval(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    low, high = value["interval95"]
    return {name: value["estimate"], f"{name}_low": low, f"{name}_high": high}


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _say(started: float, done: int, of: int, what: str) -> None:
    print(f"[{time.monotonic() - started:6.1f} s] {done}/{of} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
