"""Our models and anomalib's GLASS, SuperSimpleNet, PatchCore and EfficientAD in one run.

    python -m benchmarks.peers             # ten minutes on two cores; use a quiet machine
    python -m benchmarks.peers --table     # the table of docs/benchmarks.md, from the last results

Input is a tensor of 288 px, batch 1 and 16, two threads. Output is the score and the anomaly map at the picture's
size. Each model is built in a fresh process, in the environment of its library, one at a time. All take turns in
several visits, so that a busy machine slows all of them alike. Weights are random, which does not change the time.

anomalib is installed into an environment of its own, 6 GB, unless `--environment` has it already.

Columns: milliseconds for a call. `peak_mb`: memory of the process until the end of inference, loading included, minus
its memory before the model was built. `size_mb`: all files that a model needs; ours are the head, `head_mb`, and the
shared backbone file of the Hub. `train_ms_per_picture`: a training step, at `train_batch`; `training` describes it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from reference.explicit import random_weights

from benchmarks.measuring import RESULTS, provenance, report, table
from benchmarks.timing import THREADS, spread
from training.objectives import PAPER_BACKBONE, PAPER_IMAGE_SIZE

OURS = ("simplenet", "glass", "both", "simplenet-compact", "glass-compact", "both-compact")
ANOMALIB = ("glass", "supersimplenet", "patchcore", "efficientad-small", "efficientad-medium")
ENVIRONMENT, PACKAGE = Path(".peers"), "anomalib==2.7.0"  # the folder is ignored by git
ROUNDS, STEPS = {1: 6, 16: 2}, 4  # of each visit: rounds by batch size, training steps (one if a step is long)
COLUMNS = ("case", "batch", "median_ms", "p95_ms", "peak_mb", "size_mb", "head_mb")
COLUMNS += ("train_batch", "train_ms_per_picture", "backbone", "weights")


def install(environment: Path) -> str:
    """The Python of anomalib's environment, which is made if it is missing."""
    python = environment / "bin" / "python"
    if subprocess.run([python, "-c", "import anomalib"], capture_output=True).returncode if python.exists() else True:
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGE], check=True)
    return str(python)


def plan(peers_python: str, weights: Path) -> dict[str, list[str]]:
    """Command of each case: first all of ours, then all of theirs."""
    rounds = ["--batches", *map(str, ROUNDS), "--rounds", *map(str, ROUNDS.values()), "--steps", str(STEPS)]
    ours = [sys.executable, "-m", "benchmarks.peers_ours"]
    commands = {f"ours {name}": [*ours, name, "--weights", str(weights), *rounds] for name in OURS}
    theirs = [peers_python, "-m", "benchmarks.peers_anomalib"]
    return commands | {f"anomalib {name}": [*theirs, name, *rounds] for name in ANOMALIB}


def visit(case: str, command: list[str]) -> dict:
    """The measurement of one worker; its warnings are only shown if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def visit_all(commands: dict[str, list[str]], visits: int) -> dict[str, list[dict]]:
    """All cases, several times, with a line of progress for each."""
    results: dict[str, list[dict]] = {case: [] for case in commands}
    for number in range(visits):
        for case, command in commands.items():
            begun = time.perf_counter()
            results[case].append(visit(case, command))
            medians = [f"{statistics.median(j['times_ms']):.0f} ms" for j in results[case][-1]["predicted"]]
            seconds = time.perf_counter() - begun
            print(f"visit {number + 1}/{visits}, {case}: {', '.join(medians)} ({seconds:.0f} s)", flush=True)
    return results


def rows_of(case: str, visits: list[dict]) -> list[dict]:
    """A row for each batch size: the times of all visits, the highest memory of all visits."""
    first, rows = visits[0], []
    model = {"case": case, **first["facts"], "image_size": PAPER_IMAGE_SIZE, "threads": THREADS}
    common = {"size_mb": first["size_mb"], "head_mb": first.get("head_mb")}
    common |= training_of(visits) | provenance(f"python -m benchmarks.peers --visits {len(visits)}")
    common |= {"versions": first["versions"]}
    for predicted in zip(*(v["predicted"] for v in visits), strict=True):
        times = [ms for measured in predicted for ms in measured["times_ms"]]
        memory = {"peak_mb": max(measured["peak_mb"] for measured in predicted) - first["libraries_mb"]}
        row = model | {"batch": predicted[0]["batch"], "rounds": len(times)} | spread(times) | memory | common
        rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def training_of(visits: list[dict]) -> dict[str, float | int]:
    """Median training step; empty for models that are not trained as one."""
    times = [ms for v in visits for ms in v.get("train_times_ms", ())]
    if not times:
        return {}
    batch = visits[0]["train_batch"]
    return {"train_batch": batch, "train_ms_per_picture": round(statistics.median(times) / batch, 2)}


def results_table() -> str:
    """A line for each model from the last results, with the machine and both environments."""
    cases: dict[str, dict[int, dict]] = {}
    for row in json.loads((RESULTS / "peers.json").read_text()):
        cases.setdefault(row["case"], {})[row["batch"]] = row
    lines = [line_of(case, of_batch[1], of_batch[16]) for case, of_batch in cases.items()]
    first, *_, last = cases.values()
    ours, theirs = (", ".join(" ".join(pair) for pair in case[1]["versions"].items()) for case in (first, last))
    return f"{table(lines, lines[0])}\n\n{first[1]['machine']}; ours: {ours}; theirs: {theirs}."


def line_of(case: str, single: dict, batch: dict) -> dict[str, str | float | None]:
    """Time of one picture, alone and in a batch of 16, memory, files, training."""
    return {
        "model": case,
        "ms alone": round(single["median_ms"]),
        "p95": round(single["p95_ms"]),
        "ms in a batch of 16": round(batch["median_ms"] / 16),
        "MB alone": single["peak_mb"],
        "MB, batch of 16": batch["peak_mb"],
        "files, MB": single["size_mb"],
        "training step, ms a picture": round(single["train_ms_per_picture"]) if "train_batch" in single else None,
    }


def main() -> None:
    """Measures, prints and writes the rows; or prints the last table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, metavar="DIR", help="of anomalib")
    parser.add_argument("--visits", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print the table of the last results")
    args = parser.parse_args()
    if args.table:
        return print(results_table())
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        weights = random_weights(PAPER_BACKBONE, Path(folder))
        results = visit_all(plan(install(args.environment), weights), args.visits)
    rows = [row for case, visits in results.items() for row in rows_of(case, visits)]
    report("peers", rows, COLUMNS)
    print(f"anomalib's environment: {rows[-1]['versions']}")


if __name__ == "__main__":
    main()
