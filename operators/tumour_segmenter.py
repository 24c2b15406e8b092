"""Operator: aligned images to tumour labels, by the network or as drawn in the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.deploy.core import Fragment, Operator, OperatorSpec

from imaging.annotations import Correction
from imaging.geometry import Volume
from imaging.preparation import PreparedVisit, labels_on_image, network_images
from imaging.report_content import ModelIdentity
from imaging.roles import ROLES, Role
from operators.messages import PreparedStudies, SegmentedStudies, SegmentedVisit
from operators.progress import about
from segmentation.bundle import find_bundle
from segmentation.inference import TumourSegmenter


def taken_over(
    prepared: PreparedVisit, correction: Correction, number: int, warnings: list[str]
) -> SegmentedVisit:
    """The visit with the segmentation found in the input; a warning where no person made that or a newer one.

    Parameters
    ----------
    prepared : PreparedVisit
        The images.
    correction : Correction
        What was found with them.
    number : int
        Of the visit, for the warning.
    warnings : list of str
        Sentences for the report; the warning is added to them.
    """
    if correction.source == "other_algorithm":
        warnings.append(
            f"Visit {number}: a segmentation by another algorithm replaced the network's; it was found with the images "
            "and says that all its segments are AUTOMATIC, drawn by no person."
        )
    if correction.set_aside is not None:
        warnings.append(
            f"Visit {number}: the drawing {correction.path.name} was used and not {correction.set_aside.name}, which "
            "is newer or without a date: all segments of that are AUTOMATIC, drawn by no person. If a person "
            "corrected it, take the older drawing away."
        )
    return SegmentedVisit(prepared, correction.labels, correction.source, None)


class TumourSegmenterOperator(Operator):
    """Segments every visit on the grid of its reference image.

    Named input
    -----------
    prepared : operators.messages.PreparedStudies

    Named output
    ------------
    segmented : operators.messages.SegmentedStudies
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        models: Path,
        device: str,
        min_component_ml: float,
        **kwargs: Any,
    ) -> None:
        self.segmenter = TumourSegmenter.load(find_bundle(models), device=device)
        self.min_component_ml = min_component_ml
        super().__init__(fragment, *args, **kwargs)

    @property
    def required_roles(self) -> frozenset[Role]:
        """Contrasts the model cannot do without."""
        return frozenset(role for role in ROLES if role in self.segmenter.description.required_roles)

    @property
    def model(self) -> ModelIdentity:
        """The model in use."""
        description = self.segmenter.description
        return ModelIdentity(description.name, description.version, description.sha256)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("prepared")
        spec.output("segmented")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        studies: PreparedStudies = op_input.receive("prepared")
        warnings = list(studies.warnings)
        visits: list[SegmentedVisit] = []
        for number, prepared in enumerate(studies.visits, start=1):
            progress = about(f"visit {number} of {len(studies.visits)}")
            if prepared.correction is not None:
                progress("using the segmentation found in the input")
                visits.append(taken_over(prepared, prepared.correction, number, warnings))
                continue
            progress("segmenting the tumour")
            visits.append(self._infer(prepared, number, warnings))
        op_output.emit(
            SegmentedStudies(studies.catalog, tuple(visits), self.model, tuple(warnings)), "segmented"
        )

    def _infer(self, prepared: PreparedVisit, number: int, warnings: list[str]) -> SegmentedVisit:
        images = network_images(prepared, self.segmenter.description.spacing_mm)
        result = self.segmenter(
            {role: torch.from_numpy(image.array) for role, image in images.items()},
            min_component_ml=self.min_component_ml,
        )
        grid = next(iter(images.values())).geometry
        background, ncr, ed, et = (Volume(p.numpy(), grid) for p in result.probabilities)
        labels = labels_on_image(
            (background, ncr, ed, et), prepared.reference, self.segmenter.labels_of_image
        )
        if result.missing_roles:
            warnings.append(
                f"Visit {number} was segmented without {', '.join(result.missing_roles).upper()}."
            )
        warnings += [f"Visit {number}: {reason}" for reason in result.out_of_family]
        return SegmentedVisit(prepared, labels, "network", result.uncertainty)
