"""What both pages of the report have in common: banner, head, foot, verdict, legends, number formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from imaging.report_content import Estimate, ReportContent, Status
from imaging.writers.pdf_layout import (
    A4_MM,
    ALERT,
    CAUTION,
    CONTENT_MM,
    GOOD,
    INK,
    MARGIN_MM,
    MUTED,
    Page,
    line_height,
    printable,
    text_width_mm,
    wrapped,
)

FOOTER_Y = 286.0
_MAX_WARNINGS_MM = 34.0

_Item = TypeVar("_Item")

# What to say under the verdict when no calibration has its own sentence.
_REMARKS: Mapping[Status, str] = {
    Status.NO_TUMOUR: "No visit has anything marked as tumour. This proves nothing by itself: look at the images.",
    Status.TUMOUR_GONE: "Nothing is marked as tumour at the last visit: there is no growth to fit.",
    Status.SINGLE_VISIT: "Volumes are measured. Growth parameters are those of the prior, and so is the band.",
}

# The same where something is marked after all, but no voxel of the growth model's grid holds it.
_TOO_SMALL = "What is marked as tumour is too small for the growth model's grid: there is no growth to fit."
_TOO_SMALL_WORDS: Mapping[Status, str] = {
    Status.NO_TUMOUR: "Tumour too small for the growth model, nothing was forecast",
    Status.TUMOUR_GONE: "Tumour at follow-up too small for the growth model, growth was not calibrated",
}

# Words, colour of the words, colour of the box.
_VERDICTS: Mapping[Status, tuple[str, str, str]] = {
    Status.OK: ("Measured, calibrated and forecast", GOOD, "#eaf5ee"),
    Status.SINGLE_VISIT: (
        "One visit only: growth could not be identified, the forecast rests on prior knowledge",
        CAUTION,
        "#fdf5e3",
    ),
    Status.NO_TUMOUR: ("No tumour found, nothing was forecast", INK, "#eef2f6"),
    Status.TUMOUR_GONE: ("No tumour left at follow-up, growth was not calibrated", CAUTION, "#fdf5e3"),
    Status.NOT_EXPLAINED: (
        "The growth model does not explain these scans: no forecast to rely on",
        ALERT,
        "#fbeceb",
    ),
}


def head(page: Page, content: ReportContent, name: str, facts: str, title: str) -> float:
    """Banner, title and patient; returns the y below."""
    page.box(0, 0, A4_MM[0], 8.5, fill=ALERT)
    page.text(
        A4_MM[0] / 2,
        2.5,
        "RESEARCH USE ONLY — NOT FOR CLINICAL USE — NOT REVIEWED BY A PHYSICIAN",
        size=9.0,
        bold=True,
        colour="white",
        align="center",
    )
    right = A4_MM[0] - MARGIN_MM
    page.text(MARGIN_MM, 12.5, f"{content.software.name} · {title}", size=14, bold=True)
    page.text(right, 12.6, _visit_span(content), size=8, align="right", colour=MUTED)
    software = f"{content.software.name} {content.software.version} · model {content.model.name}"
    page.text(right, 16.8, f"{software} {content.model.version}", size=7, align="right", colour=MUTED)
    page.paragraph(MARGIN_MM, 20.6, name, CONTENT_MM, size=10.5, bold=True, max_lines=1)
    page.paragraph(MARGIN_MM, 26.0, facts, CONTENT_MM, size=8, colour=MUTED, max_lines=1)
    page.rule(31.0, MARGIN_MM, right, INK, 0.8)
    return 34.0


def foot(page: Page, number: int) -> None:
    """Rule, reading aid and page number."""
    right = A4_MM[0] - MARGIN_MM
    page.rule(FOOTER_Y, MARGIN_MM, right)
    text = (
        "Research use only, not for clinical use. Slices are seen from the feet: the patient's right (R) is at the "
        "left. □ stands for a sign this font lacks."
    )
    page.text(MARGIN_MM, FOOTER_Y + 1.6, text, size=6.2, colour=MUTED)
    page.text(right, FOOTER_Y + 1.6, f"page {number} of 2", size=6.5, colour=MUTED, align="right")


def verdict(page: Page, content: ReportContent, y: float) -> float:
    """Coloured box with the outcome in words; returns the y below."""
    words, colour, fill = _VERDICTS[content.status]
    inner = CONTENT_MM - 8
    remark = _REMARKS.get(content.status, "")
    without = content.visits[-1:] if content.status is Status.TUMOUR_GONE else content.visits
    if content.status in _TOO_SMALL_WORDS and any(visit.volumes_ml["WT"] > 0 for visit in without):
        words, remark = _TOO_SMALL_WORDS[content.status], _TOO_SMALL
    sentence = content.calibration.verdict if content.calibration is not None else remark
    headline = wrapped(words, inner, 10, bold=True)
    height = 3.6 + len(headline) * line_height(10) + line_count(sentence, inner, 8) * line_height(8)
    page.box(MARGIN_MM, y, CONTENT_MM, height, fill=fill)
    page.box(MARGIN_MM, y, 1.2, height, fill=colour)
    below = page.paragraph(MARGIN_MM + 4, y + 2, words, inner, size=10, bold=True, colour=colour)
    page.paragraph(MARGIN_MM + 4, below, sentence, inner, size=8)
    return y + height + 2.5


def warnings(page: Page, content: ReportContent, y: float) -> float:
    """The warnings as a list, as many as there is room for; returns the y below."""
    # the box above has said the verdict
    said = content.calibration.verdict if content.calibration is not None else ""
    told = [warning for warning in content.warnings if warning != said]
    if not told:
        return y
    bottom = y + _MAX_WARNINGS_MM
    page.text(MARGIN_MM, y, "Please note", size=8, bold=True, colour=CAUTION)
    y += line_height(8) + 0.3
    for number, warning in enumerate(told):
        needed = line_height(7.5) * line_count(warning, CONTENT_MM - 4, 7.5)
        if number and y + needed > bottom:
            rest = f"… and {len(told) - number} more in the structured report and in result.json"
            page.text(MARGIN_MM + 4, y, rest, size=7.5, bold=True)
            return y + line_height(7.5) + 2
        page.text(MARGIN_MM + 1, y, "•", size=7.5, colour=CAUTION)
        y = page.paragraph(MARGIN_MM + 4, y, warning, CONTENT_MM - 4, size=7.5, max_lines=6)
    return y + 2


def legend(page: Page, y: float, entries: Sequence[tuple[str, str]]) -> float:
    """Line samples with names, as ``(words, colour)``; returns the x behind the last."""
    x = MARGIN_MM
    for words, colour in entries:
        edge = MUTED if colour == "white" else "none"
        page.box(x, y + 1.0, 4.0, 1.1, fill=colour, edge=edge)
        page.text(x + 5, y, words, size=7)
        x += 5 + text_width_mm(words, 7) + 5
    return x


def line_count(text: str, width: float, size: float) -> int:
    """Lines a paragraph will take."""
    return len(wrapped(printable(text), width, size))


def evenly(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most ``most`` of the items, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int))
    return [items[i] for i in chosen]


def millilitres(volume: float) -> str:
    """Volume with a precision that segmentation can have."""
    return f"{volume:.1f}" if volume < 1000 else f"{volume:.0f}"


def interval(value: Estimate, digits: int | None = None) -> str:
    """``estimate [low, high]``, in mL or with so many significant digits."""
    low, high = value.interval95
    if digits is None:
        return f"{millilitres(value.estimate)} [{millilitres(low)}, {millilitres(high)}]"
    return f"{value.estimate:.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"


def hex_colour(colour: tuple[int, int, int]) -> str:
    """RGB of the palette as matplotlib wants it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _visit_span(content: ReportContent) -> str:
    first, last = content.visits[0].date.date(), content.visits[-1].date.date()
    count = len(content.visits)
    if count == 1:
        return f"1 visit, {first.isoformat()}"
    return f"{count} visits, {first.isoformat()} to {last.isoformat()}"
