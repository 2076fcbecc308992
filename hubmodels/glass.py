"""GLASS: the same head, trained against synthesised global (feature) and local (picture) anomalies.

Paper: Chen et al., "A Unified Anomaly Synthesis Strategy with Gradient Ascent for Industrial Anomaly Detection and
Localization", ECCV 2024, arXiv 2407.09359. Official code: https://github.com/cqylunlun/GLASS/tree/f788d56 (MIT).

Differences from the official code: no per-category exception for toothbrush and wood by default (`resize=329` gives
its centre crop); aggregation is a grouped convolution (equal results); the verdict is calibrated on held-out normal
pictures; BatchNorm's running statistics are updated twice instead of 22 times a step, and by default recomputed after
training; an epoch is all pictures, not 392 at most. What only training needs (hypothesis, centre, ascent) is not part
of the model.
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
