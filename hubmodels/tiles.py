"""Large images in overlapping tiles: the maps of one whole pass, and only a tile's memory for the network.

If a network just convolves and pools, a position of its maps depends only on the pixels of its receptive field. So
each tile has a margin of that size, and its maps are cropped. Tiles begin at multiples of the coarsest stride, so that
the grids of all layers agree. At the image's borders a tile has no margin, and the network pads as in a whole pass.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

LARGEST_WHOLE = 2**20  # pixels of an image that is not cut, and about those of a tile: 0.2 GB with a small network
SIDE = 65  # pixels of the image that a network is tried on: odd at every stride, so that padding by size shows
POINTWISE = ("ReluBackward0", "HardtanhBackward0", "NativeBatchNormBackward0")


class Field(NamedTuple):
    """What a map's positions see: they are `stride` pixels apart; each sees at most `reach` pixels to either side."""

    stride: int
    reach: int


def receptive_fields(network: nn.Module) -> tuple[Field, ...] | None:
    """The field of each map of a network; None if it has steps other than convolution, pooling and sums.

    Squeeze-excitation, attention and padding that depends on the size make a position see the whole image. The fields
    are read from what autograd records for one image, so the network's tensors may be on the meta device.

    Args:
        network: in eval mode, its parameters without gradient.
    """
    tensor = next(network.parameters())
    try:
        with torch.inference_mode(False), torch.enable_grad():
            maps = network(tensor.new_zeros(1, 3, SIDE, SIDE).requires_grad_())
            known: dict = {}
            fields = tuple(_field(feature_map.grad_fn, known) for feature_map in maps)
    except Exception:  # it takes no such image, or has a step that is not known here
        return None
    fits = [m.shape[-2:] == (-(-SIDE // f.stride),) * 2 for m, f in zip(maps, fields, strict=True)]
    return fields if all(fits) else None


def _field(node, known: dict) -> Field:
    """The field of a node of autograd's graph; raises for a step that is not known."""
    if node not in known:
        name, before = node.name(), [_field(other, known) for other, _ in node.next_functions if other is not None]
        if name == "torch::autograd::AccumulateGrad":  # the image, because nothing else has a gradient
            known[node] = Field(1, 0)
        elif name == "AddBackward0":
            first, second = before  # a single one would be added to a constant, which can depend on the position
            (stride,) = {first.stride, second.stride}
            known[node] = Field(stride, max(first.reach, second.reach))
        elif name in POINTWISE:
            (known[node],) = before
        else:
            known[node] = _after_window(*before, *_window(node, name))
    return known[node]


def _window(node, name: str) -> tuple[Sequence[int], ...]:
    """Kernel, stride, padding and dilation of a convolution or pooling, along both axes."""
    if name == "ConvolutionBackward0":
        if node._saved_transposed:
            raise ValueError("a transposed convolution has no stride of its own")
        kernel = node._saved_weight.shape[2:]
    else:  # raises AttributeError where it is none
        kernel = node._saved_kernel_size
    return kernel, node._saved_stride or kernel, node._saved_padding, getattr(node, "_saved_dilation", (1, 1))


def _after_window(
    before: Field, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Field:
    """The field after a convolution or pooling of a map with the field `before`."""
    (step,) = set(stride)
    spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    most = max(max(p, span - p) for p, span in zip(padding, spans, strict=True))
    return Field(before.stride * step, before.reach + most * before.stride)


def is_large(images: Tensor) -> bool:
    """Whether images (B, 3, H, W) are cut, if the network allows it."""
    return math.prod(images.shape[-2:]) > LARGEST_WHOLE


def in_tiles(
    maps_of: Callable[[Tensor], list[Tensor]], images: Tensor, fields: Sequence[Field], context: int
) -> list[Tensor]:
    """The maps of images (B, 3, H, W), computed from one tile after the other.

    Args:
        maps_of: images (B, 3, H, W) -> maps (B, C, h, w), one per field.
        context: positions to either side that `maps_of` also uses of each map of the network.
    """
    unit = max(field.stride for field in fields)
    margin = _multiple(max(field.reach + context * field.stride for field in fields), unit)
    height, width = images.shape[-2:]
    side = LARGEST_WHOLE // min(height, width, math.isqrt(LARGEST_WHOLE))
    maps: list[Tensor] = []
    for rows, columns in itertools.product(*(tuple(_spans(n, side, margin, unit)) for n in (height, width))):
        parts = maps_of(images[..., rows.outer, columns.outer])
        maps = maps or [_empty(part, images, field.stride) for part, field in zip(parts, fields, strict=True)]
        for whole, part, (stride, _) in zip(maps, parts, fields, strict=True):
            target, source = zip(rows.on_grid(stride), columns.on_grid(stride), strict=True)
            whole[..., *target] = part[..., *source]
    return maps


class _Span(NamedTuple):
    """Pixels of one axis: what a tile is responsible for, and the same with its margins."""

    start: int
    stop: int
    outer: slice

    def on_grid(self, stride: int) -> tuple[slice, slice]:
        """The positions that it is responsible for: among those of the whole map, and among the tile's."""
        start, stop, origin = self.start // stride, -(-self.stop // stride), self.outer.start // stride
        return slice(start, stop), slice(start - origin, stop - origin)


def _spans(length: int, side: int, margin: int, unit: int) -> Iterator[_Span]:
    """An axis in equal parts, at most `side` pixels long with their margins, or longer where these are most of it.

    Those at the ends have both margins inside, too: tiles of one size use the same memory, one after the other.
    """
    longest = max(side, 4 * margin)
    count = 1 if length <= longest else -(-length // (longest - 2 * margin))
    step = _multiple(-(-length // count), unit)
    last = max(0, length - step - 2 * margin) // unit * unit
    for start in range(0, length, step):
        first = min(max(0, start - margin), last)
        outer = slice(first, length if first == last else first + step + 2 * margin)
        yield _Span(start, min(start + step, length), outer)


def _multiple(length: int, unit: int) -> int:
    return -(-length // unit) * unit


def _empty(part: Tensor, images: Tensor, stride: int) -> Tensor:
    """Memory for a whole map, with the channels next to each other, as the convolutions give them."""
    shape = *part.shape[:2], *(-(-side // stride) for side in images.shape[-2:])
    return torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last)
