"""Training from drawings: a new version of the bundle, published only when it is better on drawings it has not seen."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from safetensors.torch import save_file
from torch import nn

from monailabel_app.fine_tuning import Part, Plan, fine_tuned, mean_dice
from monailabel_app.last_layer import with_last_layer_fitted
from monailabel_app.refusal import Refusal
from monailabel_app.tasks import Server
from monailabel_app.training_cases import Taught, split, usable_cases
from monailabel_app.upstream import Datastore, TrainTask
from segmentation.bundle import load_bundle
from segmentation.inference import TumourSegmenter

log = logging.getLogger("oncotwin.label")

_MOST_EPOCHS = 500
_LARGEST_RATE = 0.01


class FineTuningTask(TrainTask):
    """Fine-tunes the model in use on all drawings, in a process of its own.

    Parameters
    ----------
    server : Server
        What it works with.
    """

    def __init__(self, server: Server) -> None:
        super().__init__("Fine-tune on the drawings; published only if better on cases kept for validation")
        self._server = server

    def config(self) -> dict[str, Any]:
        return {"part": list(get_args(Part)), "epochs": Plan.epochs, "learning_rate": Plan.learning_rate}

    def stats(self) -> dict[str, Any]:
        """What Slicer shows: ``best_metric`` is the validation Dice of the model in use."""
        measured = self._server.models.validation
        return {"best_metric": measured["dice"], **measured} if measured else {}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; the answer says what was measured and whether it was published.

        Raises
        ------
        Refusal
            If too few drawings can be used, nobody is left to learn from or to check on, or the model's form cannot be
            trained here.
        """
        epochs = request.get("epochs", Plan.epochs)
        if not isinstance(epochs, int) or not 1 <= epochs <= _MOST_EPOCHS:
            raise Refusal(f"epochs must be a whole number from 1 to {_MOST_EPOCHS}.")
        rate = request.get("learning_rate", Plan.learning_rate)
        if not isinstance(rate, float) or not 0 < rate <= _LARGEST_RATE:
            raise Refusal(f"learning_rate must be a number above 0 and at most {_LARGEST_RATE}.")
        part = request.get("part", Plan.part)
        if part == list(get_args(Part)):  # a client that sends back what it was offered
            part = Plan.part
        if part not in get_args(Part):
            raise Refusal(f"part must be one of {', '.join(get_args(Part))}.")
        return train(self._server, Plan(part=part, epochs=epochs, learning_rate=rate))


def train(server: Server, plan: Plan) -> dict[str, Any]:
    """Fine-tune the model in use on all drawings and publish what came out if it is better.

    Returns
    -------
    dict
        ``published``, ``dice`` (of the new weights as stored), ``dice_before``, ``validation``, ``cases``,
        ``validation_cases``, ``left_out`` (how many drawings could not be used), ``reasons`` (for each of them, by id).

    Raises
    ------
    Refusal
        See :class:`FineTuningTask`.
    """
    bundle = server.models.bundle
    description, network = load_bundle(bundle)
    if description.head != "labels":
        raise Refusal(
            f"Model {description.name} has no label outputs; only models of that form are trained here."
        )
    usable, left_out = usable_cases(server, description.spacing_mm)
    taught = Taught.of(server.models.metadata)
    with _naming(left_out):
        parts = split([one.examination for one in usable], taught)
    lessons = [one.case for one in usable if one.examination in parts.learning]
    checks = [one.case for one in usable if one.examination in parts.checking]

    def measure(candidate: nn.Module) -> float:
        device = server.models.segmenter.device
        segmenter = TumourSegmenter(description, candidate, device, variants=1)
        return mean_dice(segmenter, checks, server.configuration.min_component_ml)

    log.info(
        "training on %d drawings, validating on %d, left out: %d", len(lessons), len(checks), len(left_out)
    )
    before = measure(network)
    found = (
        with_last_layer_fitted(description, network, lessons)
        if plan.part == "last layer"
        else fine_tuned(description, network, lessons, plan, measure)
    )
    measured = {
        "dice_before": round(before, 4),
        "validation": parts.said,
        "cases": len(lessons),
        "validation_cases": len(checks),
        "left_out": len(left_out),
    }
    candidate = _stored(server, bundle, found, measured, taught.after(parts.learning, parts.checking))
    # What counts is the bundle as it will be loaded, in half precision.
    after = measure(load_bundle(candidate)[1])
    if after <= before:
        shutil.rmtree(candidate)
        log.info("not published: validation Dice %.3f, before %.3f", after, before)
        return {"published": False, "dice": round(after, 4), **measured, "reasons": left_out}
    _note_dice(candidate, after)
    final = candidate.with_name(candidate.name.removeprefix(".part-"))
    candidate.rename(final)
    server.models.use(final)
    log.info("published %s: validation Dice %.3f, before %.3f", final.name, after, before)
    said = {"published": True, "bundle": final.name, "dice": round(after, 4)}
    return {**said, **measured, "reasons": left_out}


@contextmanager
def _naming(left_out: Mapping[str, str]) -> Iterator[None]:
    """Where too few cases remain, the refusal says which were left out and why."""
    try:
        yield
    except Refusal as refused:
        if not left_out:
            raise
        reasons = "; ".join(f"{key}: {reason}" for key, reason in left_out.items())
        raise Refusal(f"{refused.detail} Left out: {len(left_out)} ({reasons})") from refused


def _stored(
    server: Server, bundle: Path, network: nn.Module, measured: Mapping[str, Any], taught: Taught
) -> Path:
    """A copy of a bundle with other weights and the next version, under a name that nobody takes for a bundle yet."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    base = str(metadata["version"]).split("+label.")[0]
    server.models.folder.mkdir(parents=True, exist_ok=True)
    for left in server.models.folder.glob(".part-*"):
        shutil.rmtree(left)
    number = 1 + max(
        (int(path.name.rsplit(".", 1)[1]) for path in server.models.folder.glob("*+label.*")), default=0
    )
    version = f"{base}+label.{number}"
    target = server.models.folder / f".part-oncotwin-{version}"
    shutil.copytree(bundle, target)
    weights = target / "models" / "model.safetensors"
    for old in weights.parent.iterdir():
        old.unlink()
    half = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    save_file(half, weights)
    metadata["version"] = version
    ours = metadata.setdefault("oncotwin", {})
    ours["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    ours["label_validation"] = dict(measured)
    ours["label_cases"] = taught.as_metadata()
    _write_metadata(target, metadata)
    return target


def _note_dice(bundle: Path, dice: float) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    metadata["oncotwin"]["label_validation"]["dice"] = round(dice, 4)
    _write_metadata(bundle, metadata)


def _write_metadata(bundle: Path, metadata: Mapping[str, Any]) -> None:
    text = json.dumps(metadata, indent=4, ensure_ascii=False) + "\n"
    (bundle / "configs" / "metadata.json").write_text(text, encoding="utf-8")
