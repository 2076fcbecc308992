"""How large the outline of a defect of known size is: the two numbers of the least size come from this.

    python -m benchmarks.square_sizes --data DIR     # writes results/square_sizes.json, a few minutes
    python -m benchmarks.square_sizes --table

A hybrid is trained on good capsules (compact backbone, 256 px). Grey squares are then put near the middle of good test
pictures, in several sizes and contrasts. `square` is the area of a square in pixels of the map, `outline` that of its
outline, as `hubmodels/least_size.py` measures it: the connected pixels that reach 70 % of the way from the map's
median to the highest value at the square. A square counts only if this is the highest value of the whole map.

`smallest`, `median` and `largest` describe these outlines. `lost` is the share of outlines that the rule would leave
out if the least size were the area of the square. The lines below the table give the two numbers. `SPOT` is the number
of patches of outlines of squares that are smaller than a patch: 95 % of them have more. `OUTLINED` is the slope of the
line through the outlines of bright squares or through those of dark ones, of which the lower one loses fewer defects.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from benchmarks.least_size import train_hybrid
from benchmarks.measuring import RESULTS, provenance, table
from hubmodels.detector import AnomalyDetector
from hubmodels.least_size import OUTLINED, SPOT
from hubmodels.prediction import EIGHT_CONNECTED, OUTLINE
from training.evaluation import write_json

RESULT, CATEGORY = RESULTS / "square_sizes.json", "capsule"
SIDES, CONTRASTS = (1, 2, 4, 8, 16, 24, 32, 40, 48), (-60, 60, -120, 120)  # pixels of the pictures; grey levels
COLUMNS = ("square", "found", "smallest", "median", "largest", "lost")


def measure(data: Path) -> Iterator[dict]:
    """A row for each size and contrast: what `outlined` gives on each good test picture."""
    with TemporaryDirectory() as folder:
        fitting, _, category, size = train_hybrid(CATEGORY, data, Path(folder), folds=0)
        detector = fitting.objective.detector
        good = [np.asarray(sample.read()) for sample in category.test if not sample.label]
        scale = math.prod(detector.front_end.resize) / math.prod(size)
        for side, contrast in tqdm([*product(SIDES, CONTRASTS)], CATEGORY, disable=None):
            row = {"side": side, "contrast": contrast, "square": round(side**2 * scale, 1)}
            pairs = (with_square(picture, side, contrast, seed) for seed, picture in enumerate(good))
            yield row | {
                "patch": detector.front_end.stride**2,
                "outlines": [outlined(detector, *pair) for pair in pairs],
            }


def with_square(picture: np.ndarray, side: int, contrast: int, seed: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """A picture (H, W, 3) with a brighter or darker square near its middle, and the rows and columns of the square."""
    rng, changed = np.random.default_rng(seed), picture.copy()
    row, column = (int(length * rng.uniform(0.45, 0.55)) for length in picture.shape[:2])
    place = slice(row, row + side), slice(column, column + side)
    changed[place] = np.clip(picture[place].mean() + contrast, 0, 255)
    return changed, place


def outlined(detector: AnomalyDetector, picture: np.ndarray, place: tuple[slice, slice]) -> int | None:
    """Pixels of the outline around a square in the map; None if the square is not its highest place."""
    anomaly_map = detector.predict(picture).at_most(1).anomaly_map  # as large as the model input
    scales = [own / given for own, given in zip(anomaly_map.shape, picture.shape[:2], strict=True)]
    peak = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    away = [
        max(side.start * scale - at, at - side.stop * scale)
        for side, scale, at in zip(place, scales, peak, strict=True)
    ]
    if max(away) > detector.front_end.stride:
        return None
    base = np.median(anomaly_map)
    regions = ndimage.label(anomaly_map >= base + OUTLINE * (anomaly_map[peak] - base), EIGHT_CONNECTED)[0]
    return int((regions == regions[peak]).sum())


def results_table() -> str:
    """A row for each size of a square, and what the two numbers come from."""
    rows = json.loads(RESULT.read_text())
    lines = [_line(rows, square) for square in dict.fromkeys(row["square"] for row in rows)]
    patch = rows[0]["patch"]
    small = [outline for square, outline in _found(rows) if square < patch]
    least = np.quantile(small, 0.05) / patch
    words = [f"Squares smaller than a patch: 95 % of outlines have more than {least:.1f} patches."]
    for name, sign in (("Bright", 1), ("Dark", -1)):
        slope, start = np.polyfit(*zip(*_found([r for r in rows if sign * r["contrast"] > 0]), strict=True), 1)
        words.append(f"{name} squares: outline = {start:.0f} + {slope:.2f} x square.")
    return "\n\n".join([table(lines, COLUMNS), *words])


def _found(rows: list[dict]) -> list[tuple[float, int]]:
    """Square and outline of each square that was found."""
    return [(row["square"], outline) for row in rows for outline in row["outlines"] if outline is not None]


def _line(rows: list[dict], square: float) -> dict:
    same = [row for row in rows if row["square"] == square]
    outlines, total = np.array([outline for _, outline in _found(same)]), sum(len(row["outlines"]) for row in same)
    line = {"square": square, "found": f"{len(outlines)} of {total}"}
    if not len(outlines):
        return line
    needed = SPOT * same[0]["patch"] + OUTLINED * square
    sizes = {"smallest": outlines.min(), "median": round(np.median(outlines)), "largest": outlines.max()}
    return line | sizes | {"lost": f"{100 * (outlines < needed).mean():.0f} %"}


def main() -> None:
    """Measures, or prints the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of real pictures, see docs/data.md")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    args = parser.parse_args()
    if args.table:
        return print(results_table())
    if args.data is None:
        parser.error("--data is needed")
    command = "python -m benchmarks.square_sizes " + " ".join(sys.argv[1:]).replace(str(args.data), "DIR")
    origin = {"category": CATEGORY, "method": "hybrid"} | provenance(command)
    write_json(RESULT, [row | origin for row in measure(args.data)])
    print(results_table())


if __name__ == "__main__":
    main()
