"""Position tolerance: good pictures as a camera sees them that was moved and turned a little.

A head learns each position of the training pictures. Moved copies of them teach it the positions around.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hubmodels.samples import Sample, Source, read_source

COPIES = 3  # moved copies of each training picture, besides the picture itself


@dataclass(frozen=True)
class Moved:
    """A picture moved and turned, read when needed.

    Attributes:
        right, down: shares of the picture's width and height.
        degrees: counter-clockwise.
    """

    source: Source
    right: float
    down: float
    degrees: float

    def read_bytes(self) -> bytes:
        """The encoded picture. Raises as `read_source` does."""
        picture = np.asarray(read_source(self.source))
        height, width = picture.shape[:2]
        result = move(picture, round(self.right * width), round(self.down * height), self.degrees)
        stream = io.BytesIO()
        Image.fromarray(result).save(stream, "BMP")  # not compressed, because it is read at once
        return stream.getvalue()


def move(picture: NDArray[np.uint8], right: int = 0, down: int = 0, degrees: float = 0) -> NDArray[np.uint8]:
    """A picture (H, W, 3), turned about its centre and then moved by so many pixels; the border is reflected."""
    height, width = picture.shape[:2]
    border = max(abs(right), abs(down)) + math.ceil((height + width) / 2 * abs(math.sin(math.radians(degrees)))) + 2
    padded = np.pad(picture, ((border, border), (border, border), (0, 0)), mode="reflect")
    turned = np.asarray(Image.fromarray(padded).rotate(degrees, Image.Resampling.BICUBIC)) if degrees else padded
    return np.ascontiguousarray(turned[border - down :, border - right :][:height, :width])


def moved_samples(
    samples: Sequence[Sample], shift: float, turn: float, seed: int, copies: int = COPIES
) -> list[Sample]:
    """Each sample and its moved copies; the moves are a function of the seed and the sample's place in the order.

    Args:
        shift: largest move along each side, share of the side.
        turn: largest turn, degrees.
    """
    return [
        moved
        for index, sample in enumerate(samples)
        for moved in (sample, *(_moved(sample, shift, turn, [seed, index, copy]) for copy in range(copies)))
    ]


def moved_once(samples: Sequence[Sample], shift: float, turn: float, seed: int) -> list[Sample]:
    """Each sample, moved: for a threshold that holds for parts that are moved so."""
    return [_moved(sample, shift, turn, [seed, index]) for index, sample in enumerate(samples)]


def _moved(sample: Sample, shift: float, turn: float, seeds: list[int]) -> Sample:
    right, down, degrees = np.random.default_rng(seeds).uniform(-1, 1, 3) * (shift, shift, turn)
    return replace(sample, name=f"{sample.name} (moved)", source=Moved(sample.source, right, down, degrees))
