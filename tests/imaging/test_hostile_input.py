"""Hostile and broken input: read or refused with a sentence; no crash, no hang, no patient data told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imaging.hostile import PATIENT_ID, PATIENT_NAME

ROOT = Path(__file__).resolve().parents[2]
READ, REFUSED = 0, 3


@pytest.mark.parametrize("count", [24, pytest.param(1800, marks=pytest.mark.slow)])
def test_every_case_is_read_or_refused(tmp_path: Path, count: int) -> None:
    (tmp_path / "cases").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.imaging.hostile", str(tmp_path / "cases"), str(count)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) == count
    failed = [
        (case["number"], case["kind"], case["code"], case["told"])
        for case in cases
        if case["code"] not in (READ, REFUSED)
    ]
    assert not failed, "\n".join(
        f"{number} {kind}: {code}\n{told}" for number, kind, code, told in failed[:5]
    )
    for case in cases:
        for secret in (PATIENT_ID, *PATIENT_NAME.split("^")):
            assert secret not in case["told"], case["kind"]
        assert case["clean"], case["kind"]
    # The corpus would prove nothing if everything were refused, or nothing.
    codes = [case["code"] for case in cases]
    assert codes.count(READ) > count / 20
    assert codes.count(REFUSED) > count / 3
