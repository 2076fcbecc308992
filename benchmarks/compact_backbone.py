"""The compact backbone compared with its teacher and its predecessor, on real parts.

    python -m benchmarks.compact_backbone measure NAME --backbone ID [--weights FILE] --teacher FILE --data DIR
    python -m benchmarks.compact_backbone collect NAME RUNS      # models that were trained on all sets
    python -m benchmarks.compact_backbone diversity PICTURES --teacher FILE --data DIR
    python -m benchmarks.compact_backbone table auroc            # or missed, pictures

`measure` writes, for each set, the image AUROC of a nearest-neighbour search with three random banks, and the share
of the variance of ResNet-18's features that the backbone misses. NAME is what the table calls the backbone.
`diversity` writes results/free_pictures.json: how many pictures come from each package, and how they compare with
those that the predecessor saw, in the teacher's features. DIR is a folder of real pictures, see `docs/data.md`.
"""

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import normalize
from tqdm import tqdm

from benchmarks.measuring import RESULTS, provenance, report, table
from hubmodels.backbone import Backbone, load_backbone, normalisation
from hubmodels.folders import read_category
from hubmodels.front_end import to_image
from hubmodels.methods import METHODS
from hubmodels.samples import Category, Sample
from training.evaluation import write_json
from training.metrics import image_metrics

SETS = {
    "screw": "mvtec_ad/screw",
    "bottle": "mvtec_ad/bottle",
    "capsule": "mvtec_ad/capsule",
    "tile": "magnetic_tile/magnetic_tile",
    "commutator": "kolektor_sdd/commutator",
    "elpv": "elpv/solar_cell_mono",
}
SIZE, BATCH, LAYERS = 256, 8, (2, 3)
SEEDS, TRAINED, BANK = 3, 150, 6000  # random banks, good pictures they come from, patches in each
COMPARED = 32  # test pictures of each set whose features are compared with the teacher's
TEACHER, RESULT = "resnet18.tv_in1k", RESULTS / "compact_backbone.json"
OLD_PICTURES = ("dtd/images", "mvtec_ad/screw/train", "magnetic_tile/*/train", "elpv/*/train")  # and 1,000 of ImageNet
DESCRIBED = 2000  # pictures of each set, at most
NEW_SETS = ("bottle", "capsule", "commutator")  # neither backbone saw pictures of these
DIVERSITY = ("set", "pictures", "described", "directions", "nearest_median", *NEW_SETS)


def category_of(name: str, data: Path) -> Category | None:
    """The pictures of a category in the folder of real pictures; None if it is not one of `SETS`."""
    place = next((place for place in SETS.values() if place.endswith(f"/{name}")), None)
    return read_category(None, name, data / "data" / place) if place else None


def images_of(samples: Iterable[Sample], backbone: str) -> Tensor:
    """The pictures as the network expects them (N, 3, S, S)."""
    images = torch.stack([to_image(sample.read(), SIZE) for sample in samples])
    return normalize(images, *normalisation(backbone))


@torch.inference_mode()
def patches(backbone: Backbone, samples: Sequence[Sample]) -> Tensor:
    """Features (N, P, C) of each patch: 3 x 3 averages of both layers, side by side at the finer layer's size."""
    found = []
    for start in tqdm(range(0, len(samples), BATCH), leave=False, disable=None):
        maps = backbone(images_of(samples[start : start + BATCH], backbone.name))
        maps = [F.avg_pool2d(m, 3, 1, 1) for m in maps]
        maps[1:] = [F.interpolate(m, maps[0].shape[2:], mode="bilinear") for m in maps[1:]]
        found.append(torch.cat(maps, 1).flatten(2).transpose(1, 2))
    return torch.cat(found)


def neighbour_auroc(train: Tensor, test: Tensor, labels: Sequence[int], seed: int) -> float:
    """Image AUROC in per cent of the largest distance of a patch to the nearest of a random bank."""
    rng = np.random.default_rng(seed)
    pool = train.flatten(0, 1)
    bank = pool[torch.from_numpy(rng.permutation(len(pool))[:BANK])]
    scores = [float(torch.cdist(picture, bank).amin(1).amax()) for picture in test]
    return 100 * image_metrics(scores, labels)["image_auroc"]


