"""An examination made ready for a task: images read, registered and resampled as the application does it."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from imaging.annotations import Correction, read_annotation
from imaging.geometry import Geometry, Volume
from imaging.preparation import (
    NETWORK_IMAGES_VERSION,
    PreparedVisit,
    labels_on_image,
    network_images,
    prepare_visits,
)
from imaging.roles import ROLES, Role
from monailabel_app.refusal import Refusal
from monailabel_app.studies import Examination
from segmentation.inference import SegmentationResult, TumourSegmenter

_KEPT_IN_MEMORY = 4


class Cases:
    """Prepared examinations: the last few in memory, the network's input of all of them on disk.

    Parameters
    ----------
    folder : pathlib.Path
        Cache of its own; holds images of patients.
    seed : int
        Of the registrations.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._prepared: OrderedDict[str, PreparedVisit] = OrderedDict()

    def prepared(self, examination: Examination) -> PreparedVisit:
        """Images of the visit, registered to its reference image; a drawing is read anew each time.

        Raises
        ------
        ImagingError
            If a series or the drawing cannot be read, or a registration fails.
        """
        visit = self._undrawn(examination)
        grid = visit.reference.geometry
        return replace(visit, correction=drawing_on(examination, grid, visit.motion_of))

    def _undrawn(self, examination: Examination) -> PreparedVisit:
        """The visit without its drawing, which may be another one each time."""
        digest = images_digest(examination)
        visit = self._prepared.get(digest)
        if visit is None:
            chosen = examination.selection.chosen
            undrawn = replace(examination.visit, annotations=())
            (visit,) = prepare_visits([(undrawn, chosen)], seed=self._seed)
            if not visit.reference.geometry.is_orthogonal:
                raise Refusal(
                    f"{visit.reference_series.label} was acquired with a tilted gantry, which viewers cannot show as a "
                    "plain volume; segment this study with the application."
                )
            self._prepared[digest] = visit
            while len(self._prepared) > _KEPT_IN_MEMORY:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(digest)
        return visit

    def drawing(self, examination: Examination) -> Correction | None:
        """The newest drawing of the visit on the grid of its reference image; None when nobody drew.

        Images are registered only for one that was made on another of the series that the visit is known by.

        Raises
        ------
        ImagingError
            If it cannot be used.
        """
        grid = examination.reference.geometry
        if grid is None:
            return None

        def motion_of(series_uid: str) -> sitk.Transform | None:
            used = {chosen.uid for chosen in examination.selection.chosen.values()}
            moved = series_uid in used - {examination.reference.uid}
            return self._undrawn(examination).motion_of(series_uid) if moved else None

        return drawing_on(examination, grid, motion_of)

    def network_inputs(
        self, examination: Examination, spacing_mm: float
    ) -> tuple[dict[Role, Tensor], Geometry]:
        """All contrasts on the network's grid, from disk when they were prepared before.

        Returns
        -------
        tuple
            Role -> float32 (I, J, K), and their grid.
        """
        name = f"{images_digest(examination)}-{spacing_mm:g}"
        path = self._folder / f"{name}-v{NETWORK_IMAGES_VERSION}.npz"
        if not path.is_file():
            images = network_images(self.prepared(examination), spacing_mm)
            for outdated in (self._folder / f"{name}.npz", *self._folder.glob(f"{name}-v*.npz")):
                outdated.unlink(missing_ok=True)
            _save(path, images)
        with np.load(path, allow_pickle=False) as stored:
            first = next(role for role in ROLES if role in stored)
            frame = str(stored["frame"])
            i, j, k = stored[first].shape
            grid = Geometry((i, j, k), stored["affine"], frame)
            return {role: torch.from_numpy(stored[role]) for role in ROLES if role in stored}, grid


def images_digest(examination: Examination) -> str:
    """Of all images of all contrasts, whatever was drawn on them and whatever their files are called."""
    chosen = examination.selection.chosen
    words = [f"{role} {digest}" for role in sorted(chosen) for digest in chosen[role].digests]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]


def drawing_on(
    examination: Examination, grid: Geometry, motion_of: Callable[[str], sitk.Transform | None]
) -> Correction | None:
    """The newest drawing of the visit on a grid, see :func:`imaging.annotations.read_annotation`."""
    return read_annotation(examination.visit, examination.reference, grid, motion_of)


def labels_of(
    segmenter: TumourSegmenter, result: SegmentationResult, grid: Geometry, image: Volume
) -> Volume:
    """The network's answer, known on a grid, as tumour labels of an image of the same frame of reference."""
    background, ncr, ed, et = (Volume(channel.numpy(), grid) for channel in result.probabilities)
    return labels_on_image((background, ncr, ed, et), image, segmenter.labels_of_image)


def _save(path: Path, images: dict[Role, Volume]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = next(iter(images.values())).geometry
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            affine=grid.affine,
            frame=np.array(grid.frame_of_reference_uid),
            **{role: image.array for role, image in images.items()},
        )
    os.replace(part, path)
