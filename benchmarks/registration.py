"""How far apart the registration measure puts one head from two heads, on real cases.

``python -m benchmarks.registration --cases FOLDER`` prints the tables of ``docs/registration.md``.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from imaging import registration
from imaging.geometry import Geometry, Volume
from imaging.head_mask import bare_brain, find_head
from imaging.multiresolution import pooled, transform_matrix


@dataclass(frozen=True, eq=False)
class Head:
    """One examination of one person: role to image."""

    person: str
    images: dict[str, Volume]


def load_heads(cases: Path) -> list[Head]:
    """The examinations in the folder of real cases."""
    visits, one = cases / "glioma_two_visits", cases / "glioma_one_visit"
    heads = [
        Head(
            "A",
            {role: _nifti(visits / f"BraTSReg_002_{visit}_{role}.nii.gz") for role in registration_roles()},
        )
        for visit in ("00_0000", "01_0262")
    ]
    names = dict(zip(registration_roles(), ("t1n", "t1c", "t2w", "t2f"), strict=True))
    heads.append(Head("B", {r: _nifti(one / f"BraTS-GLI-00001-000-{n}.nii.gz") for r, n in names.items()}))
    names = dict(zip(registration_roles(), ("t1", "t1post", "t2", "flair"), strict=True))
    heads.append(Head("C", {r: _dicom(cases / "glioma_dicom" / f"pat1_{n}") for r, n in names.items()}))
    for person, number in (("D", 1), ("E", 2)):
        folder = cases / "glioma_labelled_t1ce_flair" / f"brats_2013_pat000{number}_1"
        files = {"t1ce": "T1c_subtrMeanDivStd.nii.gz", "flair": "Flair_subtrMeanDivStd.nii.gz"}
        heads.append(Head(person, {role: _nifti(folder / name) for role, name in files.items()}))
    return heads


def registration_roles() -> tuple[str, ...]:
    """The contrasts, in the order of the file names above."""
    return ("t1", "t1ce", "t2", "flair")


def _nifti(path: Path) -> Volume:
    volume = Volume.load_nifti(path)
    return volume.with_array(volume.array.astype(np.float32))


def _dicom(folder: Path) -> Volume:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = sitk.Cast(reader.Execute(), sitk.sitkFloat32)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).transpose(2, 1, 0), Geometry(image.GetSize(), affine))


def turned(image: Volume, degrees: tuple[float, float, float], shift: tuple[float, float, float]) -> Volume:
    """The patient lies otherwise: the same scanner grid sees the head turned about its centre."""
    motion = sitk.Euler3DTransform()
    motion.SetCenter(image.geometry.centre.tolist())
    motion.SetRotation(*np.radians(degrees).tolist())
    motion.SetTranslation(list(shift))
    background = find_head(pooled(image, 4.0)).background
    cover = image.geometry.axis_aligned_cover(1.0)
    start = [-40, -40, -40]
    wide = cover.crop(start, np.asarray(cover.shape) + 40)
    return image.resampled(wide, motion, outside=background)


def noisy(image: Volume) -> Volume:
    """Gaussian noise of 10 % of the median brightness of the head."""
    head = _head(image)
    level = 0.1 * float(np.median(image.array[head] - image.array.min()))
    noise = np.random.default_rng(1).normal(0, level, image.array.shape)
    return image.with_array(np.where(head, image.array + noise, image.array).astype(np.float32))


def biased(image: Volume) -> Volume:
    """A coil that is 40 % brighter on one side and darker on the other."""
    ramp = np.linspace(1.4, 0.6, image.array.shape[1])[None, :, None]
    low = image.array.min()
    return image.with_array(((image.array - low) * ramp + low).astype(np.float32))


def thick(image: Volume) -> Volume:
    """Slices of 5 mm."""
    factor = max(1, round(5.0 / image.geometry.spacing[2]))
    shape, affine = image.geometry.shape, image.geometry.affine.copy()
    slices = shape[2] // factor
    array = image.array[:, :, : slices * factor].reshape(shape[0], shape[1], slices, factor).mean(axis=3)
    affine[:3, 3] = image.geometry.to_patient((0, 0, (factor - 1) / 2))
    affine[:3, 2] *= factor
    return Volume(array.astype(np.float32), Geometry((shape[0], shape[1], slices), affine))


def _lesion_distance(image: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm and direction from a place in the left upper brain."""
    points = image.geometry.to_patient(np.stack(np.indices(image.geometry.shape), axis=-1))
    middle = points[_head(image)].mean(axis=0) + np.array([25.0, 10.0, 20.0])
    away = points - middle
    return np.linalg.norm(away, axis=-1), away


