"""Where voxels lie in the patient: one type for every grid, one for every image on it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

from imaging.errors import ImagingError, Reason

FloatArray = npt.NDArray[np.floating[Any]]
AnyArray = npt.NDArray[Any]

# DICOM counts towards Left, Posterior, Superior; NIfTI towards Right, Anterior, Superior.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Geometry:
    """A regular voxel grid in DICOM patient coordinates.

    Parameters
    ----------
    shape : tuple of int
        Number of voxels ``(I, J, K)``; for a DICOM series columns, rows, slices.
    affine : numpy.ndarray
        ``(4, 4)`` float64, maps voxel index ``(i, j, k, 1)`` (voxel centres) to LPS in mm. Columns need
        not be orthogonal: a series acquired with gantry tilt is a sheared grid.
    frame_of_reference_uid : str
        DICOM Frame of Reference UID, empty when unknown (NIfTI).

    Raises
    ------
    ValueError
        If the shape is not three positive integers or the affine is singular.
    """

    shape: tuple[int, int, int]
    affine: FloatArray
    frame_of_reference_uid: str = ""

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.allclose(affine[3], (0, 0, 0, 1)):
            raise ValueError(f"affine must be (4, 4) with last row 0 0 0 1, not {affine.tolist()}")
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise ValueError("affine is singular or not finite: voxels have no volume")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape must be three positive integers, not {self.shape}")
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along i, j, k in mm."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def directions(self) -> FloatArray:
        """``(3, 3)`` unit vectors of the i, j, k axes as columns."""
        directions: FloatArray = self.affine[:3, :3] / np.asarray(self.spacing)
        return directions

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def centre(self) -> FloatArray:
        """``(3,)`` LPS coordinates in mm of the middle of the grid."""
        return self.to_patient((np.asarray(self.shape, dtype=np.float64) - 1) / 2)

    @property
    def is_orthogonal(self) -> bool:
        """Whether the three axes are at right angles (to 1e-4); a tilted gantry is not."""
        product = self.directions.T @ self.directions
        return bool(np.allclose(product, np.eye(3), atol=1e-4))

    def to_patient(self, index: npt.ArrayLike) -> FloatArray:
        """LPS coordinates ``(..., 3)`` in mm of voxel indices ``(..., 3)``."""
        points: FloatArray = np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return points

    def to_index(self, point: npt.ArrayLike) -> FloatArray:
        """Fractional voxel indices ``(..., 3)`` of LPS coordinates ``(..., 3)`` in mm."""
        inverse = np.linalg.inv(self.affine)
        index: FloatArray = np.asarray(point, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]
        return index

    def matches(self, other: Geometry, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have the same shape and all corners agree within ``tolerance_mm``."""
        return self.shape == other.shape and bool(
            np.abs(self.corners() - other.corners()).max() <= tolerance_mm
        )

    def corners(self) -> FloatArray:
        """``(8, 3)`` LPS coordinates in mm of the corner voxel centres."""
        return self.to_patient(list(itertools.product(*((0, n - 1) for n in self.shape))))

    def axis_aligned_cover(self, spacing_mm: float) -> Geometry:
        """Smallest isotropic grid along the patient's L, P, S axes that covers this grid.

        Parameters
        ----------
        spacing_mm : float
            Spacing of the new grid in mm.
        """
        corners = self.to_patient(list(itertools.product(*((-0.5, n - 0.5) for n in self.shape))))
        low, high = corners.min(axis=0), corners.max(axis=0)
        shape = np.maximum(1, np.ceil((high - low) / spacing_mm - 1e-6)).astype(int)
        affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
        affine[:3, 3] = (low + high) / 2 - (shape - 1) / 2 * spacing_mm
        return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine, self.frame_of_reference_uid)

    def canonical(self) -> Geometry:
        """The same voxels counted along the patient axes L, P, S they are closest to; origin to a nanometre.

        A grid stored in any order of its axes and directions has one canonical form, so what is computed on that does
        not depend on the order; without the rounding the origin would keep the last bits of how it was stored.
        """
        affine = self.affine @ inv_ornt_aff(io_orientation(self.affine), self.shape)
        affine[:3, 3] = np.round(affine[:3, 3], 6) + 0.0
        order = np.argsort(io_orientation(self.affine)[:, 0])
        i, j, k = (self.shape[axis] for axis in order)
        return Geometry((i, j, k), affine, self.frame_of_reference_uid)

    def crop(self, start: npt.ArrayLike, stop: npt.ArrayLike) -> Geometry:
        """Grid of the voxels ``start <= index < stop``."""
        start, stop = np.asarray(start, dtype=int), np.asarray(stop, dtype=int)
        affine = self.affine.copy()
        affine[:3, 3] = self.to_patient(start)
        extent = stop - start
        return Geometry((int(extent[0]), int(extent[1]), int(extent[2])), affine, self.frame_of_reference_uid)

    def moved(self, transform: FloatArray, frame_of_reference_uid: str) -> Geometry:
        """The same grid carried by a rigid ``(4, 4)`` LPS transform into another frame of reference."""
        return Geometry(self.shape, np.asarray(transform) @ self.affine, frame_of_reference_uid)


