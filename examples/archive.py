"""Judges an archive of pictures in several processes, by `datasets` or by Ray Data, and writes Parquet.

    python examples/archive.py FOLDER --model washer --output results.parquet
    python examples/archive.py FOLDER --model washer --output results --engine ray

Each process loads the models once. A picture that cannot be read has the result "not judged", and does not stop the
others. A model that cannot be loaded ends the run.
"""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pyarrow.dataset
import torch
from datasets import Dataset, Features, Value

from hubmodels import ModelError
from hubmodels.folders import pictures_in
from hubmodels.hub.catalog import find_models
from hubmodels.line.line import Line, chosen_detectors
from hubmodels.line.outputs import verdict_of
from hubmodels.prediction import check_rate

BATCH = 32  # pictures
COLUMNS = ("picture", "result", "record")  # path; good, defective or not judged; the fields of the API, as JSON


class Judge:
    """The models of one process. Called with a batch of paths, it returns the columns of their results."""

    def __init__(self, model: str, category: str | None, methods: Sequence[str], rate: float | None) -> None:
        torch.set_num_threads(1)  # the processes share the cores
        self._line = Line.of(model, category, methods, rate)

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        records = [self._line.inspect(str(path), str(path)) for path in batch["picture"]]
        rows = [(record["picture"], verdict_of(record), json.dumps(record)) for record in records]
        return dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))


_judge_of = cache(Judge)  # one in each process


def judge(batch: Mapping[str, Sequence[str]], *settings: object) -> dict[str, list[str]]:
    """As `Judge`, for engines that call a function."""
    return _judge_of(*settings)(batch)


def by_datasets(paths: list[str], settings: tuple, processes: int, output: Path) -> None:
    """Writes one file."""
    texts = Features(dict.fromkeys(COLUMNS, Value("string")))  # also where a batch has no result
    options = {"batched": True, "batch_size": BATCH, "num_proc": processes, "features": texts}
    pictures = Dataset.from_dict({"picture": paths})
    judged = pictures.map(lambda batch: judge(batch, *settings), **options, load_from_cache_file=False)
    judged.to_parquet(output)


def by_ray(paths: list[str], settings: tuple, processes: int, output: Path) -> None:
    """Writes a folder with a file for each block of pictures."""
    import ray

    pool = ray.data.ActorPoolStrategy(size=processes)
    options = {"batch_size": BATCH, "compute": pool, "num_cpus": 1, "fn_constructor_args": settings}
    pictures = ray.data.from_items([{"picture": path} for path in paths])
    pictures.map_batches(Judge, **options).write_parquet(str(output.absolute()))


ENGINES = {"datasets": by_datasets, "ray": by_ray}


def read_arguments() -> tuple[argparse.Namespace, list[str]]:
    """The command line, and the paths of the pictures in its folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="all pictures in it are judged, however deep")
    parser.add_argument("--model", required=True, help="folder, bundled category, or USER/NAME on the Hub")
    parser.add_argument("--category", help="of a folder with models of several categories")
    parser.add_argument("--method", nargs="+", default=(), help="default: all that the category has")
    parser.add_argument("--rate", type=float, help="accepted share of good parts called defective")
    parser.add_argument("--output", type=Path, required=True, help="new file, or with ray a new folder")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="0 = no further one, not with ray")
    parser.add_argument("--engine", choices=ENGINES, default="datasets")
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} exists: give another name")
    try:
        paths = [*map(str, pictures_in(args.folder))]
    except ValueError as error:
        parser.error(str(error))
    if not paths:
        parser.error(f"{args.folder} has no pictures")
    if args.processes < (least := int(args.engine == "ray")):
        parser.error(f"--processes {args.processes} is too few: give at least {least}")
    try:
        check_models(args)
    except (ModelError, ValueError) as error:
        parser.error(str(error))
    return args, paths


def check_models(args: argparse.Namespace) -> None:
    """Finds what cannot work before any process starts; the models are not loaded.

    Raises:
        ModelError, ValueError: the message has a remedy.
    """
    if args.rate is not None:
        check_rate(args.rate)
    catalog, label = find_models(args.model, args.category)
    chosen_detectors(label, {entry.method: None for entry in catalog.entries if entry.label == label}, args.method)


def main() -> None:
    """Prints how many pictures are good, defective or not judged."""
    args, paths = read_arguments()
    settings, begun = (args.model, args.category, (*args.method,), args.rate), time.perf_counter()
    ENGINES[args.engine](paths, settings, args.processes, args.output)
    results = Counter(pyarrow.dataset.dataset(args.output).to_table(["result"])["result"].to_pylist())
    counted = ", ".join(f"{count} {result}" for result, count in sorted(results.items()))
    print(f"{results.total()} of {len(paths)} pictures in {time.perf_counter() - begun:.1f} s: {counted}")


if __name__ == "__main__":
    main()
