"""The examinations that a server offers: one entry a visit, whatever series of it a viewer names."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from imaging.annotation_index import Annotation
from imaging.annotations import by_persons_first
from imaging.catalog import Catalog, Inventory, Visit, read_inventory
from imaging.errors import ImagingError, Reason
from imaging.preparation import REFERENCE_ORDER
from imaging.role_selection import RoleRule, RoleSelection, propose_roles
from imaging.series import Series
from monailabel_app.refusal import Refusal, as_refusal

log = logging.getLogger("oncotwin.label")


@dataclass(frozen=True, eq=False)
class Examination:
    """One visit as an entry of the datastore.

    Parameters
    ----------
    key : str
        Its id: Study Instance UID, or the reference series' UID where a study spans several visits.
    catalog : Catalog
        The patient.
    number : int
        Index of the visit in the catalogue.
    selection : RoleSelection
        Series chosen for each contrast.
    """

    key: str
    catalog: Catalog
    number: int
    selection: RoleSelection

    @property
    def visit(self) -> Visit:
        """The visit."""
        return self.catalog.visits[self.number]

    @property
    def reference(self) -> Series:
        """The series that viewers show and results lie on: T1CE where there is one."""
        chosen = self.selection.chosen
        return chosen[next(role for role in REFERENCE_ORDER if role in chosen)]

    @property
    def image_name(self) -> str:
        """File name of the reference image; other content makes another name, since viewers keep files by name."""
        content = "\n".join(self.reference.digests)
        return f"{self.key}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.nii.gz"

    @property
    def drawing(self) -> Annotation | None:
        """The newest drawing of the tumour in its studies, another algorithm's only where no person drew."""
        return max(by_persons_first(self.visit.annotations), key=_created, default=None)

    @property
    def drawn(self) -> bool:
        """Whether a person drew on it: what another algorithm made is shown, and teaches nothing."""
        return self.drawing is not None and not self.drawing.automatic

    @property
    def token(self) -> str:
        """Changes whenever somebody saves a drawing, wherever, under an old UID too; empty while there is none."""
        drawn = self.drawing
        return "" if drawn is None else f"{drawn.sop_instance_uid} {drawn.sha256[:16]}"

    def number_among_siblings(self, rules: Sequence[RoleRule]) -> int:
        """How many earlier visits of the patient can be worked with."""
        return [one.number for one in siblings(self, rules)].index(self.number)


def siblings(examination: Examination, rules: Sequence[RoleRule]) -> list[Examination]:
    """All visits of the same patient that have a contrast, in the order of time."""
    return list(examinations([examination.catalog], rules))


class Studies(Protocol):
    """Where examinations come from and drawings go."""

    def keys(self) -> Sequence[str]:
        """Ids of all examinations in a stable order."""

    def labelled(self) -> frozenset[str]:
        """Ids of those with a person's drawing."""

    def find(self, name: str) -> str:
        """Id of the examination that a study, series or id means; raises Refusal (404) if it is not known."""

    def examination(self, key: str) -> Examination:
        """The examination with all earlier visits of the patient in its catalogue."""

    def keep(self, examination: Examination, drawing: Path) -> None:
        """Store a DICOM SEG where the application and other viewers find it; the file is moved."""


