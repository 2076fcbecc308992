"""What a detector finds in one picture, and how held-out normal pictures decide. Needs neither torch nor timm.

Nothing here depends on a picture's own minimum or maximum. A part gets the same score in any picture.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image
from scipy import ndimage
from scipy.special import betaincinv

CONFIDENCE = 0.95  # of `Conformal.bound`
FALSE_ALARM_RATE = 0.01  # share of good parts that may be flagged, unless a person asks for another
HELD_OUT = 0.1  # share of the good pictures that calibrate a method without cross-fitting, the same
SMALLEST_SPAN = 1e-12  # avoids a division by zero where all held-out pictures are alike
OUTLINE = 0.7  # of a region's height; the best of 0.3 to 0.8 on the rendered parts, see benchmarks/outline.py
COUNTED_SIDE = 1024  # pixels
EIGHT_CONNECTED = np.ones((3, 3), bool)  # as AUPRO counts regions


class SizedMap:
    """An anomaly map that is made when it is needed, at the size that is needed: large pictures have large maps.

    Args:
        size: (height, width) of the picture.
        detail: longest side of the model's own map, pixels; a larger map shows no more, a smaller one less.
        make: gives the map at a size, (H, W) float32.
    """

    def __init__(self, size: tuple[int, int], detail: int, make: Callable[[tuple[int, int]], np.ndarray]) -> None:
        self.size, self.detail, self._make = size, detail, make
        self._made: dict[tuple[int, int], np.ndarray] = {}

    def at(self, size: tuple[int, int]) -> np.ndarray:
        """The map at a size, made once."""
        if size not in self._made:
            self._made[size] = self._make(size)
        return self._made[size]


@dataclass(frozen=True, eq=False)
class AnomalyPrediction:
    """The result for one picture. Every score is higher = more anomalous.

    Attributes:
        image_score: maximum of the unsmoothed patch scores, or of `counted_map` where there is a least size; the range
            depends on the method.
        map_source: what `anomaly_map` is, or is made of.
        p_value: share of normal pictures at least as anomalous, in (0, 1]; conformal, from held-out normals.
        threshold: the picture is anomalous where `image_score > threshold`.
        unsure_threshold: above it, a picture that is not anomalous is unsure; None where no such rate was given.
        pixel_threshold: a region is anomalous where `anomaly_map > pixel_threshold`.
        normal_level: median anomaly map value of held-out normal pictures: zero point of heat maps.
        normal_score: median image score of held-out normal pictures: zero point of `score_level`.
        latency_ms: wall time of a separate `predict` call without reading the picture and checking its appearance,
            milliseconds. Enlarging the map is part of it only in an exported file that resizes.
        warnings: reasons to doubt the verdict, as `AppearanceCheck.warnings`; empty where nothing was checked.
        counted_source: what `counted_map` is, or is made of; None = `map_source`.
        counts_at: gives the mask of what counts at a size (height, width); None = the whole picture counts.

    The fields from `p_value` to `normal_score` are None while the detector is not calibrated.
    """

    image_score: float
    map_source: np.ndarray | SizedMap = field(repr=False)
    p_value: float | None = None
    threshold: float | None = None
    pixel_threshold: float | None = None
    normal_level: float | None = None
    normal_score: float | None = None
    latency_ms: float | None = None
    warnings: tuple[str, ...] = ()
    unsure_threshold: float | None = None
    counted_source: np.ndarray | SizedMap | None = field(default=None, repr=False)
    counts_at: Callable[[tuple[int, int]], np.ndarray] | None = field(default=None, repr=False)

    @property
    def anomaly_map(self) -> np.ndarray:
        """(H, W) float32 at the picture's own size, smoothed; same scale as the patch scores. Made when first used."""
        return _whole(self.map_source)

    @property
    def counted_map(self) -> np.ndarray:
        """The map in which regions below the model's least size are lowered; the map itself where there is none."""
        return self.anomaly_map if self.counted_source is None else _whole(self.counted_source)

    @property
    def counts(self) -> np.ndarray | None:
        """(H, W) bool, the pixels of the map that the model looks at; None if it has no region."""
        return None if self.counts_at is None else self.counts_at(self.anomaly_map.shape)

    def at_most(self, side: int) -> "AnomalyPrediction":
        """The prediction with a map of at most `side` pixels per side: maps are smooth, and screens are small.

        The map stays as large as the model's own, where it is known, because a small defect must not vanish.
        """
        lazy = isinstance(self.map_source, SizedMap)
        height, width = self.map_source.size if lazy else self.map_source.shape
        scale = (max(side, self.map_source.detail) if lazy else side) / max(height, width)
        if scale >= 1:
            return self
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        counted = None if self.counted_source is None else _smaller(self.counted_source, size)
        return replace(self, map_source=_smaller(self.map_source, size), counted_source=counted)

    @property
    def is_anomalous(self) -> bool | None:
        """Verdict at the calibrated threshold; None when not calibrated."""
        return None if self.threshold is None else self.image_score > self.threshold

    @property
    def is_unsure(self) -> bool:
        """Whether a person should look again: not anomalous, but above the threshold of a higher false-alarm rate."""
        return self.unsure_threshold is not None and self.unsure_threshold < self.image_score <= self.threshold

    @cached_property
    def mask(self) -> np.ndarray | None:
        """(H, W) bool, the outlined defects; None when not calibrated.

        Regions above the pixel threshold. A map is smooth, so a strong defect raises it far around: of each region the
        pixels count that reach OUTLINE of the way from `normal_level` to the region's maximum. Regions below the
        model's least size are not outlined.
        """
        if self.pixel_threshold is None:
            return None
        counted = self.counted_map
        above = counted > self.pixel_threshold
        if above.any():
            place = bounding_box(above)
            above[place] = _outlined(counted[place], above[place], self.normal_level)
        return above

    @property
    def score_level(self) -> float | None:
        """The image score on a scale that methods share: 0 = a typical good part, above 1 = anomalous.

        None when not calibrated.
        """
        return None if self.threshold is None else self._level(self.image_score)

    @property
    def unsure_level(self) -> float | None:
        """The level above which a picture that is not anomalous is unsure; None where there is no such range."""
        is_range = self.unsure_threshold is not None and self.unsure_threshold < self.threshold
        return self._level(self.unsure_threshold) if is_range else None

    def _level(self, score: float) -> float:
        span = max(self.threshold - self.normal_score, SMALLEST_SPAN)
        return 1 + (score - self.threshold) / span  # anchored at 1, so that rounding changes no verdict

    def numbers(self) -> dict[str, float | int | bool | None]:
        """Everything except the map, ready for JSON; shares are in [0, 1].

        In large pictures defects are counted in a smaller map, as `at_most` makes it.
        """
        mask = self.at_most(COUNTED_SIDE).mask
        return {
            "is_anomalous": self.is_anomalous,
            "is_unsure": self.is_unsure,
            "p_value": self.p_value,
            "image_score": self.image_score,
            "threshold": self.threshold,
            "unsure_threshold": self.unsure_threshold,
            "score_level": self.score_level,
            "defects": None if mask is None else count_regions(mask),
            "defect_share": None if mask is None else float(np.count_nonzero(mask) / mask.size),
            "latency_ms": self.latency_ms,
        }


