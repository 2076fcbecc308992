"""AUROC, average precision and F1-max over images; the same and AUPRO over pooled pixels: exact, in bounded memory.

Image metrics are those of scikit-learn. Pixel metrics are streamed, because scikit-learn would need all pixels of a
test set in memory several times.

Pixel metrics follow from two counts at the score s of each positive (positive = defect pixel): the
negatives >= s and the negatives > s. Each positive adds the area to the right of its own step to the ROC or PRO curve,
so AUROC and AUPRO (Bergmann et al., IJCV 2021, section 4) are weighted means over positives, and so is step-wise
average precision. Negatives, nearly all of the pixels, are therefore only ever sorted in chunks and counted.

Scores are higher = more anomalous, labels 0 = normal and 1 = anomalous, all metrics are fractions in [0, 1].
A metric of one class alone does not exist: every function raises ValueError and leaves the decision to the caller.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

CHUNK_SIZE = 128 * 2**20  # float32 negatives sorted together: at most 512 MiB
BLOCK_SIZE = 2**16  # positives counted together: the part of a chunk they fall into stays in the CPU's cache


def image_metrics(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """`image_auroc`, `image_ap` and `image_f1_max` of image scores (N,) and labels (N,) in {0, 1}.

    Ties count one half in AUROC. AP is step-wise. F1-max is the largest F1 over all thresholds on these labels: an
    upper bound for the F1 of a calibrated threshold. Raises ValueError if a class is missing, a score is not finite,
    or the shapes differ.
    """
    scores, labels = _checked_images(scores, labels)
    if labels.all() or not labels.any():
        raise ValueError(f"undefined: {labels.sum()} anomalous and {(~labels).sum()} normal scores, both are needed")
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return {
        "image_auroc": float(roc_auc_score(labels, scores)),
        "image_ap": float(average_precision_score(labels, scores)),
        "image_f1_max": float(f1.max()),
    }


def false_alarm_rate(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Share of the normal images with score > threshold; scores (N,), labels (N,); ValueError without a normal one."""
    scores, labels = _checked_images(scores, labels)
    return _share_above(scores[~labels], threshold, "normal")


