"""Scores to JSON, pictures and the page ``docs/validation.md``."""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.validation import cohort, plots, summary
from benchmarks.validation.cohort_run import Plan
from benchmarks.validation.scenarios import SCENARIOS
from benchmarks.validation.statistics import RankTest
from benchmarks.validation.summary import MASKS, TARGET, Learned
from benchmarks.validation.trial import Row, twin_version
from twin.conformal import Conformal, shipped
from twin.priors import LogNormal

HORIZON = 90.0
LEAST_FORECASTS = 200
"""Forecasts of mismatch scenarios from which a factor may be learned."""
ENOUGH = 200
"""Patients for each scenario that a verdict needs."""
IN_MODEL, BY_HORIZON = "in_model", "noisy_correlated"
PROMISED = {"error": 0.15, "distance_mm": 5.0, "dice": 0.85}
"""Targets on the in-silico cohort: volume error below, distance below, Dice above."""
_PARAMETERS = {
    "diffusivity": "D",
    "proliferation": "rho",
    "front_velocity": "velocity",
    "radiosensitivity": "alpha",
    "chemosensitivity": "drug",
}


def device() -> str:
    """Processor and cores, for the provenance."""
    name = platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        models = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    return f"{name}, {os.cpu_count()} cores"


def write(plan: Plan, command: str, out: Path, page: Path | None) -> dict[str, Any]:
    """Score the rows on disk; write ``validation.json``, four pictures, and the page if asked.

    Parameters
    ----------
    command : str
        As typed, for the provenance.
    out : Path
        Folder of the JSON and, without ``page``, of the pictures.
    page : Path, optional
        The Markdown page; its pictures go to ``images`` beside it.
    """
    rows = {name: found for name, found in plan.rows().items() if found}
    conformal = shipped()
    document: dict[str, Any] = {
        "provenance": provenance(plan, command),
        "conformal": {"core": conformal.core, "whole": conformal.whole, "provenance": conformal.provenance},
        "scenarios": {
            name: summary.scored(some, HORIZON, conformal) | {"title": SCENARIOS[name].title}
            for name, some in rows.items()
        },
    }
    tests = summary.rank_tests(rows[IN_MODEL], HORIZON) if IN_MODEL in rows else {}
    document["ranks"] = {
        name: {"patients": len(ranks), "inside": test.inside} for name, (ranks, test) in tests.items()
    }
    if BY_HORIZON in rows:
        horizons = SCENARIOS[BY_HORIZON].horizons
        document["by_horizon"] = summary.by_horizon(rows[BY_HORIZON], horizons, conformal)
    learned = {mask: learned_from(rows, mask) for mask in MASKS}
    document["learned"] = {
        mask: {
            "factor": found.factor,
            "learned_on": found.learned_on,
            "held_out_before": summary.counted(found.before),
            "held_out_after": summary.counted(found.after),
        }
        for mask, found in learned.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "validation.json").write_text(json.dumps(document, indent=1), "utf-8")
    _draw(document, rows, tests, page.parent / "images" if page else out)
    if page:
        page.write_text(_page(document, tests, learned, conformal), "utf-8")
    return document


def provenance(plan: Plan, command: str) -> dict[str, Any]:
    """Who, when, with what."""
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "device": device(),
        "patients": plan.patients,
        "seed": plan.seed,
        "samples": plan.samples,
        "importance": plan.importance,
        "twin": twin_version(),
        "truth": cohort.truth_version(),
        "spacing_mm": cohort.COARSE_MM,
    }


def learned_from(rows: Mapping[str, Sequence[Row]], mask: str) -> Learned:
    """The factor of one mask from the scenarios whose truth is another model."""
    mismatch = {name: some for name, some in rows.items() if SCENARIOS[name].mismatch}
    return summary.learn(mismatch, HORIZON, mask)


def conformal_document(plan: Plan, command: str) -> dict[str, Any]:
    """What the product ships: factors, provenance in words for the report, and all that it takes to learn them again.

    Raises
    ------
    ValueError
        If there are too few rows to learn from, or no factor is enough.
    """
    rows = {name: some for name, some in plan.rows().items() if some and SCENARIOS[name].mismatch}
    learned = {mask: learned_from(rows, mask) for mask in MASKS}
    for mask, found in learned.items():
        if found.learned_on < LEAST_FORECASTS or not math.isfinite(found.factor):
            raise ValueError(
                f"{found.learned_on} {mask} forecasts give no factor to ship (at least {LEAST_FORECASTS} and a finite "
                "factor are needed); run more patients."
            )
    origin = provenance(plan, command)
    needed = any(found.factor > 1.0 for found in learned.values())
    words = (
        f"{'learned from' if needed else 'none was needed for'} {learned['whole'].learned_on} forecasts of virtual "
        f"patients whose truth is another model, in {len(rows)} scenarios ({origin['date']})"
    )
    factors = {mask: {"factor": round(found.factor, 3)} for mask, found in learned.items()}
    tested = {
        mask: {"without": found.before.value, "with": found.after.value, "forecasts": found.after.total}
        for mask, found in learned.items()
    }
    details = {
        "command": command,
        "scenarios": list(rows),
        "horizon_days": HORIZON,
        "seed": plan.seed,
        "twin_code": origin["twin"],
        "truth_code": origin["truth"],
        "coverage_of_held_out_patients": tested,
    }
    return {**factors, "provenance": words, "learned": details}


