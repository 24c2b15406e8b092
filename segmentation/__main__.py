"""Command line: segment one visit from NIfTI files or DICOM folders.

The only file of this room that knows `imaging`, for reading, resampling and writing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from imaging.catalog import read_catalog
from imaging.errors import ImagingError
from imaging.geometry import Volume
from imaging.preparation import averaged_on_grid, labels_on_image
from imaging.reader import read_volume
from segmentation.bundle import ROLES, find_bundle
from segmentation.errors import ModelError
from segmentation.inference import TumourSegmenter
from segmentation.postprocess import drop_small_components

_REFERENCE_ORDER = ("t1ce", "t1", "flair", "t2")
_REGIONS = {"NCR": (1,), "ED": (2,), "ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}


class UsageError(Exception):
    """Input that cannot be used; the message is one sentence for the user."""


def read_image(path: Path) -> Volume:
    """One contrast from a NIfTI file or from a folder that holds one DICOM series.

    Raises
    ------
    UsageError, ImagingError
        If there is not exactly one usable three-dimensional image of finite numbers.
    """
    if path.is_dir():
        catalog = read_catalog(path)
        series = [one for visit in catalog.visits for one in visit.series]
        if len(series) != 1:
            raise UsageError(
                f"{path} holds {len(series)} usable image series; give a folder with exactly one."
            )
        volume = read_volume(series[0])
    elif path.is_file():
        volume = Volume.load_nifti(path)
    else:
        raise UsageError(f"{path} does not exist; give a NIfTI file or a folder of DICOM files.")
    if not np.issubdtype(volume.array.dtype, np.number) or np.iscomplexobj(volume.array):
        raise UsageError(f"{path} does not hold real numbers.")
    volume = volume.with_array(np.asarray(volume.array, dtype=np.float32))
    if not np.isfinite(volume.array).all():
        raise UsageError(f"{path} holds values that are not finite numbers.")
    return volume


def segment(images: dict[str, Volume], segmenter: TumourSegmenter, min_component_ml: float) -> Volume:
    """Label map on the grid of the T1CE image, or of the first given.

    Parameters
    ----------
    images
        Role -> image; grids may differ, patient space must not.
    """
    reference = images[next(role for role in _REFERENCE_ORDER if role in images)]
    grid = reference.geometry.canonical().axis_aligned_cover(segmenter.description.spacing_mm)
    tensors = {
        role: torch.from_numpy(averaged_on_grid(volume, grid).array) for role, volume in images.items()
    }
    result = segmenter(tensors, min_component_ml=min_component_ml)
    for role in result.missing_roles:
        print(f"note: segmented without {role.upper()}", file=sys.stderr)
    for reason in result.out_of_family:
        print(f"note: {reason}", file=sys.stderr)
    background, ncr, ed, et = (Volume(p.numpy(), grid) for p in result.probabilities)
    labels = labels_on_image((background, ncr, ed, et), reference, segmenter.labels_of_image)
    minimum = min_component_ml * 1000 / reference.geometry.canonical().voxel_volume_mm3
    return labels.with_array(drop_small_components(torch.from_numpy(labels.array), minimum).numpy())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m segmentation",
        description="Segment a glioma on one visit's MR contrasts into necrosis (1), oedema (2) and enhancing tumour "
        "(3). The images given are taken to be aligned in patient space already: nothing is registered here. "
        "Research use only.",
    )
    for role in ROLES:
        parser.add_argument(
            f"--{role}", type=Path, metavar="F", help=f"{role.upper()}: NIfTI file or DICOM folder"
        )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT.nii.gz", help="label map to write"
    )
    parser.add_argument(
        "-m", "--models", type=Path, default=Path("models"), help="a bundle or a folder of one"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--min-component-ml", type=float, default=0.1, help="drop smaller connected parts")
    return parser


def _run(options: argparse.Namespace) -> None:
    paths = {role: getattr(options, role) for role in ROLES if getattr(options, role) is not None}
    if not paths:
        raise UsageError("no image is given; use --t1, --t1ce, --t2, --flair.")
    if not options.output.name.endswith((".nii", ".nii.gz")):
        raise UsageError(f"{options.output} must end in .nii or .nii.gz.")
    if not options.output.parent.is_dir():
        raise UsageError(f"folder {options.output.parent} does not exist; create it first.")
    segmenter = TumourSegmenter.load(find_bundle(options.models), device=options.device)
    unknown = [role for role in paths if role not in segmenter.description.input_roles]
    if unknown:
        raise UsageError(f"model {segmenter.description.name} does not use {', '.join(unknown).upper()}.")
    labels = segment(
        {role: read_image(path) for role, path in paths.items()}, segmenter, options.min_component_ml
    )
    labels.save_nifti(options.output)
    for region, members in _REGIONS.items():
        volume = np.isin(labels.array, members).sum() * labels.geometry.voxel_volume_mm3 / 1000
        print(f"{region:4s}{volume:10.2f} mL")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 with one sentence on bad input."""
    try:
        _run(_parser().parse_args(arguments))
    except (UsageError, ImagingError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
