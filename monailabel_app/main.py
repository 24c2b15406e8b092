"""The application that MONAI Label loads, in the server and in its subprocesses: every request is checked here."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from monailabel_app.answers import Answers
from monailabel_app.archive import Archive, ArchivedStudies
from monailabel_app.cases import Cases
from monailabel_app.click_task import ClickTask
from monailabel_app.clients import case_of, client_of
from monailabel_app.configuration import Configuration, read_configuration
from monailabel_app.datastore import SINGLE_VOLUME, ExaminationDatastore
from monailabel_app.growth import Growth
from monailabel_app.label_values import WIRE_VALUES
from monailabel_app.models import Models
from monailabel_app.network import Network
from monailabel_app.opened import OpenedCases
from monailabel_app.refusal import Refusal, refusing
from monailabel_app.sampling import FinishedCase, MostTelling, RandomCase
from monailabel_app.saving import Saving
from monailabel_app.scoring import Scores, scoring_methods
from monailabel_app.scribble_task import ScribbleTask
from monailabel_app.studies import FolderStudies, Studies
from monailabel_app.tasks import Server, TaskRequest
from monailabel_app.training_task import FineTuningTask
from monailabel_app.tumour_task import NetworkTask, TumourTask
from monailabel_app.twin_tasks import ForecastTask, TwinCheckTask
from monailabel_app.uncertainty_task import UncertaintyTask
from monailabel_app.uploads import uploaded, used_up
from monailabel_app.upstream import MONAILabelApp

log = logging.getLogger("oncotwin.label")


class OncoTwinLabel(MONAILabelApp):
    """Tumour correction over whole DICOM studies.

    Parameters
    ----------
    app_dir, studies, conf
        As MONAI Label gives them; ``conf`` as :func:`monailabel_app.configuration.read_configuration` takes it.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.configuration = read_configuration(studies, conf)
        self.server = build_server(self.configuration)
        self._growth = Growth(self.server)
        self._scores = Scores(self.configuration.state / "scores.json")
        super().__init__(
            app_dir,
            studies,
            dict(conf),
            name="OncoTwin",
            description="Glioma on whole MR studies, with the growth model beside it. Research use only.",
            version=self.configuration.version,
            labels=list(WIRE_VALUES),
        )

    def init_datastore(self) -> ExaminationDatastore:
        server = self.server
        saving = Saving(
            server.studies,
            server.cases,
            server.models,
            server.opened,
            server.answers,
            self.configuration.state / "kept",
            self.configuration.version,
        )
        temporary = Path(tempfile.mkdtemp())
        return ExaminationDatastore(
            server.studies, server.cases, saving, server.opened, server.answers, temporary
        )

    def init_infers(self) -> dict[str, Any]:
        # Slicer runs the first one by itself when it opens a case, if it is told to run models by itself.
        return {
            "tumour": TumourTask(self.server),
            "network": NetworkTask(self.server),
            "clicks": ClickTask(self.server),
            "scribbles": ScribbleTask(self.server),
            "uncertainty": UncertaintyTask(self.server),
            "forecast": ForecastTask(self.server, self._growth),
            "twin_check": TwinCheckTask(self.server, self._growth),
        }

    def init_trainers(self) -> dict[str, Any]:
        return {"network": FineTuningTask(self.server)}

    def train(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Train a model, in the subprocess that MONAI Label started for it."""
        self._begin_subprocess()
        task = self._trainers.get(request.get("model"))
        if task is None:
            raise Refusal(f"There is no trainer {request.get('model')!r} here.", status=404)
        known = {name: request[name] for name in task.config() if name in request}
        done: dict[str, Any] = task(known, self._datastore)
        return done

    def scoring(self, request: Mapping[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Score cases, in the subprocess that MONAI Label started for it."""
        self._begin_subprocess()
        method = self._scoring_methods.get(request.get("method"))
        if method is None:
            raise Refusal(f"There is no scoring method {request.get('method')!r} here.", status=404)
        done: dict[str, Any] = method({}, self._datastore)
        return done

    def _begin_subprocess(self) -> None:
        """In the server itself long work would keep everybody waiting; beside it, it must not outlive the server."""
        if self._server_mode:
            raise Refusal("Training and scoring run beside the server; leave out run_sync.")
        exit_with_parent()

    def init_strategies(self) -> dict[str, Any]:
        opened, models = self.server.opened, self.server.models

        def most_telling(method: str, description: str) -> MostTelling:
            return MostTelling(
                opened,
                lambda: self._scores.of(method, models.identity.sha256),
                description,
                lambda key: self._scoring_methods[method].is_current(key),
            )

        return {
            "random": RandomCase(opened),
            "epistemic": most_telling("epistemic", "The case on which the network is least stable"),
            "twin": most_telling("twin", "The case on which network and twin disagree most"),
            "finished": FinishedCase(opened),
        }

    def init_scoring_methods(self) -> dict[str, Any]:
        return scoring_methods(self.server, self._growth, self._scores)

    def infer(self, request: Mapping[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Run a task; only the examination, the client and what the task declares reach it."""
        task = self._infers.get(request.get("model"))
        if task is None:
            raise Refusal(f"There is no model {request.get('model')!r} here.", status=404)
        image = request.get("image")
        if request.get("session") or not isinstance(image, str) or not image:
            raise Refusal(SINGLE_VOLUME)
        mask = uploaded(request.get("label"))
        with used_up(mask), refusing():
            examination = self.server.studies.examination(self.server.studies.find(case_of(image)))
            checked = TaskRequest(
                examination=examination,
                client=client_of(request.get("client_id"), image),
                parameters={name: request[name] for name in task.parameters if name in request},
                mask=mask,
                shown=next((series for series in examination.visit.series if series.uid == image), None),
            )
            file, said = task(checked)
        return {"label": file, "tag": "original", "file": file, "params": said}

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The case that a strategy picks; empty when there is none."""
        strategy = self._strategies.get(request.get("strategy"))
        if strategy is None:
            raise Refusal(f"There is no strategy {request.get('strategy')!r} here.", status=404)
        with refusing():
            picked: dict[str, Any] = strategy(request, self._datastore) or {}
            if picked:
                picked["id"] = self._datastore.note_opened(picked["id"], request.get("client_id"))
        return picked

    def sessions(self) -> NoReturn:
        """Sessions hold one uploaded volume."""
        raise Refusal(SINGLE_VOLUME)

    def batch_infer(self, request: Any, datastore: Any = None) -> NoReturn:
        raise Refusal("Use the application to segment many studies.", status=405)

    def infer_wsi(self, request: Any, datastore: Any = None) -> NoReturn:
        raise Refusal("There are no slides here.", status=405)

    def on_init_complete(self) -> None:
        """Nothing to schedule: there are no sessions to clean up, and no scoring runs unasked."""

    def on_save_label(self, image_id: str, label_id: str) -> None:
        """Nothing beyond what saving has done."""


def exit_with_parent() -> None:
    """End this process when the server that started it has gone, even if it was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def build_server(configuration: Configuration) -> Server:
    """Everything the tasks work with."""
    state = configuration.state
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    studies: Studies
    if configuration.is_remote:
        archive = Archive.at(configuration.studies)
        studies = ArchivedStudies(
            archive, state / "archive", state / "kept", configuration.visit_gap_hours, configuration.rules
        )
    else:
        folder = Path(configuration.studies)
        studies = FolderStudies(folder, configuration.visit_gap_hours, configuration.rules)
    cases = Cases(state / "images", configuration.seed)
    models = Models(state / "models", configuration.models, configuration.device)
    return Server(
        configuration=configuration,
        studies=studies,
        cases=cases,
        models=models,
        network=Network(cases, models, configuration.min_component_ml),
        opened=OpenedCases(state / "opened.json"),
        answers=Answers(),
    )
