"""What is true about a phantom, and how it is kept beside the images."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from imaging.geometry import Volume
from imaging.labels import volumes_ml
from imaging.roles import Role
from training.virtual_patient.anatomy import Anatomy
from training.virtual_patient.dicom import StudyHeader
from training.virtual_patient.scanner import FloatArray
from training.virtual_patient.settings import PhantomSettings


@dataclass(frozen=True, eq=False)
class VisitTruth:
    """What is true at one visit, in that visit's own scanner coordinates.

    Parameters
    ----------
    day : float
        Days after the first visit.
    when : datetime.datetime
        Start of the examination.
    density : Volume
        Tumour cell density, 0 to 1, on the growth grid around the tumour.
    labels : Volume
        BraTS labels as an expert would draw them: ``density`` by the thresholds, uneven by the settings'
        roughness; same grid.
    volumes_ml : dict
        Volume of every region of ``imaging.labels.REGIONS`` in mL.
    motion : numpy.ndarray
        ``(4, 4)`` rigid transform from anatomy LPS to this visit's LPS, mm.
    study_instance_uid, frame_of_reference_uid : str
        Of the visit's study.
    series : dict
        Series Instance UID of each role.
    """

    day: float
    when: datetime
    density: Volume
    labels: Volume
    volumes_ml: dict[str, float]
    motion: FloatArray
    study_instance_uid: str
    frame_of_reference_uid: str
    series: dict[Role, str]


@dataclass(frozen=True, eq=False)
class PhantomTruth:
    """A finished phantom.

    Parameters
    ----------
    settings : PhantomSettings
        What was asked for.
    dicom_folder : Path
        Folder that holds the DICOM files and nothing of the truth.
    onset_days_before : float
        Days of growth before the first visit.
    visits : tuple of VisitTruth
        In order of time.
    anatomy : Anatomy
        The head, in its own LPS coordinates.
    """

    settings: PhantomSettings
    dicom_folder: Path
    onset_days_before: float
    visits: tuple[VisitTruth, ...]
    anatomy: Anatomy

    def to_first_visit(self, visit: int) -> FloatArray:
        """``(4, 4)`` rigid transform from LPS of ``visit`` to LPS of the first visit."""
        transform: FloatArray = self.visits[0].motion @ np.linalg.inv(self.visits[visit].motion)
        return transform

    def as_dict(self) -> dict[str, Any]:
        """What goes into truth.json."""
        settings = asdict(self.settings)
        return {
            "settings": settings | {"first_visit": self.settings.first_visit.isoformat()},
            "onset_days_before": self.onset_days_before,
            "visits": [
                {
                    "day": visit.day,
                    "when": visit.when.isoformat(),
                    "volumes_ml": visit.volumes_ml,
                    "motion_lps": visit.motion.tolist(),
                    "study_instance_uid": visit.study_instance_uid,
                    "series": visit.series,
                }
                for visit in self.visits
            ],
        }


def visit_truth(
    grown: Volume,
    seen: Volume,
    settings: PhantomSettings,
    pose: FloatArray,
    study: StudyHeader,
    day: float,
    series: dict[Role, str],
) -> VisitTruth:
    """Truth carried into the visit's coordinates, cut to where there is any.

    ``grown`` is the density on the growth grid, ``seen`` the density as imaging shows it.
    """
    shown = np.argwhere(grown.array > 1e-3)
    low = np.maximum(shown.min(axis=0) - 4, 0) if len(shown) else np.zeros(3, int)
    high = (
        np.minimum(shown.max(axis=0) + 5, grown.geometry.shape)
        if len(shown)
        else np.array(grown.geometry.shape)
    )
    i, j, k = (slice(int(start), int(stop)) for start, stop in zip(low, high, strict=True))
    geometry = grown.geometry.crop(low, high).moved(pose, study.frame_of_reference_uid)
    density = Volume(np.ascontiguousarray(grown.array[i, j, k]), geometry)
    labels = density.with_array(settings.thresholds.labels(seen.array[i, j, k]))
    return VisitTruth(
        day,
        study.start,
        density,
        labels,
        volumes_ml(labels.array, geometry.voxel_volume_mm3),
        pose,
        study.study_instance_uid,
        study.frame_of_reference_uid,
        series,
    )


def save_truth(folder: Path, truth: PhantomTruth) -> None:
    (folder / "truth").mkdir(exist_ok=True)
    for number, visit in enumerate(truth.visits, start=1):
        visit.labels.save_nifti(folder / "truth" / f"visit{number}_labels.nii.gz")
        visit.density.save_nifti(folder / "truth" / f"visit{number}_density.nii.gz")
    text = json.dumps(truth.as_dict(), indent=2, ensure_ascii=False, default=str)
    (folder / "truth.json").write_text(text + "\n", encoding="utf-8")
