"""One attempt at a job, as a Dask worker performs it. Nothing here touches the table of jobs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

from app.engine import ANY_PATIENT, Outcome, RunLimits, run_application
from gateway.examination import Examination, examine
from gateway.folders import remove, snapshot
from gateway.priors import fetch_images, fetch_priors
from gateway.rules import roles_of_priors, takes
from gateway.settings import PriorsSection, RuleSection
from gateway.web import what_failed

IGNORED = "ignored"
RESULTS = "results"
CLUSTER_LOST = "cluster_lost"
# Not the study's fault: the archive, the disk or the cluster failed.
_SETBACKS = frozenset({"priors_unavailable", "disk", CLUSTER_LOST})
_IMAGES_MISSING = Outcome(
    3,
    "images_missing",
    "A drawing came after the images of its study were deleted here (keep_days), and no archive to fetch them from is "
    "set (priors): send the images again.",
)


@dataclass(frozen=True)
class Assignment:
    """Everything a worker needs to know.

    Parameters
    ----------
    study_uid : str
        Study Instance UID.
    inbox : pathlib.Path
        Folder with what arrived of the study.
    instances : tuple of str
        Keys of the instances that belong to this version.
    folder : pathlib.Path
        The job's folder; ``results`` in it appears whole or not at all.
    came_before : bool
        Whether another version of the study was here: its images may have been deleted since.
    rules, priors, command, limits
        From the settings.
    """

    study_uid: str
    inbox: Path
    instances: tuple[str, ...]
    folder: Path
    came_before: bool
    rules: Sequence[RuleSection]
    priors: PriorsSection | None
    command: tuple[str, ...]
    limits: RunLimits


@dataclass(frozen=True)
class Report:
    """What became of an attempt, the seconds it took, and why priors were left out, one reason each."""

    outcome: Outcome
    seconds: float
    priors_left_out: tuple[str, ...] = ()

    @property
    def is_ignored(self) -> bool:
        """Whether no rule takes the study."""
        return self.outcome.reason == IGNORED

    @property
    def is_setback(self) -> bool:
        """Whether something around the study failed, which counts as no attempt at it."""
        return self.outcome.reason in _SETBACKS


def perform(assignment: Assignment) -> Report:
    """Examine the study, fetch the priors, run the application; a result that is there already is kept."""
    begun = time.monotonic()
    left_out: list[str] = []
    try:
        outcome = _outcome(assignment, left_out)
    except requests.RequestException as error:
        sentence = f"The archive of prior studies fails ({what_failed(error)}); see `priors` in the settings, or wait."
        outcome = Outcome(1, "priors_unavailable", sentence)
    except FileNotFoundError:
        outcome = Outcome(3, "files_gone", "Files of the study were deleted; send it again.")
    except OSError as error:
        outcome = Outcome(7, "disk", f"The work folder cannot be used ({error.strerror}).")
    return Report(outcome, time.monotonic() - begun, tuple(left_out))


def _outcome(assignment: Assignment, left_out: list[str]) -> Outcome:
    if (assignment.folder / RESULTS).exists():
        return Outcome(0)
    assignment.folder.mkdir(parents=True, exist_ok=True)
    source = assignment.folder / "input"
    if not source.exists():
        refusal = _gather(assignment, source, left_out)
        if refusal is not None:
            return refusal
    trial = assignment.folder / f".attempt-{secrets.token_hex(8)}"
    outcome = run_application(assignment.command, source, trial, assignment.limits, [ANY_PATIENT])
    if outcome.succeeded and not (trial / "result.json").is_file():
        outcome = Outcome(1, "no_result", "The application ended well but wrote no result.json.")
    if outcome.succeeded:
        try:
            trial.rename(assignment.folder / RESULTS)
        except (
            OSError
        ):  # another worker, thought to be dead, was faster: the same version, so the same result
            if not (assignment.folder / RESULTS).exists():
                raise
    remove(trial)
    return outcome


def _gather(assignment: Assignment, source: Path, left_out: list[str]) -> Outcome | None:
    """Make the input of the job, once: later attempts run on the same files. Adds why priors were left out."""
    aside = assignment.folder / f".input-{secrets.token_hex(8)}"
    try:
        snapshot(assignment.inbox, assignment.instances, aside / "study")
        study = examine(aside / "study", assignment.limits.memory_gb)
        if isinstance(study, Examination) and study.is_drawings_alone and assignment.came_before:
            if assignment.priors is None:
                return _IMAGES_MISSING
            fetch_images(assignment.priors, assignment.study_uid, aside / "study")
            study = examine(aside / "study", assignment.limits.memory_gb)
        if isinstance(study, Outcome):
            return study
        objection = takes(assignment.rules, study)
        if objection:
            return Outcome(3, IGNORED, f"Not for us: {objection}.")
        if study.refusal:
            reason, sentence = study.refusal
            return Outcome(3, reason, sentence)
        if assignment.priors is not None and assignment.priors.max_studies:
            (aside / "priors").mkdir()
            left_out += fetch_priors(
                assignment.priors,
                assignment.study_uid,
                study,
                roles_of_priors(assignment.rules, study),
                aside / "priors",
                assignment.limits.memory_gb,
            )
        aside.rename(source)
        return None
    finally:
        remove(aside)
