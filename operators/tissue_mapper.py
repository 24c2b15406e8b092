"""Operator: tumour labels to the patient's brain, that is tissue maps and labels inside the brain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from monai.deploy.core import Fragment, Operator, OperatorSpec

from imaging.growth_grid import BrainMap, growth_grid, map_brain
from imaging.labels import left_out_ml, reaches_edge, region_mask
from operators.messages import MappedStudies, SegmentedStudies, SegmentedVisit
from operators.progress import say


class TissueMapperOperator(Operator):
    """Registers the atlas and drops automatic labels outside the brain.

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
    """Tissue maps, automatic labels inside the brain, and warnings on tumour that was left out or may be cut."""
    drawn = [(visit.prepared, visit.labels) for visit in studies.visits]
    grid = growth_grid(drawn, grid_mm)
    if not any(np.any(visit.labels.array) for visit in studies.visits):
        return MappedStudies(studies, grid, None)
    say("mapping the brain (atlas registration)")
    brain = map_brain(drawn, grid, seed=seed)
    visits = tuple(_inside_brain(visit, brain, min_component_ml) for visit in studies.visits)
    warnings = (
        *_left_out(studies.visits, visits, brain, min_component_ml),
        *_cut(visits),
        *_beyond(visits, brain, min_component_ml),
    )
    segmented = replace(studies, visits=visits, warnings=studies.warnings + warnings)
    return MappedStudies(segmented, grid, brain.tissue)


def _inside_brain(visit: SegmentedVisit, brain: BrainMap, min_component_ml: float) -> SegmentedVisit:
    if visit.source != "network" or not np.any(region_mask(visit.labels.array, "WT")):
        return visit
    return replace(visit, labels=brain.inside(visit.labels, visit.prepared, min_component_ml))


def _left_out(
    before: Sequence[SegmentedVisit],
    after: Sequence[SegmentedVisit],
    brain: BrainMap,
    min_component_ml: float,
) -> tuple[str, ...]:
    """A sentence for each visit that lost more than the crumbs which are dropped anyway."""
    told = []
    for number, (one, other) in enumerate(zip(before, after, strict=True), start=1):
        volume = left_out_ml(one.labels, other.labels)
        if volume < min_component_ml:
            continue
        lost = one.labels.with_array((one.labels.array > 0) & (other.labels.array == 0))
        unseen = brain.beyond_ml(lost, one.prepared)
        where = (
            f", {unseen:.1f} mL of them beyond the images of visit {brain.number} that show it"
            if unseen
            else ""
        )
        told.append(
            f"Visit {number}: {volume:.1f} mL that the network called tumour lie outside the brain as the atlas shows "
            f"it{where} and were left out: look at the images there."
        )
    return tuple(told)


def _cut(visits: Sequence[SegmentedVisit]) -> tuple[str, ...]:
    """A sentence for each visit whose tumour its own images may cut."""
    return tuple(
        f"Visit {number}: the tumour reaches the edge of its images and may go on beyond it: its volume is a lower "
        "bound."
        for number, visit in enumerate(visits, start=1)
        if reaches_edge(visit.labels)
    )


def _beyond(visits: Sequence[SegmentedVisit], brain: BrainMap, min_component_ml: float) -> tuple[str, ...]:
    """A sentence for each visit with tumour where the atlas had no image to lie on."""
    volumes = [
        brain.beyond_ml(visit.labels.with_array(visit.labels.array > 0), visit.prepared) for visit in visits
    ]
    return tuple(
        f"Visit {number}: {volume:.1f} mL of the tumour lie beyond the images of visit {brain.number}, from which the "
        "brain was mapped: the growth model knows no tissue to grow into there."
        for number, volume in enumerate(volumes, start=1)
        if volume >= min_component_ml
    )
