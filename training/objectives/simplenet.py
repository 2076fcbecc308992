"""SimpleNet's objective: the truncated L1 loss between normal features and noisy ones.

Source: SimpleNet, arXiv 2303.15140, code https://github.com/DonaldRR/SimpleNet/tree/351a2b8. Constants are the code's.

Differences from the code on other backbones than the papers': the noise is 0.35 of the features' RMS instead of 0.015,
and the discriminator has as many hidden units as two thirds of the features' width, instead of 1024.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubmodels.front_end import flatten
from hubmodels.samples import Sample
from hubmodels.simplenet import SimpleNet
from training.batches import FeatureCache
from training.objectives.objective import (
    ADAPTOR_LR,
    DISCRIMINATOR_LR,
    DiscriminatorObjective,
    adam,
    adamw,
    decide_noise,
)

if TYPE_CHECKING:
    from training.jobs import Job


class SimpleNetObjective(DiscriminatorObjective):
    """Truncated L1 loss between normal adapted features and the same features plus Gaussian noise (equations 4, 5)."""

    epochs = 160  # 40 meta-epochs of 4, as in the code's run script
    margin = 0.5  # th+ = 0.5, th- = -0.5

    @classmethod
    def prepare(cls, detector: SimpleNet, job: "Job", cache: FeatureCache, samples: Sequence[Sample]) -> Self:
        """With the noise that suits the backbone's features."""
        decisions = decide_noise(job, cache)
        objective = cls(detector, decisions["noise_std"])
        objective.decisions = decisions
        return objective

    @classmethod
    def crops(cls, category: str) -> bool:
        """The code inspects the centre of every picture."""
        return True

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`features` (B, D, h, w) -> `loss` and its parts; new noise is drawn from torch's generator."""
        normality, noisy_normality = self.normality_with_noise(flatten(batch["features"]))
        parts = {
            "normal_loss": (self.margin - normality).clamp(min=0).mean(),
            "noisy_loss": (self.margin + noisy_normality).clamp(min=0).mean(),
        }
        return {"loss": parts["normal_loss"] + parts["noisy_loss"], **parts}

    def normality_with_noise(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Normality of patch features (N, D) and of their noisy twins, (N,) each.

        Adaptor and discriminator's first layer are linear. So the noise between them is added behind them, and the
        two become one matrix: half the work, equal results.
        """
        adaptor, (first, *rest) = self.head.adaptor, self.head.discriminator
        bias = F.linear(adaptor.bias, first.weight, first.bias)
        normal = F.linear(features, first.weight @ adaptor.weight, bias)
        noisy = normal + F.linear(self.noise_std * torch.randn_like(features), first.weight)
        # one pass over both, because BatchNorm's statistics are those of the mixture
        return nn.Sequential(*rest)(torch.cat([normal, noisy]))[:, 0].chunk(2)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW for the adaptor, Adam with L2 decay for the discriminator (GLASS has them the other way round)."""
        return [adamw(self.head.adaptor, ADAPTOR_LR), adam(self.head.discriminator, DISCRIMINATOR_LR)]
