"""From a file of 12 megapixels to verdict and map, in torch and in ONNX Runtime: `python -m benchmarks.photo_time`.

The file is a JPEG of 4000 x 3000 pixels: an example part, enlarged, with noise. The model is a hybrid on the compact
backbone, untrained but with a full memory. `verdict` does not make the map at the picture's size, `map` does. The
exported file exists twice: one resizes the picture, the other leaves that to Pillow. All cases run in turns.

Writes `results/photo_time.json`; `--table` prints the table of `docs/benchmarks.md` from it. Use a quiet machine.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.large_pictures import untrained
from benchmarks.measuring import RESULTS, origin, provenance, report, table
from benchmarks.timing import THREADS, spread, time_in_turns
from hubmodels.front_end import to_image
from hubmodels.onnx.export import export
from hubmodels.onnx.runtime import ExportedModel
from hubmodels.pictures import read_picture

PART = Path(__file__).parents[1] / "examples/parts/washer/scratch.png"
SIDES, SHAPE = (256, 512), (3000, 4000)
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
        photo = make_photo(Path(folder) / "photo.jpg")
        rows = [row for side in SIDES for row in measure(side, photo, Path(folder), args.rounds)]
    common = provenance(" ".join(["python -m benchmarks.photo_time", *sys.argv[1:]]), "onnxruntime")
    report("photo_time", [row | common for row in rows], COLUMNS)


def results_table() -> str:
    """The rows, with the machine that measured them."""
    rows = json.loads((RESULTS / "photo_time.json").read_text())
    return f"{table(rows, COLUMNS)}\n\n{origin(rows[0])}"


def make_photo(path: Path) -> Path:
    """Writes the JPEG."""
    with Image.open(PART) as part:
        pixels = np.asarray(part.convert("RGB").resize(SHAPE[::-1], Image.Resampling.BICUBIC)).astype(np.float32)
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
        "resizing": lambda: to_image(picture, side),
        "torch, picture to verdict": lambda: detector.predict(picture).is_anomalous,
        "torch, picture to map": lambda: detector.predict(picture).anomaly_map,
        "torch, file to verdict": lambda: detector.predict(photo).is_anomalous,
        "torch, file to map": lambda: detector.predict(photo).anomaly_map,
    }
    for name, model in files.items():
        cases[f"{name}, picture to map"] = lambda model=model: model.predict(picture).anomaly_map
    times = time_in_turns(cases, rounds)
    return [{"input": f"{side} px", "case": case} | spread(taken) for case, taken in times.items()]


if __name__ == "__main__":
    main()
