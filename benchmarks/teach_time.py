"""How long the tab Teach takes for a new part: `python -m benchmarks.teach_time --data DIR`.

The hybrid, with the first 20, 50 and 200 good pictures of a category, cross-fitted in five folds as on the page, and
with pictures held out instead (`--folds 0`). The difference is the price of cross-fitting. It starts the training as
the page does, with a low priority, so the machine must be quiet. Writes `results/teach_time.json`; `--table` prints
the table of `docs/benchmarks.md` from it. DIR is a folder of real pictures, see `docs/data.md`.
"""

import argparse
import json
import sys
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import compact_backbone
from benchmarks.measuring import RESULTS, provenance, table
from hubmodels.hub.catalog import Catalog, list_own
from training.evaluation import write_json
from webapp.own_parts import Upload
from webapp.teaching import Lesson, Teacher, estimate

RESULT, COUNTS, FOLDS, METHOD = RESULTS / "teach_time.json", (20, 50, 200), (5, 0), "hybrid"


class FoldingTeacher(Teacher):
    """Teaches with another number of folds than the page does."""

    folds: int

    def command(self, lesson: Lesson) -> list[str]:
        """What trains a part."""
        return [*super().command(lesson), "--folds", str(self.folds)]


def measure(sources: list[Path], folds: int) -> dict:
    """Seconds of one part, and what the page says before."""
    with TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        teacher = FoldingTeacher(Catalog(lambda: list_own(runs)), runs, runs / "pictures")
        teacher.folds = folds
        guess, began = estimate(METHOD, len(sources)), time.perf_counter()
        teacher.parts.add("part", [Upload(path.name, path.read_bytes) for path in sources])
        lesson = teacher.start("part", [METHOD])
        while not lesson.is_over:
            time.sleep(0.1)
        seconds = time.perf_counter() - began
    found = {"state": lesson.state, "seconds": round(seconds, 1), "announced": round(guess)}
    return {"pictures": len(sources), "folds": folds} | found


def results_table() -> str:
    """The committed rows."""
    return table(json.loads(RESULT.read_text()), ("category", "method", "pictures", "folds", "seconds"))


def main() -> None:
    """Measures, or prints the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of real pictures, see docs/data.md")
    parser.add_argument("--category", choices=compact_backbone.SETS, default="capsule")
    parser.add_argument("--folds", type=int, nargs="+", default=FOLDS, metavar="N", help="as of train.py")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    args = parser.parse_args()
    if not args.table:
        if args.data is None:
            parser.error("--data is needed")
        folder = args.data / "data" / compact_backbone.SETS[args.category] / "train/good"
        command = "python -m benchmarks.teach_time " + " ".join(sys.argv[1:]).replace(str(args.data), "DIR")
        origin, sources = {"category": args.category, "method": METHOD} | provenance(command), sorted(folder.iterdir())
        pairs = product(COUNTS, args.folds)
        write_json(RESULT, [measure(sources[:count], folds) | origin for count, folds in pairs])
    print(results_table())


if __name__ == "__main__":
    main()
