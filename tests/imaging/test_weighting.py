"""Contrast and phase of a series from headers as vendors and languages write them."""

from __future__ import annotations

from typing import Any

import pytest

from imaging.headers import SeriesHeaders
from imaging.weighting import kind_by_timing, normalised, phase_by_words, weigh
from tests.imaging.timings import (
    FLAIR_2D,
    FLAIR_3D,
    FLAIR_CUBE,
    GRE_T2STAR,
    MPRAGE,
    PD,
    SPGR,
    STIR,
    T1_FLAIR,
    T1_SE,
    T2_SPACE,
    T2_TSE,
    headers,
)


@pytest.mark.parametrize(
    ("description", "timing", "kind"),
    [
        ("t1_mprage_sag_p2_iso", MPRAGE, "t1"),
        ("t1_mpr_ns_sag", MPRAGE, "t1"),
        ("Sag T1 FSPGR BRAVO", SPGR, "t1"),
        ("AX BRAVO +C", SPGR, "t1"),
        ("Accelerated SAG IR-SPGR", SPGR, "t1"),
        ("s3DI_MC_HR T1W_3D_TFE", SPGR, "t1"),
        ("WIP T1W_SE CLEAR", T1_SE, "t1"),
        ("T1 axial SE", T1_SE, "t1"),
        ("Ax T1 FLAIR", T1_FLAIR, "t1"),
        ("T1 TIRM tra", T1_FLAIR, "t1"),
        ("T1 vibe dixon tra", SPGR, "t1"),
        ("3D T1 sagittale", MPRAGE, "t1"),
        ("", MPRAGE, "t1"),
        ("Ax T2 FSE", T2_TSE, "t2"),
        ("T2W_TSE", T2_TSE, "t2"),
        ("t2_space_sag", T2_SPACE, "t2"),
        ("AX T2 PROPELLER", T2_TSE, "t2"),
        ("axiale T2", T2_TSE, "t2"),
        ("", T2_TSE, "t2"),
        ("Ax T2 FLAIR", FLAIR_2D, "flair"),
        ("t2_tirm_tra_dark-fluid", FLAIR_2D, "flair"),
        ("t2_spc_da-fl_sag_p2_iso", FLAIR_3D, "flair"),
        ("Sag CUBE T2 FLAIR", FLAIR_CUBE, "flair"),
        ("3D_FLAIR_VISTA", FLAIR_3D, "flair"),
        ("FLAIR post GD", FLAIR_2D, "flair"),
        ("t2_space_ir_sag", FLAIR_3D, "flair"),
        ("", FLAIR_2D, "flair"),
        ("FLAIR", {**FLAIR_2D, "inversion_time_ms": None, "scanning_sequence": ("SE",)}, "flair"),
        ("T1", None, "t1"),
        ("FLAIR ax", None, "flair"),
        ("Sagittal FLAIR", T1_FLAIR, "t1"),
    ],
)
def test_contrast_by_description_and_timing(
    description: str, timing: dict[str, Any] | None, kind: str
) -> None:
    weighting = weigh("MR", headers(description, timing))
    assert weighting.kind == kind, weighting.sentence


