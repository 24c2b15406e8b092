"""What no validator of single files sees: that the objects of a run belong together and to their input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.sr._concepts_dict import concepts

from imaging import codes
from imaging.geometry import Geometry, Volume
from imaging.report_content import Status
from imaging.writers.pdf_report import Patient, render_pdf
from imaging.writers.result_json import result_document, write_result
from tests.imaging.writers import patients, validators
from tests.imaging.writers.patients import OutputSet, Sources

# Codes that highdicom's templates write, or that pydicom's tables spell in another way.
TEMPLATE_CODES = {
    ("121049", "DCM"),
    ("eng", "RFC5646"),
    ("en-US", "RFC5646"),
    ("121005", "DCM"),
    ("121007", "DCM"),
    ("121012", "DCM"),
    ("121013", "DCM"),
    ("121014", "DCM"),
    ("121015", "DCM"),
    ("121016", "DCM"),
    ("121058", "DCM"),
    ("126010", "DCM"),
    ("125007", "DCM"),
    ("112039", "DCM"),
    ("112040", "DCM"),
    ("C67447", "NCIt"),
    ("276214006", "SCT"),
    ("121071", "DCM"),
    ("363698007", "SCT"),
    ("111001", "DCM"),
    ("111003", "DCM"),
    ("C2348792", "UMLS"),
    ("121191", "DCM"),
    ("121232", "DCM"),
    ("113076", "DCM"),
    ("121322", "DCM"),
    ("109101", "DCM"),
}


def datasets(written: OutputSet) -> dict[str, Dataset]:
    return {item.path.name: pydicom.dcmread(item.path) for item in written.written}


def everything_in(dataset: Dataset) -> Iterator[Dataset]:
    yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from everything_in(item)


def test_every_object_passes_dciodvfy(output_set: OutputSet) -> None:
    for item in output_set.written:
        assert validators.dciodvfy_errors(item.path) == [], item.path.name


def test_objects_join_patient_and_study_of_their_visit(output_set: OutputSet) -> None:
    first, last = (source.datasets[0] for source in output_set.sources)
    series = set()
    for name, dataset in datasets(output_set).items():
        home = first if name.startswith("visit1") else last
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "StudyDate"):
            assert dataset[keyword].value == home[keyword].value, (name, keyword)
        assert str(dataset.PatientName) == patients.NAME
        if "FrameOfReferenceUID" in dataset:
            assert dataset.FrameOfReferenceUID == home.FrameOfReferenceUID
        series.add(dataset.SeriesInstanceUID)
        assert "not for clinical use" in dataset.SeriesDescription
        assert dataset.Manufacturer == "OncoTwin"
    assert len(series) == len(output_set.written)
    assert not series & {source.datasets[0].SeriesInstanceUID for source in output_set.sources}


def test_written_objects_are_what_they_are_said_to_be(output_set: OutputSet) -> None:
    for item in output_set.written:
        dataset = pydicom.dcmread(item.path)
        assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID == item.sop_instance_uid
        assert (dataset.SOPClassUID, dataset.SeriesInstanceUID) == (
            item.sop_class_uid,
            item.series_instance_uid,
        )
        assert (dataset.StudyInstanceUID, dataset.SeriesDescription) == (item.study_uid, item.description)


def test_every_reference_resolves_to_input_or_output(output_set: OutputSet) -> None:
    inputs = [dataset for source in output_set.sources for dataset in source.datasets] + list(
        output_set.further
    )
    known = {dataset.SOPInstanceUID: dataset for dataset in (*inputs, *datasets(output_set).values())}
    for dataset in datasets(output_set).values():
        for item in everything_in(dataset):
            if "ReferencedSOPInstanceUID" in item:
                target = known[item.ReferencedSOPInstanceUID]
                assert target.SOPClassUID == item.ReferencedSOPClassUID


def test_the_report_lists_all_input_and_all_images_of_the_output(output_set: OutputSet) -> None:
    report = pydicom.dcmread(output_set.report.path)
    listed = set()
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in report.get(keyword, []):
            for series in study.ReferencedSeriesSequence:
                for item in series.ReferencedSOPSequence:
                    uids = (study.StudyInstanceUID, series.SeriesInstanceUID, item.ReferencedSOPInstanceUID)
                    listed.add(uids)
    inputs = [dataset for source in output_set.sources for dataset in source.datasets] + list(
        output_set.further
    )
    images = [pydicom.dcmread(item.path) for item in output_set.written[:-2]]
    expected = {(d.StudyInstanceUID, d.SeriesInstanceUID, d.SOPInstanceUID) for d in (*inputs, *images)}
    assert listed == expected


def test_segments_and_report_track_the_same_findings(output_set: OutputSet) -> None:
    tracked = {}
    for item in (*output_set.segmentations, *output_set.forecasts):
        for segment in pydicom.dcmread(item.path).SegmentSequence:
            tracked[segment.TrackingID] = segment.TrackingUID
    reported = {}
    for group in pydicom.dcmread(output_set.report.path).ContentSequence[-2].ContentSequence:
        items = {item.ConceptNameCodeSequence[0].CodeValue: item for item in group.ContentSequence}
        reported[items["112039"].TextValue] = items["112040"].UID
    shared = tracked.keys() & reported.keys()
    assert {"Tumor NCR", "Tumor ED", "Tumor ET"} < shared
    assert any(name.startswith("Forecast") for name in shared)
    for name in shared:
        assert tracked[name] == reported[name]
    assert len(set(reported.values())) == len(reported)


def test_every_code_is_on_the_list(output_set: OutputSet) -> None:
    listed = {(code.value, code.scheme_designator): code.meaning for code in codes.all_codes()}
    for name, dataset in datasets(output_set).items():
        for item in everything_in(dataset):
            if "CodeValue" in item:
                key = (item.CodeValue, item.CodingSchemeDesignator)
                assert key in listed or key in TEMPLATE_CODES, (name, key, item.CodeMeaning)
                assert listed.get(key, item.CodeMeaning) == item.CodeMeaning
        scheme = dataset.CodingSchemeIdentificationSequence[0]
        assert (scheme.CodingSchemeDesignator, scheme.CodingSchemeUID) == (
            codes.PRIVATE_SCHEME,
            codes.PRIVATE_SCHEME_UID,
        )


def test_standard_codes_mean_what_the_standard_says() -> None:
    unlisted = {"C0034375", "/d", "/Gy", "mm/d", "mm2/d"}
    for code in codes.all_codes():
        if code.scheme_designator != codes.PRIVATE_SCHEME and code.value not in unlisted:
            meanings = [
                entry[code.value][0]
                for entry in concepts[code.scheme_designator].values()
                if code.value in entry
            ]
            assert code.meaning in meanings, code


def test_private_codes_are_short_unique_and_in_the_registry() -> None:
    private = codes.private_codes()
    assert len({code.value for code in private}) == len({code.meaning for code in private}) == len(private)
    registry = (Path(__file__).parents[3] / "docs" / "codes.md").read_text("utf-8")
    for code in private:
        assert len(code.value) <= 16
        assert len(code.meaning) <= 64
        assert f"| {code.value} | {code.meaning} |" in registry


def test_the_same_input_gives_the_same_bytes(output_set: OutputSet, tmp_path: Path) -> None:
    again = patients.write_all(tmp_path / "again", output_set.content, output_set.sources, output_set.further)
    for first, second in zip(output_set.written, again.written, strict=True):
        assert first.path.read_bytes() == second.path.read_bytes(), first.path.name


def test_other_content_never_goes_under_an_old_uid(output_set: OutputSet, tmp_path: Path) -> None:
    content = output_set.content
    visits = tuple(
        patients.visit(source, patients.tumour(source.geometry, 0.9), visit.day)
        for source, visit in zip(output_set.sources, content.visits, strict=True)
    )
    changed = patients.report(Status.OK, visits, content.forecasts, content.warnings)
    again = patients.write_all(tmp_path / "again", changed, output_set.sources, output_set.further)
    old = {item.sop_instance_uid for item in (*output_set.segmentations, output_set.report, output_set.pdf)}
    new = {item.sop_instance_uid for item in (*again.segmentations, again.report, again.pdf)}
    assert not old & new


def test_no_clock_is_in_the_files(output_set: OutputSet) -> None:
    for item in output_set.written:
        dataset = pydicom.dcmread(item.path)
        assert "InstanceCreationDate" not in dataset
        expected = output_set.content.visits[0 if item.path.name.startswith("visit1") else -1].date
        assert dataset.ContentDate == expected.strftime("%Y%m%d")
        assert "ContributionDateTime" not in str(dataset.ContributingEquipmentSequence)


def real_series(folder: Path) -> Sources:
    """A series of the real case, ordered along its normal."""
    read = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    cosines = np.array(read[0].ImageOrientationPatient, float)
    normal = np.cross(cosines[:3], cosines[3:])
    read.sort(key=lambda item: float(normal @ np.array(item.ImagePositionPatient, float)))
    positions = np.array([item.ImagePositionPatient for item in read], float)
    spacing = [float(value) for value in read[0].PixelSpacing]
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = cosines[:3] * spacing[1], cosines[3:] * spacing[0]
    matrix[:3, 2], matrix[:3, 3] = (positions[-1] - positions[0]) / (len(read) - 1), positions[0]
    shape = (int(read[0].Columns), int(read[0].Rows), len(read))
    return Sources(read, Geometry(shape, matrix, read[0].FrameOfReferenceUID))


@pytest.mark.slow
def test_a_real_examination_gets_valid_results(shared: Path, tmp_path: Path) -> None:
    sources = real_series(shared / "cases" / "glioma_dicom" / "pat1_t1post")
    array = np.stack([item.pixel_array.T for item in sources.datasets], axis=-1).astype(np.float32)
    labels = patients.empty(sources.geometry)
    labels.array[80:120, 100:150, 90:120] = 2
    labels.array[90:110, 110:140, 95:115] = 3
    visit = patients.visit(sources, labels, image=Volume(array, sources.geometry))
    core = labels.with_array((labels.array > 0).astype(np.uint8))
    forecasts = [replace(patients.forecast(sources, 30.0, 0.0), labels=core)]
    content = patients.report(Status.SINGLE_VISIT, [visit], forecasts)
    written = patients.write_all(tmp_path / "out", content, [sources])
    for item in written.written:
        assert validators.dciodvfy_errors(item.path) == []
    assert validators.pixelmed_errors(written.report.path) == []
    read, _ = validators.dcmqi_volumes("segimage2itkimage", written.segmentations[0].path, tmp_path / "dcmqi")
    points = sources.geometry.to_patient(np.argwhere(labels.array == 3))
    assert (validators.at_points(read["3"], points) > 0).all()


def test_a_core_that_nobody_shows_has_no_overlap(output_set: OutputSet, tmp_path: Path) -> None:
    """After treatment neither the scan nor the model may show a core: the Dice coefficient is then left out."""
    content = output_set.content
    assert content.calibration is not None
    first, second = content.calibration.fit
    fit = (first, replace(second, dice_core=None))
    content = replace(content, calibration=replace(content.calibration, fit=fit))
    written = patients.write_all(tmp_path, content, output_set.sources, output_set.further)
    names = [
        item.ConceptNameCodeSequence[0].CodeValue
        for item in everything_in(pydicom.dcmread(written.report.path))
        if "ConceptNameCodeSequence" in item
    ]
    assert names.count(codes.FIT_DICE_WHOLE.value) == 2 * names.count(codes.FIT_DICE_CORE.value) > 0
    assert not validators.dciodvfy_errors(written.report.path)
    document = result_document(content, patient_id="P", outputs=[written.report], folder=tmp_path)
    write_result(tmp_path / "result.json", document)
    assert [item["dice_core"] for item in document["calibration"]["fit"]] == [0.9, None]
    assert render_pdf(content, Patient("P", "A^B", "", "")).startswith(b"%PDF")
