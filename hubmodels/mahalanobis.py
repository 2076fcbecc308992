"""Mahalanobis distance: one Gaussian for all good patch features; a patch is as anomalous as it is far from its mean.

A classical closed form and the simplest method here. Related to it are Rippel et al., "Modeling the Distribution of
Normal Data in Pre-Trained Deep Features for Anomaly Detection", ICPR 2020, arXiv 2005.14140, with a Gaussian of
features of whole pictures, and PaDiM, arXiv 2011.08785, with one Gaussian for each position.
"""

import torch
from torch import Tensor

from hubmodels.detector import AnomalyDetector
from hubmodels.heads import Head, affine_of_layers


class MahalanobisHead(Head):
    """Length of each patch feature after whitening.

    Attributes:
        whitening: (D, D) W, where W^T W is the inverse of the covariance; a buffer that is saved with the weights.
        offset: (D,), minus W times the mean.
    """

    def __init__(self, embed_dim: int, layers: int) -> None:
        super().__init__(embed_dim, layers)
        self.register_buffer("whitening", torch.eye(embed_dim))
        self.register_buffer("offset", torch.zeros(embed_dim))

    def scores(self, aggregated: list[Tensor]) -> Tensor:
        """As `Head.scores`: Mahalanobis distances, at least 0."""
        parts = [part.T for part in self.whitening.chunk(self.layers, dim=1)]
        return affine_of_layers(aggregated, parts, self.offset).square().sum(-1).sqrt()


class Mahalanobis(AnomalyDetector):
    __doc__ = (AnomalyDetector.__doc__ or "").replace("A small head", "Mahalanobis distance: a Gaussian", 1)
    method = "mahalanobis"
    head_class = MahalanobisHead
