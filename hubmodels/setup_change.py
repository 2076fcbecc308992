"""Whether several pictures in a row are unusual in the same way: another camera, light or position, not defects.

A detector compares every position with good parts. Where the camera moved, good parts are called defective, one after
the other. Defects differ from part to part; a moved camera changes all pictures alike. Needs neither torch nor timm.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from hubmodels.prediction import AnomalyPrediction, Conformal

FEWEST, WINDOW = 8, 24  # pictures in a row
LARGEST_CHANCE = 0.001  # that good parts give so many false alarms
GRID = 32  # cells along each side of a map
CELL = 8  # pixels of a cell's side that its mean is taken of
SHARE_BELOW = 0.25  # a level that three of four pictures exceed
EVERYWHERE = 0.03  # mean of that level: above what batches of defective sample parts have, see `benchmarks.position`
SAME_PLACE = 1  # its maximum: the threshold of a pixel


def setup_changed(
    predictions: Sequence[AnomalyPrediction], calibration: Conformal, false_alarm_rate: float | None = None
) -> bool:
    """Whether the last pictures suggest that the camera, the light or the part's position changed.

    It is true where the last 8 to 24 predictions meet both conditions:

    1. So many are anomalous that as many false alarms have a probability of at most 0.1 %. The number of false alarms
       has a beta-binomial distribution, because the threshold comes from finitely many held-out pictures.
    2. The anomaly maps agree. They are put on one scale, 0 = `normal_level` and 1 = `pixel_threshold`, and averaged
       over 32 x 32 cells. Each cell then has a level that three of four pictures exceed. Either the mean of these
       levels is above 0.03: all pictures are unusual everywhere. Or their maximum is above 1: all pictures are
       defective at the same place.

    A batch of parts with the same defect at the same place meets them, too.

    Args:
        predictions: of one detector for one kind of part, in the order of the pictures; at one false-alarm rate.
        calibration: of that detector.
        false_alarm_rate: the one that the predictions were decided at; None = the calibrated one.
    """
    last = [p for p in predictions[-WINDOW:] if p.is_anomalous is not None]
    if len(last) < FEWEST:
        return False
    flagged = sum(p.is_anomalous for p in last)
    return _chance(flagged, len(last), calibration, false_alarm_rate) <= LARGEST_CHANCE and _maps_agree(last)


def _chance(flagged: int, pictures: int, calibration: Conformal, false_alarm_rate: float | None) -> float:
    """Probability of at least so many false alarms among good parts that are drawn like the held-out ones.

    With the k-th smallest of n scores as threshold, the share of good parts above it is Beta(n + 1 - k, k).
    """
    from scipy.stats import betabinom  # takes a second, and most visitors do not need it

    ranks = calibration.size + 1
    above = round(calibration.guaranteed_rate(false_alarm_rate) * ranks)  # n + 1 - k
    return float(betabinom.sf(flagged - 1, pictures, above, ranks - above))


def _maps_agree(predictions: Sequence[AnomalyPrediction]) -> bool:
    exceeded = np.quantile([_levels(p) for p in predictions], SHARE_BELOW, axis=0)  # (GRID, GRID)
    return bool(exceeded.mean() > EVERYWHERE or exceeded.max() > SAME_PLACE)


def _levels(prediction: AnomalyPrediction) -> np.ndarray:
    """The anomaly map averaged over (GRID, GRID) cells; 0 = the level of good parts, 1 = the pixel threshold."""
    cells = Image.fromarray(prediction.anomaly_map).resize((GRID, GRID), Image.Resampling.BOX)
    span = max(prediction.pixel_threshold - prediction.normal_level, np.finfo(np.float32).tiny)
    return (np.asarray(cells) - prediction.normal_level) / span
