"""A burst of studies into the gateway by C-STORE on loopback: ``python -m benchmarks.gateway_load --studies 100``.

Measures what the gateway itself costs: a stand-in takes the application's place. The floor is the stand-in's own time,
measured alone in the same run, for all studies on all workers: what is above it is the gateway's and the archive's.
Needs Debian's Orthanc.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.gateway.stand_in import RESULTS
from tests.gateway.world import STAND_IN, GatewayProcess, Orthanc, make_study, send, study_uid


def memory_mb(pid: int) -> float:
    """Resident memory of a process and its descendants, MiB."""
    total, pending = 0.0, [pid]
    while pending:
        current = pending.pop()
        try:
            for children in Path(f"/proc/{current}/task").glob("*/children"):
                pending.extend(map(int, children.read_text().split()))
            status = Path(f"/proc/{current}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))
    return total


def application_seconds(study: list[Path], folder: Path) -> float:
    """What the application takes for one study, alone; the median of three runs."""
    taken = []
    for number in range(3):
        begun = time.monotonic()
        command = [*shlex.split(STAND_IN), "-i", str(study[0].parents[1]), "-o", str(folder / str(number))]
        subprocess.run(command, check=True)
        taken.append(time.monotonic() - begun)
    return statistics.median(taken)


def main() -> int:
    """Run the burst; prints the numbers as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_load", description=__doc__)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--callers", type=int, default=4, help="associations at once")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        studies = [make_study(folder / str(number), number) for number in range(options.studies)]
        (folder / "alone").mkdir()
        floor = application_seconds(studies[0], folder / "alone") * options.studies / options.workers
        orthanc = Orthanc(folder / "orthanc")
        orthanc.start()
        settings = {
            "destination": {"kind": "stow", "url": f"{orthanc.url}/dicom-web"},
            "jobs": {"workers": options.workers},
            "receiver": {"study_complete_seconds": 2.0},
        }
        gateway = GatewayProcess(folder / "gateway", settings)
        gateway.start()
        assert gateway.process is not None
        try:
            numbers = burst(gateway, studies, options.callers)
            returned = sum(len(orthanc.objects(study_uid(files))) == RESULTS for files in studies)
        finally:
            gateway.kill()
            orthanc.kill()
    numbers |= {"studies": len(studies), "instances": sum(map(len, studies)), "returned": returned}
    numbers |= {
        "floor_seconds": round(floor, 1),
        "times_the_floor": round(numbers["seconds_until_all_returned"] / floor, 1),
    }
    print(json.dumps(numbers, indent=2))
    return 0 if returned == len(studies) else 1


def burst(gateway: GatewayProcess, studies: list[list[Path]], callers: int) -> dict[str, float]:
    """Send all studies and wait until every job is done; seconds and MiB."""
    assert gateway.process is not None
    begun, peak = time.monotonic(), 0.0

    def call(share: list[list[Path]]) -> None:
        for files in share:
            while send(files, gateway.receiver_port) != [0] * len(files):
                time.sleep(0.5)

    threads = [threading.Thread(target=call, args=(studies[n::callers],)) for n in range(callers)]
    for thread in threads:
        thread.start()
    received = 0.0
    while True:
        peak = max(peak, memory_mb(gateway.process.pid))
        if not received and not any(thread.is_alive() for thread in threads):
            received = time.monotonic() - begun
        if received and sum(job["state"] == "done" for job in gateway.jobs()) == len(studies):
            break
        time.sleep(0.5)
    elapsed = time.monotonic() - begun
    return {
        "seconds_to_receive": round(received, 1),
        "seconds_until_all_returned": round(elapsed, 1),
        "studies_per_minute": round(60 * len(studies) / elapsed, 1),
        "peak_memory_mb": round(peak),
    }


if __name__ == "__main__":
    sys.exit(main())
