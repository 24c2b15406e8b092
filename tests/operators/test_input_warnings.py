"""What is told about the input reaches the report, whatever operators lie between."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from imaging.catalog import read_catalog
from operators import preprocessor
from operators.preprocessor import PreprocessorOperator
from operators.series_selector import SeriesSelectorOperator
from operators.tumour_segmenter import TumourSegmenterOperator
from tests.imaging import dicom_factory as factory


def passed_on(operator: Any, message: Any, **attributes: Any) -> Any:
    """What an operator emits for a message, without a graph around it."""
    emitted = []
    received = SimpleNamespace(receive=lambda port: message)
    sent = SimpleNamespace(emit=lambda value, port: emitted.append(value))
    operator.compute(cast(Any, SimpleNamespace(**attributes)), received, sent, None)
    (found,) = emitted
    return found


def test_a_series_left_out_is_told_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factory.write_visit(tmp_path, contrasts=("t1ce",))
    stated = {"StudyInstanceUID": factory.uid("visit"), "SeriesDescription": "ep2d_diff", "SeriesNumber": 7}
    slices = factory.write_series(tmp_path, name="diffusion", attributes=stated)
    slices[0].write_bytes(slices[0].read_bytes()[:-50])
    monkeypatch.setattr(preprocessor, "prepare_visits", lambda *_, **__: ())

    selected = passed_on(
        SeriesSelectorOperator, read_catalog(tmp_path), required=frozenset({"t1ce"}), rules=(), rtdose=None
    )
    prepared = passed_on(PreprocessorOperator, selected, seed=0)
    segmented = passed_on(TumourSegmenterOperator, prepared, model=None)

    (warning,) = segmented.warnings
    assert "series 7 is incomplete" in warning and "The series was left out." in warning
