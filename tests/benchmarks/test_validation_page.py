"""What docs/validation.md says is what the archived rows score."""

import json
import lzma
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks.validation import report, summary
from benchmarks.validation.scenarios import SCENARIOS
from benchmarks.validation.trial import Row
from twin.conformal import shipped

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def page() -> str:
    return (DOCS / "validation.md").read_text("utf-8")


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    with lzma.open(DOCS / "validation-rows.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            found[entry["scenario"]].append(entry["row"])
    return found


def test_the_tables_of_the_page_are_those_of_the_rows(page: str, rows: dict[str, list[Row]]) -> None:
    scores = {
        name: summary.scored(rows[name], report.HORIZON, shipped()) | {"title": SCENARIOS[name].title}
        for name in SCENARIOS
    }
    for made in (report._coverage_table, report._refusal_table, report._parameter_table, report._skill_table):
        for line in made(scores).splitlines():
            assert line in page
    assert report._coverage_words(scores) in page
    assert report._size_words(scores) in page


def test_the_factors_that_ship_are_what_the_rows_ask_for(page: str, rows: dict[str, list[Row]]) -> None:
    learned = {mask: report.learned_from(rows, mask) for mask in summary.MASKS}
    assert report._conformal_table(learned) in page
    for mask, found in learned.items():
        assert getattr(shipped(), mask) == pytest.approx(found.factor, abs=5e-4)
