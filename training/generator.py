"""Training examples: a pool of grown cases on disk, imaged afresh each time one is drawn.

Growing a tumour and deforming a head takes seconds, imaging it takes milliseconds; so cases are grown once and every
draw gives them a new contrast, new faults, a new side and a new place of the patch.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from segmentation.inference import GRID_MULTIPLE
from segmentation.network_input import BOX_MARGIN
from segmentation.transforms import apply_statistics, foreground_statistics
from training.anatomy import SPACING_MM, Head, random_head
from training.contrasts import Contrast, random_contrast, render
from training.refinement import Refiner
from training.tumours import Diseased, add_tumours

_STATISTICS_STRIDE = 3


@dataclass(frozen=True)
class Example:
    """One training example.

    Attributes
    ----------
    images
        float32 (4, I, J, K), normalised; a missing contrast is all 0.
    labels
        uint8 (I, J, K): 0 background, 1 NCR, 2 ED, 3 ET.
    brain
        uint8 (I, J, K): 1 inside the brain.
    """

    images: Tensor
    labels: Tensor
    brain: Tensor


def grow_case(seed: int, *, healthy_rate: float = 0.2) -> Diseased:
    """The case that belongs to a seed, without tumour in a share `healthy_rate` of the seeds."""
    rng = np.random.default_rng([seed, 1])
    return add_tumours(rng, random_head(rng), healthy_rate=healthy_rate)


def save_case(case: Diseased, path: Path) -> None:
    """Write a case as one uint8 array (7, I, J, K): CSF, grey, white, outer, labels, oedema, brain."""
    head = case.head
    csf, grey, white, oedema = (
        (255 * f.clamp(0, 1)).round().to(torch.uint8) for f in (*head.tissue, case.oedema)
    )
    brain = head.brain.to(torch.uint8)
    array = torch.stack([csf, grey, white, head.outer, case.labels, oedema, brain]).numpy()
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        np.save(stream, array)
    os.replace(part, path)


def _unpack(array: np.ndarray) -> Diseased:
    values = torch.from_numpy(np.array(array))
    head = Head(values[:3].float() / 255, values[3], values[6].bool())
    return Diseased(head, values[4], values[5].float() / 255)


def load_case(path: Path) -> Diseased:
    """Read what `save_case` wrote."""
    return _unpack(np.load(path))


def fill_pool(folder: Path, count: int, *, first_seed: int = 0) -> list[Path]:
    """Grow the cases first_seed .. first_seed + count - 1 that are not there yet; returns all their files in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"case-{seed:06d}.npy" for seed in range(first_seed, first_seed + count)]
    for seed, path in enumerate(paths, start=first_seed):
        if not path.exists():
            save_case(grow_case(seed), path)
    return paths


def _statistics(
    rng: np.random.Generator, contrast: Contrast, case: Diseased
) -> list[tuple[float, float, float]]:
    """Normalisation constants of the whole head, from a thinned copy of it imaged with the same contrast."""
    images = render(rng, contrast, case)
    region = None
    if contrast.brain_statistics:
        region = case.head.brain
    return [foreground_statistics(image, region) for image in images]


def _drop_channels(rng: np.random.Generator, images: Tensor) -> Tensor:
    """Leave out one to three contrasts in a third of the examples, T1CE and FLAIR alone most often."""
    if rng.random() > 0.35:
        return images
    kept = [1, 3] if rng.random() < 0.45 else rng.permutation(4)[: rng.integers(1, 4)].tolist()
    present = torch.zeros(4, 1, 1, 1)
    present[kept] = 1
    return images * present


