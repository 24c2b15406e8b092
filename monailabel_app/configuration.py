"""What the server is told: where studies, models and its own state are, and the part of ``app.yaml`` that it obeys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging.role_selection import RoleRule
from imaging.settings_files import read_settings_file
from twin.settings import DeviceName

ROOT = Path(__file__).resolve().parent.parent
_HORIZONS_DAYS = (30.0, 60.0, 90.0, 120.0, 150.0, 180.0)  # the application's own


class ConfigurationError(Exception):
    """Settings that cannot be used; the message is one sentence for the person who starts the server."""


@dataclass(frozen=True)
class GrowthSettings:
    """The keys ``twin``, ``forecast`` and ``treatments`` of ``app.yaml``; meanings and units are there."""

    grid_mm: float
    diffusivity_prior: tuple[str | float, ...]
    proliferation_prior: tuple[str | float, ...]
    core_threshold: float
    whole_threshold: float
    gray_matter_ratio: float
    device: DeviceName
    horizons_days: tuple[float, ...]
    has_treatments: bool


@dataclass(frozen=True)
class Configuration:
    """Everything that decides what the server does.

    Parameters
    ----------
    studies : str
        Folder of DICOM files, or DICOMweb URL.
    state : pathlib.Path
        Folder of its own: published models, drawings kept aside, caches. Holds patient data.
    models : pathlib.Path
        Bundle to begin with, or a folder of one.
    version : str
        Of the product.
    seed : int
        Of registrations and the twin.
    visit_gap_hours, rules
        As for the application's ingest.
    device : str
        Of the network, "auto", "cpu" or "cuda"; requests cannot change it. The twin has its own.
    min_component_ml : float
        Smaller isolated pieces of the network's answer are dropped.
    growth : GrowthSettings
        Of the twin tasks.
    """

    studies: str
    state: Path
    models: Path
    version: str
    seed: int
    visit_gap_hours: float
    rules: tuple[RoleRule, ...]
    device: str
    min_component_ml: float
    growth: GrowthSettings

    @property
    def is_remote(self) -> bool:
        """Whether the studies lie in a PACS."""
        return self.studies.startswith(("http://", "https://"))


def read_configuration(studies: str, conf: Mapping[str, str]) -> Configuration:
    """Configuration from the server's ``--conf`` pairs.

    Parameters
    ----------
    studies : str
        Folder or URL.
    conf : mapping
        ``state``, ``models`` and ``config`` (path of ``app.yaml``), all optional.

    Raises
    ------
    ConfigurationError
        If ``app.yaml`` cannot be read, is of another release, or a key has a value of the wrong kind.
    """
    path = Path(conf.get("config") or ROOT / "app.yaml")
    try:
        document = read_settings_file(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}.") from error
    try:
        version, release = str(document["application"]["version"]), _release()
        if version != release:
            raise ConfigurationError(
                f"{path.name}: application.version is {version}, but this is release {release}; compare the file with "
                "this release's app.yaml, then write its version."
            )
        ours = document.get("oncotwin") or {}
        ingest, network = ours.get("ingest") or {}, ours.get("segmentation") or {}
        return Configuration(
            studies=studies,
            state=Path(conf.get("state") or default_state()),
            models=Path(conf.get("models") or ROOT / "models"),
            version=version,
            seed=int(ours.get("seed", 0)),
            visit_gap_hours=float(ingest.get("visit_gap_hours", 4.0)),
            rules=tuple(RoleRule(**rule) for rule in ingest.get("series_rules") or ()),
            device=str(network.get("device", "auto")),
            min_component_ml=float(network.get("min_component_ml", 0.2)),
            growth=_growth(ours),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{path.name} is not a settings file of OncoTwin ({error}).") from error


def _release() -> str:
    """The version of the code, which stands in the ``app.yaml`` beside it."""
    return str(read_settings_file(ROOT / "app.yaml")["application"]["version"])


def _growth(ours: Mapping[str, Any]) -> GrowthSettings:
    twin, priors = ours.get("twin") or {}, (ours.get("twin") or {}).get("priors") or {}
    return GrowthSettings(
        grid_mm=float(twin.get("grid_mm", 1.5)),
        diffusivity_prior=tuple(priors.get("diffusivity") or ("lognormal", 0.1, 0.9)),
        proliferation_prior=tuple(priors.get("proliferation") or ("lognormal", 0.03, 0.6)),
        core_threshold=float(twin.get("core_threshold", 0.6)),
        whole_threshold=float(twin.get("whole_threshold", 0.2)),
        gray_matter_ratio=float(twin.get("gray_matter_ratio", 10.0)),
        device=twin.get("device", "cpu"),
        horizons_days=tuple(
            float(day) for day in (ours.get("forecast") or {}).get("horizons_days") or _HORIZONS_DAYS
        ),
        has_treatments=bool(ours.get("treatments")),
    )


def default_state() -> Path:
    """Where the server keeps its state unless told otherwise: the user's XDG state folder."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "oncotwin-label"
