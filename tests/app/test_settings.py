"""``app.yaml`` is checked before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.__main__ import main
from app.settings import OncoTwinSection, SettingsError, load_settings, with_patient

SHIPPED = Path(__file__).resolve().parents[2] / "app.yaml"


def written(tmp_path: Path, old: str, new: str) -> Path:
    text = SHIPPED.read_text()
    assert old in text
    path = tmp_path / "app.yaml"
    path.write_text(text.replace(old, new))
    return path


def test_shipped_file_shows_the_defaults() -> None:
    assert load_settings(SHIPPED).oncotwin == OncoTwinSection()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("grid_mm: 1.5", "grid_mm: 0", "oncotwin.twin.grid_mm"),
        ("grid_mm: 1.5", "gird_mm: 1.5", "oncotwin.twin.gird_mm"),
        ("[lognormal, 0.1, 0.9]", "[normal, 0.1, 0.9]", "oncotwin.twin.priors.diffusivity"),
        ("[30, 60, 90, 120, 150, 180]", "[]", "oncotwin.forecast.horizons_days"),
        ("device: auto", "device: tpu", "oncotwin.segmentation.device"),
        ("device: cpu", "device: tpu", "oncotwin.twin.device"),
        ("series_rules: []", "series_rules: [{role: flair, visit_date: 2026-03-01}]", "needs a description"),
        ("series_rules: []", 'series_rules: [{role: flair, description: "flair("}]', "no regular expression"),
        ("treatments: []", "treatments: [{kind: radiotherapy, dates: [2026-01-12], dose_gy: 0}]", "dose_gy"),
        (
            "treatments: []",
            "treatments: [{kind: radiotherapy, dose_gy: 2}]",
            "dates, or first_date with fractions",
        ),
        (
            "treatments: []",
            "treatments: [{kind: radiotherapy, dates: [2026-01-12], dose_gy: 2, rtdose: auto}]",
            "either dose_gy",
        ),
        ("treatments: []", "treatments: [{kind: radiotherapy, dates: [2026-01-12]}]", "either dose_gy"),
        (
            "treatments: []",
            "treatments: [{kind: radiotherapy, dates: [2026-01-12], rtdose: a.dcm}]",
            "rtdose",
        ),
        (
            "treatments: []",
            "treatments: [{kind: radiotherapy, dates: [2026-01-12], rtdose: auto}, "
            "{kind: radiotherapy, dates: [2026-03-12], dose_gy: 2}]",
            "the only one of radiotherapy",
        ),
        ("treatments: []", "treatments: [{kind: chemotherapy, first_date: 2026-01-12}]", "needs daily_doses"),
        (
            "treatments: []",
            "treatments: [{kind: chemotherapy, dates: [soon]}]",
            "treatments.0.chemotherapy.dates",
        ),
        ("treatments: []", "treatments: [{kind: surgery, date: 2026-01-12}]", "mask of what was removed"),
        ("treatments: []", "treatments: [{kind: hope}]", "oncotwin.treatments.0"),
        (
            "treatments: []",
            "treatments: [{kind: radiotherapy, dates: [2026-01-12], dose_gy: 2}, "
            "{kind: radiotherapy, dates: [2026-03-12], dose_gy: 2, alpha_beta: 3}]",
            "one alpha_beta",
        ),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings(written(tmp_path, old, new))


def test_unreadable_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(SettingsError, match="not valid YAML"):
        load_settings(broken)


def test_the_digest_follows_the_settings(tmp_path: Path) -> None:
    other = load_settings(written(tmp_path, "seed: 0", "seed: 1"))
    assert other.oncotwin.digest != load_settings(SHIPPED).oncotwin.digest
    assert load_settings(SHIPPED).oncotwin.digest == load_settings(SHIPPED).oncotwin.digest


def test_a_course_is_the_dates_it_says(tmp_path: Path) -> None:
    text = (
        "treatments: [{kind: radiotherapy, first_date: 2026-01-09, fractions: 3, dose_gy: 2}, "
        "{kind: chemotherapy, first_date: 2026-01-09, daily_doses: 3}, "
        "{kind: radiotherapy, dates: [2026-02-03, 2026-02-02, 2026-02-02], dose_gy: 1.5}]"
    )
    weekly, daily, listed = load_settings(written(tmp_path, "treatments: []", text)).oncotwin.treatments
    # 9 January 2026 is a Friday: radiotherapy goes on on Monday
    assert [day.isoformat() for day in weekly.given] == ["2026-01-09", "2026-01-12", "2026-01-13"]
    assert [day.isoformat() for day in daily.given] == ["2026-01-09", "2026-01-10", "2026-01-11"]
    assert [day.isoformat() for day in listed.given] == ["2026-02-02", "2026-02-02", "2026-02-03"]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        (
            "treatments: []",
            "treatments: [{kind: radiotherapy, dates: [2026-01-12], dose_gy: 2}]",
            "oncotwin.treatments",
        ),
        (
            "series_rules: []",
            "series_rules: [{role: flair, description: flair, visit_date: 2026-03-01}]",
            "a visit_date in oncotwin.ingest.series_rules",
        ),
    ],
)
def test_settings_of_one_patient_are_refused_for_any(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], old: str, new: str, key: str
) -> None:
    path = written(tmp_path, old, new)
    arguments = ["-i", str(tmp_path / "none"), "-o", str(tmp_path / "out"), "--config", str(path)]
    assert main([*arguments, "--any-patient"]) == 2
    assert f"app.yaml: {key} belongs to one patient" in capfd.readouterr().err
    # Without it the run goes on, to an input folder that is not there.
    assert main(arguments) == 3
    assert "belongs to one patient" not in capfd.readouterr().err


def test_a_rule_for_one_series_can_stay_in_shared_settings(tmp_path: Path) -> None:
    rule = "series_rules: [{role: flair, series_uid: 1.2.3, visit_date: 2026-03-01}]"
    assert load_settings(written(tmp_path, "series_rules: []", rule)).oncotwin.of_one_patient == ""


TWICE = """
  treatments: [{kind: radiotherapy, dates: [2026-01-12], dose_gy: 2}]
  treatments: [{kind: chemotherapy, dates: [2026-01-12], dose: 75, half_life_hours: 1.8}]
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n  treatments: []\n", TWICE),
        (
            "treatments: []",
            "treatments: [{kind: radiotherapy, dates: [2026-01-12], dose_gy: 2.0, dose_gy: 1.8}]",
        ),
    ],
)
def test_what_is_written_twice_is_refused(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(
        SettingsError, match=r"the key (treatments|dose_gy) is there twice, in line \d+ again"
    ):
        load_settings(written(tmp_path, old, new))


def test_settings_of_another_release_are_refused(tmp_path: Path) -> None:
    version = load_settings(SHIPPED).application.version
    with pytest.raises(SettingsError, match=rf"version is 0\.0\.7, but this is release {version}"):
        load_settings(written(tmp_path, f"version: {version}", "version: 0.0.7"))


def test_a_patients_file_adds_treatments_and_goes_before_shared_rules(tmp_path: Path) -> None:
    shared = load_settings(
        written(tmp_path, "series_rules: []", "series_rules: [{role: flair, series_number: 3}]")
    ).oncotwin
    own = tmp_path / "anna.yaml"
    own.write_text(
        "treatments: [{kind: radiotherapy, dates: [2026-01-12], dose_gy: 2}]\n"
        "series_rules: [{role: none, series_number: 3, visit_date: 2026-03-01}]\n"
    )
    both = with_patient(shared, own)
    assert [rule.role for rule in both.ingest.series_rules] == ["none", "flair"]
    assert [entry.kind for entry in both.treatments] == ["radiotherapy"]
    assert both.twin == shared.twin
    assert both.digest != shared.digest
    with pytest.raises(SettingsError, match=r"treatments in app\.yaml too"):
        with_patient(both, own)
    own.write_text("twin: {grid_mm: 2}\n")
    with pytest.raises(SettingsError, match=r"anna\.yaml: twin"):
        with_patient(shared, own)
    own.write_text(
        "treatments: [{kind: radiotherapy, dates: [2026-01-12], dose_gy: 2, alpha_beta: 3}, "
        "{kind: radiotherapy, dates: [2026-02-12], dose_gy: 2, alpha_beta: 10}]\n"
    )
    with pytest.raises(SettingsError, match="one alpha_beta"):
        with_patient(shared, own)
