"""The default network: MONAI's SegResNet (Myronenko 2018) in the size of the public BraTS bundle.

Five channels out: softmax over background, NCR, ED and ET, and a sigmoid of its own for the brain mask.
"""

from __future__ import annotations

from typing import Any

from monai.networks.nets import SegResNet

NETWORK_ARGUMENTS: dict[str, Any] = {
    "spatial_dims": 3,
    "init_filters": 16,
    "in_channels": 4,
    "out_channels": 5,
    "blocks_down": [1, 2, 2, 4],
    "blocks_up": [1, 1, 1],
}


def build_network() -> SegResNet:
    """SegResNet with the arguments that `models/oncotwin_brats` was trained with: 4.7 million parameters."""
    return SegResNet(**NETWORK_ARGUMENTS)
