"""How reliably exchanged red and blue are noticed: `python -m benchmarks.colours --data DIR`.

Each picture is checked as it is and with red and blue exchanged, as OpenCV reads it. The sample parts are checked by
the bundled models, on parts that no model was trained on. MVTec AD bottle and capsule are checked by an appearance
that was learned from 30 of their good training pictures, with the compact backbone. DIR is a folder of real pictures,
see `docs/data.md`; sets that it does not contain are left out. Grey sets cannot show an exchange and are not listed.

The constants of `hubmodels.appearance` were chosen before on other parts of the same kinds, and on the same real sets.
Writes `results/colours.json`. `--table` prints the table of the docs from it. Takes about four minutes on one core.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.appearance import some
from benchmarks.measuring import RESULTS, provenance, table
from hubmodels import PreparedPicture, check_appearance
from hubmodels.appearance import SWAPPED, Appearance
from hubmodels.comparison import CategoryAppearance
from hubmodels.hub.catalog import Catalog
from training.data import open_categories
from training.evaluation import write_json
from training.parts.dataset import DEFECTS, render

REAL_SETS, HELD_OUT = ("bottle", "capsule"), 30
GOOD, EACH_DEFECT = 20, 8  # pictures of each sample part
FIRST_SEED = 800_000  # used nowhere else


def is_noticed(candidate: CategoryAppearance, picture: np.ndarray) -> bool:
    """Whether the picture gets the warning."""
    return SWAPPED in check_appearance({"any": candidate}, picture).warnings


def row_of(name: str, kind: str, candidate: CategoryAppearance, pictures: Iterable[np.ndarray]) -> dict:
    """Counts of one kind of pictures of a set."""
    found = [(is_noticed(candidate, p), is_noticed(candidate, np.ascontiguousarray(p[..., ::-1]))) for p in pictures]
    right, exchanged = (sum(column) for column in zip(*found, strict=True))
    return {"set": name, "kind": kind, "pictures": len(found), "false_alarms": right, "noticed": exchanged}


def sample_parts() -> list[dict]:
    """Rows of the rendered parts."""
    catalog, rows = Catalog.bundled(), []
    for part, kinds in DEFECTS.items():
        candidate = next(iter(catalog.load(f"parts / {part}").values()))
        good = [render(part, FIRST_SEED + i)[0] for i in range(GOOD)]
        bad = [
            render(part, FIRST_SEED + 1000 * (k + 1) + i, d)[0]
            for k, d in enumerate(kinds)
            for i in range(EACH_DEFECT)
        ]
        rows += [row_of(part, "good", candidate, good), row_of(part, "defective", candidate, bad)]
        print(part, "is done", flush=True)
    return rows


def real_sets(folder: Path) -> list[dict]:
    """Rows of the real sets with colour."""
    front_end, rows = next(iter(Catalog.bundled().load("parts / washer").values())).front_end, []
    for category in open_categories(folder) if folder.is_dir() else ():
        if category.name not in REAL_SETS:
            continue
        appearance = Appearance(front_end.embed_dim)
        appearance.fit([PreparedPicture(s.read()).statistics(front_end) for s in some(category.train, HELD_OUT)])
        candidate = CategoryAppearance(front_end, appearance)
        for label, kind in enumerate(("good", "defective")):
            pictures = (np.asarray(s.read()) for s in category.test if s.label == label)
            rows.append(row_of(category.name, kind, candidate, pictures))
        print(category.name, "is done", flush=True)
    return rows


def results_table(file: Path = RESULTS / "colours.json") -> str:
    """The committed rows."""
    shown = [
        {
            "pictures": f"{row['set'].replace('_', ' ')}, {row['kind']}",
            "warning": f"{row['false_alarms']} of {row['pictures']}",
            "red and blue exchanged": f"{row['noticed']} of {row['pictures']}",
        }
        for row in json.loads(file.read_text())
    ]
    return table(shown, ("pictures", "warning", "red and blue exchanged"))


def main() -> None:
    """Measures, or prints the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of real pictures")
    parser.add_argument("--table", action="store_true", help="print the table from the results")
    args = parser.parse_args()
    if not args.table:
        origin = provenance("python -m benchmarks.colours" + (" --data DIR" if args.data else ""))
        rows = sample_parts() + (real_sets(args.data / "data" / "mvtec_ad") if args.data else [])
        write_json(RESULTS / "colours.json", [row | origin for row in rows])
    print(results_table())


if __name__ == "__main__":
    main()
