"""Time and memory of the network for one visit: ``python -m benchmarks.segmentation [--grid MM] [--rows ROW]``.

Where other work shares the cores, processor seconds tell more than the clock; both are printed.

The visit is a simulated unstripped head on 240 x 240 x 155 voxels of 1 mm. Times are of the network, from images on its
grid to labels. Each configuration runs in a process of its own, so that the peak of its memory is its own; the
reference is MONAI's SlidingWindowInferer with the settings of the public bundle, 128^3 voxels and overlap 0.5, float32.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from segmentation.bundle import ROLES, find_bundle, load_bundle
from segmentation.inference import TumourSegmenter
from segmentation.postprocess import largest_component
from segmentation.transforms import normalise
from training.contrasts import random_contrast, render
from training.generator import grow_case
from training.losses import region_dice

SHAPE = (240, 240, 155)
SEED = 9_100_000
ROWS = ("window", "crop", "given-back", "mirrored", "eight")
ALLOCATOR = "GLIBC_TUNABLES"
_DOCKERFILE = Path(__file__).parents[1] / "Dockerfile"


def visit(spacing_mm: float) -> dict[str, Tensor]:
    """Four contrasts of a simulated head with skull: float32, 240 x 240 x 155 voxels of 1 mm, or fewer larger ones."""
    case = grow_case(SEED)
    rng = np.random.default_rng(1)
    images = render(rng, random_contrast(rng), case)
    images = functional.pad(images, (0, 0, 0, 0, 4, 4))[..., :112]
    shape = tuple(round(n / spacing_mm) for n in SHAPE)
    fine = functional.interpolate(
        images[None], scale_factor=2 / spacing_mm, mode="trilinear", align_corners=False
    )[0]
    centred = torch.zeros(4, *shape)
    taken = [min(a, b) for a, b in zip(fine.shape[1:], shape, strict=True)]
    target = tuple(slice((n - t) // 2, (n - t) // 2 + t) for n, t in zip(shape, taken, strict=True))
    source = tuple(slice((n - t) // 2, (n - t) // 2 + t) for n, t in zip(fine.shape[1:], taken, strict=True))
    centred[(slice(None), *target)] = fine[(slice(None), *source)]
    return dict(zip(ROLES, centred, strict=True))


def sliding_window(models: Path, spacing_mm: float) -> Tensor:
    """Labels in the brain by the reference: windows of 128^3, overlap 0.5, float32."""
    _, network = load_bundle(find_bundle(models))
    inputs = torch.stack([normalise(image) for image in visit(spacing_mm).values()])[None]
    with torch.inference_mode(), _timed("network"):
        outputs = SlidingWindowInferer(roi_size=(128, 128, 128), overlap=0.5)(inputs, network)
    brain = largest_component(outputs[0, 4] > 0)
    return outputs[0, :4].argmax(0).to(torch.uint8) * brain


def one_crop(
    models: Path, spacing_mm: float, variants: int, brain_first: bool, bfloat16: bool | None
) -> Tensor:
    """Labels by this project's inference."""
    segmenter = TumourSegmenter.load(
        find_bundle(models),
        device="cpu",
        variants=variants,
        brain_first=brain_first,
        bfloat16=bfloat16,
        memory_bytes=1 << 40,
    )
    images = visit(spacing_mm)
    with _timed("images to labels"):
        return segmenter(images, min_component_ml=0.0).labels


@contextmanager
def _timed(what: str) -> Iterator[None]:
    started, used = time.perf_counter(), time.process_time()
    yield
    clock, processor = time.perf_counter() - started, time.process_time() - used
    print(f"    {what} {clock:.2f} s by the clock, {processor:.2f} s of the processor", flush=True)


Argument = float | bool | None


def _child(queue: Any, name: str, models: Path, threads: int, arguments: tuple[Argument, ...]) -> None:
    torch.set_num_threads(threads)
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    labels = (sliding_window if name == "sliding window" else one_crop)(models, *arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # As an array, which is copied: a tensor is shared, and this process ends before the other has opened it.
    queue.put((time.perf_counter() - started, (peak - baseline) / 1024**2, labels.numpy()))


def container_allocator() -> str:
    """How the container tells the C library to keep the memory that tensors leave."""
    found = re.search(r"^ARG KEEP_MEMORY=(\S+)$", _DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise LookupError(f"{_DOCKERFILE} does not set KEEP_MEMORY")
    return found[1]


def measure(
    name: str, models: Path, threads: int, *arguments: Argument, allocator: str | None = None
) -> Tensor:
    """Run one configuration in a process of its own and print its time and peak memory; returns its labels.

    `allocator` is the C library's setting, None for the container's; it is read when a process starts.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    print(f"{name} {arguments}", flush=True)
    process = context.Process(target=_child, args=(queue, name, models, threads, arguments))
    os.environ[ALLOCATOR] = container_allocator() if allocator is None else allocator
    process.start()
    seconds, gib, labels = queue.get()
    process.join()
    print(f"    {seconds:.2f} s in all, {gib:.2f} GiB above start", flush=True)
    return torch.from_numpy(labels)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.segmentation", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument(
        "--grid", type=float, nargs="*", help="voxel sizes in mm (default: the network's, and 1)"
    )
    parser.add_argument(
        "--rows", nargs="*", choices=ROWS, default=ROWS, help="what to measure (default: all)"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    spacing_mm = load_bundle(find_bundle(options.models))[0].spacing_mm
    for grid in options.grid or (spacing_mm, 1.0):
        print(f"grid of {grid:g} mm")
        labels = {}
        if "window" in options.rows:
            labels["window"] = measure("sliding window", options.models, options.threads, grid)
        if "crop" in options.rows:
            labels["crop"] = measure("one crop", options.models, options.threads, grid, 1, False, None)
        if "given-back" in options.rows:
            print("freed memory given back to the system:")
            measure("one crop", options.models, options.threads, grid, 1, False, None, allocator="")
        if len(labels) == 2:
            print(f"    Dice WT between the two {region_dice(labels['crop'], labels['window'])['WT']:.4f}")
        if grid == spacing_mm:
            for row, variants in (("mirrored", 2), ("eight", 8)):
                if row in options.rows:
                    measure("one crop", options.models, options.threads, grid, variants, True, None)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
