"""What the gateway sees in a study is what the run that it starts will see."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from app.engine import Outcome
from gateway.examination import Examination, examine
from tests.imaging.dicom_factory import write_visit

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
