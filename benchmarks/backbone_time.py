"""Forward time of the compact backbone beside others: `PYTHONPATH=. python benchmarks/backbone_time.py`.

Each network up to layer3, 256 px, batch 1, two threads, as `hubmodels` runs it; in turns, in one run. The others have
random weights, which do not change the time. Writes `results/backbone_time.json`. Run it on a quiet machine.
"""

import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from hubmodels.backbone import Backbone, find_weights
from hubmodels.compactnet import COMPACT_BACKBONE
from training.evaluation import write_json
from training.provenance import machine, versions

NAMES = ("wide_resnet50_2.tv_in1k", "resnet18.tv_in1k", COMPACT_BACKBONE)
LAYERS, SIZE, THREADS, ROUNDS = (2, 3), 256, 2, 30
RESULT = Path(__file__).parent / "results" / "backbone_time.json"


def open_backbone(name: str, folder: Path) -> Backbone:
    """The network as heads use it."""
    if name == COMPACT_BACKBONE:
        return Backbone(name, LAYERS, find_weights(name))
    network = timm.create_model(name, pretrained=False, features_only=True, out_indices=LAYERS)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / f"{name}.safetensors")
    return Backbone(name, LAYERS, folder / f"{name}.safetensors")


@torch.inference_mode()
def measure(backbones: list[Backbone]) -> list[list[float]]:
    """Milliseconds of each round for each network, in turns, after a warm-up."""
    images, rounds = torch.randn(1, 3, SIZE, SIZE), []
    for _ in range(ROUNDS + 3):
        row = []
        for backbone in backbones:
            start = time.perf_counter()
            backbone(images)
            row.append(1000 * (time.perf_counter() - start))
        rounds.append(row)
    return [list(column) for column in zip(*rounds[3:], strict=True)]


def main() -> None:
    """Prints and writes a row per network."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        backbones = [open_backbone(name, Path(folder)) for name in NAMES]
    columns = measure(backbones)
    papers = statistics.median(columns[0])
    common = {"image_size": SIZE, "batch": 1, "threads": THREADS, "machine": machine(), "versions": versions()}
    common |= {"command": "PYTHONPATH=. python benchmarks/backbone_time.py"}
    rows = []
    for backbone, times in zip(backbones, columns, strict=True):
        median, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        parameters = sum(p.numel() for p in backbone.parameters())
        row = {"backbone": backbone.name, "parameters": parameters, "median_ms": round(median, 2)}
        rows.append(row | {"p95_ms": round(p95, 2), "papers_over_this": round(papers / median, 2), **common})
        print(f"{backbone.name:28} {parameters / 1e6:5.1f} M {median:6.1f} ms  p95 {p95:6.1f}  x{papers / median:.1f}")
    write_json(RESULT, rows)


if __name__ == "__main__":
    main()
