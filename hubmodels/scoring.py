"""Patch scores -> anomaly map; calibration with held-out normal pictures."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubmodels.prediction import FALSE_ALARM_RATE, AnomalyPrediction, Conformal, check_rate
from hubmodels.sizes import Size, as_pair

SMOOTHING_SIGMA = 4.0  # pixels of the model input; both papers' codes
SMOOTHING_RADIUS = 16  # truncated at 4 sigma: 33 taps


def smooth_map(patch_scores: Tensor, image_size: Size) -> Tensor:
    """Patch scores (B, h, w) -> anomaly maps (B, *image_size): bilinear upsampling, then Gaussian with sigma 4.

    Both steps are linear and separable, so together they are one matrix per axis: K s K^T.
    """
    height, width = as_pair(image_size)
    rows = _smoothing_matrix(patch_scores.shape[-2], height).to(patch_scores)
    columns = _smoothing_matrix(patch_scores.shape[-1], width).to(patch_scores)
    return rows @ patch_scores @ columns.T


@lru_cache(maxsize=16)
def _smoothing_matrix(grid: int, size: int) -> Tensor:
    """(size, grid) float64: bilinear interpolation, then the Gaussian with mirrored borders (scipy 'reflect')."""
    parts = torch.eye(grid, dtype=torch.float64)[:, None].split(64)  # less memory for large sizes
    return torch.cat([_smoothed(units, size) for units in parts], dim=1)


def _smoothed(units: Tensor, size: int) -> Tensor:
    """Some unit vectors of the grid (n, 1, grid) -> their columns of the matrix (size, n)."""
    bilinear = F.interpolate(units, size, mode="linear", align_corners=False)[:, 0].T.contiguous()
    taps = torch.arange(-SMOOTHING_RADIUS, SMOOTHING_RADIUS + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (taps / SMOOTHING_SIGMA) ** 2)
    positions = (torch.arange(size) + taps.long()[:, None]) % (2 * size)
    mirrored = torch.where(positions < size, positions, 2 * size - 1 - positions)  # (taps, size)
    smoothed = torch.zeros_like(bilinear)
    for weight, rows in zip((weights / weights.sum()).tolist(), mirrored, strict=True):
        smoothed.add_(bilinear[rows], alpha=weight)
    return smoothed


class SinglePrecision(nn.Module):
    """A module whose buffers stay float32 under `half`, `double` or `to(dtype)`; they still follow to another device.

    A threshold in bfloat16 would change verdicts.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == torch.float32 else tensor.to(result.device, torch.float32)

        return super()._apply(moved, recurse)


class Calibration(SinglePrecision, Conformal):
    """What was learned from held-out normal pictures, as buffers that are saved with the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("image_scores", torch.empty(0))
        self.register_buffer("map_maxima", torch.empty(0))
        self.register_buffer("normal_level", torch.tensor(math.nan, dtype=torch.float32))
        self.register_buffer("false_alarm_rate", torch.tensor(math.nan, dtype=torch.float32))
        self.register_buffer("corrections", torch.tensor(0, dtype=torch.float32))
        size_by_data(self, ["image_scores", "map_maxima"])
        self.register_load_state_dict_pre_hook(_without_corrections)

    def _array(self, name: str) -> np.ndarray:
        return getattr(self, name).cpu().numpy()

    def fit(self, predictions: Iterable[AnomalyPrediction], false_alarm_rate: float = FALSE_ALARM_RATE) -> None:
        """Learns from the predictions of held-out normal pictures; keeps three numbers of each, not its map.

        Raises:
            ValueError: no predictions, a score that is not finite, or a rate outside (0, 1).
        """
        check_rate(false_alarm_rate)
        kept = [(p.image_score, p.counted_map.max(), np.median(p.anomaly_map)) for p in predictions]
        scores, maxima, levels = np.array(kept, dtype=np.float32).reshape(-1, 3).T
        if len(scores) == 0 or not np.isfinite(scores).all():
            raise ValueError("calibration needs at least one held-out normal picture, and finite scores")
        self.image_scores = torch.from_numpy(np.sort(scores))
        self.map_maxima = torch.from_numpy(np.sort(maxima))
        # small and large pictures have the same weight
        self.normal_level = torch.tensor(np.median(levels), dtype=torch.float32)
        self.false_alarm_rate = torch.tensor(false_alarm_rate, dtype=torch.float32)
        self.corrections = torch.tensor(0, dtype=torch.float32)

    def take_back(self, prediction: AnomalyPrediction) -> None:
        """Counts a false alarm as normal: it was flagged, and a person says that the part is good.

        At every rate the threshold can only rise, so promises still hold; see `Conformal.corrections`.

        Raises:
            ValueError: not calibrated yet.
        """
        if not self.total:
            raise ValueError("the detector is not calibrated: it has no false alarms")
        self._add(prediction.image_score, prediction.counted_map.max())
        self.corrections += 1

    def undo(self, prediction: AnomalyPrediction) -> None:
        """Undoes `take_back` of the same prediction.

        Raises:
            ValueError: it was not taken back.
        """
        kept = {}
        for name, value in (("image_scores", prediction.image_score), ("map_maxima", prediction.counted_map.max())):
            places = np.flatnonzero(self._array(name) == np.float32(value))
            if not self.corrections or not len(places) or value <= self._array(name)[0]:
                raise ValueError("this false alarm was not taken back")
            kept[name] = torch.from_numpy(np.delete(self._array(name), places[-1]))
        for name, values in kept.items():
            setattr(self, name, values)
        self.corrections -= 1

    def _add(self, score: float, maximum: float) -> None:
        for name, value in (("image_scores", score), ("map_maxima", maximum)):
            values = np.append(self._array(name), np.float32(value))
            setattr(self, name, torch.from_numpy(np.sort(values)))


def _without_corrections(module: nn.Module, state_dict: dict, prefix: str, *_: object) -> None:
    """A file need not state that there are none."""
    state_dict.setdefault(f"{prefix}corrections", torch.zeros_like(module.corrections))


def size_by_data(module: nn.Module, names: Sequence[str], least: int = 0) -> None:
    """Lets buffers take the length that a file has: how many there are depends on the training pictures.

    The number of dimensions and all other sizes still have to fit, so loading remains strict.

    Args:
        least: a shorter one does not fit.
    """
    module.register_load_state_dict_pre_hook(partial(_take_saved_lengths, names=tuple(names), least=least))


def _take_saved_lengths(
    module: nn.Module, state_dict: dict, prefix: str, *_: object, names: tuple[str, ...], least: int
) -> None:
    for name in names:
        saved, own = state_dict.get(prefix + name), getattr(module, name)
        alike = saved is not None and saved.ndim == own.ndim and saved.shape[1:] == own.shape[1:]
        if alike and len(saved) >= least:
            setattr(module, name, own.new_empty(saved.shape))
