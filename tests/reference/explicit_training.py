"""A training step as the official codes of SimpleNet and GLASS make it, every step written out: yardstick and oracle.

Written from their description (SimpleNet, arXiv 2303.15140, code 351a2b8; GLASS, arXiv 2407.09359, code f788d56), with
their constants for wide_resnet50_2 and 1536-dimensional patch features. Slow on purpose: nothing is cached, the whole
network runs for every picture in every step, and every ascent step goes through the whole discriminator.

"Rows" are patch features (N, D): pictures outermost, then grid rows. Losses take a detector of ours in training mode,
so that parameters and initial values are the same.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from reference.explicit import patch_features
from torch import Tensor, nn

MARGIN = 0.5
ASCENT_STEPS, PROJECT_EVERY, ASCENT_RATE, EPS = 20, 5, 1e-3, 1e-10
MANIFOLD_RADIUS = 0.5
RADIUS_QUANTILE = 0.75
HARD_QUANTILE = 0.5
FOCAL_GAMMA, FOCAL_EPS = 2, 1e-5


@torch.no_grad()
def frozen_rows(network: nn.Module, images: Tensor, embed_dim: int) -> Tensor:
    """Normalised images (B, 3, S, S) -> rows; the network runs to its very end."""
    return patch_features(network(images), embed_dim)


# ---------------------------------------------------------------------------------------------------------- SimpleNet


def simplenet_loss(detector: nn.Module, network: nn.Module, images: Tensor, noise_std: float) -> Tensor:
    """One step's loss from normalised normal images (B, 3, S, S)."""
    return truncated_l1(detector, frozen_rows(network, images, detector.front_end.embed_dim), noise_std)


def truncated_l1(detector: nn.Module, rows: Tensor, noise_std: float) -> Tensor:
    """Paper, equations 4 and 5: normal rows and their noisy twins in one pass of the discriminator."""
    normal = detector.head.adaptor(rows)
    noisy = normal + noise_std * torch.randn_like(normal)
    normality, noisy_normality = detector.head.discriminator(torch.cat([normal, noisy])).chunk(2)
    return F.relu(MARGIN - normality).mean() + F.relu(MARGIN + noisy_normality).mean()


# -------------------------------------------------------------------------------------------------------------- GLASS


@torch.no_grad()
def batch_center(detector: nn.Module, network: nn.Module, images: Tensor) -> Tensor:
    """Mean adapted feature per grid position (h*w, D) of one batch: what starts every epoch, averaged over batches."""
    adapted = detector.head.adaptor(frozen_rows(network, images, detector.front_end.embed_dim))
    return adapted.unflatten(0, (len(images), -1)).mean(0)


def glass_loss(
    detector: nn.Module, network: nn.Module, images: Tensor, augmented: Tensor, label: Tensor, **settings
) -> Tensor:
    """One step's loss from normalised normal and augmented images (B, 3, S, S) and patch labels (B*h*w,) bool."""
    rows, augmented_rows = (frozen_rows(network, x, detector.front_end.embed_dim) for x in (images, augmented))
    return three_branches(detector, rows, augmented_rows, label, **settings)


