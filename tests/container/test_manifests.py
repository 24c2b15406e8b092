"""Manifests, Dockerfile and lock say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from holoscan_cli.packager.manifest_files import ApplicationManifest, PackageManifest

from app.settings import load_settings
from container import manifests

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = load_settings(ROOT / "app.yaml")


def test_same_keys_as_the_packager() -> None:
    assert manifests.application_manifest(SETTINGS).keys() == ApplicationManifest().data.keys()
    assert manifests.package_manifest(SETTINGS, ROOT / "models").keys() == PackageManifest().data.keys()


def test_command_line_writes_them(tmp_path: Path) -> None:
    assert (
        manifests.main([str(ROOT / "app.yaml"), "--models", str(ROOT / "models"), "-o", str(tmp_path)]) == 0
    )
    application = json.loads((tmp_path / "holoscan" / "app.json").read_text())
    package = json.loads((tmp_path / "holoscan" / "pkg.json").read_text())
    assert json.loads(application["command"]) == manifests.COMMAND
    assert application["version"] == package["version"] == SETTINGS.application.version
    assert application["timeout"] > 0
    assert package["models"] == {"oncotwin_brats": "/opt/holoscan/models/oncotwin_brats"}
    assert package["resources"]["memory"] == "8Gi"
    assert json.loads((tmp_path / "monai" / "app.json").read_text())["command"] == manifests.COMMAND


def test_dockerfile_repeats_the_environment_and_the_command() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    environment = dict(re.findall(r"(HOLOSCAN_\w+)=(\S+)", dockerfile))
    assert environment == manifests.ENVIRONMENT
    # The last stage is the application's.
    *_, entry_point = re.findall(r"^ENTRYPOINT (.*)$", dockerfile, re.MULTILINE)
    assert json.loads(entry_point) == manifests.COMMAND


def locked(name: str) -> dict[str, str]:
    return dict(
        re.fullmatch(r"(\S+)==(\S+) --hash=sha256:[0-9a-f]{64}", line).groups()  # type: ignore[union-attr]
        for line in (ROOT / name).read_text().splitlines()
        if not line.startswith("#")
    )


def test_the_lock_for_gpus_differs_in_torch_only() -> None:
    """CUDA's torch and what it brings; every other package in the version that was tested."""
    cpu, gpu = locked("requirements.lock"), locked("requirements-cuda.lock")
    assert {name: version.partition("+")[0] for name, version in cpu.items()}.items() <= gpu.items()
    added = gpu.keys() - cpu.keys()
    assert all(name.startswith(("nvidia-", "cuda-")) or name == "triton" for name in added), added


@pytest.mark.parametrize("source", ["requirements.txt", "requirements-gateway.txt", "requirements-label.txt"])
def test_locks_hold_every_pin_with_a_hash(source: str) -> None:
    """The services' lock goes in beside the application's and repeats nothing of it."""
    application, services = locked("requirements.lock"), locked("requirements-services.lock")
    assert not application.keys() & services.keys()
    known = application if source == "requirements.txt" else application | services
    held = {re.sub("[-_.]+", "-", name): version.split("+")[0] for name, version in known.items()}
    pins = re.findall(r"^([\w.-]+)(?:\[\w+\])?==(\S+)$", (ROOT / source).read_text(), re.MULTILINE)
    assert pins
    for name, version in pins:
        assert held[re.sub("[-_.]+", "-", name).lower()] == version, f"{name}: run make lock"
