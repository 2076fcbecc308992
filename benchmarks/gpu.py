"""Measurements for a GPU, in steps of under ten minutes each.

    python -m benchmarks.gpu prepare --data DIR      # copies data and weights into .gpu/, at 288 px
    python -m benchmarks.gpu simplenet --seed 0      # the paper's schedule on all prepared data; also: glass
    python -m benchmarks.gpu throughput              # pictures per second: fp32, bf16, torch.compile
    python -m benchmarks.gpu jobs                    # two processes with a job each
    python -m benchmarks.gpu collect                 # results/gpu.json

DIR is a folder of real pictures and weights, see docs/data.md. `.gpu/` is small and ignored by git, so that it can be
copied to a machine that is lent for a short time. A schedule stops after `--limit` seconds. Give the same command
again to continue. Options after `--` go to the program of the step. On a CPU they show that a step starts, for
example `-- --epochs 1` for a schedule, or `-- --batches 1 --rounds 2` for throughput.

If the variable OUT names a folder, all new results are also copied there.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from benchmarks.measuring import RESULTS

PREPARED, RUNS = Path(".gpu"), Path("runs/gpu")
DATA = {"mvtec_ad": 288, "magnetic_tile": 288, "dtd/images": 256}  # longest side, pixels
BACKBONE = {"resnet50.tv_in1k": "resnet50_msra_in1k_layer3.safetensors"}
BACKBONE |= {"resnet18.tv_in1k": "resnet18_tv_in1k_layer3.safetensors"}
PICTURES = (".png", ".jpg", ".jpeg")
STEPS = ("prepare", "simplenet", "glass", "throughput", "jobs", "collect")


def prepare(real: Path, backbone: str) -> None:
    """Copies the pictures, smaller, and the weights of the backbone."""
    for name, side in DATA.items():
        if (real / "data" / name).is_dir():
            copy_smaller(real / "data" / name, PREPARED / name, side)
    weights_of(backbone).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(real / "weights" / BACKBONE[backbone], weights_of(backbone))


def copy_smaller(source: Path, target: Path, side: int) -> None:
    """Copies all pictures with the longer side at most `side` pixels; masks keep their two values."""
    for path in sorted(path for path in source.rglob("*") if path.suffix.lower() in PICTURES):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            scale = min(1.0, side / max(picture.size))
            size = (round(picture.width * scale), round(picture.height * scale))
            method = Image.Resampling.NEAREST if "ground_truth" in path.parts else Image.Resampling.BILINEAR
            picture.resize(size, method).save(copy, quality=90, optimize=True)


def weights_of(backbone: str) -> Path:
    """Where the prepared weights are."""
    return PREPARED / "weights" / BACKBONE[backbone]


def schedule(args: argparse.Namespace, methods: tuple[str, ...], roots: list[Path], output: Path) -> list[list[str]]:
    """A command of `training/train.py` for each data set."""
    common = ["--methods", *methods, "--backbone", args.backbone, "--backbone-weights", str(weights_of(args.backbone))]
    common += ["--textures", str(PREPARED / "dtd/images"), "--stabilise", "statistics", "average", "decay"]
    common += ["--mixed-precision", args.precision, "--seed", str(args.seed), "--output", str(output), *args.options]
    return [["training/train.py", "--data-root", str(root), *common] for root in roots]


def commands(args: argparse.Namespace) -> list[list[str]]:
    """What a step runs, each by this Python."""
    roots = [PREPARED / name for name in ("mvtec_ad", "magnetic_tile") if (PREPARED / name).is_dir()]
    if args.step in ("simplenet", "glass"):
        return schedule(args, (args.step,), roots, RUNS / f"seed{args.seed}")
    if args.step == "jobs":
        launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
        return [launch + each for each in schedule(args, ("simplenet", "glass"), roots[:1], RUNS / "jobs")]
    if args.step == "throughput":
        return [["-m", "benchmarks.throughput", *args.options]]
    return [["-m", "benchmarks.real_data", "collect", "gpu", str(RUNS)]]


def run(command: list[str], seconds: float) -> None:
    """Runs a command, and interrupts it when the time is over; training saves its state in each epoch."""
    process = subprocess.Popen([sys.executable, *command])
    try:
        status = process.wait(max(1, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise SystemExit("the time limit is reached: give the same command again to continue") from None
    if status:
        raise SystemExit(status)


@contextmanager
def copied_results() -> Iterator[None]:
    """Copies new results into the folder OUT, also after an error."""
    begun = time.time()
    try:
        yield
    finally:
        if out := os.environ.get("OUT"):
            for path in RESULTS.glob("*.json"):
                if path.stat().st_mtime >= begun:
                    shutil.copy(path, out)


def main() -> None:
    """Runs one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of real pictures and weights, for prepare")
    parser.add_argument("--backbone", choices=BACKBONE, default=next(iter(BACKBONE)))
    parser.add_argument("--precision", choices=("no", "fp16", "bf16"), default="no")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=560, help="seconds until a step stops")
    parser.add_argument("options", nargs="*", help="after --: more options for the program of the step")
    args = parser.parse_args()
    if args.step == "prepare":
        if args.data is None:
            parser.error("prepare needs --data DIR, see docs/data.md")
        return prepare(args.data, args.backbone)
    end = time.monotonic() + args.limit
    with copied_results():
        for command in commands(args):
            run(command, end - time.monotonic())


if __name__ == "__main__":
    main()
