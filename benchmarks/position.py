"""How much position and light a model tolerates, and whether a change is noticed: `python -m benchmarks.position`.

Good sample parts are moved to the right, turned, or made darker, and then inspected by the bundled models. The border
is filled by reflection. Batches of parts with one kind of defect, and of mixed kinds, follow. For each it counts the
pictures that are called defective, and the rows of 8 and 24 pictures for which `setup_changed` is true.

No model was trained on these pictures. `EVERYWHERE` in `hubmodels.setup_change` was chosen on other pictures of the
same parts. Writes `results/position.json`. `--table` prints the tables of the docs from it. Takes about ten minutes
on one core.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import RESULTS, provenance, table
from hubmodels import AnomalyDetector, AnomalyPrediction, PreparedPicture
from hubmodels.hub.catalog import Catalog
from hubmodels.methods import METHODS
from hubmodels.setup_change import CELL, FEWEST, GRID, WINDOW, setup_changed
from training.evaluation import write_json
from training.parts.dataset import DEFECTS, render
from training.position import move

SHIFTS, TURNS, LIGHT = (1, 2, 4, 6, 8, 12), (1, 2, 3, 5, 10), 0.8  # pixels of 256, degrees, factor
GOOD, DEFECTIVE = 48, 24  # pictures
FIRST_SEED = 700_000  # used nowhere else
ROWS = (FEWEST, WINDOW)  # pictures in a row


def changes() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What is done to good pictures, by name."""
    shifted = {f"shifted {pixels} px": lambda p, x=pixels: move(p, right=x) for pixels in SHIFTS}
    turned = {f"turned {degrees}°": lambda p, d=degrees: move(p, degrees=d) for degrees in TURNS}
    return {"good": lambda p: p} | shifted | turned | {"20 % darker": lambda p: (LIGHT * p).astype(np.uint8)}


def batches(part: str) -> Iterator[tuple[str, Iterable[np.ndarray]]]:
    """The pictures of a part, by what was done to them or by their defect."""
    good = [render(part, FIRST_SEED + i)[0] for i in range(GOOD)]
    for name, change in changes().items():
        yield name, map(change, good)
    kinds = DEFECTS[part]
    for block, kind in enumerate(kinds, start=1):
        seeds = range(FIRST_SEED + 1000 * block, FIRST_SEED + 1000 * block + DEFECTIVE)
        yield f"defect: {kind}", (render(part, seed, kind)[0] for seed in seeds)
    mixed = range(FIRST_SEED + 9000, FIRST_SEED + 9000 + DEFECTIVE)
    yield "defects: mixed", (render(part, seed, kinds[seed % len(kinds)])[0] for seed in mixed)


@torch.inference_mode()
def inspect(detectors: dict[str, AnomalyDetector], picture: np.ndarray) -> dict[str, AnomalyPrediction]:
    """Small predictions by method; without the check of the appearance, which may need a second pass."""
    prepared, found = PreparedPicture(picture), {}
    for name, detector in detectors.items():
        maps = prepared.features(detector.front_end)[1]
        found[name] = detector.predict_from_features(maps, [picture.shape[:2]])[0].at_most(CELL * GRID)
    return found


def row_of(part: str, name: str, detectors: dict[str, AnomalyDetector], pictures: Iterable[np.ndarray]) -> dict:
    """Counts of one batch: pictures, and by method those flagged, and rows of pictures by what the rule says."""
    seen = [inspect(detectors, picture) for picture in pictures]
    row = {"part": part, "change": name, "pictures": len(seen)}
    for method, detector in detectors.items():
        own = [found[method] for found in seen]
        row[f"{method}_flagged"] = sum(p.is_anomalous for p in own)
        for length in ROWS:
            windows = [own[start : start + length] for start in range(0, len(own) - length + 1, length)]
            row[f"{method}_rows_of_{length}"] = len(windows)
            row[f"{method}_noticed_{length}"] = sum(setup_changed(w, detector.calibration) for w in windows)
        row[f"{method}_scores"] = [round(p.image_score, 5) for p in own]
    return row


def measure() -> list[dict]:
    """A row for each part and batch."""
    catalog, rows, origin = Catalog.bundled(), [], provenance("python -m benchmarks.position")
    for part in DEFECTS:
        detectors = catalog.load(f"parts / {part}")
        for name, pictures in batches(part):
            rows.append(row_of(part, name, detectors, pictures) | origin)
        print(part, "is done", flush=True)
    return rows


def tolerance_table(rows: list[dict]) -> str:
    """Per cent of the good pictures that are called defective, by change and part: SimpleNet / GLASS."""
    names = list(changes())
    shown = []
    for name in names:
        cells = {r["part"]: _shares(r) for r in rows if r["change"] == name}
        shown.append({"good parts": "as trained" if name == "good" else name} | cells)
    return table(shown, ("good parts", *DEFECTS))


def rule_table(rows: list[dict]) -> str:
    """Rows of pictures for which the rule is true, of all, over parts and methods."""
    groups = {name: [r for r in rows if r["change"] == name] for name in changes()}
    groups["defects: mixed"] = [r for r in rows if r["change"] == "defects: mixed"]
    single = [r for r in rows if r["change"].startswith("defect: ")]
    groups["defects: misplaced print"] = [r for r in single if r["change"].endswith("misplaced_print")]
    groups["defects: another single kind"] = [r for r in single if not r["change"].endswith("misplaced_print")]
    return table([_rule_row(name, members) for name, members in groups.items()], ("pictures", *_RULE_COLUMNS))


_RULE_COLUMNS = ("flagged", *(f"noticed, {length} in a row" for length in ROWS))


def _rule_row(name: str, members: list[dict]) -> dict:
    def total(key: str) -> int:
        return sum(row[f"{method}_{key}"] for row in members for method in _measured(row))

    pictures = sum(len(_measured(row)) * row["pictures"] for row in members)
    noticed = {f"noticed, {n} in a row": f"{total(f'noticed_{n}')} of {total(f'rows_of_{n}')}" for n in ROWS}
    return {"pictures": name, "flagged": f"{total('flagged')} of {pictures}"} | noticed


def _shares(row: dict) -> str:
    return " / ".join(f"{100 * row[f'{method}_flagged'] / row['pictures']:.0f}" for method in _measured(row))


def _measured(row: dict) -> list[str]:
    """The methods of a row; a younger one is in no older row."""
    return [method for method in METHODS if f"{method}_flagged" in row]


def results(file: Path = RESULTS / "position.json") -> list[dict]:
    """The committed rows."""
    return json.loads(file.read_text())


def main() -> None:
    """Measures, or prints the tables of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=("tolerance", "rule"), help="print a table from the results")
    asked = parser.parse_args().table
    if asked is None:
        write_json(RESULTS / "position.json", measure())
    for name, form in {"tolerance": tolerance_table, "rule": rule_table}.items():
        if asked in (None, name):
            print(form(results()), end="\n\n")


if __name__ == "__main__":
    main()
