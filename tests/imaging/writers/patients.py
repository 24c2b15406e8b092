"""Small patients as a run would hand them to the writers: sources, labels, and the content of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset
from scipy.spatial.transform import Rotation

from imaging.geometry import Geometry, Volume
from imaging.labels import volumes_ml
from imaging.report_content import (
    CalibrationReport,
    ConformalReport,
    Estimate,
    ForecastReport,
    GrowthCurve,
    ModelIdentity,
    ParameterReport,
    RegistrationQuality,
    ReportContent,
    SkillReport,
    SoftwareIdentity,
    Status,
    VisitFitReport,
    VisitReport,
    VolumeSkill,
)
from imaging.writers.identity import RunIdentity, WrittenObject
from imaging.writers.parametric_map import write_density_map
from imaging.writers.pdf_report import Patient, render_pdf, write_encapsulated_pdf
from imaging.writers.segmentation import write_segmentation
from imaging.writers.structured_report import VisitEvidence, write_structured_report
from tests.imaging import dicom_factory as factory

SHAPE = (26, 22, 14)
OBLIQUE = Rotation.from_euler("xyz", (12, -20, 35), degrees=True).as_matrix()
ANISOTROPIC = (0.9, 1.3, 3.5)
DATE = datetime(2024, 3, 1, 9, 30, 15)
NAME = "Łukasz^山田"
SOFTWARE = SoftwareIdentity("OncoTwin", "0.1.0", "OncoTwin", "1" * 64, "2" * 64)
MODEL = ModelIdentity("oncotwin_brats", "0.3.1", "3" * 64)
IDENTITY = RunIdentity.of(SOFTWARE, MODEL)
QUALITY = RegistrationQuality(0.81, "normalised mutual information", 0.4, 2.1, 3.4)
WHO: dict[str, Any] = {"identity": IDENTITY, "software": SOFTWARE, "model": MODEL}


@dataclass(frozen=True, eq=False)
class Sources:
    """One series in memory with the grid it lies on."""

    datasets: list[Dataset]
    geometry: Geometry


def make_sources(
    folder: Path,
    name: str = "t1ce",
    *,
    shape: tuple[int, int, int] = SHAPE,
    enhanced: bool = False,
    spacing: Sequence[float] = ANISOTROPIC,
    rotation: np.ndarray | None = OBLIQUE,
    tilt: Sequence[float] = (0.0, 0.0),
    attributes: dict[str, Any] | None = None,
    file_order: Sequence[int] | None = None,
) -> Sources:
    """Write a series with the factory and read it back."""
    matrix = factory.affine(spacing, (-31.0, -44.5, 12.25), rotation, tilt)
    paths = factory.write_series(
        folder / name,
        factory.pattern(shape),
        matrix,
        name=name,
        enhanced=enhanced,
        attributes={"PatientName": NAME, "FrameOfReferenceUID": factory.uid("frame"), **(attributes or {})},
        file_order=file_order,
    )
    datasets = [pydicom.dcmread(path) for path in paths]
    return Sources(datasets, Geometry(shape, matrix, factory.uid("frame")))


def tumour(geometry: Geometry, size: float = 1.0) -> Volume:
    """Nested ellipsoid, off-centre and unlike under every flip: 1 NCR, 2 ED, 3 ET."""
    i, j, k = np.indices(geometry.shape)
    radius = np.sqrt(((i - 9) / 6) ** 2 + ((j - 12) / 5) ** 2 + ((k - 8) / 4) ** 2) / size
    radius = radius + 0.03 * (i - 9) + 0.02 * (k - 8)
    labels = np.select([radius < 0.4, radius < 0.7, radius < 1.0], [1, 3, 2], 0).astype(np.uint8)
    return Volume(labels, geometry)


def empty(geometry: Geometry) -> Volume:
    """No tumour."""
    return Volume(np.zeros(geometry.shape, np.uint8), geometry)


def visit(sources: Sources, labels: Volume, day: float = 0.0, **changes: Any) -> VisitReport:
    """Report of one visit."""
    shape = sources.geometry.shape
    image = Volume(np.linspace(0, 900, int(np.prod(shape))).reshape(shape), sources.geometry)
    stated: dict[str, Any] = {
        "date": DATE + timedelta(days=day),
        "day": day,
        "volumes_ml": volumes_ml(labels.array, sources.geometry.voxel_volume_mm3),
        "series": {"t1ce": str(sources.datasets[0].SeriesInstanceUID)},
        "segmentation_source": "network",
        "registration": QUALITY if day else None,
        "series_registration": {"flair": QUALITY},
        "uncertainty": 0.125,
        "image": image,
        "labels": labels,
    }
    return VisitReport(**{**stated, **changes})


def density(geometry: Geometry) -> Volume:
    """Smooth density on a grid of its own, oblique to the images."""
    own = Rotation.from_euler("xyz", (-8, 5, 3), degrees=True).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = own @ np.diag((2.0, 2.5, 3.0))
    matrix[:3, 3] = geometry.centre - own @ (np.array((2.0, 2.5, 3.0)) * (7.5, 6.5, 5.5))
    grid = Geometry((16, 14, 12), matrix, geometry.frame_of_reference_uid)
    i, j, k = np.indices(grid.shape)
    values = np.exp(-(((i - 6) / 4) ** 2 + ((j - 7) / 3) ** 2 + ((k - 5) / 3) ** 2))
    return Volume(values.astype(np.float32), grid)


def forecast(sources: Sources, horizon: float, last_day: float) -> ForecastReport:
    """Predicted tumour: 1 core, 2 rest."""
    labels = tumour(sources.geometry, 1.2).array
    predicted = np.select([np.isin(labels, (1, 3)), labels == 2], [1, 2], 0).astype(np.uint8)
    mean = density(sources.geometry)
    return ForecastReport(
        horizon_days=horizon,
        day=last_day + horizon,
        core_volume_ml=Estimate(3.0, (2.0, 5.5)),
        whole_volume_ml=Estimate(8.0, (6.0, 13.0)),
        density_mean=mean,
        density_sd=mean.with_array(mean.array * 0.1),
        labels=Volume(predicted, sources.geometry),
    )


PARAMETERS = (
    ParameterReport("diffusivity", "mm2/d", Estimate(0.1, (0.05, 0.2)), 0.13, 0.9, 0.4, True),
    ParameterReport("proliferation", "/d", Estimate(0.012, (0.004, 0.03)), 0.012, 0.7, 0.93, False),
    ParameterReport("radiosensitivity", "/Gy", Estimate(0.035, (0.02, 0.06)), 0.04, 0.5, 0.56, True),
)


SKILL = SkillReport(
    61.0,
    VolumeSkill(4.25, Estimate(4.5, (3.0, 6.0)), 3.0, None),
    VolumeSkill(11.5, Estimate(10.0, (8.0, 11.0)), 8.5, 13.75),
)
CONFORMAL = ConformalReport(
    1.25, 1.5, "learned on 200 others", "Widened by 1.50 and 1.25: learned on 200 others."
)
TREATMENTS = ("Radiotherapy: 30 fractions of 2 Gy from day 14 to day 55.",)


def report(
    status: Status,
    visits: Sequence[VisitReport],
    forecasts: Sequence[ForecastReport] = (),
    warnings: Sequence[str] = (),
) -> ReportContent:
    """Content with parameters and a curve when something is forecast."""
    days = np.linspace(0, 120, 20)
    grown = 5 * np.exp(days / 100)
    curve = GrowthCurve(days, grown / 2, grown / 3, grown, grown, grown * 0.8, grown * 1.4)
    fits = tuple(VisitFitReport(item.day, 0.9, 0.87) for item in visits)
    return ReportContent(
        status=status,
        visits=tuple(visits),
        parameters=PARAMETERS if forecasts else (),
        forecasts=tuple(forecasts),
        curve=curve if forecasts else None,
        calibration=CalibrationReport(True, "The model reproduces the visits.", 31.5, fits)
        if forecasts
        else None,
        warnings=tuple(warnings),
        software=SOFTWARE,
        model=MODEL,
    )


@dataclass(frozen=True, eq=False)
class OutputSet:
    """Everything written for one patient, with what went in."""

    content: ReportContent
    sources: tuple[Sources, ...]
    further: tuple[Dataset, ...]
    segmentations: tuple[WrittenObject, ...]
    forecasts: tuple[WrittenObject, ...]
    maps: tuple[WrittenObject, ...]
    report: WrittenObject
    pdf: WrittenObject

    @property
    def written(self) -> tuple[WrittenObject, ...]:
        """All objects."""
        return (*self.segmentations, *self.forecasts, *self.maps, self.report, self.pdf)


def write_all(
    folder: Path, content: ReportContent, sources: Sequence[Sources], further: Sequence[Dataset] = ()
) -> OutputSet:
    """Write the whole output of a run; ``further`` are other input series of the first visit."""
    folder.mkdir(parents=True, exist_ok=True)
    last, date = sources[-1], content.visits[-1].date
    reference = last.datasets[0]
    segmentations = tuple(
        write_segmentation(
            folder / f"visit{number}_seg.dcm",
            sources=source.datasets,
            labels=item.labels,
            kind="measured",
            date=item.date,
            segmentation_source=item.segmentation_source,
            **WHO,
        )
        for number, (source, item) in enumerate(zip(sources, content.visits, strict=True), start=1)
    )
    forecasts, maps = [], []
    for item in content.forecasts:
        horizon = item.horizon_days
        forecasts.append(
            write_segmentation(
                folder / f"forecast{horizon:.0f}_seg.dcm",
                sources=last.datasets,
                labels=item.labels,
                kind="forecast",
                horizon_days=horizon,
                date=date,
                **WHO,
            )
        )
        for statistic, volume in (("mean", item.density_mean), ("sd", item.density_sd)):
            maps.append(
                write_density_map(
                    folder / f"forecast{horizon:.0f}_{statistic}.dcm",
                    reference=reference,
                    density=volume,
                    statistic=statistic,
                    horizon_days=horizon,
                    date=date,
                    **WHO,
                )
            )
    evidence = [
        VisitEvidence([*source.datasets, *(further if number == 0 else ())], segmentation)
        for number, (source, segmentation) in enumerate(zip(sources, segmentations, strict=True))
    ]
    written = write_structured_report(
        folder / "report_sr.dcm",
        content=content,
        reference=reference,
        visits=evidence,
        forecasts=forecasts,
        density_maps=maps,
        identity=IDENTITY,
    )
    pdf = write_encapsulated_pdf(
        folder / "report_pdf.dcm",
        reference=reference,
        pdf=render_pdf(content, Patient.of(reference)),
        date=date,
        **WHO,
    )
    return OutputSet(
        content, tuple(sources), tuple(further), segmentations, tuple(forecasts), tuple(maps), written, pdf
    )
