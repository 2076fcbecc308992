"""The hybrid's objective: a fixed adaptor, a discriminator of good, noisy and damaged features, and a memory.

The discriminator also learns that parts are good which were moved a little or lit in another way.

A method of this repository. All that it learns from is computed once: features of good pictures, and the bank of
`training.damage`. The fit takes some hundred short steps on patches of all pictures, so it has no epochs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubmodels.hybrid import Hybrid, Memory
from hubmodels.samples import Sample
from training.batches import FeatureCache, loader_workers
from training.coreset import greedy_coreset
from training.damage import AUGMENTED, KINDS, DamagedPictures, kept_bank, make_bank, pictures_of
from training.foreground import foreground_masks, within
from training.objectives.objective import DirectFit, add_noise
from training.progress import tqdm
from training.synthesis import TextureSource

if TYPE_CHECKING:
    from training.jobs import Job

STEPS, NORMAL, DAMAGED = 500, 512, 255  # patches of a step; as many noisy ones as normal ones
AUGMENTED_SHARE = 1 / 3  # of augmented patches, compared with the good ones, at most
NOISE = 0.35  # standard deviation of the noise; adapted features have 1
PEAK_LR, WEIGHT_DECAY = 1e-3, 1e-2
LARGEST = 100_000  # good patch features that are kept for the fit
VECTORS, MOST = 2000, 300_000  # patches of the memory, and those from which they are chosen: all of 293 pictures
MEMBERS = 0.25  # of the good patches at most; a patch of the memory says nothing about how far good ones are from it
MEMORY_WEIGHT = 2.0  # of the distance, compared with the logit
SHRINK = 1.0  # share of the mean variance that is added to each before whitening


class HybridObjective(DirectFit):
    """Binary cross-entropy of a discriminator on good, noisy and damaged patch features.

    Args:
        pictures: the damaged pictures that the bank is made of.
        kept: file of the bank, until the job is finished.
        settings: what the bank depends on.
    """

    def __init__(self, detector: Hybrid, pictures: DamagedPictures, kept: Path, settings: dict) -> None:
        super().__init__(detector)
        self.pictures, self.kept, self.settings = pictures, kept, settings

    @classmethod
    def prepare(cls, detector: Hybrid, job: "Job", cache: FeatureCache, samples: Sequence[Sample]) -> Self:
        """With the part found in the pictures, so that damage is on it."""
        found = foreground_masks(cache.images.permute(0, 2, 3, 1).numpy())
        textures, grid = TextureSource(job.config.image_size), tuple(cache.layers[0].shape[-2:])
        masks = within(detector.front_end.region, found.masks, len(cache.images))
        pictures = DamagedPictures(cache.images, textures, masks, grid, job.config.seed, cache.folds)
        settings = job.settings | {"backbone_sha256": detector.front_end.backbone_sha256}
        objective = cls(detector, pictures, job.workplace / "bank.safetensors", settings)
        damaged = sum(kind != AUGMENTED for kind, _, _ in pictures.plan)
        objective.decisions = {"foreground": found.reason, "damaged_pictures": damaged}
        return objective

    @classmethod
    def grow(cls, detector: Hybrid) -> None:
        """Gives the memory all its vectors."""
        memory = detector.head.memory
        memory.vectors = memory.vectors.expand(VECTORS, -1).clone()

    def fit(self, cache: FeatureCache) -> dict[str, float]:
        """Adaptor, discriminator, BatchNorm's statistics, memory, mix; returns the losses of the last step."""
        normal = cache.sample(LARGEST).to(self.detector.device)
        standardise(self.head.adaptor, normal)
        losses = self.fit_discriminator(normal, cache.numbers)
        whiten(self.head.memory, normal)
        projected = cache.sample(MOST, lambda rows: self.head.memory.project(rows.to(normal.device)))
        chosen = greedy_coreset(projected, min(VECTORS, int(len(projected) * MEMBERS)))
        self.head.memory.vectors = projected[chosen]
        self.balance(normal)
        return losses

    def fit_discriminator(self, normal: Tensor, numbers: Tensor) -> dict[str, float]:
        """On good patch features (N, D), and others of the same pictures; returns the losses of the last step."""
        bank = kept_bank(self.kept, self.settings, self.make_bank)
        bank = {kind: bank[kind][torch.isin(bank.pop(pictures_of(kind)), numbers)] for kind in (*KINDS, AUGMENTED)}
        if not sum(len(bank[kind]) for kind in KINDS):
            raise ValueError(
                "no damage that was drawn covers a patch of the part: the part is too small or too thin in the model "
                "input. Give a larger --image-size, or pictures that show less of what is around it."
            )
        with torch.no_grad():
            augmented = bank.pop(AUGMENTED)
            augmented = augmented[torch.randperm(len(augmented))[: int(len(normal) * AUGMENTED_SHARE)]]
            adapted = torch.cat([self.head.embed(rows.to(normal.device)) for rows in (normal, augmented)])
            damaged = torch.cat([self.head.embed(bank.pop(kind).to(normal.device)) for kind in KINDS])
        self.train()
        losses = self.train_discriminator(adapted, damaged)
        self.set_statistics(adapted, damaged)
        self.eval()
        return losses

    def make_bank(self) -> dict[str, Tensor]:
        """Features of damaged and augmented pictures by kind; they do not depend on what was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.pictures.seed)
            return make_bank(self.detector, self.pictures, loader_workers(self.detector.device))

    def train_discriminator(self, normal: Tensor, damaged: Tensor) -> dict[str, float]:
        """STEPS steps of AdamW, whose rate falls to zero by a cosine, on adapted features (N, D) and (M, D)."""
        optimizer = torch.optim.AdamW(self.head.discriminator.parameters(), PEAK_LR, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in tqdm(range(STEPS), "discriminator"):
            losses = self.losses(draw(normal, NORMAL), draw(damaged, DAMAGED))
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
            schedule.step()
        return {name: loss.item() for name, loss in losses.items()}

    def losses(self, normal: Tensor, damaged: Tensor) -> dict[str, Tensor]:
        """Cross-entropies of one step: `loss` and its parts; new noise is drawn from torch's generator."""
        parts = [normal, add_noise(normal, NOISE), damaged]
        logits = self.head.discriminate(torch.cat(parts)).split([len(part) for part in parts])  # one BatchNorm for all
        losses = {
            "normal_loss": F.softplus(logits[0]).mean(),
            "noisy_loss": F.softplus(-logits[1]).mean(),
            "damaged_loss": F.softplus(-logits[2]).mean(),
        }
        return {"loss": sum(losses.values()), **losses}

    @torch.no_grad()
    def set_statistics(self, normal: Tensor, damaged: Tensor) -> None:
        """BatchNorm's statistics over all patches, mixed as in a step."""
        linear, norm = self.head.discriminator[:2]
        moments = []
        for rows, noise in ((normal, 0), (normal, NOISE), (damaged, 0)):
            hidden = torch.cat([linear(add_noise(part, noise) if noise else part) for part in rows.split(4096)])
            moments.append(torch.var_mean(hidden, 0, correction=0))
            del hidden  # 100 MB, before the next
        variances, means = (torch.stack(each).cpu().double() for each in zip(*moments, strict=True))
        weights = torch.tensor([NORMAL, NORMAL, DAMAGED], dtype=torch.float64)
        weights = (weights / weights.sum())[:, None]
        mean = (weights * means).sum(0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_((weights * (variances + (means - mean).square())).sum(0))

    @torch.no_grad()
    def balance(self, normal: Tensor) -> None:
        """Sets the mix: logit and distance, each in units of its deviation on good patches; the mean of both is 0."""
        head, some = self.head, normal.split(4096)
        logits = torch.cat([head.discriminate(head.embed(part)) for part in some])
        distances = torch.cat([head.memory.distances(head.memory.project(part)) for part in some])
        parts, weights = (logits, distances), (1.0, MEMORY_WEIGHT)
        factors = [w / part.std().clamp(min=1e-6) for part, w in zip(parts, weights, strict=True)]
        shift = -sum(factor * part.mean() for factor, part in zip(factors, parts, strict=True))
        head.mix.copy_(torch.stack([*factors, shift]))


@torch.no_grad()
def standardise(adaptor: nn.Linear, normal: Tensor) -> None:
    """Makes the adaptor z = (x - mean) / s of the good patch features (N, D); s^2 is their mean variance."""
    variance, mean = torch.var_mean(normal, 0)
    scale = variance.mean().sqrt()
    adaptor.weight.copy_(torch.eye(len(mean), device=scale.device) / scale)
    adaptor.bias.copy_(-mean / scale)


@torch.no_grad()
def whiten(memory: Memory, normal: Tensor, shrink: float = SHRINK) -> None:
    """Sets the memory's projection: the largest principal components of good patch features (N, D), whitened."""
    mean = normal.mean(0)
    variances, directions = torch.linalg.eigh((normal - mean).T.cov())
    kept = slice(-len(memory.projection), None)
    scale = (variances[kept] + shrink * variances.mean()).sqrt()
    memory.projection.copy_((directions[:, kept] / scale).T)
    memory.offset.copy_(-memory.projection @ mean)


def draw(rows: Tensor, count: int) -> Tensor:
    """Some rows, chosen at random; the choice is drawn on the CPU, so that it is the same on every device."""
    return rows[torch.randint(len(rows), (count,)).to(rows.device)]
