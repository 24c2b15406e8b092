"""kill -9 of everything at random moments: no study is lost, no series doubled.

Modalities go on sending while the gateway, its worker, the running application, Orthanc or the network is killed and
comes back. Half of the studies come by C-STORE, half by Orthanc; all results go to Orthanc.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import requests

from tests.gateway.stand_in import RESULTS
from tests.gateway.world import (
    BreakableNetwork,
    GatewayProcess,
    Orthanc,
    make_study,
    send,
    study_uid,
    wait_until,
)

VICTIMS = ("gateway", "orthanc", "network", "application", "worker")


@pytest.mark.parametrize("kills", [5, pytest.param(65, marks=pytest.mark.slow)])
def test_nothing_is_lost_and_nothing_doubled(
    tmp_path: Path, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(kills)
    monkeypatch.setenv("STAND_IN_SECONDS", "1")
    orthanc = Orthanc(tmp_path / "orthanc")
    orthanc.start()
    network = BreakableNetwork(orthanc.port)
    web = f"http://127.0.0.1:{network.port}/dicom-web"
    gateway = GatewayProcess(
        tmp_path / "gateway",
        {
            "orthanc": {"url": f"http://127.0.0.1:{network.port}", "poll_seconds": 0.3, "timeout_seconds": 5},
            "destination": {"kind": "stow", "url": web, "timeout_seconds": 5},
            # Killing a worker or a run counts as the study's fault; whatever else is away does not.
            "jobs": {"max_delivery_attempts": 1000, "workers": 2}
            | ({"max_attempts": 1000} if kills > 5 else {}),
        },
    )
    gateway.start()
    studies = [make_study(tmp_path / str(number), number) for number in range(max(4, kills // 4))]
    unsent = list(enumerate(studies))
    done = dict.fromkeys(VICTIMS, 0)
    try:
        for number in range(kills):
            for index, files in unsent[: 1 + len(unsent) // max(1, kills - number)]:
                if _deliver_to(index, files, gateway, orthanc):
                    unsent.remove((index, files))
            time.sleep(chance.uniform(0.0, 2.0))
            victim = VICTIMS[number % len(VICTIMS)]
            done[victim] += _kill(victim, gateway, orthanc, network, chance)
        for index, files in unsent:
            wait_until(lambda i=index, f=files: _deliver_to(i, f, gateway, orthanc), 60, "the study is sent")
        uids = [study_uid(files) for files in studies]
        wait_until(
            lambda: all(gateway.job_of(uid, "done") for uid in uids), 60 + 6 * kills, "all jobs are done"
        )
        time.sleep(3)  # were something to be doubled, it would happen now
        assert all(gateway.job_of(uid, "done") for uid in uids)
        for uid in uids:
            assert len(orthanc.series(uid)) == RESULTS
            assert len(orthanc.objects(uid)) == RESULTS
        assert sum(done.values()) >= min(50, kills - 1), f"most kills hit something: {done}"
    finally:
        gateway.kill()
        network.close()
        orthanc.kill()


def _deliver_to(index: int, files: list[Path], gateway: GatewayProcess, orthanc: Orthanc) -> bool:
    """Send a study as a modality does: again until every image was acknowledged."""
    try:
        if index % 2:
            orthanc.upload(files)
            return True
        return send(files, gateway.receiver_port) == [0] * len(files)
    except (OSError, RuntimeError, requests.RequestException):
        return False


def _kill(
    victim: str, gateway: GatewayProcess, orthanc: Orthanc, network: BreakableNetwork, chance: random.Random
) -> int:
    """Kill something and bring it back; the number of things killed."""
    if victim == "gateway":
        gateway.kill()
        gateway.start()
    elif victim == "orthanc":
        orthanc.kill()
        time.sleep(chance.uniform(0.0, 1.0))
        orthanc.start()
    elif victim == "network":
        network.cut()
        time.sleep(chance.uniform(0.2, 2.0))
        network.mend()
    else:
        # The application, or the examination that goes before it.
        wanted = (
            ("stand_in.py", "gateway.examination") if victim == "application" else ("multiprocessing.spawn",)
        )
        end = time.monotonic() + 30
        while not (found := _processes_below(gateway, wanted)):
            if time.monotonic() > end:
                return 0  # all has been done already
            time.sleep(0.05)
        try:
            os.kill(chance.choice(found), signal.SIGKILL)
        except ProcessLookupError:
            return 0
    return 1


def _processes_below(gateway: GatewayProcess, words: tuple[str, ...]) -> list[int]:
    """Descendants of the gateway whose command line holds one of the words."""
    assert gateway.process is not None
    found, pending = [], [gateway.process.pid]
    while pending:
        pid = pending.pop()
        try:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                pending.extend(map(int, children.read_text().split()))
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(word in command for word in words):
            found.append(pid)
    return found