def recall_at_threshold(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Share of the anomalous images with score > threshold; ValueError without an anomalous one."""
    scores, labels = _checked_images(scores, labels)
    return _share_above(scores[labels], threshold, "anomalous")


class PixelMetrics:
    """Streams pairs of anomaly map and ground-truth mask; pixel AUROC, AP, F1-max and AUPRO over all pixels pooled.

    Keeps 4 bytes per normal pixel and 8 per defect pixel: 400 pictures of 1024x1024 need about 2 GB.
    """

    def __init__(self) -> None:
        self._pictures = 0
        self._normal = _SortedChunks()
        self._scores = [np.empty(0, np.float32)]  # of defect pixels
        self._areas = [np.empty(0, np.int32)]  # pixels in the region that each of them belongs to

    def update(self, anomaly_map: np.ndarray, gt_mask: np.ndarray) -> None:
        """Adds one picture: anomaly map (H, W) float32, mask (H, W) of 0 and 1; sizes may differ between pictures.

        Good pictures come with an empty mask: their pixels count as normal too. A map of another type is rounded to
        float32. Raises ValueError, and leaves the state as it was, if shapes differ, the map is not finite or the
        mask contains other values than 0 and 1.
        """
        anomaly_map, gt_mask = _checked_picture(anomaly_map, gt_mask, self._pictures)
        self._pictures += 1
        self._normal.add(anomaly_map[~gt_mask])
        if gt_mask.any():
            self._scores.append(anomaly_map[gt_mask])
            self._areas.append(_region_areas(gt_mask))

    def compute(self, fpr_limit: float = 0.3) -> dict[str, float]:
        """`pixel_auroc`, `pixel_ap`, `pixel_f1_max`, and `aupro` for false positive rates in [0, fpr_limit].

        AUPRO: per-region overlap averaged over the 8-connected regions of all masks, each region with the same weight,
        against the false positive rate over the normal pixels of all pictures; linear between thresholds, no dilation,
        divided by fpr_limit. More pictures may be added afterwards.
        Raises ValueError without defect pixels, without normal pixels, or for fpr_limit outside (0, 1].
        """
        if not 0 < fpr_limit <= 1:
            raise ValueError(f"fpr_limit is {fpr_limit}: it must lie in (0, 1]")
        self._sort_defects()
        scores, areas = self._scores[0], self._areas[0]
        values = _curve_metrics(scores, areas, self._normal.arrays(), fpr_limit)
        return dict(zip(("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"), values, strict=True))

    def _sort_defects(self) -> None:
        """Replaces the lists by one sorted array each, so that they are not stored twice."""
        self._scores, self._areas = [np.concatenate(self._scores)], [np.concatenate(self._areas)]
        order = np.argsort(self._scores[0])
        self._scores, self._areas = [self._scores[0][order]], [self._areas[0][order]]


class _SortedChunks:
    """Any number of float32 values, written once into buffers of `CHUNK_SIZE` that are sorted in place."""

    def __init__(self) -> None:
        self._full: list[np.ndarray] = []
        self._buffer, self._filled = np.empty(CHUNK_SIZE, np.float32), 0

    def add(self, values: np.ndarray) -> None:
        while values.size:
            taken = min(values.size, self._buffer.size - self._filled)
            self._buffer[self._filled : self._filled + taken] = values[:taken]
            self._filled, values = self._filled + taken, values[taken:]
            if self._filled == self._buffer.size:
                self._buffer.sort()
                self._full.append(self._buffer)
                self._buffer, self._filled = np.empty(CHUNK_SIZE, np.float32), 0

    def arrays(self) -> list[np.ndarray]:
        self._buffer[: self._filled].sort()
        return [*self._full, self._buffer[: self._filled]]


def _curve_metrics(
    positives: np.ndarray, areas: np.ndarray, negatives: list[np.ndarray], fpr_limit: float
) -> tuple[float, float, float, float]:
    """AUROC, AP, F1-max and AUPRO from sorted positives (P,), the area of each one's region (P,), sorted negatives.

    F1 = 2 TP / (TP + FP + P) is largest at the score of a positive: lowering the threshold from there to any value
    above the next positive's score can only add false positives.
    """
    n_negatives = sum(chunk.size for chunk in negatives)
    if not positives.size or not n_negatives:
        raise ValueError(f"undefined: {positives.size} anomalous and {n_negatives} normal scores, both are needed")
    auroc = ap = f1_max = pro = regions = 0.0
    for start in range(0, positives.size, BLOCK_SIZE):
        scores, weights = positives[start : start + BLOCK_SIZE], 1 / areas[start : start + BLOCK_SIZE]
        above, at_least = _count_negatives(scores, negatives)
        found = positives.size - np.searchsorted(positives, scores, "left")
        rates = above / n_negatives, at_least / n_negatives
        auroc += _area_right(*rates, limit=1.0).sum()
        ap += (found / (found + at_least)).sum()
        f1_max = max(f1_max, (2 * found / (found + at_least + positives.size)).max())
        pro += (weights * _area_right(*rates, limit=fpr_limit)).sum()
        regions += weights.sum()  # not the integer: the same rounding in both sums keeps pro / regions <= 1
    return float(auroc / positives.size), float(ap / positives.size), float(f1_max), float(pro / regions)


def _count_negatives(scores: np.ndarray, negatives: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """How many negatives are > and how many are >= each of the sorted scores (K,): two int64 arrays (K,)."""
    above, at_least = np.zeros((2, scores.size), np.int64)
    for chunk in negatives:
        low, high = np.searchsorted(chunk, scores[0], "left"), np.searchsorted(chunk, scores[-1], "right")
        near = chunk[low:high]  # a search within this part is several times faster than within the chunk
        above += chunk.size - low - np.searchsorted(near, scores, "right")
        at_least += chunk.size - low - np.searchsorted(near, scores, "left")
    return above, at_least


def _area_right(fpr_above: np.ndarray, fpr_at_least: np.ndarray, limit: float) -> np.ndarray:
    """Area in [0, limit], over limit, under a step that rises linearly from 0 at fpr_above to 1 at fpr_at_least.

    The two rates differ where negatives tie with the positive: a threshold takes all of them or none, and the curve
    is linear in between.
    """
    start, end = fpr_above / limit, fpr_at_least / limit
    area = 1 - (np.minimum(start, 1) + np.minimum(end, 1)) / 2
    cut = (start < 1) & (end > 1)  # only a triangle of the rise lies within the limit
    area[cut] = (1 - start[cut]) ** 2 / (2 * (end[cut] - start[cut]))
    return area


def _region_areas(gt_mask: np.ndarray) -> np.ndarray:
    """For each defect pixel, in the order of `gt_mask[gt_mask]`, the number of pixels in its 8-connected region."""
    regions = ndimage.label(gt_mask, structure=np.ones((3, 3)))[0][gt_mask]
    return np.bincount(regions)[regions].astype(np.int32)


def _checked_picture(anomaly_map: np.ndarray, gt_mask: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The pair as float32 and bool, or a ValueError that names the picture."""
    anomaly_map, gt_mask = np.asarray(anomaly_map, np.float32), np.asarray(gt_mask)
    if anomaly_map.ndim != 2 or anomaly_map.shape != gt_mask.shape:
        raise ValueError(
            f"picture {index}: map {anomaly_map.shape} and mask {gt_mask.shape} must have one shape (H, W)"
        )
    if not (finite := np.isfinite(anomaly_map)).all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(f"picture {index}: anomaly map is {anomaly_map[row, column]} at row {row}, column {column}")
    defects = gt_mask.astype(bool)
    if not np.array_equal(defects, gt_mask):
        raise ValueError(f"picture {index}: mask contains other values than 0 and 1; binarise it first, e.g. mask > 0")
    return anomaly_map, defects


def _checked_images(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) as float64, exact for comparing with a threshold, and labels (N,) as bool, or a ValueError."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must have one shape (N,)")
    if not (finite := np.isfinite(scores)).all():
        index = int(np.argmin(finite))
        raise ValueError(f"score {index} is {scores[index]}")
    anomalous = labels.astype(bool)
    if not np.array_equal(anomalous, labels):
        raise ValueError(f"labels must be 0 (normal) or 1 (anomalous), got {np.unique(labels)[:5].tolist()}")
    return scores, anomalous


def _share_above(scores: np.ndarray, threshold: float, kind: str) -> float:
    if not scores.size:
        raise ValueError(f"undefined: there is no {kind} image")
    if math.isnan(threshold):
        raise ValueError("threshold is NaN: calibrate the detector first")
    return float((scores > threshold).mean())
