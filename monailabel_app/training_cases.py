"""Drawings as cases to learn from, and the choice of those that only check."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from monailabel_app.fine_tuning import DrawnCase
from monailabel_app.refusal import DATA_ERRORS, Refusal
from monailabel_app.studies import Examination
from monailabel_app.tasks import Server

_CHECKED = 4  # every so manieth patient


@dataclass(frozen=True)
class Taught:
    """What the model in use has seen of the site: digests of patients and visits, as its bundle's metadata keep them.

    Parameters
    ----------
    learned : frozenset of str
        What it, or a model that it came from, learned from.
    checked : frozenset of str
        What checked it, or a model that it came from.
    known : bool
        False where a model that it came from was trained here before this was kept.
    """

    learned: frozenset[str] = frozenset()
    checked: frozenset[str] = frozenset()
    known: bool = True

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Taught:
        """As a bundle's metadata say; nothing for one that was not trained here."""
        ours = metadata.get("oncotwin", {})
        kept = ours.get("label_cases", {"known": "label_validation" not in ours})
        return cls(frozenset(kept.get("learned", ())), frozenset(kept.get("checked", ())), kept["known"])

    def after(self, learning: Sequence[Examination], checking: Sequence[Examination]) -> Taught:
        """What a model has seen that was trained on further cases."""
        # Where one patient's visits are parted, the patient has been learned from.
        learned = self.learned | {digest for one in learning for digest in (_patient(one), _visit(one))}
        checked = self.checked | {digest for one in checking for digest in (_patient(one), _visit(one))}
        return Taught(learned, checked - learned, self.known)

    def as_metadata(self) -> dict[str, Any]:
        """For a bundle's metadata; see :meth:`of`."""
        return {"learned": sorted(self.learned), "checked": sorted(self.checked), "known": self.known}


@dataclass(frozen=True, eq=False)
class UsableCase:
    """A drawing that can be worked with."""

    examination: Examination
    case: DrawnCase


@dataclass(frozen=True)
class Parts:
    """Which cases do what.

    Parameters
    ----------
    learning, checking : list of Examination
        To learn from, and to check on. A case that neither side may have is in neither.
    said : str
        How they were parted, in a few words.
    """

    learning: list[Examination]
    checking: list[Examination]
    said: str


def split(drawn: Sequence[Examination], taught: Taught = Taught()) -> Parts:
    """Cases to learn from and cases to check on.

    Patients are parted, not visits, and for good: nobody checks whom the model in use has learned from, and nobody is
    learned from who has checked it. Who is new goes to the side where a digest of the patient puts it, unless a side
    would be empty. One patient alone is parted by visits.

    Parameters
    ----------
    drawn : sequence of Examination
        All with a drawing.
    taught : Taught
        What the model in use has seen.

    Raises
    ------
    Refusal
        If nobody is left to learn from or to check on.
    """
    if len(drawn) < 2:
        raise Refusal(
            "Training needs drawings of at least two examinations: one to learn from, one to check on."
        )
    patients = sorted({_patient(one) for one in drawn})
    if len(patients) == 1:
        return _split_visits(sorted(drawn, key=lambda one: one.visit.date, reverse=True), taught)
    wanted = {patient for patient in patients if int(patient, 16) % _CHECKED == 0}
    checked = _checking(patients, wanted, taught)
    learning = [one for one in drawn if _patient(one) not in checked and _visit(one) not in taught.checked]
    checking = [one for one in drawn if _patient(one) in checked]
    _require(learning, checking, "patient")
    whether = "none of them learned from" if taught.known else "earlier versions may have learned from them"
    return Parts(learning, checking, f"{len(checked)} of {len(patients)} patients, {whether}")


def _split_visits(drawn: Sequence[Examination], taught: Taught) -> Parts:
    """Visits of one patient, the last one first."""
    if _patient(drawn[0]) in taught.checked:
        _require([], drawn, "patient")
    checked = _checking([_visit(one) for one in drawn], {_visit(drawn[0])}, taught)
    learning = [one for one in reversed(drawn) if _visit(one) not in checked]
    checking = [one for one in reversed(drawn) if _visit(one) in checked]
    _require(learning, checking, "visit")
    if checking == [drawn[0]]:
        return Parts(learning, checking, "the last visit of the only patient")
    return Parts(learning, checking, f"{len(checking)} of {len(drawn)} visits of the only patient")


def _checking(ordered: Sequence[str], wanted: Collection[str], taught: Taught) -> set[str]:
    """Those that check: who did before, of the new ones the wanted, and the first of these where nobody else does."""
    new = [one for one in ordered if one not in taught.learned and one not in taught.checked]
    before = {one for one in ordered if one in taught.checked}
    checking = before | {one for one in new if one in wanted}
    if not checking or len(checking) == len(ordered):
        return before or set(new[:1])
    return checking


def _require(learning: Sequence[Examination], checking: Sequence[Examination], unit: str) -> None:
    if not checking:
        raise Refusal(
            f"The model in use has learned from every {unit} with a drawing, so none is left to check on; draw on a "
            "patient who is new to it, then train."
        )
    if not learning:
        raise Refusal(
            f"Every {unit} with a drawing has checked the model in use, so none is left to learn from; draw on a "
            "patient who is new to it, then train."
        )


def usable_cases(server: Server, spacing_mm: float) -> tuple[list[UsableCase], dict[str, str]]:
    """Images and drawings on the network's grid, of every case with a drawing, and why others are left out.

    Returns
    -------
    tuple
        The cases, and by id (the Study UID) a sentence for each one whose images or drawing cannot be used.
    """
    usable, left_out = list[UsableCase](), dict[str, str]()
    drawn = server.studies.labelled()
    for key in server.studies.keys():
        if key not in drawn:
            continue
        try:
            examination = server.studies.examination(key)
            usable.append(UsableCase(examination, _drawn_case(server, examination, spacing_mm)))
        except DATA_ERRORS as error:
            left_out[key] = str(error)
        except Refusal as refused:
            left_out[key] = refused.detail
    return usable, left_out


def _drawn_case(server: Server, examination: Examination, spacing_mm: float) -> DrawnCase:
    images, grid = server.cases.network_inputs(examination, spacing_mm)
    drawn = server.cases.drawing(examination)
    assert drawn is not None, "only examinations with a drawing come here"
    labels = drawn.labels.resampled(grid, interpolation="nearest").array
    seen, region = server.models.segmenter.prepared({str(role): image for role, image in images.items()})
    return DrawnCase(dict(seen), torch.from_numpy(labels), region)


def _patient(examination: Examination) -> str:
    identity = examination.catalog.patient
    return _digest(identity.patient_id, identity.issuer, identity.birth_date)


def _visit(examination: Examination) -> str:
    return _digest(examination.key)


def _digest(*words: str) -> str:
    return hashlib.sha256("\x1f".join(words).encode()).hexdigest()
