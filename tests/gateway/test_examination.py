"""What the gateway sees in a study is what the run that it starts will see."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from app.engine import Outcome
from app.settings import IngestSection
from gateway.examination import Examination, describe, examine
from gateway.rules import takes
from gateway.settings import RuleSection
from tests.imaging.dicom_factory import CONTRASTS, DATE, dates, pattern, uid, write_series, write_visit

SHIPPED = Path(__file__).resolve().parents[2] / "app.yaml"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """T1CE, and a FLAIR whose headers do not say so."""
    write_visit(tmp_path / "study", contrasts=("t1ce",))
    silent = {"SeriesDescription": "axial", "ProtocolName": "axial", "SeriesNumber": 9}
    timing = dict.fromkeys(
        ("RepetitionTime", "EchoTime", "InversionTime", "SequenceName", "ScanningSequence")
    )
    write_visit(tmp_path / "study" / "more", contrasts=("flair",), attributes={**silent, **timing})
    return tmp_path / "study"


def settings_with(folder: Path, rules: object) -> str:
    document = yaml.safe_load(SHIPPED.read_text())
    document["oncotwin"]["ingest"]["series_rules"] = rules
    path = folder / "app.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_series_rules_of_the_application_hold(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = examine(study, 0.0)
    monkeypatch.setenv(
        "HOLOSCAN_CONFIG_PATH", settings_with(tmp_path, [{"role": "flair", "series_number": 9}])
    )
    ruled = examine(study, 0.0)
    assert isinstance(without, Examination) and isinstance(ruled, Examination)
    assert without.roles == ("t1ce",)
    assert ruled.roles == ("flair", "t1ce")


def test_settings_that_cannot_be_used_end_it_with_their_sentence(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLOSCAN_CONFIG_PATH", settings_with(tmp_path, [{"role": "flair"}]))
    refused = examine(study, 0.0)
    assert isinstance(refused, Outcome)
    assert refused.reason == "settings"
    assert "needs a description" in refused.sentence


def described(folder: Path) -> Examination:
    return Examination(**describe(folder, IngestSection()))  # type: ignore[arg-type]


def add_broken(folder: Path, study: str, **attributes: object) -> None:
    """A series with one slice missing."""
    stated = {
        "StudyInstanceUID": uid(study),
        "FrameOfReferenceUID": uid(f"{study} frame"),
        "SeriesNumber": 99,
    }
    files = write_series(folder, name="broken", attributes={**stated, **dates(DATE), **attributes})
    files[3].unlink()


def test_a_refused_localiser_opens_no_door(tmp_path: Path) -> None:
    """It is no candidate of what is missing: a knee stays ignored."""
    write_visit(tmp_path, contrasts=("t2",), name="knee", attributes={"BodyPartExamined": "KNEE"})
    add_broken(
        tmp_path, "knee", SeriesDescription="localizer", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    knee = described(tmp_path)
    assert takes((RuleSection(),), knee) == "no t1ce and no flair"
    assert not knee.refusal


def test_a_refused_candidate_of_what_is_missing_is_told(tmp_path: Path) -> None:
    write_visit(tmp_path, contrasts=("t1ce",), name="head")
    add_broken(tmp_path, "head", **CONTRASTS["flair"])
    head = described(tmp_path)
    assert takes((RuleSection(),), head) == ""
    assert head.refusal[0] == "missing_slice"
    other = RuleSection(description="prostate")
    assert takes((other,), head) == "no description fits", "a study of others is left alone, whole or not"


def test_a_ct_of_another_day_does_not_count_as_a_visit(tmp_path: Path) -> None:
    """The run leaves it out; the gateway said that the patient had no contrast at every visit."""
    write_visit(tmp_path, contrasts=("t1ce", "flair"), name="head")
    stated = {"StudyInstanceUID": uid("head"), "FrameOfReferenceUID": uid("ct frame"), "SeriesNumber": 9}
    later = {**stated, **dates(DATE + timedelta(days=30)), "SeriesDescription": "Kopf nativ"}
    write_series(tmp_path / "ct", name="ct", modality="CT", attributes=later)
    found = described(tmp_path)
    assert len(found.visits) == 1
    assert found.roles_of_every_visit == ("flair", "t1ce")


def test_equal_series_of_a_contrast_nobody_asks_for(tmp_path: Path) -> None:
    """Two T2 that are equally good are an error of a study that is ours, and nothing of one that is not."""
    write_visit(tmp_path, contrasts=("t2",), name="two")
    stated = {"StudyInstanceUID": uid("two"), "FrameOfReferenceUID": uid("two frame"), "SeriesNumber": 7}
    write_series(
        tmp_path, pattern(seed=9), name="same", attributes={**stated, **dates(DATE), **CONTRASTS["t2"]}
    )
    found = described(tmp_path)
    assert found.refusal[0] == "ambiguous_sequence"
    assert takes((RuleSection(),), found) == "no t1ce and no flair"


def test_a_series_nobody_can_read_may_be_anything(tmp_path: Path) -> None:
    write_visit(tmp_path, contrasts=("t1ce",), name="head")
    files = write_series(
        tmp_path / "flair", name="flair", attributes={"StudyInstanceUID": uid("head"), **CONTRASTS["flair"]}
    )
    for file in files:
        file.write_bytes(file.read_bytes()[:-1000])
    found = described(tmp_path)
    assert takes((RuleSection(),), found) == ""
    assert found.refusal[0] == "truncated"
    assert takes((RuleSection(modalities=("CT",)),), found) == "no CT series"
