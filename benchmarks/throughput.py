"""Pictures per second by batch size and precision, all methods in one pass: `python -m benchmarks.throughput`.

Cases: fp32 (without TF32), bf16 (autocast of network and heads), and both with `torch.compile`. The network is
wide_resnet50_2 with random weights at 288 px. Images are in the memory of the device, and the maps stay there.
`score_error` is the largest difference from fp32 divided by the largest score. Made for a GPU. On a CPU,
`--batches 1 --rounds 2` shows that it starts. Writes `results/throughput.json`.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.inference import build_detectors
from benchmarks.measuring import provenance, report
from benchmarks.timing import spread, time_in_turns
from hubmodels import AnomalyDetector
from hubmodels.scoring import smooth_map
from training.objectives import PAPER_BACKBONE, PAPER_IMAGE_SIZE

COLUMNS = ("case", "batch", "median_ms", "p95_ms", "pictures_per_second", "score_error", "gpu_peak_mb")


class SideBySide(nn.Module):
    """Normalised images (B, 3, S, S) -> logits of each method, with one backbone pass."""

    def __init__(self, detectors: list[AnomalyDetector]) -> None:
        super().__init__()
        front_end = detectors[0].front_end
        self.backbone, self.patch_features = front_end.backbone, front_end.patch_features
        self.heads = nn.ModuleList(detector.head.folded for detector in detectors)

    def forward(self, images: Tensor) -> list[Tensor]:
        aggregated = self.patch_features([feature_map.float() for feature_map in self.backbone(images)])
        return [head(aggregated) for head in self.heads]


def precisions(detectors: list[AnomalyDetector], device: str) -> dict[str, Callable]:
    """By precision: a function from images to patch scores and maps of each method; only the network uses bf16."""
    plain = SideBySide(detectors)

    def run(network: nn.Module, bf16: bool, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = network(images)
        scores = [d.head.logits_to_scores(values.float()) for d, values in zip(detectors, logits, strict=True)]
        return [(s, smooth_map(s, PAPER_IMAGE_SIZE)) for s in scores]

    networks = {"": plain, " compiled": torch.compile(plain)}
    return {
        name + suffix: partial(run, network, name == "bf16")
        for name in ("fp32", "bf16")
        for suffix, network in networks.items()
    }


def measure(cases: dict[str, Callable], batch: int, rounds: int, device: str) -> list[dict]:
    """A row for each precision, at one batch size."""
    images = torch.randn(batch, 3, PAPER_IMAGE_SIZE, PAPER_IMAGE_SIZE, device=device)
    exact = cases["fp32"](images)
    times = time_in_turns({name: lambda run=run: finished(run(images), device) for name, run in cases.items()}, rounds)
    rows = []
    for name, measured in times.items():
        row = {"case": name, "method": "both", "image_size": PAPER_IMAGE_SIZE, "batch": batch} | spread(measured)
        row |= {"pictures_per_second": round(1000 * batch / row["median_ms"], 1)}
        rows.append(row | {"score_error": score_error(cases[name](images), exact), "gpu_peak_mb": peak_of_gpu(device)})
    return rows


def finished(result: list, device: str) -> list:
    """Waits for the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()
    return result


def score_error(result: list[tuple[Tensor, Tensor]], exact: list[tuple[Tensor, Tensor]]) -> float:
    """Largest difference of patch scores, divided by the largest score; the worst method."""
    errors = [((a - b).abs().max() / b.abs().max()).item() for (a, _), (b, _) in zip(result, exact, strict=True)]
    return float(f"{max(errors):.1e}")


def peak_of_gpu(device: str) -> int | None:
    """Highest memory of torch on the GPU until now, MB."""
    return round(torch.cuda.max_memory_allocated() / 2**20) if device == "cuda" else None


@torch.no_grad()
def main() -> None:
    """Measures all batch sizes; a size that does not fit into the memory is left out with a message."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    device, rows = "cuda" if torch.cuda.is_available() else "cpu", []
    with tempfile.TemporaryDirectory() as folder:
        detectors = list(build_detectors(PAPER_BACKBONE, PAPER_IMAGE_SIZE, "both", Path(folder)).values())
    cases = precisions([detector.to(device) for detector in detectors], device)
    for batch in args.batches:
        try:
            rows += measure(cases, batch, args.rounds, device)
        except torch.cuda.OutOfMemoryError:
            print(f"batch {batch} does not fit into the GPU's memory")
    command = " ".join(["python -m benchmarks.throughput", *sys.argv[1:]])
    report("throughput", [row | provenance(command) for row in rows], COLUMNS)


if __name__ == "__main__":
    main()
