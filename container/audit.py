"""Known vulnerabilities of locked packages: ``python -m container.audit requirements.lock …``.

pip-audit asks a vulnerability service about every pin. Alone it says "no known vulnerabilities" of packages that the
service has never heard of, and where a package index has no such service at all: here a package that was not looked up
counts as not audited. Exit codes: 0 audited and nothing found, 1 something found or an exception expired, 2 usage,
75 not audited.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

ROOT = Path(__file__).resolve().parent.parent
EXCEPTIONS = ROOT / "container" / "audit-exceptions.yaml"
FOUND, USAGE, NOT_DONE = 1, 2, 75
_PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[^\s+]+)\S*")
_TIMEOUT_SECONDS = 600


class AuditException(BaseModel):
    """A vulnerability we live with for a while: ``id`` as the service names it, why, and the last day."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)
    id: str = Field(min_length=4)
    package: str = Field(min_length=1)
    reason: str = Field(min_length=20)
    expires: date


@dataclass(frozen=True)
class Finding:
    """A vulnerability of a pinned package; ``names`` are its identifier and aliases."""

    package: str
    version: str
    names: tuple[str, ...]
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        cure = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fixed version"
        return f"{self.package} {self.version}: {' '.join(self.names)} ({cure})"


@dataclass(frozen=True)
class Audit:
    """What the service said: findings, and the packages it could not be asked about."""

    findings: tuple[Finding, ...]
    skipped: tuple[str, ...]


def read_exceptions(path: Path) -> list[AuditException]:
    """The exceptions of a YAML file.

    Raises
    ------
    ValueError
        If an entry lacks a key, a proper reason or a date.
    """
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    try:
        return TypeAdapter(list[AuditException]).validate_python(entries)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: {problems}") from error


def pins_of(locks: Sequence[Path]) -> list[str]:
    """Pins of lock files without hashes and local version labels, which no service knows (``2.13.0+cpu``)."""
    lines = (line for lock in locks for line in lock.read_text(encoding="utf-8").splitlines())
    found = (_PIN.match(line) for line in lines if not line.startswith("#"))
    return sorted({f"{pin['name']}=={pin['version']}" for pin in found if pin is not None})


def ask_service(pins: Sequence[str]) -> Audit | None:
    """Ask pip-audit's service about pins; None when it does not answer."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text("\n".join(pins) + "\n")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--no-deps"]
        command += ["--disable-pip", "--format=json", "--progress-spinner=off", "--desc=off"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            return None
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return None
    return read_report(report) if len(report["dependencies"]) == len(pins) else None


def read_report(report: dict[str, list[dict[str, object]]]) -> Audit:
    """What pip-audit's JSON report says."""
    findings, skipped = [], []
    for package in report["dependencies"]:
        name = str(package["name"])
        if "skip_reason" in package:
            skipped.append(name)
            continue
        for entry in package["vulns"]:  # type: ignore[attr-defined]
            names = (str(entry["id"]), *map(str, entry.get("aliases", [])))
            fixed = tuple(map(str, entry.get("fix_versions", [])))
            findings.append(Finding(name, str(package["version"]), names, fixed))
    return Audit(tuple(findings), tuple(skipped))


def is_excepted(finding: Finding, exceptions: Sequence[AuditException]) -> bool:
    """Whether an exception names the vulnerability of this package."""
    return any(
        entry.package.lower() == finding.package.lower() and entry.id in finding.names for entry in exceptions
    )


def judge(audit: Audit | None, exceptions: Sequence[AuditException], today: date) -> tuple[int, list[str]]:
    """Exit code and sentences for people."""
    told = [
        f"EXPIRED EXCEPTION: {e.id} of {e.package}, {e.expires}: {e.reason}"
        for e in exceptions
        if e.expires < today
    ]
    valid = [entry for entry in exceptions if entry.expires >= today]
    findings = audit.findings if audit is not None else ()
    told += [f"VULNERABLE: {finding}" for finding in findings if not is_excepted(finding, valid)]
    failed = bool(told)
    if audit is None:
        told.append("AUDIT NOT DONE: no vulnerability service answered. This is not a pass.")
    elif audit.skipped:
        told.append(
            f"AUDIT NOT DONE for {len(audit.skipped)} packages the service does not know, among them "
            f"{', '.join(audit.skipped[:5])}. This is not a pass."
        )
    if failed:
        return FOUND, told
    return (NOT_DONE, told) if told else (0, ["No known vulnerabilities."])


def main(arguments: list[str] | None = None) -> int:
    """Audit lock files."""
    parser = argparse.ArgumentParser(prog="python -m container.audit", description=__doc__)
    parser.add_argument("locks", type=Path, nargs="+")
    parser.add_argument("--exceptions", type=Path, default=EXCEPTIONS)
    parser.add_argument(
        "--may-be-offline", action="store_true", help="end with 0 when no service could be asked; it says so"
    )
    options = parser.parse_args(arguments)
    try:
        exceptions = read_exceptions(options.exceptions)
    except (OSError, ValueError) as error:
        print(f"audit: {error}", file=sys.stderr)
        return USAGE
    pins = pins_of(options.locks)
    code, told = judge(ask_service(pins), exceptions, datetime.now(UTC).date())
    print("\n".join([f"audit of {len(pins)} packages:", *told]))
    return 0 if code == NOT_DONE and options.may_be_offline else code


if __name__ == "__main__":
    sys.exit(main())
