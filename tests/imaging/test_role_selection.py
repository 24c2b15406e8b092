"""The four contrasts of a visit among all its series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from imaging.catalog import RefusedSeries, Series, Visit
from imaging.errors import ImagingError, Reason
from imaging.geometry import Geometry
from imaging.role_selection import RoleRule, select_roles
from imaging.roles import ROLES, Role
from tests.imaging.timings import (
    FLAIR_2D,
    FLAIR_3D,
    MPRAGE,
    SPGR,
    T1_SE,
    T2_TSE,
    headers,
)

START = datetime(2024, 3, 1, 9, 0)
ALL: frozenset[Role] = frozenset(ROLES)
NONE: frozenset[Role] = frozenset()


def series(
    number: int,
    description: str,
    timing: dict[str, Any] | None = None,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    shape: tuple[int, int, int] = (240, 240, 160),
    minutes: int | None = None,
    **more: Any,
) -> Series:
    return Series(
        uid=f"1.2.{number}",
        study_uid="1.1",
        modality=more.pop("modality", "MR"),
        description=description,
        number=number,
        acquired=START + timedelta(minutes=5 * number if minutes is None else minutes),
        files=(),
        geometry=Geometry(shape, np.diag([*spacing, 1.0]), "1.9"),
        headers=headers(description, timing, **more),
        is_multiframe=False,
        instance_uids=(),
    )


def refused(number: int, description: str, timing: dict[str, Any] | None = None) -> RefusedSeries:
    return RefusedSeries(
        uid=f"1.2.{number}",
        description=description,
        reason=Reason.MISSING_SLICE,
        sentence=f"series {number} lacks 1 of 5 slices.",
        modality="MR",
        file_count=4,
        number=number,
        acquired=START,
        has_time=True,
        headers=headers(description, timing),
    )


def visit(*items: Series | RefusedSeries) -> Visit:
    return Visit(
        date=START,
        series=tuple(item for item in items if isinstance(item, Series)),
        refused=tuple(item for item in items if isinstance(item, RefusedSeries)),
        annotations=(),
    )


def choose(
    *items: Series | RefusedSeries, rules: Sequence[RoleRule] = (), required: frozenset[Role] = NONE
) -> dict[Role, int]:
    selection = select_roles(visit(*items), required=required, rules=rules)
    assert set(selection.reasons) == {item.uid for item in items}
    assert all(reason.endswith(".") for reason in selection.reasons.values())
    return {role: chosen.number for role, chosen in selection.chosen.items() if chosen.number is not None}


class TestSelection:
    def test_a_usual_visit(self) -> None:
        assert choose(
            series(1, "localizer", SPGR),
            series(2, "t1_mprage", MPRAGE),
            series(3, "t2_tse", T2_TSE),
            series(4, "ep2d_diff", T2_TSE),
            series(5, "t1_mprage post", MPRAGE, contrast_agent="Gd"),
            series(6, "flair", FLAIR_2D, contrast_agent="Gd"),
            required=ALL,
        ) == {"t1": 2, "t1ce": 5, "t2": 3, "flair": 6}

    def test_agent_in_the_header_tells_silent_t1_series_apart(self) -> None:
        assert choose(series(1, "t1", MPRAGE), series(2, "t1", MPRAGE, contrast_agent="Gadovist")) == {
            "t1": 1,
            "t1ce": 2,
        }

    def test_agent_said_to_be_none_is_none(self) -> None:
        from pydicom.dataset import Dataset

        from imaging.headers import read_headers

        dataset = Dataset()
        dataset.ContrastBolusAgent = "NONE"
        assert read_headers(dataset).contrast_agent == ""

    def test_words_beat_an_agent_kept_in_every_header(self) -> None:
        assert choose(
            series(1, "t1 pre", MPRAGE, contrast_agent="Gd"),
            series(2, "t1 post", MPRAGE, contrast_agent="Gd"),
        ) == {"t1": 1, "t1ce": 2}

    def test_words_speak_where_the_agent_is_missing(self) -> None:
        assert choose(series(1, "t1", MPRAGE), series(2, "t1 +C", MPRAGE)) == {"t1": 1, "t1ce": 2}

    def test_series_after_a_documented_agent_is_post(self) -> None:
        assert choose(
            series(1, "t1", MPRAGE), series(2, "t2", T2_TSE, contrast_agent="Gd"), series(3, "t1", MPRAGE)
        ) == {"t1": 1, "t2": 2, "t1ce": 3}

    def test_first_of_two_equal_runs_with_agent_is_pre(self) -> None:
        assert choose(
            series(4, "t1", MPRAGE, contrast_agent="Gd"), series(2, "t1", MPRAGE, contrast_agent="Gd")
        ) == {"t1": 2, "t1ce": 4}

    def test_two_different_protocols_with_agent_are_both_post(self) -> None:
        axial = series(1, "t1", T1_SE, contrast_agent="Gd", spacing=(0.5, 0.5, 5.0), shape=(400, 400, 30))
        assert choose(axial, series(2, "t1", MPRAGE, contrast_agent="Gd")) == {"t1ce": 2}

    def test_without_a_documented_agent_order_of_time_says_nothing(self) -> None:
        with pytest.raises(ImagingError) as error:
            choose(series(1, "t1", MPRAGE), series(2, "t1", MPRAGE))
        assert error.value.reason is Reason.AMBIGUOUS_SEQUENCE

    def test_three_dimensional_goes_before_thick_slices(self) -> None:
        thick = series(1, "flair ax", FLAIR_2D, spacing=(0.5, 0.5, 5.0), shape=(400, 400, 30))
        assert choose(thick, series(2, "flair 3d", FLAIR_3D)) == {"flair": 2}

    def test_finer_goes_before_coarser(self) -> None:
        assert choose(
            series(1, "t2", T2_TSE), series(2, "t2", T2_TSE, spacing=(0.8, 0.8, 0.8), shape=(300, 300, 200))
        ) == {"t2": 2}

    def test_whole_brain_goes_before_a_fine_slab(self) -> None:
        slab = series(1, "t2", T2_TSE, spacing=(0.4, 0.4, 0.4), shape=(400, 400, 80))
        assert choose(slab, series(2, "t2", T2_TSE, spacing=(0.5, 0.5, 5.0), shape=(400, 400, 30))) == {
            "t2": 2
        }

    def test_axial_goes_before_other_planes_of_the_same_resolution(self) -> None:
        thick: dict[str, Any] = {"spacing": (0.5, 0.5, 5.0), "shape": (400, 400, 30)}
        axial, coronal = series(1, "t2 ax", T2_TSE, **thick), series(2, "t2 cor", T2_TSE, **thick)
        turned = np.array([[0.5, 0, 0, 0], [0, 0, 5, 0], [0, -0.5, 0, 0], [0, 0, 0, 1]])
        coronal = replace(coronal, geometry=Geometry((400, 400, 32), turned, "1.9"))
        assert choose(axial, coronal) == {"t2": 1}

    def test_corrected_goes_before_uncorrected_of_one_acquisition(self) -> None:
        raw = series(1, "t2", T2_TSE, image_type=("ORIGINAL", "PRIMARY", "M", "ND"))
        assert choose(
            raw, series(2, "t2", T2_TSE, image_type=("ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D"))
        ) == {"t2": 2}

    def test_original_goes_before_derived(self) -> None:
        derived = series(2, "t2", T2_TSE, image_type=("DERIVED", "SECONDARY", "M", "NORM"))
        assert choose(series(1, "t2", T2_TSE), derived) == {"t2": 1}

    def test_a_true_tie_is_refused_and_says_how_to_decide(self) -> None:
        with pytest.raises(ImagingError) as error:
            choose(series(3, "t2", T2_TSE), series(8, "t2", T2_TSE))
        assert error.value.reason is Reason.AMBIGUOUS_SEQUENCE
        for word in ("series 3 and series 8", "T2", "app.yaml", "series_number"):
            assert word in error.value.message

    def test_order_of_listing_does_not_matter(self) -> None:
        items = [
            series(1, "t1", MPRAGE),
            series(2, "t2", T2_TSE),
            series(3, "t2", T2_TSE, spacing=(0.5, 0.5, 3.0)),
            series(4, "flair", FLAIR_3D),
            series(5, "t1 gd", MPRAGE),
        ]
        assert choose(*items) == choose(*reversed(items))

    def test_missing_required_role(self) -> None:
        with pytest.raises(ImagingError) as error:
            choose(series(1, "t1", MPRAGE), required=frozenset({"t1", "t2"}))
        assert error.value.reason is Reason.MISSING_SEQUENCE
        assert "T2" in error.value.message

    def test_missing_role_that_is_not_required(self) -> None:
        assert choose(series(1, "t1", MPRAGE), required=frozenset({"t1"})) == {"t1": 1}

    def test_missing_because_refused_says_why(self) -> None:
        with pytest.raises(ImagingError) as error:
            choose(series(1, "t1", MPRAGE), refused(2, "t2", T2_TSE), required=frozenset({"t2"}))
        assert error.value.reason is Reason.MISSING_SLICE
        assert "series 2 lacks 1 of 5 slices." in error.value.message

    def test_refused_beside_a_good_one_is_mentioned(self) -> None:
        selection = select_roles(
            visit(series(1, "t2", T2_TSE), refused(2, "t2", T2_TSE)), required=frozenset({"t2"})
        )
        assert selection.chosen["t2"].number == 1
        assert "series 2 looked like one too" in selection.reasons["1.2.1"]
        assert "lacks 1 of 5" in selection.reasons["1.2.2"]

    def test_reasons_hold_no_description(self) -> None:
        items = [
            series(1, "t1 JANE DOE", MPRAGE),
            series(2, "JANE DOE loc", SPGR),
            series(3, "t2 JANE DOE", MPRAGE),
        ]
        for reason in select_roles(visit(*items), required=NONE).reasons.values():
            assert "DOE" not in reason


class TestRules:
    def test_a_rule_decides_a_tie(self) -> None:
        items = (series(3, "t2", T2_TSE), series(8, "t2", T2_TSE))
        assert choose(*items, rules=[RoleRule("t2", series_number=8)]) == {"t2": 8}
        assert choose(*items, rules=[RoleRule("t2", series_uid="1.2.3")]) == {"t2": 3}

    def test_a_rule_beats_the_headers(self) -> None:
        items = (series(1, "t1 post", MPRAGE), series(2, "XYZ", None))
        assert choose(*items, rules=[RoleRule("t1ce", description="^xyz$")]) == {"t1ce": 2}

    def test_a_rule_keeps_a_series_out(self) -> None:
        items = (series(3, "t2", T2_TSE), series(8, "t2 motion", T2_TSE))
        assert choose(*items, rules=[RoleRule("none", description="motion")]) == {"t2": 3}

    def test_rules_are_tried_in_order(self) -> None:
        items = (series(3, "a", None), series(8, "b", None))
        rules = [
            RoleRule("t2", description="c"),
            RoleRule("t2", description="b"),
            RoleRule("t2", description="a"),
        ]
        assert choose(*items, rules=rules) == {"t2": 8}

    def test_all_conditions_of_a_rule_hold(self) -> None:
        items = (series(3, "a", None), series(8, "a", None))
        assert choose(*items, rules=[RoleRule("t2", description="a", series_number=8)]) == {"t2": 8}

    def test_a_rule_may_hold_for_one_visit(self) -> None:
        items = (series(3, "t2", T2_TSE), series(8, "t2", T2_TSE, spacing=(0.9, 0.9, 0.9)))
        rule = RoleRule("t2", series_number=3, visit_date=date(2024, 3, 1))
        assert choose(*items, rules=[rule]) == {"t2": 3}
        assert choose(*items, rules=[replace(rule, visit_date=date(2025, 1, 1))]) == {"t2": 8}

    def test_a_rule_that_matches_two_equals_is_a_tie(self) -> None:
        with pytest.raises(ImagingError) as error:
            choose(series(3, "a", None), series(8, "a", None), rules=[RoleRule("t2", description="a")])
        assert error.value.reason is Reason.AMBIGUOUS_SEQUENCE

    def test_a_rule_that_names_a_refused_series_gives_its_reason(self) -> None:
        with pytest.raises(ImagingError, match="lacks 1 of 5 slices") as error:
            choose(series(1, "t2", T2_TSE), refused(2, "t2", T2_TSE), rules=[RoleRule("t2", series_number=2)])
        assert error.value.reason is Reason.MISSING_SLICE

    @pytest.mark.parametrize(
        "arguments", [{"role": "t1"}, {"role": "t3", "series_number": 1}, {"role": "t1", "description": "("}]
    )
    def test_impossible_rules_cannot_be_made(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="rule"):
            RoleRule(**arguments)


def test_one_protocol_name_of_the_whole_examination_tells_no_series_apart() -> None:
    """As GE writes it: the plain T1 covers more, and only the other one states the agent."""
    name = {"protocol_name": "BRAIN TUMOR WITH CONTRAST"}
    plain = series(2, "Sag T1 BRAVO", SPGR, **name)
    enhanced = series(
        7, "Ax T1", T1_SE, spacing=(0.5, 0.5, 5.0), shape=(512, 512, 24), contrast_agent="GADAVIST", **name
    )
    flair = series(5, "Ax T2 FLAIR", FLAIR_2D, spacing=(0.5, 0.5, 5.0), shape=(512, 512, 24), **name)
    selection = select_roles(visit(plain, enhanced, flair), required=NONE)
    assert {role: chosen.number for role, chosen in selection.chosen.items()} == {
        "t1": 2,
        "t1ce": 7,
        "flair": 5,
    }


def test_an_examination_without_agent_has_no_t1ce_whatever_its_protocol_is_called() -> None:
    plain = series(2, "Sag T1 BRAVO", SPGR, protocol_name="BRAIN WITH CONTRAST")
    other = series(
        3, "Ax T1", T1_SE, spacing=(0.5, 0.5, 5.0), shape=(512, 512, 24), protocol_name="BRAIN WITH CONTRAST"
    )
    assert "t1ce" not in select_roles(visit(plain, other), required=NONE).chosen


def test_protocol_names_that_differ_tell_before_from_after() -> None:
    """Some scanners keep the agent in every header of an examination."""
    before = series(2, "T1 MPRAGE", MPRAGE, protocol_name="T1 pre", contrast_agent="GADAVIST")
    after = series(3, "T1 MPRAGE", MPRAGE, protocol_name="T1 post", contrast_agent="GADAVIST")
    chosen = select_roles(visit(before, after), required=NONE).chosen
    assert (chosen["t1"].number, chosen["t1ce"].number) == (2, 3)


def test_iodine_of_a_ct_is_no_agent_of_the_mr() -> None:
    ct = series(1, "CT head with contrast", modality="CT", contrast_agent="OMNIPAQUE 350")
    plain = series(2, "T1 MPRAGE", MPRAGE)
    chosen = select_roles(visit(ct, plain), required=NONE).chosen
    assert chosen["t1"].number == 2 and "t1ce" not in chosen
