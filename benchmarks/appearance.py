"""How reliably other categories and bad pictures are noticed: `python -m benchmarks.appearance --data DIR`.

DIR is a folder of real pictures, see `docs/data.md`; what it does not contain is left out. Learns the appearance of
ten categories (the sample parts, MVTec AD bottle, capsule and screw, magnetic tile, ELPV) from 5, 30 and 100 held-out
good pictures. Then it checks new good and defective parts, the other categories, photos (`natural`, DTD textures), and
changed pictures: blurred by 3 px at 256, the same with new noise, 0.15 of the light, and 0.15 of the way from white.

The constants of `hubmodels.appearance` were chosen on the categories in CHOSEN_ON with the compact backbone. LIMIT is
the middle of the range without an error there, with 30 and 100 held-out pictures. LEAST_SPREAD was chosen on bottle.
No constant was chosen on the other categories and on ResNet-18. Prints a table and writes `results/appearance.json`:
shares of the pictures, means over the draws. Takes about eight minutes on one core.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.measuring import RESULTS
from hubmodels import SimpleNet
from hubmodels.appearance import LIMIT, Appearance, PictureStatistics
from hubmodels.backbone import load_backbone, normalisation
from hubmodels.compactnet import COMPACT_BACKBONE, COMPACT_IMAGE_SIZE
from hubmodels.comparison import PreparedPicture
from hubmodels.front_end import FrontEnd
from hubmodels.samples import Category
from training.data import SAMPLE_PARTS, open_categories
from training.evaluation import git_commit, machine, versions

DATA_SETS = ("mvtec_ad", "magnetic_tile", "elpv")
PHOTOS = ("natural", "dtd")
CHOSEN_ON = ("cloth", "pill", "washer", "magnetic_tile")
BACKBONES = {COMPACT_BACKBONE: None, "resnet18.tv_in1k": "weights/resnet18_tv_in1k_layer3.safetensors"}
SIZES, DRAWS = (5, 30, 100), 6  # held-out pictures; choices of them, one where all are taken
POOL, GOOD, DEFECTIVE, FOREIGN, SPOILED = 100, 100, 120, 300, 20  # pictures, at most
COLUMNS = ("good_unlike", "defective_unlike", "others_unlike", "photos_unlike", "right_category")
QUALITY = ("good_blurred", "blurred", "noisy_blurred", "good_dark", "dark", "good_bright", "bright")


def some(items: Iterable, count: int) -> list:
    """So many of them, chosen at random, always the same ones."""
    items = list(items)
    return [items[i] for i in np.random.default_rng(0).permutation(len(items))[:count]]


def spoiled(picture: Image.Image) -> dict[str, Image.Image]:
    """The changed pictures, by the kind of change."""
    pixels = np.asarray(picture).astype(float)
    blurred = picture.filter(ImageFilter.GaussianBlur(3 * min(picture.size) / COMPACT_IMAGE_SIZE))
    noise = np.random.default_rng(0).normal(0, 3, pixels.shape)
    changed = {
        "noisy_blurred": np.asarray(blurred) + noise,
        "dark": 0.15 * pixels,
        "bright": 255 - 0.15 * (255 - pixels),
    }
    arrays = {name: Image.fromarray(np.clip(new, 0, 255).astype(np.uint8)) for name, new in changed.items()}
    return {"blurred": blurred, **arrays}


def statistics_of(front_end: FrontEnd, category: Category) -> dict[str, list[PictureStatistics]]:
    """Statistics of a category's pictures, by kind. Held-out pictures come from `pool`, new good ones from `good`."""
    train = some(category.train, POOL + GOOD)
    good = [*(sample for sample in category.test if not sample.label), *train[POOL:]][:GOOD]
    defective = some((sample for sample in category.test if sample.label), DEFECTIVE)
    kinds = {"pool": train[:POOL], "good": good, "defective": defective}
    seen = {
        kind: [PreparedPicture(sample.read()).statistics(front_end) for sample in samples]
        for kind, samples in kinds.items()
    }
    for picture in [sample.read() for sample in good[:SPOILED]]:
        for name, changed in spoiled(picture).items():
            seen.setdefault(name, []).append(PreparedPicture(changed).statistics(front_end))
    print(f"{front_end.backbone_name}: {category.name} is read", flush=True)
    return seen


def fit_all(seen: dict[str, dict[str, list[PictureStatistics]]], size: int, draw: int) -> dict[str, Appearance]:
    """The appearance of each category, learned from so many pictures of its pool."""
    fitted = {}
    for name, kinds in seen.items():
        order = np.random.default_rng(draw).permutation(len(kinds["pool"]))[:size]
        fitted[name] = Appearance(len(kinds["pool"][0].features))
        fitted[name].fit([kinds["pool"][i] for i in order])
    return fitted


