"""What every inference task shares: a request that was checked, and an answer as viewers take it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging.geometry import Volume
from imaging.series import Series
from monailabel_app.answers import Answers
from monailabel_app.cases import Cases
from monailabel_app.configuration import Configuration
from monailabel_app.display import Display
from monailabel_app.label_files import write_labels
from monailabel_app.models import Models
from monailabel_app.network import Network
from monailabel_app.opened import OpenedCases
from monailabel_app.refusal import DATA_ERRORS, as_refusal
from monailabel_app.studies import Examination, Studies
from monailabel_app.upstream import InferTask, InferType


@dataclass(frozen=True, eq=False)
class Server:
    """Everything the tasks work with."""

    configuration: Configuration
    studies: Studies
    cases: Cases
    models: Models
    network: Network
    opened: OpenedCases
    answers: Answers


@dataclass(frozen=True, eq=False)
class TaskRequest:
    """A request after its check.

    Parameters
    ----------
    examination : Examination
        The case.
    client : str
        Who asks.
    parameters : mapping
        What the task understands; nothing that names a path or device.
    mask : pathlib.Path or None
        Label map that came with it.
    shown : Series or None
        Series of the visit that the viewer shows, where it named one.
    """

    examination: Examination
    client: str
    parameters: Mapping[str, Any]
    mask: Path | None
    shown: Series | None = None


@dataclass(frozen=True, eq=False)
class TaskAnswer:
    """What a viewer gets.

    Parameters
    ----------
    labels : Volume
        uint8 on the grid of the reference image, values as in ``names``.
    names : mapping
        Segment name to value, 1 to N without a gap.
    said : mapping
        Further entries of the answer's JSON.
    """

    labels: Volume
    names: Mapping[str, int]
    said: Mapping[str, Any]


class CaseTask(InferTask):
    """A task on one examination.

    Parameters
    ----------
    server : Server
        What it works with.
    type, names, description, config
        As MONAI Label's ``InferTask`` takes them; every name in ``names`` has its value in the answer.
    """

    parameters: tuple[str, ...] = ()
    """Names of the request parameters that it understands; all others are dropped."""

    def __init__(
        self,
        server: Server,
        type: InferType,
        names: Mapping[str, int],
        description: str,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            type=type, labels=dict(names), dimension=3, description=description, config=dict(config or {})
        )
        self.server = server

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: TaskRequest) -> tuple[str, dict[str, Any]]:
        """Path of the answer's label map, and its JSON."""
        try:
            answer = self.answer(request)
            labels = answer.labels
            if request.shown is not None and request.shown.uid != request.examination.reference.uid:
                labels = self.display(request).labels(labels)
        except DATA_ERRORS as error:
            raise as_refusal(error) from error
        said = {"label_names": dict(answer.names), **answer.said}
        return str(write_labels(labels)), said

    def display(self, request: TaskRequest) -> Display:
        """Where the viewer's voxels lie."""
        return Display.of(self.server.cases.prepared(request.examination), request.shown)

    @abstractmethod
    def answer(self, request: TaskRequest) -> TaskAnswer:
        """Do the task; ImagingError, ModelError and TwinError become a message in the viewer."""
