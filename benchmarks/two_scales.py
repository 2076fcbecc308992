"""One model at two input sizes, fused, compared with each size alone.

    python -m benchmarks.two_scales SIZE DIR [DIR ...] --data DIR   # adds rows to results/two_scales.json
    python -m benchmarks.two_scales --table

DIR contains model folders with weights. Each model is applied at its own input size and, without another training, at
SIZE, and calibrated at both with the pictures that were held out for its own calibration. `both` is the mean of the
two image scores, each in units of its calibration (`score_level`). Image AUROC is a mean over the seeds; p compares
`both` with the better of the two sizes by DeLong's test; in the rows of the file only pictures vary in it, not seeds.
The better one is chosen by the test pictures, so `both` is compared with a choice that nobody has.
"""

import argparse
import copy
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.compact_backbone import category_of
from benchmarks.measuring import RESULTS, provenance, table
from hubmodels import AnomalyDetector, compare, load
from hubmodels.hub.files import REPORT_FILE
from hubmodels.paired_tests import compare_auroc
from hubmodels.samples import Category
from hubmodels.sizes import Size, as_pair, in_words
from training.compare import p_text
from training.data import hold_out
from training.evaluation import read_report, write_json
from training.input_shape import parse_image_size

RESULT = RESULTS / "two_scales.json"
KEYS = ("category", "method", "own", "other")
COLUMNS = (*KEYS, "seeds", "AUROC own", "AUROC other", "AUROC both", "p")


def results() -> list[dict]:
    """All rows."""
    return json.loads(RESULT.read_text()) if RESULT.is_file() else []


def results_table() -> str:
    """All rows."""
    return table([row | {"p": p_text(row["p"])} for row in results()], COLUMNS)


def at_size(detector: AnomalyDetector, image_size: Size) -> AnomalyDetector:
    """The same weights behind another input, not calibrated."""
    other = copy.deepcopy(detector)
    other.front_end.image_size = other.front_end.resize = as_pair(image_size)
    return other


def rows(folders: Sequence[Path], image_size: Size, data: Path) -> Iterator[dict]:
    """A row for each category and method, over all seeds."""
    found = defaultdict(list)
    for folder in folders:
        for file in sorted(folder.rglob(REPORT_FILE)):
            report = read_report(file.parent)
            key = report["category"], report["method"], in_words(report["settings"]["image_size"])
            found[key].append(file.parent)
    for (category, method, own), runs in found.items():
        if own != in_words(image_size):
            identity = {"category": category, "method": method, "own": own, "other": in_words(image_size)}
            yield identity | {"seeds": len(runs)} | measure(runs, image_size, category_of(category, data))


def measure(runs: list[Path], image_size: Size, category: Category) -> dict:
    """Image AUROC at both sizes, alone and fused."""
    detectors = {}
    for i, folder in enumerate(runs):
        for name, detector in (("own", load(folder)), ("other", at_size(load(folder), image_size))):
            report = read_report(folder)
            given = report["settings"]["holdout"], report["seed"], report["data"]["copies"]
            detector.calibrate(sample.read() for sample in hold_out(category.train, *given)[1])
            detectors[name, i] = detector
    levels: dict[tuple[str, int], list[float]] = {key: [] for key in detectors}
    for sample in tqdm(category.test, category.name, leave=False, disable=None):
        for key, prediction in compare(detectors, sample.read()).items():
            levels[key].append(prediction.score_level)
    labels = np.array([sample.label for sample in category.test])
    alone = {name: [levels[name, i] for i in range(len(runs))] for name in ("own", "other")}
    both = [np.mean(pair, axis=0) for pair in zip(*alone.values(), strict=True)]
    gaps = {name: compare_auroc(both, scores, labels) for name, scores in alone.items()}
    better = max(gaps.values(), key=lambda gap: gap.other)
    values = {name: gap.other for name, gap in gaps.items()} | {"both": better.ours}
    return {f"AUROC {name}": round(100 * value, 1) for name, value in values.items()} | {"p": round(better.p, 6)}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", nargs="?", type=parse_image_size, metavar="SIZE", help="the other input size")
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="folders of models")
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder of real pictures")
    parser.add_argument("--table", action="store_true", help="print all rows")
    args = parser.parse_args()
    if args.table or not args.folders:
        return print(results_table())
    common = provenance(f"python -m benchmarks.two_scales {' '.join(sys.argv[1:])}")
    for row in rows(args.folders, args.size, args.data):
        print(table([row], COLUMNS).splitlines()[-1], flush=True)
        by_key = {tuple(known[key] for key in KEYS): known for known in [*results(), row | common]}
        write_json(RESULT, list(by_key.values()))


if __name__ == "__main__":
    main()