def warned(appearance: Appearance, seen: list[PictureStatistics], code: str) -> float:
    """Share of the pictures with that warning."""
    return float(np.mean([code in appearance.check(each).warnings for each in seen]))


def measure(name: str, seen: dict, photos: list[PictureStatistics], fitted: dict[str, Appearance]) -> dict[str, float]:
    """The shares of one category and one draw."""
    own, kinds = fitted[name], seen[name]
    others = [each for other in seen.keys() - {name} for kind in ("good", "defective") for each in seen[other][kind]]
    parts = kinds["good"] + kinds["defective"]
    first = [min(fitted, key=lambda label: fitted[label].check(each).ratio) for each in parts]
    shares = {"good_unlike": warned(own, kinds["good"], "unlike")}
    shares |= {"defective_unlike": warned(own, kinds["defective"], "unlike")}
    shares |= {"others_unlike": warned(own, others, "unlike"), "photos_unlike": warned(own, photos, "unlike")}
    shares |= {"right_category": float(np.mean([label == name for label in first]))}
    codes = {"noisy_blurred": "blurred", "blurred": "blurred", "dark": "dark", "bright": "bright"}
    shares |= {kind: warned(own, kinds[kind], code) for kind, code in codes.items()}
    return shares | {f"good_{code}": warned(own, kinds["good"], code) for code in ("blurred", "dark", "bright")}


def rows_of(backbone: str, weights: Path | None, data: Path) -> list[dict]:
    """A row for each category and number of held-out pictures, with means over the draws."""
    mean, std = normalisation(backbone)
    network = load_backbone(backbone, weights=weights)
    settings = {"backbone": backbone, "backbone_sha256": network.fingerprint, "mean": mean, "std": std}
    front_end = SimpleNet(**settings, image_size=COMPACT_IMAGE_SIZE).front_end
    roots = [SAMPLE_PARTS, *(data / "data" / name for name in DATA_SETS if (data / "data" / name).is_dir())]
    categories = [category for root in roots for category in open_categories(root)]
    seen = {category.name: statistics_of(front_end, category) for category in categories}
    paths = [path for name in PHOTOS for path in some(sorted((data / "data" / name).rglob("*.jpg")), FOREIGN)]
    photos = [PreparedPicture(path).statistics(front_end) for path in paths]
    rows = []
    for size in SIZES:
        draws = [fit_all(seen, size, draw) for draw in range(DRAWS if size < POOL else 1)]
        for name in seen:
            shares = [measure(name, seen, photos, fitted) for fitted in draws]
            means = {key: round(float(np.mean([share[key] for share in shares])), 4) for key in shares[0]}
            rows.append({"backbone": backbone, "held_out": size, "category": name, **means})
    return rows


def table(rows: list[dict]) -> str:
    """Per cent: means over the categories that the constants were chosen on, over the others, then each category."""
    lines = ["backbone     held out  categories       " + " ".join(f"{key[:13]:>13}" for key in COLUMNS + QUALITY)]
    for backbone, size in dict.fromkeys((row["backbone"], row["held_out"]) for row in rows):
        group = [row for row in rows if (row["backbone"], row["held_out"]) == (backbone, size)]
        parts = {"chosen on": [row for row in group if row["category"] in CHOSEN_ON]}
        parts["others"] = [row for row in group if row["category"] not in CHOSEN_ON]
        parts |= {row["category"]: [row] for row in group}
        for title, members in parts.items():
            shares = " ".join(f"{100 * np.mean([row[key] for row in members]):13.1f}" for key in COLUMNS + QUALITY)
            lines.append(f"{backbone[:12]:12} {size:8}  {title:16} {shares}")
    return "\n".join(lines)


def main() -> None:
    """Measures with each backbone that is there, prints the table and writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of real pictures and weights")
    data = parser.parse_args().data
    files = {name: file and data / file for name, file in BACKBONES.items()}
    found = {name: file for name, file in files.items() if file is None or file.is_file()}
    rows = [row for name, file in found.items() for row in rows_of(name, file, data)]
    command = " ".join(["python -m benchmarks.appearance", *sys.argv[1:]])
    common = {"command": command, "limit": LIMIT, "chosen_on": CHOSEN_ON, "draws": DRAWS}
    common |= {"machine": machine(), "commit": git_commit(), "versions": versions()}
    (RESULTS / "appearance.json").write_text(json.dumps(common | {"rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
