"""The values that travel between server and viewer, and what names mean on the way back.

Slicer imports the i-th name from value i, OHIF takes the value of the name in ``/info/``; values 1 to N without a gap
serve both. When segments overlap, Slicer's export lets the later one win, so enhancing tumour comes last and oedema
first: a class painted into another's region is then kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imaging.errors import ImagingError
from imaging.labels import TumourLabel
from imaging.segment_names import label_map, region_of
from monailabel_app.refusal import Refusal

WIRE_VALUES: Mapping[str, int] = {"ED": 1, "NCR": 2, "ET": 3}
FOREIGN_PREFIXES = ("FORECAST", "UNSURE", "TWIN")
"""How the names of segments begin that show something else than the tumour as seen."""

_TO_WIRE = np.zeros(len(TumourLabel), dtype=np.uint8)
for _name, _value in WIRE_VALUES.items():
    _TO_WIRE[TumourLabel[_name]] = _value
_INSIDE: Mapping[str, frozenset[str]] = {
    "WT": frozenset({"TC", "NCR", "ET"}),
    "TC": frozenset({"NCR", "ET"}),
}
_NOT_SEGMENTS = frozenset({"background", "foreground_scribbles", "background_scribbles"})


def to_wire(labels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Tumour labels (``TumourLabel``) as the values that viewers get."""
    wire: npt.NDArray[np.uint8] = _TO_WIRE[labels]
    return wire


def from_wire(values: npt.NDArray[Any], label_info: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.uint8]:
    """A drawing as tumour labels, its values read by name.

    Parameters
    ----------
    values : numpy.ndarray
        As the viewer sent them.
    label_info : sequence of mapping
        The segments' ``name`` by position, as Slicer sends it: value i is the i-th name, whatever its ``idx`` says,
        since that also counts segments that were not sent. Empty: values are ``WIRE_VALUES``.

    Raises
    ------
    Refusal
        If a value has no name, a name is no tumour region, or a segment may have erased tumour in the label map:
        one of another kind (a forecast, say) that covers voxels, or a nested one that comes after what lies inside it.
    """
    names = [str(item.get("name", "")) for item in label_info] or list(WIRE_VALUES)
    present = {int(value) for value in np.unique(values)} - {0}
    unnamed = sorted(value for value in present if not 1 <= value <= len(names))
    if unnamed:
        raise Refusal(
            f"The label map holds the value {unnamed[0]}, but only {len(names)} segment(s) were named."
        )
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    earlier: dict[str, str] = {}
    for value, name in enumerate(names, start=1):
        if name.startswith(FOREIGN_PREFIXES):
            if value in present:
                raise Refusal(
                    f"Segment {name!r} shows no tumour as seen and may hide some of it in what was sent; remove that "
                    "segment and submit again."
                )
        elif name not in _NOT_SEGMENTS:
            try:
                region = region_of(name, "", "the drawing")
            except ImagingError as error:
                if value not in present:
                    continue
                raise Refusal(error.message) from error
            if value in present:
                _refuse_over_its_inside(name, region, earlier)
            earlier[region] = name
            masks[region] = masks.get(region, np.zeros(values.shape, dtype=bool)) | (values == value)
    if not masks:
        return np.zeros(values.shape, dtype=np.uint8)
    try:
        labels: npt.NDArray[np.uint8] = label_map(masks, "the drawing")
    except ImagingError as error:
        raise Refusal(error.message) from error
    return labels


def _refuse_over_its_inside(name: str, region: str, earlier: Mapping[str, str]) -> None:
    """Refuse a nested segment after what lies inside it: where they overlap, nothing of that is left to be read."""
    hidden = [repr(other) for inner, other in earlier.items() if inner in _INSIDE.get(region, ())]
    if hidden:
        raise Refusal(
            f"Segment {name!r} comes after {' and '.join(hidden)} and may hide them in what was sent, since it holds "
            "them; move it above them in the list of segments, or remove it, and submit again."
        )
