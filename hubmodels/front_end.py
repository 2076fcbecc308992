"""Feature maps -> patch features, exactly as the codes of SimpleNet and GLASS make them, at a fraction of the cost.

Both codes (inherited from PatchCore, arXiv 2106.08265, section 3.1) unfold 3x3 neighbourhoods of every layer,
upsample the C*9 planes to the first layer's grid, average-pool each flattened neighbourhood to `embed_dim`, stack
the layers and average-pool again to `embed_dim`. Pooling acts on (channel, row, column of the neighbourhood),
upsampling on the grid position: the two linear maps commute. So the two poolings become one grouped convolution
per layer on its own coarse grid, and only `embed_dim` planes are upsampled.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchFeatures(nn.Module):
    """Neighbourhood aggregation of both papers as one grouped convolution per layer.

    Args:
        channels: channels of each layer's feature map, first layer = finest grid.
        embed_dim: width D of a patch feature; must be a multiple of the number of layers, so that each dimension
            comes from one layer (1536 for wide_resnet50_2: 768 from layer2, then 768 from layer3).
        patch_size: odd side of the neighbourhood, 3 in both papers.
    """

    def __init__(self, channels: tuple[int, ...], embed_dim: int, patch_size: int = 3) -> None:
        super().__init__()
        if embed_dim % len(channels):
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of the {len(channels)} layers")
        if patch_size % 2 == 0:
            raise ValueError(f"patch_size {patch_size} is even: a neighbourhood needs a centre")
        self.padding, self.groups = patch_size // 2, []
        for i, width in enumerate(channels):
            kernel, groups = _aggregation_kernel(width, embed_dim, len(channels), patch_size)
            self.groups.append(groups)
            self.register_buffer(f"kernel{i}", kernel, persistent=False)  # derived from the config, not learned

    def forward(self, feature_maps: list[Tensor]) -> list[Tensor]:
        """Feature maps (B, C, h, w) -> per layer the aggregated map (B, D/L, h, w) on its own grid."""
        return [
            F.conv2d(feature_map, getattr(self, f"kernel{i}"), padding=self.padding, groups=self.groups[i])
            for i, feature_map in enumerate(feature_maps)
        ]


def align(aggregated: list[Tensor]) -> Tensor:
    """Aggregated maps (B, D/L, h_l, w_l) -> patch features (B, D, h, w) on the first layer's grid (bilinear)."""
    first, *coarser = aggregated
    upsampled = [F.interpolate(a, first.shape[-2:], mode="bilinear", align_corners=False) for a in coarser]
    return torch.cat([first, *upsampled], dim=1)


def flatten(features: Tensor) -> Tensor:
    """Patch features (B, D, h, w) -> (B*h*w, D), pictures outermost, then rows."""
    return features.movedim(1, -1).flatten(0, 2)


def _aggregation_kernel(channels: int, embed_dim: int, layers: int, patch_size: int) -> tuple[Tensor, int]:
    """Kernel (D/L, channels/groups, p, p) and groups of the two adaptive average poolings of one layer.

    Bin j of `adaptive_avg_pool1d` spans [floor(j n/m), ceil((j+1) n/m)), which repeats with period n/groups for
    every common divisor: it is enough to pool the unit vectors of one group.
    """
    groups = math.gcd(channels, embed_dim // layers)
    width = channels // groups
    # one unit vector per (channel, row, column) of a neighbourhood
    units = torch.eye(width * patch_size**2, dtype=torch.float64)[:, None]
    to_embed_dim = F.adaptive_avg_pool1d(units, embed_dim // groups)
    across_layers = F.avg_pool1d(to_embed_dim, layers)  # (L * D) -> D: bins of L, none of which mixes two layers
    kernel = across_layers[:, 0].T.reshape(-1, width, patch_size, patch_size).float()
    return kernel.repeat(groups, 1, 1, 1), groups
