"""Brain mask and tissue maps of a patient, by bringing the ICBM152 average brain onto the image.

Affine from many starts, then rounds of two steps that help each other: classify the voxels into fluid, grey
and white matter with the warped maps as prior (Ashburner and Friston 2005), then bend the maps towards that
classification (demons, Vercauteren et al. 2009). Comparing tissue classes instead of intensities makes the
second step indifferent to contrast agent, scanner and bias field.

The maps are the 2009a ICBM152 maps (Fonov et al. 2011, Copyright (C) 1993-2009 Louis Collins, McConnell Brain
Imaging Centre, Montreal Neurological Institute, McGill University) inside nilearn's wheel; nilearn itself is
never imported.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from imaging.affine import align_affine
from imaging.errors import ImagingError, Reason
from imaging.geometry import FloatArray, Geometry, Volume
from imaging.head_mask import BareBrain, bare_brain, largest_object
from imaging.multiresolution import affine_transform, pooled, rotation_angle, single_thread
from imaging.registration import LARGEST_ROTATION_DEGREES, METRIC, edge_agreement
from imaging.report_content import RegistrationQuality
from imaging.tissue import classify

BoolArray = npt.NDArray[np.bool_]

# Agreement between a head and the average brain; docs/registration.md has the measurements.
THRESHOLD = 0.43
SMALLEST_BRAIN_MM3, LARGEST_BRAIN_MM3 = 0.7e6, 2.3e6

_LOGGER = logging.getLogger("oncotwin.imaging")
_WORK_SPACING_MM = 2.0
_MARGIN_MM = 14.0
# Spacing in mm and demons iterations of each round of classification and bending.
_ROUNDS = ((4.0, 30), (4.0, 30), (2.0, 15))
_STIFFNESS_MM = 5.0
_OUTLINE_TOLERANCE_MM = 5.0
# What pulls the maps should be sharp; what is handed out should not claim more than one voxel can know.
_TRUST_IN_INTENSITY = 0.5


@dataclass(frozen=True, eq=False)
class TissueMaps:
    """What the brain of one patient is made of.

    Parameters
    ----------
    brain_mask : Volume
        bool.
    white_matter, gray_matter, csf : Volume
        float32 probabilities; they sum to 1 inside the brain and are 0 outside.
    quality : RegistrationQuality
        Agreement between the image and the warped average brain; rotation and translation are those of the
        affine part.
    """

    brain_mask: Volume
    white_matter: Volume
    gray_matter: Volume
    csf: Volume
    quality: RegistrationQuality


@dataclass(frozen=True, eq=False)
class Atlas:
    """The average brain: T1 without skull, and ``(3, I, J, K)`` probabilities of CSF, GM, WM."""

    t1: Volume
    tissue: npt.NDArray[np.float32]

    @property
    def brain(self) -> BoolArray:
        """Voxels of the brain with its ventricles."""
        inside: BoolArray = self.tissue.sum(axis=0) > 0.5
        return inside


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """The ICBM152 maps of the installed nilearn wheel.

    Raises
    ------
    ImagingError
        If nilearn's files are not installed.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise ImagingError(
            Reason.UNSUPPORTED, "The package nilearn, whose wheel carries the brain maps, is not installed."
        )
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    t1, gray, white = (
        Volume.load_nifti(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        for name in ("t1", "gm", "wm")
    )
    brain = ndimage.binary_fill_holes(t1.array > 0)
    tissue = np.zeros((3, *t1.array.shape), dtype=np.float32)
    tissue[1], tissue[2] = gray.array / 255.0, white.array / 255.0
    tissue[1:] /= np.maximum(1.0, tissue[1:].sum(axis=0))
    tissue[0] = 1.0 - tissue[1] - tissue[2]
    tissue *= brain
    return Atlas(t1.with_array(t1.array.astype(np.float32)), tissue)


def register_atlas(
    image: Volume, grid: Geometry, *, lesion: Volume | None = None, seed: int = 0
) -> TissueMaps:
    """Brain mask and tissue probabilities of a patient.

    Parameters
    ----------
    image : Volume
        T1 (preferred) or T1CE of the patient, with the skull or without, on any grid.
    grid : Geometry
        Where the maps are wanted.
    lesion : Volume, optional
        bool or 0/1, on any grid. What the tumour did to the intensities there is ignored, and the maps show
        the tissue that the average brain has in that place.
    seed : int
        Of the random choice of voxels in the affine step.

    Returns
    -------
    TissueMaps
        On ``grid``.

    Raises
    ------
    ImagingError
        If the image does not look like a brain once the average brain lies on it.
    """
    atlas = load_atlas()
    bare = bare_brain(image)
    # Only the affine step sums over threads; bending and resampling work voxel by voxel.
    with single_thread():
        affine = align_affine(atlas.t1, atlas.brain, bare, seed)
    patient = _Patient.of(bare, lesion, _work_grid(atlas, affine, image.geometry))
    chart = _bend(atlas, affine, patient)
    return _maps_on(grid, atlas, chart, patient)


@dataclass(frozen=True, eq=False)
class _Patient:
    """The image on the grid where the work is done: background 0, skull removed.

    ``lesion`` is the tumour; ``disturbed`` it and the millimetres around it, from which nothing is learned.
    """

    image: Volume
    lesion: BoolArray
    disturbed: BoolArray
    brain: BoolArray
    stripped: bool

    @classmethod
    def of(cls, bare: BareBrain, lesion: Volume | None, grid: Geometry) -> _Patient:
        brain = bare.mask.with_array(bare.mask.array.astype(np.float32)).resampled(grid).array > 0.5
        if not brain.any():
            raise ImagingError(
                Reason.REGISTRATION_FAILED,
                "The average brain cannot be laid on the baseline T1 image; check its contrast and orientation.",
            )
        seen = bare.image.resampled(grid)
        # Vessels would stretch the intensity scale on which tissues are told apart.
        ceiling = float(np.percentile(seen.array[brain], 99.5))
        clipped = seen.with_array(np.clip(seen.array, 0.0, ceiling))
        spot = np.zeros(grid.shape, dtype=bool)
        if lesion is not None:
            share = pooled(lesion.with_array(lesion.array > 0), _WORK_SPACING_MM).resampled(grid)
            spot = share.array > 0.5
        around = ndimage.binary_dilation(spot, iterations=2)
        # An enhancing tumour under the skull is easily taken for scalp.
        whole = brain | (spot & ndimage.binary_dilation(brain, iterations=3))
        return cls(clipped, spot, around, whole, bare.stripped)


@dataclass(frozen=True, eq=False)
class _Chart:
    """Where each place of the patient is in the atlas: a displacement on the work grid, then an affine map."""

    displacement: sitk.Image
    affine: FloatArray

    def transform(self) -> sitk.Transform:
        """LPS of the patient to LPS of the atlas."""
        chain = sitk.CompositeTransform(3)
        chain.AddTransform(affine_transform(self.affine))
        chain.AddTransform(sitk.DisplacementFieldTransform(sitk.Image(self.displacement)))
        return chain


def _work_grid(atlas: Atlas, affine: FloatArray, image: Geometry) -> Geometry:
    """Axis-aligned grid around the place where the affine map puts the brain."""
    brain = atlas.t1.geometry.to_patient(np.argwhere(atlas.brain[::4, ::4, ::4]) * 4)
    back = np.linalg.inv(affine)
    points = brain @ back[:3, :3].T + back[:3, 3]
    low, high = points.min(axis=0) - _MARGIN_MM, points.max(axis=0) + _MARGIN_MM
    shape = np.ceil((high - low) / _WORK_SPACING_MM).astype(int)
    matrix = np.diag([_WORK_SPACING_MM] * 3 + [1.0])
    matrix[:3, 3] = low
    return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), matrix, image.frame_of_reference_uid)


