"""One run of the application under a time limit and stop signals, told in JSON lines on stderr.

The application computes in native code that no Python signal handler interrupts. It therefore runs as a child, and what
must always happen (the answer to a signal, the time limit, the removal of a half-written output) happens here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

TIME_LIMIT_EXCEEDED = 124
_SIGNAL_BASE = 128
# Together well below the 5 s that a stop may take.
_GRACE_SECONDS = 2.0
_POLL_SECONDS = 0.1
ALIVE_EVERY_SECONDS = 10.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Runs a command that fills an output folder.

    Parameters
    ----------
    output : pathlib.Path
        Folder the command fills; what a killed command left in it is removed.
    time_limit_s : float
        Seconds after which the command is stopped; 0 for no limit.
    """

    def __init__(self, output: Path, time_limit_s: float) -> None:
        self._output = output
        self._time_limit_s = time_limit_s
        self._started = time.monotonic()
        self._stop_signal = 0
        self._lines = threading.Lock()

    def run(self, command: Sequence[str]) -> int:
        """Run the command to its end.

        Returns
        -------
        int
            The command's own exit code; 124 when it exceeded the time limit, 128 + N when it was stopped by signal N.
        """
        for number in _STOP_SIGNALS:
            signal.signal(number, self._remember_signal)
        before = self._entries()
        child = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
        assert child.stderr is not None
        reader = threading.Thread(target=self._relay, args=(child.stderr,), daemon=True)
        reader.start()
        cause = self._wait(child)
        if cause:
            _kill_group(child)
        # A grandchild may hold the pipe open after the child is gone.
        reader.join(timeout=1.0)
        code = self._exit_code(child, cause)
        if cause or child.returncode < 0:
            for name in self._entries() - before:
                _remove(self._output / name)
        self.tell("finished", exit_code=code)
        return code

    def tell(self, event: str, **fields: Any) -> None:
        """Write one JSON line to stderr."""
        line = {"event": event, "elapsed_s": round(time.monotonic() - self._started, 1), **fields}
        with self._lines:
            print(json.dumps(line, ensure_ascii=False), file=sys.stderr, flush=True)

    def _remember_signal(self, number: int, frame: object) -> None:
        self._stop_signal = number

    def _wait(self, child: subprocess.Popen[bytes]) -> str:
        """Wait for the end of the command; returns why it must be stopped, or nothing."""
        next_alive = ALIVE_EVERY_SECONDS
        while True:
            try:
                child.wait(_POLL_SECONDS)
                return ""
            except subprocess.TimeoutExpired:
                pass
            elapsed = time.monotonic() - self._started
            if self._stop_signal:
                return "signal"
            if self._time_limit_s and elapsed > self._time_limit_s:
                return "time_limit"
            if elapsed > next_alive:
                next_alive += ALIVE_EVERY_SECONDS
                self.tell("alive", memory_mb=_memory_mb(child.pid))

    def _exit_code(self, child: subprocess.Popen[bytes], cause: str) -> int:
        if cause == "signal":
            name = signal.Signals(self._stop_signal).name
            self.tell("stopped", message=f"stopped by {name}; no output was left", signal=name)
            return _SIGNAL_BASE + self._stop_signal
        if cause == "time_limit":
            self.tell(
                "stopped",
                message=f"exceeded the time limit of {self._time_limit_s:g} s (HOLOSCAN_TIMEOUT); no output was left",
            )
            return TIME_LIMIT_EXCEEDED
        if child.returncode < 0:
            name = signal.Signals(-child.returncode).name
            hint = "; was the memory limit reached?" if name == "SIGKILL" else ""
            self.tell("killed", message=f"the application was killed by {name}{hint}", signal=name)
            return _SIGNAL_BASE - child.returncode
        return child.returncode

    def _relay(self, stream: IO[bytes]) -> None:
        """Pass JSON lines on as they are and wrap every other line."""
        for raw in stream:
            text = raw.decode(errors="replace").rstrip()
            try:
                known = isinstance(json.loads(text), dict)
            except ValueError:
                known = False
            if known:
                with self._lines:
                    print(text, file=sys.stderr, flush=True)
            elif text:
                self.tell("log", message=text)

    def _entries(self) -> set[str]:
        try:
            return set(os.listdir(self._output))
        except OSError:
            return set()


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Ask the command and all its children to end, then make them."""
    try:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    except ProcessLookupError:
        return
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def _memory_mb(pid: int) -> int:
    """Resident memory of a process, MiB; 0 when it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    resident = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(resident[0]) // 1024 if resident else 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
