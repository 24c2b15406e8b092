"""What a forecast loses because it starts anew at the last visit.

``python -m benchmarks.validation.restart --patients 48 --seed 20261127``

A forecast lays the steady wave through the masks of the last visit. In the world of the strict test
(:mod:`benchmarks.validation.self_consistency`) the tumour goes on from the first visit instead. Here the masks of the
second visit are without error and every parameter is the true one, so what is left between forecast and truth is that
restart: the far tail of the density, which no mask shows.
"""

import argparse
import math
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.validation.report import device
from benchmarks.validation.self_consistency import (
    DAY,
    HORIZON,
    SPACING_MM,
    VOLUMES,
    Draw,
    draw,
    masks_of,
    settings_for,
)
from benchmarks.validation.statistics import Vector
from benchmarks.validation.trial import tissue_maps, twin_version
from twin import CalibrationSettings, TissueMaps
from twin.coordinates import LOG_TAIL, LOG_WIDTH
from twin.scene import Scene, Tissue, starting_width
from twin.solver import trajectory

_NARROW, _WIDE = -0.15, 0.15
"""Log tail factors beyond which a tail counts as narrower or wider than that of the steady wave."""


def lost(drawn: Draw, tissue: TissueMaps, settings: CalibrationSettings, *, tail: bool) -> Vector:
    """Logarithm of the volumes (2,) of core and whole tumour after ``HORIZON`` days, restarted over true.

    Parameters
    ----------
    tail : bool
        Restart with the tail factor of the first visit, as forecasts do, or with the steady wave.
    """
    exact = masks_of(drawn.scene, tissue, DAY, drawn.densities[0], (0.0, 0.0))
    scene = Scene.build(Tissue.prepare(tissue, [exact], settings), [exact], math.inf, settings)
    width = starting_width(drawn.position) if tail else float(drawn.position[LOG_WIDTH])
    start = scene.density(0, width).to(scene.operator.dtype)
    values = {
        name: torch.tensor([value]) for name, value in scene.coordinates.physical(drawn.position).items()
    }
    (density,) = trajectory(scene.model, values, start[None, None], [HORIZON])
    return np.log(_volumes(density[0, 0], settings) / _volumes(drawn.densities[1], settings))


def _volumes(density: torch.Tensor, settings: CalibrationSettings) -> Vector:
    """Voxels of core and whole tumour; nan where there is none."""
    counts = [
        float((density > threshold).sum())
        for threshold in (settings.core_threshold, settings.whole_threshold)
    ]
    return np.array([count or math.nan for count in counts])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what is lost, by the width of the tail that the patient started with."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validation.restart", description=__doc__)
    parser.add_argument("--patients", type=int, default=48)
    parser.add_argument("--seed", type=int, default=20261127)
    options = parser.parse_args(arguments)
    tissue, settings = tissue_maps(True, SPACING_MM), settings_for(0)
    patients = [draw(number, options.seed, tissue, settings) for number in range(options.patients)]
    tails = np.array([patient.position[LOG_TAIL] for patient in patients])
    groups = {
        "all": np.ones(tails.size, dtype=bool),
        "narrow tails": tails < _NARROW,
        "between": (tails >= _NARROW) & (tails <= _WIDE),
        "wide tails": tails > _WIDE,
    }
    for name, tail in (("with the tail of the first visit", True), ("with the steady wave", False)):
        found = np.array([lost(patient, tissue, settings, tail=tail) for patient in patients])
        print(f"restart {name}: log of volume over true after {HORIZON:g} days, mean (sd)")
        for group, chosen in groups.items():
            shown = [found[chosen & np.isfinite(found[:, n]), n] for n in range(len(VOLUMES))]
            parts = [
                f"{volume} {part.mean():+.3f} ({part.std():.3f}), n {part.size}"
                for volume, part in zip(VOLUMES, shown, strict=True)
                if part.size
            ]
            print(f"  {group:13} {'  '.join(parts)}")
    print(f"twin {twin_version()}, {device()}")


if __name__ == "__main__":
    main()
