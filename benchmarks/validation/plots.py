"""Pictures of the scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.validation.scenarios import SCENARIOS
from benchmarks.validation.statistics import Proportion, RankTest

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_BLUE, _ORANGE, _GRAY = "#1f6fb4", "#d9741a", "#888888"


def _written(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # no date inside: the same numbers give the same file
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def coverage_by_scenario(scores: Mapping[str, Any], target: tuple[float, float], path: Path) -> None:
    """Coverage of the 95 % interval of core and whole volume in every scenario, with Wilson intervals."""
    names = list(scores)
    figure, axes = plt.subplots(figsize=(8.5, 0.42 * len(names) + 1.3))
    axes.axvspan(*target, color="#d7ecd9", label=f"target {target[0]:.2f} to {target[1]:.2f}")
    places = np.arange(len(names))[::-1].astype(float)
    for mask, colour, offset in (("whole", _BLUE, 0.14), ("core", _ORANGE, -0.14)):
        shares = [scores[name][mask]["accepted"] for name in names]
        values = np.array([share["value"] for share in shares])
        reach = np.abs(np.array([share["wilson95"] for share in shares]).T - values)
        axes.errorbar(
            values, places + offset, xerr=reach, fmt="o", color=colour, capsize=3, label=f"{mask} volume"
        )
    axes.set_yticks(places, [SCENARIOS[name].title for name in names])
    axes.set_xlabel("share of accepted patients whose volume lies in the 95 % interval")
    axes.set_xlim(min(0.55, *axes.get_xlim()), 1.01)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, fontsize=8, frameon=False)
    axes.grid(axis="x", alpha=0.3)
    _written(figure, path)


def calibration_curves(ranks: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Observed against nominal coverage of central intervals, one panel a quantity, one line a scenario."""
    quantities = list(ranks)
    figure, panels = plt.subplots(
        1, len(quantities), figsize=(4.2 * len(quantities), 4.4), sharey=True, squeeze=False
    )
    nominal = np.linspace(0.02, 0.98, 49)
    # a scenario keeps its colour in panels where another one is missing
    scenarios = list(dict.fromkeys(name for curves in ranks.values() for name in curves))
    colours = dict(zip(scenarios, plt.get_cmap("tab20").colors, strict=False))
    for axes, quantity in zip(panels[0], quantities, strict=True):
        axes.plot([0, 1], [0, 1], color=_GRAY, linewidth=1, linestyle="--")
        for name, values in ranks[quantity].items():
            away = 2 * np.abs(np.asarray(values) - 0.5)
            observed = [(away <= level).mean() for level in nominal]
            axes.plot(nominal, observed, color=colours[name], linewidth=1.6, label=name.replace("_", " "))
        axes.set_title(quantity)
        axes.set_xlabel("nominal coverage")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("observed coverage (above the line: too wide)")
    panels[0][-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    _written(figure, path)


def rank_plots(tests: Mapping[str, tuple[Sequence[float], RankTest]], path: Path) -> None:
    """Histograms of ranks above their distribution minus the diagonal with its simultaneous 95 % band."""
    figure, panels = plt.subplots(2, len(tests), figsize=(3.3 * len(tests), 5.6), squeeze=False)
    for column, (name, (ranks, test)) in enumerate(tests.items()):
        above, below = panels[0][column], panels[1][column]
        count = above.hist(ranks, bins=np.linspace(0, 1, 11), color=_BLUE, edgecolor="white")[0].sum()
        limits = [10 * bound for bound in Proportion(round(count / 10), round(count)).interval]
        above.axhspan(count * limits[0] / 10, count * limits[1] / 10, color="#dddddd", zorder=0)
        above.axhline(count / 10, color=_GRAY, linewidth=1)
        above.set_title(name.replace("_", " "))
        below.fill_between(test.points, test.lower, test.upper, color="#dddddd")
        below.plot(test.points, test.difference, color=_BLUE if test.inside else _ORANGE, linewidth=1.8)
        below.axhline(0, color=_GRAY, linewidth=1)
        below.set_xlabel("inside the band" if test.inside else "leaves the band")
        largest = max(0.2, 1.15 * float(np.abs(test.difference).max()))
        below.set_ylim(-largest, largest)
    panels[0][0].set_ylabel("patients by rank")
    panels[1][0].set_ylabel("distribution of ranks\nminus uniform")
    figure.tight_layout()
    _written(figure, path)


def errors_by_horizon(entries: Sequence[Mapping[str, Any]], targets: Mapping[str, float], path: Path) -> None:
    """Volume error with both baselines, centre of mass, Dice and coverage against days after the last visit."""
    days = [entry["days"] for entry in entries]
    figure, panels = plt.subplots(1, 4, figsize=(16, 3.9))
    for axes in panels:
        axes.set_xlabel("days after the last visit")
        axes.set_xticks(days)
        axes.grid(alpha=0.3)
    for mask, colour in (("whole", _BLUE), ("core", _ORANGE)):
        pick = [entry[mask] for entry in entries]
        panels[0].plot(days, [100 * p["error"] for p in pick], "o-", color=colour, label=f"twin, {mask}")
        for baseline, style in (("persistence", ":"), ("exponential", "--")):
            label = f"{baseline}, {mask}"
            panels[0].plot(days, [100 * p[baseline] for p in pick], style, color=colour, label=label)
        panels[1].plot(days, [p["distance_mm"] for p in pick], "o-", color=colour, label=mask)
        panels[2].plot(days, [p["dice"] for p in pick], "o-", color=colour, label=mask)
        values = np.array([p["coverage"]["value"] for p in pick])
        reach = np.abs(np.array([p["coverage"]["wilson95"] for p in pick]).T - values)
        panels[3].errorbar(days, values, yerr=reach, fmt="o-", color=colour, capsize=3, label=mask)
    panels[0].axhline(100 * targets["error"], color="green", linewidth=1)
    panels[0].set_title("median volume error, %")
    panels[0].set_ylim(0, 150)
    panels[0].legend(fontsize=7)
    panels[1].axhline(targets["distance_mm"], color="green", linewidth=1)
    panels[1].set_title("median distance of centres of mass, mm")
    panels[1].set_ylim(0, None)
    panels[2].axhline(targets["dice"], color="green", linewidth=1)
    panels[2].set_title("median Dice")
    panels[2].set_ylim(0, 1)
    panels[3].axhspan(0.90, 0.95, color="#d7ecd9")
    panels[3].set_title("coverage of the 95 % interval")
    panels[3].set_ylim(min(0.6, *panels[3].get_ylim()), 1.01)
    panels[3].legend(fontsize=8)
    figure.tight_layout()
    _written(figure, path)
