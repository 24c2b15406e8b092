"""Small bundles with random weights, in our form and in that of the public brats_mri_segmentation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import SegResNet
from safetensors.torch import save_file

SMALL = {
    "spatial_dims": 3,
    "init_filters": 8,
    "in_channels": 4,
    "out_channels": 4,
    "blocks_down": [1, 2, 2, 4],
    "blocks_up": [1, 1, 1],
}
PUBLIC = {
    "blocks_down": [1, 2, 2, 4],
    "blocks_up": [1, 1, 1],
    "init_filters": 16,
    "in_channels": 4,
    "out_channels": 3,
    "dropout_prob": 0.2,
}


def _metadata(inputs: list[str], outputs: list[str], extra: dict[str, Any]) -> dict[str, Any]:
    def channels(names: list[str]) -> dict[str, str]:
        return {str(number): name for number, name in enumerate(names)}

    return {
        "name": "test bundle",
        "version": "1.2.3",
        "intended_use": "tests",
        "network_data_format": {
            "inputs": {"image": {"channel_def": channels(inputs)}},
            "outputs": {"pred": {"channel_def": channels(outputs)}},
        },
        **extra,
    }


def write_bundle(folder: Path, metadata: dict[str, Any], definition: dict[str, Any]) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    inference = {"network_def": {"_target_": "SegResNet", **definition}, "network": "$@network_def.to('cpu')"}
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))
    return folder


def random_network(definition: dict[str, Any], seed: int = 0) -> SegResNet:
    torch.manual_seed(seed)
    return SegResNet(**definition)


@pytest.fixture
def make_labels_bundle(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "labels", **ours: Any) -> Path:
        extra = {"oncotwin": {"head": "labels", "spacing_mm": 2.0, "normalisation": "head", **ours}}
        metadata = _metadata(["T1", "T1c", "T2", "FLAIR"], ["background", "NCR", "ED", "ET"], extra)
        folder = write_bundle(tmp_path / name, metadata, SMALL)
        save_file(random_network(SMALL).half().state_dict(), folder / "models" / "model.safetensors")
        return folder

    return make


@pytest.fixture
def public_bundle(tmp_path: Path) -> Path:
    """As the public bundle: T1c first, three sigmoid outputs TC, WT, ET, a .pt state dictionary."""
    metadata = _metadata(
        ["T1c", "T1", "T2", "FLAIR"], ["Tumor core", "Whole tumor", "Enhancing tumor"], {"version": "0.5.3"}
    )
    folder = write_bundle(tmp_path / "public", metadata, PUBLIC)
    torch.save(random_network(PUBLIC).state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.fixture
def images() -> dict[str, torch.Tensor]:
    """Four random contrasts of a ball on exact zero background, 40 x 36 x 30 voxels."""
    generator = torch.Generator().manual_seed(1)
    axes = [torch.linspace(-1, 1, n) for n in (40, 36, 30)]
    inside = sum(g**2 for g in torch.meshgrid(*axes, indexing="ij")) < 0.8
    return {
        role: (50 + 20 * torch.randn(40, 36, 30, generator=generator)).abs() * inside
        for role in ("t1", "t1ce", "t2", "flair")
    }
