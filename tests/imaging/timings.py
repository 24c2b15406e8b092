"""Headers of series as vendors write them: timing by kind of sequence."""

from __future__ import annotations

from typing import Any

from imaging.headers import SeriesHeaders

MPRAGE = {
    "scanning_sequence": ("GR", "IR"),
    "repetition_time_ms": 1900.0,
    "echo_time_ms": 2.5,
    "inversion_time_ms": 900.0,
}
SPGR = {
    "scanning_sequence": ("GR",),
    "repetition_time_ms": 8.2,
    "echo_time_ms": 3.2,
    "inversion_time_ms": 450.0,
}
T1_SE = {"scanning_sequence": ("SE",), "repetition_time_ms": 550.0, "echo_time_ms": 12.0}
T1_FLAIR = {
    "scanning_sequence": ("SE", "IR"),
    "repetition_time_ms": 2500.0,
    "echo_time_ms": 24.0,
    "inversion_time_ms": 920.0,
}
T2_TSE = {"scanning_sequence": ("SE",), "repetition_time_ms": 4500.0, "echo_time_ms": 90.0}
T2_SPACE = {"scanning_sequence": ("SE",), "repetition_time_ms": 3200.0, "echo_time_ms": 410.0}
FLAIR_2D = {
    "scanning_sequence": ("SE", "IR"),
    "repetition_time_ms": 9000.0,
    "echo_time_ms": 120.0,
    "inversion_time_ms": 2500.0,
}
FLAIR_3D = {
    "scanning_sequence": ("SE", "IR"),
    "repetition_time_ms": 5000.0,
    "echo_time_ms": 390.0,
    "inversion_time_ms": 1800.0,
}
FLAIR_CUBE = {
    "scanning_sequence": ("SE",),
    "repetition_time_ms": 6500.0,
    "echo_time_ms": 105.0,
    "inversion_time_ms": 1780.0,
}
PD = {"scanning_sequence": ("SE",), "repetition_time_ms": 3500.0, "echo_time_ms": 20.0}
STIR = {
    "scanning_sequence": ("SE", "IR"),
    "repetition_time_ms": 5000.0,
    "echo_time_ms": 60.0,
    "inversion_time_ms": 160.0,
}
GRE_T2STAR = {"scanning_sequence": ("GR",), "repetition_time_ms": 700.0, "echo_time_ms": 20.0}
ORIGINAL = ("ORIGINAL", "PRIMARY", "M", "NORM")


def headers(description: str, timing: dict[str, Any] | None = None, **more: Any) -> SeriesHeaders:
    return SeriesHeaders(
        description=description, image_type=more.pop("image_type", ORIGINAL), **(timing or {}), **more
    )
