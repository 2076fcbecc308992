"""From a file of 12 megapixels to verdict and map, in torch and in ONNX Runtime: `python -m benchmarks.photo_time`.

The file is a JPEG of 4000 x 3000 pixels: an example part, enlarged, with noise. The model is a hybrid on the compact
backbone, untrained but with a full memory. `verdict` does not make the map at the picture's size, `map` does. The
exported file exists twice: one resizes the picture, the other leaves that to Pillow. All cases run in turns. A small
picture, 640 x 254 pixels and decoded, is inspected with inputs of other shapes, too.

A JPEG can also be decoded at a half of its size. `moved` is by how much this changes the scores of the bundled hybrids
on all examples, enlarged to such photos, in units of the way from a typical good part to the threshold.

Writes `results/photo_time.json`; `--table` prints the table of `docs/benchmarks.md` from it. Use a quiet machine.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.large_pictures import untrained
from benchmarks.measuring import RESULTS, origin, provenance, table
from benchmarks.timing import THREADS, spread, time_in_turns
from hubmodels.front_end import to_image
from hubmodels.hub.catalog import Catalog
from hubmodels.onnx.export import export
from hubmodels.onnx.runtime import ExportedModel
from hubmodels.pictures import read_picture
from hubmodels.sizes import in_words
from training.evaluation import write_json

PART = Path(__file__).parents[1] / "examples/parts/washer/scratch.png"
SIDES, SHAPE = (256, 512), (3000, 4000)
SMALL, INPUTS = (254, 640), ((256, 256), (400, 160), (272, 240), (368, 368), (576, 224), (384, 336))  # height x width
COLUMNS = ("input", "case", "median_ms", "p95_ms")


def main() -> None:
    """Measures all cases and writes them, or prints the last table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--table", action="store_true", help="only print the table of the last results")
    args = parser.parse_args()
    if args.table:
        return print(results_table())
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        photo = make_photo(PART, Path(folder) / "photo.jpg")
        rows = [row for side in SIDES for row in measure(side, photo, Path(folder), args.rounds)]
        rows += measure_inputs(args.rounds)
        moved = changes_at_a_half(Path(folder))
    common = provenance(" ".join(["python -m benchmarks.photo_time", *sys.argv[1:]]), "onnxruntime")
    write_json(RESULTS / "photo_time.json", [row | common | {"moved": moved} for row in rows])
    print(results_table())


def results_table() -> str:
    """The rows, with the machine that measured them."""
    rows = json.loads((RESULTS / "photo_time.json").read_text())
    mean, most = (100 * statistic(rows[0]["moved"]) for statistic in (statistics.mean, max))
    moved = f"Decoding at a half moves a score by {mean:.1f} % on average, and by up to {most:.0f} %."
    return f"{table(rows, COLUMNS)}\n\n{moved}\n\n{origin(rows[0])}"


def changes_at_a_half(folder: Path) -> list[float]:
    """By how much decoding at a half moves the score of each example."""
    catalog, moved = Catalog.bundled(), []
    for category in catalog.categories():
        detector = catalog.load(category)["hybrid"]
        for part in sorted((PART.parents[1] / category.split(" / ")[1]).glob("*.png")):
            photo = make_photo(part, folder / "example.jpg")
            whole, half = detector.predict(photo), detector.predict(decoded_at_a_half(photo))
            span = whole.threshold - whole.normal_score
            moved.append(round(abs(half.image_score - whole.image_score) / span, 4))
    return moved


def decoded_at_a_half(photo: Path) -> Image.Image:
    """A JPEG, decoded at half its size."""
    with Image.open(photo) as picture:
        picture.draft("RGB", (picture.width // 2, picture.height // 2))
        return picture.convert("RGB")


def make_photo(part: Path, path: Path) -> Path:
    """Writes an example part as a large JPEG."""
    with Image.open(part) as opened:
        pixels = np.asarray(opened.convert("RGB").resize(SHAPE[::-1], Image.Resampling.BICUBIC)).astype(np.float32)
    pixels += np.random.default_rng(0).normal(0, 4, (*SHAPE, 1))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return path


def measure(side: int, photo: Path, folder: Path, rounds: int) -> list[dict]:
    """A row for each case."""
    detector, picture = untrained((side, side)), read_picture(photo)
    detector.calibrate(sorted(PART.parent.glob("good*.png")))
    files = {}
    for name, resizes in (("ONNX Runtime", True), ("ONNX Runtime, resized by Pillow", False)):
        export([detector], folder / f"{side}{resizes}.onnx", [picture], resizes)
        files[name] = ExportedModel(folder / f"{side}{resizes}.onnx", THREADS)
    cases = {
        "decoding": lambda: read_picture(photo),
        "decoding at a half": lambda: decoded_at_a_half(photo),
        "resizing": lambda: to_image(picture, side),
        "torch, picture to verdict": lambda: detector.predict(picture).is_anomalous,
        "torch, picture to map": lambda: detector.predict(picture).anomaly_map,
        "torch, file to verdict": lambda: detector.predict(photo).is_anomalous,
        "torch, file to map": lambda: detector.predict(photo).anomaly_map,
    }
    for name, model in files.items():
        cases[f"{name}, picture to verdict"] = lambda model=model: model.predict(picture).is_anomalous
        cases[f"{name}, picture to map"] = lambda model=model: model.predict(picture).anomaly_map
    times = time_in_turns(cases, rounds)
    return [{"input": f"{side} px", "case": case} | spread(taken) for case, taken in times.items()]


def measure_inputs(rounds: int) -> list[dict]:
    """A row for each input, with a small picture."""
    with Image.open(PART) as part:
        picture = part.convert("RGB").resize(SMALL[::-1])
    detectors = {in_words(size): untrained(size) for size in INPUTS}
    cases = {size: lambda d=detector: d.predict(picture).anomaly_map for size, detector in detectors.items()}
    case = "torch, small picture to map"
    return [
        {"input": f"{size} px", "case": case} | spread(taken) for size, taken in time_in_turns(cases, rounds).items()
    ]


if __name__ == "__main__":
    main()
