"""Operator: tumour labels to the patient's brain, that is tissue maps and labels inside the brain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from monai.deploy.core import Fragment, Operator, OperatorSpec

from imaging.atlas import register_atlas
from imaging.labels import discard_outside, region_mask
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
        first = studies.visits[0].prepared
        grid = first.reference.geometry.axis_aligned_cover(self.grid_mm)
        if not any(np.any(visit.labels.array) for visit in studies.visits):
            op_output.emit(MappedStudies(studies, grid, None), "mapped")
            return
        say("mapping the brain (atlas registration)")
        image = first.aligned("t1") if "t1" in first.images else first.reference
        lesion = combined_lesion([(v.prepared, v.labels) for v in studies.visits], grid)
        tissue = register_atlas(image, grid, lesion=lesion, seed=self.seed)
        visits = tuple(self._inside_brain(visit, tissue.brain_mask) for visit in studies.visits)
        op_output.emit(MappedStudies(replace(studies, visits=visits), grid, tissue), "mapped")

    def _inside_brain(self, visit: SegmentedVisit, brain_mask: Any) -> SegmentedVisit:
        if visit.source != "network" or not np.any(region_mask(visit.labels.array, "WT")):
            return visit
        geometry = visit.labels.geometry
        brain = mask_on_grid(brain_mask, geometry, visit.prepared.visit_to_first)
        return replace(visit, labels=discard_outside(visit.labels, brain, self.min_component_ml))
