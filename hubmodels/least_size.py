"""Regions that are too small to count: they are lowered in the anomaly map, at every level, so without a threshold.

A map shows even a point as a spot, and a strong one has more pixels above a threshold than a weak one. So the size of
a region is that of its outline, as `AnomalyPrediction.mask` draws it: it depends on the contrast very little. Related:
Vincent, "Grayscale area openings and closings", 1993, and attribute filters. Needs neither torch nor timm.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hubmodels.prediction import OUTLINE
from hubmodels.sizes import Size, as_pair

MOST = 0.1  # of a picture
PATCHES = 4  # area from which on a least size works, see benchmarks/least_size.py
NEIGHBOURS = ((0, 1), (1, -1), (1, 0), (1, 1))  # (down, right); the other four give the same pairs
# From squares of 0 to 369 pixels of the map on good pictures of capsules, see benchmarks/square_sizes.py.
SPOT, OUTLINED = 5, 0.6  # patches that a point covers; share of a defect's area that is outlined besides


@dataclass(frozen=True)
class LeastSize:
    """The least area of a region that counts, in pixels of the pictures that a model was trained with.

    Attributes:
        pixels: of such a picture.
        picture_size: (height, width) of these pictures.

    Raises:
        ValueError: the area is not positive, or so large that hardly anything would count.
    """

    pixels: float
    picture_size: tuple[int, int]

    def __post_init__(self) -> None:
        height, width = self.picture_size
        if not 0 < self.pixels <= MOST * height * width:
            raise ValueError(
                f"a least size of {self.pixels:g} pixels is not possible: give more than 0, and at most "
                f"{100 * MOST:g} % of a picture of {height} x {width} pixels"
            )

    @property
    def in_words(self) -> str:
        """What it does, as a part of a sentence."""
        height, width = self.picture_size
        return f"regions of fewer than {self.pixels:g} pixels do not count, in pictures of {height} x {width} pixels"

    def in_map(self, resize: Size, stride: int) -> int:
        """Pixels that the outline of such a defect has in a map.

        Args:
            resize: what pictures are resized to.
            stride: pixels of the map from one patch to the next.
        """
        scaled = self.pixels * math.prod(as_pair(resize)) / math.prod(self.picture_size)
        return math.ceil(SPOT * stride**2 + OUTLINED * scaled)


def open_map(anomaly_map: NDArray, pixels: int, outline: float = OUTLINE) -> NDArray:
    """A map (H, W) in which each region is lowered to the level from which on it counts.

    A region above a level is 8-connected, as outlined defects are. It counts if so many of its pixels are not below
    the outline of its peak, or if it contains a region that counts. Peaks that do not count alone become one peak, as
    high as the pass between them. So a hot spot hides no scratch. The outline is a share of the way from the map's
    median to the peak. With a share of 0 all pixels above the level count. A region that never counts is lowered until
    it is part of one that does.

    The steepest way up from a pixel ends at its peak. The pixels of one peak above a level are connected. Two peaks
    are connected below the highest pass between them. So it is enough to join peaks, from the highest pass down.
    """
    values, shape, pixels = anomaly_map.ravel(), anomaly_map.shape, min(pixels, anomaly_map.size)
    if pixels <= 1:
        return anomaly_map
    rising = np.argsort(values)
    peaks = _peaks(rising, shape)
    rule = _Rule(pixels, values[rising[rising.size // 2]], outline)
    regions = [_Region([peak], own) for peak, own in enumerate(_highest(values, rising, peaks, pixels))]
    caps = np.full(len(regions), values[rising[0]])
    for way in _passes(anomaly_map, peaks.reshape(shape)):
        one, other = regions[way.first].root(), regions[way.second].root()
        if one is not other:
            _join(one, other, way.level, rule, caps)
    regions[0].root().lower(caps, rule, -math.inf)
    return np.minimum(anomaly_map, caps[peaks].reshape(shape))


class _Rule(NamedTuple):
    """When a region counts."""

    pixels: int
    base: float
    outline: float

    def counts(self, highest: NDArray, top: float, level: float) -> bool:
        """Whether a region does: its highest values, descending, the height of its peak, and a level."""
        least = self.base + self.outline * (top - self.base) if self.outline else -math.inf
        return len(highest) == self.pixels and highest[-1] >= max(level, least)


class _Pass(NamedTuple):
    """The highest place where two peaks meet."""

    level: float
    first: int
    second: int


class _Region:
    """Peaks that are connected at a level.

    Attributes:
        peaks: those whose level is not known yet.
        highest: values of its pixels, descending, at most as many as are needed.
        top: height of its peak, or of the lowest pass between peaks that do not count alone.
        counts: whether it does, at the lowest level so far.
    """

    def __init__(self, peaks: list[int], highest: NDArray) -> None:
        self.peaks, self.highest, self.top, self.counts = peaks, highest, float(highest[0]), False
        self.part_of: _Region | None = None

    def root(self) -> "_Region":
        """The region that it has become a part of."""
        found = self
        while found.part_of is not None:
            found = found.part_of
        if found is not self:
            self.part_of = found
        return found

    def lower(self, caps: NDArray, rule: _Rule, level: float, most: float = math.inf) -> None:
        """Sets the caps of its peaks, if it counts at the level."""
        if self.counts or rule.counts(self.highest, self.top, level):
            caps[self.peaks] = most if self.counts else min(most, self.highest[-1])
            self.peaks, self.counts = [], True


def _join(one: _Region, other: _Region, level: float, rule: _Rule, caps: NDArray) -> None:
    """Makes one region of two that meet at a level."""
    for region in (one, other):
        region.lower(caps, rule, level)
    one.peaks += other.peaks
    one.counts |= other.counts
    one.top = level
    if not one.counts:
        one.highest = -np.sort(-np.concatenate([one.highest, other.highest]))[: rule.pixels]
    other.part_of = one
    one.lower(caps, rule, level, most=level)


def _peaks(rising: NDArray, shape: tuple[int, ...]) -> NDArray:
    """The number of the peak of each pixel, from the pixels in the order of their values."""
    rank = np.empty(rising.size, np.int32)
    rank[rising] = np.arange(rising.size, dtype=np.int32)
    higher = rising[ndimage.maximum_filter(rank.reshape(shape), 3).ravel()]
    while not np.array_equal(higher, further := higher[higher]):
        higher = further
    number = np.cumsum(higher == np.arange(higher.size), dtype=np.int32) - 1
    return number[higher]


def _highest(values: NDArray, rising: NDArray, peaks: NDArray, most: int) -> list[NDArray]:
    """For each peak the values of its pixels, descending, at most so many."""
    falling = rising[::-1]
    few_bits = peaks[falling].astype(np.min_scalar_type(peaks.max()))  # sorted faster
    by_peak = falling[np.argsort(few_bits, kind="stable")]
    ends = np.cumsum(np.bincount(peaks))
    return [values[by_peak[start : min(start + most, end)]] for start, end in zip([0, *ends], ends, strict=False)]


def _passes(anomaly_map: NDArray, peaks: NDArray) -> list[_Pass]:
    """All passes, from the highest down."""
    (height, width), found = peaks.shape, []
    for down, right in NEIGHBOURS:
        here = slice(0, height - down), slice(max(0, -right), width - max(0, right))
        there = slice(down, height), slice(max(0, right), width - max(0, -right))
        meet = peaks[here] != peaks[there]
        pairs = np.sort([peaks[here][meet], peaks[there][meet]], axis=0)
        found.append((np.minimum(anomaly_map[here][meet], anomaly_map[there][meet]), *pairs))
    levels, first, second = map(np.concatenate, zip(*found, strict=True))
    falling = np.argsort(-levels, kind="stable")
    highest = np.unique((first.astype(np.int64) * peaks.size + second)[falling], return_index=True)[1]
    chosen = falling[np.sort(highest)]
    return list(map(_Pass, levels[chosen].tolist(), first[chosen].tolist(), second[chosen].tolist()))
