"""Sizes in pixels: (height, width), or one number for a square, as in the papers."""

import math
from collections.abc import Sequence
from operator import index

Size = int | Sequence[int]

# limits of what a backbone can use and a computer can store
SMALLEST_IMAGE, LARGEST_IMAGE = 32, 8192  # pixels of a side
LARGEST_AREA = 2**25  # pixels


def as_pair(size: Size) -> tuple[int, int]:
    """(height, width) of a size.

    Raises:
        TypeError: it is neither a whole number nor two of them.
    """
    sides = size if isinstance(size, Sequence) else (size, size)
    try:
        height, width = map(index, sides)
    except (TypeError, ValueError) as error:
        raise TypeError(f"the size {size!r} is neither a whole number nor a pair of them") from error
    return height, width


def as_image_size(size: Size) -> tuple[int, int]:
    """(height, width) of a model input. Raises as `as_pair` does, and ValueError outside of the limits."""
    pair = as_pair(size)
    for side in pair:
        if not SMALLEST_IMAGE <= side <= LARGEST_IMAGE:
            raise ValueError(f"image_size, resize: {side} is not in [{SMALLEST_IMAGE}, {LARGEST_IMAGE}] pixels")
    if math.prod(pair) > LARGEST_AREA:
        raise ValueError(f"image_size, resize: {in_words(pair)} is more than {LARGEST_AREA:,} pixels")
    return pair


def as_plain(size: Size) -> int | list[int]:
    """The size as files contain it: one number for a square, else [height, width]."""
    height, width = as_pair(size)
    return height if height == width else [height, width]


def in_words(size: Size) -> str:
    """The size for a message: "64" for a square, else "640 x 256"."""
    height, width = as_pair(size)
    return str(height) if height == width else f"{height} x {width}"


def crop_start(resize: Size, image_size: Size) -> tuple[int, int]:
    """First row and first column of the centre crop, rounded as torchvision does (half to even)."""
    (height, width), (rows, columns) = as_pair(resize), as_pair(image_size)
    if height < rows or width < columns:
        raise ValueError(
            f"resize {in_words(resize)} is smaller than image_size {in_words(image_size)}; the crop needs at least as "
            "much"
        )
    return round((height - rows) / 2), round((width - columns) / 2)


def crop_margins(resize: Size, image_size: Size) -> tuple[int, int, int, int]:
    """Pixels outside of the centre crop: at the left, right, top and bottom, which is the order of `F.pad`."""
    (height, width), (rows, columns) = as_pair(resize), as_pair(image_size)
    top, left = crop_start(resize, image_size)
    return left, width - columns - left, top, height - rows - top
