"""Rows survive in the archive, and never for other code."""

from dataclasses import replace

import pytest

from benchmarks.validation import archive
from benchmarks.validation.cohort_run import Plan


@pytest.fixture
def plan(tmp_path):
    return Plan(("in_model", "two_species"), 3, 7, 40, 0, tmp_path / "pool")


def put(plan, name, number, **entries):
    plan.write(name, {"patient": number, **entries})


def test_rows_come_back_in_a_fresh_checkout(plan, tmp_path):
    put(plan, "in_model", 0, medians={"90": 1234.56789012}, refused="")
    put(plan, "in_model", 2, rank=[0.1, 1e300], acceptable=True)
    put(plan, "two_species", 1, refused="no_tumour")
    file = tmp_path / "rows.jsonl.xz"
    assert archive.keep(file, plan) == 3
    fresh = replace(plan, pool=tmp_path / "elsewhere")
    assert archive.restore(file, fresh) == 3
    assert fresh.rows() == {
        "in_model": [
            {"patient": 0, "medians": {"90": 1234.568}, "refused": ""},
            {"patient": 2, "rank": [0.1, 1e300], "acceptable": True},
        ],
        "two_species": [{"patient": 1, "refused": "no_tumour"}],
    }


def test_a_row_on_disk_is_not_replaced(plan, tmp_path):
    file = tmp_path / "rows.jsonl.xz"
    put(plan, "in_model", 0, seconds=1.0)
    archive.keep(file, plan)
    put(plan, "in_model", 0, seconds=2.0)
    assert archive.restore(file, plan) == 1
    assert plan.rows()["in_model"] == [{"patient": 0, "seconds": 2.0}]


@pytest.mark.parametrize("change", [{"seed": 8}, {"samples": 41}, {"importance": 128}])
def test_rows_of_another_run_are_left_out(plan, tmp_path, change):
    file = tmp_path / "rows.jsonl.xz"
    put(plan, "in_model", 0)
    archive.keep(file, plan)
    assert archive.restore(file, replace(plan, pool=tmp_path / "elsewhere", **change)) == 0


def test_rows_of_other_code_are_left_out(plan, tmp_path, monkeypatch):
    file = tmp_path / "rows.jsonl.xz"
    put(plan, "in_model", 0)
    archive.keep(file, plan)
    monkeypatch.setattr("benchmarks.validation.trial.twin_version", lambda: "another twin")
    assert archive.restore(file, replace(plan, pool=tmp_path / "elsewhere")) == 0
