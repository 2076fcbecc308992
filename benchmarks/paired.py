"""Two methods on the same test pictures: differences with paired tests.

    python -m benchmarks.paired OURS OTHER [OTHER ...] [--data DIR]   # adds rows to results/paired.json
    python -m benchmarks.paired --method glass LARGER SMALLER         # one method with inputs of two sizes
    python -m benchmarks.paired --table                               # methods
    python -m benchmarks.paired --inputs                              # inputs of two sizes

OURS and each OTHER are folders that contain model folders of one method, of all categories and seeds; with `--method`
those of others in them are left out. Image AUROC comes from `scores.parquet`, is averaged over the seeds, and compared
by the test of DeLong et al. (Biometrics 1988). AUPRO needs the weights and DIR, a folder of real pictures
(`docs/data.md`): all models that have weights are applied again, maps and masks are compared at 256 px, and the
p-value comes from 2,000 bootstrap samples of the pictures. Pictures, not seeds, are what varies in both tests. "Top
1 %" is the image AUROC of these models if the image score of each is the mean of its highest 1 % of patches, as the
hybrid has it; SimpleNet and GLASS take the maximum.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from scipy import ndimage
from tqdm import tqdm

from benchmarks.compact_backbone import SETS, SIZE
from benchmarks.measuring import RESULTS, provenance, table
from hubmodels import AnomalyDetector, compare, load
from hubmodels.comparison import PreparedPicture
from hubmodels.folders import read_category
from hubmodels.hybrid import TOP_SHARE
from hubmodels.methods import METHODS
from hubmodels.samples import Category
from hubmodels.sizes import Size, in_words
from training.evaluation import write_json

RESULT = RESULTS / "paired.json"
LIMIT, STEPS, SAMPLES = 0.3, 400, 2000  # false-positive rate; thresholds of a curve; bootstrap samples
COLUMNS = (
    *("category", "ours", "other", "seeds", "image AUROC", "p"),
    *("seeds of maps", "top 1 %", "p of top 1 %", "AUPRO", "p of AUPRO"),
)
INPUT_COLUMNS = ("category", "method", "inputs", "seeds", "image AUROC", "p")
SHOWN = (  # titles of a value and of its p-value, and their keys
    ("image AUROC", "p", "image_auroc", "image_p"),
    ("top 1 %", "p of top 1 %", "image_auroc_top", "image_p_top"),
    ("AUPRO", "p of AUPRO", "aupro", "aupro_p"),
)


@dataclass(frozen=True)
class Run:
    """One trained model: its folder, what it is, and the image scores by picture."""

    folder: Path
    method: str
    image_size: Size
    step_patches: int | None  # None: all
    category: str
    seed: int
    scores: dict[str, tuple[float, int]]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """From a model folder."""
        report = json.loads((folder / "metrics.json").read_text())
        columns = pq.read_table(folder / "scores.parquet").to_pydict()
        pictures = [str(Path(name).with_suffix("")) for name in columns["name"]]  # copies can have another format
        scores = dict(zip(pictures, zip(columns["image_score"], columns["label"], strict=True), strict=True))
        size, patches = report["settings"]["image_size"], report["training"].get("step_patches")
        return cls(folder, report["method"], size, patches, report["category"], report["seed"], scores)

    @property
    def variant(self) -> str:
        """The method with its input, and with the patches of a training step if it does not take all."""
        patches = f" with {self.step_patches} patches" if self.step_patches else ""
        return f"{self.method}, {in_words(self.image_size)} px{patches}"


def runs_in(folder: Path, method: str | None = None) -> dict[str, list[Run]]:
    """All runs by category, by seed; of one method, if it is given."""
    found: dict[str, list[Run]] = {}
    for path in sorted(folder.rglob("metrics.json")):
        run = Run.read(path.parent)
        if method in (None, run.method):
            found.setdefault(run.category, []).append(run)
    return {category: sorted(runs, key=lambda run: run.seed) for category, runs in sorted(found.items())}


# ---------------------------------------------------------------- image AUROC


def placements(scores: Sequence[float], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the normal pictures below each anomalous one, and of the anomalous ones above each normal one."""
    values = np.asarray(scores, float)
    anomalous, normal = values[labels == 1], values[labels == 0]
    higher = (anomalous[:, None] > normal) + 0.5 * (anomalous[:, None] == normal)
    return higher.mean(1), higher.mean(0)


def delong(ours: Sequence[Sequence[float]], others: Sequence[Sequence[float]], labels: np.ndarray) -> list[float]:
    """Image AUROC of ours and of the others, each a mean over runs, and the two-sided p-value of their difference."""
    means = []
    for runs in (ours, others):
        pairs = [placements(scores, labels) for scores in runs]
        means.append([np.mean([pair[i] for pair in pairs], axis=0) for i in (0, 1)])
    differences = [one - other for one, other in zip(*means, strict=True)]
    variance = sum(np.var(d, ddof=1) / len(d) for d in differences)
    first, second = (float(mean[0].mean()) for mean in means)
    gap = abs(first - second)
    return [first, second, math.erfc(gap / math.sqrt(2 * variance)) if variance else float(gap == 0)]


