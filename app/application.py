"""The graph: which operator feeds which."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application

from app.settings import ChemotherapySection, RadiotherapySection, Settings, Treatment
from operators.growth_calibrator import GrowthCalibratorOperator
from operators.growth_predictor import GrowthPredictorOperator
from operators.preprocessor import PreprocessorOperator
from operators.result_writer import ResultWriterOperator
from operators.series_selector import SeriesSelectorOperator
from operators.study_loader import StudyLoaderOperator
from operators.tissue_mapper import TissueMapperOperator
from operators.treatment_plan import ChemotherapyCourse, Course, RadiotherapyCourse, asked_dose
from operators.tumour_segmenter import TumourSegmenterOperator


@dataclass(frozen=True)
class RunFolders:
    """Where a run reads and writes."""

    input: Path
    output: Path
    models: Path


class OncoTwinApplication(Application):
    """Longitudinal DICOM in, segmentations, report and forecasts out."""

    def __init__(self, folders: RunFolders, settings: Settings, *, nifti: bool) -> None:
        self._folders = folders
        self._settings = settings
        self._nifti = nifti
        # The SDK would parse the process's arguments itself; the entry point has done so already.
        super().__init__(["oncotwin", "-i", str(folders.input), "-m", str(folders.models)])

    def compose(self) -> None:
        settings = self._settings.oncotwin
        courses = [_course(entry) for entry in settings.treatments]
        loader = StudyLoaderOperator(
            self,
            CountCondition(self, 1),
            name="study_loader",
            input_folder=self._folders.input,
            visit_gap_hours=settings.ingest.visit_gap_hours,
        )
        segmenter = TumourSegmenterOperator(
            self,
            name="tumour_segmenter",
            models=self._folders.models,
            device=settings.segmentation.device,
            min_component_ml=settings.segmentation.min_component_ml,
        )
        selector = SeriesSelectorOperator(
            self,
            name="series_selector",
            required=segmenter.required_roles,
            rules=[rule.model_dump(exclude_none=True) for rule in settings.ingest.series_rules],
            rtdose=asked_dose(courses),
        )
        preprocessor = PreprocessorOperator(self, name="preprocessor", seed=settings.seed)
        mapper = TissueMapperOperator(
            self,
            name="tissue_mapper",
            grid_mm=settings.twin.grid_mm,
            min_component_ml=settings.segmentation.min_component_ml,
            seed=settings.seed,
        )
        calibrator = GrowthCalibratorOperator(
            self,
            name="growth_calibrator",
            diffusivity_prior=settings.twin.priors.diffusivity,
            proliferation_prior=settings.twin.priors.proliferation,
            core_threshold=settings.twin.core_threshold,
            whole_threshold=settings.twin.whole_threshold,
            gray_matter_ratio=settings.twin.gray_matter_ratio,
            device=settings.twin.device,
            seed=settings.seed,
            courses=courses,
            horizons_days=settings.forecast.horizons_days,
        )
        predictor = GrowthPredictorOperator(
            self, name="growth_predictor", horizons_days=settings.forecast.horizons_days
        )
        writer = ResultWriterOperator(
            self,
            name="result_writer",
            output_folder=self._folders.output,
            version=self._settings.application.version,
            settings_digest=_digest(settings.digest, segmenter.model.sha256),
            nifti=self._nifti,
        )
        self.add_flow(loader, selector, {("catalog", "catalog")})
        self.add_flow(selector, preprocessor, {("selected", "selected")})
        self.add_flow(preprocessor, segmenter, {("prepared", "prepared")})
        self.add_flow(segmenter, mapper, {("segmented", "segmented")})
        self.add_flow(mapper, calibrator, {("mapped", "mapped")})
        self.add_flow(calibrator, predictor, {("calibrated", "calibrated")})
        self.add_flow(predictor, writer, {("predicted", "predicted")})


def _course(entry: Treatment) -> Course:
    if isinstance(entry, RadiotherapySection):
        return RadiotherapyCourse(entry.given, entry.dose_gy, entry.alpha_beta, entry.rtdose)
    if isinstance(entry, ChemotherapySection):
        return ChemotherapyCourse(entry.given, entry.dose, entry.reference_dose, entry.half_life_hours)
    raise AssertionError("settings refuse every other kind")


def _digest(*parts: str) -> str:
    """One digest of everything besides the images that decides the result."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
