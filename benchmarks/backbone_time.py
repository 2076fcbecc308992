"""Forward time of the compact backbone compared with others: `python -m benchmarks.backbone_time`.

Each network runs up to layer3 with 256 px, batch 1 and two threads, as `hubmodels` runs it; in turns, in one run. The
others have random weights, which do not change the time. Writes `results/backbone_time.json`. Use a quiet machine.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from reference.explicit import random_weights

from benchmarks.measuring import provenance, report
from benchmarks.timing import THREADS, spread, time_in_turns
from hubmodels.backbone import find_weights, load_backbone
from hubmodels.compactnet import COMPACT_BACKBONE
from training.objectives import PAPER_BACKBONE

NAMES = (PAPER_BACKBONE, "resnet18.tv_in1k", COMPACT_BACKBONE)
SIZE, ROUNDS = 256, 30
COLUMNS = ("backbone", "parameters", "image_size", "batch", "median_ms", "p95_ms", "papers_over_this")


def open_backbone(name: str, folder: Path) -> torch.nn.Module:
    """The network as heads use it, ready to be timed."""
    weights = find_weights(name) if name == COMPACT_BACKBONE else random_weights(name, folder)
    return load_backbone(name, weights=weights)


@torch.inference_mode()
def main() -> None:
    """Prints and writes a row for each network."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        backbones = {name: open_backbone(name, Path(folder)) for name in NAMES}
    images, rows = torch.randn(1, 3, SIZE, SIZE), []
    times = time_in_turns({name: partial(backbone, images) for name, backbone in backbones.items()}, ROUNDS)
    papers_ms = spread(times[PAPER_BACKBONE])["median_ms"]
    for name, backbone in backbones.items():
        row = {"backbone": name, "parameters": sum(p.numel() for p in backbone.parameters())}
        row |= {"image_size": SIZE, "batch": 1, "threads": THREADS} | spread(times[name])
        row |= {"papers_over_this": round(papers_ms / row["median_ms"], 2)}
        rows.append(row | provenance("python -m benchmarks.backbone_time"))
    report("backbone_time", rows, COLUMNS)


if __name__ == "__main__":
    main()
