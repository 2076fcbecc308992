"""GLASS: the same head, trained against synthesised global (feature) and local (picture) anomalies.

Paper: Chen et al., "A Unified Anomaly Synthesis Strategy with Gradient Ascent for Industrial Anomaly Detection and
Localization", ECCV 2024, arXiv 2407.09359. Official code: https://github.com/cqylunlun/GLASS/tree/f788d56 (MIT).

Differences from the official code:

- By default toothbrush and wood are inspected whole, like the others (`resize=329` gives the centre crop).
- Aggregation is a grouped convolution, with equal results.
- The verdict is calibrated on held-out normal pictures.
- BatchNorm's running statistics are updated twice a step instead of 22 times. By default they are recomputed after
  training.
- An epoch is all pictures, not 392 at most.
- On backbones other than the paper's, noise and hidden units differ as in `hubmodels.simplenet`, and radii and ascent
  step scale with the noise.
- The model does not contain what only training needs: hypothesis, centre, ascent.
"""

from torch import Tensor

from hubmodels.detector import AnomalyDetector
from hubmodels.heads import DiscriminatorHead


class GLASSHead(DiscriminatorHead):
    """GLASS's discriminator: logit high = anomalous."""

    def logits_to_scores(self, logits: Tensor) -> Tensor:
        """Anomaly logits -> patch scores: anomaly probabilities in (0, 1)."""
        return logits.sigmoid()


class GLASS(AnomalyDetector):
    __doc__ = (AnomalyDetector.__doc__ or "").replace("A small head", "GLASS (ECCV 2024): a small head", 1)
    method = "glass"
    head_class = GLASSHead
