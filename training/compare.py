"""What a run found beside what is true: ``python -m training.compare --truth truth.json --result result.json``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REGIONS = ("NCR", "ED", "ET", "TC", "WT")


def comparison(truth: dict[str, Any], result: dict[str, Any]) -> str:
    """Volumes and parameters of a phantom as found and as true.

    Parameters
    ----------
    truth : dict
        ``truth.json`` of ``training.phantom``.
    result : dict
        ``result.json`` of the application.

    Raises
    ------
    ValueError
        If they do not have the same number of visits.
    """
    if len(truth["visits"]) != len(result["visits"]):
        raise ValueError(
            f"the phantom has {len(truth['visits'])} visits and the result {len(result['visits'])}: they do not "
            "belong together"
        )
    lines = ["Compared with the truth of the phantom (volumes in mL, found / true)"]
    for found, true in zip(result["visits"], truth["visits"], strict=True):
        cells = (f"{r} {found['volumes_ml'][r]:.1f} / {true['volumes_ml'][r]:.1f}" for r in REGIONS)
        lines.append(f"  day {true['day']:3.0f}   {'   '.join(cells)}")
    for name, parameter in result["parameters"].items():
        if name in truth["settings"]:
            low, high = parameter["interval95"]
            value = truth["settings"][name]
            verdict = "inside" if low <= value <= high else "OUTSIDE"
            lines.append(
                f"  {name}: {parameter['estimate']:.3g} ({low:.3g} to {high:.3g}) {parameter['unit']}, "
                f"true {value:g}: {verdict} the 95 % interval"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.compare", description=__doc__)
    parser.add_argument("--truth", type=Path, required=True, help="truth.json of the phantom")
    parser.add_argument("--result", type=Path, required=True, help="result.json of the application")
    options = parser.parse_args(arguments)
    try:
        truth, result = (json.loads(p.read_text("utf-8")) for p in (options.truth, options.result))
        print(comparison(truth, result))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
