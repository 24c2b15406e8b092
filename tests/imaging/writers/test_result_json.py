"""``result.json`` keeps the promise of its schema."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from imaging.report_content import Status
from imaging.writers.result_json import result_document, result_schema, write_result
from tests.imaging.writers import patients
from tests.imaging.writers.patients import OutputSet, Sources


@pytest.fixture
def document(output_set: OutputSet) -> dict:
    folder = output_set.report.path.parent
    return result_document(output_set.content, patient_id="P-001", outputs=output_set.written, folder=folder)


def test_the_document_says_what_the_report_says(
    document: dict, output_set: OutputSet, tmp_path: Path
) -> None:
    path = tmp_path / "result.json"
    write_result(path, document)
    read = json.loads(path.read_text("utf-8"))
    content = output_set.content
    assert read["status"] == "ok"
    assert read["patient"] == {"id": "P-001"}
    assert [visit["date"] for visit in read["visits"]] == ["2024-03-01T09:30:15", "2024-05-01T09:30:15"]
    assert [visit["volumes_ml"] for visit in read["visits"]] == [dict(v.volumes_ml) for v in content.visits]
    assert read["visits"][0]["registration"] is None
    assert read["visits"][1]["registration"]["similarity"] == 0.81
    assert read["parameters"]["diffusivity"] == {
        "unit": "mm2/d",
        "estimate": 0.1,
        "interval95": [0.05, 0.2],
        "prior": {"median": 0.13, "sigma_log": 0.9},
        "contraction": 0.4,
        "identified": True,
    }
    assert read["forecasts"][0] == {
        "day": 91.0,
        "horizon_days": 30.0,
        "volume_ml": {"estimate": 8.0, "interval95": [6.0, 13.0]},
        "core_volume_ml": {"estimate": 3.0, "interval95": [2.0, 5.5]},
    }
    assert read["skill"] == {
        "day": 61.0,
        "volume_ml": {
            "observed": 11.5,
            "forecast": {"estimate": 10.0, "interval95": [8.0, 11.0]},
            "inside95": False,
            "error": 1.5,
            "error_no_change": 3.0,
            "error_exponential": 2.25,
        },
        "core_volume_ml": {
            "observed": 4.25,
            "forecast": {"estimate": 4.5, "interval95": [3.0, 6.0]},
            "inside95": True,
            "error": 0.25,
            "error_no_change": 1.25,
            "error_exponential": None,
        },
    }
    assert read["conformal"] == {"factor": 1.5, "core_factor": 1.25, "provenance": "learned on 200 others"}
    assert read["treatments"] == list(patients.TREATMENTS)
    assert read["warnings"] == list(content.warnings)
    assert [item["sop_instance_uid"] for item in read["outputs"]] == [
        item.sop_instance_uid for item in output_set.written
    ]
    assert all((output_set.report.path.parent / item["file"]).is_file() for item in read["outputs"])


def test_of_the_prior_it_is_not_said_whether_its_interval_held(sources: Sources, tmp_path: Path) -> None:
    visit = patients.visit(sources, patients.tumour(sources.geometry), uncertainty=0.5)
    skill = replace(patients.SKILL, whole=replace(patients.SKILL.whole, acceptable=False))
    content = replace(patients.report(Status.OK, [visit]), skill=skill)
    document = result_document(content, patient_id="P-001", outputs=[], folder=tmp_path)
    write_result(tmp_path / "result.json", document)
    assert document["skill"]["volume_ml"]["inside95"] is None
    assert document["skill"]["core_volume_ml"]["inside95"] is True


def test_no_tumour_is_a_valid_document(sources: Sources, tmp_path: Path) -> None:
    visit = patients.visit(sources, patients.empty(sources.geometry), uncertainty=None)
    content = patients.report(Status.NO_TUMOUR, [visit])
    document = result_document(content, patient_id="P-001", outputs=[], folder=tmp_path)
    write_result(tmp_path / "result.json", document)
    assert document["parameters"] == {}
    assert document["forecasts"] == []
    assert document["calibration"] is None
    assert document["skill"] is None and document["conformal"] is None and document["treatments"] == []


def test_numbers_of_numpy_are_numbers(sources: Sources, tmp_path: Path) -> None:
    visit = patients.visit(sources, patients.tumour(sources.geometry), uncertainty=np.float32(0.5))
    content = patients.report(Status.SINGLE_VISIT, [replace(visit, day=np.float64(0))])
    document = result_document(content, patient_id="P-001", outputs=[], folder=tmp_path)
    write_result(tmp_path / "result.json", document)


@pytest.mark.parametrize(
    "path", [("status",), ("visits", 0, "volumes_ml", "TC"), ("parameters", "diffusivity", "identified")]
)
def test_a_document_that_lacks_something_is_not_written(path: tuple, document: dict, tmp_path: Path) -> None:
    place = document
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    with pytest.raises(jsonschema.ValidationError):
        write_result(tmp_path / "result.json", document)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    "moment", ["2024-03-01", "2024-03-01T09:30:15Z", "2024-03-01T09:30:15+01:00", "soon"]
)
def test_a_visit_has_a_local_time_without_an_offset(moment: str, document: dict, tmp_path: Path) -> None:
    """The format "date-time" of JSON Schema demands an offset (RFC 3339), which images do not state."""
    assert '"format"' not in json.dumps(result_schema())
    document["visits"][0]["date"] = "2024-03-01T09:30:15.250000"
    write_result(tmp_path / "result.json", document)
    document["visits"][0]["date"] = moment
    with pytest.raises(jsonschema.ValidationError):
        write_result(tmp_path / "other.json", document)


def test_not_a_number_is_not_written(document: dict, tmp_path: Path) -> None:
    document["visits"][0]["volumes_ml"]["TC"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_result(tmp_path / "result.json", document)
    assert not (tmp_path / "result.json").exists()


def test_the_schema_is_a_schema_and_the_documented_one() -> None:
    jsonschema.Draft202012Validator.check_schema(result_schema())
    documented = Path(__file__).parents[3] / "docs" / "result.schema.json"
    assert json.loads(documented.read_text("utf-8")) == result_schema()
