"""Label maps to and from the files that viewers exchange with the server."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from imaging.geometry import Geometry, Volume
from monailabel_app.refusal import Refusal

# Each by its own reader alone: another one could follow a name in the file. MetaImage is not among them, since its
# pixels may lie in any file that its header names; viewers do not send it.
_READERS = {".nii": "NiftiImageIO", ".nii.gz": "NiftiImageIO", ".nrrd": "NrrdImageIO"}
# A NRRD header may say that the pixels lie in other files ("data file", "datafile", in any case); it ends at an empty
# line. More than a reader takes for the header is looked at rather than less.
_NRRD_HEADER_BYTES = 1 << 20
_NRRD_HEADER = re.compile(rb"NRRD.*?(?:\n\n|\r\n\r\n)", re.DOTALL)
_OTHER_FILE = re.compile(rb"data\s*file\s*:", re.IGNORECASE)
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
        If the file cannot be read, names another file, is not one label map, or lies on another grid.
    """
    reads = next((reader for suffix, reader in _READERS.items() if path.name.endswith(suffix)), None)
    if path.name.endswith(".seg.nrrd") or reads is None:
        raise Refusal(
            "The label must be one label map as .nii.gz or .nrrd; in Slicer's settings of MONAI Label choose the file "
            "extension .nii.gz."
        )
    if reads == "NrrdImageIO":
        _refuse_detached(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(reads)
    reader.SetFileName(str(path))
    try:
        # The header alone: pixels are read only when they are as many as the grid has voxels.
        reader.ReadImageInformation()
        if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
            raise Refusal("The label that was sent is not one three-dimensional label map.")
        if not _geometry(reader).matches(grid, _SAME_GRID_MM):
            raise Refusal(
                "The label map that was sent does not lie on the grid of the image that the server gave; draw on that "
                "image, with it as the segmentation's source geometry."
            )
        image = reader.Execute()
    except (RuntimeError, ValueError) as error:
        raise Refusal("The label file that was sent cannot be read; submit again.") from error
    values = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    if not np.isfinite(values).all() or (values != np.round(values)).any() or values.min(initial=0) < 0:
        raise Refusal("The label map that was sent holds values that are not whole numbers from 0 up.")
    return Volume(np.ascontiguousarray(values.astype(np.int64)), grid)


def _refuse_detached(path: Path) -> None:
    """Refuse a NRRD whose pixels lie elsewhere: its reader would open any file, or wait at any pipe, of the server."""
    with path.open("rb") as file:
        header = _NRRD_HEADER.match(file.read(_NRRD_HEADER_BYTES))
    if header is None or _OTHER_FILE.search(header[0]):
        raise Refusal(
            "The label file that was sent does not hold its own pixels; send one whole .nrrd or .nii.gz."
        )


def _geometry(image: sitk.Image | sitk.ImageFileReader) -> Geometry:
    affine = np.eye(4)
    directions = np.asarray(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = directions * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    i, j, k = image.GetSize()
    return Geometry((i, j, k), affine)
