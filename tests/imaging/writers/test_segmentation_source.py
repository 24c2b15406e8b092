"""Whose a segmentation is: SEG, report, pages and ``result.json`` of one run say the same."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pydicom
import pypdf
import pytest

from imaging.report_content import Status
from imaging.writers.pdf_report import Patient, render_pdf
from imaging.writers.result_json import result_document, write_result
from tests.imaging.writers import patients, validators
from tests.imaging.writers.patients import Sources
from tests.imaging.writers.test_output_set import everything_in


@pytest.mark.parametrize(
    ("source", "algorithm_type", "code", "drawn_by"),
    [
        ("network", "AUTOMATIC", "OT1431", "network"),
        ("dicom_seg", "MANUAL", "OT1432", "clinician"),
        ("rtstruct", "MANUAL", "OT1433", "clinician"),
        ("other_algorithm", "AUTOMATIC", "OT1434", "another algorithm"),
    ],
)
def test_all_results_name_the_same_source(
    source: str, algorithm_type: str, code: str, drawn_by: str, sources: Sources, tmp_path: Path
) -> None:
    labels = patients.tumour(sources.geometry)
    uncertainty = 0.125 if source == "network" else None
    visit = patients.visit(sources, labels, segmentation_source=source, uncertainty=uncertainty)
    content = patients.report(Status.SINGLE_VISIT, [visit])
    written = patients.write_all(tmp_path / "out", content, [sources])
    for item in written.written:
        assert validators.dciodvfy_errors(item.path) == []

    segments = pydicom.dcmread(written.segmentations[0].path).SegmentSequence
    assert {item.SegmentAlgorithmType for item in segments} == {algorithm_type}

    report = list(everything_in(pydicom.dcmread(written.report.path)))
    codes = {item.CodeValue for item in report if str(item.get("CodeValue", "")).startswith("OT143")}
    assert codes == {"OT1430", code}
    named = [
        item.TextValue for item in report if "TextValue" in item and item.TextValue == patients.MODEL.name
    ]
    assert bool(named) == (source == "network"), "the network answers for its own segmentation only"

    page = pypdf.PdfReader(BytesIO(render_pdf(content, Patient("P-001", "", "", "")))).pages[0]
    entropy = "—" if uncertainty is None else "0.12"
    assert f"{visit.volumes_ml['WT']:.1f} {entropy} {drawn_by} NCR" in " ".join(page.extract_text().split())

    document = result_document(content, patient_id="P-001", outputs=[], folder=tmp_path)
    write_result(tmp_path / "result.json", document)
    (told,) = json.loads((tmp_path / "result.json").read_text("utf-8"))["visits"]
    assert told["segmentation_source"] == source
