"""Random numbers that depend on a seed and a purpose only, and smooth random fields made of them."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from imaging.geometry import Geometry, Volume

Float32Array = npt.NDArray[np.float32]


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """Generator for one purpose, independent of how many numbers other purposes have drawn."""
    words = [zlib.crc32(str(word).encode()) for word in purpose]
    return np.random.default_rng([seed, *words])


def smooth_noise(geometry: Geometry, rng: np.random.Generator, scale_mm: float) -> Float32Array:
    """Random field of mean 0 and standard deviation near 1, correlated over ``scale_mm``.

    Parameters
    ----------
    geometry : Geometry
        Grid wanted; must be axis-aligned.
    rng : numpy.random.Generator
        Source of randomness.
    scale_mm : float
        Correlation length in mm; below the grid's spacing the field is white.

    Returns
    -------
    numpy.ndarray
        float32 field of ``geometry.shape``.
    """
    lattice = geometry.axis_aligned_cover(max(scale_mm / 1.5, max(geometry.spacing)))
    values = rng.standard_normal(lattice.shape, dtype=np.float32)
    values = ndimage.gaussian_filter(values, 0.8, mode="reflect")
    return upsampled(Volume(values / values.std(), lattice), geometry)


def upsampled(coarse: Volume, geometry: Geometry) -> Float32Array:
    """Linear interpolation between two axis-aligned grids, the border repeated; float32 of ``geometry.shape``.

    One axis after the other, the slowest in memory last, is several times faster than a general resampling.
    """
    values = coarse.array.astype(np.float32, copy=False)
    for axis in (2, 1, 0):
        source, target = coarse.geometry, geometry
        points = target.affine[axis, 3] + target.affine[axis, axis] * np.arange(target.shape[axis])
        index = np.clip(
            (points - source.affine[axis, 3]) / source.affine[axis, axis], 0, source.shape[axis] - 1
        )
        low = np.minimum(index.astype(int), max(source.shape[axis] - 2, 0))
        weight = np.expand_dims((index - low).astype(np.float32), tuple(n for n in range(3) if n != axis))
        start = values.take(low, axis)
        values = values.take(np.minimum(low + 1, source.shape[axis] - 1), axis)
        values -= start
        values *= weight
        values += start
    return values


def smooth_step(values: Float32Array, edge: float | Float32Array, width: float) -> Float32Array:
    """0 below ``edge``, 1 above, with a linear ramp of ``width`` centred on the edge; the reverse if negative."""
    ramp: Float32Array = values - np.asarray(edge, np.float32)
    ramp /= np.float32(width)
    ramp += np.float32(0.5)
    return np.clip(ramp, 0, 1, out=ramp)
