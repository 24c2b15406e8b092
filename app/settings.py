"""Settings of the application: ``app.yaml``, validated at start-up, unknown keys refused."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from imaging.settings_files import read_settings_file

Model = TypeVar("Model", bound=BaseModel)
SHIPPED = Path(__file__).resolve().parents[1] / "app.yaml"
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
_SATURDAY = 5
LogNormalPrior = tuple[Literal["lognormal"], Positive, Positive]


class SettingsError(Exception):
    """``app.yaml`` cannot be used; the message names the key and what is wrong with it."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ApplicationSection(_Section):
    """What the packager needs to know; ``version`` is the version of the product.

    ``timeout``: seconds a run in the container may take, 0 for no limit.
    """

    title: str
    version: str
    timeout: Annotated[int, Field(ge=0)] = 0
    input_formats: list[str] = Field(alias="input-formats")
    output_formats: list[str] = Field(alias="output-formats")


class ResourcesSection(_Section):
    """Resources the package asks a cluster for."""

    cpu: int
    gpu: int
    memory: str
    gpu_memory: str = Field(alias="gpuMemory")
    shared_memory: str = Field(alias="sharedMemory")


class SeriesRule(_Section):
    """Override of the choice of series: the series that meets every condition given gets the role.

    ``role`` "none" keeps a series out. ``description`` is a regular expression; ``visit_date`` limits the rule to
    the visit of that day.
    """

    role: Literal["t1", "t1ce", "t2", "flair", "none"]
    description: str | None = None
    series_number: int | None = None
    series_uid: str | None = None
    visit_date: date | None = None

    @model_validator(mode="after")
    def _check(self) -> SeriesRule:
        if self.description is None and self.series_number is None and self.series_uid is None:
            raise ValueError("a rule needs a description, a series_number or a series_uid")
        try:
            re.compile(self.description or "")
        except re.error as error:
            raise ValueError(f"the description is no regular expression ({error})") from error
        return self


class IngestSection(_Section):
    """How the input folder is read.

    ``visit_gap_hours``: scans closer than this in time belong to one visit.
    """

    visit_gap_hours: Positive = 4.0
    series_rules: tuple[SeriesRule, ...] = ()


