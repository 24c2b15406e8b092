"""The growth curve: what was measured, what the model says, how sure it is."""

from __future__ import annotations

from matplotlib.axes import Axes

from imaging.report_content import ReportContent
from imaging.writers.pdf_layout import INK, MUTED

WHOLE_COLOUR = "#1f4e79"
CORE_COLOUR = "#b3261e"


def draw_growth(axes: Axes, content: ReportContent) -> None:
    """Volume over days since the first visit: measured points, median and 95 % band of the model."""
    last_day = content.visits[-1].day
    curve = content.curve
    if curve is not None:
        series = (
            ("whole tumour", WHOLE_COLOUR, curve.whole_ml, curve.whole_low_ml, curve.whole_high_ml),
            ("tumour core", CORE_COLOUR, curve.core_ml, curve.core_low_ml, curve.core_high_ml),
        )
        for name, colour, middle, low, high in series:
            axes.fill_between(curve.days, low, high, color=colour, alpha=0.16, linewidth=0)
            past, ahead = curve.days <= last_day, curve.days >= last_day
            axes.plot(curve.days[past], middle[past], color=colour, linewidth=1.3, label=f"model, {name}")
            axes.plot(curve.days[ahead], middle[ahead], color=colour, linewidth=1.3, linestyle=(0, (4, 2)))
        axes.axvline(last_day, color=MUTED, linewidth=0.7, linestyle=":")
        axes.annotate(
            "forecast →",
            (last_day, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            fontsize=6.5,
            color=MUTED,
            va="top",
        )
    days = [visit.day for visit in content.visits]
    for region, name, colour, marker in (
        ("WT", "whole tumour", WHOLE_COLOUR, "o"),
        ("TC", "tumour core", CORE_COLOUR, "s"),
    ):
        volumes = [visit.volumes_ml[region] for visit in content.visits]
        axes.plot(
            days,
            volumes,
            linestyle="none",
            marker=marker,
            markersize=4.5,
            markerfacecolor=colour,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=f"measured, {name}",
            clip_on=False,
            zorder=5,
        )
    axes.set_ylim(bottom=0)
    axes.margins(x=0.02)
    axes.set_xlabel("days since the first visit")
    axes.set_ylabel("volume (mL)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e8ed", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=2,
        fontsize=6.5,
        frameon=False,
        labelcolor=INK,
        borderaxespad=0.2,
        columnspacing=1.5,
    )