def _bend(atlas: Atlas, affine: FloatArray, patient: _Patient) -> _Chart:
    """Rounds of classification and demons, coarse to fine."""
    grid = patient.image.geometry
    zero = sitk.Image(grid.shape, sitk.sitkVectorFloat64, 3)
    zero.CopyInformation(patient.image.to_sitk())
    chart = _Chart(zero, affine)
    straight = _sampled(atlas, chart.transform(), grid)
    for spacing, iterations in _ROUNDS:
        priors = _sampled(atlas, chart.transform(), grid)
        target = _tissue_of(patient, _brain_of(patient, priors), priors, trust=1.0)
        # No force where the tumour is: the maps follow their surroundings there.
        target[:, patient.disturbed] = priors[:, patient.disturbed]
        chart = _Chart(
            _demons(_drawn(target), _drawn(straight), grid, chart.displacement, spacing, iterations), affine
        )
    return chart


def _demons(
    target: FloatArray, source: FloatArray, grid: Geometry, start: sitk.Image, spacing: float, iterations: int
) -> sitk.Image:
    fixed = pooled(Volume(target, grid), spacing).to_sitk()
    moving = pooled(Volume(source, grid), spacing).to_sitk()
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(iterations)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(_STIFFNESS_MM / spacing)
    demons.SetSmoothUpdateField(False)
    demons.SetMaximumUpdateStepLength(1.0)
    field = demons.Execute(fixed, moving, sitk.Resample(start, fixed, sitk.Transform(), sitk.sitkLinear, 0.0))
    return sitk.Resample(field, start, sitk.Transform(), sitk.sitkLinear, 0.0)


