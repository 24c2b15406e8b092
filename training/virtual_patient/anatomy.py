"""One individual's head: the ICBM152 brain deformed and sharpened, with a skull, scalp and face around it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from imaging.geometry import Geometry, Volume
from training.virtual_patient.fields import Float32Array, smooth_noise, smooth_step, stream, upsampled

# Corners of the head in LPS mm about the anterior commissure: from the back of the scalp to the nose,
# from the upper jaw to the vertex.
HEAD_LOW = np.array((-92.0, -112.0, -104.0))
HEAD_HIGH = np.array((92.0, 126.0, 104.0))
# What a deformed brain cannot leave, in the same coordinates.
BRAIN_LOW = np.array((-86.0, -92.0, -88.0))
BRAIN_HIGH = np.array((86.0, 122.0, 100.0))

# Tissue fractions of a voxel; they sum to one where there is no air.
TISSUES = ("white", "gray", "csf", "blood", "dura", "bone", "marrow", "fat", "muscle", "vitreous")


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Tissue fractions of one head.

    Parameters
    ----------
    geometry : Geometry
        Axis-aligned isotropic LPS grid; the origin is the anterior commissure.
    fractions : mapping of str to numpy.ndarray
        For every tissue of ``TISSUES`` its float32 share of each voxel, 0 to 1; the rest is air.
    to_atlas : SimpleITK.Transform
        Maps LPS points of this head to LPS points of the ICBM152 atlas.
    """

    geometry: Geometry
    fractions: Mapping[str, Float32Array]
    to_atlas: sitk.Transform

    @property
    def brain(self) -> npt.NDArray[np.bool_]:
        """Voxels that are mostly white or gray matter: where a tumour can grow."""
        brain: npt.NDArray[np.bool_] = self.fractions["white"] + self.fractions["gray"] > 0.5
        return brain

    def from_atlas(self, mni_mm: tuple[float, float, float]) -> npt.NDArray[np.float64]:
        """LPS point of this head at an MNI point (RAS mm), found by fixed-point iteration."""
        target = np.array(mni_mm) * (-1, -1, 1)
        point = target.copy()
        for _ in range(30):
            point = point - (np.array(self.to_atlas.TransformPoint(point.tolist())) - target)
        return point


@lru_cache(maxsize=1)
def make_anatomy(seed: int, spacing_mm: float, skull: bool) -> Anatomy:
    """Build the head of the individual ``seed``; the last one is kept for the next phantom.

    Parameters
    ----------
    seed : int
        The same seed gives the same head, whatever the spacing.
    spacing_mm : float
        Grid spacing in mm.
    skull : bool
        Whether to add what lies outside the brain, as a scanner sees it.
    """
    grid = _head_grid(spacing_mm)
    to_atlas = _individual_deformation(stream(seed, "deformation"))
    white, gray, csf = _sharpened_brain(
        _deformed("wm", grid, to_atlas), _deformed("gm", grid, to_atlas), grid, seed
    )
    outline = _head_grid(max(2.0, spacing_mm))
    inside = smooth_step(upsampled(Volume(_deformed("t1", outline, to_atlas), outline), grid), 0.35, 0.3)
    fractions = {name: np.zeros(grid.shape, np.float32) for name in TISSUES}
    fractions |= {"white": white * inside, "gray": gray * inside, "csf": csf * inside}
    if skull:
        _add_vessels(fractions, grid, seed)
        _add_head(fractions, inside, grid, seed)
    for share in fractions.values():
        share.flags.writeable = False
    return Anatomy(grid, fractions, to_atlas)


def atlas_map(name: str) -> Volume:
    """ICBM152 image "t1", "gm" or "wm" as carried by the nilearn wheel, scaled to 0..1, in LPS."""
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise FileNotFoundError("the package nilearn, which carries the ICBM152 atlas, is not installed")
    file = f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    volume = Volume.load_nifti(Path(found.origin).parent / "datasets" / "data" / file)
    return volume.with_array(volume.array.astype(np.float32) / 255)


def _deformed(name: str, grid: Geometry, to_atlas: sitk.Transform) -> Float32Array:
    """An atlas image in the individual's head; only the part that the brain can reach is computed."""
    start = np.maximum(np.floor(grid.to_index(BRAIN_LOW)), 0).astype(int)
    stop = np.minimum(np.ceil(grid.to_index(BRAIN_HIGH)), grid.shape).astype(int)
    values = np.zeros(grid.shape, np.float32)
    part = tuple(slice(low, high) for low, high in zip(start, stop, strict=True))
    values[part] = atlas_map(name).resampled(grid.crop(start, stop), to_atlas).array
    return values


