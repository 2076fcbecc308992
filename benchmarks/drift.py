"""After how many pictures is the drift alarm raised, and is it silent while nothing changes?

    python -m benchmarks.drift run --data DIR --category capsule --splits 2
    python -m benchmarks.drift streams      # the alarms again, from the numbers
    python -m benchmarks.drift table

As in `benchmarks.promises`, a model is taught with some of all good pictures, drawn at random. The other good ones are
the stream. `run` adds their numbers to `results/drift.parquet`: as they are, and changed as in CHANGES. The table
shuffles the streams: each time SHUFFLES orders of a model, either unchanged, or changed from some picture on. DIR is a
folder of real pictures, see `docs/data.md`. The compact backbone, 256 px, hybrid.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from benchmarks import compact_backbone, promises
from benchmarks.changes import UNCHANGED, lit, turned
from benchmarks.measuring import RESULTS, provenance, table
from hubmodels.comparison import PreparedPicture, check_appearance
from hubmodels.detector import AnomalyDetector
from hubmodels.line.drift import DriftWatch
from hubmodels.line.line import BRIGHTER, DARKER, LOOK, look_and_light
from hubmodels.samples import Sample
from training.evaluation import write_json
from training.position import move

RESULT, ORIGIN = RESULTS / "drift.parquet", RESULTS / "drift.json"
ALARMS = RESULTS / "drift_alarms.parquet"  # of all streams, because they take half a minute
KEY = ("category", "split", "change")
SHUFFLES = 100
BEGINNINGS = (0, 60)  # unchanged pictures before a change
SHARE = 0.02  # of defective pictures in a stream with defects
DEFECTIVE = "defective parts"


def jpeg(pixels: np.ndarray) -> np.ndarray:
    """Compressed with quality 60."""
    stream = BytesIO()
    Image.fromarray(pixels).convert("RGB").save(stream, "JPEG", quality=60)
    return np.asarray(Image.open(stream))


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    UNCHANGED: lambda pixels: pixels,
    "20 % darker": lit(0.8, 0.8),
    "20 % brighter": lit(1.2, 1.2),
    "shifted by 12 pixels": lambda pixels: move(pixels, right=12),
    "turned by 5°": turned(5),
    "JPEG, quality 60": jpeg,
}


def measure(args: argparse.Namespace) -> Iterator[dict]:
    """Rows of the models that are not there yet."""
    category = compact_backbone.category_of(Path(compact_backbone.SETS[args.category]).name, args.data)
    good = [*category.train, *(sample for sample in category.test if not sample.label)]
    done = {row["split"] for row in results() if row["category"] == args.category}
    for split in (split for split in range(args.splits) if split not in done):
        some, others = promises.drawn(good, args.pictures, split)
        detector = promises.taught(args, replace(category, test=()), some, split)
        known = {"score": detector.calibration.image_scores.tolist()} | look_and_light(detector.appearance)
        key = {"category": args.category, "split": split, "known": json.dumps(known)}
        for name, change in CHANGES.items():
            yield key | {"change": name} | numbers(detector, others, change)
        defective = [sample for sample in category.test if sample.label]
        yield key | {"change": DEFECTIVE} | numbers(detector, defective, CHANGES[UNCHANGED])


def numbers(detector: AnomalyDetector, samples: list[Sample], change: Callable) -> dict[str, list]:
    """Image score, distance of the look and brightness of each picture."""
    found = {"scores": [], "looks": [], "brightness": []}
    for sample in tqdm(samples, leave=False, disable=None):
        prepared = PreparedPicture(change(np.asarray(sample.read())))
        found["scores"].append(detector.predict(prepared.picture).image_score)
        found["looks"].append(check_appearance({"": detector}, prepared).ratio)
        found["brightness"].append(prepared.statistics(detector.front_end).brightness)
    return found


def alarm(known: dict[str, list[float]], stream: list[tuple[float, float, float]], seed: int) -> int | None:
    """Number of the picture at which the alarm is raised."""
    watch = DriftWatch(known, seed)
    for score, look, brightness in stream:
        if watch.add({"score": score, LOOK: look, BRIGHTER: brightness, DARKER: -brightness}):
            break
    return watch.alarm


def write(path: Path, rows: list[dict]) -> None:
    """Writes rows as a parquet file."""
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")


def results() -> list[dict]:
    """All rows."""
    return pq.read_table(RESULT).to_pylist() if RESULT.is_file() else []


def all_alarms() -> list[dict]:
    """For each kind of part, change and beginning, the alarms of all streams of all models."""
    models: dict[tuple, dict[str, dict]] = {}
    for row in results():
        models.setdefault((row["category"], row["split"]), {})[row["change"]] = row
    found = []
    for category in dict.fromkeys(category for category, _ in models):
        own = [model for (name, _), model in models.items() if name == category]
        for change in (*CHANGES, DEFECTIVE):
            for before in BEGINNINGS if change not in (UNCHANGED, DEFECTIVE) else (None,):
                alarms = [each for model in own for each in streams(model, change, before)]
                found.append({"category": category, "change": change, "before": before, "alarms": alarms})
    return found


def results_table() -> str:
    """Of each change: pictures until the alarm, the share of streams with an alarm, and the false ones before it."""
    found = pq.read_table(ALARMS).to_pylist()
    lines = [{"part": row["category"]} | _line(row["change"], row["before"], row["alarms"]) for row in found]
    return table(lines, lines[0])


def streams(model: dict[str, dict], change: str, before: int | None) -> Iterator[tuple[int | None, int]]:
    """Alarm and length of each shuffled stream of a model."""
    usual, other = (
        list(zip(*(model[name][key] for key in ("scores", "looks", "brightness")), strict=True))
        for name in (UNCHANGED, change)
    )
    known = json.loads(model[change]["known"])
    for seed in range(SHUFFLES):
        draws = random.Random(seed)
        order = draws.sample(range(len(usual)), len(usual))
        if change == DEFECTIVE:
            stream = [draws.choice(other) if draws.random() < SHARE else usual[i] for i in order]
        else:
            stream = [(usual if number < (before or 0) else other)[i] for number, i in enumerate(order)]
        yield alarm(known, stream, seed), len(stream)


def _line(change: str, before: int | None, alarms: list[tuple[int | None, int]]) -> dict:
    raised = [number for number, _ in alarms if number is not None]
    right = raised if before is None else [number - before for number in raised if number > before]
    name = f"{SHARE:.0%} {DEFECTIVE}" if change == DEFECTIVE else change
    begins = "" if before is None else f", after {before}" if before else ", from the first"
    return {
        "pictures": name + begins,
        "streams": len(alarms),
        "length": alarms[0][1],
        "alarms, %": f"{100 * len(raised) / len(alarms):.1f}",
        "before the change, %": f"{100 * (len(raised) - len(right)) / len(alarms):.1f}",
        "pictures until the alarm": f"{statistics.median(right):.0f} (at most {max(right)})" if right else "-",
    }


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("run", "streams", "table"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--category", choices=compact_backbone.SETS, default="capsule")
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=50, help="good pictures of each model")
    parser.set_defaults(method="hybrid", folds=5)
    args = parser.parse_args()
    if args.part == "table":
        return print(results_table())
    if args.part == "streams":
        return write(ALARMS, all_alarms())
    if args.data is None:
        parser.error("--data is needed")
    command = "python -m benchmarks.drift " + " ".join(sys.argv[1:]).replace(str(args.data), "DIR")
    for row in measure(args):
        write(RESULT, [*results(), row])
    origins = json.loads(ORIGIN.read_text()) if ORIGIN.is_file() else []
    write_json(ORIGIN, [*(each for each in origins if each["command"] != command), provenance(command)])
    write(ALARMS, all_alarms())
    print(results_table())


if __name__ == "__main__":
    main()
