"""A virtual glioma patient as DICOM, with the truth written beside it; or a real NIfTI case wrapped as DICOM.

Run ``python -m training.phantom --help``; docs/phantom.md explains the model.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from pathlib import Path

from imaging.errors import ImagingError
from imaging.geometry import Volume
from imaging.roles import ROLES
from training.nifti_to_dicom import NiftiVisit, visit_of, visits_in_folder, wrap_nifti
from training.virtual_patient.anatomy import make_anatomy
from training.virtual_patient.contrast import TumourAppearance
from training.virtual_patient.dicom import Identity, StudyHeader, uid
from training.virtual_patient.disease import grow, visible
from training.virtual_patient.examination import VOCABULARY, Examination, Heads, Scene, examine
from training.virtual_patient.fields import stream
from training.virtual_patient.scanner import Imperfections, rigid
from training.virtual_patient.settings import PRESETS, PhantomSettings
from training.virtual_patient.truth import PhantomTruth, VisitTruth, save_truth, visit_truth

__all__ = ["Identity", "PhantomSettings", "PhantomTruth", "VisitTruth", "make_phantom"]

Progress = Callable[[str], None]
HEAD_CENTRE = (0.0, 12.0, 8.0)


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
    grid, densities, age = grow(anatomy, settings, resolution.growth_mm)
    heads: Heads = {}
    visits = []
    for index, (day, density) in enumerate(zip(settings.visit_days, densities, strict=True)):
        say(f"scan of visit {index + 1} of {len(settings.visit_days)}")
        when = settings.first_visit + timedelta(days=day)
        study = _study(settings, index, when)
        rng = stream(seed, "pose", index)
        pose = rigid(
            rng.uniform(-1, 1, 3) * settings.rotation_degrees,
            rng.uniform(-1, 1, 3) * settings.shift_mm,
            HEAD_CENTRE,
        )
        grown = Volume(density, grid)
        seen = visible(grown, settings)
        shown = seen.resampled(anatomy.geometry).array
        appearance = TumourAppearance.of(anatomy, shown, settings.thresholds, seed)
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
        visits.append(visit_truth(grown, seen, settings, pose, study, day, series))
    truth = PhantomTruth(settings, folder / "dicom", age, tuple(visits), anatomy)
    save_truth(folder, truth)
    return truth


def _study(settings: PhantomSettings, index: int, when: datetime) -> StudyHeader:
    identity = settings.patient
    words = ("oncotwin phantom", settings, identity.patient_id, index)
    language = settings.languages[index % len(settings.languages)]
    return StudyHeader(
        identity, uid(*words, "study"), uid(*words, "frame"), when, VOCABULARY[language]["study"]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    target = options.output / "dicom"
    if target.exists() and any(target.iterdir()):
        print(f"{target} already holds files; name another folder or empty it first.", file=sys.stderr)
        return 2
    try:
        if "from_nifti" in options:
            wrap_nifti(_nifti_visits(options.from_nifti), target, getattr(options, "patient_id", "WRAPPED"))
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
    names = {field.name for field in fields(PhantomSettings)}
    changes = {name: value for name, value in vars(options).items() if name in names}
    for name in ("visit_days", "onset_mni_mm"):
        if name in changes:
            changes[name] = tuple(changes[name])
    if "treatment" in changes:
        changes["treatment"] = tuple((day, part) for day, part in sorted(changes["treatment"]))
    settings = PhantomSettings(**changes)
    if "patient_id" in options:
        settings = replace(settings, identity=replace(settings.patient, patient_id=options.patient_id))
    return settings


def _parser() -> argparse.ArgumentParser:
    # Options that are not given stay out of the namespace, so that defaults live in PhantomSettings only.
    parser = argparse.ArgumentParser(
        prog="python -m training.phantom", description=__doc__, argument_default=argparse.SUPPRESS
    )
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
    parser.add_argument("--roughness", type=float, help="unevenness of tumour borders (default 0.05)")
    parser.add_argument(
        "--treatment",
        type=float,
        nargs=2,
        action="append",
        metavar=("DAY", "SURVIVAL"),
        help="part of the tumour cells that survive a treatment after the first visit; repeat for every one",
    )
    gone = parser.add_mutually_exclusive_group()
    gone.add_argument(
        "--no-tumour", dest="tumour_gone_from", action="store_const", const=0, help="a healthy head"
    )
    gone.add_argument(
        "--tumour-gone-from", type=int, metavar="VISIT", help="no tumour from this visit on (0 = first)"
    )
    parser.add_argument("--skull-stripped", dest="skull", action="store_false", help="brain only")
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
