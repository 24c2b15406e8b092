"""Entry point of the container: without arguments it runs the application and ends with the application's exit code.

``show`` prints the manifests, ``env`` the package's variables, ``extract`` copies application, models, manifests and
documents to the folders mounted below ``/var/run/holoscan/export``. Anything else goes to the application.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from container.supervisor import Supervisor

EXPORT = Path("/var/run/holoscan/export")
USAGE = 2
_COMMANDS = ("show", "env", "extract")


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for; returns the exit code."""
    if arguments[:1] == ["tools"]:
        arguments = arguments[1:]
    command = arguments[0] if arguments else ""
    if command in _COMMANDS:
        if len(arguments) > 1:
            print(f"oncotwin: {command} takes no arguments.", file=sys.stderr)
            return USAGE
        return {"show": show, "env": show_environment, "extract": extract}[command]()
    return run(arguments)


def run(arguments: list[str]) -> int:
    """Run the application with the folders that the caller's platform names."""
    # mercure mounts its own folders and names them so, whatever kind of module it starts.
    for platform, ours in (("MERCURE_IN_DIR", "INPUT"), ("MERCURE_OUT_DIR", "OUTPUT")):
        if platform in os.environ:
            os.environ[f"HOLOSCAN_{ours}_PATH"] = os.environ[platform]
    os.environ["ONCOTWIN_PROGRESS"] = "json"
    output = _option(arguments, "-o", "--output") or os.environ.get("HOLOSCAN_OUTPUT_PATH", "")
    try:
        limit = _time_limit()
    except ValueError as error:
        print(f"oncotwin: {error}", file=sys.stderr)
        return USAGE
    return Supervisor(Path(output), limit).run([sys.executable, "-m", "app", *arguments])


def show() -> int:
    """Print app.json and pkg.json."""
    for variable in ("HOLOSCAN_APP_MANIFEST_PATH", "HOLOSCAN_PKG_MANIFEST_PATH"):
        print(json.dumps(_manifest(variable), indent=2))
    return 0


def show_environment() -> int:
    """Print the package's variables."""
    for name in sorted(os.environ):
        if name.startswith(("HOLOSCAN_", "ONCOTWIN_")):
            print(f"{name}={os.environ[name]}")
    return 0


def extract() -> int:
    """Copy the parts of the package to the mounted folders; into all four when only their parent is mounted."""
    sources = {
        "app": [Path(os.environ["HOLOSCAN_APPLICATION"])],
        "models": [Path(os.environ["HOLOSCAN_MODEL_PATH"])],
        "docs": [Path(os.environ["HOLOSCAN_DOCS_PATH"])],
        "config": [
            Path(os.environ[f"HOLOSCAN_{name}_PATH"]) for name in ("APP_MANIFEST", "PKG_MANIFEST", "CONFIG")
        ],
    }
    if not EXPORT.is_dir():
        print(
            f"oncotwin: mount a folder at {EXPORT} or at {EXPORT}/app, …/config, …/docs, …/models.",
            file=sys.stderr,
        )
        return USAGE
    wanted = [name for name in sources if (EXPORT / name).is_dir()] or list(sources)
    try:
        for name in wanted:
            target = EXPORT / name
            target.mkdir(exist_ok=True)
            for source in sources[name]:
                if source.is_dir():
                    shutil.copytree(source, target, dirs_exist_ok=True)
                else:
                    shutil.copyfile(source, target / source.name)
            print(f"{name}: {target}")
    except OSError as error:
        print(
            f"oncotwin: {EXPORT} cannot be written ({error.strerror}); give this user permission.",
            file=sys.stderr,
        )
        return 7
    return 0


def _time_limit() -> float:
    """Seconds from HOLOSCAN_TIMEOUT, else from app.json; 0 means none."""
    text = os.environ.get("HOLOSCAN_TIMEOUT") or str(
        _manifest("HOLOSCAN_APP_MANIFEST_PATH").get("timeout", 0)
    )
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ValueError(f"HOLOSCAN_TIMEOUT is {text!r}; give seconds, 0 for no limit.")
    return limit


def _manifest(variable: str) -> dict[str, Any]:
    path = Path(os.environ.get(variable, ""))
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _option(arguments: list[str], *names: str) -> str:
    """Value of an option of the application, in the forms ``-o X``, ``-oX``, ``--output X`` and ``--output=X``."""
    for position, argument in enumerate(arguments):
        for name in names:
            if argument == name and position + 1 < len(arguments):
                return arguments[position + 1]
            joined = f"{name}=" if name.startswith("--") else name
            if argument.startswith(joined) and argument != name:
                return argument.removeprefix(joined)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
