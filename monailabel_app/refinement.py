"""Spreading a click or scribble over tissue that looks like what was marked, and no farther.

What was marked and the present mask are examples of two classes; every voxel near the mark is given to the class whose
examples lie denser around it in the space of contrasts and network evidence (Parzen estimate over nearest neighbours).
Of the voxels that would change, those connected to the mark do. A mark speaks of its own kind of tissue only: what has
another label than the voxels marked stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

Mask = npt.NDArray[np.bool_]

# Of each class; more examples change little and cost time.
_EXAMPLES = 800
_NEIGHBOURS = 40
# Share of its class's weight that the marked tissue has beside the present mask.
_SHARE_OF_MARK = 0.6
_MARK_RADIUS_MM = 2.0
_FORCED_RADIUS_MM = 1.5
_SMOOTHING_MM = 0.8
# Log odds that suffice for a change, round by round: what a round finds is an example in the next, since a mark alone
# shows little of how its tissue varies. At last doubt speaks for changing: a mark says that the mask is wrong here.
_ROUNDS = (0.0, 0.0, 0.0, -0.5)


@dataclass(frozen=True)
class Reach:
    """How far a mark acts.

    Parameters
    ----------
    spacing_mm : float
        Of the isotropic grid.
    limit_mm : float
        Voxels farther from every mark stay as they are.
    """

    spacing_mm: float
    limit_mm: float = 18.0


def spread(
    present: Mask,
    same_kind: Mask,
    features: npt.NDArray[np.floating[Any]],
    marks: Mask,
    include: bool,
    reach: Reach,
    seed: int = 0,
) -> Mask:
    """The mask after marking voxels as inside or outside.

    Parameters
    ----------
    present : numpy.ndarray
        bool (I, J, K), the mask so far.
    same_kind : numpy.ndarray
        bool (I, J, K), voxels with the same label as what was marked: no others change, but for those at the mark.
    features : numpy.ndarray
        float (F, I, J, K), each of unit spread within tissue.
    marks : numpy.ndarray
        bool (I, J, K), the voxels marked.
    include : bool
        True: they belong to the mask; False: they do not.
    reach : Reach
        How far marks act.
    seed : int
        Of the choice of examples.

    Returns
    -------
    numpy.ndarray
        bool (I, J, K); equal to ``present`` farther than ``reach.limit_mm`` from every mark.
    """
    if not marks.any():
        return present.copy()
    distance = ndimage.distance_transform_edt(~marks, sampling=reach.spacing_mm)
    near = distance <= reach.limit_mm
    forced = distance <= _FORCED_RADIUS_MM
    changeable = near & same_kind & (~present if include else present)
    marked = distance <= _MARK_RADIUS_MM
    alike = present if include else ~present
    wanted = changeable | forced
    width = _SMOOTHING_MM / reach.spacing_mm
    # Averaged over wanted voxels only: the border with the present mask must not pull.
    weight = np.maximum(ndimage.gaussian_filter(wanted.astype(np.float32), width), 1e-6)
    touched = forced
    for enough in _ROUNDS:
        unlike = ~alike & ~marked & near
        found = _evidence(features, marked, alike & ~marked & near, unlike, wanted, seed)
        evidence = ndimage.gaussian_filter(found, width) / weight
        candidates = (changeable & (evidence > enough)) | forced
        parts, _ = ndimage.label(candidates)
        touched = np.isin(parts, np.unique(parts[forced])) & candidates & near
        marked = marked | touched
    return present | touched if include else present & ~touched


def _evidence(
    features: npt.NDArray[np.floating[Any]], marked: Mask, alike: Mask, unlike: Mask, wanted: Mask, seed: int
) -> npt.NDArray[np.float32]:
    """Log odds of every wanted voxel to be like what was marked; 0 elsewhere."""
    generator = np.random.default_rng(seed)
    columns = np.moveaxis(features, 0, -1)
    groups = [_drawn(columns[mask], generator) for mask in (marked, alike, unlike)]
    share = _SHARE_OF_MARK if len(groups[1]) else 1.0
    weights = [share, 1.0 - share, -1.0]
    examples = np.concatenate(groups)
    signed = np.concatenate(
        [
            np.full(len(group), weight / max(len(group), 1))
            for group, weight in zip(groups, weights, strict=True)
        ]
    )
    asked = columns[wanted]
    # k as a list keeps the second axis when there is one example only.
    nearest = list(range(1, min(_NEIGHBOURS, len(examples)) + 1))
    gaps, which = (np.asarray(found) for found in cKDTree(examples).query(asked, k=nearest))
    width = np.maximum(gaps[:, -1:] / 2, 0.15)
    kernel = np.exp(-0.5 * (gaps / width) ** 2) * signed[which]
    positive, negative = np.clip(kernel, 0, None).sum(axis=1), np.clip(-kernel, 0, None).sum(axis=1)
    result = np.zeros(marked.shape, dtype=np.float32)
    tiny = 1e-3 / _EXAMPLES
    result[wanted] = np.clip(np.log((positive + tiny) / (negative + tiny)), -4, 4)
    return result


def _drawn(
    rows: npt.NDArray[np.floating[Any]], generator: np.random.Generator
) -> npt.NDArray[np.floating[Any]]:
    if len(rows) <= _EXAMPLES:
        return rows
    return rows[generator.choice(len(rows), _EXAMPLES, replace=False)]
