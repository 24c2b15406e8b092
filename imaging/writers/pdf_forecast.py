"""Page 2 of the report: growth curve, forecast, parameters, and the quality of what they rest on."""

from __future__ import annotations

import numpy as np

from imaging.report_content import ParameterReport, ReportContent, SkillReport, Status
from imaging.writers.palette import REGION_COLOURS
from imaging.writers.pdf_chart import draw_growth
from imaging.writers.pdf_frame import evenly, foot, head, hex_colour, interval, legend, verdict
from imaging.writers.pdf_layout import (
    A4_MM,
    ALERT,
    CONTENT_MM,
    GOOD,
    INK,
    MARGIN_MM,
    MUTED,
    Cell,
    Column,
    Page,
    line_height,
    wrapped,
)
from imaging.writers.pdf_slices import scene_of, show_slice

_CURVE_MM = 66.0
_MAX_HORIZONS_PICTURED = 4
_MAX_HORIZONS_LISTED = 10
_MAX_PARAMETERS = 8
_MAX_QUALITY_ROWS = 6
_MAX_NOTE_LINES = 6
_MAX_QUALITY_LINES = 6
_BESIDE_MM = 78.0
_NOTE_SIZE = 6.3
# of the forecast table: heading, column heads and rules, and a row; with them the headings of what is below
_FORECAST_HEAD_MM, _FORECAST_ROW_MM = 18.0, 4.0
_NOT_GIVEN = "—"


def forecast_page(content: ReportContent, name: str, facts: str) -> Page:
    """Make page 2."""
    page = Page()
    y = head(page, content, name, facts, "Growth and forecast")
    if content.status is not Status.OK:
        y = verdict(page, content, y)
    y = _growth(page, content, y)
    if content.forecasts:
        y = _pictures(page, content, y)
    if content.parameters:
        y = _parameters(page, content, y)
    if content.skill is not None:
        y = _skill(page, content.skill, y)
    y = _quality(page, content, y)
    _provenance(page, content, y)
    foot(page, 2)
    return page


def _growth(page: Page, content: ReportContent, y: float) -> float:
    if content.curve is None and len(content.visits) < 2:
        y = page.heading(y, "Growth")
        sentence = "No growth model was calibrated: there was no tumour to model."
        return page.paragraph(MARGIN_MM, y + 1, sentence, CONTENT_MM, size=8.5) + 3
    modelled = content.curve is not None
    y = page.heading(y, "Volume over time, 95 % band of the model" if modelled else "Volume over time")
    width = 98.0 if content.forecasts else CONTENT_MM
    axes = page.axes(MARGIN_MM + 11, y + 9, width - 11, _CURVE_MM - 21)
    draw_growth(axes, content)
    if content.forecasts:
        below = _forecast_table(page, content, MARGIN_MM + width + 6, y + 1)
        if _treatment_fits(content):
            _treatment(page, content, MARGIN_MM + width + 6, below + 2)
    return y + _CURVE_MM


def _treatment_fits(content: ReportContent) -> bool:
    """Whether the treatment has its place beside the curve; else it follows the notes on quality."""
    rows = min(len(content.forecasts), _MAX_HORIZONS_LISTED)
    notes = min(len(wrapped(_forecast_note(content), _BESIDE_MM, _NOTE_SIZE)), _MAX_NOTE_LINES)
    room = _CURVE_MM - _FORECAST_HEAD_MM - rows * _FORECAST_ROW_MM - notes * line_height(_NOTE_SIZE)
    lines = wrapped(" ".join(content.treatments), _BESIDE_MM, _NOTE_SIZE)
    return 0 < len(lines) * line_height(_NOTE_SIZE) <= room


def _treatment(page: Page, content: ReportContent, x: float, y: float) -> None:
    page.text(x, y, "Treatment that the model was given", size=7.5, bold=True)
    page.paragraph(x, y + 4.0, " ".join(content.treatments), _BESIDE_MM, size=_NOTE_SIZE)


def _forecast_note(content: ReportContent) -> str:
    note = "Days after the last visit. A prediction by a model, not a measurement."
    return note if content.conformal is None else f"{note} {content.conformal.sentence}"


