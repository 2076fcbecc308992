"""Metrics by epoch: how far a short schedule is from its end.

    python -m benchmarks.epochs run --data DIR --category bottle --method glass --epochs 60 [--every 4]
    python -m benchmarks.epochs table
    python -m benchmarks.epochs plot

The state of the head is kept every few epochs. Only after the last one are all of them measured, each twice: with
BatchNorm's statistics over all features, as the last checkpoint of `training/train.py` (`recomputed`), and with the
running ones, as in the official codes (`running`). Nothing is chosen by these numbers. DIR is a folder of real
pictures, see `docs/data.md`. The compact backbone, 256 px. The same command continues, also after `--limit`.
"""

import argparse
import json
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file

from benchmarks.compact_backbone import SETS
from benchmarks.measuring import RESULTS, provenance, table
from hubmodels.methods import METHODS
from hubmodels.metric_names import METRICS, OVERVIEW
from training import train
from training.batches import seed_of
from training.config import TrainConfig
from training.data import open_categories
from training.evaluation import evaluate, write_json
from training.fitting import Fitting
from training.jobs import Job
from training.objectives import OBJECTIVES
from training.sanity import inspect_category
from training.study.tables import cell

RESULT, PLOT = RESULTS / "epochs.json", Path("docs/epochs.svg")
MEASURING = 0.3  # share of `--limit` for measuring
KEY = ("category", "method", "seed", "epochs", "statistics", "epoch")


def job_of(args: argparse.Namespace) -> Job:
    """The training of a category with the product's defaults on the compact backbone."""
    root = args.data / "data" / Path(SETS[args.category]).parent
    options = ["--backbone", "compactnet.distilled_in1k", "--epochs", str(args.epochs), "--seed", str(args.seed)]
    config = TrainConfig.from_command_line(["--data-root", str(root), "--methods", args.method, *options])
    config = train.fill_defaults(replace(config, output=args.output), Accelerator())
    [opened] = open_categories(config.data_root, [Path(SETS[args.category]).name])
    category, sanity = inspect_category(opened)
    return Job(category, args.method, config, sanity)


def run(args: argparse.Namespace, command: dict) -> None:
    """Trains, keeps states, then measures them."""
    if not OBJECTIVES[args.method].epochs:
        raise SystemExit(f"{args.method} is not trained in epochs")
    job = job_of(args)
    states = job.workplace / "states"
    states.mkdir(parents=True, exist_ok=True)
    fitting, held_out, _ = train.prepare(job, Accelerator(), sharing=False)
    end = time.monotonic() + args.limit
    keep_states(fitting, states, args.every, time.monotonic() + (1 - MEASURING) * args.limit)
    with suppress(OutOfTime):
        fitting.run()
    detector = fitting.objective.detector
    shared = {"category": job.category.name, "method": args.method, "seed": args.seed, "epochs": args.epochs}
    for file in sorted(states.glob("*.safetensors"), reverse=True):  # the last one first
        if time.monotonic() > end:
            break
        for statistics in ("recomputed", "running"):
            detector.head.load_state_dict(load_file(file))
            if statistics == "recomputed":
                torch.manual_seed(seed_of(args.seed, int(file.stem)))
                fitting.objective.recompute_statistics(fitting.cache, job.config.batch_size)
            detector.eval().calibrate((sample.read() for sample in held_out), job.config.false_alarm_rate)
            metrics = evaluate(detector, job.category, states)
            row = shared | {"statistics": statistics, "epoch": int(file.stem)}
            row |= {key: metrics.get(key) for key in OVERVIEW}
            print({key: row[key] for key in ("epoch", "statistics", *OVERVIEW)}, flush=True)
            add(row | command)
        file.unlink()  # what is measured needs not travel


class OutOfTime(Exception):
    """The training stops here; its state is saved."""


def keep_states(fitting: Fitting, states: Path, every: int, end: float) -> None:
    """Makes the training write the head's state every few epochs, and stop at a time."""
    run_epoch = fitting.run_epoch

    def kept(model, epoch, progress) -> dict:
        record = run_epoch(model, epoch, progress)
        if (epoch + 1) % every == 0:
            head = {name: value.contiguous() for name, value in fitting.head.state_dict().items()}
            save_file(head, states / f"{epoch + 1:04}.safetensors")
        if time.monotonic() > end:
            fitting.state.save(fitting.state_path)
            raise OutOfTime
        return record

    fitting.run_epoch = kept


def results() -> list[dict]:
    """All rows."""
    return json.loads(RESULT.read_text()) if RESULT.is_file() else []


def add(row: dict) -> None:
    """Adds a row; that of the same run and epoch is replaced."""
    write_json(RESULT, list({tuple(r[k] for k in KEY): r for r in [*results(), row]}.values()))


def curves() -> dict[tuple, dict[int, dict]]:
    """Rows by epoch, of each run and kind of statistics."""
    found: dict[tuple, dict[int, dict]] = {}
    for row in sorted(results(), key=lambda row: row["epoch"]):
        found.setdefault(tuple(row[k] for k in KEY[:-1]), {})[row["epoch"]] = row
    return found


def results_table() -> str:
    """A line for each epoch; image AUROC / AUPRO of each category, method and kind of statistics."""
    lines: dict[int, dict] = {}
    names = []
    for (category, method, _, _, statistics), rows in curves().items():
        names.append(name := f"{category}, {METHODS[method].title}, {statistics}")
        for epoch, row in rows.items():
            values = " / ".join(cell([row[k]]) for k in ("image_auroc", "aupro"))
            lines.setdefault(epoch, {"epoch": epoch})[name] = values
    return table(
        [lines[epoch] for epoch in sorted(lines)], tuple({name: None for row in lines.values() for name in row})
    )


def draw() -> Figure:
    """Curves of image AUROC and AUPRO; dashed with running statistics."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    colours = {key[:3]: f"C{i}" for i, key in enumerate(dict.fromkeys(key[:3] for key in curves()))}
    for axes, metric in zip(figure.subplots(1, 2), ("image_auroc", "aupro"), strict=True):
        for key, rows in curves().items():
            (category, method, *_, statistics), run = key, key[:3]
            values = [(epoch, 100 * row[metric]) for epoch, row in rows.items() if row[metric] is not None]
            style = {"linestyle": "-" if statistics == "recomputed" else "--", "color": colours[run], "marker": "."}
            axes.plot(*zip(*values, strict=True), label=f"{METHODS[method].title}, {category}, {statistics}", **style)
        axes.set(xlabel="epoch", ylabel=f"{METRICS[metric].short}, per cent")
    axes.legend(fontsize=6)
    return figure


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("run", "table", "plot"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--category", choices=SETS, default="bottle")
    parser.add_argument("--method", choices=METHODS, default="glass")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds until the training stops")
    parser.add_argument("--output", default="runs/epochs")
    args = parser.parse_args()
    if args.part == "table":
        return print(results_table())
    if args.part == "plot":
        return draw().savefig(PLOT, metadata={"Date": None})
    if args.data is None:
        parser.error("--data is needed")
    run(args, provenance("python -m benchmarks.epochs " + " ".join(sys.argv[1:]).replace(str(args.data), "DIR")))


if __name__ == "__main__":
    main()
