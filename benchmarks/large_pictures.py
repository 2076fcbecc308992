"""Memory and time of large pictures, in one piece and in tiles: `python -m benchmarks.large_pictures`.

A hybrid on the compact backbone, untrained but with a full memory, inspects a PNG of noise as large as its input.
Each case runs in a fresh process. `peak_mb` is the highest resident memory above that of the libraries: it includes
the weights, the picture, and its map. `in one piece` lifts the limits of `hubmodels/tiles.py` and
`hubmodels/heads.py`; `difference` compares its map with that of the tiles, in units of the largest value. `seconds` is
from file to verdict and map, the first of the process.

Writes `results/large_pictures.json`; `--table` prints the table of `docs/benchmarks.md` from it.
"""

import argparse
import json
import math
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measuring import RESULTS, origin, provenance, report, table
from benchmarks.timing import THREADS, resident_mb
from hubmodels import Hybrid, heads, tiles
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.sizes import LARGEST_AREA, in_words
from training.objectives.hybrid import HybridObjective

SIZES = ((512, 512), (1024, 1024), (2048, 1536), (256, 8192), (4000, 3000), (3648, 5472))  # height x width
COLUMNS = ("input", "megapixels", "way", "peak_mb", "seconds", "difference")
WAYS = ("in one piece", "in tiles")


def main() -> None:
    """Measures all sizes and writes them, or prints the last table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="only print the table of the last results")
    if parser.parse_args().table:
        return print(results_table())
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for size in SIZES for row in measure(size, Path(folder))]
    common = provenance(" ".join(["python -m benchmarks.large_pictures", *sys.argv[1:]]))
    report("large_pictures", [row | common for row in rows], COLUMNS)


def results_table() -> str:
    """The rows, with the machine that measured them."""
    rows = json.loads((RESULTS / "large_pictures.json").read_text())
    return f"{table(rows, COLUMNS)}\n\n{origin(rows[0])}"


def measure(size: tuple[int, int], folder: Path) -> list[dict]:
    """A row for each way of a picture (height, width); small ones go in one piece."""
    picture, rows, maps = folder / "noise.png", [], {}
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(picture, compress_level=1)
    for way in WAYS if math.prod(size) > tiles.LARGEST_WHOLE else WAYS[:1]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            measured = pool.apply(measure_one, (picture, size, way, folder / "map.npy"))
        rows.append({"input": in_words(size), "megapixels": round(math.prod(size) / 1e6, 1), "way": way} | measured)
        maps[way] = np.load(folder / "map.npy")
        print(table(rows[-1:], COLUMNS).splitlines()[-1], flush=True)
    if len(maps) > 1:
        whole, ours = (maps[way] for way in WAYS)
        rows[-1]["difference"] = f"{np.abs(whole - ours).max() / np.abs(whole).max():.0e}"
    return rows


@torch.inference_mode()
def measure_one(picture: Path, size: tuple[int, int], way: str, result: Path) -> dict:
    """Memory and time of one case, in a process of its own."""
    libraries = resident_mb("VmRSS")
    torch.set_num_threads(THREADS)
    if way == "in one piece":
        tiles.LARGEST_WHOLE, heads.MOST_VALUES = LARGEST_AREA, 2**62
    detector = untrained(size)
    start = time.perf_counter()
    anomaly_map = detector.predict(picture).anomaly_map
    measured = {"peak_mb": resident_mb() - libraries, "seconds": round(time.perf_counter() - start, 1)}
    np.save(result, anomaly_map)
    return {"libraries_mb": libraries} | measured


def untrained(size: tuple[int, int]) -> Hybrid:
    """A hybrid with random weights and as many vectors as a trained one."""
    torch.manual_seed(0)
    detector = Hybrid(backbone=COMPACT_BACKBONE, image_size=size).eval()
    HybridObjective.grow(detector)
    for buffer in (detector.head.memory.projection, detector.head.memory.vectors):
        buffer.copy_(torch.randn_like(buffer))
    return detector


if __name__ == "__main__":
    main()
