"""A clinician corrects cases from 3D Slicer: Slicer's own client against a server in a process of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pydicom
import pytest
import requests

from imaging.catalog import read_catalog
from imaging.preparation import prepare_visits
from imaging.role_selection import select_roles
from tests.imaging.writers.validators import dciodvfy_errors
from tests.monailabel_app.reader import INFER, Reader
from tests.monailabel_app.served import RunningServer
from tests.monailabel_app.slicer import (
    export_scribbles,
    export_segments,
    import_answer,
    load_volume,
    ohif_segments,
)
from training.phantom import PhantomTruth


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

    (prepared,) = prepare_visits([(visit, {"t1ce": chosen["t1ce"]})])
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
            assert info["name"].startswith(f"{series.study_uid}-")


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


def test_other_web_pages_cannot_drive_the_server(reader: Reader) -> None:
    answer = requests.get(f"{reader.url}/info/", headers={"Origin": "http://elsewhere.example"}, timeout=60)
    assert "access-control-allow-origin" not in answer.headers
    asked = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"}
    assert requests.options(f"{reader.url}/infer/tumour", headers=asked, timeout=60).status_code == 405


def test_nothing_about_the_patient_is_in_the_log(server: RunningServer, phantom: PhantomTruth) -> None:
    log = server.log.read_text()
    identity = phantom.settings.patient
    assert identity.patient_id not in log and identity.name.split("^")[0] not in log


def _keys(reader: Reader) -> list[str]:
    return list(requests.get(f"{reader.url}/datastore/?output=all", timeout=60).json()["objects"])


def test_clicks_refine_the_drawing_that_is_there(
    reader: Reader, phantom: PhantomTruth, studies: Path
) -> None:
    """Exclude, then include, as the panel for clicks sends them: in voxels of the volume that was downloaded."""
    key, volume = reader.open("finished")
    _, image = load_volume(volume)
    truth = true_segments(phantom, studies, key)
    reader.submit(key, volume, truth)
    spacing = np.array(image.GetSpacing())
    voxel = np.argwhere(truth["ET"])[0]
    far = np.linalg.norm((np.moveaxis(np.indices(truth["ET"].shape), 0, -1) - voxel) * spacing, axis=-1) > 19
    file, said = reader.run("clicks", key, label="ET", foreground=[], background=[voxel.tolist()])
    (name,) = said["label_names"]
    excluded = import_answer(file, said, ["ET"])["ET"]
    assert name == "ET" and not excluded[tuple(voxel)]
    assert excluded.sum() < truth["ET"].sum() and np.array_equal(excluded[far], truth["ET"][far])
    file, said = reader.run("clicks", key, label="ET", foreground=[], background=[])
    assert np.array_equal(import_answer(file, said, ["ET"])["ET"], truth["ET"]), (
        "a click taken back is undone"
    )
    for wrong in (
        {"label": "background"},
        {"label": "ET", "foreground": [[999, 0, 0]]},
        {"label": "ET", "foreground": 3},
    ):
        with pytest.raises(reader.failure, match="400"):
            reader.run("clicks", key, **wrong)


def test_scribbles_keep_manual_edits(reader: Reader, phantom: PhantomTruth, studies: Path) -> None:
    key, volume = reader.open("finished")
    truth = true_segments(phantom, studies, key)
    by_hand = np.zeros_like(truth["ED"])
    by_hand[2:5, 2:5, 2:5] = True
    shown = {**truth, "ED": truth["ED"] | by_hand}
    inside = np.zeros_like(by_hand)
    inside[tuple(np.argwhere(truth["ET"])[0])] = True
    outside = np.zeros_like(by_hand)
    outside[tuple(np.argwhere(truth["ED"])[-1])] = True
    file, info = export_scribbles(
        {**shown, "background_scribbles": outside, "foreground_scribbles": inside},
        volume,
        reader.folder / "scribbles.nii.gz",
    )
    answer, said = reader.client.infer(
        "scribbles", key, {**INFER, "label_info": info, "selected_label_name": "ED", "roi": []}, str(file)
    )
    edema = import_answer(Path(answer), said, ["ED"])["ED"]
    assert edema[by_hand].all(), "what was painted by hand far away is still there"
    assert edema[inside].all() and not edema[outside].any()
    with pytest.raises(reader.failure, match="no scribbles"):
        empty, info = export_scribbles(shown, volume, reader.folder / "none.nii.gz")
        reader.client.infer("scribbles", key, {"label_info": info, "selected_label_name": "ED"}, str(empty))


def test_uncertainty_comes_as_bands_that_cannot_be_submitted(reader: Reader) -> None:
    key, volume = reader.open("finished")
    file, said = reader.run("uncertainty", key)
    bands = import_answer(file, said)
    assert list(bands) == ["UNSURE somewhat", "UNSURE very"]
    assert 0 <= said["uncertainty"] <= 1
    bands["UNSURE very"][5:9, 5:9, 5:9] = True
    with pytest.raises(reader.failure, match="remove that segment"):
        reader.submit(key, volume, bands)


def test_stopping_the_server_stops_training_and_leaves_nothing_half_written(
    reader: Reader, server: RunningServer, studies: Path, state: Path
) -> None:
    """Runs last: the module's server is gone afterwards."""
    reader.client.train_start("network", {"epochs": 400})
    running = psutil.Process(server.process.pid)
    until = time.monotonic() + 60
    while not running.children() and time.monotonic() < until:
        time.sleep(0.2)
    children = running.children(recursive=True)
    assert children, "training runs in a process of its own"
    assert server.stop() == 0
    assert not [child for child in children if child.is_running() and child.status() != "zombie"]
    left = [path for folder in (studies, state) for path in folder.rglob("*") if ".part" in path.name]
    assert left == []
    json.loads((state / "opened.json").read_text())
