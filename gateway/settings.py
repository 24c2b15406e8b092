"""Settings of the gateway: ``gateway.yaml``, validated at start-up, unknown keys refused."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from imaging.settings_files import read_settings_file

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
AETitle = Annotated[
    str, Field(min_length=1, max_length=16, pattern=r"^[\x21-\x5b\x5d-\x7e][\x20-\x5b\x5d-\x7e]*$")
]


class SettingsError(Exception):
    """``gateway.yaml`` cannot be used; the message names the key and what is wrong with it."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsSection(_Section):
    """Files in PEM form; ``authority`` signs the other side, which must show a certificate of its own."""

    certificate: Path
    key: Path
    authority: Path


class ReceiverSection(_Section):
    """The C-STORE provider.

    ``allowed_callers``: calling AE titles; nobody else is accepted. ``study_complete_seconds``: a study to which
    nothing was added for so long is complete. ``instances_per_second``: of one caller, averaged over ten seconds.
    """

    host: str = "127.0.0.1"
    port: Port = 11112
    ae_title: AETitle = "ONCOTWIN"
    # Without any, pynetdicom would not check callers at all.
    allowed_callers: Annotated[tuple[AETitle, ...], Field(min_length=1)]
    study_complete_seconds: Positive = 60.0
    max_instance_mb: Positive = 1024.0
    max_instances_per_study: Count = 20_000
    max_associations: Count = 10
    instances_per_second: Positive = 2000.0
    idle_timeout_seconds: Positive = 30.0
    tls: TlsSection | None = None


class WebSection(_Section):
    """A web service. The password is read from the environment variable named by ``password_from``."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    user: str = ""
    password_from: str = ""
    authority: Path | None = None
    timeout_seconds: Positive = 30.0

    @property
    def password(self) -> str:
        """The password; empty without a user."""
        return os.environ.get(self.password_from, "") if self.password_from else ""


class OrthancSection(WebSection):
    """An Orthanc to watch by its REST interface."""

    poll_seconds: Positive = 5.0


class PriorsSection(WebSection):
    """Where earlier studies of the patient are looked for, by DICOMweb."""

    max_studies: Annotated[int, Field(ge=0)] = 5
    modalities: tuple[str, ...] = ("MR",)


class StowDestination(WebSection):
    """Results go back by STOW-RS; ``url`` is the DICOMweb root."""

    kind: Literal["stow"]


class StoreDestination(_Section):
    """Results go back by C-STORE.

    ``storage_commitment``: asked for where the destination offers it, by default; its answer comes on the same
    association or to our receiver, without which it is not asked for. ``calling_ae_title``: ours.
    """

    kind: Literal["cstore"]
    host: str
    port: Port
    ae_title: AETitle
    calling_ae_title: AETitle = "ONCOTWIN"
    storage_commitment: Literal["where_offered", "required", "never"] = "where_offered"
    commitment_timeout_seconds: Positive = 60.0
    tls: TlsSection | None = None


class RuleSection(_Section):
    """One way for a study to be ours; every condition given must hold.

    ``description``: regular expression searched in Study and Series Descriptions. ``roles``: contrasts that the ingest
    of the application must find in the study.
    """

    description: str | None = None
    modalities: tuple[str, ...] = ("MR",)
    roles: tuple[Literal["t1", "t1ce", "t2", "flair"], ...] = ("t1ce", "flair")

    @field_validator("description")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression ({error})") from error
        return value


class JobsSection(_Section):
    """How jobs run.

    ``command``: the application; empty for the one of this installation. ``memory_gb``: address space of one run, 0 for
    no limit. ``back_off_seconds`` doubles with every attempt up to ``longest_back_off_seconds``.
    ``max_delivery_attempts``: also how often in a row an outage of priors' archive, disk or cluster is waited for.
    """

    command: str = ""
    workers: Count = 1
    scheduler: str = ""
    time_limit_seconds: Positive = 3600.0
    memory_gb: Annotated[float, Field(ge=0)] = 0.0
    max_attempts: Count = 3
    max_delivery_attempts: Count = 50
    back_off_seconds: Positive = 10.0
    longest_back_off_seconds: Positive = 600.0
    queue_limit: Count = 500
    min_free_gb: Annotated[float, Field(ge=0)] = 5.0


class StatusSection(_Section):
    """The read-only web page; ``viewer``: link of a study with ``{study}`` for its Study Instance UID."""

    host: str = "127.0.0.1"
    port: Port = 8080
    viewer: str = ""
    certificate: Path | None = None
    key: Path | None = None


class Settings(_Section):
    """Everything the gateway needs to know.

    ``database``: SQLAlchemy URL; SQLite in the work folder when empty. ``keep_days``: how long files of a finished job
    are kept.
    """

    work_folder: Path = Path("gateway-work")
    database: str = ""
    keep_days: Positive = 7.0
    receiver: ReceiverSection | None = None
    orthanc: OrthancSection | None = None
    priors: PriorsSection | None = None
    destination: Annotated[StowDestination | StoreDestination, Field(discriminator="kind")] | None = None
    rules: tuple[RuleSection, ...] = (RuleSection(),)
    jobs: JobsSection = JobsSection()
    status: StatusSection = StatusSection()

    @model_validator(mode="after")
    def _commitment_can_be_answered(self) -> Settings:
        destination = self.destination
        if (
            isinstance(destination, StoreDestination)
            and destination.storage_commitment == "required"
            and self.receiver is None
        ):
            raise ValueError(
                "destination.storage_commitment is required, which needs a receiver for the answer"
            )
        return self

    @property
    def database_url(self) -> str:
        """URL of the database of jobs."""
        return self.database or f"sqlite:///{self.work_folder.resolve() / 'jobs.sqlite'}"


def load_settings(path: Path) -> Settings:
    """Read and check the settings.

    Raises
    ------
    SettingsError
        If the file is missing, no YAML, or has an unknown or unusable key.
    """
    try:
        return Settings.model_validate(read_settings_file(path) or {})
    except OSError as error:
        raise SettingsError(f"{path} cannot be read; give the gateway's settings by --config.") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"{path}: {problems}.") from error
    except ValueError as error:
        raise SettingsError(f"{path}: {error}.") from error
