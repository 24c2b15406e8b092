"""Colours of the regions, the same in the segmentation objects and on the pages of the report."""

from __future__ import annotations

REGION_COLOURS: dict[str, tuple[int, int, int]] = {
    "NCR": (66, 153, 255),
    "ED": (255, 196, 0),
    "ET": (255, 64, 72),
    "core": (226, 60, 214),
    "rest": (38, 200, 200),
}

REGION_NAMES: dict[str, str] = {
    "NCR": "necrotic core",
    "ED": "oedema",
    "ET": "enhancing tumour",
    "TC": "tumour core (NCR + ET)",
    "WT": "whole tumour (TC + ED)",
}
