"""What stands where on the two pages of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from imaging.geometry import Volume
from imaging.labels import TumourLabel
from imaging.report_content import (
    Estimate,
    ForecastReport,
    ParameterReport,
    ReportContent,
    Status,
    VisitReport,
)
from imaging.writers.palette import REGION_COLOURS, REGION_NAMES
from imaging.writers.pdf_chart import draw_growth
from imaging.writers.pdf_layout import (
    A4_MM,
    ALERT,
    CAUTION,
    CONTENT_MM,
    GOOD,
    INK,
    MARGIN_MM,
    MUTED,
    Cell,
    Column,
    Page,
    line_height,
    text_width_mm,
)
from imaging.writers.pdf_slices import Plane, framed, scene_of, show_slice

_Item = TypeVar("_Item")

_PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
_MAX_PICTURED_VISITS = 3
_MAX_TABLE_VISITS = 8
_MAX_PICTURED_HORIZONS = 4
_MAX_WARNINGS_MM = 30.0
_FOOTER_Y = 286.0

_VERDICTS: Mapping[Status, tuple[str, str, str]] = {
    Status.OK: ("Measured, calibrated and forecast", GOOD, "#eaf5ee"),
    Status.SINGLE_VISIT: (
        "One visit only: growth could not be identified; the forecast rests on prior knowledge",
        CAUTION,
        "#fdf5e3",
    ),
    Status.NO_TUMOUR: ("No tumour found; nothing was forecast", INK, "#eef2f6"),
    Status.TUMOUR_GONE: (
        "No tumour left at the last visit; growth was not calibrated",
        CAUTION,
        "#fdf5e3",
    ),
    Status.NOT_EXPLAINED: (
        "The growth model does not explain these scans: do not rely on a forecast",
        ALERT,
        "#fbeceb",
    ),
}


def measurement_page(content: ReportContent, name: str, facts: str) -> Page:
    """Page 1: verdict, warnings, slices and volumes of every visit."""
    page = Page()
    y = _head(page, content, name, facts, "Tumour measurement")
    y = _verdict(page, content, y)
    table_top = _FOOTER_Y - 6 - _volume_table_height(content)
    y = page.heading(y, "Images")
    _visit_pictures(page, content, y, table_top - 4)
    _volume_table(page, content, table_top)
    _foot(page, content, 1)
    return page


def forecast_page(content: ReportContent, name: str, facts: str) -> Page:
    """Page 2: growth curve, forecast, parameters, and the quality of what they rest on."""
    page = Page()
    y = _head(page, content, name, facts, "Growth and forecast")
    y = _growth(page, content, y)
    if content.forecasts:
        y = _forecast_pictures(page, content, y)
    if content.parameters:
        y = _parameters(page, content, y)
    y = _quality(page, content, y)
    _provenance(page, content, y)
    _foot(page, content, 2)
    return page


def _head(page: Page, content: ReportContent, name: str, facts: str, title: str) -> float:
    page.box(0, 0, A4_MM[0], 8.5, fill=ALERT)
    page.text(
        A4_MM[0] / 2,
        2.3,
        "RESEARCH USE ONLY — NOT FOR CLINICAL USE — NOT REVIEWED BY A PHYSICIAN",
        size=9.0,
        bold=True,
        colour="white",
        align="center",
    )
    page.text(MARGIN_MM, 12.5, f"OncoTwin · {title}", size=14, bold=True)
    right = A4_MM[0] - MARGIN_MM
    page.text(right, 12.6, _visit_span(content), size=8, align="right", colour=MUTED)
    software = f"{content.software.name} {content.software.version} · model {content.model.name}"
    page.text(right, 16.6, f"{software} {content.model.version}", size=7, align="right", colour=MUTED)
    page.text(MARGIN_MM, 20.6, name, size=10.5, bold=True)
    page.text(MARGIN_MM, 26.0, facts, size=8, colour=MUTED)
    page.rule(31.0, MARGIN_MM, right, INK, 0.8)
    return 34.0


def _visit_span(content: ReportContent) -> str:
    first, last = content.visits[0].date.date(), content.visits[-1].date.date()
    count = len(content.visits)
    if count == 1:
        return f"1 visit, {first.isoformat()}"
    return f"{count} visits, {first.isoformat()} to {last.isoformat()}"


def _foot(page: Page, content: ReportContent, number: int) -> None:
    page.rule(_FOOTER_Y, MARGIN_MM, A4_MM[0] - MARGIN_MM)
    page.text(
        MARGIN_MM,
        _FOOTER_Y + 1.4,
        "Research use only, not for clinical use. Slices are seen from the feet: the patient's right (R) is at the "
        "left. □ = sign this font lacks.",
        size=6.2,
        colour=MUTED,
    )
    page.text(A4_MM[0] - MARGIN_MM, _FOOTER_Y + 1.4, f"{number} / 2", size=6.5, colour=MUTED, align="right")


def _verdict(page: Page, content: ReportContent, y: float) -> float:
    words, colour, fill = _VERDICTS[content.status]
    inner = CONTENT_MM - 8
    sentence = content.calibration.verdict if content.calibration is not None else ""
    height = 8.6 + (line_height(8) * _line_count(sentence, inner, 8) if sentence else 0)
    page.box(MARGIN_MM, y, CONTENT_MM, height, fill=fill)
    page.box(MARGIN_MM, y, 1.2, height, fill=colour)
    below = page.paragraph(MARGIN_MM + 4, y + 2, words, inner, size=10, bold=True, colour=colour, max_lines=1)
    if sentence:
        page.paragraph(MARGIN_MM + 4, below, sentence, inner, size=8)
    return _warnings(page, content, y + height + 2.5)


def _warnings(page: Page, content: ReportContent, y: float) -> float:
    if not content.warnings:
        return y + 1
    bottom = y + _MAX_WARNINGS_MM
    page.text(MARGIN_MM, y, "Please note", size=8, bold=True, colour=CAUTION)
    y += line_height(8) + 0.3
    for number, warning in enumerate(content.warnings):
        needed = line_height(7.5) * _line_count(warning, CONTENT_MM - 4, 7.5)
        if y + needed > bottom:
            left = len(content.warnings) - number
            page.text(
                MARGIN_MM + 4,
                y,
                f"… and {left} more in the structured report and result.json",
                size=7.5,
                bold=True,
            )
            return y + line_height(7.5) + 2
        page.text(MARGIN_MM + 1, y, "•", size=7.5, colour=CAUTION)
        y = page.paragraph(MARGIN_MM + 4, y, warning, CONTENT_MM - 4, size=7.5)
    return y + 2


def _line_count(text: str, width: float, size: float) -> int:
    from imaging.writers.pdf_layout import printable, wrapped

    return len(wrapped(printable(text), width, size))


def _pictured_visits(content: ReportContent) -> list[tuple[int, VisitReport]]:
    """The first, the last, and the ones evenly between when there are too many to show."""
    count = len(content.visits)
    shown = np.unique(np.linspace(0, count - 1, min(count, _MAX_PICTURED_VISITS)).round().astype(int))
    return [(int(number), content.visits[number]) for number in shown]


def _visit_pictures(page: Page, content: ReportContent, y: float, bottom: float) -> None:
    visits = _pictured_visits(content)
    _legend(page, y, [(name, REGION_NAMES[name], REGION_COLOURS[name]) for name in ("NCR", "ED", "ET")])
    if len(visits) < len(content.visits):
        note = f"{len(visits)} of {len(content.visits)} visits shown"
        page.text(A4_MM[0] - MARGIN_MM, y, note, size=7, colour=MUTED, align="right")
    y += 5
    scenes = [scene_of(visit.image, visit.labels) for _, visit in visits]
    size = np.max([scene.high - scene.low for scene in scenes], axis=0)
    label_mm, gap = 24.0, 2.0
    row_height = min((bottom - y) / len(visits) - gap, 66.0)
    # One scale for every picture: widths are L, L, P; heights P, S, S.
    widths = np.array([size[0], size[0], size[1]])
    heights = np.array([size[1], size[2], size[2]])
    scale = min((CONTENT_MM - label_mm - 2 * gap) / widths.sum(), row_height / heights.max())
    for (number, visit), scene in zip(visits, scenes, strict=True):
        _visit_label(page, number, visit, y)
        x = MARGIN_MM + label_mm
        for plane, width, height in zip(_PLANES, widths * scale, heights * scale, strict=True):
            axes = page.axes(x, y + (heights.max() * scale - height) / 2, width, height)
            show_slice(axes, visit.image, framed(scene, size), plane, _region_contours(visit.labels))
            x += width + gap
        y += heights.max() * scale + gap


def _visit_label(page: Page, number: int, visit: VisitReport, y: float) -> None:
    page.text(MARGIN_MM, y + 1, f"Visit {number + 1}", size=8.5, bold=True)
    page.text(MARGIN_MM, y + 5.5, visit.date.date().isoformat(), size=7.5)
    page.text(MARGIN_MM, y + 9.2, f"day {visit.day:.0f}", size=7.5, colour=MUTED)
    if not visit.labels.array.any():
        page.text(MARGIN_MM, y + 14, "no tumour", size=7.5, bold=True)
        page.text(MARGIN_MM, y + 17.5, "found", size=7.5, bold=True)


def _legend(page: Page, y: float, entries: Sequence[tuple[str, str, tuple[int, int, int]]]) -> None:
    x = MARGIN_MM
    for short, words, colour in entries:
        page.box(x, y + 1.1, 4.0, 1.1, fill=_hex(colour))
        text = f"{short} {words}" if short else words
        page.text(x + 5, y + 0.2, text, size=7)
        x += 5 + text_width_mm(text, 7) + 5


def _region_contours(labels: Volume) -> dict[str, tuple[Volume, str]]:
    return {
        label.name: (labels.with_array(labels.array == label), _hex(REGION_COLOURS[label.name]))
        for label in (TumourLabel.ED, TumourLabel.NCR, TumourLabel.ET)
    }


def _volume_table_height(content: ReportContent) -> float:
    rows = min(len(content.visits), _MAX_TABLE_VISITS) + (len(content.visits) > _MAX_TABLE_VISITS)
    return 6.6 + (rows + 1) * (line_height(7.5) + 0.7) + 6


def _volume_table(page: Page, content: ReportContent, y: float) -> None:
    y = page.heading(y, "Volumes in mL")
    columns = [
        Column("visit", 13, "left"),
        Column("date", 24, "left"),
        Column("day", 14),
        *(Column(region, 19) for region in REGION_NAMES),
        Column("entropy", 18),
        Column("  segmented by", 182 - 13 - 24 - 14 - 5 * 19 - 18, "left"),
    ]
    numbered = list(enumerate(content.visits, start=1))
    if len(numbered) > _MAX_TABLE_VISITS:
        numbered = [numbered[0], *numbered[-(_MAX_TABLE_VISITS - 1) :]]
    rows = [
        [
            str(number),
            visit.date.date().isoformat(),
            f"{visit.day:.0f}",
            *(_ml(visit.volumes_ml[region]) for region in REGION_NAMES),
            "—" if visit.uncertainty is None else f"{visit.uncertainty:.2f}",
            "  network" if visit.segmentation_source == "network" else "  clinician",
        ]
        for number, visit in numbered
    ]
    y = page.table(MARGIN_MM, y, columns, rows)
    note = "TC = NCR + ET, WT = TC + ED. Entropy: mean uncertainty of the network in the tumour, 0 sure, 1 guessing."
    if len(numbered) < len(content.visits):
        note = f"{len(content.visits) - len(numbered)} visits between are in result.json. {note}"
    page.text(MARGIN_MM, y - 0.6, note, size=6.5, colour=MUTED)


def _growth(page: Page, content: ReportContent, y: float) -> float:
    y = page.heading(y, "Volume over time, with 95 % band of the model")
    if content.curve is None and len(content.visits) < 2:
        sentence = "No growth model was calibrated: there was no tumour to model."
        return page.paragraph(MARGIN_MM, y + 1, sentence, CONTENT_MM, size=8.5) + 3
    height = 62.0
    width = 96.0 if content.forecasts else CONTENT_MM - 14
    axes = page.axes(MARGIN_MM + 11, y + 1, width - 11, height - 11)
    draw_growth(axes, content)
    if content.forecasts:
        _forecast_table(page, content.forecasts, MARGIN_MM + width + 6, y + 1)
    elif content.curve is None:
        page.text(MARGIN_MM + 14, y + height - 3, "No growth model was calibrated.", size=7.5, colour=MUTED)
    return y + height


def _forecast_table(page: Page, forecasts: Sequence[ForecastReport], x: float, y: float) -> None:
    page.text(x, y, "Predicted volume in mL, median [95 % interval]", size=7.5, bold=True)
    columns = [Column("after", 14, "left"), Column("tumour core", 33), Column("whole tumour", 33)]
    shown = _evenly(forecasts, 10)
    rows = [
        [f"{f.horizon_days:g} d", _interval(f.core_volume_ml), _interval(f.whole_volume_ml)] for f in shown
    ]
    y = page.table(x, y + 4.5, columns, rows, size=7.2)
    page.paragraph(
        x, y, "Days after the last visit. Untreated course as the model sees it.", 80, size=6.5, colour=MUTED
    )


def _forecast_pictures(page: Page, content: ReportContent, y: float) -> float:
    y = page.heading(y, "Predicted tumour over the last visit")
    last = content.visits[-1]
    _legend(
        page,
        y,
        [
            ("", "predicted core", REGION_COLOURS["core"]),
            ("", "predicted whole tumour", REGION_COLOURS["rest"]),
            (
                "",
                "measured whole tumour at the last visit (dashed); colour: mean cell density",
                (255, 255, 255),
            ),
        ],
    )
    page.box(MARGIN_MM + 77.3, y + 1.1, 4.0, 1.1, fill="white", edge=MUTED)
    y += 4.6
    shown = _evenly(content.forecasts, _MAX_PICTURED_HORIZONS)
    measured = last.labels.with_array(last.labels.array > 0)
    # The plane through most of what is predicted last: that is where a reader wants to look.
    scene = scene_of(last.image, shown[-1].labels if shown[-1].labels.array.any() else last.labels)
    size = scene.high - scene.low
    gap = 2.5
    width = min((CONTENT_MM - gap * 3) / 4, 52.0 * size[0] / size[1])
    height = width * size[1] / size[0]
    for number, forecast in enumerate(shown):
        x = MARGIN_MM + number * (width + gap)
        axes = page.axes(x, y, width, height)
        show_slice(
            axes,
            last.image,
            scene,
            "axial",
            {
                "measured": (measured, "white"),
                "rest": (forecast.labels.with_array(forecast.labels.array > 0), _hex(REGION_COLOURS["rest"])),
                "core": (
                    forecast.labels.with_array(forecast.labels.array == 1),
                    _hex(REGION_COLOURS["core"]),
                ),
            },
            overlay=forecast.density_mean,
            dashed=("measured",),
        )
        page.text(x, y + height + 0.6, f"FORECAST +{forecast.horizon_days:g} d", size=7.5, bold=True)
    return y + height + 6.0


def _parameters(page: Page, content: ReportContent, y: float) -> float:
    y = page.heading(y, "Growth parameters")
    columns = [
        Column("parameter", 46, "left"),
        Column("median [95 % interval]", 50),
        Column("unit", 18),
        Column("prior median × / ÷", 30),
        Column("contraction", 19),
        Column("", 19, "left"),
    ]
    rows = [_parameter_row(parameter) for parameter in content.parameters]
    y = page.table(MARGIN_MM, y, columns, rows, size=7.2)
    note = (
        "Contraction: posterior over prior standard deviation of the logarithm. Near 1 the scans said nothing and the "
        "number is the prior's."
    )
    return page.paragraph(MARGIN_MM, y - 0.6, note, CONTENT_MM, size=6.5, colour=MUTED) + 2


def _parameter_row(parameter: ParameterReport) -> list[str | Cell]:
    colour = INK if parameter.identified else MUTED
    spread = np.exp(parameter.prior_sigma_log)
    texts = (
        parameter.name.replace("_", " "),
        _interval(parameter.value, digits=3),
        parameter.unit,
        f"{parameter.prior_median:.3g} ×÷ {spread:.2g}",
        f"{parameter.contraction:.2f}",
    )
    verdict = (
        Cell("  identified", GOOD) if parameter.identified else Cell("  not identified", ALERT, bold=True)
    )
    return [*(Cell(text, colour) for text in texts), verdict]


def _quality(page: Page, content: ReportContent, y: float) -> float:
    y = page.heading(y, "Quality of registration and calibration")
    fits = {fit.day: fit for fit in content.calibration.fit} if content.calibration is not None else {}
    columns = [
        Column("visit", 12, "left"),
        Column("to visit 1", 20),
        Column("needed", 16),
        Column("rotation", 18),
        Column("translation", 22),
        Column("series to reference, lowest", 44),
        Column("fit Dice core", 25),
        Column("fit Dice whole", 25),
    ]
    rows = []
    for number, visit in _evenly(list(enumerate(content.visits, start=1)), 6):
        quality, fit = visit.registration, fits.get(visit.day)
        lowest = min(visit.series_registration.items(), key=lambda item: item[1].similarity, default=None)
        rows.append(
            [
                str(number),
                "—" if quality is None else f"{quality.similarity:.2f}",
                "—" if quality is None else f"{quality.threshold:.2f}",
                "—" if quality is None else f"{quality.rotation_degrees:.1f}°",
                "—" if quality is None else f"{quality.translation_mm:.1f} mm",
                "—" if lowest is None else f"{lowest[0].upper()} {lowest[1].similarity:.2f}",
                "—" if fit is None else f"{fit.dice_core:.2f}",
                "—" if fit is None else f"{fit.dice_whole:.2f}",
            ]
        )
    y = page.table(MARGIN_MM, y, columns, rows, size=7.2)
    notes = sorted(
        {v.registration.metric for v in content.visits if v.registration is not None}
        | {q.metric for v in content.visits for q in v.series_registration.values()}
    )
    text = f"Similarity: {', '.join(notes)}. " if notes else ""
    if content.calibration is not None:
        text += f"Effective number of data points: {content.calibration.effective_samples:.0f}."
    return page.paragraph(MARGIN_MM, y - 0.6, text, CONTENT_MM, size=6.5, colour=MUTED) + 2


def _provenance(page: Page, content: ReportContent, y: float) -> None:
    software, model = content.software, content.model
    lines = (
        f"Software {software.name} {software.version} by {software.manufacturer}; segmentation model {model.name} "
        f"{model.version}, SHA-256 {model.sha256}.",
        f"Input digest {software.input_digest}; settings digest {software.settings_digest}.",
    )
    for line in lines:
        y = page.paragraph(MARGIN_MM, y, line, CONTENT_MM, size=6.2, colour=MUTED)


def _evenly(items: Sequence[_Item], most: int) -> list[_Item]:
    chosen = np.unique(np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int))
    return [items[i] for i in chosen]


def _ml(volume: float) -> str:
    return f"{volume:.1f}" if volume < 1000 else f"{volume:.0f}"


def _interval(value: Estimate, digits: int | None = None) -> str:
    low, high = value.interval95
    if digits is None:
        return f"{_ml(value.estimate)} [{_ml(low)}, {_ml(high)}]"
    return f"{value.estimate:.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
