"""Labels that each strategy of *Next Sample* needs, simulated: ``python -m benchmarks.active_learning --json OUT``.

A site of virtual patients, two visits each, grown by the law that the twin knows and scanned with T1CE and FLAIR
only; patients of odd number lie in an old scanner (noise, uneven coil). The pool's second visits are scored by the
server's own methods under the shipped model and drawn in the order of the server's own strategies; an oracle draws the
truth. After 1, 2 and 4 drawings the shipped model is fine-tuned on them by the server's own code, and measured on
patients of no pool, in a box of 128 mm around their tumours. Each repetition offers another random part of the pool,
the same one to every strategy.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import yaml
from scipy import stats
from torch import nn

from imaging.catalog import read_catalog
from imaging.role_selection import propose_roles
from monailabel_app.configuration import read_configuration
from monailabel_app.fine_tuning import DrawnCase, Part, Plan, fine_tuned, mean_dice
from monailabel_app.growth import Growth
from monailabel_app.last_layer import with_last_layer_fitted
from monailabel_app.main import build_server
from monailabel_app.opened import OpenedCases
from monailabel_app.sampling import MostTelling, RandomCase
from monailabel_app.scoring import Scores, scoring_methods
from segmentation.bundle import ModelDescription, load_bundle
from segmentation.inference import TumourSegmenter
from training.held_out import settings_of
from training.phantom import PhantomSettings, make_phantom
from training.virtual_patient.contrast import Thresholds

ROOT = Path(__file__).resolve().parents[1]
STRATEGIES = ("random", "epistemic", "twin")
_LEFT_OUT = ("t1", "t2")
_INTERVAL_DAYS = 45.0
_MIN_COMPONENT_ML = 0.2
_BOX_VOXELS = 64  # side of what is learned from and measured in, around the tumour


@dataclass(frozen=True)
class Protocol:
    """How much is simulated.

    Parameters
    ----------
    patients, checks : tuple of int
        Numbers of the patients in the pool and of those to measure on; odd ones lie in the old scanner.
    offered : int
        Patients of the pool that a repetition offers.
    counts : tuple of int
        Numbers of drawings after which the model is fine-tuned and measured; rising.
    repetitions : int
        Random parts of the pool.
    plan : Plan
        Of every fine-tuning; its seed is the repetition's number.
    grid_mm : float
        Of the twin.
    """

    patients: tuple[int, ...] = (3, 5, 6, 9, 10, 11)
    checks: tuple[int, ...] = (100, 101, 102)
    offered: int = 4
    counts: tuple[int, ...] = (1, 2, 4)
    repetitions: int = 4
    plan: Plan = field(default_factory=Plan)
    grid_mm: float = 3.0


@dataclass(frozen=True, eq=False)
class Site:
    """What the server knows of the patients, and the truth beside it.

    Parameters
    ----------
    pool : dict
        Examination of the pool to what its drawing teaches.
    checks : list of DrawnCase
        Second visits of other patients.
    scores : dict
        Strategy to score by examination, under the shipped model; empty for random.
    described : list of dict
        What the patients are, for the record.
    """

    pool: dict[str, DrawnCase]
    checks: list[DrawnCase]
    scores: dict[str, dict[str, float]]
    described: list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """One strategy in one repetition: Dice on the checking patients by number of drawings, 0 first."""

    strategy: str
    repetition: int
    labels: tuple[int, ...]
    dice: tuple[float, ...]
    order: tuple[str, ...]


class Offered:
    """The examinations that a strategy may choose from: what strategies ask of a datastore."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys, self._drawn = list(keys), list[str]()

    def get_unlabeled_images(self) -> list[str]:
        return [key for key in self._keys if key not in self._drawn]

    def get_labeled_images(self) -> list[str]:
        return list(self._drawn)

    def draw(self, key: str) -> None:
        """The oracle has drawn on it."""
        self._drawn.append(key)


def patient_of(number: int) -> PhantomSettings:
    """Disease as the held-out generator draws it, at two visits; odd numbers come from the old scanner."""
    drawn = settings_of(number)
    return replace(
        drawn,
        visit_days=(0.0, _INTERVAL_DAYS),
        preset="small",
        thresholds=Thresholds(),
        tumour_gone_from=None,
        skull=True,
        first_visit_core_ml=min(drawn.first_visit_core_ml, 15.0),
        noise=0.12 if number % 2 else 0.03,
        bias=0.6 if number % 2 else 0.2,
    )


