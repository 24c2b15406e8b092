"""A virtual glioma patient as DICOM, with the truth written beside it; or a real NIfTI case wrapped as DICOM.

Run ``python -m training.phantom --help``; docs/phantom.md explains the model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from imaging.errors import ImagingError
from imaging.geometry import Geometry, Volume
from imaging.labels import volumes_ml
from imaging.roles import ROLES, Role
from training.nifti_to_dicom import NiftiVisit, visit_of, visits_in_folder, wrap_nifti
from training.virtual_patient.anatomy import BRAIN_HIGH, BRAIN_LOW, Anatomy, make_anatomy
from training.virtual_patient.contrast import Thresholds, TumourAppearance
from training.virtual_patient.dicom import Identity, StudyHeader, uid
from training.virtual_patient.examination import VOCABULARY, Examination, Scene, examine
from training.virtual_patient.fields import Float32Array, stream, upsampled
from training.virtual_patient.growth import FisherKpp
from training.virtual_patient.scanner import CLINICAL_PLANS, SMALL_PLANS, Imperfections, SeriesPlan, rigid

FloatArray = npt.NDArray[np.float64]
Progress = Callable[[str], None]
SEED_SIGMA_MM = 2.5


@dataclass(frozen=True)
class Resolution:
    """Grid spacings in mm of the head and of the growth simulation, and the series taken."""

    head_mm: float
    growth_mm: float
    plans: dict[Role, SeriesPlan]


PRESETS = {
    "demo": Resolution(1.0, 1.0, CLINICAL_PLANS),
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
        for name in ("noise", "bias", "rotation_degrees", "shift_mm", "motion"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}")
        if not self.languages or not set(self.languages) <= set(VOCABULARY):
            raise ValueError(f"languages must be among {', '.join(VOCABULARY)}, not {self.languages}")

    @property
    def patient(self) -> Identity:
        """The identity written to the files."""
        return self.identity or Identity(f"PHANTOM-{self.seed:04d}", "Phantom^Åsa")


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
        BraTS labels of ``density`` by the thresholds, same grid.
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


def make_phantom(folder: Path, settings: PhantomSettings, progress: Progress | None = None) -> PhantomTruth:
    """Grow a tumour, scan it at every visit and write DICOM and truth.

    Parameters
    ----------
    folder : Path
        Receives ``dicom/`` (one folder a visit), ``truth.json`` and ``truth/`` (labels and density as NIfTI).
    settings : PhantomSettings
        The phantom.
    progress : callable, optional
        Told in a few words what comes next.

    Raises
    ------
    ValueError
        If the tumour cannot reach the volume asked for.
    """
    say = progress or (lambda _: None)
    resolution = PRESETS[settings.preset]
    seed = settings.seed
    anatomy_seed = seed if settings.anatomy_seed is None else settings.anatomy_seed
    say("head")
    anatomy = make_anatomy(anatomy_seed, resolution.head_mm, settings.skull)
    say("tumour growth")
    grid, densities, age = _grow(anatomy, settings, resolution.growth_mm)
    heads: dict[Any, Float32Array] = {}
    visits = []
    for index, (day, density) in enumerate(zip(settings.visit_days, densities, strict=True)):
        say(f"scan of visit {index + 1} of {len(settings.visit_days)}")
        when = settings.first_visit + timedelta(days=day)
        study = _study(settings, index, when)
        rng = stream(seed, "pose", index)
        pose = rigid(
            rng.uniform(-1, 1, 3) * settings.rotation_degrees,
            rng.uniform(-1, 1, 3) * settings.shift_mm,
            (0, 12, 8),
        )
        grown = Volume(density, grid)
        appearance = TumourAppearance.of(
            anatomy, grown.resampled(anatomy.geometry).array, settings.thresholds, seed
        )
        how = Examination(
            resolution.plans,
            Imperfections(settings.noise, settings.bias),
            settings.languages[index % len(settings.languages)],
            settings.motion,
            settings.skull,
            settings.distractors,
        )
        scene = Scene(anatomy, appearance, pose, seed, index)
        series = examine(folder / "dicom" / f"visit{index + 1}", scene, study, how, heads)
        visits.append(_visit_truth(grown, settings, pose, study, day, series))
    truth = PhantomTruth(settings, folder / "dicom", age, tuple(visits), anatomy)
    _save_truth(folder, truth)
    return truth


def _grow(
    anatomy: Anatomy, settings: PhantomSettings, spacing_mm: float
) -> tuple[Geometry, list[Float32Array], float]:
    """Growth grid, density at every visit, and days of growth before the first."""
    grid = _growth_grid(spacing_mm)
    white, gray = (
        upsampled(Volume(anatomy.fractions[name], anatomy.geometry), grid) for name in ("white", "gray")
    )
    brain = _largest_part(white + gray > 0.5)
    diffusivity = settings.diffusivity * np.where(brain, white + gray / settings.gray_matter_ratio, 0)
    model = FisherKpp(diffusivity, settings.proliferation, spacing_mm)
    none = np.zeros(grid.shape, np.float32)
    days, age = settings.visit_days, 0.0
    gone_from = len(days) if settings.tumour_gone_from is None else settings.tumour_gone_from
    densities: list[Float32Array] = []
    if gone_from > 0:
        start = _onset(anatomy, settings, grid, white, brain)
        density, age = model.grow_until(start, settings.thresholds.core, settings.first_visit_core_ml * 1000)
        densities.append(density)
    for index in range(len(densities), len(days)):
        visible = index < gone_from
        densities.append(model.advance(densities[-1], days[index] - days[index - 1]) if visible else none)
    return grid, densities, age


def _growth_grid(spacing_mm: float) -> Geometry:
    shape = np.floor((BRAIN_HIGH - BRAIN_LOW) / spacing_mm).astype(int)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = BRAIN_LOW
    return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _largest_part(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    parts, count = ndimage.label(mask)
    largest: npt.NDArray[np.bool_] = parts == 1 + np.argmax(
        np.bincount(parts.ravel(), minlength=count + 1)[1:]
    )
    return largest


def _onset(
    anatomy: Anatomy,
    settings: PhantomSettings,
    grid: Geometry,
    white: Float32Array,
    brain: npt.NDArray[np.bool_],
) -> Float32Array:
    """A few cubic mm of tumour cells where the disease began."""
    if settings.onset_mni_mm is not None:
        point = anatomy.from_atlas(settings.onset_mni_mm)
    else:
        point = _random_onset(stream(settings.seed, "onset"), grid, white, brain)
    axes = [grid.affine[n, 3] + grid.spacing[n] * np.arange(grid.shape[n]) - point[n] for n in range(3)]
    squared = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
    start = np.where(brain, 0.8 * np.exp(-squared / (2 * SEED_SIGMA_MM**2)), 0).astype(np.float32)
    if start.max() < 0.1:
        raise ValueError(f"the onset {settings.onset_mni_mm} (MNI mm) lies outside the brain; move it inside")
    return start


def _random_onset(
    rng: np.random.Generator, grid: Geometry, white: Float32Array, brain: npt.NDArray[np.bool_]
) -> FloatArray:
    """White matter of the cerebrum, 12 mm or more from the midline and away from the surface."""
    depth = ndimage.distance_transform_edt(ndimage.binary_closing(brain, iterations=3), sampling=grid.spacing)
    deep = np.argwhere((white > 0.9) & (depth > 14))
    points = grid.to_patient(deep)
    points = points[(np.abs(points[:, 0]) > 12) & (points[:, 2] > -5)]
    chosen: FloatArray = points[rng.integers(len(points))]
    return chosen


def _study(settings: PhantomSettings, index: int, when: datetime) -> StudyHeader:
    identity = settings.patient
    words = ("oncotwin phantom", settings, identity.patient_id, index)
    language = settings.languages[index % len(settings.languages)]
    return StudyHeader(
        identity, uid(*words, "study"), uid(*words, "frame"), when, VOCABULARY[language]["study"]
    )


def _visit_truth(
    grown: Volume,
    settings: PhantomSettings,
    pose: FloatArray,
    study: StudyHeader,
    day: float,
    series: dict[Role, str],
) -> VisitTruth:
    """Truth carried into the visit's coordinates, cut to where there is any."""
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
    labels = density.with_array(settings.thresholds.labels(density.array))
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