def _head_grid(spacing_mm: float) -> Geometry:
    shape = np.ceil((HEAD_HIGH - HEAD_LOW) / spacing_mm).astype(int)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = HEAD_LOW
    return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _individual_deformation(rng: np.random.Generator) -> sitk.Transform:
    """Mild affine after a smooth displacement of a few mm: heads differ in size, shape and folding."""
    affine = sitk.AffineTransform(3)
    matrix = np.diag(1 / rng.uniform(0.94, 1.06, 3)) + rng.normal(0, 0.015, (3, 3))
    affine.SetMatrix(matrix.ravel().tolist())
    knots = _head_grid(8.0)
    field = np.zeros((*knots.shape, 3))
    for scale_knots, amplitude_mm in ((4.0, 3.0), (1.6, 1.2)):
        noise = ndimage.gaussian_filter(rng.standard_normal(field.shape), (scale_knots,) * 3 + (0,))
        field += amplitude_mm * noise / noise.std()
    image = sitk.GetImageFromArray(np.ascontiguousarray(field.transpose(2, 1, 0, 3)), isVector=True)
    image.SetSpacing(knots.spacing)
    image.SetOrigin(knots.affine[:3, 3].tolist())
    chain = sitk.CompositeTransform(3)
    chain.AddTransform(affine)
    chain.AddTransform(sitk.DisplacementFieldTransform(image))
    return chain


def _sharpened_brain(
    wm: Float32Array, gm: Float32Array, grid: Geometry, seed: int
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """White, gray and CSF fractions of one brain from the average of 152.

    The atlas is a mean, so its tissue borders are wide; raising the probabilities to a power and shifting them
    by noise that is coarser than a voxel gives one crisp brain with folds of its own.
    """
    shares = [wm, gm, np.clip(1 - wm - gm, 0, 1)]
    weights = []
    for name, share, wobble in zip(("wm", "gm", "csf"), shares, (0.35, 0.35, 0.9), strict=True):
        noise = smooth_noise(grid, stream(seed, "folds", name), 3.5)
        weights.append((share * share * share) * np.exp(np.float32(wobble) * noise))
    total = weights[0] + weights[1] + weights[2] + np.float32(1e-6)
    white, gray, csf = (weight / total for weight in weights)
    return white, gray, csf


def _add_vessels(fractions: dict[str, Float32Array], grid: Geometry, seed: int) -> None:
    """Thin winding vessels where two random fields are both near zero, mostly in the sulci."""
    first, second = (smooth_noise(grid, stream(seed, "vessels", n), 14.0) for n in (0, 1))
    near = np.exp(-(first * first + second * second) / np.float32(2 * 0.07**2))
    vessel = near * np.clip(fractions["csf"] * 1.5 + 0.1, 0, 1) * (fractions["csf"] + fractions["gray"] > 0.2)
    for name in ("white", "gray", "csf"):
        fractions[name] = fractions[name] * (1 - vessel)
    fractions["blood"] = vessel


def _add_head(fractions: dict[str, Float32Array], inside: Float32Array, grid: Geometry, seed: int) -> None:
    """Dura, skull, scalp, face, eyes and air spaces around the brain, from two distance maps."""
    coarse = _head_grid(max(3.0, grid.spacing[0]))
    brain = Volume(inside, grid).resampled(coarse).array > 0.5
    cavity = _closed(brain, coarse.spacing[0], 20.0)
    depth = upsampled(Volume(_outside_distance(cavity, coarse.spacing[0]), coarse), grid)
    from_face = upsampled(Volume(_face_distance(coarse), coarse), grid)
    thickness = smooth_noise(grid, stream(seed, "skull"), 40.0)
    scalp = smooth_noise(grid, stream(seed, "scalp"), 50.0)
    patches = smooth_noise(grid, stream(seed, "muscle"), 9.0)

    skull_end = 9.5 + 1.2 * thickness
    skin = np.minimum(depth - (skull_end + 6.5 + 1.2 * scalp), from_face)
    outside = 1 - inside
    in_cavity = 1 - smooth_step(depth, 2.2, 1)
    in_skull = (1 - smooth_step(depth, skull_end, 1)) * (1 - in_cavity)
    outer = np.clip(1 - smooth_step(skin, 0, 1) - in_cavity - in_skull, 0, 1) * outside

    # The superior sagittal sinus runs in the midline between brain and skull, the falx below it.
    x, y, z = _coordinates(grid)
    room = in_cavity * outside
    midline = np.exp(-((x / 4.5) ** 2)) * (z > -10) * smooth_step(depth, -4.0, 3)
    falx = 0.5 * np.exp(-(x**2)) * (z > 10) * (depth > -32) * fractions["csf"]
    membrane = smooth_step(depth, 1.0, 1) * room * (1 - midline)
    fractions["dura"] = membrane + falx
    fractions["blood"] += room * midline
    fractions["csf"] += np.clip(room * (1 - midline) - membrane, 0, 1) - falx

    relative = (depth - 2.2) / (skull_end - 2.2)
    bone = in_skull * outside
    fractions["marrow"] = bone * smooth_step(np.abs(relative - 0.5), 0.22, -0.15) * (z > -45)
    fractions["bone"] = bone - fractions["marrow"]

    under_skin = smooth_step(skin, -4.5, 2) * (1 - smooth_step(skin, -1.2, 1))
    fat = np.clip(under_skin + smooth_step(patches, 0.9, 1.2), 0, 1)
    eyes = _eyes(x, y, z)
    soft = outer * (1 - _air_spaces(x, y, z)) * (1 - eyes)
    fractions["fat"] = soft * fat
    fractions["muscle"] = soft * (1 - fat)
    fractions["vitreous"] = outer * eyes


def _closed(mask: npt.NDArray[np.bool_], spacing: float, radius_mm: float) -> npt.NDArray[np.bool_]:
    """Morphological closing with a ball, by distances, so that the skull does not follow every sulcus."""
    margin = int(np.ceil(radius_mm / spacing)) + 1
    padded = np.pad(mask, margin)
    grown = ndimage.distance_transform_edt(~padded, sampling=spacing) <= radius_mm
    closed = ndimage.distance_transform_edt(grown, sampling=spacing) > radius_mm
    inner = slice(margin, -margin)
    result: npt.NDArray[np.bool_] = closed[inner, inner, inner] | mask
    return result


def _outside_distance(mask: npt.NDArray[np.bool_], spacing: float) -> Float32Array:
    """Signed distance in mm to the border of a mask, positive outside, smoothed over a voxel."""
    distance = ndimage.distance_transform_edt(~mask, sampling=spacing)
    distance -= ndimage.distance_transform_edt(mask, sampling=spacing)
    return ndimage.gaussian_filter(distance, 1.0).astype(np.float32)


def _coordinates(grid: Geometry) -> tuple[Float32Array, Float32Array, Float32Array]:
    axes = [
        (grid.affine[axis, 3] + grid.spacing[axis] * np.arange(size)).astype(np.float32)
        for axis, size in enumerate(grid.shape)
    ]
    return axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]


