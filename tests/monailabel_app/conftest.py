"""Studies of a virtual patient, a small network, and a server on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from monai.networks.nets import SegResNet
from safetensors.torch import save_file

from imaging.catalog import read_catalog
from imaging.report_content import ModelIdentity, SoftwareIdentity
from imaging.role_selection import propose_roles, select_roles
from imaging.writers.identity import RunIdentity
from imaging.writers.segmentation import write_segmentation
from monailabel_app.configuration import read_configuration
from monailabel_app.main import build_server
from monailabel_app.tasks import Server
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
    """A bundle that has learned nothing yet: 8 filters, 6 mm, biased so that it finds no tumour."""
    folder = tmp_path_factory.mktemp("models") / "small"
    shutil.copytree(ROOT / "models" / "oncotwin_brats" / "configs", folder / "configs")
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["version"] = "0.0.1"
    metadata["oncotwin"] = {
        "head": "labels",
        "spacing_mm": 6.0,
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
def drawn_studies(phantom: PhantomTruth, studies: Path) -> Path:
    """The true tumour as a clinician's drawing at the first two visits."""
    software, model = (
        SoftwareIdentity("3D Slicer", "5", "A clinician", "", ""),
        ModelIdentity("by hand", "1", ""),
    )
    for number, visit in enumerate(read_catalog(studies).visits[:2]):
        series = select_roles(visit, required=frozenset()).chosen["t1ce"]
        assert series.geometry is not None
        write_segmentation(
            studies / f"drawing{number}.dcm",
            sources=series.datasets(),
            labels=phantom.visits[number].labels.resampled(series.geometry, interpolation="nearest"),
            kind="measured",
            identity=RunIdentity.of(software, model),
            software=software,
            model=model,
            date=visit.date,
            segmentation_source="dicom_seg",
        )
    return studies


@pytest.fixture(scope="module")
def configure(
    drawn_studies: Path, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Server]:
    """A server on the drawn studies with a coarse grid and further settings."""

    def make(**oncotwin: object) -> Server:
        folder = tmp_path_factory.mktemp("configuration")
        document = yaml.safe_load((ROOT / "app.yaml").read_text())
        document["oncotwin"]["twin"]["grid_mm"] = 4.0
        document["oncotwin"]["forecast"]["horizons_days"] = [40, 90]
        document["oncotwin"].update(oncotwin)
        (folder / "app.yaml").write_text(yaml.safe_dump(document))
        conf = {
            "state": str(folder / "state"),
            "models": str(small_bundle),
            "config": str(folder / "app.yaml"),
        }
        return build_server(read_configuration(str(drawn_studies), conf))

    return make


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
