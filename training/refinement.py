"""Make simulated images look more like a site's own: a latent rectified flow trained on its unlabelled images.

``python -m training.refinement IMAGES --out DIR`` learns from folders of NIfTI files that need no segmentation;
``python -m training.train --refiner DIR`` passes simulated patches through what was learned. An autoencoder (Rombach et
al. 2022) takes patches of four contrasts to a latent space, a flow (Liu et al. 2023) carries noise to latents of the
site. A simulated patch is encoded, mixed with a little noise and carried back (SDEdit, Meng et al. 2022): its texture
becomes the site's while structures, and with them the labels, stay. Whether it helps is for the site to measure.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from monai.networks.schedulers import RFlowScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imaging.geometry import Volume
from imaging.preparation import averaged_on_grid
from segmentation.bundle import ROLES
from segmentation.transforms import normalise
from training.anatomy import SPACING_MM
from training.nifti_cases import case_files

log = logging.getLogger("oncotwin.training")

_TIMES = 1000
_SCHEDULER = RFlowScheduler(num_train_timesteps=_TIMES, use_discrete_timesteps=False)
_KL_WEIGHT = 1e-6  # as Rombach et al.: keeps latents near zero, no more


@dataclass(frozen=True)
class RefinerSettings:
    """Size and training of a refiner.

    Attributes
    ----------
    channels
        Features at each resolution of both networks; a halving lies between two.
    latent_channels
        Channels of the latent space.
    patch
        Side of a training patch in voxels of 2 mm; every patch that is refined has sides that are multiples of
        `multiple`.
    strength
        Time at which a simulated patch enters the flow: 0 leaves it as it is, 1 forgets it.
    flow_steps
        Euler steps from noise to image; a share `strength` of them is taken.
    """

    channels: tuple[int, ...] = (32, 64, 64)
    latent_channels: int = 4
    patch: int = 64
    batch: int = 2
    learning_rate: float = 1e-4
    strength: float = 0.3
    flow_steps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if not 0 <= self.strength <= 1 or self.flow_steps < 1:
            raise ValueError("strength must lie in 0 to 1 and flow_steps be at least 1")
        if self.patch % self.multiple:
            raise ValueError(f"patch must be a multiple of {self.multiple}, not {self.patch}")

    @property
    def multiple(self) -> int:
        """What the sides of a patch must be a multiple of: both networks halve it once between two resolutions."""
        return int(4 ** (len(self.channels) - 1))


class Refiner(nn.Module):
    """Autoencoder, flow and the scale of the latents.

    Parameters
    ----------
    settings
        Its size.
    """

    scale: Tensor

    def __init__(self, settings: RefinerSettings) -> None:
        super().__init__()
        self.settings = settings
        shape = {
            "spatial_dims": 3,
            "num_res_blocks": 1,
            "channels": settings.channels,
            "attention_levels": (False,) * len(settings.channels),
            "norm_num_groups": 8,
        }
        self.autoencoder = AutoencoderKL(
            in_channels=len(ROLES),
            out_channels=len(ROLES),
            latent_channels=settings.latent_channels,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
            **shape,
        )
        self.flow = DiffusionModelUNet(
            in_channels=settings.latent_channels,
            out_channels=settings.latent_channels,
            num_head_channels=8,
            **shape,
        )
        self.register_buffer("scale", torch.ones(()))

    def autoencoder_loss(self, images: Tensor) -> Tensor:
        """Mean absolute error of the reconstruction plus the latents' divergence from a normal distribution."""
        rebuilt, mean, deviation = self.autoencoder(images)
        divergence = 0.5 * (mean**2 + deviation**2 - 2 * deviation.log() - 1).mean()
        return functional.l1_loss(rebuilt, images) + _KL_WEIGHT * divergence

    @torch.no_grad()
    def measure_scale(self, images: Tensor) -> None:
        """Set the latents' scale so that those of some images (B, 4, I, J, K) have standard deviation 1."""
        self.scale.copy_(1 / self.autoencoder.encode(images)[0].std().clamp(min=1e-6))

    def flow_loss(self, images: Tensor) -> Tensor:
        """Squared error of the velocity from noise to latent, at random times between."""
        with torch.no_grad():
            latents = self.autoencoder.encode(images)[0] * self.scale
        noise = torch.randn_like(latents)
        times = _SCHEDULER.sample_timesteps(latents)
        mixed = _SCHEDULER.add_noise(latents, noise, times)
        return functional.mse_loss(self.flow(mixed, times), latents - noise)

    @torch.no_grad()
    def refine(self, images: Tensor, seed: int) -> Tensor:
        """Simulated images in the texture of the site's.

        Parameters
        ----------
        images
            float32 (B, 4, I, J, K), normalised; sides are multiples of `settings.multiple`. A contrast that is all 0
            is missing and stays so.
        seed
            Of the noise: the same images and seed give the same answer.

        Raises
        ------
        ValueError
            If a side is not such a multiple.
        """
        settings = self.settings
        if any(side % settings.multiple for side in images.shape[2:]):
            raise ValueError(f"sides {tuple(images.shape[2:])} are not multiples of {settings.multiple}")
        steps = round(settings.strength * settings.flow_steps)
        if steps == 0:
            return images
        times = [_TIMES * (steps - n) / settings.flow_steps for n in range(steps + 1)]
        latents = self.autoencoder.encode(images)[0] * self.scale
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
        sample = _SCHEDULER.add_noise(latents, noise, torch.full((len(images),), times[0]).to(latents))
        for now, following in pairwise(times):
            velocity = self.flow(sample, torch.full((len(images),), now).to(latents))
            sample = sample + velocity * (now - following) / _TIMES
        refined = self.autoencoder.decode(sample / self.scale)
        present = (images != 0).flatten(2).any(2)[..., None, None, None]
        return torch.where(present, refined, images)

    def save(self, folder: Path) -> None:
        """Write ``refiner.json`` and ``refiner.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {key: value.contiguous() for key, value in self.state_dict().items()}
        save_file(weights, folder / "refiner.safetensors")
        (folder / "refiner.json").write_text(json.dumps(asdict(self.settings), indent=4) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Refiner:
        """Read what `save` wrote, in evaluation mode."""
        refiner = cls(RefinerSettings(**json.loads((folder / "refiner.json").read_text())))
        refiner.load_state_dict(load_file(folder / "refiner.safetensors"))
        return refiner.eval()


def site_images(folder: Path) -> list[Tensor]:
    """Unlabelled cases on the network's grid: float32 (4, I, J, K) each, normalised, missing contrasts all 0.

    Raises
    ------
    FileNotFoundError
        If no folder below `folder` holds a contrast.
    """
    cases = []
    for _, files in case_files(folder):
        volumes = {role: Volume.load_nifti(files[role]) for role in ROLES if role in files}
        if not volumes:
            continue
        reference = next(volumes[role] for role in ("t1ce", "t1", "flair", "t2") if role in volumes)
        grid = reference.geometry.canonical().axis_aligned_cover(SPACING_MM)
        channels = [
            normalise(torch.from_numpy(averaged_on_grid(volumes[role], grid).array))
            if role in volumes
            else torch.zeros(grid.shape)
            for role in ROLES
        ]
        cases.append(torch.stack(channels))
    if not cases:
        raise FileNotFoundError(f"{folder} holds no folder with NIfTI files named t1, t1ce, t2 or flair")
    return cases


def _patches(rng: np.random.Generator, cases: Sequence[Tensor], settings: RefinerSettings) -> Tensor:
    """A batch of random patches (B, 4, P, P, P), replicated at the border where a case is smaller."""
    side, patches = settings.patch, []
    for _ in range(settings.batch):
        case = cases[rng.integers(len(cases))]
        lacking = [max(0, side - n) for n in case.shape[1:]]
        padding = [p for n in reversed(lacking) for p in (0, n)]
        case = functional.pad(case[None], padding, mode="replicate")[0]
        corner = [rng.integers(n - side + 1) for n in case.shape[1:]]
        patches.append(case[(slice(None), *(slice(c, c + side) for c in corner))])
    return torch.stack(patches)


def train_refiner(
    cases: Sequence[Tensor], settings: RefinerSettings, *, autoencoder_steps: int, flow_steps: int
) -> tuple[Refiner, list[float], list[float]]:
    """Train the autoencoder, then the flow on its latents.

    Parameters
    ----------
    cases
        As `site_images` gives them.
    autoencoder_steps, flow_steps
        Optimiser steps of each.

    Returns
    -------
    tuple
        The refiner in evaluation mode, on the CPU, and the losses of both parts.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    refiner = Refiner(settings).to(device)
    losses: tuple[list[float], list[float]] = ([], [])
    parts = (
        ("autoencoder", refiner.autoencoder, refiner.autoencoder_loss, autoencoder_steps),
        ("flow", refiner.flow, refiner.flow_loss, flow_steps),
    )
    for (name, network, loss_of, steps), history in zip(parts, losses, strict=True):
        optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate)
        for step in range(1, steps + 1):
            loss = loss_of(_patches(rng, cases, settings).to(device))
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss of the {name} became {float(loss)} at step {step}")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            history.append(loss.item())
            if step % 100 == 0:
                log.info("%s: step %d of %d, loss %.4f", name, step, steps, sum(history[-100:]) / 100)
        if name == "autoencoder":
            refiner.measure_scale(_patches(rng, cases, settings).to(device))
    return refiner.cpu().eval(), *losses


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m training.refinement", description=__doc__)
    parser.add_argument("images", type=Path, help="folder of folders with NIfTI files, no labels needed")
    parser.add_argument("--out", type=Path, required=True, help="folder for the refiner")
    parser.add_argument("--autoencoder-steps", type=int, default=20_000)
    parser.add_argument("--flow-steps", type=int, default=40_000)
    parser.add_argument("--patch", type=int, default=RefinerSettings.patch, help="patch side in 2 mm voxels")
    parser.add_argument(
        "--strength", type=float, default=RefinerSettings.strength, help="how far images change, 0 to 1"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    settings = RefinerSettings(patch=options.patch, strength=options.strength)
    refiner, *_ = train_refiner(
        site_images(options.images),
        settings,
        autoencoder_steps=options.autoencoder_steps,
        flow_steps=options.flow_steps,
    )
    refiner.save(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
