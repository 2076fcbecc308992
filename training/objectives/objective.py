"""What training needs from a method: data, losses, optimisers, its own options, and what it records.

A method trains in one of two ways. A `DirectFit` fits its head to the cached features at once. A `GradientObjective`
is a module whose `forward(batch)` is the loss of one training step, so that data-parallel training is correct, too.
An objective owns everything that only training needs. The published weights contain nothing of it.

`DiscriminatorObjective` is what SimpleNet and GLASS share: the papers' noise and learning rates, and exact BatchNorm
statistics.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from hubmodels.detector import AnomalyDetector
from hubmodels.front_end import flatten
from hubmodels.samples import Sample
from training.batches import FeatureCache

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.jobs import Job

PAPER_BACKBONE, PAPER_IMAGE_SIZE = "wide_resnet50_2.tv_in1k", 288

REFERENCE_NOISE_STD = 0.015  # of both papers, on their backbone with 1536-dimensional patch features
REFERENCE_EMBED_DIM = 1536
NOISE_TO_RMS = 0.35  # noise relative to the features' RMS on other backbones; chosen on screw and magnetic_tile
ADAPTOR_LR, DISCRIMINATOR_LR = 1e-4, 2e-4
DECOUPLED_DECAY, L2_DECAY = 1e-2, 1e-5


def option(default: Any, help: str, group: str = "", **extra: Any) -> Any:
    """A dataclass field that is also an option of the command line, which `training.config` makes of it.

    Args:
        default: `dataclasses.MISSING` makes the option required.
        group: heading in `--help`.
        extra: `metavar` and `aliases`, and `parse`, which makes a value of a text (default: the field's type).
    """
    metadata = {"help": help, "group": group, **extra}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class NoSettings:
    """For a method without options."""


class Objective(nn.Module, ABC):
    """How one method trains its detector.

    Attributes:
        epochs: default number of passes over the training pictures; 0 = fitted at once, and so the default on a CPU.
        Settings: dataclass of the method's own options, made with `option`.
        unused: options of `TrainConfig` that the method does not read; they may change without a new training.
        decisions: what was decided for this job, as plain JSON values for `metrics.json`.
    """

    epochs: ClassVar[int] = 0
    Settings: ClassVar[type] = NoSettings
    unused: ClassVar[tuple[str, ...]] = ()

    def __init__(self, detector: AnomalyDetector) -> None:
        super().__init__()
        self.detector = detector
        self.decisions: dict = {}

    @classmethod
    def prepare(cls, detector: AnomalyDetector, job: "Job", cache: FeatureCache, samples: Sequence[Sample]) -> Self:
        """The objective of a job, with all that it needs from the pictures and their cached features."""
        return cls(detector)

    @classmethod
    def check(cls, config: "TrainConfig", settings) -> None:
        """Raises ValueError for options that would only fail after the features have been computed."""

    @classmethod
    def crops(cls, category: str) -> bool:
        """Whether the method's paper inspects only the centre of the pictures of a category."""
        return False

    @classmethod
    def grow(cls, detector: AnomalyDetector) -> None:
        """Makes an untrained detector as large as a trained one, to measure its time."""

    @property
    def head(self) -> nn.Module:
        """The part of the detector that training changes."""
        return self.detector.head


class DirectFit(Objective):
    """A method that is not trained in epochs: a closed form, or one that needs seconds."""

    unused = ("epochs", "batch_size", "noise_std", "stabilise")

    @abstractmethod
    def fit(self, cache: FeatureCache) -> dict[str, float] | None:
        """Fits the detector to the features of all training pictures; returns what the log records, if anything."""


class GradientObjective(Objective):
    """A method that minimises a loss in steps. It is fitted once, because each fold would take as long again.

    Attributes:
        synthesis: called with (epoch, picture index); returns what a step needs besides the cached features.
    """

    unused = ("folds",)
    synthesis: Callable[[int, int], dict[str, Tensor]] | None = None

    @abstractmethod
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step's batch -> `loss` and its named parts."""

    @abstractmethod
    def optimizers(self) -> list:
        """New optimisers of everything that is trained."""

    def start_epoch(self) -> None:
        """Called before the first step of each epoch."""

    def inputs(self, items: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch of what `synthesis` returned -> further entries of the step's batch, on the detector's device."""
        return {}

    def recompute_statistics(self, cache: FeatureCache, batch_size: int) -> None:
        """Replaces running statistics by those over all training features, after the last step."""


class DiscriminatorObjective(GradientObjective):
    """Trains an adaptor and a discriminator with Gaussian noise on the adapted features.

    Args:
        noise_std: standard deviation of the noise.
    """

    def __init__(self, detector: AnomalyDetector, noise_std: float) -> None:
        super().__init__(detector)
        self.noise_std = noise_std

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
    noise: that is ours, and no part of the official codes.
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