def image_rows(ours: list[Run], others: list[Run]) -> dict:
    """The comparison of image AUROC, over the seeds of both and the pictures that both have."""
    shared = sorted(set.intersection(*(set(run.scores) for run in (*ours, *others))))
    labels = np.array([ours[0].scores[name][1] for name in shared])
    sides = [[[run.scores[name][0] for name in shared] for run in runs] for runs in (ours, others)]
    first, second, p = delong(*sides, labels)
    return {"image_auroc": [first, second], "image_p": p, "pictures": len(shared)}


# ---------------------------------------------------------------- AUPRO


@dataclass
class Curves:
    """Of each picture, at each threshold: normal pixels above, and the sum of its regions' shares above."""

    false: np.ndarray  # (n, T)
    regions: np.ndarray  # (n, T)
    normal: np.ndarray  # (n,)
    count: np.ndarray  # (n,)

    def aupro(self, weights: np.ndarray) -> np.ndarray:
        """(k, n) weights of the pictures -> (k,) areas up to a false-positive rate of 0.3, divided by 0.3."""
        rates = weights @ self.false / (weights @ self.normal)[:, None]
        overlaps = weights @ self.regions / (weights @ self.count)[:, None]
        return np.array([_area(x, y) for x, y in zip(rates, overlaps, strict=True)])


def _area(rates: np.ndarray, overlaps: np.ndarray) -> float:
    """Area under a rising curve up to LIMIT, divided by LIMIT."""
    inside = rates < LIMIT
    x = np.concatenate([[0], rates[inside], [LIMIT]])
    y = np.concatenate([[0], overlaps[inside], [np.interp(LIMIT, rates, overlaps)]])
    return float(np.trapezoid(y, x)) / LIMIT


def curves(maps: np.ndarray, masks: np.ndarray) -> Curves:
    """Maps (n, S, S) and masks (n, S, S) bool -> the curves at common thresholds, from the highest on."""
    normal = maps[~masks]
    # dense where the curve is steep, and to beyond the limit, because samples differ
    thresholds = np.quantile(normal, 1 - 0.5 * np.linspace(0, 1, STEPS) ** 3)
    parts = []
    for values, mask in zip(maps, masks, strict=True):
        labelled, count = ndimage.label(mask, np.ones((3, 3)))
        shares = [_above(values[labelled == i], thresholds) / (labelled == i).sum() for i in range(1, count + 1)]
        regions = np.sum(shares, axis=0) if count else np.zeros(STEPS)
        parts.append((_above(values[~mask], thresholds), regions, (~mask).sum(), count))
    return Curves(*(np.array(column, float) for column in zip(*parts, strict=True)))