def _draw(
    document: Mapping[str, Any],
    rows: Mapping[str, Sequence[Row]],
    tests: Mapping[str, tuple[list[float], RankTest]],
    folder: Path,
) -> None:
    plots.coverage_by_scenario(document["scenarios"], TARGET, folder / "validation-coverage.png")
    ranks: dict[str, dict[str, list[float]]] = {}
    for name, some in rows.items():
        for parameter in ("diffusivity", "proliferation"):
            found = summary.parameter_ranks(some, parameter)
            if found:
                ranks.setdefault(parameter, {})[name] = found
        for mask in MASKS:
            found = [v.rank for v in summary.volumes(some, HORIZON, mask)]
            ranks.setdefault(f"{mask} volume, {HORIZON:g} days", {})[name] = found
    plots.calibration_curves(ranks, folder / "validation-calibration.png")
    if tests:
        plots.rank_plots(tests, folder / "validation-sbc.png")
    if "by_horizon" in document:
        plots.errors_by_horizon(document["by_horizon"], PROMISED, folder / "validation-horizon.png")


def _page(
    document: Mapping[str, Any],
    tests: Mapping[str, tuple[list[float], RankTest]],
    learned: Mapping[str, Learned],
    conformal: Conformal,
) -> str:
    origin, scores = document["provenance"], document["scenarios"]
    template = Template(Path(__file__).with_name("template.md").read_text("utf-8"))
    return template.substitute(
        command=origin["command"],
        date=origin["date"],
        device=origin["device"],
        patients=origin["patients"],
        seed=origin["seed"],
        samples=origin["samples"],
        posterior=_posterior(origin["importance"]),
        twin=origin["twin"],
        truth=origin["truth"],
        spacing=f"{origin['spacing_mm']:g}",
        diffusivity=_law(cohort.PRIORS.diffusivity),
        proliferation=_law(cohort.PRIORS.proliferation),
        factor_core=f"{conformal.core:.2f}",
        factor_whole=f"{conformal.whole:.2f}",
        size_words=_size_words(scores),
        coverage_table=_coverage_table(scores),
        coverage_words=_coverage_words(scores),
        refusal_table=_refusal_table(scores),
        parameter_table=_parameter_table(scores),
        rank_words=_rank_words(tests),
        skill_table=_skill_table(scores),
        horizon_table=_horizon_table(document.get("by_horizon", [])),
        ended_words=_ended_words(document.get("by_horizon", [])),
        target_words=_target_words(document.get("by_horizon", [])),
        conformal_table=_conformal_table(learned),
    )


def _law(prior: LogNormal) -> str:
    return f"{prior.median:g}, {prior.sigma_log:g}"


def _posterior(importance: int) -> str:
    return f"corrected by {importance} simulations each" if importance else "by Laplace's approximation alone"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def _share(counted: Mapping[str, Any]) -> str:
    if not counted["of"]:
        return "–"
    low, high = counted["wilson95"]
    return f"{counted['value']:.2f} [{low:.2f}, {high:.2f}]"


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def _coverage_table(scores: Mapping[str, Any]) -> str:
    lines = []
    for score in scores.values():
        whole, core = score["whole"], score["core"]
        cells = [score["title"], str(whole["accepted"]["of"])]
        for part in (whole, core):
            cells += [_share(part["accepted"]), part["judgement"], _number(part["width"], ".1f")]
        lines.append([*cells, _share(whole["without_factor"]), _share(core["without_factor"])])
    head = ["scenario", "n", "whole", "verdict", "width", "core", "verdict", "width"]
    return _table([*head, "whole, no factor", "core, no factor"], lines)


def _size_words(scores: Mapping[str, Any]) -> str:
    """How many patients there were, and what that is worth."""
    counts = [score["patients"] for score in scores.values()]
    least, most = min(counts), max(counts)
    size = f"{least}" if least == most else f"{least} to {most}"
    words = f"Every scenario has {size} patients."
    few = [
        f"{score['title']} ({score['patients']})" for score in scores.values() if score["patients"] < ENOUGH
    ]
    if few:
        named = f" for {'; '.join(few)}" if len(few) < len(counts) else ""
        words += (
            f" **Preliminary**{named}: {ENOUGH} each are planned. Until then the intervals of the shares are wide, and "
            "a verdict within chance of another is no verdict. The same command goes on from the rows that are there."
        )
    return words


