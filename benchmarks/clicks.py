"""Interactive quality with a simulated user: ``python -m benchmarks.clicks``.

The user clicks in the middle of the largest error of one region, ten times at most: inside what is missing, or outside
what is too much. Errors are simulated on the truth of virtual patients (a missed lobe, a leak, a whole region given to
another class), and the network's own answer is corrected in the same way. The constants of the local edit were chosen
on the patients ``TUNED_ON``; they are kept apart from the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from imaging.catalog import read_catalog
from imaging.geometry import Geometry, Volume
from imaging.labels import TumourLabel
from imaging.preparation import network_images, prepare_visits
from imaging.role_selection import select_roles
from monailabel_app.cases import labels_of
from monailabel_app.click_task import replaced
from monailabel_app.local_edit import Evidence, edited
from segmentation.bundle import find_bundle
from segmentation.inference import TumourSegmenter
from training.phantom import PhantomSettings, make_phantom

TUNED_ON = (101,)
OTHERS = (201, 202)
ERRORS = ("missed lobe", "leak", "wrong class", "network")
_LABELS = (TumourLabel.NCR, TumourLabel.ED, TumourLabel.ET)
_TAKEN_FOR = {
    TumourLabel.NCR: TumourLabel.ED,
    TumourLabel.ED: TumourLabel.NCR,
    TumourLabel.ET: TumourLabel.NCR,
}
_CLICKS = 10
_GOOD = 0.90
_LOBE_MM, _LEAK_MM = 12.0, 10.0
_SMALLEST_ERROR = 5  # voxels; nobody clicks on less


@dataclass(frozen=True, eq=False)
class Patient:
    """What a simulated user works on."""

    grid: Geometry
    truth: np.ndarray
    network: np.ndarray
    evidence: Evidence


@dataclass(frozen=True)
class Session:
    """One error corrected by clicks: Dice before the first and after each, and CPU-seconds
    for each.

    ``network`` is the Dice of the same region in the network's answer, without clicks.
    """

    seed: int
    error: str
    label: str
    network: float
    dice: tuple[float, ...]
    seconds: tuple[float, ...]


def make_patient(seed: int, models: Path, preset: str) -> Patient:
    """A virtual patient with one visit, segmented by the network."""
    with tempfile.TemporaryDirectory() as folder:
        settings = PhantomSettings(
            seed=seed,
            preset=preset,
            visit_days=(0,),
            distractors=False,
            first_visit_core_ml=6.0 + 7 * (seed % 4),
        )
        truth = make_phantom(Path(folder), settings)
        visit = read_catalog(truth.dicom_folder).visits[0]
        (prepared,) = prepare_visits([(visit, select_roles(visit, required=frozenset()).chosen)])
    segmenter = TumourSegmenter.load(find_bundle(models))
    images = network_images(prepared, segmenter.description.spacing_mm)
    result = segmenter({role: torch.from_numpy(image.array) for role, image in images.items()})
    grid = next(iter(images.values())).geometry
    probabilities = [Volume(channel.numpy(), grid) for channel in result.probabilities]
    target = prepared.reference.geometry
    return Patient(
        target,
        truth.visits[0].labels.resampled(target, interpolation="nearest").array,
        labels_of(segmenter, result, grid, prepared.reference).array,
        Evidence.of(prepared, probabilities),
    )


def correct(patient: Patient, seed: int, error: str, label: TumourLabel) -> Session:
    """Let the user click an error away."""
    truth = patient.truth == label
    labels = wrong_labels(patient, error, label, np.random.default_rng(seed))
    dice, seconds = [overlap(labels == label, truth)], []
    for _ in range(_CLICKS):
        missing, extra = largest(truth & (labels != label)), largest((labels == label) & ~truth)
        include = bool(missing.sum() >= extra.sum())
        wrong = missing if include else extra
        if wrong.sum() < _SMALLEST_ERROR:
            break
        click = deepest(wrong, patient.grid.spacing)
        start = time.process_time()
        after = edited(labels, patient.grid, label, patient.evidence, click, include)
        labels = replaced(labels, after, label)
        seconds.append(time.process_time() - start)
        dice.append(overlap(labels == label, truth))
    own = overlap(patient.network == label, truth)
    return Session(seed, error, label.name, own, tuple(dice), tuple(seconds))


def wrong_labels(
    patient: Patient, error: str, label: TumourLabel, generator: np.random.Generator
) -> np.ndarray:
    """All regions as an imperfect segmentation would show them."""
    if error == "network":
        return patient.network.copy()
    labels, truth = patient.truth.copy(), patient.truth == label
    if error == "wrong class":
        labels[truth] = _TAKEN_FOR[label]
        return labels
    border = truth & ~ndimage.binary_erosion(truth)
    choice = np.argwhere(truth if error == "missed lobe" else border)
    centre = patient.grid.to_patient(choice[generator.integers(len(choice))])
    places = patient.grid.to_patient(np.moveaxis(np.indices(truth.shape), 0, -1))
    near = np.linalg.norm(places - centre, axis=-1)
    if error == "missed lobe":
        labels[truth & (near < _LOBE_MM)] = TumourLabel.BACKGROUND
    else:
        labels[near < _LEAK_MM] = label
    return labels


def deepest(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """(1, 3), the voxel farthest from the mask's border."""
    voxels = np.argwhere(mask)
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    part = np.pad(mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], 1)
    depth = ndimage.distance_transform_edt(part, sampling=spacing)
    return np.array([np.unravel_index(int(depth.argmax()), depth.shape)]) - 1 + low


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part."""
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Dice coefficient; 1 when both are empty."""
    total = int(one.sum() + other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


def table(sessions: Sequence[Session]) -> str:
    """Medians by error, as Markdown."""
    lines = [
        "| error | sessions | network, no clicks | Dice at first | after 1 click | after 3 | after 10 "
        "| median gain per click, first 3 | 0.90 reached, median clicks | CPU-seconds per click |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for error in ERRORS:
        of = [one for one in sessions if one.error == error]
        if not of:
            continue
        at = {n: np.median([one.dice[min(n, len(one.dice) - 1)] for one in of]) for n in (0, 1, 3, _CLICKS)}
        gains = [gain for one in of for gain in np.diff(one.dice[:4])]
        needed = [next((n for n, d in enumerate(one.dice) if d >= _GOOD), None) for one in of]
        reached = [n for n in needed if n is not None]
        seconds = [second for one in of for second in one.seconds]
        clicks = f"{len(reached)} of {len(of)}, {np.median(reached):.0f}" if reached else f"0 of {len(of)}, –"
        lines.append(
            f"| {error} | {len(of)} | {np.median([one.network for one in of]):.2f} "
            f"| {at[0]:.2f} | {at[1]:.2f} | {at[3]:.2f} | {at[_CLICKS]:.2f} "
            f"| {np.median(gains) if gains else 0:+.3f} | {clicks} | {np.median(seconds) if seconds else 0:.2f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clicks", description=__doc__)
    parser.add_argument(
        "--patients", type=int, nargs="+", default=[*TUNED_ON, *OTHERS], help="seeds of virtual patients"
    )
    parser.add_argument("--preset", choices=("demo", "small"), default="demo", help="demo: 1 mm; small: 3 mm")
    parser.add_argument("-m", "--models", type=Path, default=Path("models"))
    parser.add_argument("--json", type=Path, help="also write every session here")
    options = parser.parse_args(arguments)
    sessions = []
    for seed in options.patients:
        patient = make_patient(seed, options.models, options.preset)
        sessions += [correct(patient, seed, error, label) for error in ERRORS for label in _LABELS]
        print(f"patient {seed} done", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in sessions], indent=1))
    for title, of in (
        ("constants tuned on these", [one for one in sessions if one.seed in TUNED_ON]),
        ("others", [one for one in sessions if one.seed not in TUNED_ON]),
    ):
        if of:
            print(f"patients {', '.join(str(seed) for seed in sorted({one.seed for one in of}))}: {title}")
            print(table(of))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
