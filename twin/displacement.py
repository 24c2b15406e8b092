"""How far the model's boundary lies from a segmented one, at every face of the segmented mask's surface.

On the steady wave, density is a fixed function of distance in front widths. Read backwards it turns the density next to
a segmented surface into a distance to the model's own boundary that is close to linear in every parameter, where a
blurred mask saturates within a fraction of the front.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twin.coordinates import Vector
from twin.correlation import LONGEST, effective_samples, robust_sd
from twin.scene import Scene
from twin.wave import wave_profile

LEAST_NOISE_MM = 0.3
"""Displacements are never believed to be smaller than this, mm."""
_HUBER = 1.345
"""Displacements of so many standard deviations count in full, larger ones less: 95 % as efficient for a normal law."""
_EDGE_MM = 2.0
"""A boundary that has less tissue than this ahead of it follows the edge of the tissue, where no front shows."""
_LEAST_GRADIENT = 0.02
"""Steepness of the place on the wave below which a density shows no front, 1/mm."""


@dataclass(frozen=True)
class Surface:
    """Pairs of neighbouring voxels, one inside a mask and one outside, with the neighbours beside them.

    Parameters
    ----------
    voxels : ndarray
        (3, u) indices of all voxels that take part.
    inside, outside : ndarray
        (m,) positions in ``voxels`` of the two ends of each face.
    share : ndarray
        (m,) part of the way from the inner to the outer end where the boundary lies.
    spacing : ndarray
        (m,) distance of the two ends, mm.
    beside : ndarray
        (2, 2, 2, m) positions in ``voxels``: end, transverse axis, and side.
    across : ndarray
        (2, 2, m) distance of the two sides by end and transverse axis, mm.
    """

    voxels: Vector
    inside: Vector
    outside: Vector
    share: Vector
    spacing: Vector
    beside: Vector
    across: Vector

    @classmethod
    def of(cls, distance: Tensor, domain: Tensor, spacing_mm: tuple[float, float, float]) -> "Surface":
        """Surface of the mask whose voxels have a negative ``distance`` (X, Y, Z), within ``domain``.

        Without faces that have hardly any tissue ahead: where a mask stops a little short of a ventricle, it was drawn
        so, and the tumour had nowhere to go.
        """
        away, tissue, shape = distance.numpy(), domain.numpy(), distance.shape
        parts = []
        for axis in range(3):
            before = tuple(slice(None, -1) if n == axis else slice(None) for n in range(3))
            after = tuple(slice(1, None) if n == axis else slice(None) for n in range(3))
            crossed = ((away[before] < 0) != (away[after] < 0)) & tissue[before] & tissue[after]
            here = np.stack(crossed.nonzero())
            step = np.eye(3, dtype=np.int64)[axis][:, None]
            first, second = away[tuple(here)], away[tuple(here + step)]
            ends = np.where(first < 0, [here, here + step], [here + step, here])
            share = np.where(first < 0, first / (first - second), second / (second - first))
            outward = np.where(first < 0, step, -step)
            free = np.ones(share.size, dtype=bool)
            for further in range(1, math.ceil(_EDGE_MM / spacing_mm[axis]) + 1):
                ahead = np.clip(ends[1] + further * outward, 0, np.array(shape)[:, None] - 1)
                free &= tissue[tuple(ahead)]
            ends, share = ends[:, :, free], share[free]
            others = [n for n in range(3) if n != axis]
            beside = np.empty((2, 2, 2, 3, share.size), dtype=np.int64)
            across = np.empty((2, 2, share.size))
            for end in range(2):
                for number, other in enumerate(others):
                    sides = 0
                    for side, sign in enumerate((-1, 1)):
                        there = ends[end] + sign * np.eye(3, dtype=np.int64)[other][:, None]
                        held = np.clip(there, 0, np.array(shape)[:, None] - 1)
                        valid = (held == there).all(axis=0) & tissue[tuple(held)]
                        beside[end, number, side] = np.where(valid, held, ends[end])
                        sides = sides + valid
                    across[end, number] = np.maximum(sides, 1) * spacing_mm[other]
            parts.append((ends, share, np.full(share.size, spacing_mm[axis]), beside, across))
        ends, share, spacing, beside, across = (
            np.concatenate([part[n] for part in parts], axis=-1) for n in range(5)
        )
        everything = np.concatenate([ends, beside.reshape(8, 3, -1)])  # (10, 3, m)
        flat = np.ravel_multi_index(tuple(everything.transpose(1, 0, 2)), tuple(shape))
        used, place = np.unique(flat, return_inverse=True)
        place = place.reshape(flat.shape)
        return cls(
            voxels=np.stack(np.unravel_index(used, tuple(shape))),
            inside=place[0],
            outside=place[1],
            share=share,
            spacing=spacing,
            beside=place[2:].reshape(2, 2, 2, -1),
            across=across,
        )

    def taken(self, volume: Tensor) -> Vector:
        """Values (..., u) at the voxels of a volume (..., X, Y, Z), float64."""
        x, y, z = (torch.from_numpy(axis) for axis in self.voxels)
        return np.asarray(volume[..., x, y, z].double().numpy())

    def crossing(self, values: Vector) -> Vector:
        """Values (..., m) where the boundary crosses each face, of values (..., u)."""
        inner, outer = values[..., self.inside], values[..., self.outside]
        return np.asarray(inner + (outer - inner) * self.share)

    def gradient(self, values: Vector) -> Vector:
        """Derivatives (3, ..., m) along each face and across it, 1/mm."""
        made = [(values[..., self.outside] - values[..., self.inside]) / self.spacing]
        for axis in range(2):
            rise = np.zeros_like(made[0])
            for end in range(2):
                low, high = self.beside[end, axis]
                rise += (values[..., high] - values[..., low]) / (2.0 * self.across[end, axis])
            made.append(rise)
        return np.stack(made)


@dataclass(frozen=True)
class Displacement:
    """One mask of one follow-up visit as the likelihood sees it.

    The residual of a face is how far the segmented boundary, displaced by its shift, lies outside the model's, mm.

    Parameters
    ----------
    visit : int
        Number of the visit, from 1.
    first_shift : int
        Where its boundary shifts begin among the coordinates.
    mask : int
        0 for the core, 1 for the whole tumour.
    threshold : float
        Density at the mask's boundary.
    surface : Surface
        Of the mask.
    root : ndarray
        (m,) square roots of the faces' own weights, at most one.
    weight : float
        Precision given to every squared residual: effective samples over the sum of squared residuals.
    effective : float
        Effective samples.
    """

    visit: int
    first_shift: int
    mask: int
    threshold: float
    surface: Surface
    root: Vector
    weight: float = 1.0
    effective: float = 1.0

    def rows(self, density: Tensor) -> Vector:
        """Residuals (..., m) of densities (..., X, Y, Z) for no shift, times the faces' roots."""
        place, _ = wave_profile().place(self.surface.taken(density))
        steep = _steepness(self.surface.gradient(place))
        return np.asarray(self._ahead(place) / steep * self.root)

    @property
    def shift_rows(self) -> Vector:
        """Derivatives (2, m) of :meth:`rows` with respect to the shifts of core and whole boundary."""
        made = np.zeros((2, self.root.size))
        made[self.mask] = self.root
        return made

    def gram(self, fields: Tensor, position: Vector) -> Vector:
        """Products of derivatives and residuals, see :func:`twin.normal_equations.gram`."""
        taken = self.surface.taken(fields)
        place, by_density = wave_profile().place(taken[0])
        gradient = self.surface.gradient(place)
        steep = _steepness(gradient)
        residual = self._ahead(place) / steep
        tangents = taken[1:] * by_density
        turned = (gradient[:, None] * self.surface.gradient(tangents)).sum(axis=0) / steep**2
        rows = (self.surface.crossing(tangents) / steep - residual * turned) * self.root
        shifts = self.shift_rows
        shift = position[self.first_shift : self.first_shift + 2]
        stacked = np.concatenate([rows, shifts, (residual * self.root + shift @ shifts)[None]])
        return np.asarray(stacked @ stacked.T)

    def misfit(self, density: Tensor, position: Vector) -> float:
        """Weighted sum of squared residuals of a density (X, Y, Z)."""
        rows = self.rows(density) + position[self.first_shift : self.first_shift + 2] @ self.shift_rows
        return self.weight * float(rows @ rows)

    def _ahead(self, place: Vector) -> Vector:
        """How far ahead of the threshold each face is on the wave, front widths."""
        return np.asarray(self.surface.crossing(place) - wave_profile().position(self.threshold))


