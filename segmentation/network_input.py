"""What a network is shown of one visit: checked, evenly bright, normalised contrasts in a box around the head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as functional
from torch import Tensor

from segmentation.bundle import ModelDescription
from segmentation.coil_field import without_coil_field
from segmentation.errors import ModelError
from segmentation.transforms import exact_background, head_mask, normalise, normalise_nonzero

BOX_MARGIN = 4  # voxels kept around the head
_SLIGHT_FIELD = 0.04  # standard deviation of a coil field's logarithm that is not worth another answer
_STRIPPED = 0.7  # share of brain above which images count as stripped; it is less than half of a head
_MASK_ERROR = 3  # voxels by which the network may miss the brain's edge

Box = tuple[slice, slice, slice]
Shape = tuple[int, int, int]


def checked_shape(
    description: ModelDescription, images: Mapping[str, Tensor], brain_mask: Tensor | None
) -> Shape:
    """The grid that the images of a visit share.

    Parameters
    ----------
    images
        Role -> float32 (I, J, K).
    brain_mask
        bool (I, J, K) or None.

    Raises
    ------
    ModelError
        If a required role is missing.
    ValueError
        If the images and the mask do not share one grid or the images are not finite.
    """
    roles = description.input_roles
    lacking = [role for role in roles if role in description.required_roles and role not in images]
    if lacking or not any(role in images for role in roles):
        wanted = ", ".join(lacking or roles).upper()
        raise ModelError(f"model {description.name} cannot do without {wanted}; add the series.")
    known = [images[role] for role in roles if role in images]
    shapes = {tuple(image.shape) for image in known}
    if brain_mask is not None:
        shapes.add(tuple(brain_mask.shape))
    if len(shapes) != 1 or known[0].dim() != 3:
        raise ValueError(f"images and mask must share one (I, J, K) grid, not {sorted(shapes)}")
    if not all(bool(torch.isfinite(image).all()) for image in known):
        raise ValueError("images hold values that are not finite numbers")
    i, j, k = known[0].shape
    return i, j, k


def network_input(
    description: ModelDescription, images: Mapping[str, Tensor], region: Tensor | None
) -> tuple[Tensor, Box]:
    """Normalised channels in the box around a region or around the head, and that box.

    Parameters
    ----------
    images
        Role -> float32 (I, J, K), one grid; roles that are not there become channels of zeros.
    region
        bool (I, J, K) or None: where intensities are normalised and what the box is laid around.

    Returns
    -------
    tuple
        float32 (C, ...), channels as the model has them; the box in the grid of the images.
    """
    shape = next(iter(images.values())).shape
    channels = []
    for role in description.input_roles:
        if role not in images:
            channels.append(torch.zeros(shape))
        elif description.normalisation == "head":
            channels.append(normalise(images[role].float(), region))
        else:
            channels.append(normalise_nonzero(images[role].float()))
    inputs = torch.stack(channels)
    box = _bounding_box(head_mask(inputs) if region is None else region)
    return inputs[(slice(None), *box)], box


def without_distrusted(description: ModelDescription, channels: Tensor) -> Tensor:
    """Channels (C, ...) in which distrusted roles are zero; as they are if any other role is missing."""
    distrusted = torch.tensor([role in description.distrusted_roles for role in description.input_roles])
    given = channels.flatten(1).any(1)
    if not bool((given | distrusted).all()):
        return channels
    return channels * (~distrusted).view(-1, *[1] * (channels.dim() - 1))


def second_look(
    description: ModelDescription,
    images: Mapping[str, Tensor],
    brain: Tensor,
    background: Tensor,
    *,
    brain_first: bool,
) -> Mapping[str, Tensor] | None:
    """Images for another answer, normalised in the brain; None where that would see what the first answer saw.

    Parameters
    ----------
    images
        Role -> float32 (I, J, K), as the first answer saw them.
    brain
        bool (I, J, K), not empty.
    background
        float32 (I, J, K): probability of no tumour by the first answer.
    brain_first
        Look again where images hold much else than the brain, since the first answer was normalised over all of it.
    """
    again = brain_first and not _is_stripped(_filled(images.values()), brain)
    if description.patient_model:
        images, uneven = _evenly_bright(description, images, brain, background)
        again = again or uneven
    return images if again else None


def _evenly_bright(
    description: ModelDescription, images: Mapping[str, Tensor], brain: Tensor, background: Tensor
) -> tuple[Mapping[str, Tensor], bool]:
    """Images without the coil's field in the brain, and True; or as they are, and False, if it is slight."""
    known = {role: images[role].float() for role in description.input_roles if role in images}
    even, sizes = without_coil_field(known, brain, brain & ~_around(background < 0.7))
    uneven = max(sizes.values()) > _SLIGHT_FIELD
    return (even, True) if uneven else (images, False)


def _around(mask: Tensor) -> Tensor:
    """A bool mask (I, J, K) and two voxels around it."""
    return functional.max_pool3d(mask.float()[None], 5, stride=1, padding=2)[0] > 0


def whole_brain(images: Iterable[Tensor], brain: Tensor) -> Tensor:
    """The brain that a network finds, up to the edge where a stripper has cut it out.

    That edge is exact, the network's is a few millimetres off, and tumour may lie between the two.

    Parameters
    ----------
    images
        float32 (I, J, K) each.
    brain
        bool (I, J, K) by the network.

    Returns
    -------
    Tensor
        bool (I, J, K); the ``brain`` itself for images with skull.
    """
    filled = _filled(images)
    if not _is_stripped(filled, brain):
        return brain
    near = (
        functional.max_pool3d(brain.float()[None], 2 * _MASK_ERROR + 1, stride=1, padding=_MASK_ERROR)[0] > 0
    )
    return brain | (filled & near)


def _filled(images: Iterable[Tensor]) -> Tensor:
    """Where any image (I, J, K) is more than exact background, bool (I, J, K)."""
    return torch.stack([~exact_background(image) for image in images]).any(0)


def _is_stripped(filled: Tensor, brain: Tensor) -> bool:
    """Whether images are exactly empty almost everywhere but in the brain, bool (I, J, K)."""
    return bool(brain.sum() > _STRIPPED * filled.sum())


def _bounding_box(filled: Tensor) -> Box:
    """Smallest box with a margin that holds what is True in bool (I, J, K); the whole where nothing is."""
    sides = []
    for axis, length in enumerate(filled.shape):
        others = [a for a in range(3) if a != axis]
        used = torch.nonzero(filled.any(dim=others[1]).any(dim=others[0]))
        low, high = (int(used[0]), int(used[-1])) if len(used) else (0, length - 1)
        sides.append(slice(max(0, low - BOX_MARGIN), min(length, high + 1 + BOX_MARGIN)))
    return sides[0], sides[1], sides[2]
