"""PatchCore: a bank of good patch features; a patch is as anomalous as it is far from the nearest one.

Paper: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv 2106.08265. Official code:
https://github.com/amazon-science/patchcore-inspection (Apache-2.0; no code of it was read for this module).

Differences from the paper and the official code:

- The image score is the highest patch score, as in the official code. The paper also weighs it by the neighbours of
  the nearest feature (equation 7).
- By default the whole picture is inspected.
- The verdict is calibrated on held-out normal pictures, so the bank contains nothing of these.
"""

import torch
from torch import Tensor

from hubmodels.detector import AnomalyDetector
from hubmodels.front_end import align
from hubmodels.heads import Head, nearest_distances
from hubmodels.scoring import size_by_data


class PatchCoreHead(Head):
    """Distance of each patch to the nearest vector of a bank.

    Attributes:
        bank: (K, D), good patch features; a buffer that is saved with the weights.
    """

    def __init__(self, embed_dim: int, layers: int) -> None:
        super().__init__(embed_dim, layers)
        self.register_buffer("bank", torch.zeros(1, embed_dim))  # until it is filled
        size_by_data(self, ["bank"], least=1)

    def scores(self, aggregated: list[Tensor]) -> Tensor:
        """As `Head.scores`: Euclidean distances, at least 0."""
        features = align(aggregated).movedim(1, -1)
        return nearest_distances(features.flatten(1, 2), self.bank).unflatten(1, features.shape[1:3])


class PatchCore(AnomalyDetector):
    __doc__ = (AnomalyDetector.__doc__ or "").replace("A small head", "PatchCore (CVPR 2022): a bank of features", 1)
    method = "patchcore"
    head_class = PatchCoreHead
