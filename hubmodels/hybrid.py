"""Hybrid: SimpleNet's head without its trained adaptor, on feature noise and on features of damaged pictures.

A method of this repository; it has no paper. SimpleNet (arXiv 2303.15140) trains its adaptor together with the
discriminator. The adaptor can then make features large beside the noise, which costs maps and scores. Here the adaptor
is fixed: each feature minus the mean of good ones, in units of their deviation. From GLASS (arXiv 2407.09359) comes
the second kind of negatives, defects synthesised in pictures. Here their features are computed once.

The image score is the mean of the highest 1 % of the patch scores. So one noisy patch counts less than in a maximum.
"""

from torch import Tensor

from hubmodels.detector import AnomalyDetector
from hubmodels.heads import DiscriminatorHead

TOP_SHARE = 0.01


class HybridHead(DiscriminatorHead):
    """The hybrid's discriminator: logit high = anomalous. Its adaptor is computed and not trained.

    Args:
        hidden_dim: as in `DiscriminatorHead`.
        top_share: share of a picture's patches whose mean is the image score, in (0, 1]; at least one patch.
    """

    def __init__(
        self, embed_dim: int, layers: int, hidden_dim: int | None = None, top_share: float = TOP_SHARE
    ) -> None:
        super().__init__(embed_dim, layers, hidden_dim)
        if not 0 < top_share <= 1:
            raise ValueError(f"top_share {top_share} is not in (0, 1]")
        self.top_share = top_share

    def logits_to_scores(self, logits: Tensor) -> Tensor:
        """Anomaly logits (unbounded) are the patch scores."""
        return logits

    def image_scores(self, patch_scores: Tensor) -> Tensor:
        """Patch scores (B, h, w) -> image scores (B,): the mean of the highest."""
        patches = patch_scores.flatten(1)
        highest = max(1, round(self.top_share * patches.shape[1]))
        return patches.topk(highest).values.mean(1)

    def settings(self) -> dict:
        """The width of the hidden layer, and which patches make the image score."""
        return super().settings() | {"top_share": self.top_share}


class Hybrid(AnomalyDetector):
    __doc__ = (AnomalyDetector.__doc__ or "").replace("A small head", "Hybrid (this repository): a small head", 1)
    method = "hybrid"
    head_class = HybridHead
