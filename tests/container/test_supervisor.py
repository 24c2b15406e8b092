"""What the container promises whatever the application does: exit codes, stop signals, time limit, clean output."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import sys
from pathlib import Path
from container.supervisor import Supervisor
sys.exit(Supervisor(Path(sys.argv[1]), float(sys.argv[2])).run([sys.executable, "-c", sys.argv[3]]))
"""
# Writes a part of its output, says so, and cannot be stopped politely.
STUBBORN = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder = Path({output!r})
(folder / ".partial-1").mkdir()
(folder / "report_sr.dcm").write_text("half")
print("ready", file=sys.stderr, flush=True)
time.sleep(60)
"""


def start(output: Path, program: str, time_limit: float = 0.0) -> subprocess.Popen[str]:
    output.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(output), str(time_limit), program],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, list[dict[str, Any]]]:
    stdout, stderr = process.communicate(timeout=30)
    return process.returncode, stdout, [json.loads(line) for line in stderr.splitlines()]


@pytest.mark.parametrize("code", [0, 1, 3, 7])
def test_exit_code_is_the_applications(tmp_path: Path, code: int) -> None:
    ended, stdout, lines = finish(start(tmp_path / "out", f"print('table'); raise SystemExit({code})"))
    assert ended == code
    assert stdout == "table\n"
    assert lines[-1]["event"] == "finished"
    assert lines[-1]["exit_code"] == code


def test_every_line_is_json(tmp_path: Path) -> None:
    program = """
import sys, json
print("a warning of some library", file=sys.stderr)
print(json.dumps({"event": "progress", "message": "reading"}), file=sys.stderr)
print("[1, 2]", file=sys.stderr)
sys.stderr.buffer.write(b"\\xff broken\\n")
"""
    _, _, lines = finish(start(tmp_path / "out", program))
    assert [line.get("message") for line in lines[:-1]] == [
        "a warning of some library", "reading", "[1, 2]", "\ufffd broken",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_within_five_seconds_and_nothing_left(tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "task.json").write_text("somebody else's")
    process = start(output, STUBBORN.format(output=str(output)))
    assert process.stderr is not None
    assert "ready" in process.stderr.readline()
    begun = time.monotonic()
    process.send_signal(number)
    code, _, lines = finish(process)
    assert time.monotonic() - begun < 5
    assert code == 128 + number
    assert [path.name for path in output.iterdir()] == ["task.json"]
    assert lines[-2]["event"] == "stopped"


def test_time_limit(tmp_path: Path) -> None:
    output = tmp_path / "out"
    begun = time.monotonic()
    code, _, lines = finish(start(output, STUBBORN.format(output=str(output)), time_limit=1.0))
    assert time.monotonic() - begun < 6
    assert code == 124
    assert "time limit of 1 s" in lines[-2]["message"]
    assert list(output.iterdir()) == []


def test_killed_application_leaves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out"
    program = STUBBORN.format(output=str(output)).replace(
        "time.sleep(60)", "import os; os.kill(os.getpid(), 9)"
    )
    code, _, lines = finish(start(output, program))
    assert code == 137
    assert "memory" in lines[-2]["message"]
    assert list(output.iterdir()) == []


def test_grandchildren_end_too(tmp_path: Path) -> None:
    """A grandchild that ignores the signal must not outlive the run."""
    program = """
import subprocess, sys, time
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code])
time.sleep(0.5)
print(child.pid, file=sys.stderr, flush=True)
time.sleep(60)
"""
    process = start(tmp_path / "out", program)
    assert process.stderr is not None
    grandchild = int(json.loads(process.stderr.readline())["message"])
    process.terminate()
    finish(process)
    status = Path(f"/proc/{grandchild}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()
