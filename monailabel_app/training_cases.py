"""Drawings as cases to learn from, and the choice of those that only check."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from monailabel_app.fine_tuning import DrawnCase
from monailabel_app.studies import Examination
from monailabel_app.tasks import Server

_CHECKED = 4  # every so manieth patient


def split(
    drawn: Sequence[Examination],
) -> tuple[list[Examination], list[Examination], str]:
    """Cases to learn from, cases to check on, and a sentence on how they were parted.

    Patients are parted, not visits, and a patient stays on the side where a digest of the patient puts it, so that a
    case that once checked a model is never learned from later. One patient alone is parted by visits.

    Parameters
    ----------
    drawn : sequence of Examination
        All with a drawing.
    """
    patients = sorted({_patient(one) for one in drawn})
    if len(patients) == 1:
        ordered = sorted(drawn, key=lambda one: one.visit.date)
        return ordered[:-1], ordered[-1:], "the last visit of the only patient"
    checked = {patient for patient in patients if int(patient, 16) % _CHECKED == 0}
    if not checked or len(checked) == len(patients):
        checked = {patients[0]}
    learning = [one for one in drawn if _patient(one) not in checked]
    checking = [one for one in drawn if _patient(one) in checked]
    return learning, checking, f"{len(checked)} of {len(patients)} patients, none of them learned from"


def drawn_cases(server: Server, examinations: Sequence[Examination], spacing_mm: float) -> list[DrawnCase]:
    """Images and drawings on the network's grid.

    Raises
    ------
    ImagingError
        If images or a drawing cannot be read.
    """
    cases = []
    for examination in examinations:
        images, grid = server.cases.network_inputs(examination, spacing_mm)
        drawn = server.cases.drawing(examination)
        assert drawn is not None, "only examinations with a drawing come here"
        labels = drawn.labels.resampled(grid, interpolation="nearest").array
        named = {str(role): image for role, image in images.items()}
        seen, region = server.models.segmenter.prepared(named)
        cases.append(DrawnCase(dict(seen), torch.from_numpy(labels), region))
    return cases


def _patient(examination: Examination) -> str:
    identity = examination.catalog.patient
    words = "\x1f".join((identity.patient_id, identity.issuer, identity.birth_date))
    return hashlib.sha256(words.encode()).hexdigest()
