"""How long the tab Teach takes for a new part: `python -m benchmarks.teach_time --data DIR`.

The hybrid, with the first 20, 50 and 200 good pictures of a category. It starts the training as the page does, with a
low priority, so the machine must be quiet. Writes `results/teach_time.json`; `--table` prints it. DIR is a folder of
real pictures, see `docs/data.md`.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import compact_backbone
from benchmarks.measuring import RESULTS, provenance, table
from hubmodels.hub.catalog import Catalog, list_own
from training.evaluation import write_json
from webapp.own_parts import Upload
from webapp.teaching import Teacher, estimate

RESULT, COUNTS, METHOD = RESULTS / "teach_time.json", (20, 50, 200), "hybrid"


def measure(sources: list[Path]) -> dict:
    """Seconds of one part, and what the page says before."""
    with TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        teacher = Teacher(Catalog(lambda: list_own(runs)), runs, runs / "pictures")
        guess, began = estimate(METHOD, len(sources)), time.perf_counter()
        teacher.parts.add("part", [Upload(path.name, path.read_bytes) for path in sources])
        lesson = teacher.start("part", [METHOD])
        while not lesson.is_over:
            time.sleep(0.1)
        seconds = time.perf_counter() - began
    return {"pictures": len(sources), "state": lesson.state, "seconds": round(seconds, 1), "announced": round(guess)}


def results_table() -> str:
    """The committed rows."""
    return table(json.loads(RESULT.read_text()), ("category", "method", "pictures", "seconds"))


def main() -> None:
    """Measures, or prints the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of real pictures, see docs/data.md")
    parser.add_argument("--category", choices=compact_backbone.SETS, default="capsule")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    args = parser.parse_args()
    if not args.table:
        if args.data is None:
            parser.error("--data is needed")
        folder = args.data / "data" / compact_backbone.SETS[args.category] / "train/good"
        origin = {"category": args.category, "method": METHOD} | provenance(
            "python -m benchmarks.teach_time --data DIR"
        )
        write_json(RESULT, [measure(sorted(folder.iterdir())[:count]) | origin for count in COUNTS])
    print(results_table())


if __name__ == "__main__":
    main()