def _drawn(tissue: FloatArray) -> npt.NDArray[np.float32]:
    """Classes as one image in which each has its own brightness: outside 0, fluid 1, grey 2, white 3."""
    picture: npt.NDArray[np.float32] = np.tensordot(
        np.arange(1, 4, dtype=np.float32), tissue.astype(np.float32), axes=1
    )
    return picture


def _sampled(atlas: Atlas, transform: sitk.Transform, grid: Geometry) -> npt.NDArray[np.float32]:
    """``(3, I, J, K)`` tissue maps of the atlas seen on a grid of the patient."""
    maps = [atlas.t1.with_array(tissue).resampled(grid, transform).array for tissue in atlas.tissue]
    return np.stack(maps)


def _tissue_of(
    patient: _Patient, brain: BoolArray, priors: npt.NDArray[np.float32], trust: float
) -> npt.NDArray[np.float32]:
    """``(3, I, J, K)`` tissue of the patient, summing to 1 in ``brain`` and 0 outside; priors in the lesion."""
    # The outline is known by now: the maps only have to say which tissue, also a little beyond their own.
    soft = np.stack([ndimage.gaussian_filter(p, 1.0) for p in priors]) + 1e-3
    soft /= soft.sum(axis=0)
    spacing = patient.image.geometry.spacing
    tissue, _ = classify(patient.image.array, soft, brain & ~patient.disturbed, spacing, trust)
    tissue[:, patient.lesion] = soft[:, patient.lesion]
    return tissue * brain


def _brain_of(patient: _Patient, priors: npt.NDArray[np.float32]) -> BoolArray:
    """The outline in the image, except where it and the warped average brain cannot both be right."""
    if patient.stripped:
        return patient.brain
    average = priors.sum(axis=0) > 0.5
    spacing = patient.image.geometry.spacing
    outside = ndimage.distance_transform_edt(~average, sampling=spacing)
    inside = ndimage.distance_transform_edt(average, sampling=spacing)
    brain = (patient.brain & (outside <= _OUTLINE_TOLERANCE_MM)) | (inside > _OUTLINE_TOLERANCE_MM)
    return largest_object(ndimage.binary_opening(brain, iterations=2))


def _maps_on(grid: Geometry, atlas: Atlas, chart: _Chart, patient: _Patient) -> TissueMaps:
    work = patient.image.geometry
    priors = _sampled(atlas, chart.transform(), work)
    brain = _brain_of(patient, priors)
    tissue = _tissue_of(patient, brain, priors, _TRUST_IN_INTENSITY)
    mask = Volume(brain.astype(np.float32), work).resampled(grid).array > 0.5
    maps = np.stack([Volume(t, work).resampled(grid).array for t in tissue]) * mask
    maps /= np.maximum(maps.sum(axis=0), 1e-6)
    csf, gray, white = (Volume(m.astype(np.float32), grid) for m in maps)
    drawn = Volume(_drawn(priors), work)
    middle = work.to_patient(np.argwhere(brain)).mean(axis=0)
    quality = RegistrationQuality(
        similarity=edge_agreement(drawn, patient.image, sitk.Transform(3, sitk.sitkIdentity)),
        metric=METRIC,
        threshold=THRESHOLD,
        rotation_degrees=rotation_angle(chart.affine[:3, :3]),
        translation_mm=float(np.linalg.norm(chart.affine[:3, :3] @ middle + chart.affine[:3, 3] - middle)),
    )
    _require_brain(quality, float(brain.sum()) * work.voxel_volume_mm3)
    return TissueMaps(Volume(mask, grid), white, gray, csf, quality)


def _require_brain(quality: RegistrationQuality, volume_mm3: float) -> None:
    _LOGGER.info("atlas: agreement %.3f, brain %.0f mL", quality.similarity, volume_mm3 / 1000)
    if not SMALLEST_BRAIN_MM3 <= volume_mm3 <= LARGEST_BRAIN_MM3:
        raise ImagingError(
            Reason.REGISTRATION_FAILED,
            f"The brain found in the baseline T1 image has {volume_mm3 / 1000:.0f} mL, which no brain of an adult "
            "has; give a T1 that covers the whole head.",
        )
    if quality.similarity < quality.threshold:
        raise ImagingError(
            Reason.REGISTRATION_FAILED,
            f"The baseline T1 image does not look like a brain: {quality.metric} with the average brain is "
            f"{quality.similarity:.2f}, at least {quality.threshold:.2f} is needed; check its contrast and "
            "orientation.",
        )
    if quality.rotation_degrees > LARGEST_ROTATION_DEGREES:
        raise ImagingError(
            Reason.REGISTRATION_FAILED,
            f"The head in the baseline T1 image is turned by {quality.rotation_degrees:.0f} degrees, which no head "
            "is in a scanner; check its image orientation.",
        )
