"""Stands in for the application where its own minutes would be prohibitive: ``stand_in.py -i IN -o OUT``.

Keeps what the gateway relies on: exit codes, the failure line, an output folder that appears whole, and UIDs and bytes
that depend on the input alone. The PatientComments of the input tell it to misbehave.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage, generate_uid

RESULTS = 2


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("-i", "-o", "--progress"):
        parser.add_argument(name)
    # A gateway serves many patients and must say so.
    parser.add_argument("--any-patient", action="store_true", required=True)
    options = parser.parse_args()
    images = [pydicom.dcmread(path) for path in sorted(Path(options.i).rglob("*.dcm"))]
    latest = max(images, key=lambda image: (image.StudyDate, image.SOPInstanceUID))
    order = str(latest.get("PatientComments", ""))
    if order == "refuse":
        sentence = "Series 3 lacks one slice; send the study again."
        failure = {"event": "failure", "exit_code": 3, "reason": "missing_slice", "message": sentence}
        print(json.dumps(failure), file=sys.stderr)
        return 3
    if order == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    marker = Path(options.o).parent / "hung"
    if order == "hang" or (order == "hang once" and not marker.exists()):
        marker.touch()
        time.sleep(600)
    if order == "trace":
        raise ValueError(f"cannot use {latest.PatientName}")
    time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
    digest = hashlib.sha256(
        "".join(sorted(str(image.SOPInstanceUID) for image in images)).encode()
    ).hexdigest()
    output = Path(options.o)
    output.mkdir()
    for number in range(RESULTS):
        write_result(output / f"result{number}.dcm", latest, f"{digest} {number}")
    studies = sorted({str(image.StudyInstanceUID) for image in images})
    (output / "result.json").write_text(json.dumps({"status": "ok", "studies": studies}))
    return 0


def write_result(path: Path, source: Dataset, name: str) -> None:
    dataset = Dataset()
    for keyword in (
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDate",
    ):
        setattr(dataset, keyword, source.get(keyword, ""))
    dataset.Modality, dataset.Manufacturer = "SEG", "OncoTwin"
    dataset.SOPClassUID = SegmentationStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[name])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[name, "series"])
    dataset.SeriesDescription = "stand-in"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)


if __name__ == "__main__":
    sys.exit(main())
