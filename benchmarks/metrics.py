"""Time, memory and exactness of the pixel metrics, on a large test set and compared with the usual ways.

    python -m benchmarks.metrics [--pictures 400 --size 1024]

Synthetic maps (smooth noise, two of three pictures with a few defects) go through `PixelMetrics` one by one. The time
of update and compute counts, for all four metrics together. If both fit into the memory, scikit-learn's
`roc_auc_score` and AUPRO over 200 thresholds, as in the official codes, are timed too: on 115 pictures of 288 px, the
size of a test set of MVTec AD, and on a part of the large set.
"""

import argparse
import time
from importlib.metadata import version

import numpy as np
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from benchmarks.measuring import provenance, report
from benchmarks.timing import resident_mb
from training.metrics import PixelMetrics

SUBSET = 20  # pictures for scikit-learn, which sorts all pixels at once and needs much more memory
TEST_SET = (115, 288)  # pictures and their side, as of a category of MVTec AD
THRESHOLDS, FPR_LIMIT = 200, 0.3
COLUMNS = ("case", "pictures", "size", "seconds", "explicit_seconds", "ratio_to_explicit", "auroc_difference")
COLUMNS += ("aupro_difference", "peak_mb")


def upsampling(size: int, cells: int) -> np.ndarray:
    """Linear interpolation from `cells` values to `size` as a matrix (size, cells), float32."""
    position = np.linspace(0, cells - 1, size)[:, None]
    return np.maximum(0, 1 - np.abs(position - np.arange(cells))).astype(np.float32)


def picture(index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The index-th anomaly map (size, size) float32 and its mask: discs whose scores are raised but still overlap."""
    rng = np.random.default_rng(index)
    smooth = upsampling(size, 36)
    anomaly_map = smooth @ rng.standard_normal((36, 36), np.float32) @ smooth.T
    anomaly_map += 0.1 * rng.standard_normal((size, size), np.float32)
    mask = np.zeros((size, size), bool)
    rows, columns = np.ogrid[:size, :size]
    for _ in range(rng.integers(1, 5) if index % 3 else 0):
        (row, column), radius = rng.integers(0, size, 2), size * rng.uniform(0.01, 0.1)
        mask |= (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    return anomaly_map + mask, mask


def measure(pictures: int, size: int) -> dict:
    """Our metrics of so many pictures, the seconds in update and compute, the defect share, the peak memory in MB."""
    metrics, seconds, defects = PixelMetrics(), 0.0, 0
    for index in range(pictures):
        anomaly_map, mask = picture(index, size)
        defects += int(mask.sum())
        start = time.perf_counter()
        metrics.update(anomaly_map, mask)
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    values = metrics.compute()
    seconds += time.perf_counter() - start
    defect_share = defects / (pictures * size**2)
    return {**values, "defect_share": defect_share, "seconds": round(seconds, 2), "peak_mb": resident_mb()}


def sklearn_auroc(maps: np.ndarray, masks: np.ndarray) -> float:
    """AUROC of all pixels by scikit-learn."""
    return float(roc_auc_score(masks.ravel(), maps.ravel()))


def threshold_aupro(maps: np.ndarray, masks: np.ndarray) -> float:
    """AUPRO as the official codes approximate it, at 200 thresholds between the lowest and the highest score.

    Maps (N, H, W), masks bool. As there, the regions are found again at each threshold. The codes also dilate the
    prediction by 5x5 pixels, which makes the value larger. That is left out here, so that both metrics are comparable.
    """
    rates, overlaps = [], []
    for threshold in np.linspace(maps.min(), maps.max(), THRESHOLDS, endpoint=False):
        found = maps > threshold
        overlaps.append(np.concatenate([*map(region_overlaps, masks, found)]).mean())
        rates.append(np.logical_and(~masks, found).sum() / (~masks).sum())
    rates, overlaps = np.array(rates[::-1]), np.array(overlaps[::-1])
    kept = rates < FPR_LIMIT
    return float(np.trapezoid(overlaps[kept], rates[kept] / rates[kept].max()))


def region_overlaps(mask: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Share of each 8-connected region of the mask that was found."""
    regions = ndimage.label(mask, structure=np.ones((3, 3)))[0][mask]
    return np.bincount(regions, found[mask])[1:] / np.bincount(regions)[1:]


def compare(pictures: int, size: int, ours: dict) -> dict:
    """Seconds of the usual ways on the same pictures, the ratio to ours, and the differences."""
    maps, masks = map(np.stack, zip(*(picture(index, size) for index in range(pictures)), strict=True))
    start = time.perf_counter()
    auroc, middle = sklearn_auroc(maps, masks), time.perf_counter()
    aupro, end = threshold_aupro(maps, masks), time.perf_counter()
    return {
        "sklearn_auroc_seconds": round(middle - start, 2),
        "threshold_aupro_seconds": round(end - middle, 2),
        "explicit_seconds": round(end - start, 2),
        "ratio_to_explicit": round((end - start) / ours["seconds"], 1),
        "auroc_difference": abs(ours["pixel_auroc"] - auroc),
        "aupro_difference": abs(ours["aupro"] - aupro),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--size", type=int, default=1024, help="side of the square pictures in pixels")
    args = parser.parse_args()
    common = provenance(f"python -m benchmarks.metrics --pictures {args.pictures} --size {args.size}")
    common["versions"] |= {name: version(name) for name in ("scipy", "scikit-learn")}
    part = (min(SUBSET, args.pictures), args.size)
    sizes = {"test set": TEST_SET, "part of the large set": part, "large set": (args.pictures, args.size)}
    # Ours first, with rising memory, because the peak of a process never falls.
    rows = [
        {"case": case, "pictures": count, "size": size, **measure(count, size)}
        for case, (count, size) in sizes.items()
    ]
    for row in rows[:-1]:
        row |= compare(row["pictures"], row["size"], row)
    report("metrics", [row | common for row in rows], COLUMNS)


if __name__ == "__main__":
    main()
