"""Score a bundle: ``python -m training.evaluate [--simulated N] [--held-out N] [--cases FOLDER] [--pictures DIR]``.

Simulated heads are of seeds that training never uses, held-out ones of another generator. Real cases are folders of
NIfTI files with a reference segmentation; their names tell the contrasts (BraTS's t1c, t1n, t2w, t2f, or T1c, Flair).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot
from torch import Tensor

from imaging.geometry import Volume
from imaging.preparation import averaged_on_grid, labels_on_image
from segmentation.__main__ import segment
from segmentation.bundle import ROLES, find_bundle
from segmentation.inference import SegmentationResult, TumourSegmenter
from training.contrasts import random_contrast, render
from training.generator import grow_case
from training.held_out import held_out_cases
from training.losses import REGIONS
from training.nifti_cases import case_files
from training.scores import Score, score, summary

HELD_OUT_SEED = 9_000_000
HEALTHY_EVERY = 5
SUBSETS: dict[str, tuple[str, ...]] = {
    "all four": ROLES,
    "without T1": ("t1ce", "t2", "flair"),
    "without T2": ("t1", "t1ce", "flair"),
    "T1CE and FLAIR": ("t1ce", "flair"),
}

_WITH_NON_ENHANCING = torch.tensor(
    [0, 1, 2, 1, 3], dtype=torch.uint8
)  # BRATS 2013: 3 non-enhancing, 4 enhancing


def simulated_scores(
    segmenter: TumourSegmenter,
    count: int,
    first: int = 0,
    *,
    once: bool = False,
    healthy_every: int = HEALTHY_EVERY,
) -> dict[str, list[Score]]:
    """Scores on `count` held-out simulated heads, one of `healthy_every` without tumour, by skull and contrasts.

    Each is imaged with its skull and without; the stripped ones are segmented by every subset of contrasts. With
    `once` each is imaged as its contrast says, with skull or without, and segmented by all four.
    """
    names = ["all four, with skull", *(f"{name}, stripped" for name in SUBSETS)]
    scores: dict[str, list[Score]] = {name: [] for name in (["all four, as drawn"] if once else names)}
    for number in range(first, first + count):
        seed = HELD_OUT_SEED + number
        healthy = number % healthy_every == healthy_every - 1
        case = grow_case(seed, healthy_rate=float(healthy))
        rng = np.random.default_rng([seed, 3])
        contrast, noise = random_contrast(rng), rng.integers(1 << 32)
        for stripped in (contrast.stripped,) if once else (False, True):
            images = render(
                np.random.default_rng(noise), replace(contrast, stripped=stripped, strip_errors=False), case
            )
            for name, roles in SUBSETS.items() if stripped and not once else [("all four", ROLES)]:
                result = segmenter({role: images[ROLES.index(role)] for role in roles})
                spacing = (segmenter.description.spacing_mm,) * 3
                one = _score(result, case.labels, spacing)
                view = "as drawn" if once else "stripped" if stripped else "with skull"
                scores[f"{name}, {view}"].append(one)
        print(f"simulated head {number}: {_line(one)}", flush=True)
    return scores


def _score(result: SegmentationResult, reference: Tensor, spacing: tuple[float, float, float]) -> Score:
    return score(
        result.labels,
        reference,
        spacing,
        uncertainty=result.uncertainty,
        agreement=result.agreement,
        doubted=bool(result.out_of_family),
        probability=1 - result.probabilities[0],
        brain_mask=result.brain_mask,
    )


def held_out_scores(
    segmenter: TumourSegmenter, count: int, roles: Sequence[str], first: int = 0
) -> list[Score]:
    """Scores on virtual patients first .. first + count - 1; they need no registration.

    Labels are those of the T1CE image's voxels, as a user gets them; how well probabilities are calibrated, and the
    brain, are of the network's grid.
    """
    spacing = segmenter.description.spacing_mm
    scores = []
    for case in held_out_cases(count, first):
        grid = case.images["t1ce"].geometry.axis_aligned_cover(spacing)
        tensors = {role: torch.from_numpy(averaged_on_grid(case.images[role], grid).array) for role in roles}
        result = segmenter(tensors)
        background, ncr, ed, et = (Volume(p.numpy(), grid) for p in result.probabilities)
        labels = labels_on_image((background, ncr, ed, et), case.images["t1ce"], segmenter.labels_of_image)
        coarse, fine = (
            torch.from_numpy(case.reference.resampled(geometry, interpolation="nearest").array)
            for geometry in (grid, labels.geometry)
        )
        there = score(torch.from_numpy(labels.array), fine, labels.geometry.spacing)
        one = replace(
            _score(result, coarse, (spacing,) * 3),
            dice=there.dice,
            distance_mm=there.distance_mm,
            predicted_ml=there.predicted_ml,
            reference_ml=there.reference_ml,
        )
        print(f"{case.name}: {_line(one)}", flush=True)
        scores.append(one)
    return scores


@dataclass(frozen=True)
class RealCase:
    """A folder with images and a reference in BraTS labels."""

    name: str
    images: dict[str, Volume]
    reference: Volume


def real_cases(folder: Path) -> Iterator[RealCase]:
    """Every folder below `folder` whose NIfTI files include a reference segmentation."""
    for name, files in case_files(folder):
        if "reference" not in files or len(files) < 2:
            continue
        reference = Volume.load_nifti(files.pop("reference"))
        codes = torch.from_numpy(np.asarray(reference.array).round().astype(np.int64))
        if int(codes.max()) == 4:
            codes = _WITH_NON_ENHANCING[codes]
        volumes = {kind: Volume.load_nifti(path) for kind, path in files.items()}
        images = {role: v.with_array(np.asarray(v.array, dtype=np.float32)) for role, v in volumes.items()}
        yield RealCase(name, images, reference.with_array(codes.to(torch.uint8).numpy()))


def _line(one: Score) -> str:
    return "  ".join(
        f"{r} Dice {one.dice[r]:.3f} HD95 {one.distance_mm[r]:.1f} mm, "
        f"{one.predicted_ml[r]:.1f} ({one.reference_ml[r]:.1f}) mL"
        for r in REGIONS
    )


def report_simulated(
    segmenter: TumourSegmenter, count: int, first: int, *, once: bool, healthy_every: int
) -> None:
    """Print the summary over simulated heads, by skull and contrasts given; see `simulated_scores`."""
    found = simulated_scores(segmenter, count, first, once=once, healthy_every=healthy_every)
    for name, scores in found.items():
        print(summary(f"simulated, {name}", scores), flush=True)


def report_held_out(segmenter: TumourSegmenter, count: int, first: int) -> None:
    """Print each virtual patient and their summaries: together, with skull (the even ones) and stripped."""
    scores = held_out_scores(segmenter, count, ROLES, first)
    even, odd = scores[first % 2 :: 2], scores[1 - first % 2 :: 2]
    for name, part in (("all", scores), ("with skull", even), ("stripped", odd)):
        print(summary(f"held-out generator, all four, {name}", part), flush=True)


def report_cases(segmenter: TumourSegmenter, folder: Path, pictures: Path | None) -> None:
    """Print scores of each real case, with all its contrasts and with every subset of `SUBSETS` that it has."""
    for case in real_cases(folder):
        available = {tuple(role for role in roles if role in case.images): None for roles in SUBSETS.values()}
        for roles in available:
            images = {role: case.images[role] for role in roles}
            labels = segment(images, segmenter, min_component_ml=0.1)
            predicted, reference = torch.from_numpy(labels.array), torch.from_numpy(case.reference.array)
            result = score(predicted, reference, labels.geometry.spacing)
            print(f"{case.name}, {', '.join(images)}: {_line(result)}", flush=True)
            if pictures is not None:
                draw(case, labels, pictures / f"{case.name}-{'-'.join(images)}.png")


def draw(case: RealCase, labels: Volume, path: Path) -> None:
    """Three axial slices of each case: T1CE and FLAIR, reference and result as contours."""
    matplotlib.use("Agg")
    area = (case.reference.array > 0).sum((0, 1)) + (labels.array > 0).sum((0, 1))
    used = np.flatnonzero(area)
    slices = np.percentile(used, [20, 45, 70, 95]).astype(int) if len(used) else [area.size // 2]
    shown = [role for role in ("t1ce", "flair") if role in case.images]
    figure, axes = pyplot.subplots(
        len(slices), 2 * len(shown), figsize=(5 * len(shown) * 2 * 0.6, 3 * len(slices))
    )
    for row, k in zip(np.atleast_2d(axes), slices, strict=True):
        for column, role in enumerate(shown):
            for part, overlay in enumerate((case.reference.array, labels.array)):
                axis = row[2 * column + part]
                image = case.images[role].array[:, :, k].T
                axis.imshow(image, cmap="gray", vmax=np.percentile(image, 99.7))
                for code, colour in ((1, "red"), (2, "lime"), (3, "yellow")):
                    if (overlay[:, :, k] == code).any():
                        axis.contour(
                            (overlay[:, :, k] == code).T, levels=[0.5], colors=colour, linewidths=0.7
                        )
                axis.set_title(f"{role} {'reference' if part == 0 else 'network'} k={k}", fontsize=7)
                axis.axis("off")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="a bundle or a folder of one")
    parser.add_argument(
        "--simulated", type=int, default=0, metavar="N", help="score N held-out simulated heads"
    )
    parser.add_argument(
        "--held-out", type=int, default=0, metavar="N", help="score N patients of another generator"
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first simulated head or patient")
    parser.add_argument(
        "--once", action="store_true", help="simulated heads with skull or without, by chance, four contrasts"
    )
    parser.add_argument("--tumour-free", action="store_true", help="no simulated head has a tumour")
    parser.add_argument("--variants", type=int, default=2, help="answers to average: 1, 2 or 8")
    parser.add_argument("--cases", type=Path, help="folder of real cases with a reference")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the real cases")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    segmenter = TumourSegmenter.load(
        find_bundle(options.models), device=options.device, variants=options.variants
    )
    if options.simulated:
        every = 1 if options.tumour_free else HEALTHY_EVERY
        report_simulated(segmenter, options.simulated, options.first, once=options.once, healthy_every=every)
    if options.held_out:
        report_held_out(segmenter, options.held_out, options.first)
    if options.cases is not None:
        report_cases(segmenter, options.cases, options.pictures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
