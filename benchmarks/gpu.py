"""Measurements for a GPU, in steps of under ten minutes each.

    python -m benchmarks.gpu prepare --data DIR      # copies data and weights into .gpu/, smaller
    python -m benchmarks.gpu simplenet --seed 0      # the paper's schedule on all prepared data; also: glass
    python -m benchmarks.gpu shapes --seed 0         # all methods on inputs of several shapes, with short schedules
    python -m benchmarks.gpu throughput              # pictures per second: fp32, bf16, torch.compile
    python -m benchmarks.gpu jobs                    # two processes with a job each
    python -m benchmarks.gpu collect                 # results/gpu.json

DIR is a folder of real pictures and weights, see docs/data.md. `.gpu/` is small and ignored by git, so that it can be
copied to a machine that is lent for a short time: pictures become WebP, masks remain as they are. A schedule stops
after `--limit` seconds. Give the same command again to continue. Options after `--` go to the program of the step. On
a CPU they show that a step starts, for example `-- --epochs 1` for a schedule, or `-- --batches 1 --rounds 2` for
throughput.

If the variable OUT names a folder, all new results are also copied there, with reports and scores of the models.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from benchmarks.measuring import RESULTS
from hubmodels.compactnet import COMPACT_BACKBONE

PREPARED, RUNS = Path(".gpu"), Path("runs/gpu")
DATA = {"mvtec_ad": 512, "kolektor_sdd": 640, "magnetic_tile": 420, "dtd/images": 256}  # longest side, pixels
SHAPES = {  # about the pictures' own shape; about twice the pixels; for some the square, too
    **{"mvtec_ad/bottle": ("256", "368"), "mvtec_ad/capsule": ("256", "368", "512"), "mvtec_ad/screw": ("256", "368")},
    "kolektor_sdd/commutator": ("256", "auto", "576x224"),
    "magnetic_tile/magnetic_tile": ("256", "auto", "384x336"),
}
SHORT = {"simplenet": ["--epochs", "24"], "glass": ["--epochs", "16"], "hybrid": []}
BACKBONE = {"resnet50.tv_in1k": "resnet50_msra_in1k_layer3.safetensors"}
BACKBONE |= {"resnet18.tv_in1k": "resnet18_tv_in1k_layer3.safetensors"}
PICTURES = (".png", ".jpg", ".jpeg")
LATE = "the time limit is reached: give the same command again to continue"
STEPS = ("prepare", "simplenet", "glass", "shapes", "throughput", "jobs", "collect")


def prepare(real: Path, backbone: str) -> None:
    """Copies the pictures, smaller, and the weights of the backbone."""
    for name, side in DATA.items():
        if (real / "data" / name).is_dir():
            copy_smaller(real / "data" / name, PREPARED / name, side)
    weights_of(backbone).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(real / "weights" / BACKBONE[backbone], weights_of(backbone))


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


def weights_of(backbone: str) -> Path:
    """Where the prepared weights are."""
    return PREPARED / "weights" / BACKBONE[backbone]


def schedule(args: argparse.Namespace, methods: tuple[str, ...], roots: list[Path], output: Path) -> list[list[str]]:
    """A command of `training/train.py` for each data set."""
    common = ["--methods", *methods, "--backbone", args.backbone, "--backbone-weights", str(weights_of(args.backbone))]
    common += ["--textures", str(PREPARED / "dtd/images"), "--stabilise", "statistics", "average", "decay"]
    common += ["--mixed-precision", args.precision, "--seed", str(args.seed), "--output", str(output), *args.options]
    return [["training/train.py", "--data-root", str(root), *common] for root in roots]


def shapes(args: argparse.Namespace) -> list[list[str]]:
    """A command for each method, category and input that is not finished."""
    found = []
    for method, schedule_of in SHORT.items():
        for place, sizes in SHAPES.items():
            for size in sizes if (PREPARED / place).is_dir() else ():
                root, category = place.split("/")
                output = RUNS / "shapes" / size / str(args.seed)
                command = ["training/train.py", "--data-root", str(PREPARED / root), "--categories", category]
                command += ["--methods", method, "--image-size", size, "--seed", str(args.seed)]
                command += ["--backbone", COMPACT_BACKBONE, *schedule_of, "--output", str(output), *args.options]
                command += ["--textures", str(PREPARED / "dtd/images")] if method == "glass" else []
                if not list(output.glob(f"{method}-*-{category}")):
                    found.append(command)
    return found


def commands(args: argparse.Namespace) -> list[list[str]]:
    """What a step runs, each by this Python."""
    roots = [PREPARED / name for name in ("mvtec_ad", "magnetic_tile") if (PREPARED / name).is_dir()]
    if args.step == "shapes":
        return shapes(args)
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
    if seconds <= 0:
        raise SystemExit(LATE)
    process = subprocess.Popen([sys.executable, *command])
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise SystemExit(LATE) from None
    if status:
        raise SystemExit(status)


def run_all(commands: list[list[str]], seconds: float, parallel: int) -> None:
    """Runs so many at a time; all that the time allows, before it says what failed."""
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(parallel) as pool:
        ended = [pool.submit(lambda each: run(each, end - time.monotonic()), command) for command in commands]
    for each in ended:
        each.result()


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
            with tarfile.open(Path(out) / "reports.tgz", "w:gz") as archive:
                for path in sorted((*RUNS.rglob("metrics.json"), *RUNS.rglob("scores.parquet"))):
                    archive.add(path, path.relative_to(RUNS))


def main() -> None:
    """Runs one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of real pictures and weights, for prepare")
    parser.add_argument("--backbone", choices=BACKBONE, default=next(iter(BACKBONE)))
    parser.add_argument("--precision", choices=("no", "fp16", "bf16"), default="no")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=560, help="seconds until a step stops")
    parser.add_argument("--parallel", type=int, default=1, help="commands at a time; 12 for the shapes on an H200")
    parser.add_argument("options", nargs="*", help="after --: more options for the program of the step")
    args = parser.parse_args()
    if args.step == "prepare":
        if args.data is None:
            parser.error("prepare needs --data DIR, see docs/data.md")
        return prepare(args.data, args.backbone)
    with copied_results():
        run_all(commands(args), args.limit, args.parallel)


if __name__ == "__main__":
    main()
