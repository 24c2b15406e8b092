"""Dates that de-identifiers leave, and series without any."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from imaging.catalog import read_catalog, read_inventory
from imaging.errors import ImagingError, Reason
from tests.imaging import dicom_factory as factory

DUMMY = datetime(1999, 11, 11, 11, 11, 11)


def test_studies_of_one_dummy_moment_are_not_one_visit(tmp_path: Path) -> None:
    for study in ("a", "b"):
        for number in (1, 2):
            stated = {"StudyInstanceUID": factory.uid(study), "SeriesNumber": number, **factory.dates(DUMMY)}
            factory.write_series(tmp_path, name=f"{study}{number}", attributes=stated)
    with pytest.raises(ImagingError, match="restore the dates") as error:
        read_catalog(tmp_path)
    assert error.value.reason is Reason.MISSING_DATE
    (patient,) = read_inventory(tmp_path).patients
    assert len(patient.unplaced) == 4 and not patient.visits


def test_a_study_of_derived_images_may_have_the_moment_of_their_source(tmp_path: Path) -> None:
    for name, study, moment in (
        ("a", "one", factory.DATE),
        ("b", "one", factory.DATE + timedelta(minutes=5)),
        ("c", "derived", factory.DATE),
    ):
        stated = {"StudyInstanceUID": factory.uid(study), **factory.dates(moment)}
        factory.write_series(tmp_path, name=name, attributes=stated)
    (visit,) = read_catalog(tmp_path).visits
    assert len(visit.series) == 3


def test_the_beginning_of_unix_time_is_no_date(tmp_path: Path) -> None:
    factory.write_series(tmp_path, name="a", attributes=factory.dates(datetime(1970, 1, 1)))
    with pytest.raises(ImagingError, match="no usable AcquisitionDate"):
        read_catalog(tmp_path)


@pytest.mark.parametrize("name", ["x1", "x2", "x3", "x4"])
def test_a_series_without_a_date_joins_its_study_whatever_its_uid(tmp_path: Path, name: str) -> None:
    """Its siblings have a day but no time."""
    day = {
        **factory.dates(factory.DATE),
        "AcquisitionTime": "",
        "SeriesTime": "",
        "StudyTime": "",
        "ContentTime": "",
    }
    none = dict.fromkeys((*day, "AcquisitionDateTime"), "")
    for number in (1, 2):
        factory.write_series(tmp_path, name=f"s{number}", attributes={**day, "SeriesNumber": number})
    factory.write_series(tmp_path, name=name, attributes={**none, "SeriesNumber": 30})
    (visit,) = read_catalog(tmp_path).visits
    # Without a date it cannot be used, but it stops nobody.
    assert not read_catalog(tmp_path).unplaced
    assert len(visit.series) + len(visit.refused) == 3
