"""Label maps to and from the files that viewers exchange with the server."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from imaging.geometry import Geometry, Volume
from monailabel_app.refusal import Refusal

_READABLE = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha")
# Viewers carry a grid through single-precision headers.
_SAME_GRID_MM = 0.01


def write_labels(labels: Volume, suffix: str = ".nrrd") -> Path:
    """A label map as a file in the server's temporary folder.

    Parameters
    ----------
    labels : Volume
        uint8, on an orthogonal grid.
    suffix : str
        ".nrrd" or ".nii.gz".
    """
    with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
        path = Path(file.name)
    sitk.WriteImage(labels.to_sitk(), str(path), useCompression=True)
    return path


def read_labels(path: Path, grid: Geometry) -> Volume:
    """A viewer's label map, which must lie on the grid of the image it was drawn on.

    Raises
    ------
    Refusal
        If the file cannot be read, is not one label map, or lies on another grid.
    """
    if path.name.endswith(".seg.nrrd") or not path.name.endswith(_READABLE):
        raise Refusal(
            "The label must be one label map as .nii.gz or .nrrd; in Slicer's settings of MONAI Label choose the file "
            "extension .nii.gz."
        )
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise Refusal("The label file that was sent cannot be read; submit again.") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise Refusal("The label that was sent is not one three-dimensional label map.")
    values = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    if not np.isfinite(values).all() or (values != np.round(values)).any() or values.min(initial=0) < 0:
        raise Refusal("The label map that was sent holds values that are not whole numbers from 0 up.")
    own = _geometry(image)
    if not own.matches(grid, _SAME_GRID_MM):
        raise Refusal(
            "The label map that was sent does not lie on the grid of the image that the server gave; draw on that "
            "image, with it as the segmentation's source geometry."
        )
    return Volume(np.ascontiguousarray(values.astype(np.int64)), grid)


def _geometry(image: sitk.Image) -> Geometry:
    affine = np.eye(4)
    directions = np.asarray(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = directions * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    i, j, k = image.GetSize()
    return Geometry((i, j, k), affine)