def _whole(source: np.ndarray | SizedMap) -> np.ndarray:
    """A map at the picture's own size."""
    return source.at(source.size) if isinstance(source, SizedMap) else source


def _smaller(source: np.ndarray | SizedMap, size: tuple[int, int]) -> np.ndarray:
    """A map at a smaller size (height, width)."""
    if isinstance(source, SizedMap):
        return source.at(size)
    return np.asarray(Image.fromarray(source).resize(size[::-1], Image.Resampling.BOX))


def count_regions(mask: np.ndarray) -> int:
    """Number of 8-connected regions of a mask (H, W) bool, as AUPRO counts them."""
    return ndimage.label(mask[bounding_box(mask)], EIGHT_CONNECTED)[1] if mask.any() else 0


def bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a mask (H, W) bool with True in it: a defect is small in a large picture."""
    ends = [np.flatnonzero(mask.any(axis))[[0, -1]] for axis in (1, 0)]
    return tuple(slice(first, last + 1) for first, last in ends)


def _outlined(values: np.ndarray, above: np.ndarray, normal_level: float) -> np.ndarray:
    """The mask `above`, without the pixels that are too low for their region."""
    regions, count = ndimage.label(above, EIGHT_CONNECTED)
    region, value = regions[above], values[above]
    maxima = np.full(count + 1, value.min(), np.float32)
    np.maximum.at(maxima, region, value)
    least = np.minimum(normal_level + OUTLINE * (maxima - normal_level), maxima)
    outlined = above.copy()
    outlined[above] = value >= least[region]
    return outlined


class Conformal:
    """Decisions from the scores of n normal pictures: split conformal prediction (Vovk et al., 2005).

    The pictures are held out, and if the inspected part is normal and drawn like them, its p-value is at most `a` with
    probability at most `a`, for any distribution of the scores. Or they are cross-fitted: each is scored by a head
    that was fitted without it, on fewer pictures than the head that judges. Then this holds as far as both heads give
    a new picture like scores; `benchmarks.promises` measures it. A subclass stores what was learned.

    Attributes:
        image_scores: (n,) ascending image scores of the normal pictures; empty until calibrated.
        map_maxima: (n,) ascending maxima of their anomaly maps, without regions below the model's least size.
        normal_level: median over the pictures of the median anomaly map value.
        false_alarm_rate: share of good parts that may be flagged, as asked for, in (0, 1).
        corrections: how many of the scores belong to false alarms that a person took back. They were chosen because
            they were high. So promises come from the others alone, and each correction moves the threshold up by one
            score. It falls at no rate.
    """

    def _array(self, name: str) -> np.ndarray:
        """An attribute as a float32 array."""
        return getattr(self, name)

    def require_sound(self) -> None:
        """Raises ValueError where decisions would be wrong: a stranger may have written the file."""
        check_rate(float(self.false_alarm_rate))
        scores, maxima = self._array("image_scores"), self._array("map_maxima")
        values = np.concatenate([scores, maxima, [float(self.normal_level)]])
        if scores.shape != maxima.shape or not np.isfinite(values).all():
            raise ValueError("the calibration has scores that are missing or not finite")
        if (np.diff(scores) < 0).any() or (np.diff(maxima) < 0).any():
            raise ValueError("the calibration has scores that are not ascending")
        if not 0 <= int(self.corrections) < len(scores) or int(self.corrections) != float(self.corrections):
            raise ValueError(f"the calibration cannot have {float(self.corrections):g} corrections")

    @property
    def size(self) -> int:
        """Number n of normal pictures without corrections; 0 = not calibrated."""
        return self.total - int(self.corrections)

    @property
    def total(self) -> int:
        """Number of normal pictures with corrections."""
        return len(self._array("image_scores"))

    def guaranteed_rate(self, false_alarm_rate: float | None = None) -> float:
        """The lowest false-alarm rate that n pictures allow on average: the rate asked for, or 1/(n+1).

        Corrections only raise the threshold, at every rate, so it still holds with them.
        """
        asked = round(float(self.false_alarm_rate), 6) if false_alarm_rate is None else false_alarm_rate
        return max(asked, 1 / (self.size + 1))

    def bound(self, false_alarm_rate: float | None = None) -> float:
        """The false-alarm rate that this model exceeds with a probability of 5 % only, over choices of n pictures.

        The share of normal scores above the k-th smallest of n independent ones has the distribution
        Beta(n + 1 - k, k) if they are continuous, else it is lower (Vovk, "Conditional validity of inductive conformal
        predictors", ACML 2012). Its mean is (n + 1 - k) / (n + 1).
        """
        k = _rank(self.guaranteed_rate(false_alarm_rate), self.size)
        return float(betaincinv(self.size + 1 - k, k, CONFIDENCE))

    def is_sufficient(self) -> bool:
        """Whether there are enough held-out pictures for the rate asked for."""
        return self.guaranteed_rate() == round(float(self.false_alarm_rate), 6)

    def p_value(self, image_score: float) -> float:
        """(1 + number of scores of normal pictures >= image_score) / (n + 1), at most 1.

        Corrections count above the line only, so they raise it.
        """
        return min(1.0, (1 + self.count_as_unusual(image_score)) / (self.size + 1))

    def count_as_unusual(self, image_score: float) -> int:
        """Number of normal pictures with at least this image score."""
        return self.total - int(np.searchsorted(self._array("image_scores"), np.float32(image_score)))

    def decide(
        self,
        image_score: float,
        anomaly_map: np.ndarray | SizedMap,
        false_alarm_rate: float | None = None,
        unsure_rate: float | None = None,
        counted_map: np.ndarray | SizedMap | None = None,
    ) -> AnomalyPrediction:
        """The prediction with its verdict, or without one when not calibrated.

        Args:
            false_alarm_rate: share of good parts that may be flagged, instead of the calibrated one. A picture is
                anomalous exactly where its p-value is at most `guaranteed_rate(false_alarm_rate)`.
            unsure_rate: a higher one; a picture that only this one would flag is unsure.
            counted_map: of a model with a least size.

        Raises:
            ValueError: a rate is not in (0, 1).
        """
        for given in (false_alarm_rate, unsure_rate):
            if given is not None:
                check_rate(given)
        if self.total == 0:
            return AnomalyPrediction(image_score, anomaly_map, counted_source=counted_map)
        rate = self.guaranteed_rate(false_alarm_rate)
        return AnomalyPrediction(
            image_score,
            anomaly_map,
            p_value=self.p_value(image_score),
            threshold=self._quantile("image_scores", rate),
            unsure_threshold=None if unsure_rate is None else self._quantile("image_scores", max(rate, unsure_rate)),
            pixel_threshold=self._quantile("map_maxima", rate),
            normal_level=float(self.normal_level),
            normal_score=float(self._array("image_scores")[(self.total - 1) // 2]),
            counted_source=counted_map,
        )

    def describe(self) -> str:
        """The threshold in words, with its limits."""
        if self.total == 0:
            return "not calibrated: scores only, no verdict"
        rate, asked = self.guaranteed_rate(), float(self.false_alarm_rate)
        pictures = f"{self.size} normal picture{'s' if self.size > 1 else ''}"
        often = f"flags {100 * rate:.2g} % of good parts on average, hardly ever more than {100 * self.bound():.2g} %"
        words = f"{often} ({100 * CONFIDENCE:.0f} % confidence); calibrated on {pictures}"
        if count := int(self.corrections):
            words += f", and raised for {count} false alarm{'s' if count > 1 else ''} taken back"
        if not self.is_sufficient():
            words += f" (too few for the {100 * asked:.2g} % asked for, which needs {pictures_needed(asked)})"
        return words

    def _quantile(self, name: str, rate: float) -> float:
        return float(self._array(name)[_rank(rate, self.size) + int(self.corrections) - 1])


def _rank(rate: float, n: int) -> int:
    """k: a new normal exceeds the k-th smallest of n with probability (n + 1 - k) / (n + 1) at most."""
    k = math.ceil((n + 1) * (1 - rate) - 1e-9)
    return min(max(k, 1), n)


@dataclass(frozen=True, eq=False)
class HeldOut(Conformal):
    """The scores of held-out normal pictures as numpy arrays, as an exported file contains them."""

    image_scores: np.ndarray
    map_maxima: np.ndarray
    normal_level: float
    false_alarm_rate: float
    corrections: float = 0

    @classmethod
    def from_lists(cls, values: dict[str, ArrayLike]) -> "HeldOut":
        """The fields by name, as JSON stores them."""
        arrays = {name: np.asarray(values[name], np.float32) for name in ("image_scores", "map_maxima")}
        numbers = {name: float(values[name]) for name in ("normal_level", "false_alarm_rate")}
        return cls(**arrays, **numbers, corrections=float(values.get("corrections", 0)))


def threshold_in_words(calibration: dict) -> str:
    """What the card of a model states of its threshold.

    Args:
        calibration: of its report: `in_words`, and `later_corrections`, how many corrections came after the test.
    """
    words, later = f"It {calibration['in_words']}.", calibration.get("later_corrections", 0)
    if not later:
        return words
    return (
        f"{words} The last {later} came after the test. The threshold was lower then, so the model now flags at most "
        "as many of the test pictures as this card states, good and defective."
    )


def pictures_needed(false_alarm_rate: float) -> int:
    """Held-out normal pictures needed to guarantee a false-alarm rate: the least n with 1/(n+1) <= rate."""
    return math.ceil(round(1 / false_alarm_rate, 3)) - 1


def number_held_out(pictures: int, share: float = HELD_OUT) -> int:
    """How many of the good pictures calibrate without cross-fitting: at least one, and one is left to learn from."""
    return min(max(round(share * pictures), 1), pictures - 1)


def check_rate(false_alarm_rate: float) -> None:
    """Raises ValueError where the false-alarm rate is not in (0, 1)."""
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"the false-alarm rate must be between 0 and 1, not {false_alarm_rate}")
