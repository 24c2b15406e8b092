"""Command line of the server: ``python -m monailabel_app --studies FOLDER_OR_URL``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import psutil

APP_FOLDER = Path(__file__).resolve().parent
ROOT = APP_FOLDER.parent
_GRACE_SECONDS = 5


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m monailabel_app",
        description="MONAI Label server for 3D Slicer and OHIF: correct the tumour on whole MR studies. Research use "
        "only, not a medical device.",
    )
    parser.add_argument("--studies", required=True, help="folder of DICOM studies, or DICOMweb URL of a PACS")
    parser.add_argument(
        "--state",
        type=Path,
        help="folder for published models, caches and drawings kept aside; holds patient data "
        "(default: oncotwin-label in the user's XDG state folder)",
    )
    parser.add_argument("-m", "--models", type=Path, default=ROOT / "models", help="bundle to begin with")
    parser.add_argument("--config", type=Path, default=ROOT / "app.yaml", help="settings of the application")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--token-file", type=Path, help="file whose first line is the token that all users must give"
    )
    parser.add_argument("--max-upload-mb", type=int, default=512, help="largest request taken")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; 0 after a clean stop, 2 on settings that cannot be used."""
    options = parse_arguments(arguments)
    remote = options.studies.startswith(("http://", "https://"))
    if not remote and not Path(options.studies).is_dir():
        return _refuse(f"{options.studies} is no folder; give the folder of studies or a DICOMweb URL.")
    token = _read_token(options.token_file) if options.token_file else None
    if options.token_file and not token:
        return _refuse(f"{options.token_file} cannot be read or its first line is empty.")
    studies = options.studies.rstrip("/") if remote else str(Path(options.studies).resolve())
    conf = {"models": str(options.models.resolve()), "config": str(options.config.resolve())}
    if options.state:
        conf["state"] = str(options.state.resolve())

    # Heavy: torch and MONAI. After the cheap checks, so that a typing error is told at once.
    from monailabel_app.configuration import ConfigurationError, read_configuration
    from segmentation.bundle import find_bundle
    from segmentation.errors import ModelError

    try:
        read_configuration(studies, conf)
        find_bundle(options.models)
    except (ConfigurationError, ModelError) as error:
        return _refuse(str(error))
    temporary = Path(tempfile.mkdtemp(prefix="oncotwin-label-"))
    try:
        _serve(options, studies, conf, token, temporary)
    finally:
        stop_children()
        shutil.rmtree(temporary, ignore_errors=True)
    return 0


def _serve(
    options: argparse.Namespace, studies: str, conf: dict[str, str], token: str | None, temporary: Path
) -> None:
    _keep_quiet()
    # Uploads are told from paths by lying here; subprocesses inherit it.
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    # Training runs in a subprocess that finds the application by these alone.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["MONAI_LABEL_APP_DIR"] = str(APP_FOLDER)
    os.environ["MONAI_LABEL_STUDIES"] = studies
    os.environ["MONAI_LABEL_APP_CONF"] = json.dumps(conf)
    os.environ["MONAI_LABEL_SERVER_PORT"] = str(options.port)

    import uvicorn

    from monailabel_app.server import web_application

    application = web_application(options.max_upload_mb * 2**20, token)
    print(f"OncoTwin Label on http://{options.host}:{options.port}/", file=sys.stderr)
    uvicorn.run(
        application,
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,
        log_level="warning",
    )


def stop_children() -> None:
    """End training and scoring that still run: they must not outlive the server that started them."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        child.terminate()
    _, alive = psutil.wait_procs(children, timeout=_GRACE_SECONDS)
    for child in alive:
        child.kill()


def _keep_quiet() -> None:
    """MONAI Label logs whole requests and answers, and DICOM libraries values of attributes: patient data."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("oncotwin").setLevel(logging.INFO)
    for library in ("monailabel", "pydicom", "highdicom", "dicomweb_client"):
        warnings.filterwarnings("ignore", module=library)
        logging.getLogger(library).setLevel(logging.ERROR)


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _refuse(sentence: str) -> int:
    print(f"oncotwin-label: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
