"""Operator: tumour labels to the patient's brain, that is tissue maps and labels inside the brain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from monai.deploy.core import Fragment, Operator, OperatorSpec

from imaging.atlas import register_atlas
from imaging.geometry import Volume
from imaging.labels import discard_outside, left_out_ml, region_mask
from imaging.preparation import combined_lesion, mask_on_grid
from operators.messages import MappedStudies, SegmentedStudies, SegmentedVisit
from operators.progress import say


class TissueMapperOperator(Operator):
    """Registers the atlas to the first visit and drops automatic labels outside the brain.

    Named input
    -----------
    segmented : operators.messages.SegmentedStudies

    Named output
    ------------
    mapped : operators.messages.MappedStudies
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        grid_mm: float,
        min_component_ml: float,
        seed: int,
        **kwargs: Any,
    ) -> None:
        self.grid_mm = grid_mm
        self.min_component_ml = min_component_ml
        self.seed = seed
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("segmented")
        spec.output("mapped")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        studies: SegmentedStudies = op_input.receive("segmented")
        op_output.emit(mapped(studies, self.grid_mm, self.min_component_ml, self.seed), "mapped")


def mapped(studies: SegmentedStudies, grid_mm: float, min_component_ml: float, seed: int) -> MappedStudies:
    """Tissue maps, automatic labels inside the brain, and a warning for each visit that lost some of them."""
    first = studies.visits[0].prepared
    grid = first.reference.geometry.axis_aligned_cover(grid_mm)
    if not any(np.any(visit.labels.array) for visit in studies.visits):
        return MappedStudies(studies, grid, None)
    say("mapping the brain (atlas registration)")
    image = first.aligned("t1") if "t1" in first.images else first.reference
    lesion = combined_lesion([(v.prepared, v.labels) for v in studies.visits], grid)
    tissue = register_atlas(image, grid, lesion=lesion, seed=seed)
    visits = tuple(_inside_brain(visit, tissue.brain_mask, min_component_ml) for visit in studies.visits)
    warnings = _left_out(studies.visits, visits, min_component_ml)
    return MappedStudies(replace(studies, visits=visits, warnings=studies.warnings + warnings), grid, tissue)


def _inside_brain(visit: SegmentedVisit, brain_mask: Volume, min_component_ml: float) -> SegmentedVisit:
    if visit.source != "network" or not np.any(region_mask(visit.labels.array, "WT")):
        return visit
    brain = mask_on_grid(brain_mask, visit.labels.geometry, visit.prepared.visit_to_first)
    return replace(visit, labels=discard_outside(visit.labels, brain, min_component_ml))


def _left_out(
    before: Sequence[SegmentedVisit], after: Sequence[SegmentedVisit], min_component_ml: float
) -> tuple[str, ...]:
    """A sentence for each visit that lost more than the crumbs which are dropped anyway."""
    lost = [left_out_ml(one.labels, other.labels) for one, other in zip(before, after, strict=True)]
    return tuple(
        f"Visit {number}: {volume:.1f} mL that the network called tumour lie outside the brain as the atlas shows it "
        f"and were left out: look at the images there."
        for number, volume in enumerate(lost, start=1)
        if volume >= min_component_ml
    )
