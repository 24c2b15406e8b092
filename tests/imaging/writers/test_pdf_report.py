"""The pages for people: two of them, the right numbers as text, slices the right way round."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from time import perf_counter

import numpy as np
import pydicom
import pypdf
import pytest

from imaging.geometry import Geometry, Volume
from imaging.report_content import ReportContent, Status
from imaging.writers.pdf_layout import printable, text_width_mm, wrapped
from imaging.writers.pdf_report import Patient, render_pdf, save_page_png
from imaging.writers.pdf_slices import cut, scene_of
from tests.imaging.writers import patients, validators
from tests.imaging.writers.patients import OutputSet, Sources
from tests.imaging.writers.test_structured_report import outcome

PATIENT = Patient("P-001", "Doe^Jane", "19700102", "F")


def texts(pdf: bytes) -> list[str]:
    """Text of the pages with runs of blanks made one."""
    return [" ".join(page.extract_text().split()) for page in pypdf.PdfReader(BytesIO(pdf)).pages]


def test_both_pages_say_who_and_that_it_is_research(output_set: OutputSet) -> None:
    pages = texts(render_pdf(output_set.content, PATIENT))
    assert len(pages) == 2
    for page in pages:
        assert "RESEARCH USE ONLY — NOT FOR CLINICAL USE" in page
        assert "Doe, Jane" in page
        assert "ID P-001" in page
        assert "born 1970-01-02" in page


def test_the_pages_have_the_numbers_of_the_content(output_set: OutputSet) -> None:
    first, second = texts(render_pdf(output_set.content, PATIENT))
    for visit in output_set.content.visits:
        assert visit.date.date().isoformat() in first
        for volume in visit.volumes_ml.values():
            assert f"{volume:.1f}" in first
    assert output_set.content.warnings[0] in first
    for text in ("+30 d", "+90 d", "8.0 [6.0, 13.0]", "3.0 [2.0, 5.5]", "mm2/d", "0.1 [0.05, 0.2]"):
        assert text in second
    assert second.count("not identified by these scans") == 1
    for text in ("0.81", "2.1°", "3.4 mm", patients.MODEL.sha256, patients.SOFTWARE.input_digest):
        assert text in second


def test_the_verdict_is_said_once_a_page(output_set: OutputSet) -> None:
    content = output_set.content
    assert content.calibration is not None
    verdict = content.calibration.verdict
    first = texts(render_pdf(replace(content, warnings=(*content.warnings, verdict)), PATIENT))[0]
    assert first.count(verdict) == 1


def test_skill_intervals_and_treatment_are_on_the_second_page(output_set: OutputSet) -> None:
    content = output_set.content
    second = texts(render_pdf(content, PATIENT))[1]
    for text in (
        "error of exponential growth",
        "11.5 10.0 [8.0, 11.0] 1.5 3.0 2.2",
        "4.5 [3.0, 6.0] 0.2 1.2",
    ):
        assert text in second
    assert patients.TREATMENTS[0] in second and patients.CONFORMAL.sentence in second
    unchecked = texts(render_pdf(replace(content, skill=None), PATIENT))[1]
    assert "skill of the forecast could not be checked" in unchecked
    assert "error of exponential growth" not in unchecked


def test_a_forecast_of_the_prior_is_not_called_skill(output_set: OutputSet) -> None:
    skill = patients.SKILL
    of_prior = replace(
        skill, core=replace(skill.core, acceptable=False), whole=replace(skill.whole, acceptable=False)
    )
    said = "this is the prior's forecast"
    assert said not in texts(render_pdf(output_set.content, PATIENT))[1]
    assert said in texts(render_pdf(replace(output_set.content, skill=of_prior), PATIENT))[1]


WORDS = {
    Status.NO_TUMOUR: "No tumour found",
    Status.TUMOUR_GONE: "No tumour left",
    Status.SINGLE_VISIT: "growth could not be identified",
    Status.NOT_EXPLAINED: "does not explain these scans",
}


@pytest.mark.parametrize("status", WORDS)
def test_every_outcome_has_its_two_pages(status: Status, sources: Sources) -> None:
    content, _ = outcome(status, sources)
    first, second = texts(render_pdf(content, PATIENT))
    assert WORDS[status] in first
    assert WORDS[status] in second or status is Status.OK


@pytest.mark.parametrize("status", [Status.NO_TUMOUR, Status.TUMOUR_GONE])
def test_a_tumour_too_small_for_the_model_is_not_called_none(status: Status, sources: Sources) -> None:
    content, _ = outcome(status, sources)
    visits = list(content.visits)
    nothing = texts(render_pdf(content, PATIENT))[0]
    assert "too small for the growth model" not in nothing
    visits[-1] = replace(visits[-1], volumes_ml=dict.fromkeys(visits[-1].volumes_ml, 0.002))
    for page in texts(render_pdf(replace(content, visits=tuple(visits)), PATIENT)):
        assert "too small for the growth model, " in page and "too small for the growth model's grid" in page
        assert WORDS[status] not in page and "marked as tumour at the last" not in page
        assert "No visit has anything" not in page


def many(content: ReportContent) -> ReportContent:
    """More of everything than fits."""
    visit = content.visits[0]
    visits = [replace(visit, day=float(day), date=visit.date) for day in range(14)]
    warnings = [f"Warning number {number}: " + "something to look at " * 9 for number in range(20)]
    forecasts = [
        replace(content.forecasts[0], horizon_days=float(h), day=13.0 + h) for h in range(10, 400, 20)
    ]
    return replace(
        content,
        visits=tuple(visits),
        warnings=tuple(warnings),
        forecasts=tuple(forecasts),
        parameters=content.parameters * 6,
    )


def test_too_much_for_two_pages_is_cut_and_says_so(output_set: OutputSet) -> None:
    pages = texts(render_pdf(many(output_set.content), PATIENT))
    assert len(pages) == 2
    assert "more in the structured report" in pages[0]
    assert "6 visits between are in result.json" in pages[0]


def test_the_same_content_gives_the_same_bytes(output_set: OutputSet) -> None:
    assert render_pdf(output_set.content, PATIENT) == render_pdf(output_set.content, PATIENT)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("Doe^Jane", "Doe, Jane"),
        ("Łukasz^Żółć", "Łukasz, Żółć"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou (□□, □□; □□□, □□□)"),
        ("$x_1$^{brace}", "$x_1$, {brace}"),
        ("UPENN-GBM-00463", "UPENN-GBM-00463"),
        ("", "name not given"),
        ("N" * 300, "…"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_any_name_can_be_printed(name: str, printed: str, output_set: OutputSet) -> None:
    pages = texts(render_pdf(output_set.content, Patient("P-001", name, "", "")))
    assert len(pages) == 2
    assert printed in pages[0]


def test_the_object_holds_the_pages(output_set: OutputSet) -> None:
    assert validators.dciodvfy_errors(output_set.pdf.path) == []
    dataset = pydicom.dcmread(output_set.pdf.path)
    document = dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength]
    reference = output_set.sources[-1].datasets[0]
    assert document == render_pdf(output_set.content, Patient.of(reference))
    assert dataset.BurnedInAnnotation == "YES"
    assert "not for clinical use" in dataset.DocumentTitle


def test_other_peoples_software_opens_the_pages(output_set: OutputSet, tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(render_pdf(output_set.content, PATIENT))
    program = validators.tool("pdftoppm", "poppler-utils (apt)")
    subprocess.run([program, "-r", "20", "-png", str(path), str(tmp_path / "page")], check=True)
    assert len(list(tmp_path.glob("page*.png"))) == 2


def test_a_page_can_be_saved_as_picture(output_set: OutputSet, tmp_path: Path) -> None:
    save_page_png(output_set.content, PATIENT, 2, tmp_path / "page.png", dpi=40)
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def scene_with_mark(matrix: np.ndarray) -> tuple[Volume, Volume]:
    """A bright head and one marked voxel 20 mm to the Left, 10 mm to the Front, 5 mm Up of the middle."""
    shape = (60, 60, 40)
    grid = Geometry(shape, matrix)
    image, labels = np.full(shape, 100.0), np.zeros(shape, np.uint8)
    index = np.round(grid.to_index(grid.centre + np.array((20.0, -10.0, 5.0)))).astype(int)
    labels[tuple(index)] = 3
    image[tuple(index)] = 1000.0
    return Volume(image, grid), Volume(labels, grid)


@pytest.mark.parametrize("turned", [False, True], ids=["axial", "rotated and flipped"])
def test_left_is_right_on_the_slice_and_up_is_up(turned: bool) -> None:
    matrix = np.diag([1.0, 1.2, 2.0, 1.0])
    if turned:
        matrix = np.eye(4)
        matrix[:3, :3] = np.array([[0, 0, -2.0], [1.0, 0, 0], [0, -1.2, 0]])
    image, labels = scene_with_mark(matrix)
    scene = scene_of(image, labels)
    middle = (scene.low + scene.high) / 2
    offset = scene.centre - middle
    np.testing.assert_allclose(offset, (20.0, -10.0, 5.0), atol=2.5)
    for plane, (horizontal, vertical) in {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}.items():
        picture = cut(image, scene, plane)
        row, column = np.unravel_index(picture.argmax(), picture.shape)
        size = scene.high - scene.low
        seen = (
            (column / picture.shape[1] - 0.5) * size[horizontal],
            (row / picture.shape[0] - 0.5) * size[vertical],
        )
        np.testing.assert_allclose(seen, (offset[horizontal], offset[vertical]), atol=2.5)


def test_lines_fit_their_width() -> None:
    text = "A sentence with aVeryLongWord" + "x" * 200 + " and then some more words to fill the lines."
    lines = wrapped(text, 60.0, 8.0)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert max(text_width_mm(line, 8.0) for line in lines) <= 60.0


def test_control_characters_are_not_printed() -> None:
    assert printable("a\tb\x07c") == "a b□c"


def test_rendering_is_quick(output_set: OutputSet) -> None:
    start = perf_counter()
    render_pdf(output_set.content, PATIENT)
    # Six seconds on two idle cores; a loaded machine must not fail the suite.
    assert perf_counter() - start < 30


def test_poppler_is_there() -> None:
    assert shutil.which("pdftoppm"), "install poppler-utils"
