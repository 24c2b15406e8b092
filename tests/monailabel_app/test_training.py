"""Training on drawings publishes a version that the application can use, and nothing worse than what there was."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import HTTPException

from imaging.catalog import read_catalog
from imaging.role_selection import select_roles
from monailabel_app.configuration import read_configuration
from monailabel_app.fine_tuning import DrawnCase, Plan, fine_tuned, mean_dice, network_inputs
from monailabel_app.main import build_server
from monailabel_app.refusal import Refusal
from monailabel_app.tasks import Server
from monailabel_app.training_cases import Taught, split
from monailabel_app.training_task import FineTuningTask, train
from segmentation.bundle import find_bundle, load_bundle
from segmentation.inference import TumourSegmenter
from tests.imaging.drawing_factory import write_segmentation
from tests.monailabel_app.served import start_server
from training.phantom import PhantomTruth


@pytest.fixture(scope="module")
def conf(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"state": str(tmp_path_factory.mktemp("trained") / "state"), "models": str(small_bundle)}


@pytest.fixture(scope="module")
def trained(
    conf: dict[str, str], drawn_studies: Path, slicer: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Two trainings that Slicer's client started on a server: one that can change nothing, one that can."""
    folder = tmp_path_factory.mktemp("training")
    arguments = ["--studies", str(drawn_studies), "--state", conf["state"], "--models", conf["models"]]
    server = start_server(folder / "server.log", arguments)
    client = slicer.MONAILabelClient(server.url, tmpdir=str(folder), client_id="slicer-anna")
    done = []
    for asked in ({"epochs": 1, "learning_rate": 1e-9}, {"epochs": 10, "learning_rate": 3e-3}):
        begun = client.train_start(
            "network", {"part": "all layers", **asked, "bundle_path": "/tmp", "gpus": "7", "device": "cuda:7"}
        )
        assert not {"bundle_path", "device"} & set(begun["request"]) and begun["request"].get("gpus") != "7"
        done.append(
            {**finished(client), "models": sorted(p.name for p in models_of(conf)), "info": client.info()}
        )
    server.stop()
    return done


def finished(client: Any) -> dict[str, Any]:
    until = time.monotonic() + 400
    while time.monotonic() < until:
        task: dict[str, Any] = client.train_status(False)
        if task["status"] in ("DONE", "ERROR"):
            return task
        time.sleep(1)
    raise TimeoutError("training did not end")


def models_of(conf: dict[str, str]) -> list[Path]:
    folder = Path(conf["state"]) / "models"
    return list(folder.iterdir()) if folder.is_dir() else []


@pytest.mark.slow
def test_what_is_not_better_is_not_published(trained: list[dict[str, Any]]) -> None:
    first = trained[0]
    assert first["status"] == "DONE", first["details"]
    assert first["models"] == [], "nothing is left of what was not published"
    assert first["info"]["train_stats"]["network"] == {}


@pytest.mark.slow
def test_a_better_model_is_published_as_a_version_that_the_application_takes(
    trained: list[dict[str, Any]], conf: dict[str, str], small_bundle: Path, drawn_studies: Path
) -> None:
    second = trained[1]
    assert second["status"] == "DONE", second["details"]
    assert second["models"] == ["current", "oncotwin-0.0.1+label.1"]
    measured = second["info"]["train_stats"]["network"]
    assert measured["dice"] > measured["dice_before"] and measured["best_metric"] == measured["dice"]
    assert measured["validation"] == "the last visit of the only patient"
    assert (measured["cases"], measured["validation_cases"]) == (1, 1)
    # One setting of the application: -m STATE/models/current
    description, _ = load_bundle(find_bundle(Path(conf["state"]) / "models" / "current"))
    assert description.version == "0.0.1+label.1"
    kept, _ = load_bundle(small_bundle)
    assert kept.version == "0.0.1", "the old one is kept"

    server = build_server(read_configuration(str(drawn_studies), conf))
    taught = Taught.of(server.models.metadata)
    assert len(taught.learned) == 2 and len(taught.checked) == 1, "the patient and one visit; the other visit"
    said = json.dumps(server.models.metadata)
    assert not any(
        server.studies.examination(key).catalog.patient.patient_id in said for key in server.studies.keys()
    )
    worse = train(server, Plan("all layers", epochs=1, learning_rate=1.0))
    assert worse["published"] is False and worse["dice"] <= worse["dice_before"] == measured["dice"]
    assert server.models.bundle.name == "oncotwin-0.0.1+label.1"


