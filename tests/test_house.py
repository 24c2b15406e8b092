"""The rooms of the house and the arrows between them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def test_imports_go_down_the_house_only() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    application = yaml.safe_load((ROOT / "app.yaml").read_text())["application"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert project == application
    assert f"\n## {project}" in changelog


def test_importing_the_core_rooms_does_not_import_holoscan() -> None:
    code = "import imaging.geometry, twin, sys; sys.exit('holoscan' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
