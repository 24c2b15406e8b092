"""A clinician corrects cases from 3D Slicer: Slicer's own client against a server in a process of its own."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pydicom
import pytest
import requests

from imaging.catalog import read_catalog
from imaging.preparation import prepare_visit
from imaging.role_selection import select_roles
from tests.imaging.writers.validators import dciodvfy_errors
from tests.monailabel_app.served import RunningServer
from tests.monailabel_app.slicer import export_segments, import_answer, load_volume, ohif_segments
from training.phantom import PhantomTruth

INFER = {"result_extension": ".nrrd", "result_dtype": "uint8"}


class Reader:
    """A person at Slicer.

    Parameters
    ----------
    slicer : module
        Of the client.
    server : RunningServer
        What it talks to.
    folder : pathlib.Path
        Of its own: client and server on one machine would otherwise write the same temporary files.
    """

    def __init__(self, slicer: ModuleType, server: RunningServer, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.url = folder, server.url
        self.failure = slicer.MONAILabelClientException
        self.client = slicer.MONAILabelClient(server.url, tmpdir=str(folder), client_id=name)

    def open(self, strategy: str) -> tuple[str, Path]:
        """Next Sample: the id, and the volume that Slicer downloads and shows."""
        sample = self.client.next_sample(strategy, {})
        path = self.folder / sample["name"]
        answer = requests.get(f"{self.url}/datastore/image", params={"image": sample["id"]}, timeout=60)
        path.write_bytes(answer.content)
        return sample["id"], path

    def run(self, model: str, key: str, **params: Any) -> tuple[Path, dict[str, Any]]:
        """Run a model, as the plugin does."""
        file, said = self.client.infer(model, key, {**INFER, **params})
        return Path(file), said

    def submit(self, key: str, volume: Path, segments: dict[str, np.ndarray]) -> dict[str, Any]:
        """Submit Label."""
        file, info = export_segments(segments, volume, self.folder / "submitted.nii.gz")
        answer: dict[str, Any] = self.client.save_label(key, str(file), params={"label_info": info})
        return answer


@pytest.fixture
def reader(slicer: ModuleType, server: RunningServer, tmp_path: Path) -> Reader:
    return Reader(slicer, server, tmp_path / "anna", "slicer-anna")


def true_segments(phantom: PhantomTruth, studies: Path, key: str) -> dict[str, np.ndarray]:
    """What is really there, on the grid of the volume that the viewer shows."""
    for number, visit in enumerate(read_catalog(studies).visits):
        series = select_roles(visit, required=frozenset()).chosen["t1ce"]
        if series.study_uid == key and series.geometry is not None:
            labels = phantom.visits[number].labels.resampled(series.geometry, interpolation="nearest").array
            return {"ED": labels == 2, "NCR": labels == 1, "ET": labels == 3}
    raise AssertionError("no such study")


def drawings(studies: Path) -> list[Path]:
    return sorted(studies.rglob("oncotwin-drawing-*.dcm"))


def test_what_slicer_needs_of_the_server_is_there(reader: Reader) -> None:
    info = reader.client.info()
    assert "config" not in info, "Slicer's plugin would ask to upgrade the server"
    assert info["labels"] == ["ED", "NCR", "ET"]
    assert next(iter(info["models"])) == "tumour", "Slicer runs the first one when it opens a case"
    for model in info["models"].values():
        assert model["type"] in ("segmentation", "deepgrow", "scribbles") and model["description"]
        assert sorted(model["labels"].values()) == list(range(1, len(model["labels"]) + 1))
    assert reader.client.datastore()["objects"].keys() == set(_keys(reader))
    assert not reader.client.auth_enabled()


def test_a_whole_correction(
    reader: Reader, phantom: PhantomTruth, studies: Path, slicer: ModuleType, server: RunningServer
) -> None:
    """Next sample, automatic answer, edit, save; then the application uses what was saved."""
    key, volume = reader.open("random")
    values, _ = load_volume(volume)
    file, said = reader.run("tumour", key)
    assert said["source"] == "network"
    assert load_volume(file)[0].shape == values.shape
    truth = true_segments(phantom, studies, key)

    assert reader.submit(key, volume, {"background": np.zeros_like(truth["ED"]), **truth})["label"] == key
    (drawing,) = drawings(studies)
    assert dciodvfy_errors(drawing) == []
    written = pydicom.dcmread(drawing)
    assert {segment.SegmentAlgorithmType for segment in written.SegmentSequence} == {"SEMIAUTOMATIC"}
    shared = written.SharedFunctionalGroupsSequence[0]
    visit = next(v for v in read_catalog(studies).visits if v.annotations)
    chosen = select_roles(visit, required=frozenset()).chosen
    source = chosen["t1ce"].datasets()[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert np.allclose(orientation, source.ImageOrientationPatient, atol=1e-5), (
        "frames lie on the source's planes"
    )

    prepared = prepare_visit(visit, {"t1ce": chosen["t1ce"]}, None)
    assert prepared.correction is not None
    for value, name in ((1, "NCR"), (2, "ED"), (3, "ET")):
        assert np.array_equal(prepared.correction.labels.array == value, truth[name])

    # Opening the finished case shows the drawing, and running the first model does not wipe it.
    again, _ = reader.open("finished")
    assert again == key
    loaded = Path(reader.client.download_label(key, "original"))
    file, said = reader.run("tumour", key)
    info = reader.client.info()["models"]["tumour"]
    assert said["source"] == "dicom_seg"
    for segments in (import_answer(loaded, said), import_answer(file, said), ohif_segments(file, info)):
        assert all(np.array_equal(segments[name], truth[name]) for name in truth)
    assert reader.client.info()["datastore"]["completed"] == 1

    # Editing it again stores a newer drawing; the first one stays.
    less = {**truth, "ED": np.zeros_like(truth["ED"])}
    reader.submit(key, volume, less)
    assert len(drawings(studies)) == 2 and drawing.exists()
    file, said = reader.run("tumour", key)
    assert not import_answer(file, said)["ED"].any()


def test_a_case_with_no_tumour_left_is_saved_and_read_back(reader: Reader, studies: Path) -> None:
    key, volume = reader.open("random")
    before = set(drawings(studies))
    nothing = {name: np.zeros(load_volume(volume)[0].shape, bool) for name in ("ED", "NCR", "ET")}
    reader.submit(key, volume, nothing)
    (drawing,) = set(drawings(studies)) - before
    assert dciodvfy_errors(drawing) == []
    assert {s.SegmentAlgorithmType for s in pydicom.dcmread(drawing).SegmentSequence} == {"MANUAL"}
    file, said = reader.run("tumour", key)
    assert said["source"] == "dicom_seg" and not load_volume(file)[0].any()


def test_the_second_user_is_told_and_nothing_is_lost(
    slicer: ModuleType,
    server: RunningServer,
    tmp_path: Path,
    studies: Path,
    state: Path,
    phantom: PhantomTruth,
) -> None:
    anna = Reader(slicer, server, tmp_path / "anna", "slicer-anna")
    bert = Reader(slicer, server, tmp_path / "bert", "slicer-bert")
    key, volume = anna.open("finished")
    assert bert.open("finished")[0] != key, "another free case is offered first"
    bert.run("tumour", key)
    truth = true_segments(phantom, studies, key)
    only_core = {**truth, "ED": np.zeros_like(truth["ED"])}
    anna.submit(key, volume, truth)
    before = drawings(studies)
    with pytest.raises(bert.failure) as told:
        bert.submit(key, volume, only_core)
    assert "409" in told.value.msg and "Somebody else has saved" in told.value.msg
    assert drawings(studies) == before
    assert len(list((state / "kept").glob(f"{key}-*.nii.gz"))) == 1
    bert.submit(key, volume, only_core)
    assert len(drawings(studies)) == len(before) + 1
    # Now the first one is behind.
    with pytest.raises(anna.failure, match="409"):
        anna.submit(key, volume, truth)


@pytest.mark.parametrize(
    ("label_info", "sentence"),
    [
        ([{"name": "ED"}], "only 1 segment"),
        ([{"name": "ED"}, {"name": "FORECAST +90 d core"}], "remove that segment"),
        ([{"name": "ED"}, {"name": "cerebellum"}], "no known tumour region"),
    ],
)
def test_labels_that_would_be_misread_are_refused(
    reader: Reader, studies: Path, label_info: list[dict[str, str]], sentence: str
) -> None:
    key, volume = reader.open("finished")
    mask = np.zeros(load_volume(volume)[0].shape, bool)
    mask[10:20, 10:20, 10:20] = True
    file, _ = export_segments(
        {"ED": mask, "NCR": np.roll(mask, 12, axis=1)}, volume, reader.folder / "wrong.nii.gz"
    )
    before = drawings(studies)
    with pytest.raises(reader.failure) as refused:
        reader.client.save_label(key, str(file), params={"label_info": label_info})
    assert sentence in refused.value.msg and "400" in refused.value.msg
    assert drawings(studies) == before


def test_a_volume_of_the_users_own_is_refused_with_a_sentence(reader: Reader) -> None:
    _, volume = reader.open("finished")
    for attempt in (
        lambda: reader.client.create_session(str(volume)),
        lambda: reader.client.infer("tumour", "", INFER, session_id="made-up"),
        lambda: reader.client.infer("tumour", "", INFER, file=str(volume)),
        lambda: reader.client.upload_image(str(volume), "mine"),
    ):
        with pytest.raises(reader.failure) as refused:
            attempt()
        assert "400" in refused.value.msg or "404" in refused.value.msg
        assert "sibling" in refused.value.msg


def test_any_series_of_a_study_means_its_case(reader: Reader, studies: Path) -> None:
    for visit in read_catalog(studies).visits:
        for series in visit.series:
            info = requests.get(
                f"{reader.url}/datastore/image/info", params={"image": series.uid}, timeout=60
            ).json()
            assert info["name"] == f"{series.study_uid}.nii.gz"


def test_requests_cannot_name_paths_or_devices(reader: Reader, tmp_path: Path, studies: Path) -> None:
    key, volume = reader.open("finished")
    for image in (str(volume), "/etc/passwd", str(next(studies.rglob("*.dcm"))), "../../etc/passwd"):
        with pytest.raises(reader.failure, match="404"):
            reader.run("tumour", image)
        with pytest.raises(reader.failure, match="404"):
            reader.run("tumour", key, image=image)
        assert (
            requests.get(f"{reader.url}/datastore/image", params={"image": image}, timeout=60).status_code
            == 404
        )
    before = drawings(studies)
    file, _ = reader.run(
        "tumour", key, device="cuda:7", model_filename="/etc/passwd", save_label=True, label="/etc/passwd"
    )
    assert file.exists() and drawings(studies) == before
    for path in ("/logs/", "/model/tumour", "/datastore/dataset", "/reload", "/batch/infer/tumour"):
        assert requests.get(f"{reader.url}{path}", timeout=60).status_code in (404, 405)


def test_nothing_about_the_patient_is_in_the_log(server: RunningServer, phantom: PhantomTruth) -> None:
    log = server.log.read_text()
    identity = phantom.settings.patient
    assert identity.patient_id not in log and identity.name.split("^")[0] not in log


def _keys(reader: Reader) -> list[str]:
    return list(requests.get(f"{reader.url}/datastore/?output=all", timeout=60).json()["objects"])
