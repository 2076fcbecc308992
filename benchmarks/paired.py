"""Two methods on the same test pictures: differences with paired tests.

    python -m benchmarks.paired OURS OTHER [OTHER ...] [--data DIR]   # adds rows to results/paired.json
    python -m benchmarks.paired --table

OURS and each OTHER are folders that contain model folders of one method, of all categories and seeds. Image AUROC
comes from `scores.parquet`, is averaged over the seeds, and compared by the test of DeLong et al. (Biometrics 1988).
AUPRO needs the weights and DIR, a folder of real pictures (`docs/data.md`): all models are applied again, maps and
masks are compared at 256 px, and the p-value comes from 2,000 bootstrap samples of the pictures. Pictures, not seeds,
are what varies in both tests.
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
from hubmodels import compare, load
from hubmodels.comparison import PreparedPicture
from hubmodels.folders import read_category
from training.evaluation import write_json

RESULT = RESULTS / "paired.json"
LIMIT, STEPS, SAMPLES = 0.3, 400, 2000  # false-positive rate; thresholds of a curve; bootstrap samples
COLUMNS = ("category", "ours", "other", "seeds", "image AUROC", "p", "AUPRO", "p of AUPRO")


@dataclass(frozen=True)
class Run:
    """One trained model: its folder, what it is, and the image scores by picture."""

    folder: Path
    method: str
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
        return cls(folder, report["method"], report["category"], report["seed"], scores)


def runs_in(folder: Path) -> dict[str, list[Run]]:
    """All runs by category, by seed."""
    found: dict[str, list[Run]] = {}
    for path in sorted(folder.rglob("metrics.json")):
        run = Run.read(path.parent)
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
    """The comparison of AUPRO, over all runs whose weights are there."""
    sides = [
        [load(run.folder) for run in runs if (run.folder / "model.safetensors").is_file()] for runs in (ours, others)
    ]
    category = read_category(None, ours[0].category, data / "data" / _place(ours[0].category))
    if not category.has_masks or not all(sides):
        return {}
    detectors = {f"{side}-{i}": d for side, models in enumerate(sides) for i, d in enumerate(models)}
    maps: dict[str, list[np.ndarray]] = {name: [] for name in detectors}
    masks = []
    for sample in tqdm(category.test, category.name, leave=False, disable=None):
        picture = sample.read()
        masks.append(small_mask(sample.read_mask((picture.height, picture.width))))
        for name, prediction in compare(detectors, PreparedPicture(picture)).items():
            maps[name].append(_resized(prediction.anomaly_map))
    truth = np.stack(masks)
    weights = np.random.default_rng(0).multinomial(len(truth), [1 / len(truth)] * len(truth), SAMPLES)
    weights = np.vstack([np.ones(len(truth)), weights])
    areas = [
        np.mean([curves(np.stack(maps[name]), truth).aupro(weights) for name in maps if name[0] == str(side)], axis=0)
        for side in (0, 1)
    ]
    gaps = areas[0][1:] - areas[1][1:]
    p = 2 * min((np.sum(gaps <= 0) + 1) / (SAMPLES + 1), (np.sum(gaps >= 0) + 1) / (SAMPLES + 1))
    used = {"map_seeds": [len(models) for models in sides]}
    return {"aupro": [float(a[0]) for a in areas], "aupro_p": min(1.0, float(p)), **used}


def _place(category: str) -> str:
    return next(place for place in SETS.values() if place.endswith(f"/{category}"))


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


def compared(ours: Path, other: Path, data: Path | None) -> Iterator[dict]:
    """A row for each category that both folders have."""
    first, second = runs_in(ours), runs_in(other)
    for category in (name for name in first if name in second):
        pair = first[category], second[category]
        methods = {"ours": pair[0][0].method, "other": pair[1][0].method}
        row = {"category": category, **methods, "seeds": [[run.seed for run in runs] for runs in pair]}
        yield row | image_rows(*pair) | (pixel_rows(*pair, data) if data else {})


def results() -> list[dict]:
    """All rows."""
    return json.loads(RESULT.read_text()) if RESULT.is_file() else []


def paired_table(rows: Sequence[dict]) -> str:
    """All comparisons, in per cent."""
    return table([_line(row) for row in rows], COLUMNS)


def _line(row: dict) -> dict:
    line = {"category": row["category"], "ours": row["ours"], "other": row["other"]}
    line["seeds"] = " / ".join(str(len(seeds)) for seeds in row["seeds"])
    for title, key, p in (("image AUROC", "image_auroc", "image_p"), ("AUPRO", "aupro", "aupro_p")):
        if key in row:
            line[title] = " / ".join(f"{100 * value:.1f}" for value in row[key])
            line["p" if key == "image_auroc" else "p of AUPRO"] = f"{row[p]:.3f}" if row[p] >= 0.001 else "<0.001"
    return line


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
    parser.add_argument("--table", action="store_true", help="print all rows")
    args = parser.parse_args()
    if args.table or len(args.folders) < 2:
        print(paired_table(results()))
        return
    command = provenance(f"python -m benchmarks.paired {' '.join(sys.argv[1:])}")
    ours, *others = args.folders
    for other in others:
        for row in compared(ours, other, args.data):
            print(paired_table([row]).splitlines()[-1], flush=True)
            add_rows([row | command])


if __name__ == "__main__":
    main()