def test_the_last_layer_is_what_is_trained_unless_told_otherwise(configure: Callable[..., Server]) -> None:
    server = configure()
    assert FineTuningTask(server).config()["part"][0] == Plan.part == "last layer"
    shipped = load_bundle(server.models.bundle)[1].state_dict()
    answer = train(server, Plan())
    assert answer["published"] == (answer["dice"] > answer["dice_before"])
    if answer["published"]:
        made = load_bundle(server.models.bundle)[1].state_dict()
        assert {key.split(".")[0] for key in made if not torch.equal(made[key], shipped[key])} == {
            "conv_final"
        }
    with pytest.raises(HTTPException, match="last layer, all layers"):
        FineTuningTask(server)({"part": "half"}, None)


def test_one_drawing_is_too_few(configure: Callable[..., Server]) -> None:
    server = configure()
    key = min(server.studies.labelled())
    with pytest.raises(Refusal, match="at least two examinations"):
        split([server.studies.examination(key)])


@pytest.mark.slow  # trains for real; test_training_cases.py has the rule
def test_a_visit_without_flair_is_left_out_by_name_and_the_rest_is_trained_on(
    phantom: PhantomTruth, drawn_studies: Path, small_bundle: Path, tmp_path: Path
) -> None:
    """The last visit loses its FLAIR, without which the model cannot work; the other two teach and check."""
    shutil.copytree(drawn_studies, tmp_path / "studies")
    last = read_catalog(tmp_path / "studies").visits[2]
    chosen = select_roles(last, required=frozenset()).chosen
    shutil.rmtree(chosen["flair"].files[0].parent)
    shape = chosen["t1ce"].geometry.shape  # type: ignore[union-attr]
    segments = {"ED": np.ones(shape, bool), "NCR": np.zeros(shape, bool), "ET": np.zeros(shape, bool)}
    write_segmentation(tmp_path / "studies" / "third.dcm", list(chosen["t1ce"].files), segments)
    conf = {"state": str(tmp_path / "state"), "models": str(small_bundle)}
    server = build_server(read_configuration(str(tmp_path / "studies"), conf))
    answer = train(server, Plan())
    (key,) = answer["reasons"]
    assert key == phantom.visits[2].study_instance_uid and "FLAIR" in answer["reasons"][key]
    assert (answer["cases"], answer["validation_cases"], answer["left_out"]) == (1, 1, 1)
    # Where too few remain, the refusal says who was left out.
    (tmp_path / "studies" / "drawing0.dcm").unlink()
    with pytest.raises(Refusal, match="at least two examinations") as refused:
        train(server, Plan())
    assert f"Left out: 1 ({key}: " in refused.value.detail and "FLAIR" in refused.value.detail


def test_a_model_with_region_outputs_is_refused(configure: Callable[..., Server]) -> None:
    server = configure()
    metadata = server.models.bundle / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    changed = json.loads(metadata.read_text())
    changed["oncotwin"]["head"] = "regions"
    changed["network_data_format"]["outputs"]["pred"]["channel_def"] = {"0": "TC", "1": "WT", "2": "ET"}
    try:
        metadata.write_text(json.dumps(changed))
        with pytest.raises(HTTPException, match="label outputs"):
            train(server, Plan(epochs=1))
    finally:
        metadata.write_text(json.dumps(content))


def test_a_case_is_learned_from_with_the_intensities_that_inference_sees(
    configure: Callable[..., Server],
) -> None:
    """Bright skull around a dark brain: over the head, the brain would not have mean 0 and spread 1."""
    description, _ = load_bundle(configure().models.bundle)
    image = torch.randn(24, 24, 24, generator=torch.Generator().manual_seed(0)) + 100
    brain = torch.zeros(24, 24, 24, dtype=torch.bool)
    brain[6:18, 6:18, 6:18] = True
    image[~brain] += 400
    labels = torch.zeros(24, 24, 24, dtype=torch.uint8)
    seen = [
        network_inputs(description, DrawnCase({"t1ce": image}, labels, region))[1][brain]
        for region in (brain, None)
    ]
    assert abs(float(seen[0].mean())) < 0.1 and float(seen[0].std()) == pytest.approx(1, abs=0.2)
    assert float(seen[1].std()) < 0.1


def test_fine_tuning_leaves_the_network_it_began_with(configure: Callable[..., Server]) -> None:
    server = configure()
    description, network = load_bundle(server.models.bundle)
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(24, 24, 24, dtype=torch.uint8)
    labels[8:16, 8:16, 8:16] = 3
    images = {
        role: 100 + 80 * labels + 5 * torch.randn(24, 24, 24, generator=generator)
        for role in ("t1ce", "flair")
    }
    case = DrawnCase(images, labels)
    before = {key: value.clone() for key, value in network.state_dict().items()}

    def measure(candidate: torch.nn.Module) -> float:
        return mean_dice(
            TumourSegmenter(description, candidate, torch.device("cpu"), variants=1), [case], 0.01
        )

    tuned = fine_tuned(description, network, [case], Plan(epochs=5, learning_rate=1e-2), measure)
    assert measure(tuned) > measure(network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
