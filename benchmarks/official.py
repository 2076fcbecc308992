"""Our training of SimpleNet and the official loop on the same features: several seeds, and one initialisation.

    python -m benchmarks.official seeds --data DIR --seeds 0 1 2 [--hidden-dim 1024] [--noise-std 0.2]
    python -m benchmarks.official carry --data DIR [--epochs 24]
    python -m benchmarks.official add --scores FILE.csv --seeds 0      # raw scores of the official code itself
    python -m benchmarks.official table

The official loop is written out here: linear adaptor and discriminator as plain modules, shuffled batches of 8, noise
added to adapted features, truncated L1, AdamW and Adam, running statistics of BatchNorm. Ours is what
`training/train.py` runs. Both have the cached ResNet-18 features of the screw, 319 good pictures, 256 px.

`seeds` trains with different initial weights and records the scores of the last epoch, once with BatchNorm's running
statistics, as the official code has it ("none"), and once with statistics over all features ("statistics"). It also
records image AUROC after each epoch of the second half. `carry` gives both the same initial weights, batches and
noise, and records how far they are apart. `add` takes scores of the official code itself, a CSV
file with `name`, `label` and `image_score`. DIR is a folder of real pictures, see `docs/data.md`.
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from reference.explicit_training import truncated_l1
from torch import Tensor, nn

from benchmarks.measuring import RESULTS, provenance, table
from hubmodels.front_end import flatten
from hubmodels.paired_tests import Difference, compare_auroc
from training import train
from training.batches import BatchPlan, FeatureCache, build_cache, load_images
from training.config import TrainConfig
from training.data import hold_out, open_categories
from training.evaluation import write_json
from training.fitting import Fitting
from training.jobs import Job, build_detector
from training.metrics import image_metrics
from training.objectives import objective_of
from training.objectives.objective import adam, adamw
from training.sanity import inspect_category
from training.study.tables import cell

BACKBONE, WEIGHTS = "resnet18.tv_in1k", "weights/resnet18_tv_in1k_layer3.safetensors"
SCORES, CARRIED = RESULTS / "official.parquet", RESULTS / "official.json"
EPOCHS, NOISE = 24, 0.015
OFFICIAL = ("official code", "official loop")


class Case:
    """The screw with cached features, and the settings of a run."""

    def __init__(self, data: Path, options: Sequence[str]) -> None:
        arguments = ["--data-root", str(data / "data/mvtec_ad"), "--categories", "screw", "--methods", "simplenet"]
        arguments += ["--backbone", BACKBONE, "--backbone-weights", str(data / WEIGHTS), "--image-size", "256"]
        config = TrainConfig.from_command_line([*arguments, "--holdout", "0.001", "--stabilise", "none", *options])
        category, sanity = inspect_category(open_categories(config.data_root, ["screw"])[0])
        self.job = Job(category, "simplenet", replace(config, output="runs/official"), sanity)
        self.fit, _ = hold_out(category.train, config.holdout, 0)
        self.cache, self.test = (self.features(samples) for samples in (self.fit, category.test))
        self.labels = np.array([sample.label for sample in category.test])

    def features(self, samples) -> FeatureCache:
        """Aggregated maps of the pictures."""
        return build_cache(build_detector(self.job), load_images(list(samples), 256, 256), Path("runs/official"))

    def of_seed(self, seed: int) -> Job:
        """The job with another seed, from its beginning."""
        job = replace(self.job, config=replace(self.job.config, seed=seed))
        (job.workplace / "state.safetensors").unlink(missing_ok=True)
        job.workplace.mkdir(parents=True, exist_ok=True)
        return job

    @torch.no_grad()
    def scores(self, head: nn.Module) -> np.ndarray:
        """Highest patch score of each test picture."""
        head.eval()
        parts = [layer.split(16) for layer in self.test.layers]
        kind = next(head.parameters()).dtype
        found = [head.scores([m.to(kind) for m in some]).amax((1, 2)) for some in zip(*parts, strict=True)]
        head.train()
        return torch.cat(found).numpy()

    def auroc(self, head: nn.Module) -> float:
        """Image AUROC of the head as it is."""
        return image_metrics(self.scores(head), self.labels)["image_auroc"]


class WatchedFitting(Fitting):
    """Our training, with image AUROC after each epoch of the second half, which nothing depends on."""

    def run_epoch(self, model, epoch, progress) -> dict:
        """As `Fitting.run_epoch`."""
        record = super().run_epoch(model, epoch, progress)
        if epoch >= self.plan.epochs // 2:
            self.watched.append(self.case.auroc(self.head))
        return record


def ours(case: Case, seed: int) -> Iterator[tuple[str, np.ndarray, list[float]]]:
    """Scores of the product's training."""
    job = case.of_seed(seed)
    torch.manual_seed(seed)
    objective = objective_of("simplenet").prepare(build_detector(job), job, case.cache, case.fit)
    fitting = WatchedFitting(job, objective, case.cache, [s.name for s in case.fit], Accelerator(), False)
    fitting.case, fitting.watched = case, []
    fitting.run()
    yield "none", case.scores(objective.head), fitting.watched
    objective.recompute_statistics(case.cache, 8)
    yield "statistics", case.scores(objective.head), fitting.watched