def _forecast_table(page: Page, content: ReportContent, x: float, y: float) -> float:
    page.text(x, y, "Predicted volume in mL, median [95 % interval]", size=7.5, bold=True)
    columns = [Column("after", 14, "left"), Column("tumour core", 32), Column("whole tumour", 32)]
    rows = [
        [f"+{f.horizon_days:g} d", interval(f.core_volume_ml), interval(f.whole_volume_ml)]
        for f in evenly(content.forecasts, _MAX_HORIZONS_LISTED)
    ]
    y = page.table(x, y + 4.5, columns, rows, size=7.0)
    note = _forecast_note(content)
    return page.paragraph(
        x, y - 0.6, note, _BESIDE_MM, size=_NOTE_SIZE, colour=MUTED, max_lines=_MAX_NOTE_LINES
    )


def _pictures(page: Page, content: ReportContent, y: float) -> float:
    y = page.heading(y, "Predicted tumour over the last visit")
    core, whole = hex_colour(REGION_COLOURS["core"]), hex_colour(REGION_COLOURS["rest"])
    legend(
        page,
        y,
        [
            ("predicted core", core),
            ("predicted whole tumour", whole),
            ("measured at the last visit", "white"),
        ],
    )
    _density_scale(page, y)
    y += 5
    last = content.visits[-1]
    shown = evenly(content.forecasts, _MAX_HORIZONS_PICTURED)
    measured = last.labels.with_array(last.labels.array > 0)
    # The planes through most of what is predicted last: that is where a reader wants to look.
    scene = scene_of(last.image, shown[-1].labels if shown[-1].labels.array.any() else last.labels)
    size = scene.high - scene.low
    gap = 2.5
    width = min((CONTENT_MM - gap * 3) / 4, 52.0 * float(size[0] / size[1]))
    height = width * float(size[1] / size[0])
    for number, forecast in enumerate(shown):
        x = MARGIN_MM + number * (width + gap)
        labels = forecast.labels
        show_slice(
            page.axes(x, y, width, height),
            last.image,
            scene,
            "axial",
            {
                "measured": (measured, "white"),
                "rest": (labels.with_array(labels.array > 0), whole),
                "core": (labels.with_array(labels.array == 1), core),
            },
            overlay=forecast.density_mean,
            dashed=("measured",),
        )
        page.text(x, y + height + 0.6, f"FORECAST +{forecast.horizon_days:g} d", size=7.5, bold=True)
    return y + height + 6.5


def _density_scale(page: Page, y: float) -> None:
    right, width = A4_MM[0] - MARGIN_MM, 22.0
    axes = page.axes(right - 4 - width, y + 0.6, width, 1.9)
    axes.imshow(np.linspace(0, 1, 64)[np.newaxis], cmap="inferno", aspect="auto")
    axes.set_axis_off()
    page.text(right - 5 - width, y, "mean cell density  0", size=7, align="right")
    page.text(right, y, "1", size=7, align="right")


def _parameters(page: Page, content: ReportContent, y: float) -> float:
    y = page.heading(y, "Growth parameters")
    columns = [
        Column("parameter", 40, "left"),
        Column("median [95 % interval]", 44),
        Column("unit", 14),
        Column("prior", 24),
        Column("contraction", 20),
        Column("", 40),
    ]
    rows = [_parameter_row(parameter) for parameter in content.parameters[:_MAX_PARAMETERS]]
    y = page.table(MARGIN_MM, y, columns, rows, size=7.2)
    note = (
        "Prior: median ×/÷ one geometric standard deviation. Contraction: posterior over prior standard deviation of "
        "the logarithm; near 1 the scans said nothing and the number is the prior's, not the patient's."
    )
    return page.paragraph(MARGIN_MM, y - 0.6, note, CONTENT_MM, size=6.3, colour=MUTED) + 2


def _parameter_row(parameter: ParameterReport) -> list[str | Cell]:
    colour = INK if parameter.identified else MUTED
    texts = (
        parameter.name.replace("_", " "),
        interval(parameter.value, digits=3),
        parameter.unit,
        f"{parameter.prior_median:.3g} ×/÷ {np.exp(parameter.prior_sigma_log):.2g}",
        f"{parameter.contraction:.2f}",
    )
    identified = Cell("identified", GOOD)
    if not parameter.identified:
        identified = Cell("not identified by these scans", ALERT)
    return [*(Cell(text, colour) for text in texts), identified]