@dataclass(frozen=True, eq=False)
class Volume:
    """An image on a grid.

    Parameters
    ----------
    array : numpy.ndarray
        ``(I, J, K)`` voxel values, in the order of ``geometry.shape``.
    geometry : Geometry
        Where the voxels lie.

    Raises
    ------
    ValueError
        If the array's shape is not the geometry's.
    """

    array: AnyArray
    geometry: Geometry

    def __post_init__(self) -> None:
        if tuple(self.array.shape) != self.geometry.shape:
            raise ValueError(f"array of shape {self.array.shape} does not fit the grid {self.geometry.shape}")

    def with_array(self, array: AnyArray) -> Volume:
        """Another image on the same grid."""
        return replace(self, array=array)

    def canonical(self) -> Volume:
        """The same image with its voxels stored in the order of `Geometry.canonical`."""
        return self.stored_as(self.geometry.canonical())

    def stored_as(self, geometry: Geometry) -> Volume:
        """The same image with its voxels stored in the order of another form of its grid."""
        order = ornt_transform(io_orientation(self.geometry.affine), io_orientation(geometry.affine))
        return Volume(np.ascontiguousarray(apply_orientation(self.array, order)), geometry)

    def to_sitk(self) -> sitk.Image:
        """As a SimpleITK image in LPS.

        Raises
        ------
        ValueError
            If the grid is sheared, which ITK images cannot express; resample it first.
        """
        if not self.geometry.is_orthogonal:
            raise ValueError("a sheared grid cannot be an ITK image; resample it to an orthogonal one first")
        image = _index_space_image(self.array)
        image.SetSpacing(self.geometry.spacing)
        image.SetDirection(self.geometry.directions.ravel().tolist())
        image.SetOrigin(self.geometry.affine[:3, 3].tolist())
        return image

    def resampled(
        self,
        geometry: Geometry,
        transform: sitk.Transform | None = None,
        interpolation: Literal["linear", "nearest", "cubic"] = "linear",
        outside: float = 0.0,
    ) -> Volume:
        """This image seen on another grid.

        Parameters
        ----------
        geometry : Geometry
            The grid wanted. Any pair of grids works, sheared ones too: sampling runs in index space.
        transform : SimpleITK.Transform, optional
            Maps LPS points of ``geometry`` to LPS points of this image (ITK's fixed to moving); identity by
            default.
        interpolation : {"linear", "nearest", "cubic"}
            "nearest" for labels.
        outside : float
            Value where ``geometry`` reaches beyond this image.
        """
        interpolators = {
            "linear": sitk.sitkLinear,
            "nearest": sitk.sitkNearestNeighbor,
            "cubic": sitk.sitkBSpline,
        }
        array = self.array.astype(np.uint8) if self.array.dtype == bool else self.array
        # ITK applies the transform added last first: target index -> LPS -> other LPS -> source index.
        chain = sitk.CompositeTransform(3)
        chain.AddTransform(_affine_transform(np.linalg.inv(self.geometry.affine)))
        if transform is not None:
            chain.AddTransform(transform)
        chain.AddTransform(_affine_transform(geometry.affine))
        grid = sitk.Image(geometry.shape, sitk.sitkUInt8)
        moved = sitk.Resample(_index_space_image(array), grid, chain, interpolators[interpolation], outside)
        values = sitk.GetArrayFromImage(moved).transpose(2, 1, 0)
        if self.array.dtype == bool:
            values = values > 0
        return Volume(np.ascontiguousarray(values), geometry)

    def save_nifti(self, path: Path) -> None:
        """Write as NIfTI (RAS affine); the array order is kept."""
        array = self.array.astype(np.uint8) if self.array.dtype == bool else self.array
        image = nib.Nifti1Image(array, LPS_TO_RAS @ self.geometry.affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, path)

    @classmethod
    def load_nifti(cls, path: Path) -> Volume:
        """Read a three-dimensional NIfTI image.

        Raises
        ------
        ImagingError
            If the file is not readable NIfTI or not three-dimensional.
        """
        try:
            image = nib.load(path)
            array = np.asanyarray(image.dataobj)
            affine = LPS_TO_RAS @ np.asarray(image.affine)
        except (ImageFileError, OSError, EOFError, ValueError) as error:
            raise ImagingError(
                Reason.UNDECODABLE, f"{path.name} cannot be read as NIfTI ({type(error).__name__})."
            ) from error
        if array.ndim == 4 and array.shape[3] == 1:
            array = array[..., 0]
        if array.ndim != 3:
            raise ImagingError(
                Reason.NOT_A_VOLUME, f"{path.name} has {array.ndim} dimensions; give one 3-D image."
            )
        shape = (int(array.shape[0]), int(array.shape[1]), int(array.shape[2]))
        return cls(array, Geometry(shape, affine))


def _index_space_image(array: AnyArray) -> sitk.Image:
    """ITK image whose physical space is the voxel index (ITK arrays are indexed k, j, i)."""
    return sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))


def _affine_transform(matrix: FloatArray) -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform
