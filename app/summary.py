"""The result of a run as a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

REGIONS = ("NCR", "ED", "ET", "TC", "WT")


def summary_of(output: Path) -> str:
    """Text of a results folder: visits, parameters, forecasts, warnings and files.

    Parameters
    ----------
    output : pathlib.Path
        Folder with ``result.json``.
    """
    result = json.loads((output / "result.json").read_text(encoding="utf-8"))
    blocks = [
        f"Status: {result['status']}   (research use only, not for clinical decisions)",
        _table(
            "Visits, volumes in mL",
            ("date", *REGIONS, "segmentation"),
            [
                (v["date"][:10], *(f"{v['volumes_ml'][r]:.1f}" for r in REGIONS), v["segmentation_source"])
                for v in result["visits"]
            ],
        ),
        _table(
            "Growth parameters",
            ("parameter", "estimate", "95 % interval", "unit", "contraction", ""),
            [_parameter_row(name, p) for name, p in result["parameters"].items()],
        ),
        _table(
            "Forecast, volumes in mL with 95 % interval",
            ("days after last visit", "tumour core", "whole tumour"),
            [_forecast_row(f) for f in result["forecasts"]],
        ),
        _table(
            "Skill: the last visit forecast from those before it, errors in mL",
            ("volume", "forecast", "no change", "exponential growth"),
            _skill_rows(result["skill"]),
        ),
        "\n".join(f"! {warning}" for warning in result["warnings"]),
        f"{len(result['outputs'])} DICOM objects and result.json in {output}",
    ]
    return "\n\n".join(block for block in blocks if block)


def _parameter_row(name: str, parameter: dict[str, Any]) -> tuple[str, ...]:
    low, high = parameter["interval95"]
    return (
        name,
        f"{parameter['estimate']:.3g}",
        f"{low:.3g} to {high:.3g}",
        parameter["unit"],
        f"{parameter['contraction']:.2f}",
        "" if parameter["identified"] else "not identified by these scans",
    )


def _forecast_row(forecast: dict[str, Any]) -> tuple[str, ...]:
    def volume(value: dict[str, Any]) -> str:
        low, high = value["interval95"]
        return f"{value['estimate']:.1f} ({low:.1f} to {high:.1f})"

    return f"{forecast['horizon_days']:g}", volume(forecast["core_volume_ml"]), volume(forecast["volume_ml"])


def _skill_rows(skill: dict[str, Any] | None) -> list[tuple[str, ...]]:
    if skill is None:
        return []
    rows = []
    for name, key in (("tumour core", "core_volume_ml"), ("whole tumour", "volume_ml")):
        errors = (skill[key][error] for error in ("error", "error_no_change", "error_exponential"))
        rows.append((name, *("-" if error is None else f"{error:.1f}" for error in errors)))
    return rows


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns under a title; empty without rows."""
    rows = list(rows)
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join([title, *(f"  {line.rstrip()}" for line in lines)])