@pytest.mark.parametrize(
    ("description", "timing", "more", "word"),
    [
        ("localizer", SPGR, {}, "localiser"),
        ("AAHead_Scout_64ch", SPGR, {}, "localiser"),
        ("Übersicht", SPGR, {}, "localiser"),
        ("3 Plane Loc", SPGR, {}, "localiser"),
        ("T1", SPGR, {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "localiser"),
        ("ep2d_diff_3scan_trace_p2_ADC", T2_TSE, {}, "diffusion"),
        ("Ax DWI", T2_TSE, {}, "diffusion"),
        ("Difusión axial", T2_TSE, {}, "diffusion"),
        ("Lokalisator", SPGR, {}, "localiser"),
        ("t1_mp2rage_INV2", MPRAGE, {}, "inversion"),
        ("", T2_TSE, {"diffusion_b_value": 1000.0}, "diffusion"),
        ("", T2_TSE, {"image_type": ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")}, "diffusion"),
        ("ep2d_perf_p2", GRE_T2STAR, {}, "perfusion"),
        ("rCBV map", GRE_T2STAR, {}, "perfusion"),
        ("SWI_Images", GRE_T2STAR, {}, "susceptibility"),
        ("Ax T2* GRE", GRE_T2STAR, {}, "susceptibility"),
        ("T2 star", GRE_T2STAR, {}, "susceptibility"),
        ("ep2d_bold_rest", GRE_T2STAR, {}, "functional"),
        ("3D TOF", SPGR, {}, "angiography"),
        ("T1 MPR cor", MPRAGE, {"image_type": ("DERIVED", "SECONDARY", "MPR", "NORM")}, "reformat"),
        ("T1 post sub", MPRAGE, {}, "subtraction"),
        ("T1 subtraction", MPRAGE, {}, "subtraction"),
        ("T1 map", SPGR, {}, "computed map"),
        ("PD/T2 tse", PD, {}, "proton density"),
        ("", PD, {}, "proton density"),
        ("STIR cor", STIR, {}, "STIR"),
        ("", STIR, {}, "STIR"),
        ("3D CISS", T2_TSE, {}, "steady-state"),
        ("T1 sag C-spine", T1_SE, {"body_part": "CSPINE"}, "spine"),
        ("T1", T1_SE, {"body_part": "CSPINE"}, "body part"),
        ("", SPGR, {"image_type": ("ORIGINAL", "PRIMARY", "P", "ND")}, "phase"),
        ("T1 screenshot", SPGR, {"image_type": ("DERIVED", "SECONDARY", "SCREEN SAVE")}, "screenshot"),
        ("epi", {**T2_TSE, "scanning_sequence": ("EP", "SE")}, {}, "echo-planar"),
        ("something", None, {}, "neither"),
        ("T1 tra", T2_TSE, {}, "called T1 but its timing"),
        ("T2 tra", MPRAGE, {}, "called T2 but its timing"),
        ("T1 tra", GRE_T2STAR, {}, "called T1 but its timing"),
    ],
)
def test_what_is_no_candidate_says_why(
    description: str, timing: dict[str, Any] | None, more: dict[str, Any], word: str
) -> None:
    weighting = weigh("MR", headers(description, timing, **more))
    assert weighting.kind is None
    assert word in weighting.sentence


def test_ct_is_no_candidate() -> None:
    assert weigh("CT", headers("T1", MPRAGE)).kind is None


@pytest.mark.parametrize(
    "description",
    [
        "T1 post", "t1_mprage_sag_post", "T1 +C", "T1 C+", "AX T1 POST GD", "T1W +GD", "T1CE", "t1ce_ax",
        "T1c", "T1Gd", "T1 GADO", "T1 KM", "t1 nach KM", "T1 mKM", "T1 MPRAGE tra KM",
        "T1 avec contraste", "T1 injecté", "T1 APRÈS INJECTION", "3D T1 GADO", "T1 con mdc", "T1 mdc",
        "T1 dopo mdc", "T1 con contraste", "T1 con CIV", "T1 con gadolinio", "T1 pós", "T1 Gadovist",
        "T1 contrast", "T1 enhanced", "stealth-post", "T1 PostContrast", "t1post", "T1 с контрастом",
        "T1 增强", "T1 造影後", "T1 z kontrastem", "BRAVO+C", "T1 Dotarem", "postGd T1",
    ],
)  # fmt: skip
def test_words_for_after_contrast_agent(description: str) -> None:
    assert phase_by_words(normalised(description)) == "post"


@pytest.mark.parametrize(
    "description",
    [
        "T1 pre", "T1 pre contrast", "T1 precontrast", "T1 PRE GD", "T1 nativ", "T1 ohne KM", "T1 o. KM",
        "T1 vor KM", "T1 sans injection", "T1 sans gado", "T1 sans contraste", "T1 AVANT injection",
        "T1 sin contraste", "T1 senza mdc", "T1 w/o contrast", "T1 without gad", "T1 non contrast",
        "T1 non-contrast", "T1 unenhanced", "T1 no contrast", "T1 bez kontrastu", "T1 без контраста",
        "T1 平扫", "t1_pre",
    ],
)  # fmt: skip
def test_words_for_before_contrast_agent(description: str) -> None:
    assert phase_by_words(normalised(description)) == "pre"


@pytest.mark.parametrize(
    "description",
    [
        "t1_mprage_sag_p2_iso", "T1 COR", "T1 C-spine", "T1 postprocessed", "T1 posterior fossa",
        "T1 post op", "T1 post-OP", "T1 postop", "T1 post RT", "T1 post surgery", "T1 preop",
        "MRI brain w/wo contrast T1", "T1 with and without contrast", "T2 prep T1",
        "t1 axial_ 3D_TERA : Processed_CaPTk", "T1 cervico", "T1 inj pre",
    ],
)  # fmt: skip
def test_words_that_say_nothing_about_contrast_agent(description: str) -> None:
    assert phase_by_words(normalised(description)) is None


@pytest.mark.parametrize(("contrast", "kind"), [("T1", "t1"), ("T2", "t2"), ("FLUID_ATTENUATED", "flair")])
def test_enhanced_objects_state_their_contrast(contrast: str, kind: str) -> None:
    assert kind_by_timing(SeriesHeaders(acquisition_contrast=contrast)) == kind
