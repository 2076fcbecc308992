"""Real parts that were moved, turned, or lit in another way than for training: how each method copes.

    python -m benchmarks.changes DIR [DIR ...] --data DATA     # adds rows to results/changes.json
    python -m benchmarks.changes --table

DIR contains model folders, DATA is the folder of real pictures (`docs/data.md`). Good and defective test pictures are
changed alike, and then inspected: at most PICTURES of each, evenly spread over the test pictures. The border is filled
by reflection. `image_auroc` says whether defects still stand out, `false_alarms` and `recall` whether the threshold
of the unchanged pictures still fits.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks import compact_backbone
from benchmarks.measuring import RESULTS, provenance, table
from hubmodels import load
from hubmodels.methods import METHODS
from hubmodels.samples import Category, Sample
from training.evaluation import read_report, write_json
from training.metrics import image_metrics
from training.position import move

RESULT = RESULTS / "changes.json"
PICTURES = 40  # good ones of a category, and as many defective ones
KEY = ("category", "method", "seed", "change")
UNCHANGED = "as they are"


def shifted(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """To the right, by a share of the width."""
    return lambda pixels: move(pixels, right=round(share * pixels.shape[1]))


def turned(degrees: float) -> Callable[[np.ndarray], np.ndarray]:
    """Counter-clockwise."""
    return lambda pixels: move(pixels, degrees=degrees)


def lit(left: float, right: float) -> Callable[[np.ndarray], np.ndarray]:
    """Brightness multiplied by a factor that changes evenly from the left to the right."""

    def change(pixels: np.ndarray) -> np.ndarray:
        factor = np.linspace(left, right, pixels.shape[1], dtype=np.float32)[:, None]
        return (pixels * factor).clip(0, 255).astype(np.uint8)

    return change


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    UNCHANGED: lambda pixels: pixels,
    "shifted 1 %": shifted(0.01),
    "shifted 3 %": shifted(0.03),
    "turned 3°": turned(3),
    "20 % darker": lit(0.8, 0.8),
    "20 % brighter": lit(1.2, 1.2),
    "light from one side": lit(0.8, 1.2),
}


def chosen(samples: Sequence[Sample]) -> list[Sample]:
    """At most PICTURES, evenly spread."""
    places = np.linspace(0, len(samples) - 1, min(PICTURES, len(samples))).round().astype(int)
    return [samples[i] for i in places]


def measure(folder: Path, category: Category) -> list[dict]:
    """A row for each change."""
    detector, report = load(folder), read_report(folder)
    samples = [s for label in (0, 1) for s in chosen([s for s in category.test if s.label == label])]
    pictures = [np.asarray(sample.read()) for sample in samples]
    labels = np.array([sample.label for sample in samples])
    rows = []
    for name, change in tqdm(CHANGES.items(), folder.name, leave=False, disable=None):
        found = [detector.predict(change(pixels)) for pixels in pictures]
        flagged = np.array([each.is_anomalous for each in found])
        rows.append(
            {**{key: report[key] for key in KEY[:3]}, "change": name, "pictures": np.bincount(labels).tolist()}
            | {"image_auroc": image_metrics([each.image_score for each in found], labels)["image_auroc"]}
            | {"false_alarms": float(flagged[labels == 0].mean()), "recall": float(flagged[labels == 1].mean())}
        )
    return rows


def results_table() -> str:
    """Image AUROC and false alarms by change and method: means over the categories that all methods have."""
    rows = results()
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    by_method = [{row["category"] for row in rows if row["method"] == method} for method in methods]
    common = set.intersection(*by_method) if by_method else set()
    lines = []
    for change in CHANGES:
        line = {"pictures": change}
        for method in methods:
            some = [r for r in rows if (r["method"], r["change"]) == (method, change) and r["category"] in common]
            means = (100 * statistics.mean(row[key] for row in some) for key in ("image_auroc", "false_alarms"))
            line[METHODS[method].title] = "{:.1f} / {:.0f}".format(*means)
        lines.append(line)
    return table(lines, ("pictures", *(METHODS[method].title for method in methods)))


def results() -> list[dict]:
    """All rows."""
    return json.loads(RESULT.read_text()) if RESULT.is_file() else []


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", metavar="DIR", help="folders of models")
    parser.add_argument("--data", type=Path, help="folder of real pictures")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    args = parser.parse_args()
    if args.folders and args.data is None:
        parser.error("--data is needed")
    origin = provenance("python -m benchmarks.changes " + " ".join(sys.argv[1:]).replace(str(args.data), "DATA"))
    for folder in (path.parent for root in args.folders for path in sorted(root.rglob("model.safetensors"))):
        category = compact_backbone.category_of(read_report(folder)["category"], args.data)
        if category is None:
            print(f"{folder}: no such test pictures in {args.data}")
            continue
        rows = measure(folder, category)
        print(table(rows, (*KEY, "image_auroc", "false_alarms", "recall")), flush=True)
        keys = {tuple(row[name] for name in KEY) for row in rows}
        kept = [old for old in results() if tuple(old[name] for name in KEY) not in keys]
        write_json(RESULT, [*kept, *(row | origin for row in rows)])
    print(results_table())


if __name__ == "__main__":
    main()
