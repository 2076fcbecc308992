"""The pictures of each step, and the defects synthesised for them: a function of (seed, epoch, picture).

No random number comes from a running stream. So a resumed run, another number of loader workers or another order of
jobs gives the same batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.synthesis import TextureSource, synthesise


def seed_of(*parts: int) -> int:
    """One well-mixed seed from several small numbers (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@dataclass(frozen=True)
class BatchPlan(Sampler):
    """Batches of (epoch, picture index) for the epochs from `first_epoch` on; each epoch shuffles all pictures.

    With several processes each takes its own share of every step. The last step wraps around, so that none is idle.
    """

    pictures: int
    batch_size: int
    epochs: int
    seed: int
    first_epoch: int = 0
    rank: int = 0
    processes: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass."""
        return -(-self.pictures // (self.batch_size * self.processes))

    def __len__(self) -> int:
        return self.steps_per_epoch * (self.epochs - self.first_epoch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.first_epoch, self.epochs):
            for step in range(self.steps_per_epoch):
                yield [(epoch, index) for index in self.batch(epoch, step)]

    def batch(self, epoch: int, step: int) -> list[int]:
        """Picture indices of one step on this process."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.pictures)
        if self.processes > 1:
            order = np.resize(order, self.steps_per_epoch * self.processes * self.batch_size)
        share = order[step * self.batch_size * self.processes :][: self.batch_size * self.processes]
        return share[self.rank :: self.processes].tolist()


@dataclass(frozen=True)
class LocalSynthesis:
    """Local anomaly synthesis for the pictures of one job.

    Attributes:
        images: (n, 3, S, S) uint8 model inputs.
        foregrounds: one (S, S) bool mask each, or None for the full picture.
        grid: (h, w) of the patches.
    """

    images: Tensor
    textures: TextureSource
    foregrounds: list[np.ndarray] | None
    grid: tuple[int, int]
    seed: int

    def __call__(self, epoch: int, index: int) -> dict[str, Tensor]:
        """`augmented` (3, S, S) uint8 and `patch_label` (h, w) bool."""
        rng = np.random.default_rng([self.seed, epoch, index])
        image = self.images[index].permute(1, 2, 0).numpy().astype(np.float32) / 255
        foreground = self.foregrounds[index] if self.foregrounds else None
        augmented, label = synthesise(image, self.textures, self.grid, rng, foreground)
        pixels = torch.from_numpy(augmented).permute(2, 0, 1).mul(255).round().to(torch.uint8)
        return {"augmented": pixels, "patch_label": torch.from_numpy(label)}


class TrainingItems(Dataset):
    """Map from (epoch, picture index) to everything that a step needs besides the cached features."""

    def __init__(self, synthesis: LocalSynthesis | None) -> None:
        self.synthesis = synthesis

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        return {"index": index} | (self.synthesis(epoch, index) if self.synthesis else {})


def make_loader(items: TrainingItems, plan: BatchPlan, workers: int) -> DataLoader:
    """One loader for all epochs, so that workers and their texture caches live as long as the job."""
    generator = torch.Generator()  # its own: the loader must not draw from the stream that the noise comes from
    pinned = torch.cuda.is_available()
    return DataLoader(items, batch_sampler=plan, num_workers=workers, pin_memory=pinned, generator=generator)
