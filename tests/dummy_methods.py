"""A third and a fourth method for tests: a closed form, and a bank of vectors. Neither has a discriminator."""

import torch
from torch import Tensor

from hubmodels.detector import AnomalyDetector
from hubmodels.front_end import align
from hubmodels.heads import Head
from hubmodels.methods import METHODS, Method
from hubmodels.scoring import size_by_data


class GaussianHead(Head):
    """Distance to the mean patch feature, each dimension in units of its deviation; closed form."""

    def __init__(self, embed_dim: int, layers: int, floor: float = 1e-3) -> None:
        super().__init__(embed_dim, layers)
        self.floor = floor
        self.register_buffer("mean", torch.zeros(embed_dim))
        self.register_buffer("deviation", torch.ones(embed_dim))

    def fit(self, features: Tensor) -> None:
        """Learns from normal patch features (N, D)."""
        self.mean.copy_(features.mean(0))
        self.deviation.copy_(features.std(0).clamp(min=self.floor))

    def scores(self, aggregated: list[Tensor]) -> Tensor:
        difference = (align(aggregated).movedim(1, -1) - self.mean) / self.deviation
        return difference.square().mean(-1)

    def settings(self) -> dict:
        return {"floor": self.floor}


class BankHead(Head):
    """Distance to the nearest of some normal patch features; their number depends on the data."""

    def __init__(self, embed_dim: int, layers: int, bank_size: int = 16) -> None:
        super().__init__(embed_dim, layers)
        self.bank_size = bank_size
        self.register_buffer("bank", torch.zeros(0, embed_dim))
        size_by_data(self, ["bank"])

    def fit(self, features: Tensor) -> None:
        """Keeps up to `bank_size` of the normal patch features (N, D), evenly spaced."""
        chosen = torch.linspace(0, len(features) - 1, min(self.bank_size, len(features))).long()
        self.bank = features[chosen].clone()

    def scores(self, aggregated: list[Tensor]) -> Tensor:
        features = align(aggregated).movedim(1, -1)
        return torch.cdist(features.flatten(1, 2), self.bank[None]).amin(-1).unflatten(1, features.shape[1:3])

    def settings(self) -> dict:
        return {"bank_size": self.bank_size}


class Gaussian(AnomalyDetector):
    """The third method."""

    method = "gaussian"
    head_class = GaussianHead


class Bank(AnomalyDetector):
    """The fourth method."""

    method = "bank"
    head_class = BankHead


def register(monkeypatch, *detectors: type[AnomalyDetector]) -> None:
    """Enters methods in the registry, for one test."""
    for detector in detectors:
        monkeypatch.setitem(METHODS, detector.method, Method(detector))