def _coverage_words(scores: Mapping[str, Any]) -> str:
    """The scenarios off target by more than chance explains."""
    said = []
    for verdict in ("too narrow", "too wide"):
        found = [
            f"{score['title'].lower()} ({mask})"
            for score in scores.values()
            for mask in MASKS
            if score[mask]["judgement"] == verdict
        ]
        said.append(f"{verdict.capitalize()}, beyond chance: {'; '.join(found) or 'none'}.")
    return "\n".join(said)


def _refusal_table(scores: Mapping[str, Any]) -> str:
    lines = []
    for score in scores.values():
        outcome = dict(score["outcome"])
        accepted, unexplained = outcome.pop("accepted", 0), outcome.pop("not explained", 0)
        errors = ", ".join(f"{count} {code}" for code, count in sorted(outcome.items())) or "none"
        groups = [
            _share(score[mask][group]) for group in ("not_explained", "all") for mask in ("whole", "core")
        ]
        lines.append([score["title"], str(accepted), str(unexplained), errors, *groups])
    head = ["scenario", "accepted", "not explained", "errors", "whole, not explained", "core, not explained"]
    return _table([*head, "whole, all", "core, all"], lines)


def _parameter_table(scores: Mapping[str, Any]) -> str:
    lines = []
    for score in scores.values():
        for name, symbol in _PARAMETERS.items():
            if name in score:
                part = score[name]
                identified = f"{part['identified']['of']} of {part['all']['of']}"
                shares = [_share(part[group]) for group in ("all", "identified", "not_identified")]
                lines.append([score["title"], symbol, identified, *shares])
    head = ["scenario", "parameter", "identified", "coverage, all", "identified", "not identified"]
    return _table(head, lines)


def _rank_words(tests: Mapping[str, tuple[list[float], RankTest]]) -> str:
    lines = [
        [name, str(len(ranks)), "inside" if test.inside else "leaves it"]
        for name, (ranks, test) in tests.items()
    ]
    return _table(["quantity", "patients", "95 % band"], lines)


def _skill_table(scores: Mapping[str, Any]) -> str:
    lines = []
    for score in scores.values():
        for mask in reversed(MASKS):
            part = score[mask]
            errors = [
                f"{_number(100 * part[name], '.0f')} %" for name in ("error", "persistence", "exponential")
            ]
            beats = [_number(part[f"beats_{name}"], ".2f") for name in ("persistence", "exponential")]
            lines.append([score["title"], mask, *errors, *beats])
    head = ["scenario, 90 days", "mask", "twin", "persistence", "exponential"]
    return _table([*head, "nearer than persistence", "nearer than exponential"], lines)


def _horizon_table(entries: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for entry in entries:
        for mask in reversed(MASKS):
            part = entry[mask]
            lines.append(
                [
                    f"{entry['days']:g}",
                    mask,
                    str(part["patients"]),
                    *(f"{_number(100 * part[n], '.0f')} %" for n in ("error", "persistence", "exponential")),
                    _number(part["distance_mm"], ".1f"),
                    _number(part["dice"], ".2f"),
                    _share(part["coverage"]),
                ]
            )
    head = ["days", "mask", "n", "twin", "persistence", "exponential", "distance, mm", "Dice", "coverage"]
    return _table(head, lines)


def _ended_words(entries: Sequence[Mapping[str, Any]]) -> str:
    """Whose truth ends before the forecast does, or nothing."""
    found = [f"{entry['ended']} at {entry['days']:g} days" for entry in entries if entry["ended"]]
    if not found:
        return ""
    return f" The truth of {', '.join(found)} had passed that volume before and was not grown on: they are left out."


def _target_words(entries: Sequence[Mapping[str, Any]]) -> str:
    """Which promises hold at which horizon."""
    said = []
    checks = (
        ("median volume error below 15 %", lambda p: p["error"] < PROMISED["error"]),
        (
            "median distance of centres of mass below 5 mm",
            lambda p: p["distance_mm"] < PROMISED["distance_mm"],
        ),
        ("median Dice above 0.85", lambda p: p["dice"] > PROMISED["dice"]),
        ("coverage of 90 to 95 %", lambda p: 0.90 <= p["coverage"]["value"] <= 0.95),
    )
    for words, holds in checks:
        parts = []
        for mask in reversed(MASKS):
            met = [f"{entry['days']:g}" for entry in entries if holds(entry[mask])]
            missed = [f"{entry['days']:g}" for entry in entries if not holds(entry[mask])]
            found = ("met at", met), ("missed at", missed)
            parts.append(f"{mask} tumour " + ", ".join(f"{how} {', '.join(d)} days" for how, d in found if d))
        said.append(f"- {words}: {'; '.join(parts)}.")
    return "Promised, and the horizons at which it holds:\n\n" + "\n".join(said) if entries else ""


def _conformal_table(learned: Mapping[str, Learned]) -> str:
    lines = []
    for mask, found in learned.items():
        counts = [summary.counted(found.before), summary.counted(found.after)]
        factor = _number(found.factor, ".2f")
        lines.append([mask, factor, str(found.learned_on), *map(_share, counts)])
    return _table(["mask", "factor", "learned on", "held out, without", "held out, with"], lines)
