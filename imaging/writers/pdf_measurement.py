"""Page 1 of the report: verdict, warnings, volumes and slices of every visit."""

from __future__ import annotations

import numpy as np

from imaging.geometry import Volume
from imaging.labels import TumourLabel
from imaging.report_content import ReportContent, VisitReport
from imaging.writers.palette import REGION_COLOURS, REGION_NAMES
from imaging.writers.pdf_frame import (
    FOOTER_Y,
    evenly,
    foot,
    head,
    hex_colour,
    legend,
    millilitres,
    verdict,
    warnings,
)
from imaging.writers.pdf_layout import A4_MM, CONTENT_MM, MARGIN_MM, MUTED, Column, Page, text_width_mm
from imaging.writers.pdf_slices import Plane, framed, scene_of, show_slice

_PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
_MAX_PICTURED = 3
_MAX_ROWS = 8
_LABEL_MM = 5.0
_GAP_MM = 2.0
_DRAWN_BY = {"network": "network", "other_algorithm": "another algorithm"}


def measurement_page(content: ReportContent, name: str, facts: str) -> Page:
    """Make page 1."""
    page = Page()
    y = head(page, content, name, facts, "Tumour measurement")
    y = verdict(page, content, y)
    y = warnings(page, content, y)
    y = _volumes(page, content, y)
    _pictures(page, content, y + 2)
    foot(page, 1)
    return page


def _volumes(page: Page, content: ReportContent, y: float) -> float:
    y = page.heading(y, "Volumes in mL")
    columns = [
        Column("visit", 10, "left"),
        Column("date", 20, "left"),
        Column("day", 13),
        *(Column(region, 19) for region in REGION_NAMES),
        Column("entropy", 17),
        Column("drawn by", 27),
    ]
    numbered = list(enumerate(content.visits, start=1))
    if len(numbered) > _MAX_ROWS:
        numbered = [numbered[0], *numbered[-(_MAX_ROWS - 1) :]]
    rows = [
        [
            str(number),
            visit.date.date().isoformat(),
            f"{visit.day:.0f}",
            *(millilitres(visit.volumes_ml[region]) for region in REGION_NAMES),
            "—" if visit.uncertainty is None else f"{visit.uncertainty:.2f}",
            _DRAWN_BY.get(visit.segmentation_source, "clinician"),
        ]
        for number, visit in numbered
    ]
    y = page.table(MARGIN_MM, y, columns, rows)
    note = (
        "NCR necrotic core, ED oedema, ET enhancing tumour, TC = NCR + ET, WT = TC + ED. Entropy: mean uncertainty of "
        "the network in the tumour, 0 sure, 1 guessing."
    )
    if len(numbered) < len(content.visits):
        note = f"{len(content.visits) - len(numbered)} visits between are in result.json. {note}"
    return page.paragraph(MARGIN_MM, y - 0.6, note, CONTENT_MM, size=6.3, colour=MUTED) + 1


def _pictures(page: Page, content: ReportContent, y: float) -> None:
    visits = evenly(list(enumerate(content.visits, start=1)), _MAX_PICTURED)
    y = page.heading(y, "Images")
    legend(page, y, [(f"{name} {REGION_NAMES[name]}", _region_colour(name)) for name in ("NCR", "ET", "ED")])
    found = any(visit.labels.array.any() for _, visit in visits)
    note = (
        "planes through most of the tumour, one scale" if found else "planes through the middle of the head"
    )
    if len(visits) < len(content.visits):
        note = f"{len(visits)} of {len(content.visits)} visits, {note}"
    page.text(A4_MM[0] - MARGIN_MM, y, note, size=7, colour=MUTED, align="right")
    y += 5
    scenes = [scene_of(visit.image, visit.labels) for _, visit in visits]
    size = np.max([scene.high - scene.low for scene in scenes], axis=0)
    # Horizontal and vertical extent in the patient of the axial, coronal and sagittal picture.
    widths = np.array([size[0], size[0], size[1]])
    heights = np.array([size[1], size[2], size[2]])
    room = (FOOTER_Y - 2 - y) / len(visits) - _LABEL_MM - _GAP_MM
    scale = min((CONTENT_MM - 2 * _GAP_MM) / widths.sum(), room / heights.max())
    left = MARGIN_MM + (CONTENT_MM - 2 * _GAP_MM - widths.sum() * scale) / 2
    for (number, visit), scene in zip(visits, scenes, strict=True):
        _label(page, number, visit, left, y)
        y += _LABEL_MM
        x = left
        for plane, width, height in zip(_PLANES, widths * scale, heights * scale, strict=True):
            axes = page.axes(x, y + (heights.max() * scale - height) / 2, width, height)
            show_slice(axes, visit.image, framed(scene, size), plane, _contours(visit.labels))
            x += width + _GAP_MM
        y += heights.max() * scale + _GAP_MM


def _label(page: Page, number: int, visit: VisitReport, x: float, y: float) -> None:
    title = f"Visit {number}"
    page.text(x, y + 0.4, title, size=8.5, bold=True)
    found = "" if visit.labels.array.any() else "  ·  no tumour found"
    text = f"{visit.date.date().isoformat()}  ·  day {visit.day:.0f}{found}"
    page.text(x + text_width_mm(title, 8.5, bold=True) + 3, y + 0.6, text, size=7.5, colour=MUTED)


def _contours(labels: Volume) -> dict[str, tuple[Volume, str]]:
    """Outlines in the order they are drawn: the rim of the necrosis lies over that of the enhancement."""
    return {
        label.name: (labels.with_array(labels.array == label), _region_colour(label.name))
        for label in (TumourLabel.ED, TumourLabel.ET, TumourLabel.NCR)
    }


def _region_colour(name: str) -> str:
    return hex_colour(REGION_COLOURS[name])
