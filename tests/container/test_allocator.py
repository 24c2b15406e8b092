"""The container and the Makefile have the C library keep the memory that tensors leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.segmentation import ALLOCATOR, container_allocator

ROOT = Path(__file__).parents[2]
# Page faults of ten tensors of 64 MiB, dropped at once, in a thread of its own as an operator has; twenty go before.
_FAULTS = """
import resource, threading, torch
def work():
    for _ in range(20):
        torch.ones(2 ** 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2 ** 24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def page_faults(setting: str) -> int:
    environment = {**os.environ, ALLOCATOR: setting}
    answer = subprocess.run(
        [sys.executable, "-c", _FAULTS], env=environment, capture_output=True, text=True, check=True
    )
    return int(answer.stdout)


def test_a_tensor_takes_the_memory_of_the_one_before() -> None:
    assert page_faults(container_allocator()) < 100
    assert page_faults("") > 1000


def test_both_images_and_the_makefile_set_it() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    stages = [stage for stage in dockerfile.split("\nFROM ")[1:] if "ENTRYPOINT" in stage]
    assert len(stages) == 2
    assert all(
        "ARG KEEP_MEMORY\n" in stage and f"ENV {ALLOCATOR}=${{KEEP_MEMORY}}" in stage for stage in stages
    )
    for target in ("demo", "label", "gateway", "real", "train"):
        said = subprocess.run(["make", "-pn", target], cwd=ROOT, capture_output=True, text=True).stdout
        assert f"{target}: {ALLOCATOR} := {container_allocator()}\n" in said
