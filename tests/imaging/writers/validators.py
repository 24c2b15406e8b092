"""The programs other people check DICOM with. A missing one is an error: conformance is not optional."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from imaging.geometry import LPS_TO_RAS, Geometry, Volume

PIXELMED_JAR = Path("/usr/share/java/pixelmed.jar")


def tool(name: str, package: str) -> str:
    """Path of a program, beside the interpreter or on the PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is missing: install {package}")
    return found


def dciodvfy_errors(path: Path) -> list[str]:
    """Error lines of ``dciodvfy``, which also must name the kind of object it recognised."""
    run = subprocess.run(
        [tool("dciodvfy", "dicom3tools (apt)"), "-new", str(path)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    lines = run.stderr.splitlines() + run.stdout.splitlines()
    assert lines, "dciodvfy said nothing at all"
    return [line for line in lines if line.startswith(("Error", "Abort")) or "Object not found" in line]


def pixelmed_errors(path: Path) -> list[str]:
    """Error lines of PixelMed's template validator, which must have reached the end of TID 1500.

    It exits 0 whatever happens, and dies early on new Java without the three limits lifted.
    """
    java = tool("java", "default-jre-headless (apt)")
    if not PIXELMED_JAR.exists():
        raise FileNotFoundError("pixelmed.jar is missing: install pixelmed-apps (apt)")
    limits = [f"-Djdk.xml.xpath{name}=0" for name in ("TotalOpLimit", "ExprOpLimit", "ExprGrpLimit")]
    run = subprocess.run(
        [
            java,
            "-Xss64m",
            "-XX:TieredStopAtLevel=1",
            *limits,
            "-cp",
            str(PIXELMED_JAR),
            "com.pixelmed.validate.DicomSRValidator",
            str(path),
        ],
        capture_output=True,
        text=True,
        timeout=580,
    )
    output = run.stdout + run.stderr
    assert "Found Root Template TID_1500" in output, output[-2000:]
    assert "Root Template Validation Complete" in output, output[-2000:]
    return [line for line in output.splitlines() if re.match("^Error", line)]


def dcmqi_volumes(program: str, path: Path, folder: Path) -> tuple[dict[str, Volume], dict[str, Any]]:
    """What ``segimage2itkimage`` or ``paramap2itkimage`` make of a file: volumes by name, and the metadata."""
    folder.mkdir(parents=True)
    command = [tool(program, "dcmqi (pip)"), "--inputDICOM", str(path), "--outputDirectory", str(folder)]
    subprocess.run([*command, "-t", "nifti"], check=True, capture_output=True, timeout=120)
    volumes = {file.name.split(".")[0]: load(file) for file in folder.glob("*.nii.gz")}
    return volumes, json.loads((folder / "meta.json").read_text("utf-8"))


def dcmqi_report(path: Path, folder: Path) -> dict[str, Any]:
    """What ``tid1500reader`` makes of a structured report."""
    target = folder / "report.json"
    command = [
        tool("tid1500reader", "dcmqi (pip)"),
        "--inputDICOM",
        str(path),
        "--outputMetadata",
        str(target),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    report: dict[str, Any] = json.loads(target.read_text("utf-8"))
    return report


def dcm2niix_volume(path: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array and LPS affine that dcm2niix makes of one file."""
    given, made = folder / "in", folder / "out"
    given.mkdir(parents=True)
    made.mkdir()
    shutil.copy(path, given)
    command = [
        tool("dcm2niix", "dcm2niix (pip)"),
        "-z",
        "n",
        "-b",
        "n",
        "-f",
        "out",
        "-o",
        str(made),
        str(given),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (file,) = made.glob("*.nii")
    image = nib.load(file)
    return np.asanyarray(image.dataobj), LPS_TO_RAS @ image.affine


def load(path: Path) -> Volume:
    """NIfTI as a volume in LPS."""
    image = nib.load(path)
    array = np.asanyarray(image.dataobj)
    return Volume(array, Geometry(array.shape, LPS_TO_RAS @ image.affine))


def at_points(volume: Volume, points: np.ndarray) -> np.ndarray:
    """Values at LPS points by nearest voxel, 0 outside: compares images whatever their axis order."""
    index = np.round(volume.geometry.to_index(points)).astype(int)
    inside = ((index >= 0) & (index < volume.geometry.shape)).all(axis=-1)
    values = np.zeros(inside.shape, volume.array.dtype)
    values[inside] = volume.array[tuple(index[inside].T)]
    return values


def voxel_points(geometry: Geometry) -> np.ndarray:
    """``(I, J, K, 3)`` LPS coordinates of all voxels."""
    return geometry.to_patient(np.moveaxis(np.indices(geometry.shape), 0, -1))
