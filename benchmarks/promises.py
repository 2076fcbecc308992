"""Are promised false-alarm rates kept? Many models of the same part, each taught with other good pictures.

    python -m benchmarks.promises run --data DIR --category capsule --pictures 50 --splits 200
    python -m benchmarks.promises table

Each split draws some of all good pictures, train and test, at random. A model is trained and calibrated on them, and
scores the other good pictures, which are new to it. `run` adds the scores of all splits to `results/promises.parquet`;
the same command continues. The table compares, at a rate, what was promised with what happened. DIR is a folder of
real pictures, see `docs/data.md`. The compact backbone, 256 px; a split takes some seconds to a minute.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from benchmarks import compact_backbone
from benchmarks.measuring import RESULTS, provenance, table
from hubmodels import AnomalyDetector
from hubmodels.methods import METHODS
from hubmodels.pictures import read_picture
from hubmodels.prediction import HeldOut
from hubmodels.samples import Category, Sample
from training import train
from training.calibration import calibrate
from training.config import TrainConfig
from training.evaluation import write_json
from training.jobs import Job
from training.sanity import inspect_category

RESULT, ORIGIN = RESULTS / "promises.parquet", RESULTS / "promises.json"
KEY = ("category", "method", "folds", "pictures", "split")
RATES = (0.02, 0.05, 0.1)


def measure(args: argparse.Namespace) -> Iterator[dict]:
    """A row for each split that is not there yet: the scores that calibrated, and those of new good pictures."""
    category = compact_backbone.category_of(Path(compact_backbone.SETS[args.category]).name, args.data)
    good = [*category.train, *(sample for sample in category.test if not sample.label)]
    done = {tuple(row[name] for name in KEY) for row in results()}
    features: dict[str, list[Tensor]] = {}
    for split in tqdm(range(args.splits), args.category, disable=None):
        key = dict(zip(KEY, (args.category, args.method, args.folds, args.pictures, split), strict=True))
        if tuple(key.values()) not in done:
            yield key | scores_of(args, replace(category, test=()), good, split, features)


def scores_of(
    args: argparse.Namespace, category: Category, good: list[Sample], split: int, features: dict[str, list[Tensor]]
) -> dict:
    """`calibrating` and `new` scores of one model; features of pictures, by name, are the same for all models."""
    some, others = drawn(good, args.pictures, split)
    detector = taught(args, category, some, split)
    for sample in (sample for sample in others if sample.name not in features):
        with torch.inference_mode():
            features[sample.name] = detector.front_end(detector.front_end.prepare([read_picture(sample.read())]))
    new = [detector.predict_from_features(features[s.name], [(1, 1)])[0].image_score for s in others]
    return {"calibrating": detector.calibration.image_scores.tolist(), "new": new}


def drawn(good: list[Sample], pictures: int, split: int) -> tuple[list[Sample], list[Sample]]:
    """Some of all good pictures at random, and the others."""
    order = np.random.default_rng(split).permutation(len(good))
    return [good[i] for i in order[:pictures]], [good[i] for i in order[pictures:]]


def taught(args: argparse.Namespace, category: Category, good: list[Sample], split: int) -> AnomalyDetector:
    """A model of these good pictures, trained and calibrated; `split` is its seed, too."""
    category, sanity = inspect_category(replace(category, train=tuple(good)))
    with TemporaryDirectory() as folder:
        options = ["--backbone", "compactnet.distilled_in1k", "--folds", str(args.folds), "--seed", str(split)]
        given = ["--data-root", str(args.data), "--methods", args.method, *options, "--output", folder]
        config = train.fill_defaults(TrainConfig.from_command_line(given), Accelerator())
        job = Job(category, args.method, config, sanity)
        fitting, parts, _ = train.prepare(job, Accelerator(), sharing=False)
        fitting.run()
        train.stabilise(fitting)
        detector = fitting.objective.detector
        calibrate(detector, parts, fitting.fold_heads, config.false_alarm_rate)
    return detector


def results() -> list[dict]:
    """All rows."""
    return pq.read_table(RESULT).to_pylist() if RESULT.is_file() else []


def add(row: dict) -> None:
    """Adds a row."""
    partial = RESULT.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist([*results(), row]), partial, compression="zstd")
    partial.replace(RESULT)


def results_table() -> str:
    """Of each kind of model at each rate: what is promised on average and as a bound, and what happened."""
    groups: dict[tuple, list[dict]] = {}
    for row in results():
        groups.setdefault(tuple(row[name] for name in KEY[:-1]), []).append(row)
    lines = []
    for (category, method, folds, pictures), rows in groups.items():
        for rate in dict.fromkeys(calibration_of(rows[0]).guaranteed_rate(rate) for rate in RATES):
            found = [happened(row, rate) for row in rows]
            line = {"category": category, "method": METHODS[method].title, "pictures": pictures}
            line |= {"calibrated by": f"{folds} folds" if folds else "held-out pictures"}
            line |= {"scores": len(rows[0]["calibrating"]), "promised, %": f"{100 * rate:.1f}"}
            line |= {"happened, %": f"{100 * np.mean([rate for rate, _ in found]):.1f}"}
            line |= {"bound, %": f"{100 * calibration_of(rows[0]).bound(rate):.1f}"}
            line |= {"beyond the bound, %": f"{100 * np.mean([rate > bound for rate, bound in found]):.1f}"}
            lines.append(line | {"models": len(rows)})
    return table(lines, lines[0])


def calibration_of(row: dict) -> HeldOut:
    """The calibration of a model."""
    scores = np.array(row["calibrating"], np.float32)
    return HeldOut(scores, scores, 0.0, 0.01)


def happened(row: dict, rate: float) -> tuple[float, float]:
    """The share of false alarms among new good pictures, and the bound that was promised."""
    calibration = calibration_of(row)
    flagged = [calibration.decide(score, np.zeros((1, 1)), rate).is_anomalous for score in row["new"]]
    return float(np.mean(flagged)), calibration.bound(rate)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("run", "table"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--category", choices=compact_backbone.SETS, default="capsule")
    parser.add_argument("--method", choices=METHODS, default="hybrid")
    parser.add_argument("--folds", type=int, default=5, help="0: hold pictures out")
    parser.add_argument("--pictures", type=int, default=50, help="good pictures of each model")
    parser.add_argument("--splits", type=int, default=200)
    args = parser.parse_args()
    if args.part == "table":
        return print(results_table())
    if args.data is None:
        parser.error("--data is needed")
    command = "python -m benchmarks.promises " + " ".join(sys.argv[1:]).replace(str(args.data), "DIR")
    for row in measure(args):
        add(row)
    origins = json.loads(ORIGIN.read_text()) if ORIGIN.is_file() else []
    write_json(ORIGIN, [*(each for each in origins if each["command"] != command), provenance(command)])
    print(results_table())


if __name__ == "__main__":
    main()
