"""Who the results say that they are from."""

from __future__ import annotations

from imaging.annotation_index import OWN_MANUFACTURER, OWN_MODEL_NAME
from operators.result_writer import MANUFACTURER, PRODUCT


def test_the_ingest_knows_the_applications_own_results() -> None:
    """Under another name a copy of a drawing would come back as a second drawing."""
    assert (MANUFACTURER, PRODUCT) == (OWN_MANUFACTURER, OWN_MODEL_NAME)