def grown(image: Volume) -> Volume:
    """A new mass of 40 mm that pushes its surroundings up to 8 mm away."""
    distance, away = _lesion_distance(image)
    push = 8.0 * np.exp(-((distance / 35.0) ** 2))
    source = -away / np.maximum(distance, 1e-6)[..., None] * push[..., None]
    points = image.geometry.to_patient(np.stack(np.indices(image.geometry.shape), axis=-1)) + source
    places = np.moveaxis(image.geometry.to_index(points), -1, 0)
    moved = ndimage.map_coordinates(image.array, places, order=1, mode="nearest")
    bright = float(np.percentile(image.array[_head(image)], 95))
    return image.with_array(np.where(distance < 20.0, bright, moved).astype(np.float32))


def resected(image: Volume) -> Volume:
    """A hole of 50 mm filled with fluid."""
    distance, _ = _lesion_distance(image)
    dark = float(np.percentile(image.array[_head(image)], 10))
    return image.with_array(np.where(distance < 25.0, dark, image.array).astype(np.float32))


def other_stripping(image: Volume) -> Volume:
    """Skull removed, or where it is already, 3 mm more of the brain."""
    brain = bare_brain(image)
    if brain.stripped:
        mask = ndimage.binary_erosion(_head(image), iterations=3)
        return image.with_array(np.where(mask, image.array, image.array.min()))
    mask = brain.mask.resampled(image.geometry, interpolation="nearest").array
    return image.with_array(np.where(mask, image.array, 0.0).astype(np.float32))


def mirrored(image: Volume) -> Volume:
    """Left and right exchanged: an orientation attribute with the wrong sign."""
    return image.with_array(image.array[::-1].copy())


def upside_down(image: Volume) -> Volume:
    """Turned by 180 degrees about the left-right axis."""
    return image.with_array(image.array[:, ::-1, ::-1].copy())


def back_to_front(image: Volume) -> Volume:
    """Turned by 180 degrees about the head-foot axis."""
    return image.with_array(image.array[::-1, ::-1].copy())


def _head(image: Volume) -> np.ndarray:
    return find_head(pooled(image, 4.0)).mask.resampled(image.geometry, interpolation="nearest").array


CHANGES: dict[str, Callable[[Volume], Volume]] = {
    "turned 25 degrees, shifted 30 mm": lambda image: turned(image, (25.0, 0.0, 0.0), (0.0, 18.0, 24.0)),
    "turned 15/15/15 degrees": lambda image: turned(image, (15.0, 15.0, -15.0), (10.0, 0.0, 0.0)),
    "noise 10 %": noisy,
    "bias 40 %": biased,
    "slices of 5 mm": thick,
    "growth with mass effect": grown,
    "resection": resected,
    "other skull stripping": other_stripping,
    "turned, noise, bias, 5 mm": lambda image: thick(
        noisy(biased(turned(image, (12.0, -8.0, 8.0), (5.0, 9.0, 0.0))))
    ),
}
ORIENTATIONS = {"mirrored": mirrored, "upside down": upside_down, "back to front": back_to_front}


def pairs(heads: list[Head]) -> Iterator[tuple[str, str, Volume, Volume]]:
    """Group, description, fixed and moving image."""
    first, last = heads[0], heads[1]
    for one, two in itertools.combinations([head for head in heads if head is not last], 2):
        for role in ("t1", "t1ce"):
            if role in one.images and role in two.images:
                yield f"two persons, {role}", one.person + two.person, one.images[role], two.images[role]
        yield "two persons, t1ce-flair", one.person + two.person, one.images["t1ce"], two.images["flair"]
    for head in heads[1:]:
        for name, change in ORIENTATIONS.items():
            yield f"wrong orientation: {name}", head.person, head.images["t1ce"], change(head.images["t1ce"])
    for head in heads[1:]:
        baseline = first if head is last else head
        for name, change in CHANGES.items():
            yield f"same person: {name}", head.person, baseline.images["t1ce"], change(head.images["t1ce"])
    for role in registration_roles():
        yield "same person, day 262", role, first.images[role], last.images[role]
        if role != "t1ce":
            yield "same person, day 262, other contrast", role, first.images["t1ce"], last.images[role]
    for head in heads:
        for role in sorted(set(head.images) - {"t1ce"}):
            yield "series of one examination", f"{head.person} {role}", head.images["t1ce"], head.images[role]


def main() -> None:
    """Print one line per pair and one per group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, required=True, help="folder of real cases")
    cases: Path = parser.parse_args().cases
    groups: dict[str, list[float]] = {}
    for group, name, fixed, moving in pairs(load_heads(cases)):
        start = time.process_time()
        transform, quality = registration.measure_rigid(fixed, moving, purpose="visit")
        seconds = time.process_time() - start
        groups.setdefault(group, []).append(quality.similarity)
        print(
            f"{group:45} {name:12} {quality.similarity:6.3f} {quality.rotation_degrees:6.1f} deg "
            f"{np.linalg.norm(transform_matrix(transform)[:3, 3]):7.1f} mm {seconds:5.1f} s",
            flush=True,
        )
    print()
    for group, values in groups.items():
        print(
            f"| {group} | {len(values)} | {min(values):.2f} | {np.median(values):.2f} | {max(values):.2f} |"
        )


if __name__ == "__main__":
    main()
