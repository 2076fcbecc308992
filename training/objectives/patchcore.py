"""PatchCore's fit: a greedy coreset of the good patch features.

Source: PatchCore, arXiv 2106.08265, section 3.2. The coreset is chosen in a random projection, as there.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from hubmodels.patchcore import PatchCore
from training.batches import FeatureCache
from training.coreset import greedy_coreset
from training.objectives.objective import DirectFit, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hubmodels.samples import Sample
    from training.config import TrainConfig
    from training.jobs import Job

MOST = 300_000  # patch features that the bank is chosen from: all of 293 pictures of 256 px
PROJECTED = 128  # dimensions in which the coreset is chosen; the paper's and the code's number


@dataclass(frozen=True)
class PatchCoreSettings:
    """PatchCore's own options."""

    coreset: float = option(0.1, "share of the good patch features that its bank keeps", metavar="P")


class PatchCoreObjective(DirectFit):
    """Keeps a share of the good patch features, chosen so that they cover all others.

    Args:
        share: how many are kept, in (0, 1].
    """

    Settings = PatchCoreSettings
    unused = (*DirectFit.unused, "hidden_dim")

    def __init__(self, detector: PatchCore, share: float) -> None:
        super().__init__(detector)
        self.share = share

    @classmethod
    def prepare(cls, detector: PatchCore, job: "Job", cache: FeatureCache, samples: "Sequence[Sample]") -> Self:
        """With the share that the job's options have."""
        return cls(detector, job.config.own_settings(job.method).coreset)

    @classmethod
    def check(cls, config: "TrainConfig", settings: PatchCoreSettings) -> None:
        """Raises ValueError for a share outside of (0, 1]."""
        if not 0 < settings.coreset <= 1:
            raise ValueError(f"--coreset must be above 0 and at most 1, not {settings.coreset}")

    @classmethod
    def grow(cls, detector: PatchCore) -> None:
        """Gives the bank the vectors of 300,000 patches with the default share."""
        detector.head.bank = detector.head.bank.expand(int(MOST * PatchCoreSettings().coreset), -1).clone()

    def fit(self, cache: FeatureCache) -> dict[str, float]:
        """Fills the bank; returns the number of patch features that it was chosen from, and of those in it."""
        rows = cache.sample(MOST)
        chosen = greedy_coreset(self.projected(rows), max(1, round(self.share * len(rows))))
        self.head.bank = rows[chosen.cpu()].to(self.detector.device)
        self.decisions |= {"patches": len(rows), "bank": len(chosen)}
        return dict(self.decisions)

    def projected(self, rows: torch.Tensor) -> torch.Tensor:
        """Patch features (N, D) -> (N, 128) by a random matrix that keeps distances approximately; on the device."""
        if (width := rows.shape[1]) <= PROJECTED:
            return rows.to(self.detector.device)
        matrix = torch.randn(width, PROJECTED) / PROJECTED**0.5
        return torch.cat([(part @ matrix).to(self.detector.device) for part in rows.split(16384)])
