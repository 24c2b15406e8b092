"""Hashed lock of requirements: ``python -m container.lock requirements.txt -o requirements.lock``.

pip resolves; this writes down what it chose, one hash each, so that an image can be built from a folder of wheels
without a network and with nothing but these files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEADER = """\
# Made by `make lock` from {source} for CPython 3.11 on Linux x86-64; do not edit.
# pip install --require-hashes --no-index --find-links WHEELS -r {name}
"""


def resolve(requirements: Path) -> list[dict[str, Any]]:
    """What pip would install for a requirements file, as the entries of its installation report.

    Raises
    ------
    subprocess.CalledProcessError
        If pip cannot resolve the requirements; its own message is on stderr.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--only-binary=:all:", "--report=-", f"--requirement={requirements}"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return list(report["install"])


def lock_text(entries: Sequence[dict[str, Any]], source: str, name: str) -> str:
    """Text of the lock: name, version and SHA-256 of every wheel, by name."""
    lines = []
    for entry in entries:
        digest = entry["download_info"]["archive_info"]["hashes"]["sha256"]
        package = entry["metadata"]
        lines.append(f"{package['name'].lower()}=={package['version']} --hash=sha256:{digest}")
    return HEADER.format(source=source, name=name) + "\n".join(sorted(lines)) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the lock file."""
    parser = argparse.ArgumentParser(prog="python -m container.lock", description=__doc__)
    parser.add_argument("requirements", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    text = lock_text(resolve(options.requirements), options.requirements.name, options.output.name)
    aside = options.output.with_name(f".{options.output.name}.partial")
    aside.write_text(text, encoding="utf-8")
    aside.rename(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
