"""What decides a phantom."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from imaging.roles import Role
from training.virtual_patient.contrast import Thresholds
from training.virtual_patient.dicom import Identity
from training.virtual_patient.examination import VOCABULARY
from training.virtual_patient.scanner import CLINICAL_PLANS, SMALL_PLANS, SeriesPlan


@dataclass(frozen=True)
class Resolution:
    """Grid spacings in mm of the head and of the growth simulation, and the series taken."""

    head_mm: float
    growth_mm: float
    plans: dict[Role, SeriesPlan]


PRESETS = {
    "demo": Resolution(1.2, 1.0, CLINICAL_PLANS),
    "small": Resolution(2.0, 1.5, SMALL_PLANS),
}


@dataclass(frozen=True)
class PhantomSettings:
    """Everything that decides a phantom; equal settings give identical files.

    Parameters
    ----------
    seed : int
        Random choices: onset, scanner, noise, and the head unless ``anatomy_seed`` is given.
    anatomy_seed : int or None
        Whose head; give two phantoms different ones for a follow-up of somebody else.
    visit_days : tuple of float
        Days of the visits after the first, rising; the first is 0. Fractions move the time of day.
    diffusivity : float
        In white matter, mm2/day.
    proliferation : float
        Per day.
    gray_matter_ratio : float
        How many times slower cells move in gray matter.
    onset_mni_mm : tuple of float or None
        Where the tumour started, MNI (RAS) mm; drawn in deep white matter when None.
    first_visit_core_ml : float
        Volume of enhancing and necrotic tumour at the first visit.
    thresholds : Thresholds
        Cell densities at which oedema, enhancing core and necrosis begin.
    roughness : float
        How much these levels vary over the tissue (standard deviation in density), so that borders are uneven
        as real ones are; 0 makes the labels exact level sets of the density.
    treatment : tuple of (float, float)
        Moments of treatment in rising order: day after the first visit, and the part of the tumour cells that survive
        everywhere.
    tumour_gone_from : int or None
        Index of the first visit at which no tumour is left; 0 makes a healthy head.
    skull : bool
        False gives a skull-stripped head.
    noise : float
        Rician noise relative to white matter.
    bias : float
        Logarithmic amplitude of the coil's inhomogeneity.
    rotation_degrees, shift_mm : float
        Largest change of the head's position from visit to visit.
    motion : float
        Largest movement between two series of a visit, degrees and mm.
    preset : {"demo", "small"}
        Clinical resolution, or 3 mm voxels for tests.
    distractors : bool
        Add a localiser, a derived series and a text file to every visit.
    first_visit : datetime.datetime
        Start of the first examination.
    languages : tuple of str
        Language of the series names, visit by visit, repeated as needed: "en", "de", "fr", "es".
    identity : Identity or None
        Patient; made from the seed when None.

    Raises
    ------
    ValueError
        If a value cannot describe a patient.
    """

    seed: int = 7
    anatomy_seed: int | None = None
    visit_days: tuple[float, ...] = (0.0, 60.0)
    diffusivity: float = 0.12
    proliferation: float = 0.03
    gray_matter_ratio: float = 10.0
    onset_mni_mm: tuple[float, float, float] | None = None
    first_visit_core_ml: float = 12.0
    thresholds: Thresholds = field(default_factory=Thresholds)
    roughness: float = 0.05
    treatment: tuple[tuple[float, float], ...] = ()
    tumour_gone_from: int | None = None
    skull: bool = True
    noise: float = 0.03
    bias: float = 0.25
    rotation_degrees: float = 6.0
    shift_mm: float = 8.0
    motion: float = 0.4
    preset: Literal["demo", "small"] = "demo"
    distractors: bool = True
    first_visit: datetime = datetime(2024, 3, 11, 9, 30)
    languages: tuple[str, ...] = ("de", "fr")
    identity: Identity | None = None

    def __post_init__(self) -> None:
        if not self.visit_days or self.visit_days[0] != 0 or list(self.visit_days) != sorted(self.visit_days):
            raise ValueError(f"visit days must start at 0 and not fall, not {self.visit_days}")
        for name in ("diffusivity", "proliferation", "gray_matter_ratio", "first_visit_core_ml"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("roughness", "noise", "bias", "rotation_degrees", "shift_mm", "motion"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        moments = [day for day, _ in self.treatment]
        if (
            moments != sorted(moments)
            or not all(0 < part <= 1 for _, part in self.treatment)
            or min(moments, default=0) < 0
        ):
            raise ValueError(
                "treatment must be pairs of a day from 0 on, rising, and a surviving part above 0 and at most 1, "
                f"not {self.treatment}"
            )
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}")
        if not self.languages or not set(self.languages) <= set(VOCABULARY):
            raise ValueError(f"languages must be among {', '.join(VOCABULARY)}, not {self.languages}")

    @property
    def patient(self) -> Identity:
        """The identity written to the files."""
        return self.identity or Identity(f"PHANTOM-{self.seed:04d}", "Phantom^Åsa")
