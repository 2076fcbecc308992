"""What training needs from a method: data, losses, optimisers, its own options, and what it records.

A method trains in one of two ways. A `ClosedForm` is fitted once to the cached features. A `GradientObjective` is a
module whose `forward(batch)` is the loss of one training step, so that data-parallel training is correct, too.
An objective owns everything that only training needs. The published weights contain nothing of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor, nn

from hubmodels.detector import AnomalyDetector
from hubmodels.samples import Sample
from training.batches import FeatureCache

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.jobs import Job


@dataclass(frozen=True)
class NoSettings:
    """For a method without options."""


class Objective(nn.Module, ABC):
    """How one method trains its detector.

    Attributes:
        epochs: default number of passes over the training pictures; 0 = a closed form.
        slow_on_cpu: whether a run on a CPU leaves the method out unless the user asks for it.
        Settings: dataclass of the method's own options, made with `training.options.option`.
        unused: options of `TrainConfig` that the method does not read; they may change without a new training.
    """

    epochs: ClassVar[int] = 0
    slow_on_cpu: ClassVar[bool] = False
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

    def record(self) -> dict:
        """What was decided for this job, as plain JSON values for `metrics.json`."""
        return self.decisions

    @property
    def trained(self) -> nn.Module:
        """The part of the detector that training changes."""
        return self.detector.head


class ClosedForm(Objective):
    """A method without gradient steps."""

    unused = ("epochs", "batch_size", "noise_std", "stabilise")

    @abstractmethod
    def fit(self, cache: FeatureCache) -> None:
        """Fits the detector to the features of all training pictures."""


class GradientObjective(Objective):
    """A method that minimises a loss in steps.

    Attributes:
        synthesis: called with (epoch, picture index); returns what a step needs besides the cached features.
    """

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
