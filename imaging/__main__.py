"""``python -m imaging IN``: what a folder of DICOM holds and what the application would make of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imaging.catalog import Catalog, Inventory, Series, Visit, read_inventory
from imaging.errors import ImagingError
from imaging.geometry import Geometry
from imaging.reader import read_volume
from imaging.role_selection import propose_roles
from imaging.visit_selection import without_head

EXIT_USAGE = 2
EXIT_UNUSABLE = 3
_IGNORED_SHOWN = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 listed, 3 unusable input, 2 usage)."""
    parser = argparse.ArgumentParser(
        prog="python -m imaging",
        description="List patients, visits and series of a folder of DICOM files, with geometry, role and reasons.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="IN", help="folder of DICOM files, searched to the bottom"
    )
    parser.add_argument("--json", action="store_true", help="write JSON instead of a table")
    parser.add_argument(
        "--nifti", type=Path, metavar="DIR", help="also write each readable series as NIfTI into DIR"
    )
    parser.add_argument(
        "--visit-gap-hours", type=float, default=4.0, help="longest pause within a visit (default 4)"
    )
    options = parser.parse_args(arguments)
    try:
        if options.nifti is not None:
            options.nifti.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _refuse_output(options.nifti, error)
    try:
        inventory = read_inventory(
            options.folder, visit_gap_hours=options.visit_gap_hours, progress=_progress
        )
    except ImagingError as error:
        print(error.message, file=sys.stderr)
        return EXIT_UNUSABLE
    listing = describe(inventory)
    try:
        if options.nifti is not None:
            _write_nifti(inventory, listing, options.nifti)
    except OSError as error:
        return _refuse_output(options.nifti, error)
    try:
        print(
            json.dumps(listing, indent=2, ensure_ascii=False) if options.json else as_table(listing),
            flush=True,
        )
    except BrokenPipeError:
        # the reader, often a pager, has seen enough; nothing more may be written when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not inventory.patients:
        print("The folder holds no DICOM file; give a folder of DICOM files.", file=sys.stderr)
        return EXIT_UNUSABLE
    return 0


def describe(inventory: Inventory) -> dict[str, Any]:
    """The inventory as plain data; the one source of the table and of the JSON."""
    return {
        "patients": [_describe_patient(catalog) for catalog in inventory.patients],
        "broken": [{"file": file.name, "sentence": file.sentence} for file in inventory.broken],
        "ignored": [{"file": file.path, "reason": file.reason} for file in inventory.ignored],
    }


def as_table(listing: dict[str, Any]) -> str:
    """The listing for people."""
    lines: list[str] = []
    for patient in listing["patients"]:
        lines.append(f"Patient {patient['patient_id'] or '(PatientID is empty)'}")
        for visit in patient["visits"]:
            lines += ["", f"  Visit {visit['date'].replace('T', ' ')[:16]}"]
            lines += _rows(visit["series"])
            missing = [
                role for role, problem in visit["problems"].items() if problem["reason"] == "missing_sequence"
            ]
            if visit["left_out"]:
                lines.append(f"    ! left out of a run with other visits: {visit['left_out']}")
            elif missing:
                lines.append(f"    ! no usable series for {', '.join(missing)}")
            lines += [
                f"    ! {item['sentence']}" for role, item in visit["problems"].items() if role not in missing
            ]
            lines += [
                f"    drawing {item['file']} ({item['kind']}, {item['created']})"
                for item in visit["annotations"]
            ]
        lines += [
            f"  dose {item['file']} ({item['summation'] or 'no DoseSummationType'}, {item['sop_instance_uid']})"
            for item in patient["doses"]
        ]
        lines += [f"  ! {item['sentence']}" for item in patient["unplaced"] + patient["refused_annotations"]]
        lines += _ignored_rows(patient["ignored"])
        lines.append("")
    lines += [f"! {file['sentence']}" for file in listing["broken"]]
    lines += _ignored_rows(listing["ignored"])
    return "\n".join(lines).rstrip()


def _describe_patient(catalog: Catalog) -> dict[str, Any]:
    return {
        "patient_id": catalog.patient.patient_id,
        "digest": catalog.digest,
        "visits": [_describe_visit(visit) for visit in catalog.visits],
        "unplaced": [{"series_uid": item.uid, "sentence": item.sentence} for item in catalog.unplaced],
        "refused_annotations": [
            {"file": item.name, "reason": item.reason.value, "sentence": item.sentence}
            for item in catalog.refused_annotations
        ],
        "doses": [
            {
                "file": dose.path.name,
                "sop_instance_uid": dose.sop_instance_uid,
                "frame_of_reference_uid": dose.frame_of_reference_uid,
                "summation": dose.summation,
            }
            for dose in catalog.doses
        ],
        "ignored": [{"file": file.path, "reason": file.reason} for file in catalog.ignored],
    }


