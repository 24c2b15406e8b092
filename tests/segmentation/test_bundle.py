"""Bundles of both forms load; damaged, contradictory or executable ones are refused with a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from segmentation.bundle import find_bundle, load_bundle
from segmentation.errors import ModelError
from tests.segmentation.conftest import PUBLIC, random_network


def test_public_form_is_described(public_bundle: Path) -> None:
    description, network = load_bundle(public_bundle)
    assert description.input_roles == ("t1ce", "t1", "t2", "flair")
    assert description.head == "regions"
    assert description.region_order == ("TC", "WT", "ET")
    assert description.spacing_mm == 1.0
    assert description.required_roles == {"t1", "t1ce", "t2", "flair"}
    assert description.normalisation == "nonzero"
    assert description.version == "0.5.3"
    for mine, theirs in zip(network.parameters(), random_network(PUBLIC).parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert not network.training


def test_labels_form_is_described(make_labels_bundle: Callable[..., Path]) -> None:
    description, network = load_bundle(make_labels_bundle(required_roles=["t1ce", "flair"]))
    assert description.input_roles == ("t1", "t1ce", "t2", "flair")
    assert description.head == "labels" and description.region_order == ()
    assert description.required_roles == {"t1ce", "flair"}
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_find_bundle_takes_a_bundle_or_a_folder_of_one(make_labels_bundle: Callable[..., Path]) -> None:
    bundle = make_labels_bundle("only")
    assert find_bundle(bundle) == bundle
    assert find_bundle(bundle.parent) == bundle
    make_labels_bundle("second")
    with pytest.raises(ModelError, match=r"2 bundles \(only, second\)"):
        find_bundle(bundle.parent)


def test_find_bundle_refuses_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no MONAI bundle"):
        find_bundle(tmp_path)
    with pytest.raises(ModelError, match="does not exist"):
        find_bundle(tmp_path / "absent")


def test_missing_weights(public_bundle: Path) -> None:
    (public_bundle / "models" / "model.pt").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        load_bundle(public_bundle)


@pytest.mark.parametrize("keep", [0, 1000, 100_000])
def test_truncated_weights(public_bundle: Path, make_labels_bundle: Callable[..., Path], keep: int) -> None:
    for path in (
        public_bundle / "models" / "model.pt",
        make_labels_bundle() / "models" / "model.safetensors",
    ):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ModelError, match="damaged"):
            load_bundle(path.parent.parent)


def test_weights_that_run_code_are_refused(public_bundle: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("ran",)

    torch.save({"a": Evil()}, public_bundle / "models" / "model.pt")
    with pytest.raises(ModelError, match="damaged or of another kind"):
        load_bundle(public_bundle)


def test_weights_of_another_network(public_bundle: Path) -> None:
    torch.save(
        random_network({**PUBLIC, "out_channels": 4}).state_dict(), public_bundle / "models" / "model.pt"
    )
    with pytest.raises(ModelError, match="does not fit"):
        load_bundle(public_bundle)


def test_swapped_weights_are_noticed_by_their_digest(make_labels_bundle: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="SHA-256"):
        load_bundle(make_labels_bundle(weights_sha256="0" * 64))


@pytest.mark.parametrize(
    "definition",
    [
        {"_target_": "os.system", "command": "true"},
        {"_target_": "SegResNet", "in_channels": "$__import__('os').getpid()"},
        {"_target_": "monai.networks.nets.NoSuchNetwork"},
        {"_target_": "SegResNet", "no_such_argument": 1},
        {"blocks_down": [1]},
    ],
)
def test_network_definitions_that_are_not_plain(public_bundle: Path, definition: dict[str, object]) -> None:
    (public_bundle / "configs" / "inference.json").write_text(json.dumps({"network_def": definition}))
    with pytest.raises(ModelError, match="network_def"):
        load_bundle(public_bundle)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"network_data_format": {}}, "channel_def"),
        ({"oncotwin": {"head": "labels", "spacing_mm": 0}}, "spacing_mm"),
        ({"oncotwin": {"head": "labels", "required_roles": ["pet"]}}, "required roles"),
        ({"oncotwin": {"head": "heatmap"}}, "unknown head"),
        ({"oncotwin": {"normalisation": "whatever"}}, "normalisation"),
    ],
)
def test_contradictory_metadata(public_bundle: Path, change: dict[str, object], sentence: str) -> None:
    path = public_bundle / "configs" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=sentence):
        load_bundle(public_bundle)


def test_metadata_that_is_not_json(public_bundle: Path) -> None:
    (public_bundle / "configs" / "metadata.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        load_bundle(public_bundle)


def test_patient_model_is_for_bundles_that_ask_for_it(
    public_bundle: Path, make_labels_bundle: Callable[..., Path]
) -> None:
    public, _ = load_bundle(public_bundle)
    assert not public.patient_model and public.unlikeness is None
    ours, _ = load_bundle(make_labels_bundle(patient_model=True, family={"unlikeness": [0.4, 0.7]}))
    assert ours.patient_model and ours.unlikeness == (0.4, 0.7)


def test_distrusted_roles_are_inputs_the_model_can_do_without(
    make_labels_bundle: Callable[..., Path],
) -> None:
    trusting, _ = load_bundle(make_labels_bundle())
    assert trusting.distrusted_roles == frozenset()
    required = ["t1ce", "flair"]
    ours, _ = load_bundle(make_labels_bundle("ours", required_roles=required, distrusted_roles=["t1"]))
    assert ours.distrusted_roles == {"t1"}
    with pytest.raises(ModelError, match="distrusted roles"):
        load_bundle(make_labels_bundle("needed", required_roles=required, distrusted_roles=["t1ce"]))
