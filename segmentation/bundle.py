"""MONAI bundles as models: what they say about themselves, and their network with its weights.

Two forms load through the same code: ours (softmax over background, NCR, ED, ET) and that of the public
``brats_mri_segmentation`` bundle (sigmoid regions TC, WT, ET; channels T1c, T1, T2, FLAIR; 1 mm).
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from monai.bundle import ConfigParser
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segmentation.errors import ModelError

ROLES = ("t1", "t1ce", "t2", "flair")
REGIONS = ("TC", "WT", "ET")

_ROLE_NAMES = {
    "t1": "t1",
    "t1n": "t1",
    "t1c": "t1ce",
    "t1ce": "t1ce",
    "t1gd": "t1ce",
    "t2": "t2",
    "t2w": "t2",
}
_ROLE_NAMES |= {"flair": "flair", "t2f": "flair", "t2flair": "flair"}
_REGION_NAMES = {
    "tumorcore": "TC",
    "tc": "TC",
    "wholetumor": "WT",
    "wt": "WT",
    "enhancingtumor": "ET",
    "et": "ET",
}
_WEIGHTS = ("model.safetensors", "model.pt")


@dataclass(frozen=True)
class ModelDescription:
    """What a bundle says about its model.

    Attributes
    ----------
    name, version
        As in ``configs/metadata.json``.
    sha256
        Digest of the weights file.
    input_roles
        Contrasts in channel order, for instance ("t1", "t1ce", "t2", "flair").
    head
        "labels": softmax over background, NCR, ED, ET. "regions": one sigmoid for each of `region_order`.
    region_order
        Regions in channel order for "regions", empty for "labels".
    spacing_mm
        Isotropic grid that the network expects, in mm.
    required_roles
        Contrasts the model cannot do without.
    intended_use
        One sentence from the bundle.
    normalisation
        "head": `segmentation.transforms.normalise`. "nonzero": z-score over non-zero voxels, as public bundles do.
    brain_output
        Whether a fifth output channel gives the brain mask by a sigmoid of its own ("labels" only).
    largest_uncertainty
        Mean entropy that 95 of 100 cases of the model's own family stay below; None: not known.
    least_agreement
        Dice for the whole tumour between the first of several averaged answers and the others that 95 of 100 cases of
        the model's own family exceed; None: not known.
    brain_volume_ml
        Range of the brain's volume in the model's family, mL; None: not known.
    patient_model
        Whether coil fields are divided out and the answer is refined by the patient's own intensities
        (`segmentation.coil_field`, `segmentation.patient_model`).
    unlikeness
        Shares of a tumour's voxels that are unlike the patient's healthy tissue: a part below the first is left out,
        a tumour below the second is doubtful; None: not known.
    distrusted_roles
        Contrasts that half of the averaged answers do without where all others are given, since the network learnt
        them from simulation that is unlike some patients.
    """

    name: str
    version: str
    sha256: str
    input_roles: tuple[str, ...]
    head: Literal["labels", "regions"]
    region_order: tuple[str, ...]
    spacing_mm: float
    required_roles: frozenset[str]
    intended_use: str
    normalisation: Literal["head", "nonzero"] = "nonzero"
    brain_output: bool = False
    largest_uncertainty: float | None = None
    least_agreement: float | None = None
    brain_volume_ml: tuple[float, float] | None = None
    patient_model: bool = False
    unlikeness: tuple[float, float] | None = None
    distrusted_roles: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if sorted(self.input_roles) != sorted(set(self.input_roles)) or not set(self.input_roles) <= set(
            ROLES
        ):
            raise ModelError(
                f"bundle {self.name}: input channels {self.input_roles} are not distinct roles of {ROLES}."
            )
        if self.head not in ("labels", "regions") or self.normalisation not in ("head", "nonzero"):
            raise ModelError(
                f"bundle {self.name}: unknown head {self.head!r} or normalisation {self.normalisation!r}."
            )
        if self.head == "regions" and sorted(self.region_order) != sorted(REGIONS):
            raise ModelError(
                f"bundle {self.name}: output channels {self.region_order} are not TC, WT, ET in some order."
            )
        if not 0.2 <= self.spacing_mm <= 10:
            raise ModelError(
                f"bundle {self.name}: spacing_mm {self.spacing_mm} is not a voxel size between 0.2 and 10 mm."
            )
        if not self.required_roles <= set(self.input_roles):
            raise ModelError(
                f"bundle {self.name}: required roles {sorted(self.required_roles)} are not all inputs."
            )
        if not self.distrusted_roles <= set(self.input_roles) - self.required_roles:
            raise ModelError(
                f"bundle {self.name}: distrusted roles {sorted(self.distrusted_roles)} are not inputs that it can do "
                f"without."
            )

    @property
    def channels_out(self) -> int:
        """Number of output channels of the network."""
        return (5 if self.brain_output else 4) if self.head == "labels" else 3


def find_bundle(models: Path) -> Path:
    """The bundle that a models path means.

    Parameters
    ----------
    models
        A bundle, or a folder that holds exactly one.

    Raises
    ------
    ModelError
        If there is none or more than one.
    """
    if not models.is_dir():
        raise ModelError(f"models folder {models} does not exist; give a MONAI bundle or a folder with one.")
    if _is_bundle(models):
        return models
    found = sorted(folder for folder in models.iterdir() if folder.is_dir() and _is_bundle(folder))
    if not found:
        raise ModelError(
            f"{models} holds no MONAI bundle: a folder with configs/metadata.json and models/ is expected."
        )
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found)
        raise ModelError(f"{models} holds {len(found)} bundles ({names}); give the path of the one to use.")
    return found[0]


def _is_bundle(folder: Path) -> bool:
    return (folder / "configs" / "metadata.json").is_file()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); the bundle is incomplete.") from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold a JSON object.")
    return content


def _channels(
    metadata: Mapping[str, Any], side: str, names: Mapping[str, str], bundle: str
) -> tuple[str, ...]:
    """Channel definition of the first input or output, in channel order, in our names."""
    try:
        definition = next(iter(metadata["network_data_format"][side].values()))["channel_def"]
        written = [str(definition[str(number)]) for number in range(len(definition))]
    except (KeyError, StopIteration, AttributeError, TypeError) as error:
        raise ModelError(
            f"bundle {bundle}: network_data_format.{side} has no channel_def in metadata.json."
        ) from error
    found = [names.get("".join(c for c in name.lower() if c.isalnum())) for name in written]
    for name, role in zip(written, found, strict=True):
        if role is None:
            raise ModelError(f"bundle {bundle}: {side} channel {name!r} in metadata.json is not known here.")
    return tuple(role for role in found if role is not None)


def _describe(bundle: Path, metadata: Mapping[str, Any], sha256: str) -> ModelDescription:
    ours = metadata.get("oncotwin", {})
    family = ours.get("family", {})
    name = str(metadata.get("name", bundle.name))
    head = ours.get("head", "regions")
    input_roles = _channels(metadata, "inputs", _ROLE_NAMES, name)
    return ModelDescription(
        name=name,
        version=str(metadata.get("version", "unknown")),
        sha256=sha256,
        input_roles=input_roles,
        head=head,
        region_order=_channels(metadata, "outputs", _REGION_NAMES, name) if head == "regions" else (),
        spacing_mm=float(ours.get("spacing_mm", 1.0)),
        required_roles=frozenset(ours.get("required_roles", input_roles)),
        intended_use=str(metadata.get("intended_use", "not stated")),
        normalisation=ours.get("normalisation", "nonzero"),
        brain_output=bool(ours.get("brain_output", False)),
        largest_uncertainty=family.get("largest_uncertainty"),
        least_agreement=family.get("least_agreement"),
        brain_volume_ml=tuple(family["brain_volume_ml"]) if "brain_volume_ml" in family else None,
        patient_model=bool(ours.get("patient_model", False)),
        unlikeness=tuple(family["unlikeness"]) if "unlikeness" in family else None,
        distrusted_roles=frozenset(ours.get("distrusted_roles", ())),
    )


def _network(bundle: Path) -> nn.Module:
    """The network of ``configs/inference.json``, without weights; only MONAI's own networks are instantiated."""
    path = bundle / "configs" / "inference.json"
    definition = _read_json(path).get("network_def")
    if not isinstance(definition, dict) or "_target_" not in definition:
        raise ModelError(f"{path} has no network_def with a _target_.")
    target = str(definition["_target_"])
    if "$" in json.dumps(definition) or ("." in target and not target.startswith("monai.networks.nets.")):
        raise ModelError(
            f"{path}: network_def may only name a network of monai.networks.nets with plain arguments."
        )
    if "." not in target:
        definition = {**definition, "_target_": f"monai.networks.nets.{target}"}
    parser = ConfigParser({"network_def": definition})
    try:
        network = parser.get_parsed_content("network_def")
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError, ModuleNotFoundError) as error:
        raise ModelError(
            f"{path}: network_def cannot be built by this MONAI: {_first_line(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{path}: network_def does not give a network.")
    return network


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".") + "."


