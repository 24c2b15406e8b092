"""The container's command with the real application behind it, outside a container."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from container import __main__ as entry_point

ROOT = Path(__file__).resolve().parents[2]


def run(arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HOLOSCAN_", "MERCURE_"))}
    return subprocess.run(
        [sys.executable, "-m", "container", *arguments],
        cwd=ROOT, env=environment | variables, capture_output=True, text=True,
    )  # fmt: skip


def test_a_refused_input_keeps_its_exit_code_and_reason(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "task.json").write_text("{}")
    done = run([], HOLOSCAN_INPUT_PATH=str(tmp_path / "in"), HOLOSCAN_OUTPUT_PATH=str(tmp_path / "out"))
    assert done.returncode == 3
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines[0]["message"] == "starting"
    # how soon this is said is a promise of the image, see test_image.py: here the machine may be busy
    assert lines[0]["elapsed_s"] >= 0
    (failure,) = (line for line in lines if line["event"] == "failure")
    assert failure["reason"] == "not_dicom"
    assert failure["exit_code"] == 3
    assert not (tmp_path / "out").exists()


def test_mercure_names_its_folders_differently(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    done = run([], MERCURE_IN_DIR=str(tmp_path / "in"), MERCURE_OUT_DIR=str(tmp_path / "out"))
    assert done.returncode == 3
    assert "empty_input" in done.stderr


def test_unusable_time_limit_is_refused(tmp_path: Path) -> None:
    done = run(["-i", str(tmp_path), "-o", str(tmp_path / "out")], HOLOSCAN_TIMEOUT="soon")
    assert done.returncode == 2
    assert "'soon'" in done.stderr


@pytest.mark.parametrize("prefix", [[], ["tools"]])
def test_show_env_and_extract(
    prefix: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = {"APPLICATION": "app", "MODEL_PATH": "models", "DOCS_PATH": "docs"}
    for name, folder in package.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text(folder)
        monkeypatch.setenv(f"HOLOSCAN_{name}", str(tmp_path / folder))
    for name in ("APP_MANIFEST", "PKG_MANIFEST", "CONFIG"):
        (tmp_path / name).write_text(json.dumps({"name": name}))
        monkeypatch.setenv(f"HOLOSCAN_{name}_PATH", str(tmp_path / name))
    monkeypatch.setattr(entry_point, "EXPORT", tmp_path / "export")

    assert entry_point.main([*prefix, "show"]) == 0
    assert "PKG_MANIFEST" in capsys.readouterr().out
    assert entry_point.main([*prefix, "env"]) == 0
    assert f"HOLOSCAN_APPLICATION={tmp_path / 'app'}" in capsys.readouterr().out
    assert entry_point.main([*prefix, "extract"]) == 2
    (tmp_path / "export" / "models").mkdir(parents=True)
    assert entry_point.main([*prefix, "extract"]) == 0
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["models"]
    (tmp_path / "export" / "models" / "file").unlink()
    (tmp_path / "export" / "models").rmdir()
    assert entry_point.main([*prefix, "extract"]) == 0
    assert {path.name for path in (tmp_path / "export").iterdir()} == {"app", "config", "docs", "models"}
    assert {path.name for path in (tmp_path / "export" / "config").iterdir()} == {
        "APP_MANIFEST",
        "PKG_MANIFEST",
        "CONFIG",
    }


@pytest.mark.parametrize(
    "arguments", [["-o", "X"], ["-oX"], ["--output", "X"], ["--output=X"], ["-i", "Y", "-o", "X"]]
)
def test_output_folder_is_found_in_every_form(arguments: list[str]) -> None:
    assert entry_point._option(arguments, "-o", "--output") == "X"
