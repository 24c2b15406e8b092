"""Files and folders as they come: without a suffix, a preamble or content, cut off, damaged, copied, out of reach."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from imaging.__main__ import main
from imaging.catalog import read_catalog, read_inventory
from imaging.errors import ImagingError, Reason
from imaging.files import read_again, read_folder
from imaging.reader import read_volume
from imaging.role_selection import propose_roles
from tests.imaging import dicom_factory as factory
from tests.imaging.folders import refuse, write


def without_preamble(path: Path, first: str) -> None:
    """Write a file again as a bare dataset that begins with a certain element, implicit little endian."""
    kept = {tag: element for tag, element in pydicom.dcmread(path).items() if tag >= pydicom.tag.Tag(first)}
    Dataset(kept).save_as(path, implicit_vr=True, little_endian=True)


@pytest.mark.parametrize("first", ["SpecificCharacterSet", "InstanceCreationDate", "SOPClassUID"])
def test_whatever_element_comes_first_a_bare_dataset_is_read(tmp_path: Path, first: str) -> None:
    (path, *others) = factory.write_series(tmp_path, transfer_syntax=pydicom.uid.ExplicitVRLittleEndian)
    for other in others:
        other.unlink()
    dataset = pydicom.dcmread(path)
    dataset.SpecificCharacterSet, dataset.InstanceCreationDate = "ISO_IR 100", "20240101"
    del dataset.ImageType
    dataset.save_as(path)
    without_preamble(path, first)
    assert path.read_bytes()[128:132] != b"DICM"
    (file,) = read_folder(tmp_path).objects
    again = read_again(file.path)
    assert again.SOPInstanceUID == dataset.SOPInstanceUID
    assert again.file_meta.TransferSyntaxUID == pydicom.uid.ImplicitVRLittleEndian


def test_a_file_that_only_begins_like_dicom_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "notes").write_bytes(b"\x08\x00\x12\x00" + bytes(range(256)) * 4)
    content = read_folder(tmp_path)
    assert not content.objects and not content.broken
    assert [file.path for file in content.ignored] == ["notes"]


@pytest.mark.parametrize("name", ["IM000007", "1.2.840.113619.7"])
def test_an_empty_file_beside_images_may_have_been_a_slice(tmp_path: Path, name: str) -> None:
    files = factory.write_series(tmp_path)
    files[-1].unlink()
    (tmp_path / name).touch()
    (broken,) = read_folder(tmp_path).broken
    assert name in broken.sentence and "copy it again" in broken.sentence


@pytest.mark.parametrize("name", [".keep", "notes.txt", "elsewhere/LOCK"])
def test_other_empty_files_are_ignored(tmp_path: Path, name: str) -> None:
    factory.write_series(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    content = read_folder(tmp_path)
    assert not content.broken
    assert [file.path for file in content.ignored] == [name]


def test_pixels_that_share_their_colour_are_complete(tmp_path: Path) -> None:
    (path, *others) = factory.write_series(tmp_path)
    for other in others:
        other.unlink()
    dataset: Any = pydicom.dcmread(path)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "YBR_FULL_422"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PlanarConfiguration = 7, 0
    dataset.PixelData = bytes(dataset.Rows * dataset.Columns * 2)
    dataset.save_as(path)
    assert not read_folder(tmp_path).broken
    dataset.PixelData = dataset.PixelData[:-2]
    dataset.save_as(path)
    (broken,) = read_folder(tmp_path).broken
    assert "cut off" in broken.sentence


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImagingError, match="cannot be read any more") as error:
        read_again(tmp_path / "gone.dcm")
    assert error.value.reason is Reason.UNDECODABLE


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
