"""A PostgreSQL of Debian's package in a folder of its own, reached by a socket in that folder only."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.gateway.world import wait_until


class PostgreSQL:
    """One server with one empty database; as root it runs as another user, because it refuses to run as root."""

    def __init__(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        assert programs, "Install the package postgresql."
        self._programs = programs[-1]
        # Not below pytest's folder, which only this user may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="oncotwin-postgresql-"))
        self._as_user: list[str] = []
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as_user = [
                "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
            ]  # fmt: skip
        self._run("initdb", "-D", f"{self._folder}/data", "-U", "oncotwin", "-A", "trust", "-N")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What the settings of the gateway name."""
        return f"postgresql+psycopg://oncotwin@/postgres?host={self._folder}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [str(self._programs / "postgres"), "-D", f"{self._folder}/data", "-k", str(self._folder)]
        self._process = subprocess.Popen(
            [*self._as_user, *command, "-c", "listen_addresses="],
            cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        ready = [str(self._programs / "pg_isready"), "-q", "-h", str(self._folder)]
        wait_until(lambda: subprocess.run(ready).returncode == 0, 30, "PostgreSQL answers")

    def kill(self) -> None:
        """End the server as a crash does: no backend says goodbye."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    def remove(self) -> None:
        """End the server and delete its folder."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._programs / program), *arguments]
        subprocess.run(command, cwd=self._folder, check=True, capture_output=True)
