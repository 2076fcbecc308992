"""Heads: the small part of a detector that scores patches. The only part that is trained.

A head can be a discriminator, a closed form or a bank of vectors. A closed form or a bank keeps what it learned in
buffers; where their number of rows depends on the data, `hubmodels.scoring.size_by_data` lets them load strictly.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.2
MOST_VALUES = 2**24  # of a picture at once, 64 MB in float32: an image of 1 megapixel needs no more with 1024 units


class Head(nn.Module, ABC):
    """Scores every patch of a picture.

    Args:
        embed_dim: width D of a patch feature.
        layers: number L of feature maps; a patch feature has D/L values of each, the finest first.
    """

    def __init__(self, embed_dim: int, layers: int) -> None:
        super().__init__()
        self.embed_dim, self.layers = embed_dim, layers

    @abstractmethod
    def scores(self, aggregated: list[Tensor]) -> Tensor:
        """Aggregated maps (B, D/L, h_l, w_l), finest first -> patch scores (B, h, w), higher = more anomalous."""

    def image_scores(self, patch_scores: Tensor) -> Tensor:
        """Patch scores (B, h, w) -> image scores (B,): their maximum, as in the papers of SimpleNet and GLASS."""
        return patch_scores.amax((1, 2))

    def settings(self) -> dict:
        """What `config.json` has to contain to build this head again, by names of the detector's arguments."""
        return {}

    def export_form(self) -> nn.Module:
        """A module that maps aggregated maps to patch scores as `scores` does, with operations that ONNX has."""
        return _Scores(self)


class DiscriminatorHead(Head):
    """Linear adaptor and two-layer discriminator, the head of SimpleNet and GLASS.

    Args:
        hidden_dim: width H of the discriminator's hidden layer; default 2/3 D (1024 for wide_resnet50_2).
    """

    def __init__(self, embed_dim: int, layers: int, hidden_dim: int | None = None) -> None:
        super().__init__(embed_dim, layers)
        self.hidden_dim = hidden_dim or embed_dim * 2 // 3
        self.adaptor = nn.Linear(embed_dim, embed_dim)
        self.discriminator = nn.Sequential(
            nn.Linear(embed_dim, self.hidden_dim),
            nn.BatchNorm1d(self.hidden_dim),
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Linear(self.hidden_dim, 1, bias=False),
        )
        for linear in (self.adaptor, self.discriminator[0], self.discriminator[3]):
            nn.init.xavier_normal_(linear.weight)
        self._folded: tuple[list, FoldedDiscriminator] | None = None

    def embed(self, patch_features: Tensor) -> Tensor:
        """Patch features (N, D) -> adapted features (N, D)."""
        return self.adaptor(patch_features)

    def discriminate(self, adapted_features: Tensor) -> Tensor:
        """Adapted features (N, D) -> logits (N,); their sign depends on the method."""
        return self.discriminator(adapted_features)[:, 0]

    @abstractmethod
    def logits_to_scores(self, logits: Tensor) -> Tensor:
        """Discriminator output -> patch scores of the same shape, higher = more anomalous."""

    def scores(self, aggregated: list[Tensor]) -> Tensor:
        """As `Head.scores`, in eval mode, by one matrix a layer."""
        return self.logits_to_scores(self.folded(aggregated))

    @property
    def folded(self) -> "FoldedDiscriminator":
        """`embed` and `discriminate` in eval mode as one module, computed again after each change of their weights.

        Changes behind torch's back, such as by `weight.data`, are not seen.
        """
        state = [(tensor.data_ptr(), _version(tensor)) for tensor in self.state_dict().values()]
        if self._folded is None or self._folded[0] != state:
            folded = FoldedDiscriminator(self.adaptor, self.discriminator, self.layers)
            self._folded = state, folded  # in a tuple, or torch would make it part of the model
        return self._folded[1]

    def settings(self) -> dict:
        """The width of the hidden layer."""
        return {"hidden_dim": self.hidden_dim}

    def export_form(self) -> nn.Module:
        """The folded form; a new one, because a tracer cannot follow the check of the weights' state."""
        folded = FoldedDiscriminator(self.adaptor, self.discriminator, self.layers)
        return _Chain(folded, self.logits_to_scores)


