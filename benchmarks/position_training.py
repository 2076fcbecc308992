"""What `--position-tolerance` changes: `python -m benchmarks.position_training --data DIR`.

Trains SimpleNet on the compact backbone, as the pictures are and with a tolerance of 4 % and 4 degrees: 20 epochs,
half of the good pictures held out. Then the good test pictures are moved to the right, or turned, and inspected. It
counts those that are called defective, and gives the metrics on the test pictures as they are. Two rendered parts,
and with `--data` bottle of MVTec AD. Writes `results/position_training.json`; `--table` prints it. Takes
about half an hour on two cores.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.measuring import RESULTS, provenance, table
from hubmodels import SimpleNet
from training import train
from training.data import open_categories
from training.evaluation import read_report, write_json
from training.position import move

FILE = RESULTS / "position_training.json"
PARTS, REAL = ("washer", "connector"), ("bottle",)
TOLERANCE = ("4", "4")  # % of the sides, degrees
CHANGES = {
    "as they are": (0, 0),
    "shifted 3 %": (0.03, 0),
    "shifted 5 %": (0.05, 0),
    "turned 3°": (0, 3),
    "turned 5°": (0, 5),
}
METRICS = ("image_auroc", "pixel_auroc", "recall_at_threshold")
SIDE = 256  # pixels: larger test pictures are scaled down first


def flagged(detector: SimpleNet, pictures: list[Image.Image]) -> dict[str, int]:
    """How many good pictures are called defective, by what was done to them."""
    found = dict.fromkeys(CHANGES, 0)
    for picture in pictures:
        pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX) if picture.width > SIDE else picture)
        for name, (shift, degrees) in CHANGES.items():
            moved = move(pixels, right=round(shift * pixels.shape[1]), degrees=degrees)
            found[name] += detector.predict(moved).is_anomalous
    return found


def measure(root: str, category: str) -> list[dict]:
    """A row for the training as the pictures are, and one with the tolerance."""
    good = [s.read() for s in open_categories(root, [category])[0].test if s.label == 0]
    rows = []
    for tolerance in ([], ["--position-tolerance", *TOLERANCE]):
        with TemporaryDirectory() as folder:
            command = ["--data-root", root, "--categories", category, "--methods", "simplenet", "--epochs", "20"]
            command += ["--backbone", "compactnet.distilled_in1k", "--holdout", "0.5", "--output", folder, *tolerance]
            if train.main(command):
                raise SystemExit(f"the training of {category} failed")
            model = next(Path(folder).glob("simplenet-*"))
            report = read_report(model)
            row = {"category": category, "tolerance": " ".join(tolerance[1:]), "good": len(good)}
            row |= {"flagged": flagged(SimpleNet.from_pretrained(model), good)}
            row |= {key: report["metrics"].get(key) for key in METRICS}
            row |= {"train_seconds": report["training"]["train_seconds"]}
            rows.append(row | provenance("python -m benchmarks.position_training --data DIR"))
            print(rows[-1], flush=True)
    return rows


def results_table() -> str:
    """Per cent of the good test pictures that are called defective, and the metrics, from the committed results."""
    lines = []
    for row in json.loads(FILE.read_text()):
        line = {"category": row["category"], "trained": "4 %, 4°" if row["tolerance"] else "as they are"}
        line |= {name: f"{100 * count / row['good']:.0f}" for name, count in row["flagged"].items()}
        lines.append(line | {key: f"{100 * row[key]:.1f}" for key in METRICS})
    return table(lines, ("category", "trained", *CHANGES, *METRICS))


def main() -> None:
    """Measures, or prints the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of real pictures, see docs/data.md")
    parser.add_argument("--only", nargs="+", metavar="CATEGORY", help="measure these, and keep the other results")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    args = parser.parse_args()
    roots = dict.fromkeys(PARTS, "parts:") | dict.fromkeys(REAL if args.data else (), f"{args.data}/data/mvtec_ad")
    for category in () if args.table else args.only or roots:
        kept = [row for row in json.loads(FILE.read_text()) if row["category"] != category] if FILE.exists() else []
        write_json(FILE, kept + measure(roots[category], category))
    print(results_table())


if __name__ == "__main__":
    main()
