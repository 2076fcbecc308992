"""What the heads are trained for: SimpleNet's truncated L1 and GLASS's three branches.

An objective is a module whose `forward(batch)` is one training step's loss, so that it is right under data-parallel
too. It owns everything that only training needs; none of it reaches the published weights.

Sources: SimpleNet, arXiv 2303.15140, code 351a2b8; GLASS, arXiv 2407.09359, code f788d56. Constants are the codes'.

Differences from GLASS's code: there BatchNorm's running statistics take 21 updates with [u; g] (20 ascent steps and
the loss) and one with the LAS features in each step, here one and one, because the ascent is written out; only the
published model reads them, and `--stabilise statistics` (default) recomputes them for it. Its limit of 392 pictures
per epoch is not there; no category of MVTec AD has more.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubmodels.detector import AnomalyDetector
from hubmodels.front_end import flatten
from hubmodels.glass import GLASS
from hubmodels.simplenet import SimpleNet

REFERENCE_NOISE_STD = 0.015  # both papers, on wide_resnet50_2.tv_in1k with 1536-dimensional patch features
REFERENCE_EMBED_DIM = 1536
ADAPTOR_LR, DISCRIMINATOR_LR = 1e-4, 2e-4
DECOUPLED_DECAY, L2_DECAY = 1e-2, 1e-5  # AdamW's default, and the codes' Adam weight decay


class SimpleNetObjective(nn.Module):
    """Truncated L1 loss between normal adapted features and the same features plus Gaussian noise (equations 4, 5)."""

    margin = 0.5  # th+ = 0.5, th- = -0.5

    def __init__(self, detector: SimpleNet, noise_std: float) -> None:
        super().__init__()
        self.detector, self.noise_std = detector, noise_std

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`features` (B, D, h, w) -> `loss` and its parts; noise is drawn afresh from torch's generator."""
        normality, noisy_normality = self.judge(flatten(batch["features"]))
        parts = {
            "normal_loss": (self.margin - normality).clamp(min=0).mean(),
            "noisy_loss": (self.margin + noisy_normality).clamp(min=0).mean(),
        }
        return {"loss": parts["normal_loss"] + parts["noisy_loss"], **parts}

    def judge(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Normality of patch features (N, D) and of their noisy twins, (N,) each.

        Adaptor and discriminator's first layer are linear, so the noise between them is added behind them, and the
        two become one matrix: half the work, equal results.
        """
        adaptor, (first, *rest) = self.detector.adaptor, self.detector.discriminator
        bias = F.linear(adaptor.bias, first.weight, first.bias)
        normal = F.linear(features, first.weight @ adaptor.weight, bias)
        noisy = normal + F.linear(self.noise_std * torch.randn_like(features), first.weight)
        # one pass over both, because BatchNorm's statistics are those of the mixture
        return nn.Sequential(*rest)(torch.cat([normal, noisy]))[:, 0].chunk(2)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW for the adaptor, Adam with L2 decay for the discriminator (GLASS has them the other way round)."""
        adaptor, discriminator = _parameters(self.detector)
        return [
            torch.optim.AdamW(adaptor, lr=ADAPTOR_LR, weight_decay=DECOUPLED_DECAY),
            torch.optim.Adam(discriminator, lr=DISCRIMINATOR_LR, weight_decay=L2_DECAY),
        ]


class GLASSObjective(nn.Module):
    """Normal branch, global (GAS) and local (LAS) anomaly synthesis (paper, sections 3.2 to 3.4).

    Args:
        hypothesis: "manifold" or "hypersphere": what the truncated projection keeps its distance from.
        noise_std: standard deviation of the Gaussian start of GAS. Radii and ascent step are stated for the papers'
            noise norm (0.015 * sqrt(1536)) and scale with ours, so that another backbone sees the same geometry.
    """

    ascent_steps, project_every = 20, 5
    ascent_lr = 1e-3
    ascent_eps = 1e-10
    manifold_radii = (0.5, 1.0)
    radius_quantile = 0.75
    radius_span = 2.0  # GAS in [r, 2 r], LAS in [2 r, 4 r]
    hard_quantile = 0.5  # OHEM: share of easy patches dropped
    focal_gamma, focal_eps = 2.0, 1e-5

    def __init__(self, detector: GLASS, noise_std: float, hypothesis: str) -> None:
        super().__init__()
        if hypothesis not in ("manifold", "hypersphere"):
            raise ValueError(f"hypothesis must be manifold or hypersphere, not {hypothesis!r}")
        self.detector, self.noise_std, self.hypothesis = detector, noise_std, hypothesis
        self.scale = noise_std * math.sqrt(detector.embed_dim / REFERENCE_EMBED_DIM) / REFERENCE_NOISE_STD
        self.register_buffer("center", torch.zeros(1, detector.embed_dim), persistent=False)

    @torch.no_grad()
    def update_center(self, mean_features: Tensor) -> None:
        """Sets the centre per grid position from the mean patch features (D, h, w) of all normal pictures.

        The adaptor is affine, so the mean adapted feature is the adapted mean: no pass over the data is needed.
        """
        self.center = self.detector.embed(flatten(mean_features[None]))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`features`, `augmented_features` (B, D, h, w), `patch_label` (B, h, w) bool -> `loss` and its parts."""
        normal = self.detector.embed(flatten(batch["features"]))
        augmented = self.detector.embed(flatten(batch["augmented_features"]))
        label = batch["patch_label"].flatten()
        center = self.center.repeat(len(batch["features"]), 1)
        radius = self._radius(normal, augmented, label, center)
        synthesised = self.synthesise_global(normal, center, radius)
        normal_logits, global_logits = self.detector.discriminate(torch.cat([normal, synthesised])).chunk(2)
        if self.hypothesis == "hypersphere":
            outward = clamp_norm(augmented - center, self.radius_span * radius, self.radius_span**2 * radius)
            augmented = torch.where(label[:, None], center + outward, augmented)
        parts = {
            "normal_loss": F.softplus(normal_logits).mean(),  # BCE(D(u), 0)
            "global_loss": F.softplus(-global_logits).mean(),  # BCE(D(v), 1)
            "local_loss": self.focal_loss(self.detector.discriminate(augmented).sigmoid(), label),
        }
        return {"loss": sum(parts.values()), **parts}

    def synthesise_global(self, normal: Tensor, center: Tensor, radius: Tensor) -> Tensor:
        """GAS: noise, gradient ascent on the discriminator's loss, truncated projection; (N, D) -> (N, D).

        Only the discriminator's first layer touches the D-dimensional space, so between two projections the ascent
        runs on its pre-activations: a step `dz W` along features is `dz W W^T` there, and a projection scales both
        alike (equal results).
        """
        first = self.detector.discriminator[0]
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
        adaptor, discriminator = _parameters(self.detector)
        return [
            torch.optim.Adam(adaptor, lr=ADAPTOR_LR, weight_decay=L2_DECAY),
            torch.optim.AdamW(discriminator, lr=DISCRIMINATOR_LR, weight_decay=DECOUPLED_DECAY),
        ]

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
        _, norm, activation, last = self.detector.discriminator
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


OBJECTIVES = {SimpleNet.method: SimpleNetObjective, GLASS.method: GLASSObjective}


def add_noise(features: Tensor, noise_std: float) -> Tensor:
    """Features plus Gaussian noise, drawn on their device; gradients flow to the features."""
    return features + noise_std * torch.randn_like(features)


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


def _parameters(detector: AnomalyDetector) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    return list(detector.adaptor.parameters()), list(detector.discriminator.parameters())
