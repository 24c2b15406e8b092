"""Patients and visits: what belongs together, in which order, and what is refused."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from imaging.catalog import Catalog, Visit, read_catalog, read_inventory
from imaging.errors import Reason
from tests.imaging import dicom_factory as factory
from tests.imaging.folders import refuse, write


def numbers(visit: Visit) -> list[int | None]:
    return [series.number for series in visit.series]


class TestVisits:
    def test_each_series_in_its_own_study_is_one_visit(self, tmp_path: Path) -> None:
        for n in range(4):
            write(tmp_path, f"s{n}", factory.DATE + timedelta(minutes=10 * n), n)
        (visit,) = read_catalog(tmp_path).visits
        assert numbers(visit) == [0, 1, 2, 3]
        assert visit.date == factory.DATE

    def test_visits_are_ordered_by_acquisition_not_by_name(self, tmp_path: Path) -> None:
        write(tmp_path / "a", "late", datetime(2024, 9, 1, 8, 0), 1)
        write(tmp_path / "b", "early", datetime(2024, 3, 1, 18, 0), 2)
        assert [numbers(visit) for visit in read_catalog(tmp_path).visits] == [[2], [1]]

    def test_two_visits_of_one_day_are_ordered_by_time(self, tmp_path: Path) -> None:
        write(tmp_path, "a", datetime(2024, 3, 1, 17, 0), 1)
        write(tmp_path, "b", datetime(2024, 3, 1, 8, 0), 2)
        assert [numbers(visit) for visit in read_catalog(tmp_path).visits] == [[2], [1]]

    def test_gap_is_from_one_series_to_the_next(self, tmp_path: Path) -> None:
        for n, hour in enumerate((8, 11, 14)):
            write(tmp_path, f"s{n}", datetime(2024, 3, 1, hour, 0), n)
        assert len(read_catalog(tmp_path).visits) == 1
        assert len(read_catalog(tmp_path, visit_gap_hours=2).visits) == 3

    def test_a_visit_over_midnight_is_one(self, tmp_path: Path) -> None:
        write(tmp_path, "a", datetime(2024, 3, 1, 23, 50), 1)
        write(tmp_path, "b", datetime(2024, 3, 2, 0, 10), 2)
        assert len(read_catalog(tmp_path).visits) == 1

    def test_one_study_is_one_visit_within_a_day(self, tmp_path: Path) -> None:
        same = {"StudyInstanceUID": factory.uid("same")}
        write(tmp_path, "a", datetime(2024, 3, 1, 8, 0), 1, **same)
        write(tmp_path, "b", datetime(2024, 3, 1, 19, 0), 2, **same)
        assert len(read_catalog(tmp_path).visits) == 1

    def test_a_study_reused_for_a_follow_up_is_two_visits(self, tmp_path: Path) -> None:
        same = {"StudyInstanceUID": factory.uid("same")}
        write(tmp_path, "a", datetime(2024, 3, 1, 8, 0), 1, **same)
        write(tmp_path, "b", datetime(2024, 5, 1, 8, 0), 2, **same)
        assert len(read_catalog(tmp_path).visits) == 2

    def test_acquisition_date_goes_before_study_date(self, tmp_path: Path) -> None:
        write(tmp_path, "a", datetime(2024, 3, 1, 8, 0), 1, StudyDate="20200101")
        assert read_catalog(tmp_path).visits[0].date == datetime(2024, 3, 1, 8, 0)

    def test_acquisition_date_time_goes_first(self, tmp_path: Path) -> None:
        write(tmp_path, "a", datetime(2024, 3, 1, 8, 0), 1, AcquisitionDateTime="20240405061530.5+0100")
        assert read_catalog(tmp_path).visits[0].date == datetime(2024, 4, 5, 6, 15, 30, 500000)

    def test_study_date_serves_when_nothing_else_is_left(self, tmp_path: Path) -> None:
        write(tmp_path, "a", datetime(2024, 3, 1, 8, 0), 1, AcquisitionDate=None, AcquisitionTime=None)
        assert read_catalog(tmp_path).visits[0].date == datetime(2024, 3, 1, 8, 0)

    def test_no_date_is_an_error_that_names_series_and_attribute(self, tmp_path: Path) -> None:
        write(tmp_path, "a", factory.DATE, 7, AcquisitionDate=None, StudyDate=None)
        refuse(tmp_path, Reason.MISSING_DATE, "series 7", "AcquisitionDate")

    def test_placeholder_dates_are_no_dates(self, tmp_path: Path) -> None:
        write(tmp_path, "a", factory.DATE, 7, AcquisitionDate="19000101", StudyDate="00010101")
        refuse(tmp_path, Reason.MISSING_DATE)

    def test_series_without_time_joins_the_only_visit_of_its_day(self, tmp_path: Path) -> None:
        write(tmp_path, "a", datetime(2024, 3, 1, 17, 0), 1)
        write(tmp_path, "b", datetime(2024, 3, 1), 2, AcquisitionTime=None, StudyTime=None)
        (visit,) = read_catalog(tmp_path).visits
        assert visit.date == datetime(2024, 3, 1, 17, 0)
        assert set(numbers(visit)) == {1, 2}

    def test_series_without_time_on_a_day_of_two_visits_is_an_error(self, tmp_path: Path) -> None:
        write(tmp_path, "a", datetime(2024, 3, 1, 8, 0), 1)
        write(tmp_path, "b", datetime(2024, 3, 1, 17, 0), 2)
        write(tmp_path, "c", datetime(2024, 3, 1), 3, AcquisitionTime=None, StudyTime=None)
        refuse(tmp_path, Reason.MISSING_DATE, "series 3", "AcquisitionTime")

    def test_earliest_slice_dates_the_series(self, tmp_path: Path) -> None:
        factory.write_series(tmp_path, per_slice=lambda k: {"AcquisitionTime": f"1{7 - k}0000"})
        assert read_catalog(tmp_path).visits[0].date == datetime(2024, 3, 1, 10, 0)


class TestPatients:
    def test_two_patients_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path, "a", factory.DATE, PatientID="A")
        write(tmp_path, "b", factory.DATE, PatientID="B")
        refuse(tmp_path, Reason.SEVERAL_PATIENTS, "2 patients")
        assert len(read_inventory(tmp_path).patients) == 2

    def test_padding_does_not_make_another_patient(self, tmp_path: Path) -> None:
        write(tmp_path, "a", factory.DATE, PatientID="A ")
        write(tmp_path, "b", factory.DATE, PatientID=" A")
        assert len(read_catalog(tmp_path).visits) == 1

    @pytest.mark.parametrize(
        ("keyword", "values"),
        [
            ("IssuerOfPatientID", ("HOSPITAL A", "HOSPITAL B")),
            ("PatientBirthDate", ("19700101", "19810203")),
            ("PatientSex", ("F", "M")),
        ],
    )
    def test_one_identifier_of_two_people_is_refused(
        self, tmp_path: Path, keyword: str, values: tuple[str, str]
    ) -> None:
        for n, value in enumerate(values):
            write(tmp_path, f"s{n}", factory.DATE, n, **{keyword: value})
        refuse(tmp_path, Reason.SEVERAL_PATIENTS, keyword)

    def test_an_issuer_left_out_contradicts_nothing(self, tmp_path: Path) -> None:
        write(tmp_path, "a", factory.DATE, 1, IssuerOfPatientID="HOSPITAL A")
        write(tmp_path, "b", factory.DATE, 2, PatientBirthDate="")
        assert read_catalog(tmp_path).patient.issuer == "HOSPITAL A"

    def test_no_patient_id_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path, "a", factory.DATE, PatientID="")
        refuse(tmp_path, Reason.MISSING_ATTRIBUTE, "PatientID")

    @pytest.mark.parametrize(
        ("charset", "name"),
        [
            ("ISO_IR 192", "Łukasz^山田"),
            ("ISO_IR 100", "Müller^Jürgen"),
            (["ISO 2022 IR 6", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
            (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
            ("ISO_IR 144", "Иванов^Пётр"),
        ],
    )
    def test_fault_07_names_survive_their_character_set(
        self, tmp_path: Path, charset: Any, name: str
    ) -> None:
        write(tmp_path, "a", factory.DATE, SpecificCharacterSet=charset, PatientName=name)
        assert read_catalog(tmp_path).patient.name == name

    def test_representation_reveals_nothing(self, tmp_path: Path) -> None:
        write(tmp_path, "a", factory.DATE, SeriesDescription="DOE JANE T1")
        catalog = read_catalog(tmp_path)
        for text in (repr(catalog.patient), repr(catalog.visits[0].series[0]), repr(catalog)):
            for secret in ("P-001", "Doe", "19700101", "DOE"):
                assert secret not in text


def test_inventory_lists_what_the_catalog_refuses(tmp_path: Path) -> None:
    write(tmp_path, "a", factory.DATE, 7, AcquisitionDate=None, StudyDate=None)
    (patient,) = read_inventory(tmp_path).patients
    assert isinstance(patient, Catalog)
    assert [series.number for series in patient.unplaced] == [7]
