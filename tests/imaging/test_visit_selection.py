"""Examinations that show no MR of the head: left out with a warning where that is certain, else named."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from imaging import preparation
from imaging.__main__ import main
from imaging.catalog import read_catalog
from imaging.errors import ImagingError, Reason
from imaging.preparation import prepare_visits
from imaging.role_selection import RoleRule
from imaging.roles import Role
from imaging.visit_selection import VisitSelection, select_visits
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_segmentation
from tests.imaging.drawings import boxes

REQUIRED: frozenset[Role] = frozenset({"t1ce", "flair"})
LATER = factory.DATE + timedelta(days=30)
RULE = RoleRule("none", description=".*", visit_date=date(2024, 3, 31))


def write_other(folder: Path, *kinds: dict[str, Any]) -> list[list[Path]]:
    """A head on the first day; on another day a study of these series."""
    factory.write_visit(folder, contrasts=("t1ce", "flair"))
    written = []
    for number, kind in enumerate(kinds, start=1):
        modality = kind.get("Modality", "MR")
        stated = {
            "StudyInstanceUID": factory.uid("other study"),
            "FrameOfReferenceUID": factory.uid("other frame"),
            "SeriesNumber": number,
            **factory.dates(LATER + timedelta(minutes=number)),
            **kind,
        }
        name = f"other{number}"
        written.append(factory.write_series(folder / name, name=name, modality=modality, attributes=stated))
    return written


def select(folder: Path, *rules: RoleRule) -> VisitSelection:
    return select_visits(read_catalog(folder).visits, required=REQUIRED, rules=rules)


CT = {"Modality": "CT", "SeriesDescription": "Kopf nativ"}
SPINE_T1 = {"BodyPartExamined": "LSPINE", "SeriesDescription": "t1_tse_sag"}
SPINE_T2 = {"BodyPartExamined": "L SPINE", "SeriesDescription": "t2_tirm_sag"}


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        ((CT, CT), "none of its 2 series counts as an MR of the head (2 CT)"),
        ((SPINE_T1, SPINE_T2), "(2 of another part of the body by BodyPartExamined)"),
        ((CT, SPINE_T1), "(1 CT, 1 of another part of the body by BodyPartExamined)"),
    ],
    ids=["CT", "spine", "both"],
)
def test_what_is_certainly_no_mr_of_the_head_is_left_out_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kinds: tuple[dict[str, Any], ...], told: str
) -> None:
    write_other(tmp_path, *kinds)
    found = select(tmp_path)
    ((visit, selection),) = found.visits
    assert visit.date == factory.DATE and set(selection.chosen) == REQUIRED
    (warning,) = found.warnings
    assert warning.startswith("The examination of 2024-03-31 was left out: ") and told in warning
    assert main([str(tmp_path)]) == 0
    assert f"! left out of a run with other visits: {warning.split(': ')[1][:-1]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"BodyPartExamined": None},
        {"BodyPartExamined": "HEADNECK"},
        {"BodyPartExamined": "CSPINE", "SeriesDescription": "t2_tse Hirn"},
        {"BodyPartExamined": "CSPINE", "ProtocolName": "Cranio-spinal axis"},
        {"BodyPartExamined": "SPINE", **factory.CONTRASTS["flair"]},
        {"BodyPartExamined": "SPINE", **factory.CONTRASTS["t1"]},
    ],
)
def test_what_may_be_an_mr_of_the_head_stops_the_run_and_is_named(
    tmp_path: Path, kind: dict[str, Any]
) -> None:
    write_other(tmp_path, CT, SPINE_T1, {"SeriesDescription": "t2_tse", **kind})
    with pytest.raises(ImagingError, match="visit of 2024-03-31 has no usable") as error:
        select(tmp_path)
    assert error.value.reason is Reason.MISSING_SEQUENCE
    assert "take it out of the input" in error.value.message
    assert "{role: none, description: '.*', visit_date: 2024-03-31}" in error.value.message


def test_the_rule_that_the_message_names_helps(tmp_path: Path) -> None:
    write_other(tmp_path, {"SeriesDescription": None}, {"SeriesDescription": "t2_tse"})
    found = select(tmp_path, RULE)
    assert len(found.visits) == 1
    assert "2024-03-31 was left out" in found.warnings[0] and "(2 kept out by rules)" in found.warnings[0]


def test_a_rule_that_gives_a_series_a_role_keeps_its_visit(tmp_path: Path) -> None:
    write_other(tmp_path, SPINE_T1, SPINE_T2)
    rules = (
        RoleRule("t1ce", series_uid=factory.uid("other1")),
        RoleRule("flair", series_uid=factory.uid("other2")),
    )
    found = select(tmp_path, *rules)
    assert len(found.visits) == 2 and not found.warnings


def test_a_drawing_on_what_is_left_out_is_named(tmp_path: Path) -> None:
    (files,) = write_other(tmp_path, CT)
    write_segmentation(tmp_path / "plan.dcm", files, boxes())
    (warning,) = select(tmp_path).warnings
    assert warning.endswith("So were the drawings on it: plan.dcm.")


def test_with_nothing_else_the_run_says_what_is_missing(tmp_path: Path) -> None:
    write_other(tmp_path, CT)
    for name in ("visit_t1ce", "visit_flair"):
        for path in (tmp_path / name).iterdir():
            path.unlink()
    with pytest.raises(
        ImagingError, match="visit of 2024-03-31 has no usable T1 after contrast agent series"
    ):
        select(tmp_path)


def test_a_ct_of_the_same_day_is_no_visit_too_soon(tmp_path: Path) -> None:
    factory.write_visit(tmp_path, contrasts=("t1ce", "flair"))
    factory.write_visit(tmp_path, LATER, name="second", contrasts=("t1ce", "flair"))
    stated = {"StudyInstanceUID": factory.uid("ct"), **factory.dates(LATER + timedelta(hours=8))}
    factory.write_series(tmp_path / "ct", name="ct", modality="CT", attributes=stated)
    found = select(tmp_path)
    assert len(found.visits) == 2 and len(found.warnings) == 1


def test_what_cannot_be_registered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete study of another part of the body, without a word of it in the headers, ends here."""

    def refuse(*_: Any, purpose: str, **__: Any) -> None:
        if purpose == "visit":
            raise ImagingError(Reason.REGISTRATION_FAILED, "A follow-up cannot be aligned with the baseline.")

    monkeypatch.setattr(preparation, "register_rigid", refuse)
    factory.write_visit(tmp_path, contrasts=("t1ce",))
    factory.write_visit(tmp_path, LATER, name="second", contrasts=("t1ce",))
    found = select_visits(read_catalog(tmp_path).visits, required=frozenset({"t1ce"}))
    with pytest.raises(ImagingError, match=r"visit of 2024-03-31, series 1: a follow-up cannot be aligned"):
        prepare_visits([(visit, selection.chosen) for visit, selection in found.visits])
