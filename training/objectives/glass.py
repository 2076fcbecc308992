"""GLASS's objective: a normal branch, and anomalies synthesised in features (GAS) and in pictures (LAS).

Source: GLASS, arXiv 2407.09359, code https://github.com/cqylunlun/GLASS/tree/f788d56. Constants are the code's.

Differences from the code: there BatchNorm's running statistics take 21 updates with [u; g] (20 ascent steps and the
loss) and one with the LAS features in each step, here one and one, because the ascent is written out. With
`--stabilise none` the LAS features have 53 % of the running statistics, and 11 % in the code. Only the published model
reads them, and `--stabilise statistics` (default) recomputes them for it, from normal and noisy features alone. The
code's limit of 392 pictures per epoch is left out; no category of MVTec AD has more. On other backbones than the
papers', noise and hidden units differ as in `training.objectives.simplenet`, and radii and ascent step are scaled with
the noise (`--geometry`).
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hubmodels.front_end import flatten
from hubmodels.glass import GLASS
from hubmodels.samples import Sample
from training.batches import FeatureCache, LocalSynthesis, align_at, extract, load_images
from training.foreground import foreground_masks, within
from training.hypothesis import choose_hypothesis
from training.objectives.objective import (
    ADAPTOR_LR,
    DISCRIMINATOR_LR,
    PAPER_IMAGE_SIZE,
    REFERENCE_EMBED_DIM,
    REFERENCE_NOISE_STD,
    DiscriminatorObjective,
    adam,
    adamw,
    add_noise,
    decide_noise,
    option,
)
from training.synthesis import TextureSource

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.jobs import Job

logger = logging.getLogger("training")


@dataclass(frozen=True)
class GLASSSettings:
    """GLASS's own options."""

    hypothesis: Literal["table", "auto", "manifold", "hypersphere"] = option(
        "table", "the paper's table if it has the category, else decided from the mean picture"
    )
    geometry: Literal["scaled", "official"] = option(
        "scaled", "radii and ascent step: scaled with the noise, or as in the code at every width of the features"
    )
    foreground: Literal["auto", "none"] = option("auto", "keep synthesised defects on the part")
    textures: str | None = option(
        None, "folder of textures such as DTD to paste as defects (default: procedural)", metavar="DIR"
    )


