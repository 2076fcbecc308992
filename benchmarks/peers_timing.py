"""How `peers.py` measures one model, in our environment and in the peers': only torch, and what `timing` has.

The peers' environment has none of our packages, so nothing of them may be imported here.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import THREADS, milliseconds, resident_mb

# those of `training.config`, which cannot be imported here; a test compares
PAPER_BACKBONE, PAPER_IMAGE_SIZE = "wide_resnet50_2.tv_in1k", 288
LONG_MS = 4000  # of a call so long, what happens only the first time is a small part: it needs no warm-up
Step = Callable[[], Any]


@dataclass(frozen=True)
class Subject:
    """One model, ready to judge pictures.

    Attributes:
        facts: what its rows say of it: method, backbone, weights, and what a training step is.
        pictures: (B, 3, S, S) -> a random model input, as the model takes it.
        judge: model input -> anomaly maps (B, [1,] S, S) and image scores (B, [1]).
        sizes_mb: writes what has to be kept of the model into a folder and says how large it is.
        make_step: prepares training; what it returns makes one step. None: it has no training of its own.
        train_batch: pictures per step.
    """

    facts: dict[str, str]
    pictures: Callable[..., Tensor]
    judge: Callable[[Tensor], tuple[Tensor, Tensor]]
    sizes_mb: Callable[[Path], dict[str, float]]
    make_step: Callable[[], Step] | None = None
    train_batch: int | None = None


def run(builders: Mapping[str, Callable[[Path], Subject]], packages: tuple[str, ...]) -> None:
    """Command line of a worker: measures one model in this fresh process and prints a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=builders)
    parser.add_argument("--weights", type=Path, help="random weights of the papers' backbone")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, nargs="+", default=[2], help="of each batch size")
    parser.add_argument("--steps", type=int, default=2, help="of training; one where they are long")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    libraries_mb = resident_mb()
    subject = builders[args.name](args.weights)
    result = {"facts": subject.facts, "libraries_mb": libraries_mb, "judged": judge_all(subject, args)}
    result |= train(subject, args.steps) | sizes(subject)  # after inference, whose memory is measured
    print(json.dumps(result | {"versions": {name: version(name) for name in packages}}))


@torch.inference_mode()
def judge_all(subject: Subject, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds and peak memory of each batch size, the smallest first, since a peak never falls."""
    require_complete(*subject.judge(subject.pictures(1, 3, PAPER_IMAGE_SIZE, PAPER_IMAGE_SIZE)))
    measured = []
    for batch, rounds in zip(args.batches, args.rounds, strict=True):
        images = subject.pictures(batch, 3, PAPER_IMAGE_SIZE, PAPER_IMAGE_SIZE)
        times = timed(lambda images=images: subject.judge(images), rounds, rounds)
        measured.append({"batch": batch, "times_ms": times, "peak_mb": resident_mb()})
    return measured


def require_complete(anomaly_map: Tensor, score: Tensor) -> None:
    """A model that left something out would win."""
    if anomaly_map.shape[-2:] != (PAPER_IMAGE_SIZE, PAPER_IMAGE_SIZE) or score.numel() != 1:
        raise SystemExit(f"a map of {tuple(anomaly_map.shape)} and {score.numel()} scores are no answer")
    if not (torch.isfinite(anomaly_map).all() and torch.isfinite(score).all()):
        raise SystemExit("the answer is not finite")


def train(subject: Subject, steps: int) -> dict[str, Any]:
    """Milliseconds of each training step."""
    if subject.make_step is None:
        return {}
    return {"train_times_ms": timed(subject.make_step(), steps, least=1), "train_batch": subject.train_batch}


def sizes(subject: Subject) -> dict[str, float]:
    """MB of the model's files."""
    with TemporaryDirectory() as folder:
        return subject.sizes_mb(Path(folder))


def timed(call: Step, rounds: int, least: int) -> list[float]:
    """Milliseconds of each round after a warm-up; of long calls the `least` number, the first one included."""
    first = milliseconds(call)
    if first > LONG_MS:
        return [first] + [milliseconds(call) for _ in range(least - 1)]
    return [milliseconds(call) for _ in range(rounds)]


def file_mb(path: Path) -> float:
    """Size of a file; MB are 2**20 bytes, as for memory."""
    return round(path.stat().st_size / 2**20, 1)
