"""The shape of the model input: what the command line takes, what fits the pictures, and what can be seen in it."""

import argparse
import math
from collections.abc import Mapping

import numpy as np

from hubmodels.backbone import feature_strides
from hubmodels.compactnet import COMPACT_BACKBONE, COMPACT_IMAGE_SIZE
from hubmodels.front_end import scales
from hubmodels.sizes import LARGEST_IMAGE, SMALLEST_IMAGE, Size, as_image_size, as_pair, as_plain
from training.objectives import PAPER_IMAGE_SIZE

AUTO = "auto"
MOST_OBLONG = 4  # longer side over the shorter one that `auto` chooses


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
            f"{SMALLEST_IMAGE} to {LARGEST_IMAGE} pixels"
        ) from None


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


def fitting_size(sizes: Mapping[tuple[int, int], int], backbone: str) -> Size:
    """The input with the pictures' median aspect ratio and the area of the backbone's default square.

    Its sides are multiples of the coarsest stride, and the longer one is about MOST_OBLONG times the other at most.

    Args:
        sizes: number of pictures by (height, width).
    """
    ratios = [math.log(height / width) for (height, width), count in sizes.items() for _ in range(count)]
    half, limit = np.median(ratios) / 2, math.log(MOST_OBLONG) / 2
    half, stride = min(max(half, -limit), limit), max(feature_strides(backbone))
    sides = (default_side(backbone) * math.exp(sign * half) for sign in (1, -1))
    return as_plain([stride * round(side / stride) for side in sides])


def resolution_of(sizes: Mapping[tuple[int, int], int], resize: Size, backbone: str) -> dict:
    """What the input shows of pictures of the commonest size, as plain JSON values.

    `scale` is pixels of the input for one of the picture, along (height, width). `smallest_defect` is the side of a
    patch, in pixels of the picture, along the axis where it has more.
    """
    scale = scales(max(sizes, key=sizes.get), resize)
    smallest = max(1, round(min(feature_strides(backbone)) / min(scale)))
    words = f"the smallest defect that can be seen has about {smallest} pixels of your pictures"
    return {"scale": list(scale), "smallest_defect": smallest, "in_words": words}