def measure(name: str, backbone: Backbone, teacher: Backbone, data: Path, command: str) -> Iterable[dict]:
    """A row for each set that is in DIR."""
    for short, place in SETS.items():
        if not (data / "data" / place).is_dir():
            print(f"{short} is not in {data}")
            continue
        category = read_category(None, short, data / "data" / place)
        rng = np.random.default_rng(0)
        train = [category.train[i] for i in rng.permutation(len(category.train))[:TRAINED]]
        labels = [sample.label for sample in category.test]
        pair = patches(backbone, train), patches(backbone, category.test)
        aurocs = [round(neighbour_auroc(*pair, labels, seed), 2) for seed in range(SEEDS)]
        some = [category.test[i] for i in rng.permutation(len(category.test))[:COMPARED]]
        yield {
            **{"backbone": name, "category": short, "method": "nearest neighbour", "image_auroc": aurocs},
            **{"missed_variance": missed(backbone, teacher, some), "sha256": backbone.fingerprint},
            **provenance(command),
        }


@torch.inference_mode()
def missed(backbone: Backbone, teacher: Backbone, samples: Sequence[Sample]) -> list[float]:
    """Share of the variance of the teacher's features on these pictures that the backbone misses, for each layer."""
    images = images_of(samples, TEACHER)
    shares = []
    for got, wanted in zip(backbone(images), teacher(images), strict=True):
        deviation = wanted.std((0, 2, 3), keepdim=True).clamp(min=1e-2)
        shares.append(round(float(((got - wanted) / deviation).square().mean()), 3))
    return shares


def collect(name: str, runs: Path) -> Iterable[dict]:
    """A row for each category that a method was trained on, over all seeds."""
    reports = [json.loads(path.read_text()) for path in sorted(runs.rglob("metrics.json"))]
    by_set = {place.split("/")[1]: short for short, place in SETS.items()}
    for category in sorted({r["category"] for r in reports}):
        same = [r for r in reports if r["category"] == category]
        values = {
            metric: [round(100 * r["metrics"][metric], 2) for r in same]
            for metric in ("image_auroc", "pixel_auroc", "aupro")
            if metric in same[0]["metrics"]
        }
        kept = {key: same[0][key] for key in ("machine", "versions", "command", "epochs")}
        short = by_set[category.split("/")[-1]]
        yield {"backbone": name, "category": short, "method": METHODS[same[0]["method"]].title, **values, **kept}


@torch.inference_mode()
def descriptions(teacher: Backbone, pictures: Sequence[Path]) -> Tensor:
    """The teacher's features of each picture, averaged over the picture (N, C)."""
    found = []
    for start in tqdm(range(0, len(pictures), BATCH), leave=False, disable=None):
        samples = [Sample(str(path), path, "good", 0) for path in pictures[start : start + BATCH]]
        found.append(torch.cat([m.mean((2, 3)) for m in teacher(images_of(samples, TEACHER))], 1))
    return torch.cat(found)


def spread_of(features: Tensor) -> dict[str, float]:
    """How different pictures are from each other.

    The effective number of directions is (sum of the covariance's eigenvalues)^2 / sum of their squares.
    """
    values = torch.linalg.eigvalsh(features.T.cov())
    nearest = torch.cdist(features, features).fill_diagonal_(torch.inf).amin(1)
    directions = float(values.sum() ** 2 / values.square().sum())
    return {"directions": round(directions, 1), "nearest_median": round(float(nearest.median()), 2)}


def diversity(folder: Path, teacher: Backbone, data: Path, command: str) -> list[dict]:
    """Rows for the free pictures and for the predecessor's: spread, and distances of new test pictures to them."""
    rng, sets = np.random.default_rng(0), {}
    for name, found in {"free pictures": folder.glob("*/*/*.jpg"), "before": old_pictures(data)}.items():
        paths = sorted(found)
        sets[name] = len(paths), [paths[i] for i in rng.permutation(len(paths))[:DESCRIBED]]
    features = {name: descriptions(teacher, some) for name, (_, some) in sets.items()}
    scale = torch.cat([*features.values()]).std(0)
    tests = {
        short: descriptions(teacher, sorted((data / "data" / SETS[short]).glob("test/*/*"))) for short in NEW_SETS
    }
    rows = []
    for name, (count, some) in sets.items():
        known = features[name] / scale
        nearest = {s: round(float(torch.cdist(f / scale, known).amin(1).median()), 2) for s, f in tests.items()}
        row = {"set": name, "pictures": count, "described": len(some), **spread_of(known), **nearest}
        rows.append(row | provenance(command))
    return rows