class FolderStudies:
    """Examinations in a folder tree of DICOM files, of any number of patients.

    Parameters
    ----------
    folder : pathlib.Path
        Root of the tree.
    visit_gap_hours : float
        See :func:`imaging.catalog.read_catalog`.
    rules : sequence of RoleRule
        Overrides of the choice of series.
    """

    def __init__(self, folder: Path, visit_gap_hours: float, rules: Sequence[RoleRule]) -> None:
        self._folder = folder
        self._visit_gap_hours = visit_gap_hours
        self._rules = tuple(rules)
        self._seen: frozenset[tuple[str, int, int]] | None = None
        self._by_key: dict[str, Examination] = {}

    def keys(self) -> Sequence[str]:
        """Ids in the order of patients and visits."""
        self._look()
        return list(self._by_key)

    def labelled(self) -> frozenset[str]:
        """Ids of those with a person's drawing beside their images."""
        self._look()
        return frozenset(key for key, one in self._by_key.items() if one.drawn)

    def find(self, name: str) -> str:
        """See :class:`Studies`."""
        self._look()
        return resolve(name, self._by_key.values())

    def examination(self, key: str) -> Examination:
        """See :class:`Studies`.

        Raises
        ------
        Refusal
            If a drawing of this patient belongs to no one visit.
        """
        self._look()
        found = self._by_key[key]
        if found.catalog.refused_annotations:
            raise Refusal(found.catalog.refused_annotations[0].sentence)
        return found

    def keep(self, examination: Examination, drawing: Path) -> None:
        """Move the drawing beside the images of its visit."""
        folder = common_folder(examination.visit)
        target = folder / f"oncotwin-{drawing.name}"
        try:
            place(drawing, target)
        except OSError as error:
            raise Refusal(
                f"The drawing cannot be stored beside the images ({error.strerror}); give the server permission to "
                "write into the folder of studies.",
                status=507,
            ) from error

    def _look(self) -> None:
        """Read the folder again if anything in it has changed.

        Raises
        ------
        Refusal
            If the folder is gone, or it or a file in it may not be read.
        """
        seen = frozenset(_files(self._folder))
        if seen == self._seen:
            return
        # Until everything is read, so that what fails is tried again whatever the folder looks like then.
        self._seen = None
        try:
            inventory = read_inventory(self._folder, visit_gap_hours=self._visit_gap_hours)
        except ImagingError as error:
            if error.reason is not Reason.EMPTY_INPUT or not self._folder.is_dir():
                raise as_refusal(error) from error
            inventory = Inventory((), (), ())
        if inventory.broken:
            log.warning(
                "%d files of the studies are damaged or missing and are left out; python -m imaging lists them",
                len(inventory.broken),
            )
        self._by_key = {one.key: one for one in examinations(inventory.patients, self._rules)}
        self._seen = seen


def examinations(patients: Sequence[Catalog], rules: Sequence[RoleRule]) -> Iterator[Examination]:
    """Every visit with at least one contrast; what else a task needs, it asks for when it runs."""
    found = []
    for catalog in patients:
        for number, visit in enumerate(catalog.visits):
            selection, _ = propose_roles(visit, rules=rules)
            if selection.chosen:
                found.append(Examination("", catalog, number, selection))
    studies = [one.reference.study_uid for one in found]
    for one in found:
        alone = studies.count(one.reference.study_uid) == 1
        key = one.reference.study_uid if alone else one.reference.uid
        yield Examination(key, one.catalog, one.number, one.selection)


def resolve(name: str, known: Iterable[Examination]) -> str:
    """Id of the examination that has this id, study or series.

    Raises
    ------
    Refusal
        404 if none or several have.
    """
    found = []
    for one in known:
        if one.key == name:
            return one.key
        uids = one.visit.series_uids | {series.study_uid for series in one.visit.series}
        if name in uids:
            found.append(one.key)
    if len(found) != 1:
        raise Refusal(
            "This image is not one of the server's examinations: OncoTwin needs whole studies with their sibling "
            "series. Put the study into the server's folder or PACS and take it from there by Next Sample.",
            status=404,
        )
    return found[0]


def place(source: Path, target: Path) -> None:
    """Move a file so that it appears whole or not at all, across file systems too."""
    part = target.with_name(f".{target.name}.part")
    try:
        part.write_bytes(source.read_bytes())
        os.replace(part, target)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    source.unlink(missing_ok=True)


def common_folder(visit: Visit) -> Path:
    """Deepest folder that holds every image of a visit."""
    return Path(os.path.commonpath([str(file.parent) for series in visit.series for file in series.files]))


def _created(drawing: Annotation) -> datetime:
    return datetime.min if drawing.created is None else drawing.created.replace(tzinfo=None)


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            try:
                status = os.stat(path)
            except OSError:
                continue
            yield path, status.st_size, status.st_mtime_ns