def _weights_file(bundle: Path) -> Path:
    for name in _WEIGHTS:
        if (bundle / "models" / name).is_file():
            return bundle / "models" / name
    raise ModelError(
        f"bundle {bundle} has no weights: {' or '.join(_WEIGHTS)} is expected in its models folder."
    )


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise ModelError(
            f"weights file {path} is damaged or of another kind: fetch the bundle again."
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ModelError(f"weights file {path} does not hold a state dictionary of tensors.")
    return {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}


def load_bundle(bundle: Path) -> tuple[ModelDescription, nn.Module]:
    """Description and network of a bundle, weights in float32, in evaluation mode.

    Raises
    ------
    ModelError
        If a part is missing, damaged, contradicts another, or is nothing this code may run.
    """
    metadata = _read_json(bundle / "configs" / "metadata.json")
    weights_file = _weights_file(bundle)
    try:
        sha256 = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"weights file {weights_file} cannot be read ({error.strerror}).") from error
    description = _describe(bundle, metadata, sha256)
    expected = metadata.get("oncotwin", {}).get("weights_sha256")
    if expected is not None and expected != sha256:
        raise ModelError(
            f"weights file {weights_file} is not the one its metadata.json names (SHA-256): fetch it again."
        )
    network = _network(bundle)
    try:
        network.load_state_dict(_read_weights(weights_file))
    except RuntimeError as error:
        raise ModelError(
            f"weights file {weights_file} does not fit the network of configs/inference.json."
        ) from error
    return description, network.eval()
