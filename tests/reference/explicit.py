"""Inference as in the official codes of SimpleNet (351a2b8) and GLASS (f788d56), step by step.

The tests compare the fast path with it, and `benchmarks/inference.py` times it. It is slow on purpose: the network
runs to its end, neighbourhoods are unfolded, adaptor and discriminator are separate layers, scipy smooths the map.
"""

from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn

from hubmodels.compactnet import COMPACT_BACKBONE, CompactNet
from hubmodels.detector import AnomalyDetector
from hubmodels.scoring import SMOOTHING_SIGMA


class WholeNetwork(nn.Module):
    """A classifier that runs to its end, although only two maps are needed: images -> [layer2, layer3]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.maps = network.eval().requires_grad_(False), {}
        for name in ("layer2", "layer3"):
            network.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: self.keep(name, output))

    def keep(self, name: str, output: Tensor) -> None:
        self.maps[name] = output

    def forward(self, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            self.network(images)
        return [self.maps.pop("layer2"), self.maps.pop("layer3")]


def whole_backbone(name: str, weights: Path | None = None) -> nn.Module:
    """The network with its classifier, from a file that may lack the last layers; random weights without a file.

    CompactNet has no layers after layer3.
    """
    network = CompactNet() if name == COMPACT_BACKBONE else timm.create_model(name, pretrained=False)
    if weights is not None:
        network.load_state_dict({k: v.float() for k, v in load_file(weights).items()}, strict=False)
    return WholeNetwork(network)


def random_weights(name: str, folder: Path) -> Path:
    """A file of random weights for the whole network, always the same ones; written into the folder once."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        save_file(whole_backbone(name).network.state_dict(), path)
    return path


def patch_features(feature_maps: list[Tensor], embed_dim: int, patch_size: int = 3) -> Tensor:
    """Every step of the aggregation on every grid position: maps -> (B*h*w, D), pictures outermost."""
    grid = feature_maps[0].shape[-2:]
    pooled = []
    for feature_map in feature_maps:
        b, c, h, w = feature_map.shape
        planes = F.unfold(feature_map, patch_size, padding=patch_size // 2).view(b, c * patch_size**2, h, w)
        if (h, w) != grid:
            planes = F.interpolate(planes, grid, mode="bilinear", align_corners=False)
        patches = planes.movedim(1, -1).reshape(-1, 1, c * patch_size**2)
        pooled.append(F.adaptive_avg_pool1d(patches, embed_dim)[:, 0])
    stacked = torch.stack(pooled, dim=1).reshape(len(pooled[0]), 1, -1)
    return F.adaptive_avg_pool1d(stacked, embed_dim)[:, 0]


@torch.no_grad()
def predict(network: nn.Module, detector: AnomalyDetector, images: Tensor) -> tuple[Tensor, np.ndarray]:
    """Images (B, 3, S, S) in [0, 1] -> patch scores (B, h, w) and smoothed maps (B, S, S).

    Of the detector only settings, adaptor, discriminator and the meaning of its logits are used. SimpleNet's code also
    enlarges the features to the size of the image, for a result that is not used.
    """
    mean, std = (torch.tensor(v)[:, None, None] for v in (detector.front_end.mean, detector.front_end.std))
    feature_maps = network((images - mean) / std)
    features = patch_features(feature_maps, detector.front_end.embed_dim, detector.front_end.patch_size)
    logits = detector.head.discriminator(detector.head.adaptor(features))[:, 0]
    scores = detector.head.logits_to_scores(logits).view(len(images), *feature_maps[0].shape[-2:])
    if detector.method == "simplenet":
        planes = features.view(*scores.shape, -1).movedim(-1, 1)
        F.interpolate(planes, images.shape[-1], mode="bilinear", align_corners=False)
    return scores, smooth(scores, images.shape[-1])


def smooth(scores: Tensor, size: int) -> np.ndarray:
    """Patch scores (B, h, w) -> maps (B, size, size): bilinear, then scipy's Gaussian picture by picture."""
    upsampled = F.interpolate(scores[:, None], size, mode="bilinear", align_corners=False)[:, 0].numpy()
    return np.stack([ndimage.gaussian_filter(anomaly_map, SMOOTHING_SIGMA) for anomaly_map in upsampled])
