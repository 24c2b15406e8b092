"""The built image, run as a hospital runs it; needs podman and ``make image``."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from container.manifests import COMMAND
from training.phantom import PhantomSettings, make_phantom

pytestmark = pytest.mark.image
ROOT = Path(__file__).resolve().parents[2]
IMAGE = os.environ.get("IMAGE", "localhost/oncotwin:0.1.0")
HARDENED = [
    "--network=none", "--read-only", "--tmpfs=/tmp:rw,size=512m", "--cap-drop=all",
    "--security-opt=no-new-privileges", "--memory=8g", "--pids-limit=512",
]  # fmt: skip
STRANGER = 4711
Start = Callable[..., list[str]]


def podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=600)


def mounted(patient: Path, output: Path, *arguments: str, user: int = STRANGER) -> list[str]:
    """podman's arguments for a run on these folders as a user that the image does not know."""
    output.mkdir(exist_ok=True)
    os.chown(output, user, user)
    folders = [f"-v={patient}:/var/holoscan/input:ro", f"-v={output}:/var/holoscan/output:rw"]
    return ["run", "--rm", *HARDENED, f"--user={user}:{user}", *folders, *arguments]


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patient")
    return make_phantom(folder, PhantomSettings(preset="small", visit_days=(0, 60))).dicom_folder


def test_size_and_labels() -> None:
    (image,) = json.loads(podman("image", "inspect", IMAGE).stdout)
    assert image["Size"] <= 2.0e9
    assert image["Config"]["User"] == "1000:1000"
    assert image["Config"]["Entrypoint"] == COMMAND
    assert image["Labels"]["org.opencontainers.image.version"] == "0.1.0"


def test_no_shell_no_compiler_no_set_user_programs() -> None:
    code = (
        "import os, shutil, stat\n"
        "for name in ('sh', 'bash', 'gcc', 'cc', 'apt-get', 'dpkg', 'perl', 'curl', 'wget', 'pip', 'su', 'mount'):\n"
        "    assert shutil.which(name) is None, name\n"
        "for parent, _, names in os.walk('/usr'):\n"
        "    for name in names:\n"
        "        assert not os.lstat(os.path.join(parent, name)).st_mode & (stat.S_ISUID | stat.S_ISGID), name\n"
        "assert not os.listdir('/var/lib/apt') if os.path.exists('/var/lib/apt') else True\n"
        "assert os.path.getsize('/var/lib/dpkg/status') > 10000\n"
    )
    done = podman("run", "--rm", "--network=none", "--entrypoint=python", IMAGE, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_whole_run_as_a_stranger(patient: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = podman(*mounted(patient, output, IMAGE))
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 0, lines[-5:]
    assert lines[0]["message"] == "starting"
    assert {line["event"] for line in lines} <= {"progress", "alive", "finished"}, "a library spoke"
    assert json.loads((output / "result.json").read_text())["status"] == "ok"
    assert not [path for path in output.iterdir() if path.name.startswith(".")]
    assert {path.stat().st_uid for path in output.iterdir()} == {STRANGER}


def test_first_line_within_five_seconds_and_exit_code(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    begun = time.monotonic()
    with subprocess.Popen(
        ["podman", *mounted(tmp_path / "in", tmp_path / "out", IMAGE)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
        assert time.monotonic() - begun < 5
        assert first["message"] == "starting"
        assert "empty_input" in process.stderr.read()
    assert process.returncode == 3
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("seconds", [0, 8, pytest.param(20, marks=pytest.mark.slow)])
def test_stop_leaves_nothing(patient: Path, tmp_path: Path, seconds: int) -> None:
    name = f"oncotwin-stop-{os.getpid()}-{seconds}"
    output = tmp_path / "out"
    with subprocess.Popen(
        ["podman", *mounted(patient, output, f"--name={name}", IMAGE)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "starting" in process.stderr.readline()
        time.sleep(seconds)
        begun = time.monotonic()
        podman("stop", "--time=30", name)
        process.stderr.read()
    assert time.monotonic() - begun < 5
    assert process.returncode == 143
    assert list(output.iterdir()) == []


def test_as_monai_deploy_run_calls_it(patient: Path, tmp_path: Path) -> None:
    """It copies the manifests out of a container that it never starts, and mounts what they say."""
    container = podman("create", IMAGE).stdout.strip()
    try:
        for name in ("app.json", "pkg.json"):
            assert podman("cp", f"{container}:/etc/holoscan/{name}", str(tmp_path)).returncode == 0
    finally:
        podman("rm", container)
    manifest = json.loads((tmp_path / "app.json").read_text())
    settings = tmp_path / "own.yaml"
    settings.write_text("not: ours\n")
    variables = [f"--env={key}={value}" for key, value in manifest["environment"].items()]
    config = f"-v={settings}:{manifest['environment']['HOLOSCAN_CONFIG_PATH']}:ro"
    done = podman(
        *mounted(
            patient, tmp_path / "out", config, *variables, f"--workdir={manifest['workingDirectory']}", IMAGE
        )
    )
    assert done.returncode == 2, "the mounted settings were not read"


def test_as_mercure_calls_it(tmp_path: Path) -> None:
    """It reads a manifest with cat, clears the entry point and runs the manifest's command."""
    shown = podman("run", "--rm", "--entrypoint=", IMAGE, "cat", "/etc/monai/app.json")
    command = json.loads(shown.stdout)["command"]
    for folder in ("data", "output"):
        (tmp_path / folder).mkdir()
        os.chown(tmp_path / folder, STRANGER, STRANGER)
    (tmp_path / "data" / "task.json").write_text("{}")
    folders = [f"-v={tmp_path / name}:/tmp/{name}:rw" for name in ("data", "output")]
    variables = ["--env=MERCURE_IN_DIR=/tmp/data", "--env=MERCURE_OUT_DIR=/tmp/output"]
    done = podman(
        "run", "--rm", "--network=none", f"--user={STRANGER}", *folders, *variables, "--entrypoint=", IMAGE, *command
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "not_dicom" in done.stderr


@pytest.mark.parametrize("command", [["show"], ["tools", "show"]])
def test_show(command: list[str]) -> None:
    assert '"modelRoot": "/opt/holoscan/models"' in podman("run", "--rm", IMAGE, *command).stdout


def test_extract(tmp_path: Path) -> None:
    os.chown(tmp_path, STRANGER, STRANGER)
    done = podman(
        "run", "--rm", f"--user={STRANGER}", f"-v={tmp_path}:/var/run/holoscan/export:rw", IMAGE, "extract"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "app" / "app" / "application.py").is_file()
    assert (tmp_path / "models" / "oncotwin_brats" / "models" / "model.safetensors").is_file()
    assert (tmp_path / "config" / "app.yaml").is_file()
    assert (tmp_path / "docs" / "architecture.md").is_file()
