"""Software bills of materials of the images: ``python -m container.sbom -o build``.

Writes ``sbom.cdx.json`` (CycloneDX 1.6) and ``licences.csv`` from ``requirements.lock``, the metadata of the installed
packages and the model weights; ``sbom-services.cdx.json`` and ``licences-services.csv`` for the image of the services.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import re
import sys
import uuid
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from app.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
UNKNOWN = "unknown"
_LOCKED = re.compile(r"(?P<name>\S+)==(?P<version>\S+) --hash=sha256:(?P<digest>[0-9a-f]{64})")
_LONGEST_LICENCE = 100


@dataclass(frozen=True)
class Part:
    """One package of the lock; ``licence`` as the package states it, or "unknown"."""

    name: str
    version: str
    digest: str
    licence: str


def parts_of(lock: str) -> list[Part]:
    """The packages of a lock, with the licences of those that are installed here."""
    return [
        Part(found["name"], found["version"], found["digest"], licence_of(found["name"]))
        for found in map(_LOCKED.fullmatch, lock.splitlines())
        if found is not None
    ]


def licence_of(name: str) -> str:
    """Licence of an installed package: its expression, else its short licence field, else its classifiers."""
    try:
        stated = metadata(name)
    except PackageNotFoundError:
        return UNKNOWN
    classifiers = [
        line.rsplit(" :: ", 1)[1]
        for line in stated.get_all("Classifier") or []
        if line.startswith("License :: ")
    ]
    # Some packages put the whole text there; its first line is its name.
    first_line = (stated.get("License") or "").strip().partition("\n")[0]
    short = first_line if len(first_line) <= _LONGEST_LICENCE else ""
    return stated.get("License-Expression") or short or "; ".join(classifiers) or UNKNOWN


def bill_of(parts: list[Part], weights: list[Path], version: str) -> str:
    """CycloneDX text. It holds no time and no random number: the same lock gives the same bill."""
    licences = LicenseFactory()
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"{version} {parts}"))
    bom.metadata.timestamp = None  # type: ignore[assignment]
    bom.metadata.component = Component(
        name="oncotwin",
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref="oncotwin",
        licenses=[licences.make_with_expression("Apache-2.0")],
    )
    for part in parts:
        bom.components.add(
            Component(
                name=part.name,
                version=part.version,
                bom_ref=f"{part.name}=={part.version}",
                purl=PackageURL("pypi", name=part.name, version=part.version),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=part.digest)],
                licenses=[licences.make_from_string(part.licence)] if part.licence != UNKNOWN else [],
            )
        )
    for path in weights:
        bom.components.add(
            Component(
                name=path.parent.parent.name,
                version=version,
                type=ComponentType.MACHINE_LEARNING_MODEL,
                bom_ref=f"model {path.parent.parent.name}",
                hashes=[
                    HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(path.read_bytes()).hexdigest())
                ],
                licenses=[licences.make_with_expression("Apache-2.0")],
            )
        )
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)


def main(arguments: list[str] | None = None) -> int:
    """Write the bill and the list of licences."""
    parser = argparse.ArgumentParser(prog="python -m container.sbom", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    version = load_settings(ROOT / "app.yaml").application.version
    weights = sorted((ROOT / "models").glob("*/models/*.safetensors"))
    options.output.mkdir(parents=True, exist_ok=True)
    parts: list[Part] = []
    for suffix, lock in (("", "requirements.lock"), ("-services", "requirements-services.lock")):
        parts += parts_of(
            (ROOT / lock).read_text(encoding="utf-8")
        )  # the services have the application's too
        bill = bill_of(parts, weights, version)
        (options.output / f"sbom{suffix}.cdx.json").write_text(bill, encoding="utf-8")
        (options.output / f"licences{suffix}.csv").write_text(licence_table(parts), encoding="utf-8")
    unknown = [part.name for part in parts if part.licence == UNKNOWN]
    print(f"{len(parts)} packages" + (f"; no licence stated by {', '.join(unknown)}" if unknown else ""))
    return 0


def licence_table(parts: list[Part]) -> str:
    """CSV of packages, versions and licences."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["package", "version", "licence"])
    writer.writerows([part.name, part.version, part.licence] for part in parts)
    return table.getvalue()


if __name__ == "__main__":
    sys.exit(main())
