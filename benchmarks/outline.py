"""How well the outlined defects fit the masks, by the share of a region's height at which they are outlined.

    python -m benchmarks.outline DIR [DIR ...] [--data DATA]     # adds rows to results/outline.json
    python -m benchmarks.outline --table
    python -m benchmarks.outline --picture docs/outline.jpg      # a scratch, outlined at 0 and at OUTLINE

DIR contains model folders. Models of the rendered parts need no DATA, a folder of real pictures (`docs/data.md`). The
share 0 is everything above the pixel threshold. `OUTLINE` in `hubmodels/prediction.py` was chosen on rendered parts.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks import compact_backbone
from benchmarks.measuring import RESULTS, provenance, table
from hubmodels import load, prediction
from hubmodels.heatmap import outline_layer
from hubmodels.hub.catalog import Catalog
from hubmodels.samples import Category
from training.evaluation import read_report, write_json
from training.parts.dataset import DATASET, parts_categories

ROOT = Path(__file__).parents[1]
RESULT = RESULTS / "outline.json"
SHARES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
COLUMNS = ("dataset", "category", "method", "input", *(f"{share:g}" for share in SHARES))


def measure(folder: Path, category: Category) -> dict:
    """Mean IoU over the defective test pictures, and the median area in units of the true one, by share."""
    detector, overlaps, areas = load(folder), [], []
    for sample in tqdm([s for s in category.test if s.label], folder.name, leave=False, disable=None):
        found = detector.predict(sample.read())
        truth = sample.read_mask(found.anomaly_map.shape) > 0
        masks = [_outlined(found, share) for share in SHARES]
        overlaps.append([np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth) for mask in masks])
        areas.append([np.count_nonzero(mask) / np.count_nonzero(truth) for mask in masks])
    report = read_report(folder)
    row = {key: report[key] for key in ("dataset", "category", "method", "seed")}
    row |= {"input": report["settings"]["image_size"], "pictures": len(overlaps)}
    by_share = {"iou": np.mean(overlaps, 0), "area": np.median(areas, 0)}
    return row | {key: dict(zip(map(str, SHARES), v.round(4).tolist(), strict=True)) for key, v in by_share.items()}


def _outlined(found: prediction.AnomalyPrediction, share: float) -> np.ndarray:
    own, prediction.OUTLINE = prediction.OUTLINE, share
    try:
        return replace(found).mask
    finally:
        prediction.OUTLINE = own


def category_of(folder: Path, data: Path | None) -> Category | None:
    """The test pictures of a model; None if they have no masks, or are not there."""
    report = read_report(folder)
    if report["dataset"] == DATASET:
        return parts_categories([report["category"]])[0]
    category = compact_backbone.category_of(report["category"], data) if data else None
    return category if category and category.has_masks else None


def outline_table(rows: Sequence[dict]) -> str:
    """Mean IoU in per cent by share, and the means of rendered and of real parts for each method."""
    lines = [_line(row, row) for row in rows]
    for rendered in (True, False):
        for method in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if (row["dataset"] == DATASET) == rendered and row["method"] == method]
            if len(own) > 1:
                mean = {str(s): statistics.mean(row["iou"][str(s)] for row in own) for s in SHARES}
                kind = "rendered" if rendered else "real"
                lines.append(
                    _line({"dataset": kind, "category": f"mean of {len(own)}", "method": method}, {"iou": mean})
                )
    return table(lines, COLUMNS)


def _line(identity: dict, row: dict) -> dict:
    line = {key: identity.get(key) for key in COLUMNS[:3]}
    size = identity.get("input")
    line["input"] = " x ".join(map(str, size)) if isinstance(size, list) else size
    return line | {f"{share:g}": f"{100 * row['iou'][str(share)]:.1f}" for share in SHARES}


def draw() -> Image.Image:
    """A scratch in brushed metal by the bundled hybrid: everything above the threshold, and the outline."""
    detector = Catalog.bundled().load("parts / brushed_metal")["hybrid"]
    found = detector.predict(ROOT / "examples/parts/brushed_metal/scratch.png")
    layers = [outline_layer(_outlined(found, share)) for share in (0.0, prediction.OUTLINE)]
    picture = Image.open(ROOT / "examples/parts/brushed_metal/scratch.png").convert("RGBA")
    shown = [Image.alpha_composite(picture, layer.convert("RGBA").resize(picture.size)) for layer in layers]
    both = Image.new("RGB", (2 * picture.width + 10, picture.height), "white")
    for i, each in enumerate(shown):
        both.paste(each.convert("RGB"), (i * (picture.width + 10), 0))
    return both


def results() -> list[dict]:
    """All rows."""
    return json.loads(RESULT.read_text()) if RESULT.is_file() else []


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", metavar="DIR", help="folders of models")
    parser.add_argument("--data", type=Path, help="folder of real pictures")
    parser.add_argument("--table", action="store_true", help="print all rows")
    parser.add_argument("--picture", type=Path, help="draw an example into this file")
    args = parser.parse_args()
    if args.picture:
        draw().save(args.picture, quality=88)
        return
    if args.table or not args.folders:
        print(outline_table(results()))
        return
    origin = provenance(f"python -m benchmarks.outline {' '.join(sys.argv[1:])}")
    key = ("dataset", "category", "method", "input", "seed")
    for folder in (path.parent for root in args.folders for path in sorted(root.rglob("metrics.json"))):
        category = category_of(folder, args.data)
        if category and (folder / "model.safetensors").is_file():
            row = measure(folder, category) | origin
            print(row["category"], row["method"], row["iou"], row["area"], flush=True)
            kept = [old for old in results() if any(old[name] != row[name] for name in key)]
            write_json(RESULT, [*kept, row])


if __name__ == "__main__":
    main()
