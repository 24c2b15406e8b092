"""Studies of a virtual patient, a small network, and a server on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from monai.networks.nets import SegResNet
from safetensors.torch import save_file

from imaging.catalog import read_catalog
from imaging.role_selection import propose_roles
from tests.monailabel_app.served import ROOT, RunningServer, start_server
from tests.monailabel_app.slicer import slicer_client
from training.phantom import PhantomSettings, PhantomTruth, make_phantom

NETWORK = {
    "spatial_dims": 3,
    "init_filters": 8,
    "in_channels": 4,
    "out_channels": 4,
    "blocks_down": [1, 2, 2, 4],
    "blocks_up": [1, 1, 1],
}


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> PhantomTruth:
    """Three visits of a growing tumour; T1CE and FLAIR only, so that little needs to be registered."""
    settings = PhantomSettings(preset="small", visit_days=(0, 60, 100), distractors=False)
    truth = make_phantom(tmp_path_factory.mktemp("phantom"), settings)
    for visit in read_catalog(truth.dicom_folder).visits:
        for role, series in propose_roles(visit)[0].chosen.items():
            if role in ("t1", "t2"):
                shutil.rmtree(series.files[0].parent)
    return truth


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that has learned nothing yet: 8 filters, 4 mm, biased so that it finds no tumour."""
    folder = tmp_path_factory.mktemp("models") / "small"
    shutil.copytree(ROOT / "models" / "oncotwin_brats" / "configs", folder / "configs")
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["version"] = "0.0.1"
    metadata["oncotwin"] = {
        "head": "labels",
        "spacing_mm": 4.0,
        "required_roles": ["t1ce", "flair"],
        "normalisation": "head",
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "configs" / "inference.json").write_text(
        json.dumps({"network_def": {"_target_": "SegResNet", **NETWORK}})
    )
    torch.manual_seed(0)
    state = SegResNet(**NETWORK).state_dict()
    state["conv_final.2.conv.bias"] = torch.tensor([5.0, 0.0, 0.0, 0.0])
    (folder / "models").mkdir()
    save_file(
        {key: value.half().contiguous() for key, value in state.items()},
        folder / "models" / "model.safetensors",
    )
    return folder


@pytest.fixture(scope="module")
def studies(phantom: PhantomTruth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the patient's studies that a module may draw on."""
    folder = tmp_path_factory.mktemp("studies") / "patient"
    shutil.copytree(phantom.dicom_folder, folder)
    return folder


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's own folder."""
    return tmp_path_factory.mktemp("state") / "state"


@pytest.fixture(scope="module")
def server(
    studies: Path, state: Path, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server on the studies."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    arguments = ["--studies", str(studies), "--state", str(state), "--models", str(small_bundle)]
    running = start_server(log, arguments)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def slicer() -> ModuleType:
    """The module of Slicer's client."""
    return slicer_client()
