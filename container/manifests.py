"""Manifests of the package, from ``app.yaml``: ``python -m container.manifests app.yaml --models models -o etc``.

The form is that of the packager of MONAI Deploy (Holoscan application package 1.0), which itself needs a network, a
vendor's base image and an entry point that loses the exit code.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.settings import Settings, load_settings

API_VERSION = "1.0.0"
APPLICATION_ROOT = "/opt/holoscan/app"
MODEL_ROOT = "/opt/holoscan/models"
WORKING_DIRECTORY = "/var/holoscan"
COMMAND = ["/opt/venv/bin/python", "-m", "container"]

# Also the environment of the image; the Dockerfile repeats it and a test compares the two.
ENVIRONMENT = {
    "HOLOSCAN_APPLICATION": APPLICATION_ROOT,
    "HOLOSCAN_INPUT_PATH": f"{WORKING_DIRECTORY}/input",
    "HOLOSCAN_OUTPUT_PATH": f"{WORKING_DIRECTORY}/output",
    "HOLOSCAN_WORKDIR": WORKING_DIRECTORY,
    "HOLOSCAN_MODEL_PATH": MODEL_ROOT,
    "HOLOSCAN_CONFIG_PATH": f"{WORKING_DIRECTORY}/app.yaml",
    "HOLOSCAN_APP_MANIFEST_PATH": "/etc/holoscan/app.json",
    "HOLOSCAN_PKG_MANIFEST_PATH": "/etc/holoscan/pkg.json",
    "HOLOSCAN_DOCS_PATH": "/opt/holoscan/docs",
    "HOLOSCAN_LOGS_PATH": f"{WORKING_DIRECTORY}/logs",
}


def application_manifest(settings: Settings) -> dict[str, Any]:
    """``app.json``: how to run the application. ``command`` is a list as JSON text, as the packager writes it."""
    application = settings.application
    return {
        "apiVersion": API_VERSION,
        "command": json.dumps(COMMAND),
        "environment": ENVIRONMENT,
        "input": {"path": ENVIRONMENT["HOLOSCAN_INPUT_PATH"], "formats": application.input_formats},
        "liveness": None,
        "output": {"path": ENVIRONMENT["HOLOSCAN_OUTPUT_PATH"], "formats": application.output_formats},
        "readiness": None,
        "sdk": "monai-deploy",
        "sdkVersion": version("monai-deploy-app-sdk"),
        "timeout": application.timeout,
        "version": application.version,
        "workingDirectory": WORKING_DIRECTORY,
    }


def package_manifest(settings: Settings, models: Path) -> dict[str, Any]:
    """``pkg.json``: what is where and what it needs."""
    return {
        "apiVersion": API_VERSION,
        "applicationRoot": APPLICATION_ROOT,
        "modelRoot": MODEL_ROOT,
        "models": {folder.name: f"{MODEL_ROOT}/{folder.name}" for folder in sorted(models.iterdir())},
        "resources": settings.resources.model_dump(by_alias=True),
        "version": settings.application.version,
        "platformConfig": "cpu",
    }


def mercure_manifest(settings: Settings) -> dict[str, Any]:
    """``/etc/monai/app.json``: mercure hands ``command`` to the engine as it is, so it must be a list."""
    return application_manifest(settings) | {"command": COMMAND}


def main(arguments: list[str] | None = None) -> int:
    """Write ``holoscan/app.json``, ``holoscan/pkg.json`` and ``monai/app.json`` below a folder such as /etc."""
    parser = argparse.ArgumentParser(prog="python -m container.manifests", description=__doc__)
    parser.add_argument("settings", type=Path, help="app.yaml")
    parser.add_argument("--models", type=Path, required=True, help="folder with one folder per model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    settings = load_settings(options.settings)
    documents = {
        "holoscan/app.json": application_manifest(settings),
        "holoscan/pkg.json": package_manifest(settings, options.models),
        "monai/app.json": mercure_manifest(settings),
    }
    for name, document in documents.items():
        path = options.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
