"""The shape of the model input: what the command line takes, what fits the pictures, and what can be seen in it."""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hubmodels.backbone import feature_strides
from hubmodels.compactnet import COMPACT_BACKBONE, COMPACT_IMAGE_SIZE
from hubmodels.front_end import scales
from hubmodels.least_size import PATCHES
from hubmodels.sizes import (
    LARGEST_AREA,
    LARGEST_IMAGE,
    SMALLEST_IMAGE,
    Size,
    as_image_size,
    as_pair,
    as_plain,
    in_words,
)
from hubmodels.tiles import Field
from training.objectives import PAPER_IMAGE_SIZE

AUTO = "auto"
SQUARE_MM = "mm2"
SQUASHED = 0.8  # of one side compared with the other, from which on it is said
SHORTEST = 64  # pixels that `auto` gives the shorter side at least


def parse_image_size(text: str) -> int | list[int] | str:
    """`512`, `640x256` (height x width) or `auto`; raises argparse's error for anything else."""
    if text == AUTO:
        return AUTO
    try:
        sides = [int(side) for side in text.split("x")]
        return as_plain(as_image_size(sides if len(sides) > 1 else sides[0]))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a side (512), nor height x width (640x256), nor {AUTO}; a side has "
            f"{SMALLEST_IMAGE} to {LARGEST_IMAGE} pixels, both together at most {LARGEST_AREA:,}"
        ) from None


def parse_area(text: str) -> str:
    """An area, `40` pixels or `2mm2`, as it is; raises argparse's error for anything else."""
    try:
        valid = 0 < float(text.removesuffix(SQUARE_MM)) < math.inf
    except ValueError:
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of pixels (40) nor an area (2{SQUARE_MM})")
    return text


def area_in_pixels(area: str, pixel_size: float | None) -> float:
    """An area as `parse_area` takes it, in pixels whose sides have `pixel_size` millimetres."""
    number = float(area.removesuffix(SQUARE_MM))
    return number / pixel_size**2 if area.endswith(SQUARE_MM) else number


def default_side(backbone: str) -> int:
    """Side of the square that a backbone sees by default, pixels."""
    return COMPACT_IMAGE_SIZE if backbone == COMPACT_BACKBONE else PAPER_IMAGE_SIZE


def require_multiples(image_size: Size, backbone: str) -> None:
    """Raises ValueError where the backbone's coarsest grid does not cover the image exactly."""
    stride = max(feature_strides(backbone))
    wrong = [side for side in dict.fromkeys(as_pair(image_size)) if side % stride]
    if wrong:
        remedies = ", ".join(f"{_nearest(side, stride)} instead of {side}" for side in wrong)
        raise ValueError(f"--image-size: on {backbone} each side must be a multiple of {stride} pixels: {remedies}")


