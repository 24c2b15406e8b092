"""The table on the terminal."""

from __future__ import annotations

import json
from pathlib import Path

from app.summary import summary_of


def volume(error: float, exponential: float | None) -> dict:
    return {"error": error, "error_no_change": 3.25, "error_exponential": exponential}


def test_skill_is_shown_where_it_is_known(tmp_path: Path) -> None:
    result = {
        "status": "ok",
        "visits": [],
        "parameters": {},
        "forecasts": [],
        "skill": {"day": 60.0, "volume_ml": volume(1.51, 2.0), "core_volume_ml": volume(0.3, None)},
        "warnings": [],
        "outputs": [],
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    shown = " ".join(summary_of(tmp_path).split())
    assert "no change exponential growth tumour core 0.3 3.2 - whole tumour 1.5 3.2 2.0" in shown
    (tmp_path / "result.json").write_text(json.dumps({**result, "skill": None}))
    assert "Skill" not in summary_of(tmp_path)
