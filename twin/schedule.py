"""Treatments from a JSON file, for the command line."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twin.errors import TwinError
from twin.nifti import Grid, read_volume
from twin.treatment import Chemotherapy, Radiotherapy, Surgery, Therapy

_KEYS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "radiotherapy": (frozenset({"days", "doses_gy"}), frozenset({"alpha_beta_gy", "dose_map"})),
    "chemotherapy": (frozenset({"days", "doses"}), frozenset({"half_life_hours", "reference_dose"})),
    "surgery": (frozenset({"day", "resection"}), frozenset()),
}
"""Keys that each kind needs, and those it may have."""


def read_treatments(path: Path, grid: Grid) -> tuple[Therapy, ...]:
    """Read a list of treatments.

    Entries are objects with ``kind``: radiotherapy (``days``, ``doses_gy``, and where wanted ``alpha_beta_gy`` and
    ``dose_map``, a NIfTI file of the dose relative to ``doses_gy``), chemotherapy (``days``, ``doses``, and where
    wanted ``half_life_hours`` and ``reference_dose``) and surgery (``day`` and ``resection``, a NIfTI mask of what was
    removed).

    Parameters
    ----------
    path : pathlib.Path
        The file; names in it are relative to its folder.
    grid : Grid
        That of the tissue maps, which volumes must share.

    Raises
    ------
    TwinError
        If the file or an entry is not as said.
    """
    try:
        entries = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TwinError("bad_treatment", f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(entries, list):
        raise TwinError("bad_treatment", f"{path} must hold a list of treatments.")
    return tuple(
        _therapy(entry, f"Treatment {number} of {path.name}", path.parent, grid)
        for number, entry in enumerate(entries, start=1)
    )


def _therapy(entry: Any, name: str, folder: Path, grid: Grid) -> Therapy:
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in _KEYS:
        raise TwinError("bad_treatment", f"{name} needs a kind: {', '.join(_KEYS)}.")
    needed, allowed = _KEYS[kind]
    given = set(entry) - {"kind"}
    if needed - given or given - needed - allowed:
        wrong = sorted((needed - given) | (given - needed - allowed))
        raise TwinError(
            "bad_treatment",
            f"{name} ({kind}) needs {', '.join(sorted(needed))} and may have "
            f"{', '.join(sorted(allowed)) or 'nothing else'}; look at {', '.join(wrong)}.",
        )
    try:
        if kind == "surgery":
            mask = read_volume(folder / entry["resection"], grid)[0]
            return Surgery(float(entry["day"]), mask)
        days = [float(day) for day in entry["days"]]
        if kind == "chemotherapy":
            decay = math.log(2.0) * 24.0 / float(entry.get("half_life_hours", 1.8))
            doses = [float(dose) for dose in entry["doses"]]
            return Chemotherapy(days, doses, decay, float(entry.get("reference_dose", 75.0)))
        doses = [float(dose) for dose in entry["doses_gy"]]
        relative = read_volume(folder / entry["dose_map"], grid)[0] if "dose_map" in entry else None
        return Radiotherapy(days, doses, float(entry.get("alpha_beta_gy", 10.0)), relative)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, TwinError):
            raise
        raise TwinError(
            "bad_treatment", f"{name} ({kind}) holds something that is not a number: {error}."
        ) from error
