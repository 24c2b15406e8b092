"""The network's answer for an examination, computed once for all tasks that ask for it."""

from __future__ import annotations

from collections import OrderedDict

from imaging.geometry import Geometry
from monailabel_app.cases import Cases, images_digest
from monailabel_app.models import Models
from monailabel_app.studies import Examination
from segmentation.inference import SegmentationResult

_KEPT = 3


class Network:
    """Runs the model in use.

    Parameters
    ----------
    min_component_ml : float
        Smaller isolated pieces are dropped.
    """

    def __init__(self, cases: Cases, models: Models, min_component_ml: float) -> None:
        self._cases = cases
        self._models = models
        self._min_component_ml = min_component_ml
        self._results: OrderedDict[tuple[str, str], tuple[SegmentationResult, Geometry]] = OrderedDict()

    def result(self, examination: Examination) -> tuple[SegmentationResult, Geometry]:
        """Probabilities and labels, and the grid they are on.

        Raises
        ------
        ImagingError, ModelError
            If the images or the model cannot be used.
        """
        segmenter = self._models.segmenter
        # By the images: a study may grow by a contrast or by slices while its case is open.
        which = images_digest(examination), segmenter.description.sha256
        if which not in self._results:
            images, grid = self._cases.network_inputs(examination, segmenter.description.spacing_mm)
            answer = segmenter(
                {str(role): image for role, image in images.items()}, min_component_ml=self._min_component_ml
            )
            self._results[which] = answer, grid
            while len(self._results) > _KEPT:
                self._results.popitem(last=False)
        self._results.move_to_end(which)
        return self._results[which]
