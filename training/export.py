"""Put trained weights into the bundle: ``python -m training.export DIR/ema.pt models/oncotwin_brats --version V``."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file


def export_weights(weights: Path, bundle: Path, *, version: str) -> str:
    """Write the averaged weights as float16 into a bundle and their digest and version into its metadata.

    Parameters
    ----------
    weights
        ``ema.pt`` of `training.train`.
    bundle
        Folder with ``configs/metadata.json``.

    Returns
    -------
    str
        SHA-256 of the file written.
    """
    state = torch.load(weights, map_location="cpu", weights_only=True)
    half = {key: value.to(torch.float16).contiguous() for key, value in state.items()}
    target = bundle / "models" / "model.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(half, target)
    target.chmod(0o644)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    metadata["version"] = version
    metadata["oncotwin"]["weights_sha256"] = digest
    path.write_text(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
    return digest


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--version", required=True)
    options = parser.parse_args(arguments)
    print(export_weights(options.weights, options.bundle, version=options.version))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