def three_branches(
    detector: nn.Module,
    rows: Tensor,
    augmented_rows: Tensor,
    label: Tensor,
    *,
    center: Tensor,
    hypothesis: str,
    noise_std: float,
) -> Tensor:
    """Normal, global (GAS) and local (LAS) branch (paper, sections 3.2 to 3.4); centre (h*w, D)."""
    normal, augmented = detector.head.adaptor(rows), detector.head.adaptor(augmented_rows)
    center = center.repeat(len(rows) // len(center), 1)
    radius = normal_radius(normal, augmented, label, center)
    start = normal + noise_std * torch.randn_like(normal)
    synthesised = ascend(
        detector.head.discriminator, normal, start, lambda g: project(g, normal, center, radius, hypothesis)
    )
    if hypothesis == "hypersphere":
        outward = clamp_length(augmented[label] - center[label], 2 * radius, 4 * radius)
        augmented = augmented.index_put((label,), center[label] + outward)
    local = focal_loss(detector.head.discriminator(augmented)[:, 0].sigmoid(), label)
    return sum(cross_entropies(detector.head.discriminator, normal, synthesised)) + local


def ascend(
    discriminator: nn.Module, normal: Tensor, start: Tensor, projected: Callable[[Tensor], Tensor], eps: float = EPS
) -> Tensor:
    """GAS by autograd: 20 normalised ascent steps, each through the whole discriminator over [u; g] in training mode.

    A step is a constant for the final loss, a projection (every fifth) is not.
    """
    synthesised = start
    for step in range(1, ASCENT_STEPS + 1):
        loss = cross_entropies(discriminator, normal, synthesised)[1]
        gradient = torch.autograd.grad(loss, synthesised)[0]
        synthesised = synthesised + ASCENT_RATE * gradient / (gradient.norm(dim=1, keepdim=True) + eps)
        if step % PROJECT_EVERY == 0:
            synthesised = projected(synthesised)
    return synthesised


def cross_entropies(discriminator: nn.Module, normal: Tensor, synthesised: Tensor) -> tuple[Tensor, Tensor]:
    """BCE(D(u), 0) and BCE(D(g), 1) from one pass."""
    scores = discriminator(torch.cat([normal, synthesised])).sigmoid()
    low, high = scores.chunk(2)
    return F.binary_cross_entropy(low, torch.zeros_like(low)), F.binary_cross_entropy(high, torch.ones_like(high))


def project(synthesised: Tensor, normal: Tensor, center: Tensor, radius: Tensor, hypothesis: str) -> Tensor:
    """Truncated projection: distance in [0.5, 1] from the normal feature (manifold), [r, 2 r] from the centre."""
    if hypothesis == "manifold":
        return normal + clamp_length(synthesised - normal, MANIFOLD_RADIUS, 2 * MANIFOLD_RADIUS)
    return center + clamp_length(synthesised - center, radius, 2 * radius)


@torch.no_grad()
def normal_radius(normal: Tensor, augmented: Tensor, label: Tensor, center: Tensor) -> Tensor:
    """75 % quantile of the distance from the centre, over all patches that show nothing synthesised."""
    rows = torch.cat([normal - center, (augmented - center)[~label]])
    return rows.norm(dim=1).quantile(RADIUS_QUANTILE)


def clamp_length(vectors: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Rows with their Euclidean length moved into [low, high]."""
    length = vectors.norm(dim=1, keepdim=True)
    return vectors * (length.clamp(low, high) / length)


def focal_loss(scores: Tensor, label: Tensor) -> Tensor:
    """Focal loss (gamma 2) on the patches whose squared error is at least the median (OHEM)."""
    error = (scores.detach() - label.to(scores)) ** 2
    hard = error >= error.quantile(HARD_QUANTILE)
    classes = torch.stack([1 - scores[hard], scores[hard]], dim=1)
    target = F.one_hot(label[hard].long(), 2).to(scores).clamp(FOCAL_EPS, 1 - FOCAL_EPS)
    p = (target * classes).sum(1) + FOCAL_EPS
    return (-((1 - p) ** FOCAL_GAMMA) * p.log()).mean()


# -------------------------------------------------------------------------------------------------------- Perlin mask


def perlin_mask(size: int, grid: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A mask (size, size) bool and its patch label `grid` bool, redrawn until some patch is marked.

    Two fields are drawn in any case. `size` must be a multiple of the grid.
    """
    while True:
        first, second = perlin_field(size, rng) > 0.5, perlin_field(size, rng) > 0.5
        mode = rng.uniform()
        mask = first | second if mode > 2 / 3 else first & second if mode > 1 / 3 else first
        cells = torch.from_numpy(mask).float()[None, None]
        label = F.max_pool2d(cells, (size // grid[0], size // grid[1]))[0, 0].bool().numpy()
        if label.any():
            return mask, label


def perlin_field(size: int, rng: np.random.Generator) -> np.ndarray:
    """Perlin noise of random scale (1 to 32 cells per axis), rotated by up to 90 degrees, zeros outside.

    The codes rotate by imgaug, that is by OpenCV; here Pillow does, which is faster than scipy.ndimage.
    """
    noise = perlin_noise(size, 2 ** rng.integers(0, 6, 2), rng)
    turned = Image.fromarray(noise.astype(np.float32)).rotate(rng.uniform(-90, 90), Image.Resampling.BILINEAR)
    return np.asarray(turned)


def perlin_noise(size: int, cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Perlin noise (size, size) float64 on a lattice of cells (vertical, horizontal), everything per pixel."""
    position = np.mgrid[:size, :size] * (cells / size)[:, None, None]
    cell = np.floor(position).astype(int)
    offset = position - cell
    angle = rng.uniform(0, 2 * np.pi, cells + 1)
    gradient = np.stack([np.cos(angle), np.sin(angle)])

    def corner(down: int, right: int) -> np.ndarray:
        at = gradient[:, cell[0] + down, cell[1] + right]
        return at[0] * (offset[0] - down) + at[1] * (offset[1] - right)

    fade_y, fade_x = 6 * offset**5 - 15 * offset**4 + 10 * offset**3
    upper = corner(0, 0) + fade_x * (corner(0, 1) - corner(0, 0))
    lower = corner(1, 0) + fade_x * (corner(1, 1) - corner(1, 0))
    return np.sqrt(2) * (upper + fade_y * (lower - upper))
