"""MONAI Label's datastore over the server's examinations."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, NoReturn

from imaging.geometry import Volume
from imaging.reader import read_volume
from monailabel_app.answers import Answers
from monailabel_app.cases import Cases
from monailabel_app.clients import case_of, client_of, new_opening
from monailabel_app.label_files import write_labels
from monailabel_app.label_values import WIRE_VALUES, to_wire
from monailabel_app.opened import OpenedCases
from monailabel_app.refusal import Refusal, refusing
from monailabel_app.saving import Saving
from monailabel_app.studies import Studies
from monailabel_app.uploads import uploaded, used_up
from monailabel_app.upstream import Datastore

_LABEL_TAGS = ("final", "original")
# Slicer looks its case up in the list of all of them right after it got it.
_OPENINGS_LISTED = 64


class ExaminationDatastore(Datastore):
    """One image an examination: viewers see T1CE and the newest drawing, the rest stays on the server.

    Parameters
    ----------
    studies : Studies
        Where examinations come from.
    cases : Cases
        Reads drawings.
    saving : Saving
        Takes drawings.
    opened : OpenedCases
        Who works on what.
    answers : Answers
        What clients have before them.
    temporary : pathlib.Path
        Folder for files on their way to a viewer; emptied when the server stops.
    """

    def __init__(
        self,
        studies: Studies,
        cases: Cases,
        saving: Saving,
        opened: OpenedCases,
        answers: Answers,
        temporary: Path,
    ) -> None:
        self._studies = studies
        self._cases = cases
        self._saving = saving
        self._opened = opened
        self._answers = answers
        self._temporary = temporary
        self._info: dict[str, dict[str, Any]] = {}
        self._openings: deque[str] = deque(maxlen=_OPENINGS_LISTED)

    def name(self) -> str:
        return "OncoTwin examinations"

    def set_name(self, name: str) -> None:
        raise Refusal("The name of this datastore is fixed.")

    def description(self) -> str:
        return "One entry a visit"

    def set_description(self, description: str) -> None:
        raise Refusal("The description of this datastore is fixed.")

    def list_images(self) -> list[str]:
        return list(self._studies.keys())

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        drawn = self._studies.labelled()
        return [key for key in self._studies.keys() if key in drawn]

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        drawn = self._studies.labelled()
        return [key for key in self._studies.keys() if key not in drawn]

    def get_image_uri(self, image_id: str) -> str:
        """Path of the reference image as NIfTI, in the voxel order of the DICOM series."""
        with refusing():
            key = self._find(image_id)
            examination = self._studies.examination(key)
            path = self._temporary / examination.image_name
            if not path.is_file():
                part = self._temporary / f"part-{key}.nii.gz"
                read_volume(examination.reference).save_nifti(part)
                for outdated in self._temporary.iterdir():
                    if outdated.name.startswith(f"{key}-"):
                        outdated.unlink()
                part.rename(path)
            return str(path)

    def get_image(self, image_id: str, params: Any = None) -> Any:
        return Path(self.get_image_uri(image_id)).read_bytes()

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Name of the file to download, and for the viewer's title patient and day."""
        key = self._find(image_id)
        examination = self._studies.examination(key)
        title = f"{examination.catalog.patient.patient_id} {examination.visit.date:%Y-%m-%d}"
        return {"name": examination.image_name, "PatientID": title, **self._info.get(key, {})}

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        strategy = info.get("strategy")
        if isinstance(strategy, dict):
            self._info[self._find(image_id)] = {"strategy": strategy}

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        key = self._find(image_id)
        return dict.fromkeys(_LABEL_TAGS, key) if key in self._studies.labelled() else {}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        return self.get_labels_by_image_id(image_id).get(tag, "")

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Path of the newest drawing as a label map with the viewers' values; a label's id is its image's."""
        key = self._find(label_id)
        with refusing():
            drawn = self._cases.drawing(self._studies.examination(key))
        if drawn is None:
            raise Refusal("Nobody has drawn on this examination.", status=404)
        made = write_labels(Volume(to_wire(drawn.labels.array), drawn.labels.geometry), ".nii.gz")
        return str(made.rename(self._temporary / f"label-{key}.nii.gz"))

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> Any:
        return Path(self.get_label_uri(label_id, label_tag)).read_bytes()

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        self._find(label_id)
        return {"params": {"label_names": dict(WIRE_VALUES)}}

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Store a drawing; see :meth:`monailabel_app.saving.Saving.save`."""
        with used_up(uploaded(label_filename)), refusing():
            key = self._find(image_id)
            named = label_info.get("label_info") or []
            if not isinstance(named, list) or not all(isinstance(item, dict) for item in named):
                raise Refusal("label_info must be a list of objects with a name.")
            if label_tag not in _LABEL_TAGS:
                raise Refusal(f"The tag {label_tag!r} is not known; submit as final.")
            client = client_of(label_info.get("client_id"), image_id)
            self._saving.save(key, Path(label_filename), client, named)
            return key

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        return [{"image": key, "label": key} for key in self.get_labeled_images()]

    def status(self) -> dict[str, Any]:
        keys, drawn = self._studies.keys(), self._studies.labelled()
        completed = sum(key in drawn for key in keys)
        return {"total": len(keys), "completed": completed, "label_tags": {"final": completed}}

    def json(self) -> dict[str, Any]:
        """All entries as Slicer's plugin reads them: it loads the label tagged original when it opens a case."""
        labels = {
            tag: {"ext": ".nii.gz", "info": {"params": {"label_names": dict(WIRE_VALUES)}}}
            for tag in _LABEL_TAGS
        }
        drawn, keys = self._studies.labelled(), self._studies.keys()
        objects = {
            image: {
                "image": {"ext": ".nii.gz", "info": {"name": f"{case_of(image)}.nii.gz"}},
                "labels": labels if case_of(image) in drawn else {},
            }
            for image in (*keys, *self._openings)
            if case_of(image) in keys
        }
        return {"name": self.name(), "description": self.description(), "objects": objects}

    def note_opened(self, key: str, client_id: object) -> str:
        """Remember that a client opens a case and will see its newest drawing.

        Returns
        -------
        str
            The id under which the client gets it, see :func:`monailabel_app.clients.new_opening`.
        """
        image = new_opening(key, client_id)
        client = client_of(client_id, image)
        try:
            token = self._studies.examination(key).token
        except Refusal:
            # Counts as looked at, or a strategy would offer this case, and nothing else, for ever.
            self._opened.note(key, client, "", only_new=True)
            raise
        self._opened.note(key, client, token)
        self._answers.drop(key, client)
        if image != key:
            self._openings.append(image)
        return image

    def _find(self, image_id: str) -> str:
        """Id of the examination that an image's id means, that of one opening too."""
        return self._studies.find(case_of(image_id))

    def refresh(self) -> None:
        """Nothing to do: the studies are looked at whenever something is asked."""

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        _refuse_single_volume()

    def remove_image(self, image_id: str) -> None:
        raise Refusal("Images are removed in the folder or archive that holds them, not here.", status=405)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        raise Refusal("Drawings are removed in the folder or archive that holds them, not here.", status=405)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        raise Refusal("What a drawing says about itself stands in its DICOM object.", status=405)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        raise Refusal("Studies are exported from the folder or archive that holds them.", status=405)


def _refuse_single_volume() -> NoReturn:
    raise Refusal(SINGLE_VOLUME)


SINGLE_VOLUME = (
    "OncoTwin cannot work on one uploaded volume: it needs the DICOM study with T1CE and its sibling series. Put the "
    "study into the server's folder or PACS and open it by Next Sample."
)
"""What a viewer shows when somebody opens a volume of his own."""
