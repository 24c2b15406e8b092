"""One visit to the scanner: which series are taken, in which order, and what lies around them on the disc."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from imaging.geometry import Geometry, Volume
from imaging.roles import Role
from training.virtual_patient.anatomy import Anatomy
from training.virtual_patient.contrast import RELAXATION, Sequence, TumourAppearance, head_image
from training.virtual_patient.dicom import Encoding, SeriesHeader, StudyHeader, write_series
from training.virtual_patient.fields import Float32Array, stream
from training.virtual_patient.scanner import (
    MPRAGE,
    ORIENTATIONS,
    FloatArray,
    Imperfections,
    SeriesPlan,
    acquire,
    digitised,
    prescribe,
    rigid,
)

# How departments in several countries name the same things; all of it fits ISO 8859-1.
VOCABULARY: dict[str, dict[str, str]] = {
    "en": {
        "study": "MR HEAD W AND WO IV CONTRAST",
        "localiser": "3-plane localizer",
        "t1": "AX T1 3D MPRAGE",
        "t2": "AX T2 TSE",
        "flair": "AX T2 FLAIR",
        "t1ce": "SAG T1 3D MPRAGE +C",
        "reformat": "COR T1 +C MPR",
    },
    "de": {
        "study": "MRT Schädel mit KM",
        "localiser": "Übersicht",
        "t1": "t1_mprage_tra_iso nativ",
        "t2": "t2_tse_tra",
        "flair": "t2_tirm_tra_dark-fluid",
        "t1ce": "t1_mprage_sag_p2_iso KM",
        "reformat": "t1_mprage KM MPR cor",
    },
    "fr": {
        "study": "IRM cérébrale sans et avec injection",
        "localiser": "repérage",
        "t1": "Ax T1 3D",
        "t2": "Ax T2 TSE",
        "flair": "Ax T2 FLAIR",
        "t1ce": "Sag T1 3D GADO",
        "reformat": "Cor T1 GADO reformatage",
    },
    "es": {
        "study": "RM craneal con contraste",
        "localiser": "localizador",
        "t1": "T1 3D axial sin contraste",
        "t2": "T2 TSE axial",
        "flair": "FLAIR axial",
        "t1ce": "T1 3D sagital con contraste",
        "reformat": "T1 contraste MPR coronal",
    },
}
# Only for the header; the three slices borrow the contrast of the T1 image.
LOCALISER = replace(MPRAGE, kind="flash", repetition_ms=8.6, echo_ms=4.0, inversion_ms=None, flip_degrees=20)
CONTRAST_AGENT = "Gadobutrol 1 mmol/ml"
SERIES_MINUTES = 6

# Tumour-free images of a head by sequence, before and after contrast: all its visits share them.
Heads = dict[tuple[Sequence, bool], Float32Array]


@dataclass(frozen=True, eq=False)
class Scene:
    """The head as it lies in the scanner at one visit.

    Parameters
    ----------
    anatomy : Anatomy
        The head.
    tumour : TumourAppearance or None
        What grew in it.
    pose : numpy.ndarray
        ``(4, 4)`` rigid transform from anatomy LPS to this visit's scanner LPS in mm.
    seed, visit : int
        Which patient, which visit: they decide every random choice.
    """

    anatomy: Anatomy
    tumour: TumourAppearance | None
    pose: FloatArray
    seed: int
    visit: int


@dataclass(frozen=True)
class Examination:
    """How a visit is scanned and written."""

    plans: Mapping[Role, SeriesPlan]
    faults: Imperfections
    language: str
    motion: float
    skull: bool
    distractors: bool


def examine(
    folder: Path,
    scene: Scene,
    study: StudyHeader,
    how: Examination,
    heads: Heads,
) -> dict[Role, str]:
    """Scan all four contrasts and write them under ``folder``; returns Series Instance UIDs by role.

    ``heads`` is filled on the way.
    """
    rng = stream(scene.seed, "order", scene.visit)
    order: list[Role] = ["t1", "t2", "flair", "t1ce"] if rng.random() < 0.5 else ["t1", "t2", "t1ce", "flair"]
    words = VOCABULARY[how.language]
    number, uids, enhanced = 1, {}, False
    start = study.start
    if how.distractors:
        _write_localiser(folder, scene, study, how, heads)
        (folder / "notes.txt").write_text("Exported from the archive. This is not an image.\n")
    for role in order:
        number, start = number + 1, start + timedelta(minutes=SERIES_MINUTES)
        enhanced = enhanced or role == "t1ce"
        plan = how.plans[role]
        image, geometry = _scan(scene, role, plan, study.frame_of_reference_uid, how, enhanced, heads)
        header = SeriesHeader(
            number,
            words[role],
            start,
            plan.sequence,
            plan.dimension,
            contrast_agent=CONTRAST_AGENT if enhanced else None,
            thickness_mm=plan.thickness_mm,
            reversed_order=bool(rng.random() < 0.4),
        )
        # The tallest values are fat's: a scanner scales so that they fit.
        bright = float(np.percentile(image[::4, ::4, ::2], 98.0))
        pixels = digitised(image, bright)
        uids[role] = write_series(
            folder / f"series{number:03d}", pixels, geometry, study, header, Encoding(12)
        )
        if role == "t1ce" and how.distractors:
            _write_reformat(folder, Volume(pixels, geometry), study, words["reformat"], header)
    return uids


def _scan(
    scene: Scene,
    name: str,
    plan: SeriesPlan,
    frame_of_reference_uid: str,
    how: Examination,
    enhanced: bool,
    heads: Heads,
) -> tuple[Float32Array, Geometry]:
    rng = stream(scene.seed, "scan", scene.visit, name)
    image = heads.get((plan.sequence, enhanced))
    if image is None:
        image = head_image(scene.anatomy, plan.sequence, enhanced, scene.seed)
        heads[plan.sequence, enhanced] = image
    if scene.tumour is not None:
        image = scene.tumour.painted(image, plan.sequence, enhanced)
    centre = scene.pose[:3, :3] @ np.array((0.0, 12.0, 8.0)) + scene.pose[:3, 3]
    slices = prescribe(plan, centre, rng, frame_of_reference_uid)
    # The post-contrast T1 defines the visit's coordinates; between series the head moves a little.
    amount = 0.0 if name == "t1ce" else how.motion
    twitch = rigid(rng.uniform(-amount, amount, 3), rng.uniform(-amount, amount, 3), centre)
    head = Volume(image, scene.anatomy.geometry.moved(twitch @ scene.pose, frame_of_reference_uid))
    scanned = acquire(head, slices, how.faults, plan.sequence.signal(RELAXATION["white"], False), rng)
    if not how.skull:
        share = (
            scene.anatomy.fractions["white"]
            + scene.anatomy.fractions["gray"]
            + scene.anatomy.fractions["csf"]
        )
        scanned *= head.with_array(share).resampled(slices).array > 0.5
    return scanned, slices


def _write_localiser(
    folder: Path,
    scene: Scene,
    study: StudyHeader,
    how: Examination,
    heads: Heads,
) -> None:
    """Three crossing thick slices: one series in which orientations differ."""
    spacing = max(1.8, how.plans["t1"].spacing_mm[0])
    size = round(240 / spacing)
    for number, orientation in enumerate(ORIENTATIONS, start=1):
        plan = SeriesPlan(MPRAGE, orientation, (size, size, 1), (spacing, spacing, 8.0), 7.0, "2D")
        image, geometry = _scan(scene, orientation, plan, study.frame_of_reference_uid, how, False, heads)
        header = SeriesHeader(
            1, VOCABULARY[how.language]["localiser"], study.start, LOCALISER, "2D", first_instance=number
        )
        pixels = digitised(image, float(np.percentile(image, 98.0)))
        write_series(folder / "series001", pixels, geometry, study, header, Encoding(12))


def _write_reformat(
    folder: Path, source: Volume, study: StudyHeader, description: str, header: SeriesHeader
) -> None:
    """Coronal reformat of the post-contrast T1, as a workstation sends it back: derived, not to be measured."""
    size = round(200 / source.geometry.spacing[0])
    plan = SeriesPlan(MPRAGE, "coronal", (size, size, 18), (*source.geometry.spacing[:2], 10.0), 10.0, "3D")
    geometry = prescribe(plan, source.geometry.centre, stream(0, "reformat"), study.frame_of_reference_uid)
    pixels = source.resampled(geometry).array.astype(np.uint16)
    derived = replace(
        header,
        number=90 + header.number,
        description=description,
        image_type=("DERIVED", "SECONDARY", "MPR"),
        reversed_order=False,
    )
    write_series(folder / f"series{derived.number:03d}", pixels, geometry, study, derived, Encoding(12))