def _describe_visit(visit: Visit) -> dict[str, Any]:
    selection, problems = propose_roles(visit)
    roles = {series.uid: role for role, series in selection.chosen.items()}
    usable = [
        {
            **_describe_series(item),
            "role": roles.get(item.uid),
            "why": selection.reasons.get(item.uid),
            "geometry": _describe_geometry(item.geometry),
        }
        for item in visit.series
    ]
    refused = [
        {**_describe_series(item), "role": None, "why": None, "geometry": None}
        | {"refused": {"reason": item.reason.value, "sentence": item.sentence}}
        for item in visit.refused
    ]
    return {
        "date": visit.date.isoformat(),
        "left_out": without_head(visit) or None,
        "problems": {
            role: {"reason": error.reason.value, "sentence": error.message}
            for role, error in problems.items()
        },
        "series": sorted(usable + refused, key=lambda item: (item["acquired"] or "", item["number"] or 0)),
        "annotations": [
            {
                "kind": item.kind,
                "file": item.path.name,
                "created": None if item.created is None else item.created.isoformat(),
                "sop_instance_uid": item.sop_instance_uid,
            }
            for item in visit.annotations
        ],
    }


def _describe_series(series: Any) -> dict[str, Any]:
    return {
        "number": series.number,
        "description": series.description,
        "modality": series.modality,
        "series_uid": series.uid,
        "study_uid": series.study_uid,
        "acquired": None if series.acquired is None else series.acquired.isoformat(),
        "files": len(series.files) if isinstance(series, Series) else series.file_count,
    }


def _describe_geometry(geometry: Geometry | None) -> dict[str, Any] | None:
    if geometry is None:
        return None
    return {
        "shape": list(geometry.shape),
        "spacing_mm": [round(size, 6) for size in geometry.spacing],
        "orientation": _orientation(geometry),
        "sheared": not geometry.is_orthogonal,
        "affine_lps": geometry.affine.tolist(),
        "frame_of_reference_uid": geometry.frame_of_reference_uid,
    }


def _orientation(geometry: Geometry) -> str:
    """Plane of the slices, with "oblique" when its normal is more than 5 degrees off an axis."""
    normal = np.cross(geometry.directions[:, 0], geometry.directions[:, 1])
    axis = int(np.argmax(np.abs(normal)))
    name = ("sagittal", "coronal", "axial")[axis]
    return name if abs(normal[axis]) > np.cos(np.radians(5)) else f"{name} oblique"


def _rows(series: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for item in series:
        number = "-" if item["number"] is None else item["number"]
        geometry = item["geometry"]
        if geometry is None:
            grid = f"{item['files']} files"
        else:
            shape = " x ".join(str(n) for n in geometry["shape"])
            spacing = " x ".join(f"{size:.3g}" for size in geometry["spacing_mm"])
            tilt = ", sheared" if geometry["sheared"] else ""
            grid = f"{shape}, {spacing} mm, {geometry['orientation']}{tilt}"
        lines.append(
            f"    {number!s:>5}  {item['role'] or '-':5}  {item['description'] or '(no description)':32.32}  {grid}"
        )
        why = item["refused"]["sentence"] if "refused" in item else item["why"]
        if why:
            lines.append(f"{'':18}{'refused: ' if 'refused' in item else ''}{why}")
    return lines


def _ignored_rows(ignored: Sequence[dict[str, str]]) -> list[str]:
    lines = [f"  ignored {file['file']}: {file['reason']}" for file in ignored[:_IGNORED_SHOWN]]
    if len(ignored) > _IGNORED_SHOWN:
        lines.append(f"  ignored {len(ignored) - _IGNORED_SHOWN} more files (all in --json)")
    return lines


def _write_nifti(inventory: Inventory, listing: dict[str, Any], folder: Path) -> None:
    entries = {
        item["series_uid"]: item
        for patient in listing["patients"]
        for visit in patient["visits"]
        for item in visit["series"]
    }
    for p, catalog in enumerate(inventory.patients, start=1):
        for v, visit in enumerate(catalog.visits, start=1):
            for series in visit.series:
                number = "none" if series.number is None else series.number
                path = folder / f"patient{p}_visit{v}_series{number}_{series.uid[-8:]}.nii.gz"
                try:
                    read_volume(series).save_nifti(path)
                except ImagingError as error:
                    entries[series.uid]["refused"] = {"reason": error.reason.value, "sentence": error.message}
                else:
                    entries[series.uid]["nifti"] = str(path)


def _refuse_output(folder: Path, error: OSError) -> int:
    why = os.strerror(error.errno) if error.errno else type(error).__name__
    print(f"{folder} is no folder to write into ({why}); give another one with --nifti.", file=sys.stderr)
    return EXIT_USAGE


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty() and (done % 50 == 0 or done == total):
        print(
            f"\rreading {done}/{total} files", end="\n" if done == total else "", file=sys.stderr, flush=True
        )


if __name__ == "__main__":
    sys.exit(main())
