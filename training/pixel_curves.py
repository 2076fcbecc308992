"""How many pixels of each test picture are above common thresholds: enough to repeat pixel metrics without maps.

Pixel AUROC and AUPRO of any choice of the pictures follow from these counts, so they can be bootstrapped, and anybody
can compute them again. They are close to the exact metrics of `training.metrics`: the thresholds are few. If a picture
has many normal pixels, they are counted on a grid, and the counts are scaled to all of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import ndimage

CURVES_FILE = "pixel_curves.parquet"  # in the model's folder
THRESHOLDS = 80
MOST_NORMAL = 2**16  # normal pixels of a picture
FPR_LIMIT = 0.3  # of AUPRO
LISTS = ("normal_above", "defect_above", "overlap_above")


@dataclass
class CurveCollector:
    """Takes maps and masks one after the other; gives a table with one row for each picture."""

    _names: list[str] = field(default_factory=list)
    _normal: list[NDArray] = field(default_factory=list)
    _normal_pixels: list[int] = field(default_factory=list)
    _regions: list[list[NDArray]] = field(default_factory=list)

    def update(self, name: str, anomaly_map: NDArray, mask: NDArray) -> None:
        """A map (H, W) and its mask (H, W) of 0 and 1."""
        mask = mask.astype(bool)
        step = max(1, math.ceil(math.sqrt(mask.size / MOST_NORMAL)))
        grid = np.s_[step // 2 :: step, step // 2 :: step]
        self._names.append(name)
        self._normal.append(np.sort(anomaly_map[grid][~mask[grid]]))
        self._normal_pixels.append(int(mask.size - mask.sum()))
        self._regions.append(_regions(anomaly_map, mask))

    def table(self) -> pa.Table:
        """Columns: `name`; `normal_pixels`, `defect_pixels`, `regions`: how many there are; and for each threshold,
        from the highest on, `normal_above`, `defect_above`: pixels at or above it, `overlap_above`: the sum over the
        regions of their shares at or above it.
        """
        # dense where curves are steep
        rates = np.linspace(0, 1, THRESHOLDS) ** 3
        thresholds = np.unique(np.quantile(np.concatenate(self._normal), 1 - rates, method="higher"))[::-1]
        pictures = zip(self._names, self._normal, self._normal_pixels, self._regions, strict=True)
        return pa.Table.from_pylist([_row(*picture, thresholds) for picture in pictures], SCHEMA)


def _regions(anomaly_map: NDArray, mask: NDArray) -> list[NDArray]:
    """The ascending values of each 8-connected region of a bool mask."""
    numbers, values = ndimage.label(mask, np.ones((3, 3)))[0][mask], anomaly_map[mask]
    order = np.lexsort((values, numbers))
    ends = np.cumsum(np.bincount(numbers)[1:])[:-1]
    return np.split(values[order], ends) if len(values) else []


def _row(name: str, normal: NDArray, normal_pixels: int, regions: list[NDArray], thresholds: NDArray) -> dict:
    found = np.array([_above(region, thresholds) for region in regions]).reshape(-1, len(thresholds))
    sizes = np.array([len(region) for region in regions], int)[:, None]
    scale = normal_pixels / max(1, len(normal))
    return {
        **{"name": name, "normal_pixels": normal_pixels, "defect_pixels": int(sizes.sum()), "regions": len(regions)},
        "normal_above": np.round(scale * _above(normal, thresholds)).astype(int),
        "defect_above": found.sum(0).astype(int),
        "overlap_above": (found / np.maximum(sizes, 1)).sum(0).round(4),
    }


SCHEMA = pa.schema(
    [
        *(
            ("name", pa.string()),
            ("normal_pixels", pa.int32()),
            ("defect_pixels", pa.int32()),
            ("regions", pa.int32()),
        ),
        *(("normal_above", pa.list_(pa.int32())), ("defect_above", pa.list_(pa.int32()))),
        ("overlap_above", pa.list_(pa.float32())),
    ]
)


def _above(ascending: NDArray, thresholds: NDArray) -> NDArray:
    return len(ascending) - np.searchsorted(ascending, thresholds, "left")


@dataclass(frozen=True)
class PixelCurves:
    """The counts of some pictures: (n,) each, and (n, T) for T falling thresholds."""

    names: list[str]
    normal_pixels: NDArray
    defect_pixels: NDArray
    regions: NDArray
    normal_above: NDArray
    defect_above: NDArray
    overlap_above: NDArray

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """From a table of `CurveCollector`."""
        counts = [table[name].to_numpy().astype(float) for name in ("normal_pixels", "defect_pixels", "regions")]
        lists = [np.array(table[name].to_pylist(), float) for name in LISTS]
        return cls(table["name"].to_pylist(), *counts, *lists)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From a model folder. Raises OSError if there are none."""
        return cls.of(pq.read_table(folder / CURVES_FILE))

    def metrics(self, weights: NDArray | Sequence | None = None) -> dict[str, NDArray]:
        """`pixel_auroc` and `aupro`, (k,) each.

        Args:
            weights: (k, n), how often each picture counts; all once by default.
        """
        weights = np.ones((1, len(self.names))) if weights is None else np.asarray(weights, float)
        false = self._rates(weights, self.normal_above, self.normal_pixels)
        found = self._rates(weights, self.defect_above, self.defect_pixels)
        overlap = self._rates(weights, self.overlap_above, self.regions)
        return {
            "pixel_auroc": np.array([np.trapezoid(y, x) for x, y in zip(false, found, strict=True)]),
            "aupro": np.array([_area(x, y) for x, y in zip(false, overlap, strict=True)]),
        }

    @staticmethod
    def _rates(weights: NDArray, above: NDArray, total: NDArray) -> NDArray:
        """(k, T + 2): shares above each threshold, from 0 to 1."""
        rates = weights @ above / np.maximum(weights @ total, 1)[:, None]
        return np.hstack([np.zeros((len(rates), 1)), rates, np.ones((len(rates), 1))])


def _area(rates: NDArray, overlaps: NDArray) -> float:
    """Area under a rising curve up to FPR_LIMIT, divided by it."""
    inside = rates < FPR_LIMIT
    x = np.concatenate([rates[inside], [FPR_LIMIT]])
    y = np.concatenate([overlaps[inside], [np.interp(FPR_LIMIT, rates, overlaps)]])
    return float(np.trapezoid(y, x)) / FPR_LIMIT