def _skill(page: Page, skill: SkillReport, y: float) -> float:
    y = page.heading(y, "Skill: the last visit, forecast from those before it")
    columns = [
        Column("volume in mL", 22, "left"),
        Column("measured", 16),
        Column("forecast [95 % interval]", 40),
        Column("error of the forecast", 32),
        Column("error of no change", 30),
        Column("error of exponential growth", 42),
    ]
    rows: list[list[str | Cell]] = []
    for name, volume in (("tumour core", skill.core), ("whole tumour", skill.whole)):
        others = [volume.unchanged_error_ml, volume.exponential_error_ml]
        best = volume.acceptable and all(error is None or volume.error_ml < error for error in others)
        rows.append(
            [
                name,
                f"{volume.observed_ml:.1f}",
                Cell(interval(volume.forecast_ml), INK if volume.inside95 else ALERT),
                Cell(f"{volume.error_ml:.1f}", GOOD if best else ALERT),
                *(_NOT_GIVEN if error is None else f"{error:.1f}" for error in others),
            ]
        )
    y = page.table(MARGIN_MM, y, columns, rows, size=7.2) + 1.5
    if skill.whole.acceptable:
        return y
    sentence = "The growth model does not explain the earlier visits alone: this is the prior's forecast, and no skill."
    return page.paragraph(MARGIN_MM, y, sentence, CONTENT_MM, size=7.5, colour=ALERT) + 1.5


def _quality(page: Page, content: ReportContent, y: float) -> float:
    y = page.heading(y, "Quality of registration and calibration")
    fits = {fit.day: fit for fit in content.calibration.fit} if content.calibration is not None else {}
    columns = [
        Column("visit", 12, "left"),
        Column("similarity to visit 1", 29),
        Column("least allowed", 22),
        Column("rotation", 16),
        Column("translation", 19),
        Column("weakest series", 27),
        Column("fit Dice core", 28),
        Column("fit Dice whole", 29),
    ]
    # the table of skill takes room
    most = _MAX_QUALITY_ROWS if content.skill is None else _MAX_QUALITY_ROWS // 2
    rows = []
    for number, visit in evenly(list(enumerate(content.visits, start=1)), most):
        moved = [_NOT_GIVEN] * 4
        if visit.registration is not None:
            quality = visit.registration
            moved = [
                f"{quality.similarity:.2f}",
                f"{quality.threshold:.2f}",
                f"{quality.rotation_degrees:.1f}°",
                f"{quality.translation_mm:.1f} mm",
            ]
        weakest = min(visit.series_registration.items(), key=lambda item: item[1].similarity, default=None)
        fit = fits.get(visit.day)
        rows.append(
            [
                str(number),
                *moved,
                _NOT_GIVEN if weakest is None else f"{weakest[0].upper()} {weakest[1].similarity:.2f}",
                _NOT_GIVEN if fit is None or fit.dice_core is None else f"{fit.dice_core:.2f}",
                _NOT_GIVEN if fit is None else f"{fit.dice_whole:.2f}",
            ]
        )
    y = page.table(MARGIN_MM, y, columns, rows, size=7.2)
    note = _quality_note(content)
    lines = _MAX_QUALITY_LINES
    return page.paragraph(MARGIN_MM, y - 0.6, note, CONTENT_MM, size=6.3, colour=MUTED, max_lines=lines) + 2


def _quality_note(content: ReportContent) -> str:
    metrics = content.registration_metrics
    note = f"Similarity: {', '.join(metrics)}. " if metrics else "No registration was needed. "
    if content.calibration is not None:
        samples = content.calibration.effective_samples
        note += f"Calibration rests on {samples:.0f} effective data points. "
        note += "Dice: overlap of the fitted model with the segmentation, 1 is full."
    sentences = [note.strip()]
    if content.skill is None:
        sentences += content.skill_sentences
    if not (content.forecasts and _treatment_fits(content)):
        sentences += content.treatments
    return " ".join(sentences)


def _provenance(page: Page, content: ReportContent, y: float) -> None:
    software, model = content.software, content.model
    lines = (
        f"Software {software.name} {software.version} by {software.manufacturer}. Segmentation model {model.name} "
        f"{model.version}, SHA-256 {model.sha256}.",
        f"Digest of the input {software.input_digest}, of the settings {software.settings_digest}.",
    )
    for line in lines:
        y = page.paragraph(MARGIN_MM, y, line, CONTENT_MM, size=6.2, colour=MUTED)