class GLASSObjective(DiscriminatorObjective):
    """Normal branch, global (GAS) and local (LAS) anomaly synthesis (paper, sections 3.2 to 3.4).

    Args:
        hypothesis: "manifold" or "hypersphere": what the truncated projection keeps its distance from.
        noise_std: standard deviation of the Gaussian start of GAS.
        geometry: radii and ascent step are stated for the papers' noise norm (0.015 * sqrt(1536)). "scaled": they
            scale with ours, so that another backbone sees the same geometry. "official": they are those of the code.
    """

    epochs = 640  # as in the code's run script
    Settings = GLASSSettings

    ascent_steps, project_every = 20, 5
    ascent_lr = 1e-3
    ascent_eps = 1e-10
    manifold_radii = (0.5, 1.0)
    radius_quantile = 0.75
    radius_span = 2.0  # GAS in [r, 2 r], LAS in [2 r, 4 r]
    hard_quantile = 0.5  # OHEM: share of easy patches dropped
    focal_gamma, focal_eps = 2.0, 1e-5

    def __init__(self, detector: GLASS, noise_std: float, hypothesis: str, geometry: str = "scaled") -> None:
        super().__init__(detector, noise_std)
        if hypothesis not in ("manifold", "hypersphere"):
            raise ValueError(f"hypothesis must be manifold or hypersphere, not {hypothesis!r}")
        self.hypothesis = hypothesis
        embed_dim = detector.front_end.embed_dim
        scale = noise_std * math.sqrt(embed_dim / REFERENCE_EMBED_DIM) / REFERENCE_NOISE_STD
        self.scale = scale if geometry == "scaled" else 1.0
        self.mean_features: Tensor | None = None  # (D, h, w) over all normal pictures
        self.mixed_precision: str | None = None
        self.register_buffer("center", torch.zeros(1, embed_dim), persistent=False)

    @classmethod
    def prepare(cls, detector: GLASS, job: "Job", cache: FeatureCache, samples: Sequence[Sample]) -> Self:
        """With hypothesis, foreground and textures decided, and the local synthesis made of them."""
        settings, decisions = job.config.own_settings(job.method), decide_noise(job, cache)
        whole = _whole_pictures(detector, cache, samples)
        hypothesis, reason = choose_hypothesis(settings.hypothesis, job.category.dataset, job.category.name, whole)
        masks, foreground = None, "full picture (as asked)"
        if settings.foreground == "auto":
            found = foreground_masks(_as_arrays(cache.images))
            masks, foreground = found.masks, found.reason
        masks = within(detector.front_end.region, masks, len(cache.images))
        textures = TextureSource(job.config.image_size, settings.textures)
        decisions |= {"hypothesis": hypothesis, "hypothesis_reason": reason, "foreground": foreground}
        decisions |= {"textures": textures.name}
        logger.info(
            "%s: %s (%s); foreground: %s; textures: %s", job.name, hypothesis, reason, foreground, textures.name
        )
        objective = cls(detector, decisions["noise_std"], hypothesis, settings.geometry)
        objective.decisions, objective.mixed_precision = decisions, job.config.mixed_precision
        objective.mean_features = cache.mean(detector.device)
        grid = tuple(cache.layers[0].shape[-2:])
        objective.synthesis = LocalSynthesis(cache.images, textures, masks, grid, job.config.seed)
        return objective

    @classmethod
    def check(cls, config: "TrainConfig", settings: GLASSSettings) -> None:
        """Raises ValueError if the texture folder cannot be used."""
        TextureSource(PAPER_IMAGE_SIZE, settings.textures)  # the size does not matter, and may not be known yet

    @classmethod
    def crops(cls, category: str) -> bool:
        """The code inspects the centre of the pictures of two categories of MVTec AD."""
        return category in ("toothbrush", "wood")

    def start_epoch(self) -> None:
        """The centre follows the adaptor, which has changed since the last epoch."""
        self.update_center(self.mean_features)

    def inputs(self, items: dict[str, Tensor]) -> dict[str, Tensor]:
        """The features of newly synthesised defects, and where they are."""
        places, label = items.get("places"), items["patch_label"].to(self.detector.device)
        augmented = align_at(extract(self.detector, items["augmented"], self.mixed_precision), places)
        if places is None:
            return {"augmented_features": augmented, "patch_label": label}
        return {"augmented_features": augmented, "patch_label": label.flatten(1).gather(1, places), "places": places}

    @torch.no_grad()
    def update_center(self, mean_features: Tensor) -> None:
        """Sets the centre per grid position from the mean patch features (D, h, w) of all normal pictures.

        The adaptor is affine, so the mean adapted feature is the adapted mean: no pass over the data is needed.
        """
        self.center = self.head.embed(flatten(mean_features[None]))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`features`, `augmented_features` (B, D, h, w), `patch_label` (B, h, w) bool -> `loss` and its parts.

        With `places` (B, K), the numbers of K patches of each picture, h and w are K and 1.
        """
        normal = self.head.embed(flatten(batch["features"]))
        augmented = self.head.embed(flatten(batch["augmented_features"]))
        label = batch["patch_label"].flatten()
        places = batch.get("places")
        center = self.center.repeat(len(batch["features"]), 1) if places is None else self.center[places.flatten()]
        radius = self._radius(normal, augmented, label, center)
        synthesised = self.synthesise_global(normal, center, radius)
        normal_logits, global_logits = self.head.discriminate(torch.cat([normal, synthesised])).chunk(2)
        if self.hypothesis == "hypersphere":
            outward = clamp_norm(augmented - center, self.radius_span * radius, self.radius_span**2 * radius)
            augmented = torch.where(label[:, None], center + outward, augmented)
        parts = {
            "normal_loss": F.softplus(normal_logits).mean(),  # BCE(D(u), 0)
            "global_loss": F.softplus(-global_logits).mean(),  # BCE(D(v), 1)
            "local_loss": self.focal_loss(self.head.discriminate(augmented).sigmoid(), label),
        }
        return {"loss": sum(parts.values()), **parts}

    def synthesise_global(self, normal: Tensor, center: Tensor, radius: Tensor) -> Tensor:
        """GAS: noise, gradient ascent on the discriminator's loss, truncated projection; (N, D) -> (N, D).

        Only the discriminator's first layer touches the D-dimensional space, so between two projections the ascent
        runs on its pre-activations: a step `dz W` along features is `dz W W^T` there, and a projection scales both
        alike (equal results).
        """
        first = self.head.discriminator[0]
        weight = first.weight.detach()
        gram = weight @ weight.T
        normal_z = F.linear(normal.detach(), weight, first.bias.detach())
        normal_moments = _moments(normal_z)
        anchor, anchor_z, low, high = normal, normal_z, *(r * self.scale for r in self.manifold_radii)
        if self.hypothesis == "hypersphere":
            anchor, anchor_z = center, F.linear(center, weight, first.bias.detach())
            low, high = radius, self.radius_span * radius
        offset = add_noise(normal, self.noise_std) - anchor
        offset_z = F.linear(offset.detach(), weight)
        for _ in range(self.ascent_steps // self.project_every):
            climbed, z = self._climb(normal_moments, anchor_z + offset_z, gram)
            offset = offset + climbed @ weight
            factor = norm_factor(offset, low, high)
            offset, offset_z = offset * factor, (z - anchor_z) * factor.detach()
        return anchor + offset

    def focal_loss(self, scores: Tensor, label: Tensor) -> Tensor:
        """Focal loss on the harder half of the patches; scores (N,) in (0, 1), label (N,) bool."""
        error = (scores.detach() - label.float()).square()
        hard = error >= error.quantile(self.hard_quantile)
        s, target = scores[hard], label[hard].to(scores).clamp(self.focal_eps, 1 - self.focal_eps)
        p = target * s + (1 - target) * (1 - s) + self.focal_eps
        return (-((1 - p) ** self.focal_gamma) * p.log()).mean()

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam with L2 decay for the adaptor, AdamW for the discriminator (SimpleNet has them the other way round)."""
        return [adam(self.head.adaptor, ADAPTOR_LR), adamw(self.head.discriminator, DISCRIMINATOR_LR)]

    @torch.no_grad()
    def _radius(self, normal: Tensor, augmented: Tensor, label: Tensor, center: Tensor) -> Tensor:
        if self.hypothesis == "manifold":
            return normal.new_zeros(())
        distances = torch.cat([(normal - center).norm(dim=1), (augmented - center)[~label].norm(dim=1)])
        return distances.quantile(self.radius_quantile)

    @torch.no_grad()
    def _climb(self, normal_moments: tuple[Tensor, Tensor], z: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
        """After `project_every` normalised ascent steps: coefficients (N, H) of the features' displacement, new z."""
        climbed = torch.zeros_like(z)
        for _ in range(self.project_every):
            gradient = self._pre_activation_gradient(normal_moments, z)
            in_z = gradient @ gram
            norm = torch.einsum("nh,nh->n", gradient, in_z).clamp(min=0).sqrt()[:, None]
            # the codes normalise the gradient of the mean loss: their epsilon is per 1/N
            step = self.ascent_lr * self.scale / (norm + len(z) * self.ascent_eps)
            climbed.addcmul_(gradient, step)
            z = torch.addcmul(z, in_z, step)
        return climbed, z

    def _pre_activation_gradient(self, normal_moments: tuple[Tensor, Tensor], z: Tensor) -> Tensor:
        """Gradient of sum BCE(D(g), 1) by g's pre-activations z (N, H), BatchNorm over [u; g] as in training.

        Written out because the normal half only enters through its variance and mean, and because everything but the
        LeakyReLU is affine per column: seven passes over (N, H) instead of autograd's forty.
        """
        _, norm, activation, last = self.head.discriminator
        (var_u, mean_u), (var_g, mean_g) = normal_moments, _moments(z)
        mean = (mean_u + mean_g) / 2  # as many normal as synthesised rows
        inverse_std = ((var_u + var_g) / 2 + (mean_u - mean_g).square() / 4 + norm.eps).rsqrt()
        gain = norm.weight * inverse_std
        offset = norm.bias - mean * gain
        negative = activation.negative_slope
        slope = (torch.addcmul(offset, z, gain) > 0).to(z).mul_(1 - negative).add_(negative)
        slope_z, weight = slope * z, last.weight[0]
        logits = slope_z @ (weight * gain) + slope @ (weight * offset)
        error = logits.sigmoid() - 1  # d softplus(-x) / dx
        sum_dx = weight * norm.weight * (error @ slope)
        sum_dx_x = weight * norm.weight * inverse_std * (error @ slope_z) - sum_dx * mean * inverse_std
        # BatchNorm backward: (dx - mean(dx) - x mean(dx x)) / std, where x = (z - mean) / std and 2 N rows count
        by_z = -sum_dx_x * inverse_std.square() / (2 * len(z))
        constant = -sum_dx * inverse_std / (2 * len(z)) - mean * by_z
        return torch.addcmul(constant, z, by_z).addcmul_(slope, torch.outer(error, weight * gain))


def clamp_norm(vectors: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Rows (N, D) with their Euclidean length moved into [low, high], direction kept (truncated projection)."""
    return vectors * norm_factor(vectors, low, high)


def norm_factor(vectors: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """What rows (N, D) must be multiplied by to bring their Euclidean length into [low, high], (N, 1)."""
    norm = vectors.norm(dim=1, keepdim=True)
    return norm.clamp(low, high) / norm.clamp(min=1e-12)


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean per column of (N, H): two passes on the CPU are five times as fast as `torch.var_mean`."""
    mean = z.mean(0)
    return (z - mean).square_().mean(0), mean


def _whole_pictures(detector: GLASS, cache: FeatureCache, samples: Sequence[Sample]) -> np.ndarray:
    """Whole training pictures (n, H, W, 3) uint8, even if the model inspects a crop, as in GLASS's code."""
    size = detector.front_end.image_size
    return _as_arrays(cache.images if detector.front_end.resize == size else load_images(samples, size, size))


def _as_arrays(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()
