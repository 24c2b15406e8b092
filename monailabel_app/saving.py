"""A clinician's drawing to DICOM SEG, without losing anybody's work."""

from __future__ import annotations

import hashlib
import logging
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from imaging.geometry import Volume
from imaging.report_content import ModelIdentity, SoftwareIdentity
from imaging.writers.identity import RunIdentity
from imaging.writers.segmentation import write_segmentation
from monailabel_app.answers import Answer, Answers
from monailabel_app.cases import Cases
from monailabel_app.clients import SET_A_NAME, has_name
from monailabel_app.label_files import read_labels
from monailabel_app.label_values import from_wire
from monailabel_app.models import Models
from monailabel_app.opened import OpenedCases
from monailabel_app.refusal import Refusal
from monailabel_app.studies import Examination, Studies, place

log = logging.getLogger("oncotwin.label")

_BY_HAND = ModelIdentity("drawn by hand", "1", "")
_SOMEBODY_ELSE = (
    "Somebody else has saved this case since you opened it. Their drawing is in the archive; yours was not stored as "
    "the newest, but kept on the server. Look at theirs by Next Sample, strategy finished; or submit again to store "
    "yours on top of it."
)


class Saving:
    """Stores drawings.

    Parameters
    ----------
    kept : pathlib.Path
        Folder for drawings that met a newer one.
    version : str
        Of the product.
    """

    def __init__(
        self,
        studies: Studies,
        cases: Cases,
        models: Models,
        opened: OpenedCases,
        answers: Answers,
        kept: Path,
        version: str,
    ) -> None:
        self._studies = studies
        self._cases = cases
        self._models = models
        self._opened = opened
        self._answers = answers
        self._kept = kept
        self._version = version

    def save(self, key: str, file: Path, client: str, label_info: Sequence[Mapping[str, Any]]) -> str:
        """Store a drawing as the newest of its visit.

        Parameters
        ----------
        key : str
            Examination.
        file : pathlib.Path
            Label map as the viewer sent it.
        client : str
            Who sent it, see :func:`monailabel_app.clients.client_of`.
        label_info : sequence of mapping
            See :func:`monailabel_app.label_values.from_wire`.

        Returns
        -------
        str
            SOP Instance UID of the DICOM SEG.

        Raises
        ------
        Refusal
            400 if the drawing cannot be used; 409 if somebody else saved since this client opened the case: the
            drawing is then kept aside, and submitting it again stores it on top.
        """
        examination = self._studies.examination(key)
        # Header geometry is enough to check the grid; images are read only when they are shown.
        grid = examination.reference.geometry
        assert grid is not None, "a series that makes a volume has a grid"
        sent = read_labels(file, grid)
        labels = sent.with_array(from_wire(sent.array, label_info))
        named = has_name(client)
        # Of a client that nobody knows, only the same drawing once more is the same person's second try.
        client = client or hashlib.sha256(labels.array.tobytes()).hexdigest()
        answer = self._answers.get(key, client, self._opened.seen(key, client))
        corrected = answer is not None and answer.from_network
        if self._opened.is_stale(key, client, examination.token):
            self._keep_aside(examination, labels)
            self._know(key, client, labels, corrected, examination.token)
            raise Refusal(_SOMEBODY_ELSE if named else f"{_SOMEBODY_ELSE} {SET_A_NAME}", status=409)
        uid = self._write(examination, labels, "corrected_network" if corrected else "dicom_seg")
        self._know(key, client, labels, corrected, self._studies.examination(key).token)
        log.info("stored a drawing")
        return uid

    def _know(self, key: str, client: str, labels: Volume, corrected: bool, token: str) -> None:
        """What was sent is what the client has before it, and the newest drawing is known to it."""
        self._opened.note(key, client, token)
        self._answers.put(key, client, Answer(labels, corrected, seen=token))

    def _write(self, examination: Examination, labels: Volume, source: str) -> str:
        model = self._models.identity if source == "corrected_network" else _BY_HAND
        now = _after(examination, datetime.now())
        content = hashlib.sha256(labels.array.tobytes()).hexdigest()
        software = SoftwareIdentity("OncoTwin Label", self._version, "OncoTwin", content, now.isoformat())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"drawing-{now:%Y%m%d%H%M%S}-{secrets.token_hex(3)}.dcm"
            written = write_segmentation(
                path,
                sources=examination.reference.datasets(),
                labels=labels,
                kind="measured",
                identity=RunIdentity.of(software, model),
                software=software,
                model=model,
                date=now,
                segmentation_source=source,
            )
            self._studies.keep(examination, path)
        return written.sop_instance_uid

    def _keep_aside(self, examination: Examination, labels: Volume) -> None:
        self._kept.mkdir(parents=True, exist_ok=True)
        name = f"{examination.key}-{datetime.now():%Y%m%d%H%M%S}-{secrets.token_hex(3)}.nii.gz"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            labels.save_nifti(path)
            place(path, self._kept / name)


def _after(examination: Examination, now: datetime) -> datetime:
    """The moment of saving in DICOM's whole seconds; later than the newest drawing, which it must succeed."""
    now = now.replace(microsecond=0)
    drawn = examination.drawing
    if drawn is None or drawn.created is None:
        return now
    created = drawn.created.replace(tzinfo=None)
    return max(now, created.replace(microsecond=0) + timedelta(seconds=1))
