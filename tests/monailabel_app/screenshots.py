"""The pictures of OHIF in docs/: ``python -m tests.monailabel_app.screenshots docs/images`` (root, a few minutes).

The second visit of the demo's patient in an archive, segmented by the shipped model from OHIF's panel, once over T1CE
and once over FLAIR.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import requests

from tests.monailabel_app.ohif import opened
from tests.monailabel_app.orthanc import DICOMWEB, Orthanc
from tests.monailabel_app.private_network import PrivateNetwork
from tests.monailabel_app.served import RunningServer, start_server
from training.phantom import PhantomSettings, make_phantom

_PICTURES = {"t1ce": "ohif-tumour.png", "flair": "ohif-flair.png"}


Service = TypeVar("Service", Orthanc, RunningServer)


def write_pictures(target: Path, settings: PhantomSettings) -> None:
    """Write a picture a contrast into ``target``.

    Raises
    ------
    RuntimeError
        If the model does not answer or nothing shows over an image: no picture of that is kept.
    """
    with tempfile.TemporaryDirectory() as name, PrivateNetwork(), ExitStack() as closing:
        folder = Path(name)
        phantom = make_phantom(folder / "patient", settings)
        archive = closing.enter_context(stopped(Orthanc(folder / "orthanc")))
        archive.send(phantom.dicom_folder)
        arguments = ["--studies", DICOMWEB, "--state", str(folder / "state")]
        server = closing.enter_context(stopped(start_server(folder / "server.log", arguments)))
        visit = phantom.visits[-1]
        # The first answer takes the registrations; the browser would not wait for them on a busy machine.
        asked = f"{server.url}/infer/tumour?image={visit.study_instance_uid}&output=image"
        requests.post(asked, data={"params": "{}"}, timeout=1800).raise_for_status()
        labels = visit.labels
        middle = labels.geometry.to_patient(np.argwhere(labels.array)).mean(axis=0)
        with opened(server.url) as ohif:
            for role, picture in _PICTURES.items():
                ohif.open(visit.study_instance_uid)
                ohif.show(visit.series[role])
                ohif.connect()
                ohif.jump_to(middle)
                before = ohif.coloured()
                status = ohif.run("tumour")
                ohif.jump_to(middle)
                if status != 200 or ohif.coloured() < before + 100:
                    raise RuntimeError(f"nothing shows over {role} (status {status}): no picture written")
                ohif.page.screenshot(path=target / picture)


@contextmanager
def stopped(service: Service) -> Iterator[Service]:
    """Stops a service at the end, whatever happens."""
    try:
        yield service
    finally:
        service.stop()


def main() -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m tests.monailabel_app.screenshots", description=__doc__)
    parser.add_argument("target", type=Path, help="folder for the pictures")
    parser.add_argument("--preset", choices=("demo", "small"), default="demo")
    options = parser.parse_args()
    options.target.mkdir(parents=True, exist_ok=True)
    write_pictures(options.target, PhantomSettings(preset=options.preset))
    print(*(options.target / picture for picture in _PICTURES.values()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
