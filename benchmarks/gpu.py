"""All measurements for a GPU in one run of at most 12 minutes, by default within ten.

    python -m benchmarks.gpu prepare --data DIR      # copies data and weights into .gpu/, smaller
    python -m benchmarks.gpu all                     # all steps, in this order; or the name of one
    python -m benchmarks.gpu all --seconds 700       # with more time: what is left goes to GLASS
    python -m benchmarks.gpu all --tiny              # the same in small, to see that it runs, also on a CPU

The steps, in order of worth; each writes its result as soon as it has it:

- `check`: all methods train on the GPU, and their scores are those of the CPU (`benchmarks.device_check`)
- `study`: full schedules on ResNet-50 features, several trainings at a time (`benchmarks/gpu.toml`)
- `throughput`: pictures per second by precision and batch size (`benchmarks.throughput`)
- `glass`: GLASS on the screw, as many epochs as the time allows, with metrics by epoch (`benchmarks.epochs`); its
  state is kept in `.gpu/epochs`, and the next run continues

DIR is a folder of real pictures and weights, see docs/data.md. `.gpu/` is small and ignored by git, so that it can be
copied to a machine that is lent for a short time: pictures become WebP, masks remain as they are. If the variable OUT
names a folder, new results and the state of GLASS are also copied there after each step, as `results.tgz` and
`state.tgz`. Unpack both in the clone, `tar xzf results.tgz`, and the next run continues.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.measuring import RESULTS

PREPARED = Path(".gpu")
DATA = {"mvtec_ad": 512}  # longest side, pixels
WEIGHTS = "resnet50_msra_in1k_layer3.safetensors"
PICTURES = (".png", ".jpg", ".jpeg")
TOTAL = 570  # seconds of all steps; machines that are lent often stop a command after ten minutes
STUDY, CATEGORIES = "benchmarks/gpu.toml", ("screw", "bottle", "capsule")
METHODS = ("simplenet", "hybrid", "patchcore", "mahalanobis")  # the slowest first
KEPT = PREPARED / "epochs"


@dataclass(frozen=True)
class Step:
    """Programs that run together, each by this Python, and the seconds that they may take."""

    name: str
    commands: list[list[str]]
    seconds: float
    parallel: int = 1


def steps(tiny: bool) -> list[Step]:
    """All steps in order."""
    epochs = ["-m", "benchmarks.epochs", "run", "--data", str(PREPARED), "--category", "screw", "--output", str(KEPT)]
    few = ["--methods", "mahalanobis", "--results", "runs/gpu/tiny", "--categories", "bottle"] if tiny else []
    study = [["-m", "training.study", STUDY, *some] for some in ([few] if tiny else _shares())]
    collect = ["-m", "training.study", STUDY, "--collect", *few]
    rounds = ["--batches", "1", "--rounds", "2"] if tiny else ["--batches", "1", "8", "64"]
    schedule = ["--epochs", "2", "--every", "1"] if tiny else ["--epochs", "640", "--every", "8"]
    return [
        Step("check", [["-m", "benchmarks.device_check", *(["--methods", "mahalanobis"] if tiny else [])]], 120),
        Step("study", study, 240, parallel=6),
        Step("collect", [collect], 40),
        Step("throughput", [["-m", "benchmarks.throughput", *rounds]], 90),
        Step("glass", [[*epochs, *schedule, "--limit", "{seconds}"]], 3600),
    ]


def _shares() -> list[list[str]]:
    """Options of each training, whose results go to a folder of their own until they are collected."""
    pairs = enumerate(itertools.product(METHODS, CATEGORIES))
    return [["--methods", m, "--categories", c, "--results", f"runs/gpu/share-{i}"] for i, (m, c) in pairs]


def run(step: Step, seconds: float) -> list[str]:
    """Runs a step within the time; returns what went wrong."""
    end = time.monotonic() + min(seconds, step.seconds)
    with ThreadPoolExecutor(step.parallel) as pool:
        return [fault for fault in pool.map(lambda command: _run(command, end), step.commands) if fault]


def _run(command: Sequence[str], end: float) -> str:
    """Runs one program; returns its fault, or an empty text."""
    left = end - time.monotonic()
    if left < 5:
        return f"no time for {' '.join(command)}"
    filled = [str(int(left - 10)) if each == "{seconds}" else each for each in command]
    environment = os.environ | {"DATA": str(PREPARED), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run([sys.executable, *filled], env=environment, timeout=left)
    except subprocess.TimeoutExpired:
        return f"out of time: {' '.join(command)}"
    return f"status {done.returncode}: {' '.join(command)}" if done.returncode else ""


def run_all(chosen: Sequence[Step], total: float = TOTAL) -> list[str]:
    """Runs the steps one after the other; a step that fails stops none of the others."""
    begun, end, faults = time.time(), time.monotonic() + total, []
    for step in chosen:
        started = time.monotonic()
        faults += run(step, end - started)
        print(f"== {step.name}: {time.monotonic() - started:.0f} s", flush=True)
        copy_results(begun)
    return faults


def copy_results(begun: float) -> None:
    """Copies results that are newer into the folder OUT, and what the next run continues from."""
    if out := os.environ.get("OUT"):
        with tarfile.open(Path(out) / "results.tgz", "w:gz") as archive:
            for path in files_since(begun):
                archive.add(path, path.relative_to(RESULTS.parents[1]))
        with tarfile.open(Path(out) / "state.tgz", "w:gz") as archive:
            for path in KEPT.rglob("*.safetensors"):
                archive.add(path)


def files_since(begun: float) -> Iterator[Path]:
    """Results that were written after a time."""
    return (path for path in sorted(RESULTS.rglob("*")) if path.is_file() and path.stat().st_mtime >= begun)


def prepare(real: Path) -> None:
    """Copies the pictures, smaller, and the weights of the backbone."""
    for name, side in DATA.items():
        if (real / "data" / name).is_dir():
            copy_smaller(real / "data" / name, PREPARED / "data" / name, side)
    (PREPARED / "weights").mkdir(parents=True, exist_ok=True)
    shutil.copy(real / "weights" / WEIGHTS, PREPARED / "weights" / WEIGHTS)


def copy_smaller(source: Path, target: Path, side: int) -> None:
    """Copies all pictures with the longer side at most `side` pixels; masks and textures keep their format."""
    for path in sorted(path for path in source.rglob("*") if path.suffix.lower() in PICTURES):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if "ground_truth" in path.parts:  # a thin defect would not survive
            shutil.copy(path, copy)
            continue
        with Image.open(path) as picture:
            scale = min(1.0, side / max(picture.size))
            size = (round(picture.width * scale), round(picture.height * scale))
            name = copy if "dtd" in path.parts else copy.with_suffix(".webp")
            picture.resize(size, Image.Resampling.LANCZOS).save(name, quality=86)


def main() -> None:
    """Runs steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [step.name for step in steps(False)]
    parser.add_argument("step", choices=("prepare", "all", *names))
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of real pictures and weights, for prepare")
    parser.add_argument("--seconds", type=float, default=TOTAL, help=f"for all steps together (default: {TOTAL})")
    parser.add_argument("--tiny", action="store_true", help="little of everything, to see that it runs")
    args = parser.parse_args()
    if args.step == "prepare":
        if args.data is None:
            parser.error("prepare needs --data DIR, see docs/data.md")
        return prepare(args.data)
    chosen = [step for step in steps(args.tiny) if args.step in ("all", step.name)]
    if faults := run_all(chosen, args.seconds):
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