def _corner(rng: np.random.Generator, labels: np.ndarray, size: tuple[int, int, int]) -> list[int]:
    """Lowest voxel of a patch: around a tumour voxel in two thirds of the draws, anywhere in the others."""
    shape = labels.shape
    where = np.flatnonzero(labels[::2, ::2, ::2])
    if len(where) and rng.random() < 0.67:
        thinned = tuple((n + 1) // 2 for n in shape)
        point = 2 * np.array(np.unravel_index(where[rng.integers(len(where))], thinned))
        middle = point + rng.integers(-(size[0] // 3), size[0] // 3 + 1, 3)
    else:
        middle = np.array([rng.integers(s // 3, n - s // 3) for s, n in zip(size, shape, strict=True)])
    return [int(np.clip(m - s // 2, 0, n - s)) for m, s, n in zip(middle, size, shape, strict=True)]


def _head_box(array: np.ndarray, stripped: bool) -> list[slice]:
    """Box with a margin around the head or the brain, each side a multiple of 8 voxels where the grid allows."""
    filled = array[6] > 0 if stripped else array[3] > 0
    box = []
    for axis, length in enumerate(filled.shape):
        used = np.flatnonzero(filled.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = max(0, int(used[0]) - BOX_MARGIN), min(length, int(used[-1]) + 1 + BOX_MARGIN)
        side = min(length, -(-(high - low) // GRID_MULTIPLE) * GRID_MULTIPLE)
        low = min(low, length - side)
        box.append(slice(low, low + side))
    return box


def _coarsened(case: Diseased, size: tuple[int, int, int]) -> Diseased:
    """The same piece of a head on fewer, larger voxels."""
    smooth = torch.cat([case.head.tissue, case.oedema[None]])
    codes = torch.stack([case.head.outer, case.labels, case.head.brain.to(torch.uint8)]).float()
    smooth = functional.interpolate(smooth[None], size=size, mode="trilinear", align_corners=False)[0]
    codes = functional.interpolate(codes[None], size=size, mode="nearest-exact")[0].to(torch.uint8)
    return Diseased(Head(smooth[:3], codes[0], codes[2].bool()), codes[1], smooth[3])


def draw_example(
    rng: np.random.Generator, path: Path, size: tuple[int, int, int] | None, *, coarsen: float = 1.0
) -> Example:
    """Image a stored case anew.

    Parameters
    ----------
    path
        File of `save_case`.
    size
        Patch size in voxels, or None for the box around the head, or around the brain of a stripped one: what the
        network is given at inference.
    coarsen
        Voxels of a patch are this many times larger than the pool's 2 mm; cheap patches for the start of training.
    """
    array = np.load(path, mmap_mode="r")
    contrast = random_contrast(rng)
    stride = _STATISTICS_STRIDE
    statistics = _statistics(rng, contrast, _unpack(array[:, ::stride, ::stride, ::stride]))
    if size is not None:
        fine = (round(coarsen * size[0]), round(coarsen * size[1]), round(coarsen * size[2]))
        corner = _corner(rng, array[4], fine)
        array = array[(slice(None), *(slice(c, c + s) for c, s in zip(corner, fine, strict=True)))]
    else:
        array = array[(slice(None), *_head_box(array, contrast.stripped or contrast.brain_statistics))]
    case = _unpack(array)
    if size is not None and fine != size:
        case = _coarsened(case, size)
    images = render(rng, contrast, case)
    images = torch.stack([_place(i, s, contrast) for i, s in zip(images, statistics, strict=True)])
    labels, brain = case.labels, case.head.brain.to(torch.uint8)
    if rng.random() < 0.5:
        images, labels, brain = images.flip(1), labels.flip(0), brain.flip(0)
    return Example(_drop_channels(rng, images), labels, brain)


def _place(image: Tensor, statistics: tuple[float, float, float], contrast: Contrast) -> Tensor:
    if contrast.stripped:  # a patch may hold too little of the background to be recognised as one
        image = torch.where(image == 0, torch.tensor(statistics[2]), image)
    return apply_statistics(image, statistics)


class Examples(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batch number -> (images (B, 4, ...), labels (B, ...), brain (B, ...)), a pure function of seed, number and pool.

    Parameters
    ----------
    pool
        Folder of stored cases; new files are picked up as they appear if `growing`.
    batches
        (patch side in voxels or None for the whole head, patches in a batch), taken in turn.
    team
        Processes that train together: this many consecutive batches are of one size.
    refiner
        Passes half of the batches of patches on, see `training.refinement`; None: images as simulated.
    """

    def __init__(
        self,
        pool: Path,
        *,
        seed: int,
        batches: Sequence[tuple[int | None, int]],
        team: int = 1,
        coarsen: float = 1.0,
        growing: bool = False,
        refiner: Refiner | None = None,
    ) -> None:
        self.pool, self.seed, self.batches, self.team = pool, seed, tuple(batches), team
        self.refiner = refiner
        self.coarsen, self.growing = coarsen, growing
        self._weights: dict[Path, float] = {}
        self.paths = sorted(pool.glob("case-*.npy"))
        if not self.paths:
            raise FileNotFoundError(
                f"{pool} holds no simulated cases: run python -m training.generator {pool}"
            )

    def _weight(self, path: Path) -> float:
        """How often a case is drawn: large tumours, which teach most, more often than small ones."""
        if path not in self._weights:
            millilitres = int(np.count_nonzero(np.load(path, mmap_mode="r")[4])) * SPACING_MM**3 / 1000
            self._weights[path] = 0.2 + min(millilitres, 40.0) / 20 if millilitres > 0 else 1.0
        return self._weights[path]

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, number, 2])
        if self.growing and number // self.team % 16 == 0:
            self.paths = sorted(self.pool.glob("case-*.npy"))
        side, count = self.batches[number // self.team % len(self.batches)]
        size = None if side is None else (side, side, side)
        weights = np.array([self._weight(path) for path in self.paths])
        picks = [self.paths[i] for i in rng.choice(len(self.paths), count, p=weights / weights.sum())]
        examples = [draw_example(rng, path, size, coarsen=self.coarsen) for path in picks]
        images = torch.stack([e.images for e in examples])
        if self.refiner is not None and size is not None and rng.random() < 0.5:
            images = self.refiner.refine(images, seed=int(rng.integers(1 << 32)))
        return (
            images,
            torch.stack([e.labels for e in examples]),
            torch.stack([e.brain for e in examples]),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill a pool: ``python -m training.generator POOL --count N``."""
    parser = argparse.ArgumentParser(prog="python -m training.generator", description=main.__doc__)
    parser.add_argument("pool", type=Path, help="folder for the simulated cases")
    parser.add_argument("--count", type=int, default=300, help="number of cases (10 MB each)")
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for seed in range(options.first_seed, options.first_seed + options.count):
        fill_pool(options.pool, 1, first_seed=seed)
        print(f"case {seed} ready", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