def _above(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return len(values) - np.searchsorted(np.sort(values), thresholds, side="left")


def pixel_rows(ours: list[Run], others: list[Run], data: Path) -> dict:
    """The comparison of maps, and of image scores made in the same way, over all runs whose weights are there."""
    sides = [
        [load(run.folder) for run in runs if (run.folder / "model.safetensors").is_file()] for runs in (ours, others)
    ]
    category = category_of(ours[0].category, data)
    if not all(sides):
        return {}
    detectors = {f"{side}-{i}": d for side, models in enumerate(sides) for i, d in enumerate(models)}
    maps, highest = ({name: [] for name in detectors} for _ in range(2))
    masks = []
    for sample in tqdm(category.test, category.name, leave=False, disable=None):
        picture = sample.read()
        if category.has_masks:
            masks.append(small_mask(sample.read_mask((picture.height, picture.width))))
        prepared = PreparedPicture(picture)
        for name, prediction in compare(detectors, prepared).items():
            maps[name].append(_resized(prediction.anomaly_map))
            highest[name].append(_highest(detectors[name], prepared))
    both = [[np.stack(maps[name]) for name in maps if name[0] == str(side)] for side in (0, 1)]
    tops = [[np.stack(highest[name]) for name in maps if name[0] == str(side)] for side in (0, 1)]
    labels = np.array([sample.label for sample in category.test])
    first, second, p = delong(*tops, labels)
    found = {"image_auroc_top": [first, second], "image_p_top": p, "map_seeds": [len(models) for models in sides]}
    return found | (bootstrap(both, np.stack(masks)) if masks else {})


def bootstrap(sides: Sequence[Sequence[np.ndarray]], masks: np.ndarray) -> dict:
    """AUPRO of both sides, each a mean over the maps (n, S, S) of its runs, and the two-sided p-value."""
    weights = np.random.default_rng(0).multinomial(len(masks), [1 / len(masks)] * len(masks), SAMPLES)
    weights = np.vstack([np.ones(len(masks)), weights])
    areas = [np.mean([curves(maps, masks).aupro(weights) for maps in runs], axis=0) for runs in sides]
    gaps = areas[0][1:] - areas[1][1:]
    p = 2 * min((np.sum(gaps <= 0) + 1) / (SAMPLES + 1), (np.sum(gaps >= 0) + 1) / (SAMPLES + 1))
    return {"aupro": [float(area[0]) for area in areas], "aupro_p": min(1.0, float(p))}


def _highest(detector: AnomalyDetector, prepared: PreparedPicture) -> float:
    """Mean of the highest 1 % of the patch scores, whatever the detector's own image score is."""
    _, aggregated, _ = prepared.features(detector.front_end)
    patches = detector.score_patches(aggregated).flatten()
    return patches.topk(max(1, round(TOP_SHARE * len(patches)))).values.mean().item()


def category_of(name: str, data: Path) -> Category | None:
    """The pictures of a category in the folder of real pictures; None if it is not one of `SETS`."""
    place = next((place for place in SETS.values() if place.endswith(f"/{name}")), None)
    return read_category(None, name, data / "data" / place) if place else None


def _resized(values: np.ndarray) -> np.ndarray:
    small = F.interpolate(
        torch.from_numpy(np.ascontiguousarray(values))[None, None].float(), (SIZE, SIZE), mode="area"
    )
    return small[0, 0].numpy()


def small_mask(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) -> (256, 256) bool.

    A pixel is a defect if half of it is; a defect that is too thin for that keeps its fullest pixels.
    """
    share = _resized(mask.astype(np.float32))
    return (share >= min(0.5, share.max())) & (share > 0)


# ---------------------------------------------------------------- rows


def compared(ours: Path, other: Path, data: Path | None, method: str | None = None) -> Iterator[dict]:
    """A row for each category that both folders have."""
    first, second = (runs_in(folder, method) for folder in (ours, other))
    for category in (name for name in first if name in second):
        pair = first[category], second[category]
        names = [runs[0].method for runs in pair]
        if names[0] == names[1]:
            names = [runs[0].variant for runs in pair]
        seeds = [[run.seed for run in runs] for runs in pair]
        row = {"category": category, "ours": names[0], "other": names[1], "seeds": seeds}
        yield row | image_rows(*pair) | (pixel_rows(*pair, data) if data else {})


def results() -> list[dict]:
    """All rows."""
    return json.loads(RESULT.read_text()) if RESULT.is_file() else []


def paired_table(rows: Sequence[dict]) -> str:
    """Comparisons of methods, in per cent."""
    return table([_line(row) for row in rows], COLUMNS)


def of_inputs(rows: Sequence[dict], yes: bool = True) -> list[dict]:
    """The rows that compare variants of one method, or the others."""
    return [row for row in rows if (" px" in row["ours"]) == yes]


def inputs_table(rows: Sequence[dict]) -> str:
    """Comparisons of inputs, or of patches in a step, in per cent: the image AUROC of both."""
    lines = []
    for row in of_inputs(rows):
        (method, larger), (_, smaller) = (row[side].split(", ") for side in ("ours", "other"))
        named = {"category": row["category"], "method": method, "inputs": f"{larger} / {smaller}"}
        lines.append(_line(row) | named)
    order = {(line["category"], line["inputs"], line["method"]): line for line in lines}
    return table([order[key] for key in sorted(order)], INPUT_COLUMNS)


def _line(row: dict) -> dict:
    line = {"category": row["category"], "ours": row["ours"], "other": row["other"]}
    line["seeds"] = " / ".join(str(len(seeds)) for seeds in row["seeds"])
    if "map_seeds" in row:
        line["seeds of maps"] = " / ".join(map(str, row["map_seeds"]))
    for title, p_title, key, p in SHOWN:
        if key in row:
            line[title] = " / ".join(f"{100 * value:.1f}" for value in row[key])
            line[p_title] = p_text(row[p])
    return line


def p_text(p: float) -> str:
    """A p-value for a table."""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def add_rows(new: list[dict]) -> None:
    """Adds rows; those of the same category and methods are replaced."""
    key = ("category", "ours", "other")
    rows = results()
    write_json(RESULT, list({tuple(row[name] for name in key): row for row in [*rows, *new]}.values()))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", metavar="DIR", help="models of one method, then of others")
    parser.add_argument("--data", type=Path, help="folder of real pictures, for AUPRO")
    parser.add_argument("--method", choices=METHODS, help="only models of this method")
    parser.add_argument("--table", action="store_true", help="print the rows of different methods")
    parser.add_argument("--inputs", action="store_true", help="print the rows of different inputs")
    args = parser.parse_args()
    if args.inputs:
        return print(inputs_table(results()))
    if args.table or len(args.folders) < 2:
        return print(paired_table(of_inputs(results(), False)))
    command = provenance(f"python -m benchmarks.paired {' '.join(sys.argv[1:])}")
    ours, *others = args.folders
    for other in others:
        for row in compared(ours, other, args.data, args.method):
            print(paired_table([row]).splitlines()[-1], flush=True)
            add_rows([row | command])


if __name__ == "__main__":
    main()