def _steepness(gradient: Vector) -> Vector:
    """Length of the gradient (3, ..., m), 1/mm."""
    return np.asarray(np.sqrt((gradient**2).sum(axis=0)).clip(min=_LEAST_GRADIENT))


def displacement(scene: Scene, visit: int, mask: int, density: Tensor) -> Displacement | None:
    """The target of one mask, weighed by how far the displacements that ``density`` (X, Y, Z) leaves are apart.

    None where the mask has no surface.
    """
    settings, distances = scene.settings, scene.distances[visit]
    boundary = distances.core if mask == 0 else distances.whole
    if boundary is None:
        return None
    threshold = settings.core_threshold if mask == 0 else settings.whole_threshold
    surface = Surface.of(boundary, scene.operator.domain, scene.spacing_mm)
    if not surface.share.size:
        return None
    ones = np.ones(surface.share.size)
    plain = Displacement(visit, scene.coordinates.shift(visit), mask, threshold, surface, ones)
    residual = plain.rows(density)
    residual -= np.median(residual)  # what all faces have in common is a shift, not noise
    sd = max(robust_sd(residual), LEAST_NOISE_MM)
    trust = np.minimum(1.0, _HUBER * sd / np.maximum(np.abs(residual), 1e-9))
    effective = _effective(
        scene, surface, residual.clip(-_HUBER * sd, _HUBER * sd), _patch_mm(scene, visit, mask)
    )
    squares = max(float(trust @ residual**2), LEAST_NOISE_MM**2 * float(trust.sum()))
    return Displacement(
        visit,
        plain.first_shift,
        mask,
        threshold,
        surface,
        np.sqrt(trust),
        weight=effective / squares,
        effective=effective,
    )


