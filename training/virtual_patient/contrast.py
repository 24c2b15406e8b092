"""What a tissue looks like: MR signal from relaxation times, and the tumour painted in by cell density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from imaging.labels import TumourLabel
from training.virtual_patient.anatomy import Anatomy
from training.virtual_patient.fields import Float32Array, smooth_noise, smooth_step, stream


@dataclass(frozen=True)
class Tissue:
    """Relaxation at 3 T: ``t1_ms``, ``t2_ms``, relative proton density, and T1 after gadolinium."""

    t1_ms: float
    t2_ms: float
    density: float
    t1_enhanced_ms: float | None = None


# Rounded from the ranges reported for 3 T; fat is given its apparent T2 in a turbo spin echo.
RELAXATION = {
    "white": Tissue(850, 71, 0.70),
    "gray": Tissue(1330, 92, 0.82),
    "csf": Tissue(4200, 1400, 1.00),
    "blood": Tissue(1650, 30, 0.55, 330),
    "dura": Tissue(1100, 40, 0.45, 480),
    "bone": Tissue(600, 5, 0.08),
    "marrow": Tissue(420, 75, 0.55),
    "fat": Tissue(380, 100, 0.85),
    "muscle": Tissue(1300, 38, 0.72, 1000),
    "vitreous": Tissue(3900, 1200, 0.98),
}
EDEMA = Tissue(1500, 165, 0.88)
ENHANCING = Tissue(1480, 125, 0.85, 540)
NECROSIS = Tissue(2400, 290, 0.93)


@dataclass(frozen=True)
class Sequence:
    """Timing of a pulse sequence in ms and what it is.

    Parameters
    ----------
    kind : {"mprage", "tse", "tirm", "flash"}
        Inversion-prepared gradient echo, turbo spin echo, inversion-recovery turbo spin echo, or spoiled
        gradient echo; only written to the header.
    repetition_ms, echo_ms : float
        TR and effective TE.
    inversion_ms : float or None
        TI, where there is an inversion.
    flip_degrees : float
        Only written to the header.
    echo_train : int
        Only written to the header.
    """

    kind: Literal["mprage", "tse", "tirm", "flash"]
    repetition_ms: float
    echo_ms: float
    inversion_ms: float | None
    flip_degrees: float
    echo_train: int

    def signal(self, tissue: Tissue, enhanced: bool) -> float:
        """Magnitude signal of a tissue, before or after contrast agent, in units of full magnetisation.

        Inversion recovery ``1 - 2 exp(-TI/T1) + exp(-TR/T1)`` and spin echo
        ``(1 - exp(-TR/T1)) exp(-TE/T2)``, see Bernstein, King and Zhou, Handbook of MRI Pulse Sequences, 2004.
        """
        t1 = tissue.t1_enhanced_ms if enhanced and tissue.t1_enhanced_ms else tissue.t1_ms
        decay = float(np.exp(-self.echo_ms / tissue.t2_ms))
        recovery = 1 - float(np.exp(-self.repetition_ms / t1))
        if self.inversion_ms is not None:
            recovery = abs(2 - recovery - 2 * float(np.exp(-self.inversion_ms / t1)))
        return tissue.density * recovery * decay


@dataclass(frozen=True)
class Thresholds:
    """Cell densities at which a tumour's compartments begin.

    Raises
    ------
    ValueError
        If they are not ``0 < edema < core < necrosis < 1``.
    """

    edema: float = 0.2
    core: float = 0.6
    necrosis: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.edema < self.core < self.necrosis < 1:
            raise ValueError(
                f"thresholds must rise from edema through core to necrosis within 0..1, not {self}"
            )

    def labels(self, density: Float32Array) -> np.ndarray:
        """BraTS labels (uint8) of a density map; same shape."""
        ordered = np.array(
            [TumourLabel.BACKGROUND, TumourLabel.ED, TumourLabel.ET, TumourLabel.NCR], np.uint8
        )
        return ordered[np.digitize(density, (self.edema, self.core, self.necrosis))]


def head_image(anatomy: Anatomy, sequence: Sequence, enhanced: bool, seed: int) -> Float32Array:
    """Noise-free image of the head without its tumour, on the anatomy's grid."""
    jitter = stream(seed, "relaxation")
    image = np.zeros(anatomy.geometry.shape, np.float32)
    for name, tissue in RELAXATION.items():
        t1, t2 = jitter.uniform(0.95, 1.05, 2)
        own = Tissue(tissue.t1_ms * t1, tissue.t2_ms * t2, tissue.density, tissue.t1_enhanced_ms)
        image += anatomy.fractions[name] * np.float32(sequence.signal(own, enhanced))
    texture = smooth_noise(anatomy.geometry, stream(seed, "texture"), 3.0)
    image *= 1 + np.float32(0.03) * texture
    return image


@dataclass(frozen=True, eq=False)
class TumourAppearance:
    """Soft shares of the tumour's compartments on a part of the head's grid.

    Parameters
    ----------
    box : tuple of slice
        Part of the anatomy's grid that holds the tumour.
    edema, enhancing, necrosis : numpy.ndarray
        float32 shares of each voxel of the box.
    patches, grain : numpy.ndarray
        Random fields that make the compartments uneven.
    """

    box: tuple[slice, slice, slice]
    edema: Float32Array
    enhancing: Float32Array
    necrosis: Float32Array
    patches: Float32Array
    grain: Float32Array

    @classmethod
    def of(
        cls, anatomy: Anatomy, density: Float32Array, thresholds: Thresholds, seed: int
    ) -> TumourAppearance | None:
        """Appearance of a (visible) density map on the anatomy's grid; None where no voxel shows."""
        shown = np.argwhere(density > thresholds.edema / 2)
        if len(shown) == 0:
            return None
        low, high = shown.min(axis=0), shown.max(axis=0) + 1
        i, j, k = (slice(int(start), int(stop)) for start, stop in zip(low, high, strict=True))
        u, part = density[i, j, k], anatomy.geometry.crop(low, high)
        # Oedema fades out over more tissue than the other borders take.
        whole = smooth_step(u, thresholds.edema, 0.14)
        core, dead = (smooth_step(u, level, 0.06) for level in (thresholds.core, thresholds.necrosis))
        # Oedema follows the fibres: gray matter takes up less of it.
        gray = anatomy.fractions["gray"][i, j, k]
        return cls(
            (i, j, k),
            (whole - core) * (1 - np.float32(0.45) * gray),
            core - dead,
            dead,
            smooth_noise(part, stream(seed, "patches"), 7.0),
            smooth_noise(part, stream(seed, "grain"), 2.5),
        )

    def painted(self, head: Float32Array, sequence: Sequence, enhanced: bool) -> Float32Array:
        """The head with the tumour in it; ``head`` is left as it was."""
        edema, enhancing, necrosis = (
            np.float32(sequence.signal(tissue, enhanced)) for tissue in (EDEMA, ENHANCING, NECROSIS)
        )
        image = head.copy()
        tumour = (
            self.edema * edema * (1 + np.float32(0.09) * self.patches)
            + self.enhancing
            * enhancing
            * (1 + np.float32(0.18) * self.patches + np.float32(0.10) * self.grain)
            + self.necrosis * necrosis * (1 + np.float32(0.12) * self.patches + np.float32(0.05) * self.grain)
        )
        image[self.box] *= 1 - self.edema - self.enhancing - self.necrosis
        image[self.box] += np.maximum(tumour, 0)
        return image
