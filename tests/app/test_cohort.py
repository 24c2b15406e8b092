"""Cohorts: every patient once, what was stopped goes on, one table."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from app import cohort
from app.engine import Outcome

# The form of result.json as the application writes it, made at once; "bad" in the folder's name is refused.
STAND_IN = """
import argparse, json, sys
from pathlib import Path
parser = argparse.ArgumentParser()
for name in ("-i", "-o", "--progress", "--patient-settings"): parser.add_argument(name)
parser.add_argument("--any-patient", action="store_true", required=True)
options = parser.parse_args()
name = Path(options.i).name
own = options.patient_settings is not None
assert not own or Path(options.patient_settings).name == name + ".yaml"
with open(Path(options.i).parent.parent / "calls", "a") as calls: calls.write(name + "\\n")
if "bad" in name:
    failure = {"event": "failure", "exit_code": 3, "reason": "empty_input", "message": "No files."}
    print(json.dumps(failure), file=sys.stderr)
    sys.exit(3)
if "crash" in name:
    sys.exit(1)
number = {"estimate": 2.0, "interval95": [1.0, 3.0]}
Path(options.o).mkdir()
(Path(options.o) / "result.json").write_text(json.dumps({
    "status": "ok", "visits": [{"date": "2026-01-02T00:00:00", "volumes_ml": {"WT": 20.5}}],
    "parameters": {"diffusivity": {**number, "identified": True}},
    "forecasts": [{"horizon_days": 30.0, "core_volume_ml": number, "volume_ml": number}], "warnings": [],
    "software": {"version": "0.1.0", "settings_digest": "own" if own else "shared", "input_digest": name},
    "model": {"sha256": "a"},
}))
"""


@pytest.fixture
def command(tmp_path: Path) -> str:
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    return f"{sys.executable} {program}"


def test_a_cohort_goes_on_where_it_stopped(
    tmp_path: Path, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ["=cmd()", "bad", "crash", "patient 2"]
    for name in names:
        (tmp_path / "patients" / name).mkdir(parents=True)
    (tmp_path / "patients" / "link").symlink_to("/etc")
    arguments = [str(tmp_path / "patients"), "-o", str(tmp_path / "out"), "--command", command]

    def calls() -> list[str]:
        return sorted((tmp_path / "calls").read_text().splitlines())

    assert cohort.main(arguments) == 1
    assert calls() == names
    (tmp_path / "calls").unlink()
    # What has a result or can never have one is left; the crash is tried again.
    assert cohort.main(arguments) == 1
    assert calls() == ["crash"]
    assert "2 of 4 patients have results" in capfd.readouterr().out

    with (tmp_path / "out" / "cohort.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = pyarrow.parquet.read_table(tmp_path / "out" / "cohort.parquet").to_pylist()
    assert [row["patient"] for row in rows] == ["'=cmd()", "bad", "crash", "patient 2"]
    assert [row["patient"] for row in table] == names
    assert [row["status"] for row in table] == ["ok", "failed", "failed", "ok"]
    assert table[1]["reason"] == "empty_input"
    assert table[0]["last_WT_ml"] == 20.5
    assert (table[0]["whole_ml_day030_low"], table[1]["whole_ml_day030_low"]) == (1.0, None)
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_a_patient_may_have_settings_of_its_own_and_the_table_tells(
    tmp_path: Path, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / "patients" / name).mkdir(parents=True)
    arguments = [str(tmp_path / "patients"), "-o", str(tmp_path / "out"), "--command", command]
    assert cohort.main(arguments) == 0
    assert "ways" not in capfd.readouterr().err
    (tmp_path / "patients" / "c").mkdir()
    (tmp_path / "patients" / "c.yaml").touch()
    assert cohort.main(arguments) == 0
    assert "made in 2 ways; see software_version, software_settings_digest" in capfd.readouterr().err
    table = pyarrow.parquet.read_table(tmp_path / "out" / "cohort.parquet").to_pylist()
    assert [row["software_settings_digest"] for row in table] == ["shared", "shared", "own"]


def test_a_folder_without_patients_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cohort.main([str(tmp_path), "-o", str(tmp_path / "out")]) == 3
    assert "one folder per patient" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_refusal_is_tried_again_when_asked_for(tmp_path: Path) -> None:
    patient = tmp_path / "patients" / "p"
    patient.mkdir(parents=True)
    cohort.write_aside(
        tmp_path / "out" / ".failed" / "p.json", json.dumps(vars(Outcome(3, "x", "y"))).encode()
    )
    assert cohort.pending([patient], tmp_path / "out", retry=False) == []
    assert cohort.pending([patient], tmp_path / "out", retry=True) == [patient]
