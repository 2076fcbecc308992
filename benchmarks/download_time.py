"""How long a visitor waits for a download of a large picture: `python -m benchmarks.download_time`.

The picture is the JPEG of 12 megapixels of `photo_time`. A case is what a click in the tab Inspect does: the bundled
models inspect the picture again, and the file is written. The cases take turns. Each should take less than 3 s.

Writes `results/download_time.json`; `--table` prints the table of `docs/benchmarks.md` from it. Use a quiet machine.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.measuring import RESULTS, origin, provenance, table
from benchmarks.photo_time import PART, make_photo
from benchmarks.timing import THREADS, spread, time_in_turns
from hubmodels.hub.catalog import Catalog
from training.evaluation import write_json
from webapp.inspection import inspect_picture
from webapp.results import write_download

RESULT, CATEGORY, METHODS = RESULTS / "download_time.json", "parts / washer", ("hybrid", "simplenet", "glass")
CASES = (("overlay", 1), ("mask", 1), ("map", 1), ("zip", 1), ("zip", 2), ("zip", 3))  # with so many methods
COLUMNS = ("file", "methods", "megabytes", "median_ms", "p95_ms")


def measure(photo: Path, rounds: int) -> list[dict]:
    """A row for each case."""
    catalog, sizes = Catalog.bundled(), {}

    def click(what: str, count: int) -> None:
        inspection = inspect_picture(catalog, CATEGORY, str(photo), None, list(METHODS[:count]))
        path = write_download(inspection, what, next(iter(inspection.predictions)), inspection.record(CATEGORY))
        sizes[what, count] = round(path.stat().st_size / 1e6, 1)
        path.unlink()

    times = time_in_turns({case: lambda case=case: click(*case) for case in CASES}, rounds)
    return [
        {"file": what, "methods": count, "megabytes": sizes[what, count]} | spread(taken)
        for (what, count), taken in times.items()
    ]


def results_table() -> str:
    """The rows, with the machine that measured them."""
    rows = json.loads(RESULT.read_text())
    return f"{table(rows, COLUMNS)}\n\n{origin(rows[0])}"


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
        os.environ["GRADIO_TEMP_DIR"] = folder
        rows = measure(make_photo(PART, Path(folder) / "photo.jpg"), args.rounds)
    common = provenance(" ".join(["python -m benchmarks.download_time", *sys.argv[1:]]))
    write_json(RESULT, [row | common for row in rows])
    print(results_table())


if __name__ == "__main__":
    main()
