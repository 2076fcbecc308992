"""What SimpleNet and GLASS share: the papers' noise and learning rates, and exact BatchNorm statistics."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hubmodels.detector import AnomalyDetector
from hubmodels.front_end import flatten
from hubmodels.heads import DiscriminatorHead
from training.batches import FeatureCache
from training.objectives.objective import GradientObjective

if TYPE_CHECKING:
    from training.jobs import Job

PAPER_BACKBONE, PAPER_IMAGE_SIZE = "wide_resnet50_2.tv_in1k", 288

REFERENCE_NOISE_STD = 0.015  # of both papers, on their backbone with 1536-dimensional patch features
REFERENCE_EMBED_DIM = 1536
NOISE_TO_RMS = 0.35  # noise relative to the features' RMS on other backbones, as measured on MVTec AD
ADAPTOR_LR, DISCRIMINATOR_LR = 1e-4, 2e-4
DECOUPLED_DECAY, L2_DECAY = 1e-2, 1e-5


class DiscriminatorObjective(GradientObjective):
    """Trains an adaptor and a discriminator with Gaussian noise on the adapted features.

    Args:
        noise_std: standard deviation of the noise.
    """

    def __init__(self, detector: AnomalyDetector, noise_std: float) -> None:
        super().__init__(detector)
        self.noise_std = noise_std

    @property
    def head(self) -> DiscriminatorHead:
        """Adaptor and discriminator."""
        return self.detector.head

    @torch.no_grad()
    def recompute_statistics(self, cache: FeatureCache, batch_size: int) -> None:
        """Sets BatchNorm's statistics to mean and unbiased variance over all normal features and their noisy twins."""
        linear, norm = self.head.discriminator[0], self.head.discriminator[1]
        rows, total, squares = 0, 0.0, 0.0
        for features in cache.batches(batch_size, self.detector.device):
            normal = self.head.embed(flatten(features))
            hidden = linear(torch.cat([normal, add_noise(normal, self.noise_std)]))
            var, mean = (moment.cpu().double() for moment in torch.var_mean(hidden, 0, correction=0))
            rows, total = rows + len(hidden), total + len(hidden) * mean  # sums, because the last batch is smaller
            squares = squares + len(hidden) * (var + mean.square())
        norm.running_mean.copy_(total / rows)
        norm.running_var.copy_((squares - total.square() / rows) / (rows - 1))


def decide_noise(job: "Job", cache: FeatureCache) -> dict[str, float]:
    """`noise_std` of a job, and the features' `feature_rms`.

    The papers' value is for the papers' backbone. Features of other backbones differ in scale, and so does the
    noise.
    """
    rms = cache.rms()
    default = REFERENCE_NOISE_STD if job.config.backbone == PAPER_BACKBONE else NOISE_TO_RMS * rms
    return {"noise_std": job.config.noise_std or default, "feature_rms": rms}


def adam(module: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Adam with the codes' L2 decay."""
    return torch.optim.Adam(module.parameters(), lr=lr, weight_decay=L2_DECAY)


def adamw(module: nn.Module, lr: float) -> torch.optim.Optimizer:
    """AdamW with its default, decoupled decay."""
    return torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=DECOUPLED_DECAY)


def add_noise(features: Tensor, noise_std: float) -> Tensor:
    """Features plus Gaussian noise, drawn on their device; gradients flow to the features."""
    return features + noise_std * torch.randn_like(features)