def affine_of_layers(aggregated: list[Tensor], weights: Sequence[Tensor], bias: Tensor) -> Tensor:
    """Patch features times a matrix, plus a bias, without building the patch features.

    Args:
        aggregated: maps (B, D/L, h_l, w_l), finest first.
        weights: the matrix's part (D/L, H) of each layer, applied on the layer's own grid.
        bias: (H,).

    Returns:
        (B, h, w, H) on the finest grid.
    """
    first, *coarser = aggregated
    total = (first.movedim(1, -1) @ weights[0]).add_(bias)
    for coarse, weight in zip(coarser, weights[1:], strict=True):
        part = (coarse.movedim(1, -1) @ weight).movedim(-1, 1)
        total += F.interpolate(part, first.shape[-2:], mode="bilinear", align_corners=False).movedim(1, -1)
    return total


def nearest_distances(rows: Tensor, vectors: Tensor) -> Tensor:
    """Rows (..., N, R) and vectors (K, R) -> Euclidean distances to the nearest vector (..., N)."""
    factors, squares = -2 * vectors, vectors.square().sum(1)
    some = rows.split(max(1, 2 * MOST_VALUES // len(factors)), dim=-2)  # at once: so large images need little
    # |v|^2 - 2 p v in one pass; |p|^2 is the same for all vectors
    nearest = torch.cat([F.linear(part, factors, squares).amin(-1) for part in some], dim=-1)
    return (nearest + rows.square().sum(-1)).clamp(min=0).sqrt()


class FoldedDiscriminator(nn.Module):
    """Adaptor, first discriminator layer and BatchNorm as one matrix, split by the layers that features come from.

    In eval mode all three are affine. A matrix commutes with bilinear upsampling, which acts on positions: each
    layer's part is applied on its own grid, so the coarser layer costs a quarter, and the hidden values are upsampled
    instead of the features (equal results). Made from a trained head and never saved: training changes the factors,
    adds noise between adaptor and discriminator, and its BatchNorm follows the batch.

    Args:
        adaptor: Linear D -> D.
        discriminator: Linear D -> H, BatchNorm, LeakyReLU, Linear H -> 1, as `DiscriminatorHead` has it.
        layers: number L of feature maps.
    """

    def __init__(self, adaptor: nn.Linear, discriminator: nn.Sequential, layers: int) -> None:
        super().__init__()
        first, norm, activation, last = discriminator
        gain = (norm.weight / (norm.running_var + norm.eps).sqrt()).double()
        # in double: the product of two matrices is rounded once
        weight = gain[:, None] * (first.weight.double() @ adaptor.weight.double())
        inner = first.weight.double() @ adaptor.bias.double() + first.bias.double()
        bias = gain * (inner - norm.running_mean.double()) + norm.bias.double()
        for i, part in enumerate(weight.detach().chunk(layers, dim=1)):
            self.register_buffer(f"weight{i}", part.T.contiguous().to(first.weight))
        self.register_buffer("bias", bias.detach().to(first.weight))
        self.register_buffer("last", last.weight.detach().T.clone())
        self.layers, self.slope = layers, activation.negative_slope

    def forward(self, aggregated: list[Tensor]) -> Tensor:
        """Aggregated maps (B, D/L, h_l, w_l), finest first -> logits (B, h, w) on the finest grid."""
        units = max(1, MOST_VALUES // math.prod(aggregated[0].shape[-2:]))  # at once: so large images need little
        weights = [getattr(self, f"weight{i}").split(units, dim=1) for i in range(self.layers)]
        parts = zip(zip(*weights, strict=True), self.bias.split(units), self.last.split(units), strict=True)
        return reduce(add, (self._logits(aggregated, *part) for part in parts))[..., 0]

    def _logits(self, aggregated: list[Tensor], weights: Sequence[Tensor], bias: Tensor, last: Tensor) -> Tensor:
        """What some hidden units give to the logits, (B, h, w, 1)."""
        hidden = F.leaky_relu_(affine_of_layers(aggregated, weights, bias), self.slope)  # in place: it is large
        return hidden @ last  # a matrix of one column, because OpenVINO takes no vector here


def _version(tensor: Tensor) -> int:
    """A number that a change of the tensor changes; torch counts none where it was made in inference mode."""
    return hash(tensor.float().cpu().numpy().tobytes()) if tensor.is_inference() else tensor._version


class _Scores(nn.Module):
    """`Head.scores` as a module's forward."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, aggregated: list[Tensor]) -> Tensor:
        return self.head.scores(aggregated)


class _Chain(nn.Module):
    """A module, then a function."""

    def __init__(self, module: nn.Module, function) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, aggregated: list[Tensor]) -> Tensor:
        return self.function(self.module(aggregated))
