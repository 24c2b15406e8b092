"""One segmentation against its reference: Dice, 95 % Hausdorff distance, volumes, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from training.losses import REGIONS, region_dice

_MEMBERS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
_BINS = 10


@dataclass(frozen=True)
class Score:
    """Scores of one case; Dice is NaN where neither has the region, a distance where either lacks it.

    Attributes
    ----------
    dice
        By region.
    distance_mm
        95 % Hausdorff distance by region, mm.
    predicted_ml, reference_ml
        Volumes by region, mL.
    uncertainty
        Mean entropy of the result, 0 to 1.
    agreement
        Dice between the answers that were averaged; NaN for a single one.
    doubted
        Whether the result says why to doubt it.
    calibration_error
        `calibration_error` of the whole tumour's probability; NaN where no probabilities were at hand.
    brain_ml
        Volume of the brain the network found, mL; NaN for a model without that output.
    """

    dice: Mapping[str, float]
    distance_mm: Mapping[str, float]
    predicted_ml: Mapping[str, float]
    reference_ml: Mapping[str, float]
    uncertainty: float
    agreement: float
    doubted: bool
    calibration_error: float
    brain_ml: float


def _region(labels: Tensor, region: str) -> np.ndarray:
    return torch.isin(labels, torch.tensor(_MEMBERS[region], dtype=labels.dtype)).numpy()


def _surface_distances(one: np.ndarray, other: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    surface = one & ~ndimage.binary_erosion(one)
    border = other & ~ndimage.binary_erosion(other)
    return ndimage.distance_transform_edt(~border, sampling=spacing_mm)[surface]


def hausdorff95(one: np.ndarray, other: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """95th percentile of the distances between two surfaces, the larger of both directions, mm; NaN if one is empty."""
    if not one.any() or not other.any():
        return float("nan")
    both = np.flatnonzero((one | other).any(axis=(1, 2)))
    piece = slice(max(0, both[0] - 1), both[-1] + 2)
    one, other = one[piece], other[piece]
    return float(
        max(
            np.percentile(_surface_distances(one, other, spacing_mm), 95),
            np.percentile(_surface_distances(other, one, spacing_mm), 95),
        )
    )


def calibration_error(probability: Tensor, truth: Tensor) -> float:
    """Expected calibration error (Naeini et al. 2015) of the whole tumour's probability, ten bins.

    Parameters
    ----------
    probability
        float (I, J, K).
    truth
        bool (I, J, K). Voxels that are neither tumour nor thought to be with 1 % or more do not count: they are most
        of an image and all alike.
    """
    counted = truth | (probability >= 0.01)
    if not counted.any():
        return 0.0
    p, t = probability[counted].double(), truth[counted].double()
    bins = (p * _BINS).long().clamp(max=_BINS - 1)
    number = torch.bincount(bins, minlength=_BINS).double()
    gap = (torch.bincount(bins, p, _BINS) - torch.bincount(bins, t, _BINS)).abs()
    return float((gap / number.clamp(min=1) * number).sum() / number.sum())


def volumes_ml(labels: Tensor, voxel_mm3: float) -> dict[str, float]:
    """Volume of WT, TC and ET in a label map, mL."""
    return {region: float(_region(labels, region).sum()) * voxel_mm3 / 1000 for region in REGIONS}


def score(
    predicted: Tensor,
    reference: Tensor,
    spacing_mm: Sequence[float],
    *,
    uncertainty: float = float("nan"),
    agreement: float | None = None,
    doubted: bool = False,
    probability: Tensor | None = None,
    brain_mask: Tensor | None = None,
) -> Score:
    """Compare two label maps (I, J, K); `probability` is that of the whole tumour, (I, J, K)."""
    voxel = float(np.prod(spacing_mm))
    return Score(
        region_dice(predicted, reference),
        {r: hausdorff95(_region(predicted, r), _region(reference, r), spacing_mm) for r in REGIONS},
        volumes_ml(predicted, voxel),
        volumes_ml(reference, voxel),
        uncertainty,
        float("nan") if agreement is None else agreement,
        doubted,
        float("nan") if probability is None else calibration_error(probability, reference > 0),
        float("nan") if brain_mask is None else float(brain_mask.sum()) * voxel / 1000,
    )


def summary(name: str, scores: Sequence[Score]) -> str:
    """Lines of means (medians in brackets) over cases with tumour, and what is found in those without."""
    ill = [s for s in scores if s.reference_ml["WT"] > 0]
    lines = [f"{name}: {len(ill)} with tumour, {len(scores) - len(ill)} without"]
    for region in REGIONS:
        having = [s for s in ill if s.reference_ml[region] > 0]
        if not having:
            continue
        dice = [s.dice[region] for s in having]
        found = [s.predicted_ml[region] / s.reference_ml[region] - 1 for s in having]
        far = [s.distance_mm[region] for s in having if not np.isnan(s.distance_mm[region])]
        distance = f"{np.mean(far):5.1f} ({np.median(far):.1f})" if far else "-"
        lines.append(
            f"  {region}  Dice {np.mean(dice):.3f} ({np.median(dice):.3f})  HD95 {distance} mm in {len(far)}"
            f"  volume {100 * np.mean(found):+.0f} % ({100 * np.median(found):+.0f} %)"
        )
    calibration = [s.calibration_error for s in ill if not np.isnan(s.calibration_error)]
    if calibration:
        lines.append(f"  calibration error {np.mean(calibration):.3f} ({np.median(calibration):.3f})")
    if ill:
        unsure = [s.uncertainty for s in ill]
        lines.append(f"  mean entropy {np.mean(unsure):.3f}, 95 of 100 below {np.percentile(unsure, 95):.3f}")
        agreed = [s.agreement for s in ill if s.predicted_ml["WT"] > 0 and not np.isnan(s.agreement)]
        if agreed:
            lines.append(
                f"  answers agree by {np.mean(agreed):.3f}, 95 of 100 above {np.percentile(agreed, 5):.3f}"
            )
        lines.append(f"  doubted: {sum(s.doubted for s in ill)} of {len(ill)}")
    brains = [s.brain_ml for s in scores if not np.isnan(s.brain_ml)]
    if brains:
        lines.append(f"  brain found, mL: {min(brains):.0f} to {max(brains):.0f}")
    healthy = [s for s in scores if s.reference_ml["WT"] == 0]
    if healthy:
        false = [s for s in healthy if s.predicted_ml["WT"] > 0]
        found = [f"{s.predicted_ml['WT']:.1f}{'' if s.doubted else ' not doubted'}" for s in false]
        lines.append(
            f"  tumour-free heads: something found in {len(false)} of {len(healthy)}, mL: {', '.join(found)}"
        )
    return "\n".join(lines)