def official(case: Case, seed: int) -> Iterator[tuple[str, np.ndarray, list[float]]]:
    """Scores of the official loop."""
    job = case.of_seed(seed)
    torch.manual_seed(seed)
    objective = objective_of("simplenet").prepare(build_detector(job), job, case.cache, case.fit)
    watched: list[float] = []
    optimizers = [adamw(objective.head.adaptor, 1e-4), adam(objective.head.discriminator, 2e-4)]
    objective.train()
    for epoch in range(job.epochs):
        for batch in torch.randperm(len(case.cache)).split(job.config.batch_size):
            step(objective, optimizers, flatten(case.cache.features(batch, torch.device("cpu"))))
        if epoch >= job.epochs // 2:
            watched.append(case.auroc(objective.head))
    yield "none", case.scores(objective.head), watched
    objective.recompute_statistics(case.cache, 8)
    yield "statistics", case.scores(objective.head), watched


def step(objective: nn.Module, optimizers: list, rows: Tensor) -> float:
    """One step of the official loop on patch features (N, D)."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss = truncated_l1(objective.detector, rows, objective.noise_std)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def carry(case: Case) -> Iterator[dict]:
    """Both loops with the same initial weights, batches and noise; what is different after some steps."""
    job = case.of_seed(0)
    torch.manual_seed(0)
    pair = [objective_of("simplenet").prepare(build_detector(job), job, case.cache, case.fit) for _ in range(2)]
    pair[1].load_state_dict(pair[0].state_dict())
    # in double precision: otherwise rounding alone drives two runs apart within a hundred steps
    first, second = (each.double().train() for each in pair)
    theirs = [adamw(second.head.adaptor, 1e-4), adam(second.head.discriminator, 2e-4)]
    mine, plan = first.optimizers(), BatchPlan(len(case.cache), job.config.batch_size, job.epochs, 0)
    for number, batch in enumerate(plan, 1):
        features = case.cache.features(torch.tensor([i for _, i in batch]), torch.device("cpu")).double()
        torch.manual_seed(number)
        loss = first({"features": features})["loss"]
        loss.backward()
        for optimizer in mine:
            optimizer.step()
            optimizer.zero_grad()
        torch.manual_seed(number)
        other = step(second, theirs, flatten(features))
        if number in (1, 10) or number % plan.steps_per_epoch == 0:
            yield {
                **{"steps": number, "loss": loss.item(), "loss_difference": abs(loss.item() - other)},
                **{"weights": distance(first.head, second.head), "scores": score_distance(case, first, second)},
                "image_auroc": [case.auroc(first.head), case.auroc(second.head)],
            }


def distance(one: nn.Module, other: nn.Module) -> float:
    """Relative distance of the weights."""
    a, b = (nn.utils.parameters_to_vector(head.parameters()).double() for head in (one, other))
    return float((a - b).norm() / a.norm())


def score_distance(case: Case, one: nn.Module, other: nn.Module) -> float:
    """Largest difference of image scores, relative to their spread."""
    a, b = case.scores(one.head), case.scores(other.head)
    return float(np.abs(a - b).max() / a.std())


# ---------------------------------------------------------------- results


def run_seeds(args: argparse.Namespace, command: dict) -> None:
    """Adds the scores of all seeds and both loops."""
    options = ["--epochs", str(args.epochs), "--noise-std", str(args.noise_std)]
    case = Case(args.data, [*options, *(["--hidden-dim", str(args.hidden_dim)] if args.hidden_dim else [])])
    hidden = build_detector(case.job).head.hidden_dim
    names = [sample.name for sample in case.job.category.test]
    for seed in args.seeds:
        for code, trained in (("ours", ours), ("official loop", official)):
            if code not in args.codes:
                continue
            start = time.perf_counter()
            for stabilise, scores, watched in trained(case, seed):
                shared = {"code": code, "hidden_dim": hidden, "noise_std": args.noise_std, "epochs": args.epochs}
                shared |= {"seed": seed, "stabilise": stabilise, "watched": watched, **flat(command)}
                rows = zip(names, case.labels.tolist(), scores.tolist(), strict=True)
                add([{**shared, "name": n, "label": la, "image_score": s} for n, la, s in rows])
                auroc = image_metrics(scores, case.labels)["image_auroc"]
                print(f"{code} {hidden} seed {seed} {stabilise}: {100 * auroc:.1f}", flush=True)
            print(f"  {time.perf_counter() - start:.0f} s", flush=True)


def add_official(args: argparse.Namespace, command: dict) -> None:
    """Adds raw scores that the official code gave."""
    with args.scores.open(newline="", encoding="utf-8") as file:
        rows = [(row["name"], int(row["label"]), float(row["image_score"])) for row in csv.DictReader(file)]
    shared = {"code": "official code", "hidden_dim": args.hidden_dim, "noise_std": args.noise_std, "watched": []}
    shared |= {"epochs": args.epochs, "seed": args.seeds[0], "stabilise": "none", **flat(command)}
    add([{**shared, "name": name, "label": label, "image_score": score} for name, label, score in rows])


def flat(command: dict) -> dict:
    """Provenance as plain columns."""
    return {"command": command["command"], "machine": command["machine"], "commit": command["commit"]}


def add(rows: list[dict]) -> None:
    """Adds rows to the file of scores; those of the same run are replaced."""
    key = ("code", "hidden_dim", "noise_std", "epochs", "seed", "stabilise")
    new = tuple(rows[0][k] for k in key)
    old = pq.read_table(SCORES).to_pylist() if SCORES.is_file() else []
    kept = [row for row in old if tuple(row[k] for k in key) != new]
    pq.write_table(pa.Table.from_pylist([*kept, *rows]), SCORES, compression="zstd")


def groups() -> dict[tuple, dict[int, dict]]:
    """By code, hidden units, noise, statistics and epochs: for each seed scores and labels by name, watched values."""
    found: dict[tuple, dict[int, dict]] = {}
    for row in pq.read_table(SCORES).to_pylist():
        key = (row["code"], row["hidden_dim"], row["noise_std"], row["stabilise"], row["epochs"])
        seed = found.setdefault(key, {}).setdefault(row["seed"], {"scores": {}, "labels": {}})
        seed["scores"][row["name"]], seed["labels"][row["name"]] = row["image_score"], row["label"]
        seed["watched"] = row["watched"]
    return found


def results_table() -> str:
    """Image AUROC of each code over the seeds, and how ours differs from the official code and loop."""
    found, lines = groups(), []
    for key, seeds in sorted(found.items(), key=lambda item: (item[0][1:], item[0][0])):
        code, hidden, noise, stabilise, epochs = key
        names = sorted(next(iter(seeds.values()))["scores"])
        labels = np.array([next(iter(seeds.values()))["labels"][n] for n in names])
        scores = {k: [[s["scores"][n] for n in names] for s in found[k].values()] for k in found}
        values = [image_metrics(run, labels)["image_auroc"] for run in scores[key]]
        line = {"code": code, "hidden units": hidden, "noise": noise, "statistics": stabilise, "seeds": len(values)}
        line["image AUROC"] = cell(values)
        watched = [s["watched"] for s in seeds.values() if s["watched"]]
        if watched:
            line["from epoch to epoch"] = f"{100 * np.mean([np.std(w, ddof=1) for w in watched]):.1f}"
        for other in OFFICIAL if code == "ours" else ():
            if theirs := scores.get((other, hidden, noise, "none", epochs)):
                line[f"minus the {other}"] = in_words(compare_auroc(scores[key], theirs, labels))
        lines.append(line)
    columns = ("code", "hidden units", "noise", "statistics", "seeds", "image AUROC", "from epoch to epoch")
    return table(lines, (*columns, *(f"minus the {other}" for other in OFFICIAL)))


def in_words(gap: Difference) -> str:
    """A difference with its interval, and the most by which ours can be worse, in points."""
    low, high = (100 * bound for bound in gap.interval)
    worst = max(0.0, -100 * gap.at_least)
    return f"{100 * gap.value:+.1f} ({low:.1f} to {high:.1f}), not worse by more than {worst:.1f}"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("seeds", "carry", "add", "table"))
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--scores", type=Path, metavar="FILE", help="CSV file of the official code")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--codes", nargs="+", default=["ours", "official loop"])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--hidden-dim", type=int)
    parser.add_argument("--noise-std", type=float, default=NOISE)
    args = parser.parse_args()
    if args.part == "table":
        return print(results_table())
    given = " ".join(sys.argv[1:]).replace(str(args.data), "DIR").replace(str(args.scores), "FILE.csv")
    command = provenance(f"python -m benchmarks.official {given}")
    if args.part == "add":
        return add_official(args, command)
    if args.data is None:
        parser.error("--data is needed")
    train.logger.setLevel("WARNING")
    if args.part == "seeds":
        return run_seeds(args, command)
    case = Case(args.data, ["--epochs", str(args.epochs), "--noise-std", str(args.noise_std)])
    rows = []
    for row in carry(case):
        print(row, flush=True)
        rows.append(row)
        write_json(CARRIED, [each | command for each in rows])


if __name__ == "__main__":
    main()
