"""The bundle in the repository: complete, of the size promised, and in agreement with itself under symmetries."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from segmentation.bundle import ROLES, find_bundle, load_bundle
from segmentation.inference import TumourSegmenter
from segmentation.network import NETWORK_ARGUMENTS
from training.contrasts import random_contrast, render
from training.generator import grow_case
from training.losses import region_dice

MODELS = Path(__file__).parents[2] / "models"

# The required part of MONAI's metadata schema (meta_schema_20240725.json).
_CHANNELS = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "type": "object",
        "required": [
            "type",
            "num_channels",
            "spatial_shape",
            "dtype",
            "value_range",
            "is_patch_data",
            "channel_def",
        ],
    },
}
_SCHEMA = {
    "type": "object",
    "required": [
        "schema",
        "version",
        "changelog",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "required_packages_version",
        "task",
        "description",
        "authors",
        "copyright",
        "network_data_format",
    ],
    "properties": {
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "changelog": {"type": "object", "additionalProperties": {"type": "string"}},
        "required_packages_version": {"type": "object", "additionalProperties": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": _CHANNELS, "outputs": _CHANNELS},
        },
    },
}


def test_bundle_is_complete() -> None:
    bundle = find_bundle(MODELS)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    jsonschema.validate(metadata, _SCHEMA)
    assert metadata["version"] in metadata["changelog"]
    definition = json.loads((bundle / "configs" / "inference.json").read_text())["network_def"]
    assert {key: value for key, value in definition.items() if key != "_target_"} == NETWORK_ARGUMENTS
    assert (bundle / "LICENSE").is_file() and (bundle / "docs" / "README.md").is_file()
    assert (bundle / "models" / "model.safetensors").stat().st_size < 10e6
    description, _ = load_bundle(bundle)
    assert description.input_roles == ROLES and description.spacing_mm == 2.0


@pytest.fixture(scope="module")
def simulated() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A held-out simulated head with a large tumour, four contrasts."""
    for seed in range(9_100_000, 9_100_020):
        case = grow_case(seed)
        if (case.labels > 0).sum() > 4000 and (case.labels == 3).sum() > 500:
            rng = np.random.default_rng(11)
            images = render(
                rng, random_contrast(rng), case.head.tissue, case.head.outer, case.labels, case.oedema
            )
            return dict(zip(ROLES, images, strict=True)), case.labels
    raise AssertionError("no large tumour among twenty seeds")


def test_the_answer_keeps_under_mirroring_and_scaling(
    simulated: tuple[dict[str, torch.Tensor], torch.Tensor],
) -> None:
    images, truth = simulated
    segmenter = TumourSegmenter.load(find_bundle(MODELS), device="cpu", mirror=False)
    plain = segmenter(images).labels
    mirrored = segmenter({role: image.flip(0) for role, image in images.items()}).labels.flip(0)
    doubled = segmenter({role: 2 * image for role, image in images.items()}).labels
    assert region_dice(plain, truth)["WT"] > 0.5
    assert region_dice(mirrored, plain)["WT"] > 0.85
    assert region_dice(doubled, plain)["WT"] > 0.99
