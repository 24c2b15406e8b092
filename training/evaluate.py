"""Score a bundle: ``python -m training.evaluate [--models M] [--simulated N] [--cases FOLDER] [--pictures DIR]``.

Simulated heads are of seeds that training never uses. Real cases are folders of NIfTI files with a reference
segmentation; their names tell the contrasts (BraTS's t1c, t1n, t2w, t2f, or T1c, Flair, ...).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot
from torch import Tensor

from imaging.geometry import Volume
from segmentation.__main__ import segment
from segmentation.bundle import ROLES, find_bundle
from segmentation.inference import TumourSegmenter
from training.contrasts import random_contrast, render
from training.generator import grow_case
from training.losses import REGIONS, region_dice

HELD_OUT_SEED = 9_000_000
SUBSETS: dict[str, tuple[str, ...]] = {"all four": ROLES, "T1CE and FLAIR": ("t1ce", "flair")}

_NAMES = {
    "reference": r"seg|otmulticlass|label",
    "t1ce": r"t1c|t1gd|t1post",
    "flair": r"flair|t2f",
    "t2": r"t2w|t2",
    "t1": r"t1n|t1",
}
_WITH_NON_ENHANCING = torch.tensor(
    [0, 1, 2, 1, 3], dtype=torch.uint8
)  # BRATS 2013: 3 non-enhancing, 4 enhancing


@dataclass(frozen=True)
class Score:
    """One segmentation against its reference; volumes in mL, Dice NaN where neither has the region."""

    dice: Mapping[str, float]
    predicted_ml: Mapping[str, float]
    reference_ml: Mapping[str, float]
    uncertainty: float


def _volumes(labels: Tensor, voxel_mm3: float) -> dict[str, float]:
    members = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    return {
        region: float(torch.isin(labels, torch.tensor(codes, dtype=labels.dtype)).sum()) * voxel_mm3 / 1000
        for region, codes in members.items()
    }


def score(predicted: Tensor, reference: Tensor, voxel_mm3: float, uncertainty: float = float("nan")) -> Score:
    """Compare two label maps (I, J, K)."""
    return Score(
        region_dice(predicted, reference),
        _volumes(predicted, voxel_mm3),
        _volumes(reference, voxel_mm3),
        uncertainty,
    )


def simulated_scores(segmenter: TumourSegmenter, count: int, roles: Sequence[str]) -> list[Score]:
    """Scores on `count` held-out simulated heads through the same path as real images."""
    scores = []
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + count):
        case = grow_case(seed)
        rng = np.random.default_rng([seed, 3])
        images = render(
            rng, random_contrast(rng), case.head.tissue, case.head.outer, case.labels, case.oedema
        )
        given = {role: images[ROLES.index(role)] for role in roles}
        result = segmenter(given)
        scores.append(
            score(result.labels, case.labels, segmenter.description.spacing_mm**3, result.uncertainty)
        )
    return scores


@dataclass(frozen=True)
class RealCase:
    """A folder with images and a reference in BraTS labels."""

    name: str
    images: dict[str, Volume]
    reference: Volume


def real_cases(folder: Path) -> Iterator[RealCase]:
    """Every folder below `folder` whose NIfTI files include a reference segmentation."""
    for place in sorted({path.parent for path in folder.rglob("*.nii*")}):
        files: dict[str, Path] = {}
        for path in sorted(place.glob("*.nii*")):
            words = re.sub(r"[^a-z0-9]+", " ", path.name.lower().split(".nii")[0]).split()
            kind = next((k for k, pattern in _NAMES.items() for w in words if re.fullmatch(pattern, w)), None)
            if kind is not None and kind not in files:
                files[kind] = path
        if "reference" not in files or len(files) < 2:
            continue
        reference = Volume.load_nifti(files.pop("reference"))
        codes = torch.from_numpy(np.asarray(reference.array).round().astype(np.int64))
        if int(codes.max()) == 4:
            codes = _WITH_NON_ENHANCING[codes]
        volumes = {kind: Volume.load_nifti(path) for kind, path in files.items()}
        images = {role: v.with_array(np.asarray(v.array, dtype=np.float32)) for role, v in volumes.items()}
        yield RealCase(place.name, images, reference.with_array(codes.to(torch.uint8).numpy()))


def _line(name: str, scores: Sequence[Score]) -> str:
    parts = []
    for region in REGIONS:
        values = np.array([s.dice[region] for s in scores if s.reference_ml[region] > 0])
        parts.append(
            f"{region} {np.mean(values):.3f} (median {np.median(values):.3f})"
            if len(values)
            else f"{region} -"
        )
    return f"{name:28s} " + "  ".join(parts)


def report_simulated(segmenter: TumourSegmenter, count: int) -> None:
    """Print Dice per region and what is found in heads without tumour."""
    for name, roles in SUBSETS.items():
        scores = simulated_scores(segmenter, count, roles)
        print(_line(f"simulated, {name}", [s for s in scores if s.reference_ml["WT"] > 0]))
        healthy = [s for s in scores if s.reference_ml["WT"] == 0]
        found = [s.predicted_ml["WT"] for s in healthy if s.predicted_ml["WT"] > 0]
        print(
            f"{'':28s} tumour-free heads: something found in {len(found)} of {len(healthy)}, mL {np.round(found, 1)}"
        )


def report_cases(segmenter: TumourSegmenter, folder: Path, pictures: Path | None) -> None:
    """Print Dice and volumes of each real case, with all its contrasts and with T1CE and FLAIR alone."""
    for case in real_cases(folder):
        for name, roles in SUBSETS.items():
            images = {role: case.images[role] for role in roles if role in case.images}
            if name != "all four" and len(case.images) == len(images):
                continue
            labels = segment(images, segmenter, min_component_ml=0.1)
            predicted, reference = torch.from_numpy(labels.array), torch.from_numpy(case.reference.array)
            result = score(predicted, reference, labels.geometry.voxel_volume_mm3)
            print(_line(f"{case.name}, {', '.join(images)}", [result]))
            volumes = [f"{r} {result.predicted_ml[r]:.1f} ({result.reference_ml[r]:.1f})" for r in REGIONS]
            print(f"{'':28s} mL found (reference): {'  '.join(volumes)}")
            if pictures is not None:
                draw(case, labels, pictures / f"{case.name}-{len(images)}.png")


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
    parser.add_argument("--cases", type=Path, help="folder of real cases with a reference")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the real cases")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    segmenter = TumourSegmenter.load(find_bundle(options.models), device=options.device)
    if options.simulated:
        report_simulated(segmenter, options.simulated)
    if options.cases is not None:
        report_cases(segmenter, options.cases, options.pictures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
