"""Measures one model for `peers.py`, in our environment and in that of anomalib; needs torch only.

anomalib's environment does not contain this library, so nothing from it may be imported here.
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

# equal to `training.config`, which cannot be imported here; a test compares them
PAPER_BACKBONE, PAPER_IMAGE_SIZE = "wide_resnet50_2.tv_in1k", 288
LONG_MS = 4000  # in such a long call the extra work of the first call is small, so no warm-up is needed
Step = Callable[[], Any]


@dataclass(frozen=True)
class Subject:
    """One model, ready to predict.

    Attributes:
        facts: recorded in its rows: method, backbone, weights, and the content of a training step.
        pictures: (B, 3, S, S) -> a random input of the model.
        predict: model input -> anomaly maps (B, [1,] S, S) and image scores (B, [1]).
        sizes_mb: writes the files of the model into a folder and returns their sizes.
        make_step: prepares training and returns a function for one step. None: no training.
        train_batch: pictures in each step.
    """

    facts: dict[str, str]
    pictures: Callable[..., Tensor]
    predict: Callable[[Tensor], tuple[Tensor, Tensor]]
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
    result = {"facts": subject.facts, "libraries_mb": libraries_mb, "predicted": predict_all(subject, args)}
    result |= train(subject, args.steps) | sizes(subject)  # after inference, whose memory is measured
    print(json.dumps(result | {"versions": {name: version(name) for name in packages}}))


@torch.inference_mode()
def predict_all(subject: Subject, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds and peak memory of each batch size, the smallest first, since a peak never falls."""
    require_complete(*subject.predict(subject.pictures(1, 3, PAPER_IMAGE_SIZE, PAPER_IMAGE_SIZE)))
    measured = []
    for batch, rounds in zip(args.batches, args.rounds, strict=True):
        images = subject.pictures(batch, 3, PAPER_IMAGE_SIZE, PAPER_IMAGE_SIZE)
        times = timed(lambda images=images: subject.predict(images), rounds, rounds)
        measured.append({"batch": batch, "times_ms": times, "peak_mb": resident_mb()})
    return measured


def require_complete(anomaly_map: Tensor, score: Tensor) -> None:
    """Fails if the model leaves something out, because it would be faster without."""
    if anomaly_map.shape[-2:] != (PAPER_IMAGE_SIZE, PAPER_IMAGE_SIZE) or score.numel() != 1:
        raise SystemExit(f"a map of {tuple(anomaly_map.shape)} and {score.numel()} scores are not a complete result")
    if not (torch.isfinite(anomaly_map).all() and torch.isfinite(score).all()):
        raise SystemExit("the result is not finite")


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
    """Milliseconds of each round after a warm-up; for long calls only `least` rounds, with the first one."""
    first = milliseconds(call)
    if first > LONG_MS:
        return [first] + [milliseconds(call) for _ in range(least - 1)]
    return [milliseconds(call) for _ in range(rounds)]


def file_mb(path: Path) -> float:
    """Size of a file; MB are 2**20 bytes, as for memory."""
    return round(path.stat().st_size / 2**20, 1)