def _ellipsoid(
    grid: Geometry, centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> Float32Array:
    """Rough signed distance in mm to an ellipsoid, negative inside."""
    scaled = sum(((c - m) / r) ** 2 for c, m, r in zip(_coordinates(grid), centre, radii, strict=True))
    distance: Float32Array = ((np.sqrt(scaled) - 1) * min(radii)).astype(np.float32)
    return distance


def _face_distance(grid: Geometry) -> Float32Array:
    """Signed distance to face, nose and neck together."""
    parts = [
        _ellipsoid(grid, (0, -34, -64), (72, 60, 66)),
        _ellipsoid(grid, (0, -92, -56), (13, 14, 24)),
        _ellipsoid(grid, (0, 20, -96), (72, 84, 84)),
    ]
    nearest: Float32Array = np.minimum.reduce(parts)
    return nearest


def _eyes(x: Float32Array, y: Float32Array, z: Float32Array) -> Float32Array:
    distance = np.sqrt((np.abs(x) - 32) ** 2 + (y + 68) ** 2 + (z + 38) ** 2)
    return 1 - smooth_step(distance, 12, 1)


def _air_spaces(x: Float32Array, y: Float32Array, z: Float32Array) -> Float32Array:
    """Nasal cavity, maxillary sinuses and pharynx."""
    nose = np.sqrt((x / 11) ** 2 + ((y + 62) / 28) ** 2 + ((z + 52) / 22) ** 2)
    maxillary = np.sqrt(((np.abs(x) - 30) / 13) ** 2 + ((y + 58) / 16) ** 2 + ((z + 66) / 14) ** 2)
    pharynx = np.sqrt((x / 12) ** 2 + ((y + 22) / 8) ** 2 + ((z + 90) / 30) ** 2)
    return 1 - smooth_step(np.minimum(np.minimum(nose, maxillary), pharynx), 1, 0.1)