def _save_truth(folder: Path, truth: PhantomTruth) -> None:
    (folder / "truth").mkdir(exist_ok=True)
    for number, visit in enumerate(truth.visits, start=1):
        visit.labels.save_nifti(folder / "truth" / f"visit{number}_labels.nii.gz")
        visit.density.save_nifti(folder / "truth" / f"visit{number}_density.nii.gz")
    text = json.dumps(truth.as_dict(), indent=2, ensure_ascii=False, default=str)
    (folder / "truth.json").write_text(text + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    target = options.output / "dicom"
    if target.exists() and any(target.iterdir()):
        print(f"{target} already holds files; name another folder or empty it first.", file=sys.stderr)
        return 2
    try:
        if options.from_nifti:
            wrap_nifti(_nifti_visits(options.from_nifti), target, options.patient_id or "WRAPPED")
        else:
            truth = make_phantom(
                options.output, _settings(options), lambda step: print(f"  {step} ...", flush=True)
            )
            _print_truth(truth)
    except (ImagingError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"DICOM in {target} ({time.monotonic() - started:.0f} s)")
    return 0


def _print_truth(truth: PhantomTruth) -> None:
    print(f"{'day':>6} {'NCR':>8} {'ED':>8} {'ET':>8} {'TC':>8} {'WT':>8}  mL")
    for visit in truth.visits:
        cells = " ".join(f"{visit.volumes_ml[region]:8.2f}" for region in ("NCR", "ED", "ET", "TC", "WT"))
        print(f"{visit.day:6.0f} {cells}")


def _nifti_visits(groups: list[list[str]]) -> list[NiftiVisit]:
    """Visits of the command line: one folder, or one ``DATE ROLE=FILE ...`` group a visit."""
    if len(groups) == 1 and len(groups[0]) == 1:
        return visits_in_folder(Path(groups[0][0]))
    return [visit_of(group) for group in groups]


def _settings(options: argparse.Namespace) -> PhantomSettings:
    changes = {name: getattr(options, name) for name in SETTING_OPTIONS if getattr(options, name) is not None}
    if options.visit_days is not None:
        changes["visit_days"] = tuple(options.visit_days)
    if options.onset_mni_mm is not None:
        changes["onset_mni_mm"] = tuple(options.onset_mni_mm)
    if options.patient_id is not None:
        changes["identity"] = Identity(options.patient_id, "Phantom^Åsa")
    return PhantomSettings(**changes, skull=not options.skull_stripped)


SETTING_OPTIONS = (
    "seed",
    "anatomy_seed",
    "diffusivity",
    "proliferation",
    "gray_matter_ratio",
    "first_visit_core_ml",
    "tumour_gone_from",
    "noise",
    "bias",
    "rotation_degrees",
    "preset",
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.phantom", description=__doc__)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder to make; DICOM goes to OUTPUT/dicom"
    )
    parser.add_argument("--seed", type=int, help="random choices (default 7)")
    parser.add_argument("--anatomy-seed", type=int, help="whose head (default: as --seed)")
    parser.add_argument(
        "--days", dest="visit_days", type=float, nargs="+", help="days of the visits (default 0 60)"
    )
    parser.add_argument("--diffusivity", type=float, help="mm2/day in white matter (default 0.12)")
    parser.add_argument("--proliferation", type=float, help="1/day (default 0.03)")
    parser.add_argument("--gray-matter-ratio", type=float, help="white over gray diffusivity (default 10)")
    parser.add_argument(
        "--core-ml", dest="first_visit_core_ml", type=float, help="tumour core at day 0 (default 12)"
    )
    parser.add_argument(
        "--onset", dest="onset_mni_mm", type=float, nargs=3, metavar=("X", "Y", "Z"), help="MNI mm"
    )
    gone = parser.add_mutually_exclusive_group()
    gone.add_argument(
        "--no-tumour", dest="tumour_gone_from", action="store_const", const=0, help="a healthy head"
    )
    gone.add_argument(
        "--tumour-gone-from", type=int, metavar="VISIT", help="no tumour from this visit on (0 = first)"
    )
    parser.add_argument("--skull-stripped", action="store_true", help="brain only")
    parser.add_argument("--noise", type=float, help="relative to white matter (default 0.03)")
    parser.add_argument("--bias", type=float, help="coil inhomogeneity (default 0.25)")
    parser.add_argument(
        "--rotation", dest="rotation_degrees", type=float, help="between visits (default 6 degrees)"
    )
    parser.add_argument("--preset", choices=tuple(PRESETS), help="demo (clinical voxels) or small (3 mm)")
    parser.add_argument("--patient-id", help="PatientID to write")
    parser.add_argument(
        "--from-nifti",
        nargs="+",
        action="append",
        metavar="ITEM",
        help="wrap NIfTI images instead: a FOLDER with BraTS-like names, or per visit "
        f"DATE ROLE=FILE [ROLE=FILE ...] with roles {', '.join(ROLES)}; repeat for every visit",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
