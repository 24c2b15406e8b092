"""Rows of a validation in one small file of the repository: whoever doubts the page scores them again in seconds."""

import json
import lzma
from pathlib import Path
from typing import Any

from benchmarks.validation.cohort_run import Plan
from benchmarks.validation.scenarios import SCENARIOS

DIGITS = 7
"""Significant digits of a number in the archive, as many as the twin's float32 holds."""


def restore(archive: Path, plan: Plan) -> int:
    """Put the archive's rows where the plan looks for them; rows of other code or settings are left out.

    Returns
    -------
    int
        How many rows the archive had for this code, those that were on disk already included.
    """
    if not archive.exists():
        return 0
    fitting = 0
    with lzma.open(archive, "rt", encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            name, row = entry["scenario"], entry["row"]
            if name not in SCENARIOS:
                continue
            path = plan.path(name, row["patient"])
            if path.parent.name != entry["folder"]:
                continue
            fitting += 1
            if not path.exists():
                plan.write(name, row)
    return fitting


def keep(archive: Path, plan: Plan) -> int:
    """Write all rows that are on disk for this code, of every scenario and patient, and say how many they are."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_name(archive.name + ".part")
    count = 0
    with lzma.open(unfinished, "wt", encoding="utf-8", preset=9) as lines:
        for name in SCENARIOS:
            folder = plan.path(name, 0).parent
            for path in sorted(folder.glob("*.json")):
                row = _rounded(json.loads(path.read_text("utf-8")))
                entry = {"scenario": name, "folder": folder.name, "row": row}
                lines.write(json.dumps(entry, separators=(",", ":")) + "\n")
                count += 1
    unfinished.replace(archive)
    return count


def _rounded(value: Any) -> Any:
    """The same with shorter numbers."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return value
