"""The calibrated trajectory from the first visit to the last."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from twin.draws import Draw
from twin.ensemble import Grown, Starts, grow_draw
from twin.inputs import TumourObservation
from twin.results import Calibration
from twin.scene import Scene, Tissue, treated
from twin.thinned import shows_core, thinned_profile
from twin.wave import WaveProfile


@dataclass(frozen=True)
class Past:
    """Growth of all draws from the first visit, at the calibrated pace, under the calibration's therapies.

    Parameters
    ----------
    visits : sequence of TumourObservation
        Two or more.
    """

    scene: Scene
    starts: Starts
    draws: Sequence[Draw]
    visits: Sequence[TumourObservation]
    shift: int

    @classmethod
    def prepare(
        cls,
        calibration: Calibration,
        tissue: Tissue,
        visits: Sequence[TumourObservation],
        draws: Sequence[Draw],
    ) -> "Past":
        """On the box that the fastest draw can reach."""
        steady = [draw.unpaced() for draw in draws]
        reach = max(draw.reach_mm(visits[-1].day - visits[0].day) for draw in steady)
        settings, therapies = calibration.settings, calibration.therapies
        scene = Scene.build(tissue, visits, reach, settings, threads=1, therapies=therapies)
        return cls(scene, Starts(scene), steady, visits, calibration.posterior.coordinates.shift(0))

    @property
    def treated(self) -> bool:
        """Whether a therapy has acted between the first visit and the last."""
        return treated(self.scene.model.therapies, self.visits[0].day, self.visits[-1].day)

    def grow(self, number: int, days: Sequence[float], keep: Sequence[float] = ()) -> Grown:
        """One draw over ``days``, on the calendar of the visits."""
        draw = self.draws[number]
        start = self.starts.density(number, draw.position, self.shift)
        return grow_draw(self.scene, start, draw, days, self.visits[0].day, keep)

    def front(self, number: int) -> WaveProfile | None:
        """What ties density to distance at the last visit for one draw, in mm; None where the steady wave does.

        That is so without therapy, and where the draw shows no tumour, or no core although one was segmented.
        """
        if not self.treated:
            return None
        settings, last = self.scene.settings, self.visits[-1]
        kept = self.grow(number, [last.day], [last.day]).kept[0]
        profile = None if kept is None else thinned_profile(kept[1], self.scene.spacing_mm, settings)
        if profile is None or (bool(torch.any(last.core)) and not shows_core(profile, settings)):
            return None
        return profile
