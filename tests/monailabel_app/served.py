"""A server in a process of its own, as ``make label`` starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 600


@dataclass
class RunningServer:
    """A server that answers.

    Parameters
    ----------
    url : str
        Where.
    process : subprocess.Popen
        Itself.
    log : pathlib.Path
        What it printed.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> int:
        """Stop as Control-C does; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def start_server(
    log: Path, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> RunningServer:
    """Start a server, with more in its environment if need be, and wait until it answers."""
    port = _free_port()
    command = [sys.executable, "-m", "monailabel_app", "--port", str(port), *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )
    server = RunningServer(f"http://127.0.0.1:{port}", process, log)
    wait_for(server)
    return server


def wait_for(server: RunningServer) -> None:
    """Until the server answers at its address."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended: {server.log.read_text()}")
        try:
            # 401 is an answer too.
            requests.get(f"{server.url}/info/", timeout=120)
            return
        except requests.ConnectionError:
            time.sleep(0.5)
    server.process.kill()
    raise TimeoutError(f"the server did not answer in {_START_SECONDS} s: {server.log.read_text()}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