def _nearest(side: int, stride: int) -> str:
    """The next smaller and the next larger multiple that can be sides."""
    multiples = (side // stride * stride, -(-side // stride) * stride)
    return " or ".join(str(multiple) for multiple in multiples if SMALLEST_IMAGE <= multiple <= LARGEST_IMAGE)


def fitting_size(sizes: Mapping[tuple[int, int], int], backbone: str, side: float | None = None) -> Size:
    """The input with the pictures' median aspect ratio, and about the area of a square.

    Its sides are multiples of the coarsest stride. The shorter one has about SHORTEST pixels at least, however oblong
    the pictures are.

    Args:
        sizes: number of pictures by (height, width).
        side: of the square, pixels; by default that which the backbone sees by default.
    """
    side, stride = side or default_side(backbone), max(feature_strides(backbone))
    limit = max(0.0, math.log(side / SHORTEST))
    half = min(max(_median(sizes, lambda height, width: math.log(height / width)) / 2, -limit), limit)
    sides = (side * math.exp(sign * half) for sign in (1, -1))
    return as_plain([stride * max(1, round(side / stride)) for side in sides])


def affordable_size(
    sizes: Mapping[tuple[int, int], int], backbone: str, budget_ms: float, measure: Callable[[Size], float]
) -> Size:
    """The largest of these inputs whose verdict is measured to take at most the budget.

    No side is longer than the pictures' own: there is nothing more to see.

    Args:
        measure: milliseconds of a verdict with an input of a size.

    Raises:
        ValueError: even the smallest takes longer.
    """
    stride = max(feature_strides(backbone))
    first = -(-SMALLEST_IMAGE // stride)  # in strides
    own = [_median(sizes, lambda *size, axis=axis: size[axis]) for axis in (0, 1)]
    most = [min(stride * math.ceil(side / stride), LARGEST_IMAGE // stride * stride) for side in own]

    def at(strides: int) -> Size:
        fitting = as_pair(fitting_size(sizes, backbone, stride * strides))
        return as_plain([max(stride * first, min(pair)) for pair in zip(fitting, most, strict=True)])

    largest = math.isqrt(LARGEST_AREA) // stride - 1  # one less, because sides are rounded
    fits, beyond = first - 1, min(max(first, math.ceil(math.sqrt(math.prod(own)) / stride)), largest) + 1
    tried = min(default_side(backbone) // stride, beyond - 1)
    while beyond - fits > 1:
        took = measure(at(tried))
        fits, beyond = (tried, beyond) if took <= budget_ms else (fits, tried)
        guess = int(tried * math.sqrt(budget_ms / took))  # the time grows as the area
        tried = min(max(guess, fits + 1), beyond - 1)
    if fits < first:
        raise ValueError(
            f"--budget-ms {budget_ms:g} is too short for this machine: an input of {in_words(at(first))} pixels takes "
            f"{took:.3g} ms. Give more time, or another --backbone."
        )
    return at(fits)


def _median(sizes: Mapping[tuple[int, int], int], of: Callable[[int, int], float]) -> float:
    """Median over all pictures, given their number by (height, width)."""
    return float(np.median([of(*size) for size, count in sizes.items() for _ in range(count)]))


def resolution_of(sizes: Mapping[tuple[int, int], int], resize: Size, backbone: str) -> dict:
    """What the input shows of pictures of the commonest size, as plain JSON values.

    `scale` is pixels of the input for one of the picture, along (height, width). `smallest_defect` is the side of a
    patch, in pixels of the picture, along the axis where it has more.
    """
    scale = scales(max(sizes, key=sizes.get), resize)
    smallest = max(1, round(min(feature_strides(backbone)) / min(scale)))
    words = f"the smallest defect that can be seen has about {smallest} pixels of your pictures"
    return {"scale": list(scale), "smallest_defect": smallest, "in_words": words}


def too_small(pixels: float, smallest_defect: int) -> str:
    """What to say of a least size that the patches are too coarse for, else an empty text."""
    enough = PATCHES * smallest_defect**2
    if pixels >= enough:
        return ""
    return f"a least size of {pixels:g} pixels changes little below {enough}, the area of {PATCHES} patches: give more"


def squashed(scale: Sequence[float]) -> str:
    """What to say of pictures that lose much more along one axis than along the other, else an empty text."""
    share = min(scale) / max(scale)
    if share > SQUASHED:
        return ""
    return f"one side of the pictures is squashed to {share:.0%} of the other: --image-size auto keeps their shape"


def border_in_words(fields: Sequence[Field] | None, scale: Sequence[float]) -> str:
    """How far patches inside a region see across its border.

    Args:
        fields: of the layers; None = they see the whole image.
        scale: pixels of the input for one of the picture, along (height, width).
    """
    if fields is None:
        return "each patch sees the whole picture, with grey outside of the region"
    reach = " and ".join(f"{field.reach} (stride {field.stride})" for field in fields)
    shown = " and ".join(f"{math.ceil(field.reach / min(scale))}" for field in fields)
    return f"patches see grey across its border, up to {reach} pixels of the input: {shown} of your pictures"