class SegmentationSection(_Section):
    """How the tumour is found.

    ``min_component_ml``: smaller isolated pieces are dropped. When the network is too unsure is stated by its bundle.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    min_component_ml: Positive = 0.2


class PriorsSection(_Section):
    """Priors as ``[lognormal, median, sigma_log]``: diffusivity in mm2/day, proliferation in 1/day."""

    diffusivity: LogNormalPrior = ("lognormal", 0.1, 0.9)
    proliferation: LogNormalPrior = ("lognormal", 0.03, 0.6)


class TwinSection(_Section):
    """How growth is modelled.

    ``grid_mm``: isotropic spacing of the growth model's grid. ``core_threshold`` and ``whole_threshold``: cell
    density, as fraction of the carrying capacity, at the edge of the tumour core and of the whole tumour.
    ``gray_matter_ratio``: how many times slower cells move in gray matter than in white matter. ``device``: where
    growth is computed; auto takes a GPU when there is one, cuda refuses to run without.
    """

    grid_mm: Positive = 1.5
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    priors: PriorsSection = PriorsSection()
    core_threshold: Fraction = 0.6
    whole_threshold: Fraction = 0.2
    gray_matter_ratio: Positive = 10.0


class _Scheduled(_Section):
    """Either every date of a course, or its first date and how many days it has.

    A date counts as noon, so that a scan in the morning of the same day comes first.
    """

    dates: tuple[date, ...] = ()
    first_date: date | None = None

    def _expanded(self, count: int | None, name: str, *, weekdays_only: bool) -> tuple[date, ...]:
        """All dates in order."""
        if bool(self.dates) == (self.first_date is not None):
            raise ValueError(f"give either dates, or first_date with {name}")
        if self.first_date is None:
            if count is not None:
                raise ValueError(f"{name} belongs to first_date; with dates each date is one")
            return tuple(sorted(self.dates))
        if count is None:
            raise ValueError(f"first_date needs {name}")
        made, day = list[date](), self.first_date
        while len(made) < count:
            if not weekdays_only or day.weekday() < _SATURDAY:
                made.append(day)
            day += timedelta(days=1)
        return tuple(made)


class RadiotherapySection(_Scheduled):
    """A course of radiotherapy.

    Either ``dates``, one for each fraction (a date may come twice), or ``first_date`` and ``fractions``, one a day from
    Monday to Friday. ``dose_gy``: dose of every fraction in Gy, taken as uniform over the tumour; or else ``rtdose``:
    the RT Dose in the input whose whole plan these fractions are, ``auto`` or its SOP Instance UID. ``alpha_beta``:
    ratio of the linear-quadratic model, Gy.
    """

    kind: Literal["radiotherapy"]
    fractions: Annotated[int, Field(gt=0, le=200)] | None = None
    dose_gy: Positive | None = None
    rtdose: Annotated[str, Field(pattern=r"^(auto|[0-9]+(\.[0-9]+)+)$", max_length=64)] | None = None
    alpha_beta: Positive = 10.0

    @model_validator(mode="after")
    def _check(self) -> RadiotherapySection:
        if (self.dose_gy is None) == (self.rtdose is None):
            raise ValueError(
                "give either dose_gy, the dose of every fraction, or rtdose, the dose of all together"
            )
        self._expanded(self.fractions, "fractions", weekdays_only=True)
        return self

    @property
    def given(self) -> tuple[date, ...]:
        """Date of every fraction."""
        return self._expanded(self.fractions, "fractions", weekdays_only=True)


class ChemotherapySection(_Scheduled):
    """A course of one drug.

    Either ``dates`` or ``first_date`` and ``daily_doses``, one a day. ``dose`` and ``reference_dose`` in one unit, for
    temozolomide mg/m2; the chemosensitivity belongs to the reference dose. ``half_life_hours`` of the drug.
    """

    kind: Literal["chemotherapy"]
    daily_doses: Annotated[int, Field(gt=0, le=1000)] | None = None
    dose: Positive = 75.0
    reference_dose: Positive = 75.0
    half_life_hours: Positive = 1.8

    @model_validator(mode="after")
    def _check(self) -> ChemotherapySection:
        self._expanded(self.daily_doses, "daily_doses", weekdays_only=False)
        return self

    @property
    def given(self) -> tuple[date, ...]:
        """Date of every dose."""
        return self._expanded(self.daily_doses, "daily_doses", weekdays_only=False)


class SurgerySection(_Section):
    """Refused: what was removed is a mask, which settings cannot hold."""

    kind: Literal["surgery"]

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, written: Any) -> Any:
        raise ValueError(
            "surgery cannot be given here, since the growth model needs a mask of what was removed; "
            "leave it out and start from the first scan after the operation"
        )


Treatment = Annotated[RadiotherapySection | ChemotherapySection | SurgerySection, Field(discriminator="kind")]


class ForecastSection(_Section):
    """Days after the last visit for which the tumour is predicted."""

    horizons_days: Annotated[tuple[Positive, ...], Field(min_length=1)] = (30, 60, 90, 120, 150, 180)


class OncoTwinSection(_Section):
    """Everything that decides what a run computes; ``seed`` fixes all random choices."""

    seed: int = 0
    ingest: IngestSection = IngestSection()
    segmentation: SegmentationSection = SegmentationSection()
    twin: TwinSection = TwinSection()
    forecast: ForecastSection = ForecastSection()
    treatments: tuple[Treatment, ...] = ()

    @model_validator(mode="after")
    def _one_drug(self) -> OncoTwinSection:
        """Courses of one kind share one sensitivity, so they must share what it belongs to."""
        courses = [entry for entry in self.treatments if entry.kind == "radiotherapy"]
        radiation = {entry.alpha_beta for entry in courses}
        drugs = {
            (entry.reference_dose, entry.half_life_hours)
            for entry in self.treatments
            if entry.kind == "chemotherapy"
        }
        if len(radiation) > 1:
            raise ValueError("treatments: all courses of radiotherapy must have one alpha_beta")
        if len(courses) > 1 and any(entry.rtdose for entry in courses):
            raise ValueError("treatments: a course with rtdose must be the only one of radiotherapy")
        if len(drugs) > 1:
            raise ValueError(
                "treatments: all courses of chemotherapy must have one reference_dose and one half_life_hours; the "
                "growth model knows one drug"
            )
        return self

    @property
    def of_one_patient(self) -> str:
        """The key whose value belongs to one patient and must not be used for another; empty where there is none."""
        if self.treatments:
            return "oncotwin.treatments"
        if any(rule.visit_date and not rule.series_uid for rule in self.ingest.series_rules):
            return "a visit_date in oncotwin.ingest.series_rules"
        return ""

    @property
    def digest(self) -> str:
        """SHA-256 of the settings, in hexadecimal."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class PatientSettings(_Section):
    """What belongs to one patient, in a file of its own. ``series_rules`` go before the shared ones."""

    treatments: tuple[Treatment, ...] = ()
    series_rules: tuple[SeriesRule, ...] = ()


class Settings(_Section):
    """The whole of ``app.yaml``."""

    application: ApplicationSection
    resources: ResourcesSection
    oncotwin: OncoTwinSection = OncoTwinSection()


def settings_path(environment: Mapping[str, str]) -> Path:
    """Where the settings are: what ``HOLOSCAN_CONFIG_PATH`` names, else the ``app.yaml`` shipped."""
    return Path(environment.get("HOLOSCAN_CONFIG_PATH", SHIPPED))


def load_settings(path: Path) -> Settings:
    """Read and check ``app.yaml``.

    Raises
    ------
    SettingsError
        If the file cannot be read, is not YAML, has a key that is unknown, twice or out of range, or belongs to
        another release.
    """
    settings = _checked(Settings, path)
    release = _checked(Settings, SHIPPED).application.version
    if settings.application.version != release:
        raise SettingsError(
            f"{path.name}: application.version is {settings.application.version}, but this is release {release}; "
            "compare the file with this release's app.yaml, then write its version."
        )
    return settings


def with_patient(shared: OncoTwinSection, path: Path) -> OncoTwinSection:
    """The shared settings with those of one patient.

    Raises
    ------
    SettingsError
        If the file cannot be used, or both have treatments.
    """
    own = _checked(PatientSettings, path)
    if own.treatments and shared.treatments:
        raise SettingsError(f"{path.name}: there are treatments in app.yaml too; list all of them here.")
    ingest = shared.ingest.model_copy(
        update={"series_rules": (*own.series_rules, *shared.ingest.series_rules)}
    )
    treatments = own.treatments or shared.treatments
    try:
        return OncoTwinSection(**{**dict(shared), "ingest": ingest, "treatments": treatments})
    except ValidationError as error:
        raise SettingsError(f"{path.name}: {error.errors()[0]['msg']}.") from error


def _checked(form: type[Model], path: Path) -> Model:
    try:
        return form.model_validate(read_settings_file(path))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the document"
        raise SettingsError(f"{path.name}: {key}: {first['msg']}.") from error
    except ValueError as error:
        raise SettingsError(f"{path}: {error}.") from error
