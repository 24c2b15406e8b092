"""Many runs of the application: each in a process of its own, spread over a Dask cluster.

The gateway and ``python -m app.cohort`` share this. A run never happens inside a Dask worker itself: native code that
crashes, hangs or eats the memory then costs one run, not the worker.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client

DEFAULT_COMMAND = (sys.executable, "-m", "app")
ANY_PATIENT = "--any-patient"
"""Argument for runs whose settings are shared by patients: those that belong to one of them are refused."""
_PR_SET_PDEATHSIG = 1
# Refusals that another attempt with the same input cannot cure: input, registration, model, calibration, settings.
_FINAL_EXIT_CODES = frozenset({2, 3, 4, 5, 6})
_LONGEST_SENTENCE = 500


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Parameters
    ----------
    exit_code : int
        The application's; negative for the signal that killed it.
    reason : str
        Machine-readable; empty when it succeeded.
    sentence : str
        For people; never patient data.
    """

    exit_code: int
    reason: str = ""
    sentence: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether there is a result."""
        return self.exit_code == 0

    @property
    def is_final(self) -> bool:
        """Whether trying again cannot help."""
        return self.exit_code in _FINAL_EXIT_CODES


@dataclass(frozen=True)
class RunLimits:
    """``time_s``: seconds until the run is killed. ``memory_gb``: address space in GB, 0 for no limit of our own."""

    time_s: float = 3600.0
    memory_gb: float = 0.0


def run_application(
    command: Sequence[str], source: Path, output: Path, limits: RunLimits, extra: Sequence[str] = ()
) -> Outcome:
    """Run the application on a folder and wait for its end.

    Parameters
    ----------
    command : sequence of str
        The application; ``-i``, ``-o`` and ``--progress json`` are added.
    source, output : pathlib.Path
        Folder of DICOM; folder to make.
    limits : RunLimits
        What the run may take.
    extra : sequence of str
        Further arguments.
    """
    arguments = [*command, "-i", str(source), "-o", str(output), "--progress", "json", *extra]
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=confined(limits),
    )
    try:
        _, stderr = process.communicate(timeout=limits.time_s or None)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Outcome(
            -signal.SIGKILL, "time_limit", f"The run exceeded its time limit of {limits.time_s:g} s."
        )
    if process.returncode == 0:
        return Outcome(0)
    return _failure(process.returncode, stderr)


def confined(limits: RunLimits) -> Callable[[], None]:
    """What a child does before it becomes the application: die with its parent, keep to its memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()
    memory = int(limits.memory_gb * 1e9)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    return prepare


def _failure(code: int, stderr: str) -> Outcome:
    if code < 0:
        name = signal.Signals(-code).name
        return Outcome(code, "killed", f"The run was killed by {name}.")
    for line in reversed(stderr.splitlines()):
        try:
            event: Mapping[str, object] = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "failure":
            sentence = str(event.get("message", ""))[:_LONGEST_SENTENCE]
            return Outcome(code, str(event.get("reason", "settings")), sentence)
    # A trace may quote values of DICOM attributes: it is not handed on.
    return Outcome(code, "internal", f"The application ended with a fault of the program (exit code {code}).")


def open_cluster(scheduler: str = "", workers: int = 1) -> Client:
    """Connect to a Dask scheduler, or start workers of our own on this machine.

    Parameters
    ----------
    scheduler : str
        Address such as ``tcp://host:8786``; its workers must see the same folders. Empty for local workers.
    workers : int
        Number of local workers; each runs one application at a time.
    """
    # Each run imports this module, and Dask takes half of a second.
    import dask
    from distributed import Client, LocalCluster

    # Dask would silently run a task again whose worker died; attempts are counted and limited elsewhere.
    dask.config.set({"distributed.scheduler.allowed-failures": 0, "distributed.comm.timeouts.connect": "10s"})
    if scheduler:
        return Client(scheduler, timeout="30s", set_as_default=False)
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        memory_limit=0,
        silence_logs=50,
    )
    return Client(cluster, set_as_default=False)


def split_command(text: str) -> tuple[str, ...]:
    """A command line as words; the application of this installation when empty."""
    return tuple(shlex.split(text)) or DEFAULT_COMMAND
