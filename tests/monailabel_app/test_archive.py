"""The server on a PACS: Orthanc in a network of its own, SEG in and out, and OHIF in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pydicom
import pytest
import requests

from imaging.catalog import read_catalog
from imaging.geometry import Volume
from imaging.preparation import prepare_visits
from imaging.role_selection import select_roles
from tests.imaging.writers.validators import dciodvfy_errors
from tests.monailabel_app.ohif import opened
from tests.monailabel_app.orthanc import DICOMWEB, Orthanc
from tests.monailabel_app.private_network import PrivateNetwork
from tests.monailabel_app.reader import Reader
from tests.monailabel_app.served import RunningServer, start_server
from tests.monailabel_app.slicer import import_answer, load_volume
from training.phantom import PhantomTruth


@pytest.fixture(scope="module")
def orthanc(phantom: PhantomTruth, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """The first two visits in an archive."""
    with PrivateNetwork():
        archive = Orthanc(tmp_path_factory.mktemp("archive") / "orthanc")
        for visit in ("visit1", "visit2"):
            archive.send(phantom.dicom_folder / visit)
        yield archive
        archive.stop()


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "state"


@pytest.fixture(scope="module")
def archive_server(
    orthanc: Orthanc, small_bundle: Path, state: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    arguments = ["--studies", DICOMWEB, "--state", str(state), "--models", str(small_bundle)]
    running = start_server(log, arguments)
    yield running
    running.stop()


@pytest.fixture
def reader(slicer: ModuleType, archive_server: RunningServer, tmp_path: Path) -> Reader:
    return Reader(slicer, archive_server, tmp_path / "anna", "slicer-anna")


def test_a_drawing_goes_into_the_archive_and_comes_back_from_it(
    reader: Reader, orthanc: Orthanc, phantom: PhantomTruth, tmp_path: Path
) -> None:
    key, volume = reader.open("random")
    shape = load_volume(volume)[0].shape
    generator = np.random.default_rng(0)
    drawn = {name: np.zeros(shape, bool) for name in ("ED", "NCR", "ET")}
    for name, low in (("ED", 20), ("NCR", 28), ("ET", 36)):
        drawn[name][low : low + 6, 20:40, 20:30] = generator.random((6, 20, 10)) > 0.3
    assert reader.client.info()["datastore"] == {"total": 2, "completed": 0, "label_tags": {"final": 0}}
    reader.submit(key, volume, drawn)
    (stored,) = orthanc.segmentations()
    file = tmp_path / "stored.dcm"
    file.write_bytes(stored)
    assert dciodvfy_errors(file) == []

    # The archive's copy beside the images is what the application goes by.
    folder = tmp_path / "patient"
    shutil.copytree(phantom.dicom_folder, folder, ignore=shutil.ignore_patterns("visit3"))
    shutil.copy(file, folder)
    visit = next(visit for visit in read_catalog(folder).visits if visit.annotations)
    chosen = select_roles(visit, required=frozenset()).chosen
    assert chosen["t1ce"].study_uid == key
    (prepared,) = prepare_visits([(visit, {"t1ce": chosen["t1ce"]})])
    assert prepared.correction is not None
    for value, name in ((1, "NCR"), (2, "ED"), (3, "ET")):
        assert np.array_equal(prepared.correction.labels.array == value, drawn[name])

    # And what the server shows when the case is opened again.
    assert reader.open("finished")[0] == key
    answer, said = reader.run("tumour", key)
    segments = import_answer(answer, said)
    assert said["source"] == "dicom_seg"
    assert all(np.array_equal(segments[name], drawn[name]) for name in drawn)
    assert reader.client.info()["datastore"]["completed"] == 1


def test_somebody_elses_drawing_in_the_archive_counts(
    reader: Reader, orthanc: Orthanc, phantom: PhantomTruth
) -> None:
    """Stored by another system while the case was open here: told before anything is overwritten."""
    key, volume = reader.open("finished")
    theirs = pydicom.dcmread(pydicom.filebase.DicomBytesIO(orthanc.segmentations()[0]))
    theirs.SOPInstanceUID = theirs.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    theirs.SeriesInstanceUID = pydicom.uid.generate_uid()
    theirs.ContentTime = "235959"
    buffer = pydicom.filebase.DicomBytesIO()
    theirs.save_as(buffer)
    requests.post("http://127.0.0.1:8042/instances", data=buffer.getvalue(), timeout=30).raise_for_status()
    nothing = {name: np.zeros(load_volume(volume)[0].shape, bool) for name in ("ED", "NCR", "ET")}
    with pytest.raises(reader.failure, match="409"):
        reader.submit(key, volume, nothing)
    assert len(orthanc.segmentations()) == 2
    reader.submit(key, volume, nothing)
    assert len(orthanc.segmentations()) == 3
    answer, said = reader.run("tumour", key)
    assert said["source"] == "dicom_seg" and not load_volume(answer)[0].any(), "the newest one counts"


def test_a_drawing_deleted_in_the_archive_is_in_force_no_more(reader: Reader, orthanc: Orthanc) -> None:
    key, _ = reader.open("finished")
    before = len(orthanc.segmentations())
    for drawn in (True, False):
        _, said = reader.run("tumour", key)
        assert said["source"] == ("dicom_seg" if drawn else "network")
        if drawn:
            gone = orthanc.delete_segmentations()
            assert len(gone) == before
    assert reader.client.info()["datastore"]["completed"] == 0
    orthanc.store(gone)
    assert reader.run("tumour", key)[1]["source"] == "dicom_seg"


def test_the_series_that_ohif_shows_means_its_study(reader: Reader, phantom: PhantomTruth) -> None:
    for visit in phantom.visits[:2]:
        for role in ("t1ce", "flair"):
            answer = requests.get(
                f"{reader.url}/datastore/image/info", params={"image": visit.series[role]}, timeout=60
            )
            assert answer.json()["name"].startswith(f"{visit.study_instance_uid}-")
    other = requests.get(f"{reader.url}/datastore/image/info", params={"image": "1.2.3.4"}, timeout=60)
    assert other.status_code == 404


def test_viewers_can_only_read_through_the_server(reader: Reader) -> None:
    listed = requests.get(f"{reader.url}/proxy/dicom/qido/studies", timeout=60)
    assert listed.status_code == 200 and len(listed.json()) == 2
    posted = requests.post(f"{reader.url}/proxy/dicom/stow/studies", data=b"x", timeout=60)
    assert posted.status_code == 405
    for path in ("/proxy/dicom/%2e%2e/instances", "/proxy/dicom/qido/..%2f..%2finstances"):
        session = requests.Session()
        prepared = session.prepare_request(requests.Request("GET", reader.url))
        prepared.url = reader.url + path
        assert session.send(prepared, timeout=60).status_code == 405


@pytest.mark.slow
def test_the_panel_in_ohif_lays_the_drawing_where_it_was_drawn(
    reader: Reader, phantom: PhantomTruth, tmp_path: Path
) -> None:
    """Whatever series is on screen; FLAIR has thick slices in another plane than T1CE."""
    key, volume = reader.open("finished")
    grid = Volume.load_nifti(volume).geometry
    drawn = three_blocks(grid.shape)
    reader.submit(key, volume, drawn)
    visit = next(visit for visit in phantom.visits if visit.study_instance_uid == key)
    expected = Volume(sum(n * mask.astype(np.uint8) for n, mask in enumerate(drawn.values(), 1)), grid)
    with opened(reader.url) as ohif:
        # The panel makes its label map for the series on screen when it connects, and keeps to it.
        for role, agreement in (("flair", 0.85), ("t1ce", 0.999)):
            ohif.open(key)
            ohif.show(visit.series[role])
            ohif.connect()
            ohif.jump_to(expected.geometry.to_patient(np.argwhere(expected.array)).mean(axis=0))
            before = ohif.coloured()
            assert ohif.run("tumour") == 200
            shown, value = ohif.segmentation()
            there = expected.resampled(shown.geometry, interpolation="nearest").array
            for number, name in enumerate(drawn, 1):
                assert dice(shown.array == value[name], there == number) > agreement, (role, name)
            assert ohif.coloured() > before + 100, "the overlay shows"


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def three_blocks(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """A drawing that is its own mirror image in no direction."""
    drawn = {name: np.zeros(shape, bool) for name in ("ED", "NCR", "ET")}
    i, j, k = (int(0.4 * n) for n in shape)
    drawn["ED"][i : i + 9, j : j + 8, k : k + 10] = True
    drawn["NCR"][i + 9 : i + 13, j : j + 8, k : k + 6] = True
    drawn["ET"][i : i + 6, j + 8 : j + 14, k + 2 : k + 6] = True
    return drawn


def test_an_archive_that_is_down_is_told(reader: Reader, orthanc: Orthanc) -> None:
    """Runs last: the archive is gone afterwards."""
    key, _ = reader.open("finished")
    orthanc.stop()
    with pytest.raises(reader.failure, match="502"):
        reader.run("tumour", key)