def make_site(folder: Path, models: Path, protocol: Protocol) -> Site:
    """Scan all patients, read them as the server does, and score the pool."""
    studies, drawings, described, of_pool = folder / "studies", {}, [], set()
    studies.mkdir(parents=True)
    for number in (*protocol.patients, *protocol.checks):
        truth = make_phantom(folder / "made", patient_of(number))
        for visit in read_catalog(truth.dicom_folder).visits:
            for role, series in propose_roles(visit)[0].chosen.items():
                if role in _LEFT_OUT:
                    shutil.rmtree(series.files[0].parent)
        shutil.move(truth.dicom_folder, studies / f"patient{number}")
        shutil.rmtree(folder / "made")
        last = truth.visits[-1]
        drawings[last.study_instance_uid] = last.labels
        in_pool = number in protocol.patients
        if in_pool:
            of_pool.add(last.study_instance_uid)
        kept = {name: getattr(truth.settings, name) for name in ("noise", "diffusivity", "proliferation")}
        described.append(
            {"key": last.study_instance_uid, "number": number, "pool": in_pool, "ml": last.volumes_ml, **kept}
        )
    settings = yaml.safe_load((ROOT / "app.yaml").read_text())
    settings["oncotwin"]["twin"]["grid_mm"] = protocol.grid_mm
    (folder / "app.yaml").write_text(yaml.safe_dump(settings))
    conf = {"state": str(folder / "state"), "models": str(models), "config": str(folder / "app.yaml")}
    server = build_server(read_configuration(str(studies), conf))
    spacing = server.models.segmenter.description.spacing_mm
    cases = {}
    for key, labels in drawings.items():
        images, grid = server.cases.network_inputs(server.studies.examination(key), spacing)
        drawn = torch.from_numpy(labels.resampled(grid, interpolation="nearest").array)
        named = {str(role): image for role, image in images.items()}
        seen, region = server.models.segmenter.prepared(named)
        cases[key] = around_tumour(DrawnCase(dict(seen), drawn, region))
    scores = Scores(folder / "scores.json")
    methods = scoring_methods(server, Growth(server), scores)
    for name in STRATEGIES[1:]:
        print(name, methods[name]({}, Offered(sorted(of_pool))), flush=True)
    model = server.models.identity.sha256
    return Site(
        {key: case for key, case in cases.items() if key in of_pool},
        [case for key, case in cases.items() if key not in of_pool],
        {name: scores.of(name, model) for name in STRATEGIES},
        described,
    )


