"""Patients, visits and files: what belongs together, in which order, and what is refused."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging.__main__ import main
from imaging.catalog import Catalog, Visit, read_catalog, read_inventory
from imaging.errors import ImagingError, Reason
from imaging.reader import read_volume
from imaging.role_selection import propose_roles
from tests.imaging import dicom_factory as factory


def refuse(folder: Path, reason: Reason, *words: str) -> None:
    with pytest.raises(ImagingError) as error:
        read_catalog(folder)
    assert error.value.reason is reason
    assert error.value.message.endswith(".")
    for word in words:
        assert word in error.value.message


def numbers(visit: Visit) -> list[int | None]:
    return [series.number for series in visit.series]


def write(folder: Path, name: str, moment: datetime, number: int = 1, **attributes: Any) -> list[Path]:
    stated = {
        "SeriesNumber": number,
        "StudyInstanceUID": factory.uid(f"study {name}"),
        **factory.dates(moment),
    }
    return factory.write_series(folder, name=name, attributes={**stated, **attributes})


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


class TestFiles:
    def test_fault_11_junk_is_ignored_with_a_reason(self, tmp_path: Path) -> None:
        write(tmp_path / "deep" / "er", "a", factory.DATE)
        (tmp_path / "notes.txt").write_text("DICM is not at 128 here")
        (tmp_path / "deep" / ".DS_Store").write_bytes(b"\0" * 500)
        catalog = read_catalog(tmp_path)
        assert {file.path for file in catalog.ignored} == {"notes.txt", str(Path("deep/.DS_Store"))}
        assert len(catalog.visits[0].series[0].files) == 8

    @pytest.mark.parametrize("length", [140, 300, 500])
    def test_fault_11_file_cut_in_its_header_stops_the_run(self, tmp_path: Path, length: int) -> None:
        """Its series is lost with the header: it may be the last slice, whose lack nothing else would show."""
        files = write(tmp_path, "a", factory.DATE)
        files[-1].write_bytes(files[-1].read_bytes()[:length])
        refuse(tmp_path, Reason.TRUNCATED, files[-1].name)

    @pytest.mark.parametrize("content", [b"", b"\0" * 100])
    def test_fault_11_file_without_content_stops_the_run(self, tmp_path: Path, content: bytes) -> None:
        files = write(tmp_path, "a", factory.DATE)
        files[-1].write_bytes(content)
        refuse(tmp_path, Reason.TRUNCATED, files[-1].name)

    def test_file_cut_after_its_series_is_named_refuses_that_series(self, tmp_path: Path) -> None:
        files = write(tmp_path, "a", factory.DATE, 4)
        content = files[-1].read_bytes()
        files[-1].write_bytes(content[: content.index(b"MONOCHROME2")])
        (visit,) = read_catalog(tmp_path).visits
        assert not visit.series
        (refused,) = visit.refused
        assert refused.reason is Reason.TRUNCATED
        assert files[-1].name in refused.sentence
        assert "series 4" in refused.sentence

    @pytest.mark.parametrize("step", [97])
    def test_no_cut_goes_unseen(self, tmp_path: Path, step: int) -> None:
        """Wherever a file is cut, the run says so or refuses the series; it never reads seven slices of eight."""
        files = write(tmp_path, "a", factory.DATE)
        content = files[-1].read_bytes()
        for length in range(132, len(content), step):
            files[-1].write_bytes(content[:length])
            inventory = read_inventory(tmp_path)
            usable = [
                series
                for patient in inventory.patients
                for visit in patient.visits
                for series in visit.series
            ]
            assert inventory.broken or not usable, length

    @pytest.mark.filterwarnings("ignore:The")
    def test_fault_15_nothing_about_the_patient_is_logged(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.DEBUG)
        secret = "SECRETNAME" * 8
        write(
            tmp_path,
            "a",
            factory.DATE,
            PatientName=secret,
            SeriesDescription=f"T1 {secret}",
            AcquisitionNumber="1",
        )
        read_catalog(tmp_path).visits[0].series[0].datasets()
        captured = capfd.readouterr()
        for text in (caplog.text, captured.out, captured.err):
            for word in ("SECRETNAME", "P-001", "19700101"):
                assert word not in text

    def test_copies_are_used_once(self, tmp_path: Path) -> None:
        files = write(tmp_path / "a", "a", factory.DATE)
        (tmp_path / "b").mkdir()
        for file in files:
            shutil.copy(file, tmp_path / "b" / f"copy_{file.name}")
        catalog = read_catalog(tmp_path)
        assert len(catalog.visits[0].series[0].files) == 8
        assert len(catalog.ignored) == 8
        assert all("copy of" in file.reason for file in catalog.ignored)

    def test_file_without_preamble_is_read(self, tmp_path: Path) -> None:
        for file in factory.write_series(tmp_path, transfer_syntax=pydicom.uid.ImplicitVRLittleEndian):
            dataset = pydicom.dcmread(file)
            bare = pydicom.Dataset(dict(dataset.items()))
            bare.save_as(file, implicit_vr=True, little_endian=True)
        (visit,) = read_catalog(tmp_path).visits
        np.testing.assert_array_equal(read_volume(visit.series[0]).array, factory.pattern())

    def test_other_objects_are_ignored_with_a_reason(self, tmp_path: Path) -> None:
        files = write(tmp_path, "a", factory.DATE)
        report = pydicom.dcmread(files[0])
        del report.PixelData, report.Rows
        report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = pydicom.uid.Comprehensive3DSRStorage
        report.SOPInstanceUID, report.SeriesInstanceUID = factory.uid("report"), factory.uid("reports")
        report.save_as(tmp_path / "report.dcm")
        (ignored,) = read_catalog(tmp_path).ignored
        assert ignored.path == "report.dcm"
        assert "Comprehensive 3D SR" in ignored.reason

    def test_digest_depends_on_content_only(self, tmp_path: Path) -> None:
        write(tmp_path / "one", "a", factory.DATE)
        write(tmp_path / "one", "b", factory.DATE + timedelta(hours=1), 2)
        shutil.copytree(tmp_path / "one", tmp_path / "two" / "other" / "place")
        for n, file in enumerate(sorted((tmp_path / "two").rglob("*.dcm"), reverse=True)):
            file.rename(file.with_name(f"{n:05d}"))
        (tmp_path / "two" / "readme.txt").write_text("junk")
        first, second = read_catalog(tmp_path / "one"), read_catalog(tmp_path / "two")
        assert first.digest == second.digest
        write(tmp_path / "one", "b", factory.DATE + timedelta(hours=1), 2, SeriesDescription="changed")
        assert read_catalog(tmp_path / "one").digest != first.digest

    def test_names_and_places_of_files_do_not_matter(self, tmp_path: Path) -> None:
        write(tmp_path / "one", "a", factory.DATE)
        (tmp_path / "two").mkdir()
        order = np.random.default_rng(1).permutation(8)
        for n, file in zip(order, sorted((tmp_path / "one").iterdir()), strict=True):
            shutil.copy(file, tmp_path / "two" / f"IM{n}")
        first, second = (read_catalog(tmp_path / side).visits[0].series[0] for side in ("one", "two"))
        assert first.instance_uids == second.instance_uids

    def test_progress_counts_every_file(self, tmp_path: Path) -> None:
        write(tmp_path, "a", factory.DATE)
        seen: list[tuple[int, int]] = []
        read_catalog(tmp_path, progress=lambda done, total: seen.append((done, total)))
        assert seen == [(n, 8) for n in range(1, 9)]


@settings(max_examples=150, deadline=None)
@given(
    enhanced=st.booleans(),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.binary(min_size=0, max_size=4), st.integers(0, 4)),
        min_size=1,
        max_size=4,
    ),
)
def test_damaged_headers_end_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, enhanced: bool, edits: list[tuple[float, bytes, int]]
) -> None:
    """Whatever bytes of a header are replaced, inserted or lost: no other error than ours, or a series read."""
    folder = tmp_path_factory.mktemp("damaged")
    attributes = dict(factory.CONTRASTS["t1"])
    file = factory.write_series(folder, factory.pattern((4, 4, 3)), enhanced=enhanced, attributes=attributes)[
        -1
    ]
    content = bytearray(file.read_bytes())
    for place, inserted, removed in edits:
        at = 132 + int(place * (len(content) - 250))
        content[at : at + removed] = inserted
    file.write_bytes(content)
    for patient in read_inventory(folder).patients:
        for visit in patient.visits:
            propose_roles(visit)
            for series in visit.series:
                with suppress(ImagingError):
                    read_volume(series)


class TestUnusableFolders:
    def test_empty(self, tmp_path: Path) -> None:
        refuse(tmp_path, Reason.EMPTY_INPUT, tmp_path.name)

    def test_absent(self, tmp_path: Path) -> None:
        refuse(tmp_path / "nowhere", Reason.EMPTY_INPUT, "nowhere", "does not exist")

    def test_a_file(self, tmp_path: Path) -> None:
        (file,) = factory.write_series(tmp_path, enhanced=True)
        refuse(file, Reason.NOT_DICOM, file.name)

    def test_not_dicom(self, tmp_path: Path) -> None:
        (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8" * 500)
        refuse(tmp_path, Reason.NOT_DICOM)

    def test_damaged_value_is_named(self, tmp_path: Path) -> None:
        files = write(tmp_path, "a", factory.DATE)
        content = files[2].read_bytes()
        at = content.index(b"\x28\x00\x10\x00US")  # Rows
        files[2].write_bytes(content[: at + 4] + b"FD" + content[at + 6 :])
        (visit,) = read_catalog(tmp_path).visits
        assert not visit.series
        (refused,) = visit.refused
        assert refused.reason is Reason.TRUNCATED
        assert f"{files[2].name} is damaged: its Rows cannot be read" in refused.sentence

    def test_no_images(self, tmp_path: Path) -> None:
        (file,) = factory.write_series(tmp_path, enhanced=True)
        dataset = pydicom.dcmread(file)
        dataset.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        dataset.save_as(file)
        refuse(tmp_path, Reason.EMPTY_INPUT, "no MR or CT images")

    def test_unreadable_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = write(tmp_path, "a", factory.DATE)
        real = Path.read_bytes

        def denied(path: Path) -> bytes:
            if path == files[3]:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(Path, "read_bytes", denied)
        refuse(tmp_path, Reason.NO_PERMISSION, files[3].name)

    def test_a_link_without_a_target_may_have_been_a_slice(self, tmp_path: Path) -> None:
        files = write(tmp_path, "a", factory.DATE)
        for target in ("nowhere", "last.dcm", f"{files[0].name}/below"):
            (tmp_path / "last.dcm").symlink_to(target)
            refuse(tmp_path, Reason.TRUNCATED, "last.dcm is a link without a target")
            (tmp_path / "last.dcm").unlink()
        assert len(read_catalog(tmp_path).visits) == 1

    def test_a_file_that_vanishes_while_the_folder_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = write(tmp_path, "a", factory.DATE)
        real = Path.read_bytes

        def read(path: Path) -> bytes:
            files[-1].unlink(missing_ok=True)
            return real(path)

        monkeypatch.setattr(Path, "read_bytes", read)
        refuse(tmp_path, Reason.TRUNCATED, f"{files[-1].name} vanished while the folder was read")

    def test_a_folder_that_vanishes_while_its_parent_is_searched(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "left", "a", factory.DATE)
        gone = write(tmp_path / "gone", "b", factory.DATE)[0].parent
        real = os.scandir

        def scan(path: Any) -> Any:
            if path == str(gone):
                shutil.rmtree(gone)
            return real(path)

        monkeypatch.setattr(os, "scandir", scan)
        refuse(tmp_path, Reason.TRUNCATED, "vanished while the folder was read")

    @pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
    def test_folder_without_permission(self, capsys: pytest.CaptureFixture[str]) -> None:
        folder = Path(tempfile.mkdtemp())
        locked = folder / "locked"
        factory.write_series(locked)
        folder.chmod(0o755)
        locked.chmod(0)
        user = os.geteuid()
        try:
            if user == 0:  # may read everything, so be somebody else
                os.seteuid(65534)
            code = main([str(folder)])
        finally:
            os.seteuid(user)
            locked.chmod(0o755)
            shutil.rmtree(folder)
        output = capsys.readouterr()
        assert code == 3
        assert output.err.strip() == "locked may not be read; give this user permission to read it."
        assert output.out == ""


def test_inventory_lists_what_the_catalog_refuses(tmp_path: Path) -> None:
    write(tmp_path, "a", factory.DATE, 7, AcquisitionDate=None, StudyDate=None)
    (patient,) = read_inventory(tmp_path).patients
    assert isinstance(patient, Catalog)
    assert [series.number for series in patient.unplaced] == [7]
