"""All results of a run in one folder that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydicom import dcmread
from pydicom.dataset import Dataset

from imaging.dose_index import DoseFile
from imaging.geometry import Volume
from imaging.preparation import PreparedVisit
from imaging.report_content import ReportContent
from imaging.writers.identity import RunIdentity, WrittenObject
from imaging.writers.parametric_map import write_density_map
from imaging.writers.pdf_report import Patient, render_pdf, write_encapsulated_pdf
from imaging.writers.publish import StagedFolder
from imaging.writers.result_json import result_document, write_result
from imaging.writers.segmentation import write_segmentation
from imaging.writers.structured_report import VisitEvidence, write_structured_report

Progress = Callable[[str], None]
Statistic = Literal["mean", "sd"]


def write_results(
    output: Path,
    content: ReportContent,
    visits: Sequence[PreparedVisit],
    *,
    dose: DoseFile | None = None,
    nifti: bool = False,
    progress: Progress = lambda step: None,
) -> None:
    """Write every object of a run and publish the folder.

    Parameters
    ----------
    output : pathlib.Path
        Folder of results; absent or empty.
    content : ReportContent
        What to say.
    visits : sequence of PreparedVisit
        The visits of ``content``, in the same order, for their source images.
    dose : DoseFile, optional
        The RT Dose that ``content`` rests on.
    nifti : bool
        Also write images, masks and maps as NIfTI, into ``nifti/``.
    progress : callable
        Told in words what is about to happen.

    Raises
    ------
    ImagingError
        ``BAD_OUTPUT_FOLDER`` if the folder cannot be filled.
    """
    with StagedFolder(output) as staged:
        _ResultSet(staged.path, content, visits, dose, progress).write()
        if nifti:
            progress("NIfTI")
            _write_nifti(staged.path / "nifti", content)


class _ResultSet:
    """The DICOM objects of one run, written in the order in which they refer to each other."""

    def __init__(
        self,
        folder: Path,
        content: ReportContent,
        visits: Sequence[PreparedVisit],
        dose: DoseFile | None,
        progress: Progress,
    ) -> None:
        self._folder = folder
        self._content = content
        self._visits = visits
        self._dose = dose
        self._progress = progress
        self._last_sources = visits[-1].reference_series.datasets()
        self._identity = RunIdentity.of(content.software, content.model)
        self._written: list[WrittenObject] = []

    def write(self) -> None:
        self._progress("segmentations")
        evidence = [self._visit(number) for number in range(1, len(self._visits) + 1)]
        self._progress("predictions")
        forecasts = [self._forecast(number) for number in range(len(self._content.forecasts))]
        maps = [map_ for number in range(len(self._content.forecasts)) for map_ in self._density(number)]
        self._progress("structured report")
        report = write_structured_report(
            self._folder / "report_sr.dcm",
            content=self._content,
            reference=self._reference,
            visits=evidence,
            forecasts=forecasts,
            identity=self._identity,
            density_maps=maps,
            treatment=[] if self._dose is None else [dcmread(self._dose.path, stop_before_pixels=True)],
        )
        self._progress("PDF")
        pages = self._pdf()
        self._written += [*forecasts, *maps, report, pages]
        patient_id = str(self._reference.PatientID)
        document = result_document(
            self._content, patient_id=patient_id, outputs=self._written, folder=self._folder
        )
        write_result(self._folder / "result.json", document)

    @property
    def _reference(self) -> Dataset:
        return self._last_sources[0]

    def _visit(self, number: int) -> VisitEvidence:
        report, prepared = self._content.visits[number - 1], self._visits[number - 1]
        last = number == len(self._visits)
        sources = self._last_sources if last else prepared.reference_series.datasets()
        segmentation = write_segmentation(
            self._folder / f"segmentation_visit{number}.dcm",
            sources=sources,
            labels=report.labels,
            kind="measured",
            identity=self._identity,
            software=self._content.software,
            model=self._content.model,
            date=report.date,
            segmentation_source=report.segmentation_source,
        )
        self._written.append(segmentation)
        used = [
            *sources,
            *(
                dataset
                for role, series in prepared.series.items()
                if role != prepared.reference_role
                for dataset in series.datasets()
            ),
        ]
        if prepared.correction is not None:
            used.append(dcmread(prepared.correction.path, stop_before_pixels=True))
        return VisitEvidence(sources=used, segmentation=segmentation)

    def _forecast(self, number: int) -> WrittenObject:
        forecast = self._content.forecasts[number]
        return write_segmentation(
            self._folder / f"forecast_day{forecast.horizon_days:03g}.dcm",
            sources=self._last_sources,
            labels=forecast.labels,
            kind="forecast",
            identity=self._identity,
            software=self._content.software,
            model=self._content.model,
            date=self._content.visits[-1].date,
            horizon_days=forecast.horizon_days,
        )

    def _density(self, number: int) -> list[WrittenObject]:
        forecast = self._content.forecasts[number]
        statistics: list[tuple[Statistic, Volume]] = [
            ("mean", forecast.density_mean),
            ("sd", forecast.density_sd),
        ]
        return [
            write_density_map(
                self._folder / f"density_day{forecast.horizon_days:03g}_{statistic}.dcm",
                reference=self._reference,
                density=density,
                statistic=statistic,
                horizon_days=forecast.horizon_days,
                identity=self._identity,
                software=self._content.software,
                model=self._content.model,
                date=self._content.visits[-1].date,
            )
            for statistic, density in statistics
        ]

    def _pdf(self) -> WrittenObject:
        return write_encapsulated_pdf(
            self._folder / "report_pdf.dcm",
            reference=self._reference,
            pdf=render_pdf(self._content, Patient.of(self._reference)),
            identity=self._identity,
            software=self._content.software,
            model=self._content.model,
            date=self._content.visits[-1].date,
        )


def _write_nifti(folder: Path, content: ReportContent) -> None:
    folder.mkdir()
    for number, visit in enumerate(content.visits, start=1):
        visit.image.save_nifti(folder / f"visit{number}_image.nii.gz")
        visit.labels.save_nifti(folder / f"visit{number}_labels.nii.gz")
    for forecast in content.forecasts:
        name = f"day{forecast.horizon_days:03g}"
        forecast.labels.save_nifti(folder / f"{name}_labels.nii.gz")
        forecast.density_mean.save_nifti(folder / f"{name}_density_mean.nii.gz")
        forecast.density_sd.save_nifti(folder / f"{name}_density_sd.nii.gz")
