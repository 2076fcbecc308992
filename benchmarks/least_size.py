"""What a least size changes on real defects, small and large, and on specks: `python -m benchmarks.least_size`.

    python -m benchmarks.least_size --data DIR capsule screw     # adds rows to results/least_size.json
    python -m benchmarks.least_size --table

A hybrid is trained once for a category, with five folds, and calibrated with each least size. A speck is a square of
8 pixels, white or black, near the middle of a good test picture. DIR is a folder of real pictures, see `docs/data.md`.
The compact backbone, 256 px; a category takes about five minutes.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from accelerate import Accelerator
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from benchmarks import compact_backbone
from benchmarks.measuring import RESULTS, provenance, table
from hubmodels.detector import AnomalyDetector
from hubmodels.least_size import LeastSize
from hubmodels.prediction import EIGHT_CONNECTED, HeldOut
from hubmodels.samples import Category
from training import train
from training.calibration import Split, calibrate
from training.config import TrainConfig
from training.evaluation import write_json
from training.fitting import Fitting
from training.jobs import Job
from training.metrics import image_metrics
from training.sanity import inspect_category

RESULT = RESULTS / "least_size.json"
SIZES = (0, 25, 100, 400, 1600, 6400)  # pixels of the pictures; 0 = every size counts
METHOD, SPECK, RATE = "hybrid", 8, 0.05


def measure(name: str, data: Path) -> Iterator[dict]:
    """A row for each least size: the scores that calibrated, and those of good, defective and speckled pictures."""
    with TemporaryDirectory() as folder:
        fitting, split, category, size = train_hybrid(name, data, Path(folder), folds=5)
        detector, areas = fitting.objective.detector, [area for _, area in defects_of(category, size)]
        for pixels in tqdm(SIZES, name, disable=None):
            detector.least_size = LeastSize(pixels, size) if pixels else None
            calibrate(detector, split, fitting.fold_heads, RATE)
            row = {"category": name, "method": METHOD, "least_size": pixels, "picture": list(size), "areas": areas}
            yield row | scores_of(detector, category, size)


def train_hybrid(name: str, data: Path, folder: Path, folds: int) -> tuple[Fitting, Split, Category, tuple[int, int]]:
    """A fitted hybrid of a category, its pictures, and their most common size (height, width)."""
    place = Path(compact_backbone.SETS[name]).name
    category, sanity = inspect_category(compact_backbone.category_of(place, data), True)
    options = ["--backbone", "compactnet.distilled_in1k", "--folds", str(folds), "--output", str(folder)]
    config = TrainConfig.from_command_line(["--data-root", str(data), "--methods", METHOD, *options])
    job = Job(category, METHOD, train.fill_defaults(config, Accelerator()), sanity)
    fitting, split, _ = train.prepare(job, Accelerator(), sharing=False)
    fitting.run()
    train.stabilise(fitting)
    return fitting, split, category, max(sanity.sizes, key=sanity.sizes.get)


def scores_of(detector: AnomalyDetector, category: Category, size: tuple[int, int]) -> dict[str, list[float]]:
    """Image scores by kind of picture."""
    good = [np.asarray(sample.read()) for sample in category.test if not sample.label]
    pictures = {"good": good, "defective": [picture for picture, _ in defects_of(category, size)]}
    pictures["speckled"] = [with_speck(picture, seed) for seed, picture in enumerate(good)]
    found = {kind: [detector.predict(each).image_score for each in some] for kind, some in pictures.items()}
    found["calibrating"] = detector.calibration.image_scores.tolist()
    return {kind: [round(score, 5) for score in scores] for kind, scores in found.items()}


def defects_of(category: Category, size: tuple[int, int]) -> Iterator[tuple[Image.Image, int]]:
    """Each defective test picture, and the pixels of the largest region of its mask."""
    for sample in (sample for sample in category.test if sample.label):
        mask = sample.read_mask(size) > 0
        regions = ndimage.label(mask, EIGHT_CONNECTED)[0]
        yield sample.read(), int(np.bincount(regions[mask]).max())


def with_speck(picture: np.ndarray, seed: int) -> np.ndarray:
    """A picture (H, W, 3) with a square near its middle, white where it is dark and black where it is bright."""
    rng, speckled = np.random.default_rng(seed), picture.copy()
    row, column = (int(side * rng.uniform(0.45, 0.55)) for side in picture.shape[:2])
    place = slice(row, row + SPECK), slice(column, column + SPECK)
    speckled[place] = 255 if picture[place].mean() < 128 else 0
    return speckled


def results() -> list[dict]:
    """All rows."""
    return json.loads(RESULT.read_text()) if RESULT.is_file() else []


def results_table() -> str:
    """Of each least size the image AUROC, and how many pictures are called defective."""
    rows, lines = results(), []
    for row in rows:
        [before] = [r for r in rows if r["category"] == row["category"] and not r["least_size"]]
        small = np.array(row["areas"]) < row["least_size"]
        labels = [0] * len(row["good"]) + [1] * len(row["defective"])
        line = {"category": row["category"], "least size": row["least_size"]}
        line |= {"image AUROC": f"{100 * image_metrics(row['good'] + row['defective'], labels)['image_auroc']:.1f}"}
        line |= {"good": _count(row, before, "good"), "with a speck": _count(row, before, "speckled")}
        line |= {"smaller defects": _count(row, before, "defective", small)}
        lines.append(line | {"larger defects": _count(row, before, "defective", ~small)})
    return table(lines, lines[0])


def _count(row: dict, before: dict, kind: str, chosen: np.ndarray | slice = slice(None)) -> str:
    """How many are called defective, how many were without a least size, and of how many."""
    now, earlier = (_flagged(each, kind)[chosen] for each in (row, before))
    return f"{now.sum()} ({earlier.sum()}) of {now.size}"


def _flagged(row: dict, kind: str) -> np.ndarray:
    scores = np.array(row["calibrating"], np.float32)
    calibration = HeldOut(scores, scores, 0.0, RATE)
    flagged = [calibration.decide(score, np.zeros((1, 1))).is_anomalous for score in row[kind]]
    return np.array(flagged, bool)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("categories", nargs="*", metavar="NAME", help=", ".join(compact_backbone.SETS))
    parser.add_argument("--data", type=Path, help="folder of real pictures")
    parser.add_argument("--table", action="store_true", help="print all rows")
    args = parser.parse_args()
    if args.table:
        return print(results_table())
    if args.data is None or not set(args.categories) <= set(compact_backbone.SETS):
        parser.error(f"give --data, and names of {', '.join(compact_backbone.SETS)}")
    command = "python -m benchmarks.least_size " + " ".join(sys.argv[1:]).replace(str(args.data), "DIR")
    origin = provenance(command)
    for name in args.categories:
        rows = [row | origin for row in measure(name, args.data)]
        write_json(RESULT, [*(row for row in results() if row["category"] != name), *rows])
    print(results_table())


if __name__ == "__main__":
    main()