def around_tumour(case: DrawnCase) -> DrawnCase:
    """A box of the case, to spend the time where drawings teach."""
    middle = case.labels.nonzero().float().mean(0).round().int().tolist()
    starts = [
        max(0, min(m - _BOX_VOXELS // 2, n - _BOX_VOXELS))
        for m, n in zip(middle, case.labels.shape, strict=True)
    ]
    box = tuple(slice(start, start + _BOX_VOXELS) for start in starts)
    images = {role: image[box].clone() for role, image in case.images.items()}
    return DrawnCase(
        images, case.labels[box].clone(), None if case.region is None else case.region[box].clone()
    )


def strategy_of(name: str, opened: OpenedCases, scores: Mapping[str, float]) -> Callable[..., Any]:
    """The server's strategy of this name."""
    return RandomCase(opened) if name == "random" else MostTelling(opened, lambda: scores, name)


def simulate(site: Site, models: Path, protocol: Protocol, folder: Path) -> list[Run]:
    """Every strategy in every repetition."""
    description, shipped = load_bundle(models)

    def measured(network: nn.Module) -> float:
        return float(np.mean([dice_of(description, network, case) for case in site.checks]))

    before, runs, done = measured(shipped), [], dict[tuple[str, ...], float]()
    for repetition in range(protocol.repetitions):
        random.seed(repetition)
        part = random.sample(sorted(site.pool), protocol.offered)
        for name in STRATEGIES:
            offered = Offered(part)
            strategy = strategy_of(name, OpenedCases(folder / "opened.json"), site.scores[name])
            order, dice = [], [before]
            for count in protocol.counts:
                while len(order) < count:
                    order.append(strategy({"client_id": "oracle"}, offered)["id"])
                    offered.draw(order[-1])
                # The order of drawings does not matter to the network, so equal sets need no second training.
                which = (str(repetition), *sorted(order))
                if which not in done:
                    lessons = [site.pool[key] for key in sorted(order)]
                    done[which] = measured(tuned(description, shipped, lessons, protocol.plan, repetition))
                dice.append(done[which])
            runs.append(Run(name, repetition, (0, *protocol.counts), tuple(dice), tuple(order)))
            print(repetition, name, " ".join(f"{value:.3f}" for value in dice), flush=True)
    return runs


def dice_of(description: ModelDescription, network: nn.Module, case: DrawnCase) -> float:
    """Mean Dice of the regions; the brain is that of the shipped model, where fine-tuning holds it: half the time."""
    segmenter = TumourSegmenter(description, network, torch.device("cpu"), variants=1)
    return mean_dice(partial(segmenter, brain_mask=case.region), [case], _MIN_COMPONENT_ML)


def found_by_scores(site: Site, models: Path) -> dict[str, float]:
    """Spearman's correlation over the pool of each score with the shipped model's error: 1 finds the worst cases."""
    description, shipped = load_bundle(models)
    error = {key: 1 - dice_of(description, shipped, case) for key, case in site.pool.items()}
    found = {}
    for name in STRATEGIES[1:]:
        scored = sorted(site.scores[name])
        pairs = [(site.scores[name][key], error[key]) for key in scored]
        found[name] = float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)
    return found


def tuned(
    description: ModelDescription, shipped: nn.Module, lessons: Sequence[DrawnCase], plan: Plan, seed: int
) -> nn.Module:
    """The network with its last layer fitted, or after the last epoch: the checking patients must not choose it."""
    if plan.part == "last layer":
        return with_last_layer_fitted(description, shipped, lessons)
    epochs = iter(range(1, plan.epochs + 1))
    return fine_tuned(description, shipped, lessons, replace(plan, seed=seed), lambda _: float(next(epochs)))


def needed(run: Run, target: float) -> float:
    """Fewest drawings after which the Dice is at least ``target``; infinite if it never is."""
    return next((float(n) for n, d in zip(run.labels, run.dice, strict=True) if d >= target), np.inf)


def midpoint(runs: Sequence[Run]) -> float:
    """Half-way from the shipped model to the mean of all runs after the most drawings."""
    return float(np.mean([run.dice[0] for run in runs]) + np.mean([run.dice[-1] for run in runs])) / 2


def against_random(runs: Sequence[Run], strategy: str) -> tuple[float, float]:
    """Mean over repetitions of the Dice gained on random choice, over all counts, and half its 95 % t-interval."""
    mean = {(run.strategy, run.repetition): float(np.mean(run.dice[1:])) for run in runs}
    repetitions = sorted({run.repetition for run in runs})
    gains = np.array([mean[strategy, one] - mean["random", one] for one in repetitions])
    if len(gains) < 2:
        return float(gains.mean()), np.inf
    half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return float(gains.mean()), float(half)


def table(runs: Sequence[Run], targets: Sequence[float]) -> str:
    """Dice by number of drawings, and drawings needed, as Markdown."""
    labels = runs[0].labels
    head = [
        *(f"Dice, {n}" for n in labels),
        *(f"drawings to {t:.3f}" for t in targets),
        "against random, 95 %",
    ]
    lines = ["| strategy | " + " | ".join(head) + " |", "| --- " * (len(head) + 1) + "|"]
    for name in STRATEGIES:
        of = [run for run in runs if run.strategy == name]
        cells = [f"{np.mean([run.dice[n] for run in of]):.3f}" for n in range(len(labels))]
        for target in targets:
            found = np.array([needed(run, target) for run in of])
            cells.append(f"{_count(np.median(found))} ({_count(found.min())} to {_count(found.max())})")
        mean, half = against_random(runs, name)
        cells.append("–" if name == "random" else f"{mean:+.3f} ± {half:.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _count(labels: float) -> str:
    return "never" if np.isinf(labels) else f"{labels:g}"


def plot(runs: Sequence[Run], target: float, path: Path) -> None:
    """Dice against drawings: means of the strategies, and every repetition behind them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    for name, colour in zip(STRATEGIES, ("#888888", "#1f6fb4", "#d9741a"), strict=True):
        of = [run for run in runs if run.strategy == name]
        for run in of:
            axes.plot(run.labels, run.dice, color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(
            of[0].labels,
            np.mean([run.dice for run in of], axis=0),
            "o-",
            color=colour,
            label=name,
            linewidth=2,
        )
    axes.axhline(target, color="black", linestyle=":", linewidth=1, label=f"half of the gain, {target:.3f}")
    axes.set_xlabel("drawings learned from")
    axes.set_ylabel("mean Dice of WT, TC, ET\non patients of no pool")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.active_learning", description=__doc__)
    parser.add_argument("-m", "--models", type=Path, default=ROOT / "models" / "oncotwin_brats")
    parser.add_argument("--repetitions", type=int, default=Protocol.repetitions)
    parser.add_argument("--part", choices=get_args(Part), default=Plan.part, help="what is fine-tuned")
    parser.add_argument("--epochs", type=int, default=Plan.epochs)
    parser.add_argument("--learning-rate", type=float, default=Plan.learning_rate)
    parser.add_argument("--patch", type=int, default=Plan.patch, help="side of a patch, voxels of 2 mm")
    parser.add_argument("--dice", type=float, default=0.85, help="a Dice to reach, beside half of the gain")
    parser.add_argument("--json", type=Path, help="also write every run here")
    parser.add_argument("--plot", type=Path, help="also draw the curves here, as PNG")
    options = parser.parse_args(arguments)
    plan = Plan(options.part, options.epochs, options.learning_rate, patch=options.patch)
    protocol = Protocol(repetitions=options.repetitions, plan=plan)
    torch.set_num_threads(1)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        site = make_site(Path(name), options.models, protocol)
        print(f"site ready after {time.process_time() - start:.0f} CPU-seconds", flush=True)
        found = found_by_scores(site, options.models)
        print("correlation of score and error:", found, flush=True)
        runs = simulate(site, options.models, protocol, Path(name))
    seconds = time.process_time() - start
    if options.json:
        content = {
            "protocol": asdict(protocol),
            "patients": site.described,
            "scores": site.scores,
            "correlation": found,
            "runs": [asdict(run) for run in runs],
            "cpu_seconds": round(seconds),
        }
        options.json.write_text(json.dumps(content, indent=1))
    if options.plot:
        plot(runs, midpoint(runs), options.plot)
    print(table(runs, (midpoint(runs), options.dice)))
    print(f"{seconds:.0f} CPU-seconds")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
