"""Time, memory and exactness of the pixel metrics at the size of a large test set.

    python benchmarks/metrics.py [--pictures 400 --size 1024]

Streams synthetic maps (smooth noise, two pictures in three with a few defects) through `PixelMetrics` and times
update + compute, not the generation; then scikit-learn's `roc_auc_score` on a subset that it can hold.
Result of the full size: benchmarks/results/metrics.json.
"""

import argparse
import json
import os
import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from training.metrics import PixelMetrics

RESULTS = Path(__file__).parent / "results" / "metrics.json"
SUBSET = 20  # pictures for scikit-learn, which sorts all pixels at once and needs many times their memory


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
    """Our metrics of that many pictures, the seconds in update + compute, the defect share, the process's peak MB."""
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
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    defect_share = defects / (pictures * size**2)
    return {**values, "defect_share": defect_share, "seconds": round(seconds, 2), "peak_mb": round(peak_mb)}


def sklearn_auroc(pictures: int, size: int) -> tuple[float, float]:
    """AUROC of scikit-learn on the same pixels, and its seconds."""
    maps, masks = zip(*(picture(index, size) for index in range(pictures)), strict=True)
    scores, labels = np.concatenate(maps).ravel(), np.concatenate(masks).ravel()
    start = time.perf_counter()
    value = float(roc_auc_score(labels, scores))
    return value, round(time.perf_counter() - start, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--size", type=int, default=1024, help="side of the square pictures in pixels")
    args = parser.parse_args()
    subset = min(SUBSET, args.pictures)
    common = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, shared with other jobs",
        "command": f"python benchmarks/metrics.py --pictures {args.pictures} --size {args.size}",
        "versions": {name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
    }
    # In order of rising memory, because the peak is that of the process so far.
    few, many = measure(subset, args.size), measure(args.pictures, args.size)
    auroc, sklearn_seconds = sklearn_auroc(subset, args.size)
    against = {"sklearn_seconds": sklearn_seconds, "difference": abs(few["pixel_auroc"] - auroc)}
    alone = {"sklearn_seconds": None, "difference": None}
    rows = [
        {"case": "all pictures", "pictures": args.pictures, "size": args.size, **many, **alone, **common},
        {"case": "AUROC vs scikit-learn", "pictures": subset, "size": args.size, **few, **against, **common},
    ]
    for row in rows:
        print(row)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
