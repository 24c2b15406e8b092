"""The application on the real cases: ``python -m benchmarks.real_cases --cases FOLDER -o OUT``.

Wraps the NIfTI cases as DICOM, runs the command line on each, saves the report's pages as PNG and prints what came
out, with Dice where the case has a reference segmentation. ``docs/real-cases.md`` says it in words.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from imaging.geometry import Volume
from imaging.labels import region_mask
from training.nifti_to_dicom import NiftiVisit, visit_of, visits_in_folder, wrap_nifti


@dataclass(frozen=True)
class RealCase:
    """A case of the shared folder.

    Parameters
    ----------
    name : str
        Folder below ``cases``.
    visits : callable or None
        From the folder to its NIfTI visits; None when it holds DICOM.
    reference : str or None
        Reference label map in BraTS numbering, relative to the folder.
    """

    name: str
    visits: Callable[[Path], list[NiftiVisit]] | None
    reference: str | None = None


def _labelled(folder: Path) -> list[NiftiVisit]:
    files = (
        f"t1ce={folder / 'T1c_subtrMeanDivStd.nii.gz'}",
        f"flair={folder / 'Flair_subtrMeanDivStd.nii.gz'}",
    )
    return [visit_of(["2013-01-01", *files])]


CASES = (
    RealCase("glioma_dicom", None),
    RealCase("glioma_two_visits", visits_in_folder),
    RealCase("glioma_one_visit", visits_in_folder, "BraTS-GLI-00001-000-seg-consensus.nii.gz"),
    RealCase("glioma_labelled_t1ce_flair/brats_2013_pat0001_1", _labelled, "OTMultiClass.nii.gz"),
    RealCase("glioma_labelled_t1ce_flair/brats_2013_pat0002_1", _labelled, "OTMultiClass.nii.gz"),
)


def run_case(case: RealCase, cases: Path, output: Path) -> str:
    """Run one case; returns what to print."""
    source, target = cases / case.name, output / Path(case.name).name
    with tempfile.TemporaryDirectory() as scratch:
        patient = source
        if case.visits is not None:
            patient = Path(scratch) / "dicom"
            wrap_nifti(case.visits(source), patient)
        started = time.monotonic()
        command = [sys.executable, "-m", "app", "-i", patient, "-o", target, "--nifti"]
        done = subprocess.run(command, capture_output=True, text=True)
    lines = [f"== {case.name}: exit code {done.returncode}, {time.monotonic() - started:.0f} s"]
    if done.returncode != 0:
        return "\n".join([*lines, done.stderr.strip().splitlines()[-1]])
    lines.append(done.stdout.strip())
    if case.reference is not None:
        lines.append(f"Dice against the reference: {_dice(source / case.reference, target)}")
    _save_pages(target)
    return "\n".join(lines)


def _dice(reference: Path, target: Path) -> str:
    found = Volume.load_nifti(target / "nifti" / "visit1_labels.nii.gz")
    true = Volume.load_nifti(reference)
    # BraTS 2013 numbers enhancing tumour 4 and non-enhancing 3, which BraTS 2017 and later call 3 and 1.
    labels = np.asarray(true.array).round().astype(np.uint8)
    if labels.max() == 4:
        labels = np.array([0, 1, 2, 1, 3], dtype=np.uint8)[labels]
    true = true.with_array(labels).resampled(found.geometry, interpolation="nearest")
    scores = []
    for region in ("WT", "TC", "ET"):
        a, b = region_mask(found.array, region), region_mask(true.array, region)
        scores.append(f"{region} {2 * np.sum(a & b) / max(1, np.sum(a) + np.sum(b)):.2f}")
    return ", ".join(scores)


def _save_pages(target: Path) -> None:
    """The report's pages as page-1.png and page-2.png."""
    dataset: Any = pydicom.dcmread(target / "report_pdf.dcm")
    pdf = target / "report.pdf"
    pdf.write_bytes(dataset.EncapsulatedDocument)
    subprocess.run(["pdftoppm", "-r", "90", "-png", pdf, target / "page"], check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_cases", description=__doc__)
    parser.add_argument("--cases", type=Path, required=True, help="folder of the real cases")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for results, one a case")
    parser.add_argument("--only", help="run the cases whose name contains this")
    options = parser.parse_args(arguments)
    if not options.cases.is_dir():
        print(
            f"{options.cases} is not there; the real cases are not part of this repository.", file=sys.stderr
        )
        return 2
    for case in CASES:
        if options.only is None or options.only in case.name:
            print(run_case(case, options.cases, options.output), end="\n\n", flush=True)
    summary = {
        p.parent.name: json.loads(p.read_text())["status"] for p in options.output.glob("*/result.json")
    }
    print("; ".join(f"{name}: {status}" for name, status in sorted(summary.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
