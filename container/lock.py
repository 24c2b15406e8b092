"""Hashed lock of requirements: ``python -m container.lock requirements.txt -o requirements.lock``.

pip resolves; this writes down what it chose, one hash each, so that an image can be built from a folder of wheels
without a network and with nothing but these files. With ``--base`` the result holds what goes in beside another lock.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEADER = """\
# Made by `make lock` from {source} for CPython 3.11 on Linux x86-64; do not edit.
# pip install --require-hashes --no-index --find-links WHEELS -r {name}
"""


def resolve(requirements: Sequence[str], *options: str) -> list[dict[str, Any]]:
    """What pip would install for some requirements, as the entries of its installation report.

    Raises
    ------
    subprocess.CalledProcessError
        If pip cannot resolve the requirements; its own message is on stderr.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--only-binary=:all:", "--report=-", *options, *requirements]
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


def pins_of(lock: Path) -> dict[str, str]:
    """Versions in a lock by name."""
    return dict(re.findall(r"^([^#\s]\S*)==(\S+) ", lock.read_text(encoding="utf-8"), re.MULTILINE))


def main(arguments: list[str] | None = None) -> int:
    """Write the lock file."""
    parser = argparse.ArgumentParser(prog="python -m container.lock", description=__doc__)
    parser.add_argument("requirements", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--base", type=Path, help="lock whose versions hold and whose packages are left out")
    parser.add_argument("--like", type=Path, help="lock whose versions hold, whatever build of them there is")
    parser.add_argument(
        "--alone", metavar="PIN", action="append", default=[], help="package taken without what it asks for"
    )
    parser.add_argument(
        "--source",
        metavar="NAME",
        action="append",
        default=[],
        help="package that has no wheel, only a source",
    )
    options = parser.parse_args(arguments)
    wanted = [f"--requirement={path}" for path in options.requirements]
    known = set[str]()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        if options.base is not None:
            pins = pins_of(options.base)
            known = set(pins)
            constraints.write("".join(f"{name}=={version}\n" for name, version in pins.items()))
        if options.like is not None:
            pins = pins_of(options.like)
            constraints.write("".join(f"{n}=={v.partition('+')[0]}\n" for n, v in pins.items()))
        constraints.flush()
        sources = [f"--no-binary={name}" for name in options.source]
        entries = resolve(wanted, f"--constraint={constraints.name}", *sources)
    if options.alone:
        entries += resolve(options.alone, "--no-deps")
    entries = [entry for entry in entries if entry["metadata"]["name"].lower() not in known]
    source = " and ".join([*(path.name for path in options.requirements), *options.alone])
    text = lock_text(entries, source, options.output.name)
    aside = options.output.with_name(f".{options.output.name}.partial")
    aside.write_text(text, encoding="utf-8")
    aside.rename(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