def old_pictures(data: Path) -> Iterable[Path]:
    """What is left of the pictures that the predecessor saw; 1,000 pictures of ImageNet are gone."""
    for pattern in OLD_PICTURES:
        yield from (path for path in (data / "data").glob(f"{pattern}/**/*") if path.is_file())


def packages(folder: Path, command: str) -> list[dict]:
    """How many pictures come from each package, and the hash of their hashes in the manifest."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    hashes = {}
    for row in rows:
        hashes.setdefault((row["kind"], row["package"]), []).append(row["sha256"])
    return [
        {
            **{"kind": kind, "package": package, "pictures": len(found)},
            **{"sha256_of_hashes": hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()},
            **provenance(command),
        }
        for (kind, package), found in hashes.items()
    ]


def save(rows: Iterable[dict]) -> None:
    """Adds rows; those of the same backbone, category and method are replaced."""
    key = ("backbone", "category", "method")
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else []
    for row in rows:
        kept = [*(r for r in kept if any(r[k] != row[k] for k in key)), row]
        write_json(RESULT, kept)


def results_table() -> str:
    """One line for each method and backbone: image AUROC of each set, and the mean where all are there."""
    lines, rows = [], json.loads(RESULT.read_text())
    for method in dict.fromkeys(row["method"] for row in rows):
        for backbone in dict.fromkeys(row["backbone"] for row in rows):
            same = [row for row in rows if (row["method"], row["backbone"]) == (method, backbone)]
            found = {row["category"]: row["image_auroc"] for row in same}
            if found:
                mean = np.mean([np.mean(values) for values in found.values()]) if found.keys() == SETS.keys() else None
                cells = {short: cell(values) for short, values in found.items()}
                lines.append({"method": method, "backbone": backbone, **cells, "mean": mean and f"{mean:.1f}"})
    return table(lines, ("method", "backbone", *SETS, "mean"))


def missed_table() -> str:
    """One line for each backbone: share of ResNet-18's variance that it misses in layer 2 / layer 3."""
    rows = [row for row in json.loads(RESULT.read_text()) if any(row.get("missed_variance", ()))]
    lines = {}
    for row in rows:
        shares = " / ".join(f"{share:.2f}" for share in row["missed_variance"])
        lines.setdefault(row["backbone"], {"backbone": row["backbone"]})[row["category"]] = shares
    return table(list(lines.values()), ("backbone", *SETS))


def pictures_table() -> str:
    """One line for the free pictures and one for the predecessor's; the file also has one for each package."""
    rows = json.loads((RESULTS / "free_pictures.json").read_text())
    return table([row for row in rows if "described" in row], DIVERSITY)


TABLES = {"auroc": results_table, "missed": missed_table, "pictures": pictures_table}


def cell(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def main() -> None:
    """Runs one of the four parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    measured = parts.add_parser("measure")
    measured.add_argument("name")
    measured.add_argument("--backbone", required=True)
    measured.add_argument("--weights", type=Path)
    measured.add_argument("--teacher", type=Path, required=True, metavar="FILE")
    measured.add_argument("--data", type=Path, required=True)
    collected = parts.add_parser("collect")
    collected.add_argument("name")
    collected.add_argument("runs", type=Path)
    described = parts.add_parser("diversity")
    described.add_argument("pictures", type=Path)
    described.add_argument("--teacher", type=Path, required=True, metavar="FILE")
    described.add_argument("--data", type=Path, required=True)
    parts.add_parser("table").add_argument("which", choices=TABLES)
    args = parser.parse_args()
    command = f"python -m benchmarks.compact_backbone {' '.join(sys.argv[1:])}"
    if args.part == "table":
        print(TABLES[args.which]())
        return
    if args.part == "collect":
        save(collect(args.name, args.runs))
        return
    teacher = load_backbone(TEACHER, LAYERS, weights=args.teacher)
    if args.part == "diversity":
        rows = diversity(args.pictures, teacher, args.data, command)
        report("free_pictures", rows + packages(args.pictures, command), DIVERSITY)
        return
    backbone = load_backbone(args.backbone, LAYERS, weights=args.weights)
    save(measure(args.name, backbone, teacher, args.data, command))


if __name__ == "__main__":
    main()
