"""Training on drawings publishes a version that the application can use, and nothing worse than what there was."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from fastapi import HTTPException

from monailabel_app.fine_tuning import DrawnCase, Plan, fine_tuned, mean_dice
from monailabel_app.tasks import Server
from monailabel_app.training_cases import split
from monailabel_app.training_task import train
from segmentation.bundle import find_bundle, load_bundle
from segmentation.inference import TumourSegmenter


def test_a_better_model_is_published_as_a_version_and_a_worse_one_is_not(
    configure: Callable[..., Server],
) -> None:
    server = configure()
    shipped = server.models.bundle
    before = shipped.joinpath("models", "model.safetensors").read_bytes()

    unchanged = train(server, Plan(epochs=1, learning_rate=0.0))
    assert unchanged["published"] is False and server.models.bundle == shipped
    assert not list(server.models.folder.iterdir()), "nothing is left of what was not published"

    done = train(server, Plan(epochs=10, learning_rate=3e-3))
    assert done["published"] is True and done["dice"] > done["dice_before"]
    assert server.models.bundle.name == done["bundle"] == "oncotwin-0.0.1+label.1"
    assert server.models.segmenter.description.version == "0.0.1+label.1", "the server uses it at once"
    # One setting of the application: -m STATE/models/current
    description, _ = load_bundle(find_bundle(server.models.folder / "current"))
    assert description.version == "0.0.1+label.1"
    assert server.models.validation == {
        "dice": done["dice"],
        "dice_before": done["dice_before"],
        "validation": "the last visit of the only patient",
        "cases": 1,
        "validation_cases": 1,
    }
    assert shipped.joinpath("models", "model.safetensors").read_bytes() == before, "the old one is kept"

    again = train(server, Plan(epochs=1, learning_rate=1.0))
    assert again["published"] is False and server.models.bundle.name == done["bundle"]


def test_one_drawing_is_too_few(configure: Callable[..., Server]) -> None:
    server = configure()
    key = min(server.studies.labelled())
    learning, checking, _ = split([server.studies.examination(key)])
    assert learning == [] and len(checking) == 1


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
