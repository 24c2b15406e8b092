"""Cases of another generator than the one the network learns from: the virtual patients of `training.phantom`.

Their tumours are level sets of an implicitly grown Fisher-KPP density, their contrasts follow from relaxation times
and sequence timings, and each series has a plane, a voxel size and a position of its own. Only the atlas is shared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imaging.catalog import read_catalog
from imaging.geometry import Volume
from imaging.reader import read_volume
from training.phantom import PhantomSettings, make_phantom
from training.virtual_patient.contrast import Thresholds

HEALTHY_EVERY = 5


@dataclass(frozen=True)
class HeldOutCase:
    """One virtual patient, read back from DICOM.

    Attributes
    ----------
    name
        What it is, in a few words.
    images
        Role -> image on its own grid, in one patient space up to a few tenths of a millimetre of motion.
    reference
        uint8 labels on the growth grid, around the tumour.
    """

    name: str
    images: dict[str, Volume]
    reference: Volume


def settings_of(number: int) -> PhantomSettings:
    """Random disease and scanner: every second head stripped of its skull, every fifth without tumour."""
    rng = np.random.default_rng([number, 7])
    edema = rng.uniform(0.08, 0.3)
    core = rng.uniform(edema + 0.15, 0.7)
    return PhantomSettings(
        seed=700_000 + number,
        visit_days=(0.0,),
        diffusivity=float(np.exp(rng.uniform(np.log(0.04), np.log(0.25)))),
        proliferation=float(np.exp(rng.uniform(np.log(0.015), np.log(0.06)))),
        first_visit_core_ml=float(np.exp(rng.uniform(np.log(4), np.log(40)))),
        thresholds=Thresholds(edema, core, rng.uniform(core + 0.1, 0.93)),
        roughness=float(rng.uniform(0.0, 0.1)),
        tumour_gone_from=0 if number % HEALTHY_EVERY == HEALTHY_EVERY - 1 else None,
        skull=number % 2 == 0,
        noise=float(rng.uniform(0.01, 0.06)),
        bias=float(rng.uniform(0.05, 0.4)),
        distractors=False,
    )


def held_out_cases(count: int, first: int = 0) -> Iterator[HeldOutCase]:
    """Virtual patients first .. first + count - 1, made one after the other in a temporary folder."""
    for number in range(first, first + count):
        settings = settings_of(number)
        with tempfile.TemporaryDirectory() as folder:
            truth = make_phantom(Path(folder), settings)
            visit = truth.visits[0]
            found = {
                one.uid: one for group in read_catalog(truth.dicom_folder).visits for one in group.series
            }
            images = {}
            for role, uid in visit.series.items():
                volume = read_volume(found[uid])
                images[role] = volume.with_array(np.asarray(volume.array, dtype=np.float32))
        kind = "with skull" if settings.skull else "stripped"
        yield HeldOutCase(f"virtual patient {number} {kind}", images, visit.labels)
