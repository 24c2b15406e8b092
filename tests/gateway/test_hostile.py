"""Hostile and broken studies sent to the gateway: taken or turned away, then examined or refused; nothing gets out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.gateway.hostile import EXAMINED, REFUSED, UNREADABLE
from tests.imaging.hostile import PATIENT_ID, PATIENT_NAME

ROOT = Path(__file__).resolve().parents[2]
SECRETS = (PATIENT_ID, *PATIENT_NAME.split("^"))


@pytest.mark.parametrize("count", [12, pytest.param(600, marks=pytest.mark.slow)])
def test_every_case_ends_well(tmp_path: Path, count: int) -> None:
    root = tmp_path / "root"
    root.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.gateway.hostile", str(root), str(count)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) == count
    for case in cases:
        # A fault of the reader ends the child that examines; a signal would be a crash, a hang or hunger for memory.
        assert set(case["codes"]) <= {EXAMINED, REFUSED, UNREADABLE}, case
        assert case["clean"], case
        if UNREADABLE not in case["codes"]:  # a trace of ours is not handed on by the gateway
            assert not [secret for secret in SECRETS if secret in case["told"]], case
    told = done.stderr + (root / "gateway" / "audit.jsonl").read_text()
    assert not [secret for secret in SECRETS if secret in told]
    assert [path.name for path in tmp_path.iterdir()] == ["root"]

    # The corpus would prove nothing if everything were turned away, or all of one kind.
    statuses = Counter(status for case in cases for status in case["statuses"])
    codes = Counter(code for case in cases for code in case["codes"])
    assert statuses["0000"] > count
    assert statuses["c000"] > 0
    assert codes[EXAMINED] > count / 10
    assert codes[REFUSED] > count / 10
    assert codes[UNREADABLE] <= count / 100, "the reader knows what to do with nearly everything"