def _patch_mm(scene: Scene, visit: int, mask: int) -> float:
    """Shortest correlation length of displacements, mm.

    Two errors meet in them: that of the visit's own boundary, and that of the first one, which has travelled with the
    front and has grown with the tumour on the way. Correlated areas add.
    """
    first, later = (scene.distances[n].core if mask == 0 else scene.distances[n].whole for n in (0, visit))
    grown = 1.0
    if first is not None and later is not None:
        tissue = scene.operator.domain
        volumes = [float(((distance < 0) & tissue).sum()) for distance in (first, later)]
        grown = max(volumes[1] / max(volumes[0], 1.0), 1.0) ** (1.0 / 3.0)
    return scene.settings.boundary_correlation_mm * math.sqrt((1.0 + grown**2) / 2.0)


def _effective(scene: Scene, surface: Surface, residual: Vector, shortest_mm: float) -> float:
    """Effective number of independent displacements, less the one that a shift takes up."""
    shape = tuple(scene.operator.domain.shape)
    where = np.ravel_multi_index(tuple(surface.voxels[:, surface.inside]), shape)
    size = scene.operator.domain.numel()
    count = np.bincount(where, minlength=size)
    total = np.bincount(where, residual, minlength=size)
    band = torch.from_numpy(count > 0).view(shape)
    mean = torch.from_numpy(total / np.maximum(count, 1)).view(shape)
    found = effective_samples(mean, band, scene.spacing_mm, shortest_mm, LONGEST * shortest_mm)
    return max(found - 1.0, 0.5)
