"""Hybrid: SimpleNet's discriminator without its trained adaptor, and a small memory of good patches.

A method of this repository; it has no paper. What it takes from others, and what it changes:

- SimpleNet (arXiv 2303.15140) trains its adaptor together with the discriminator. The adaptor can then make features
  large beside the noise, which costs maps. Here the adaptor is fixed: each feature minus the mean of good
  ones, in units of their deviation.
- GLASS (arXiv 2407.09359) learns from defects that are synthesised in pictures. Here their features are computed once.
- PatchCore (arXiv 2106.08265) keeps good patch features that cover all others, and scores by the distance to the
  nearest. Here there are few of them, in few whitened dimensions.

A patch score is the discriminator's logit plus twice that distance, each in units of its deviation on good patches.
The image score is the mean of the highest 1 % of the patch scores, and not their maximum: one noisy patch counts less.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubmodels.detector import AnomalyDetector
from hubmodels.heads import DiscriminatorHead, affine_of_layers, nearest_distances
from hubmodels.scoring import size_by_data

TOP_SHARE = 0.01
MEMORY_DIM = 64


class Memory(nn.Module):
    """Distance of each patch to the nearest good one that is kept; buffers that are saved with the weights.

    Args:
        embed_dim: width D of a patch feature.
        layers: number L of feature maps.
        dim: width R of what is compared.

    Attributes:
        projection: (R, D), from a patch feature to R whitened dimensions.
        offset: (R,), added there.
        vectors: (K, R), the good patches that are kept.
    """

    def __init__(self, embed_dim: int, layers: int, dim: int) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("projection", torch.zeros(dim, embed_dim))
        self.register_buffer("offset", torch.zeros(dim))
        self.register_buffer("vectors", torch.zeros(1, dim))  # until it is filled
        size_by_data(self, ["vectors"], least=1)

    def forward(self, aggregated: list[Tensor]) -> Tensor:
        """Aggregated maps (B, D/L, h_l, w_l), finest first -> distances (B, h, w)."""
        parts = [part.T for part in self.projection.chunk(self.layers, dim=1)]
        projected = affine_of_layers(aggregated, parts, self.offset)
        return self.distances(projected.flatten(1, 2)).unflatten(1, projected.shape[1:3])

    def project(self, patch_features: Tensor) -> Tensor:
        """Patch features (N, D) -> (N, R)."""
        return F.linear(patch_features, self.projection, self.offset)

    def distances(self, projected: Tensor) -> Tensor:
        """Projected patches (..., N, R) -> distances to the nearest vector (..., N)."""
        return nearest_distances(projected, self.vectors)


class HybridHead(DiscriminatorHead):
    """The hybrid's discriminator (logit high = anomalous) and its memory. Its adaptor is computed and not trained.

    Args:
        hidden_dim: as in `DiscriminatorHead`.
        memory_dim: width of the memory's vectors, at most `embed_dim`.
        top_share: share of a picture's patches whose mean is the image score, in (0, 1]; at least one patch.

    Attributes:
        mix: (3,), factor of the logit, factor of the distance, and what is added to both.
    """

    def __init__(
        self,
        embed_dim: int,
        layers: int,
        hidden_dim: int | None = None,
        memory_dim: int = MEMORY_DIM,
        top_share: float = TOP_SHARE,
    ) -> None:
        super().__init__(embed_dim, layers, hidden_dim)
        if not 0 < top_share <= 1:
            raise ValueError(f"top_share {top_share} is not in (0, 1]")
        self.memory_dim, self.top_share = min(memory_dim, embed_dim), top_share
        self.memory = Memory(embed_dim, layers, self.memory_dim)
        self.register_buffer("mix", torch.tensor([1.0, 1.0, 0.0]))

    def logits_to_scores(self, logits: Tensor) -> Tensor:
        """Anomaly logits (unbounded), as they are."""
        return logits

    def scores(self, aggregated: list[Tensor]) -> Tensor:
        """As `Head.scores`."""
        return self.mixed(self.folded(aggregated), self.memory(aggregated))

    def mixed(self, logits: Tensor, distances: Tensor) -> Tensor:
        """Logits and distances of the same patches -> patch scores."""
        return self.mix[0] * logits + self.mix[1] * distances + self.mix[2]

    def image_scores(self, patch_scores: Tensor) -> Tensor:
        """Patch scores (B, h, w) -> image scores (B,): the mean of the highest."""
        patches = patch_scores.flatten(1)
        highest = max(1, round(self.top_share * patches.shape[1]))
        return patches.topk(highest).values.mean(1)

    def settings(self) -> dict:
        """The widths, and which patches make the image score."""
        return super().settings() | {"memory_dim": self.memory_dim, "top_share": self.top_share}

    def export_form(self) -> nn.Module:
        """Both parts, the discriminator folded."""
        return _Mixed(super().export_form(), self)


class _Mixed(nn.Module):
    """Patch scores of a hybrid, from a folded discriminator and the head's memory."""

    def __init__(self, logits: nn.Module, head: HybridHead) -> None:
        super().__init__()
        self.logits, self.memory, self.mixed = logits, head.memory, head.mixed

    def forward(self, aggregated: list[Tensor]) -> Tensor:
        return self.mixed(self.logits(aggregated), self.memory(aggregated))


class Hybrid(AnomalyDetector):
    __doc__ = (AnomalyDetector.__doc__ or "").replace("A small head", "Hybrid (this repository): a small head", 1)
    method = "hybrid"
    head_class = HybridHead
