"""3D Slicer's side of the wire: its own client from the installed package, and its rules for labels.

The client is the file that MONAI Label installs for Slicer's plugin, imported from there. The rules are those of the
plugin (``updateSegmentationMask``, ``onSaveLabel``) and of Slicer's segmentations module, written down here because
Slicer itself cannot be installed beside the tests.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import SimpleITK as sitk

from imaging.geometry import AnyArray

CLIENT = Path(sys.prefix) / "monailabel/plugins/slicer/MONAILabel/MONAILabelLib/client.py"


def slicer_client() -> ModuleType:
    """The module that Slicer's plugin imports as ``MONAILabelLib.client``."""
    spec = importlib.util.spec_from_file_location("slicer_monailabel_client", CLIENT)
    assert spec is not None and spec.loader is not None, f"{CLIENT} is missing: MONAI Label is not installed"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_volume(path: Path) -> tuple[AnyArray, sitk.Image]:
    """Voxels (I, J, K) of an image and the image, as Slicer loads it."""
    image = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), image


def import_answer(
    file: Path, said: Mapping[str, Any], names: Sequence[str] | None = None
) -> dict[str, AnyArray]:
    """Segments that Slicer makes of an answer: the i-th name, by value, gets the voxels of value i + 1.

    With ``names``, as the panels for clicks and scribbles do, these are imported instead.
    """
    values, _ = load_volume(file)
    if names is None:
        by_value = sorted(said["label_names"].items(), key=lambda item: item[1])
        names = [name for name, _ in by_value]
    kept = [name for name in names if name != "background"]
    return {name: values == number for number, name in enumerate(kept, start=1)}


def ohif_segments(file: Path, model_info: Mapping[str, Any]) -> dict[str, AnyArray]:
    """Segments that OHIF makes of an answer: by the value that ``/info/`` states for the model."""
    values, _ = load_volume(file)
    return {name: values == value for name, value in model_info["labels"].items()}


def export_segments(
    segments: Mapping[str, AnyArray], like: Path, target: Path
) -> tuple[Path, list[dict[str, Any]]]:
    """What Slicer submits: a label map numbered by position, later segments over earlier ones, and ``label_info``.

    "background" is left out, but still counted by ``idx``.
    """
    _, image = load_volume(like)
    values = np.zeros(image.GetSize(), dtype=np.uint8)
    info: list[dict[str, Any]] = []
    for position, (name, mask) in enumerate(segments.items(), start=1):
        if name in ("background", "foreground_scribbles", "background_scribbles"):
            continue
        info.append({"name": name, "idx": position})
        values[mask] = len(info)
    _write(values, image, target)
    return target, info


def export_scribbles(
    segments: Mapping[str, AnyArray], like: Path, target: Path
) -> tuple[Path, list[dict[str, Any]]]:
    """What Slicer's scribbles panel sends: every segment, scribbles too, numbered by position."""
    _, image = load_volume(like)
    values = np.zeros(image.GetSize(), dtype=np.uint8)
    info = [{"name": name, "id": number} for number, name in enumerate(segments, start=1)]
    for number, mask in enumerate(segments.values(), start=1):
        values[mask] = number
    _write(values, image, target)
    return target, info


def _write(values: AnyArray, like: sitk.Image, target: Path) -> None:
    made = sitk.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
    made.CopyInformation(like)
    sitk.WriteImage(made, str(target))
