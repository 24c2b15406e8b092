"""Normal structures that take up contrast agent: sinuses, deep veins, arteries, choroid plexus, dura.

Their courses are centrelines and sheets in the coordinates of the ICBM152 template (mm, right-anterior-superior),
read off an atlas to a few millimetres; random deformation and calibre cover the rest. A network that has not seen
them calls them enhancing tumour.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.spatial import cKDTree

REACH_MM = 10.0  # closeness is 0 beyond this distance

Point = tuple[float, float, float]

# One side only; the other is its mirror image.
_LINES: dict[str, tuple[tuple[Point, ...], ...]] = {
    "lateral sinus": (
        ((0, -98, -14), (25, -93, -19), (48, -77, -25), (60, -58, -29), (48, -46, -42), (38, -40, -52)),
    ),
    "deep veins": (
        ((0, -40, 6), (0, -58, 1), (0, -78, -7), (0, -98, -14)),
        ((3, 0, 14), (3, -20, 13), (0, -40, 6)),
        ((16, -12, -14), (22, -26, -8), (8, -38, 3), (0, -40, 6)),
    ),
    "arteries": (
        ((24, -12, -40), (14, -2, -29), (12, 4, -19), (12, 5, -15), (28, 5, -17), (41, 0, -11), (45, -14, 3)),
        ((12, 5, -15), (3, 19, -12), (2, 34, 0), (2, 30, 19), (2, 8, 29)),
        ((0, -30, -50), (0, -20, -31), (0, -18, -18), (18, -25, -14), (22, -46, -5)),
    ),
    "choroid": (
        ((30, -28, -8), (27, -37, 0), (24, -40, 7), (21, -36, 13), (14, -29, 18), (6, -8, 16)),
        ((24, -41, 4), (24, -39, 10)),
        ((0, -6, 9), (0, -22, 10)),
        ((0, -42, -35), (12, -40, -40)),
    ),
    "skull base": (
        ((12, 8, -22), (13, -2, -25), (14, -10, -27)),
        ((0, 3, -24), (0, 3, -30)),
        ((0, -28, 2), (0, -30, 3)),
    ),
}
STRUCTURES = (*_LINES, "falx", "tentorium")


def _along(points: tuple[Point, ...]) -> np.ndarray:
    """Points every millimetre or less along a polyline and its mirror image, (N, 3) mm."""
    corners = np.asarray(points, dtype=float)
    pieces = [
        a + (b - a) * np.linspace(0, 1, int(np.linalg.norm(b - a)) + 2)[:, None]
        for a, b in itertools.pairwise(corners)
    ]
    line = np.concatenate(pieces)
    return np.concatenate([line, line * [-1, 1, 1]])


def _sheets() -> dict[str, np.ndarray]:
    """Points of the falx (between the hemispheres, above the corpus callosum) and of the tentorium, (N, 3) mm."""
    y, z = (a.ravel() for a in np.meshgrid(np.arange(-95, 66), np.arange(-15, 80), indexing="ij"))
    free_edge = 38 - 0.012 * (y - 5) ** 2
    falx = np.stack([np.zeros(y.size), y, z], axis=1)[(z > free_edge) & ((y < -40) | (y > -10) | (z > 30))]
    x, y = (a.ravel() for a in np.meshgrid(np.arange(-58, 59), np.arange(-98, -38), indexing="ij"))
    height = 3 - 0.42 * abs(x) - 0.28 * np.maximum(0, -45 - y)
    kept = (x / 60) ** 2 + ((y + 45) / 54) ** 2 < 1
    opening = (x / 22) ** 2 + ((y + 38) / 12) ** 2 < 1  # the notch around the brain stem
    tentorium = np.stack([x, y, height], axis=1)[kept & ~opening]
    return {"falx": falx, "tentorium": tentorium}


def closeness_maps(positions: np.ndarray) -> np.ndarray:
    """How near each structure of `STRUCTURES` is.

    Parameters
    ----------
    positions
        float (..., 3): template coordinates in mm.

    Returns
    -------
    numpy.ndarray
        float32 (len(STRUCTURES), ...): `REACH_MM` minus the distance to the structure in mm, not below 0.
    """
    points = {name: np.concatenate([_along(line) for line in lines]) for name, lines in _LINES.items()}
    points |= _sheets()
    maps = []
    for name in STRUCTURES:
        distance, _ = cKDTree(points[name]).query(positions, distance_upper_bound=REACH_MM)
        maps.append(np.clip(REACH_MM - distance, 0, None))
    return np.stack(maps).astype(np.float32)
