"""Patch scores -> anomaly map, image score, p-value and verdict; calibration from held-out normal pictures.

Nothing here looks at a picture's own minimum or maximum: the same part gets the same score whatever lies beside it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubmodels.regions import count_regions

SMALLEST_SPAN = 1e-12  # keeps a degenerate calibration (all held-out pictures alike) from dividing by zero
SMOOTHING_SIGMA = 4.0  # pixels of the model input; both papers' codes
SMOOTHING_RADIUS = 16  # truncated at 4 sigma: 33 taps


@dataclass(frozen=True, eq=False)
class AnomalyPrediction:
    """What a detector says about one picture. Every score is higher = more anomalous.

    Attributes:
        image_score: maximum of the unsmoothed patch scores; unbounded for SimpleNet, in (0, 1) for GLASS.
        anomaly_map: (H, W) float32 at the picture's own size, smoothed; same scale as the patch scores.
        p_value: share of normal pictures at least as anomalous, in (0, 1]; conformal, from held-out normals.
        threshold: the picture is anomalous where `image_score > threshold`.
        pixel_threshold: a pixel is anomalous where `anomaly_map > pixel_threshold`.
        normal_level: median anomaly map value of held-out normal pictures: zero point of heat maps.
        normal_score: median image score of held-out normal pictures: zero point of `score_level`.
        latency_ms: wall time of a separate `predict` call without reading the picture, milliseconds.

    The fields from `p_value` to `normal_score` are None as long as the detector is not calibrated.
    """

    image_score: float
    anomaly_map: np.ndarray
    p_value: float | None = None
    threshold: float | None = None
    pixel_threshold: float | None = None
    normal_level: float | None = None
    normal_score: float | None = None
    latency_ms: float | None = None

    @property
    def is_anomalous(self) -> bool | None:
        """Verdict at the calibrated threshold; None when not calibrated."""
        return None if self.threshold is None else self.image_score > self.threshold

    @property
    def mask(self) -> np.ndarray | None:
        """(H, W) bool, the pixels above the pixel threshold; None when not calibrated."""
        return None if self.pixel_threshold is None else self.anomaly_map > self.pixel_threshold

    @property
    def score_level(self) -> float | None:
        """Where the image score stands on a scale that methods share: 0 = a typical good part, above 1 = anomalous.

        None when not calibrated.
        """
        if self.threshold is None:
            return None
        span = max(self.threshold - self.normal_score, SMALLEST_SPAN)
        return 1 + (self.image_score - self.threshold) / span  # anchored at 1, so that rounding moves no verdict

    def numbers(self) -> dict[str, float | int | bool | None]:
        """All that can be said without the map, ready for JSON; shares lie in [0, 1]."""
        mask = self.mask
        return {
            "is_anomalous": self.is_anomalous,
            "p_value": self.p_value,
            "image_score": self.image_score,
            "threshold": self.threshold,
            "score_level": self.score_level,
            "defects": None if mask is None else count_regions(mask),
            "defect_share": None if mask is None else float(np.count_nonzero(mask) / mask.size),
            "latency_ms": self.latency_ms,
        }


def smooth_map(patch_scores: Tensor, image_size: int) -> Tensor:
    """Patch scores (B, h, w) -> anomaly maps (B, S, S): bilinear upsampling, then Gaussian with sigma 4.

    Both steps are linear and separable, so together they are one matrix per axis: K s K^T.
    """
    rows = _smoothing_matrix(patch_scores.shape[-2], image_size).to(patch_scores)
    columns = _smoothing_matrix(patch_scores.shape[-1], image_size).to(patch_scores)
    return rows @ patch_scores @ columns.T


@lru_cache(maxsize=16)
def _smoothing_matrix(grid: int, size: int) -> Tensor:
    """(size, grid) float64: bilinear interpolation, then the Gaussian with mirrored borders (scipy 'reflect')."""
    units = torch.eye(grid, dtype=torch.float64)[:, None]
    bilinear = F.interpolate(units, size, mode="linear", align_corners=False)[:, 0].T
    taps = torch.arange(-SMOOTHING_RADIUS, SMOOTHING_RADIUS + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (taps / SMOOTHING_SIGMA) ** 2)
    positions = (torch.arange(size)[:, None] + taps.long()) % (2 * size)
    mirrored = torch.where(positions < size, positions, 2 * size - 1 - positions)
    gaussian = torch.zeros(size, size, dtype=torch.float64)
    gaussian.scatter_add_(1, mirrored, (weights / weights.sum()).expand(size, -1))
    return gaussian @ bilinear


class Calibration(nn.Module):
    """What held-out normal pictures taught about the scores; travels with the weights as plain tensors.

    Split conformal prediction (Vovk et al. 2005): if the inspected part is normal and drawn like the held-out ones,
    its p-value is at most `a` with probability at most `a`, whatever the distribution of the scores.

    Attributes:
        image_scores: (n,) ascending image scores of the held-out normal pictures; empty until calibrated.
        map_maxima: (n,) ascending maxima of their anomaly maps.
        normal_level: () median over all their pixels.
        false_alarm_rate: () share of good parts that may be flagged, as asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("image_scores", torch.empty(0))
        self.register_buffer("map_maxima", torch.empty(0))
        self.register_buffer("normal_level", torch.tensor(math.nan))
        self.register_buffer("false_alarm_rate", torch.tensor(math.nan))

    def fit(self, predictions: Iterable[AnomalyPrediction], false_alarm_rate: float = 0.01) -> None:
        """Learns from the predictions of held-out normal pictures; keeps three numbers of each, not its map.

        Raises:
            ValueError: no predictions, a score that is not finite, or a rate outside (0, 1).
        """
        _check_rate(false_alarm_rate)
        kept = [(p.image_score, p.anomaly_map.max(), np.median(p.anomaly_map)) for p in predictions]
        scores, maxima, levels = np.array(kept, dtype=np.float32).reshape(-1, 3).T
        if len(scores) == 0 or not np.isfinite(scores).all():
            raise ValueError("calibration needs at least one held-out normal picture, and finite scores")
        self.image_scores = torch.from_numpy(np.sort(scores))
        self.map_maxima = torch.from_numpy(np.sort(maxima))
        self.normal_level = torch.tensor(float(np.median(levels)))  # pictures weigh the same, whatever their size
        self.false_alarm_rate = torch.tensor(float(false_alarm_rate))

    @property
    def size(self) -> int:
        """Number n of held-out normal pictures; 0 = not calibrated."""
        return len(self.image_scores)

    def guaranteed_rate(self, false_alarm_rate: float | None = None) -> float:
        """False-alarm rate that the n held-out pictures can vouch for: the one asked for, but never under 1/(n+1)."""
        asked = round(self.false_alarm_rate.item(), 6) if false_alarm_rate is None else false_alarm_rate
        return max(asked, 1 / (self.size + 1))

    def is_sufficient(self) -> bool:
        """Whether there are enough held-out pictures for the rate asked for."""
        return self.guaranteed_rate() == round(self.false_alarm_rate.item(), 6)

    def p_value(self, image_score: float) -> float:
        """(1 + number of held-out scores >= image_score) / (n + 1)."""
        return (1 + self.count_as_unusual(image_score)) / (self.size + 1)

    def count_as_unusual(self, image_score: float) -> int:
        """Number of held-out normal pictures with at least this image score."""
        below = torch.searchsorted(self.image_scores.cpu(), torch.tensor(image_score, dtype=torch.float32)).item()
        return self.size - below

    def apply(
        self, image_score: float, anomaly_map: np.ndarray, false_alarm_rate: float | None = None
    ) -> AnomalyPrediction:
        """The prediction with its verdict, or without one where not calibrated.

        Args:
            false_alarm_rate: share of good parts that may be flagged, instead of the one calibrated for. A picture is
                anomalous exactly where its p-value is at most `guaranteed_rate(false_alarm_rate)`.

        Raises:
            ValueError: the rate lies outside (0, 1).
        """
        if false_alarm_rate is not None:
            _check_rate(false_alarm_rate)
        if self.size == 0:
            return AnomalyPrediction(image_score, anomaly_map)
        rate = self.guaranteed_rate(false_alarm_rate)
        return AnomalyPrediction(
            image_score,
            anomaly_map,
            p_value=self.p_value(image_score),
            threshold=self._quantile(self.image_scores, rate),
            pixel_threshold=self._quantile(self.map_maxima, rate),
            normal_level=self.normal_level.item(),
            normal_score=self.image_scores.median().item(),
        )

    def describe(self) -> str:
        """The threshold in words, with what it does not promise."""
        if self.size == 0:
            return "not calibrated: scores only, no verdict"
        rate, asked = self.guaranteed_rate(), self.false_alarm_rate.item()
        words = f"flags at most {100 * rate:.2g} % of good parts; calibrated on {self.size} held-out normal pictures"
        if not self.is_sufficient():
            words += f" (too few for the {100 * asked:.2g} % asked for, which needs {pictures_needed(asked)})"
        return words

    def _quantile(self, ascending: Tensor, rate: float) -> float:
        # the k-th smallest of n: a new normal exceeds it with probability (n + 1 - k) / (n + 1) at most
        k = math.ceil((self.size + 1) * (1 - rate) - 1e-9)
        return ascending[min(max(k, 1), self.size) - 1].item()

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        for name in ("image_scores", "map_maxima"):  # their length is the number of held-out pictures
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(saved))
        super()._load_from_state_dict(state_dict, prefix, *args)


def pictures_needed(false_alarm_rate: float) -> int:
    """Number of held-out normal pictures that can vouch for a false-alarm rate: the least n with 1/(n+1) <= rate."""
    return math.ceil(round(1 / false_alarm_rate, 3)) - 1


def _check_rate(false_alarm_rate: float) -> None:
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"the false-alarm rate must lie between 0 and 1, not {false_alarm_rate}")
