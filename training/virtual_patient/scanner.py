"""From a head to an image series: slice prescription, sampling, coil bias, Rician noise, integers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from imaging.geometry import Geometry, Volume
from imaging.roles import Role
from training.virtual_patient.contrast import Sequence
from training.virtual_patient.fields import Float32Array

Orientation = Literal["axial", "sagittal", "coronal"]
FloatArray = npt.NDArray[np.float64]

# Columns: direction of rising column index, of rising row index, and of rising slice, in LPS.
ORIENTATIONS: dict[Orientation, FloatArray] = {
    "axial": np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]).T,
    "sagittal": np.array([[0, 1.0, 0], [0, 0, -1], [-1, 0, 0]]).T,
    "coronal": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]).T,
}

MPRAGE = Sequence("mprage", 2300, 2.98, 1100, 9, 1)
T2_TSE = Sequence("tse", 5100, 95, None, 150, 15)
FLAIR = Sequence("tirm", 9000, 110, 2500, 150, 16)


@dataclass(frozen=True)
class SeriesPlan:
    """How one series is acquired.

    Parameters
    ----------
    sequence : Sequence
        Contrast.
    orientation : {"axial", "sagittal", "coronal"}
        Slice plane before tilting.
    matrix : tuple of int
        Columns, rows, slices.
    spacing_mm : tuple of float
        Distance between columns, rows and slices in mm.
    thickness_mm : float
        Slice thickness in mm; less than the slice distance leaves a gap.
    dimension : {"2D", "3D"}
        MR Acquisition Type.
    tilt_degrees : float
        Typical tilt of the slices about the patient's left-right axis (radiographers follow the skull base).
    """

    sequence: Sequence
    orientation: Orientation
    matrix: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    thickness_mm: float
    dimension: Literal["2D", "3D"]
    tilt_degrees: float = 0.0

    def coarser(self, spacing_mm: float, slice_mm: float) -> SeriesPlan:
        """The same field of view with larger voxels."""
        step = (spacing_mm, spacing_mm, slice_mm)
        columns, rows, slices = (
            round(n * old / new) for n, old, new in zip(self.matrix, self.spacing_mm, step, strict=True)
        )
        thickness = slice_mm * self.thickness_mm / self.spacing_mm[2]
        return replace(self, matrix=(columns, rows, slices), spacing_mm=step, thickness_mm=thickness)


CLINICAL_PLANS: dict[Role, SeriesPlan] = {
    "t1": SeriesPlan(MPRAGE, "axial", (192, 240, 116), (1.0, 1.0, 1.5), 1.5, "3D"),
    "t1ce": SeriesPlan(MPRAGE, "sagittal", (240, 240, 144), (1.0, 1.0, 1.2), 1.2, "3D"),
    "t2": SeriesPlan(T2_TSE, "axial", (224, 256, 40), (0.9, 0.9, 4.0), 3.6, "2D", -12.0),
    "flair": SeriesPlan(FLAIR, "axial", (216, 256, 40), (0.9375, 0.9375, 4.0), 3.6, "2D", -12.0),
}
SMALL_PLANS: dict[Role, SeriesPlan] = {
    "t1": CLINICAL_PLANS["t1"].coarser(3.0, 3.0),
    "t1ce": CLINICAL_PLANS["t1ce"].coarser(3.0, 3.0),
    "t2": CLINICAL_PLANS["t2"].coarser(2.5, 5.0),
    "flair": CLINICAL_PLANS["flair"].coarser(2.5, 5.0),
}


@dataclass(frozen=True)
class Imperfections:
    """What a scanner adds: noise relative to white matter in the T1 image, coil bias as a log amplitude."""

    noise: float
    bias: float


def rigid(degrees: npt.ArrayLike, shift_mm: npt.ArrayLike, centre: npt.ArrayLike) -> FloatArray:
    """``(4, 4)`` LPS rotation by Euler angles (x, y, z) about ``centre``, then a shift."""
    pivot = np.asarray(centre, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", np.asarray(degrees), degrees=True).as_matrix()
    matrix[:3, 3] = pivot - matrix[:3, :3] @ pivot + np.asarray(shift_mm)
    return matrix


def prescribe(
    plan: SeriesPlan, centre: npt.ArrayLike, rng: np.random.Generator, frame_of_reference_uid: str
) -> Geometry:
    """Slices of a plan about ``centre`` (LPS mm), tilted as a radiographer would, never quite straight."""
    tilt = np.array((plan.tilt_degrees, 0.0, 0.0)) + rng.uniform(-2.5, 2.5, 3)
    turn = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ ORIENTATIONS[plan.orientation] * plan.spacing_mm
    middle = (np.asarray(plan.matrix) - 1) / 2
    affine[:3, 3] = np.asarray(centre) + rng.uniform(-3, 3, 3) - affine[:3, :3] @ middle
    return Geometry(plan.matrix, affine, frame_of_reference_uid)


def acquire(
    head: Volume,
    slices: Geometry,
    faults: Imperfections,
    noise_level: float,
    rng: np.random.Generator,
) -> Float32Array:
    """Image of ``head`` (already posed in the scanner) on ``slices``.

    Parameters
    ----------
    head : Volume
        Noise-free signal in scanner coordinates.
    slices : Geometry
        Voxel grid of the series; the signal is averaged over the distance between slices, because the
        profile of a real slice reaches into the gap.
    faults : Imperfections
        Bias and noise.
    noise_level : float
        Signal to which ``faults.noise`` is relative.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    numpy.ndarray
        float32 magnitude image of ``slices.shape``.
    """
    count = max(1, round(slices.spacing[2] / 1.2))
    image: Float32Array = head.resampled(_thinner(slices, count)).array
    image = image.reshape(*slices.shape, count).mean(axis=3)
    for axis in range(3):
        image *= _coil_profile(slices.shape[axis], axis, faults.bias, rng)
    level = np.float32(faults.noise * noise_level)
    if level > 0:
        # Both channels of the complex signal are noisy; the magnitude is Rician.
        image += level * rng.standard_normal(image.shape, dtype=np.float32)
        image *= image
        other = rng.standard_normal(image.shape, dtype=np.float32)
        other *= level
        image += other * other
        np.sqrt(image, out=image)
    return image


def _thinner(slices: Geometry, count: int) -> Geometry:
    """The grid with every slice cut into ``count``."""
    affine = slices.affine.copy()
    affine[:3, 2] /= count
    affine[:3, 3] -= affine[:3, 2] * (count - 1) / 2
    columns, rows, number = slices.shape
    return Geometry((columns, rows, number * count), affine, slices.frame_of_reference_uid)


def _coil_profile(size: int, axis: int, amplitude: float, rng: np.random.Generator) -> Float32Array:
    """Smooth sensitivity along one axis: a slope and a sag, shaped to broadcast."""
    position = np.linspace(-1, 1, size)
    slope, sag = rng.uniform(-0.5, 0.5), rng.uniform(0, 0.6)
    profile = np.exp(amplitude * (slope * position + sag * (position**2 - 1 / 3)))
    return profile.astype(np.float32).reshape([-1 if n == axis else 1 for n in range(3)])


def digitised(image: Float32Array, bright: float) -> npt.NDArray[np.uint16]:
    """12-bit integers in which the signal ``bright`` becomes 1500."""
    stored: npt.NDArray[np.uint16] = np.clip(np.rint(image * np.float32(1500 / bright)), 0, 4095).astype(
        np.uint16
    )
    return stored
