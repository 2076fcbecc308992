"""The Gaussian's fit: mean and covariance of all good patch features, in closed form."""

import torch

from training.batches import FeatureCache
from training.objectives.objective import DirectFit

SHRINK = 1e-3  # share of the mean variance in the covariance


class MahalanobisObjective(DirectFit):
    """Whitens with the inverse of S' = (1 - a) S + a tr(S) / D I, where S is the covariance of good patch features."""

    unused = (*DirectFit.unused, "hidden_dim")

    @torch.no_grad()
    def fit(self, cache: FeatureCache) -> None:
        """Sets the head's whitening and offset; sums are in double precision."""
        total = products = 0.0
        for features in cache.batches(16, torch.device("cpu")):
            rows = features.movedim(1, -1).flatten(0, 2).double()
            total, products = total + rows.sum(0), products + rows.T @ rows
        count = len(cache) * cache.patches
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        variance = covariance.diagonal().mean()
        shrunk = (1 - SHRINK) * covariance + SHRINK * variance * torch.eye(len(mean), dtype=mean.dtype)
        whitening = torch.linalg.inv(torch.linalg.cholesky(shrunk))
        self.head.whitening.copy_(whitening)
        self.head.offset.copy_(-whitening @ mean)
