"""Time of all methods in one run with the compact backbone: training, and a verdict.

    python -m benchmarks.methods_time --data DIR     # about four minutes on two quiet cores
    python -m benchmarks.methods_time --table

Training: `training/train.py` in a process of its own, on good pictures of the screw in a folder. The hybrid is trained
completely, as are PatchCore and Mahalanobis. SimpleNet and GLASS run two epochs, and the time of all their epochs is
calculated from the second one. Verdict: `predict` of the bundled models of the washer on its example, in turns.
PatchCore and Mahalanobis are not bundled: theirs are untrained, with a full bank. `model_mb` is the size of the head.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.measuring import RESULTS, provenance, report, table
from benchmarks.timing import spread, time_in_turns
from hubmodels import AnomalyDetector
from hubmodels.backbone import load_backbone
from hubmodels.compactnet import COMPACT_BACKBONE, COMPACT_IMAGE_SIZE
from hubmodels.folders import read_category
from hubmodels.hub.catalog import Catalog
from hubmodels.methods import METHODS
from hubmodels.pictures import read_picture
from training.objectives import OBJECTIVES, objective_of

ROOT = Path(__file__).parents[1]
RESULT = RESULTS / "methods_time.json"
PICTURES = (50, 300)  # of the hybrid's training; the others have the first number
EPOCHS, ROUNDS = 2, 20
COLUMNS = (
    *("case", "method", "pictures", "threads", "seconds", "with start", "peak_mb"),
    *("median_ms", "p95_ms", "model_mb"),
)


def training(method: str, pictures: list[Path], folder: Path) -> dict:
    """A run of `train.py` on these pictures: seconds of training, those of the process, and its peak memory in MB."""
    data = folder / f"good-{len(pictures)}"
    data.mkdir(exist_ok=True)
    for path in pictures:
        shutil.copy(path, data)
    command = [sys.executable, "training/train.py", "--data-root", str(data), "--category", "part"]
    command += ["--methods", method, "--output", str(folder / f"{method}-{len(pictures)}")]
    epochs = OBJECTIVES[method].epochs
    command += ["--epochs", str(EPOCHS)] if epochs else []
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - started
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    [written] = (folder / f"{method}-{len(pictures)}").glob("*/metrics.json")
    record = json.loads(written.read_text())["training"]
    log = [json.loads(line) for line in (written.parent / "training_log.jsonl").read_text().splitlines()]
    extra = (epochs - EPOCHS) * log[-1]["seconds"] if epochs else 0  # of the epochs that were left out
    seconds = record["cache_seconds"] + record["train_seconds"] + extra
    row = {"case": "training", "method": method, "pictures": len(pictures), "threads": torch.get_num_threads()}
    row |= {"seconds": round(seconds), "with start": round(took + extra), "peak_mb": round(usage.ru_maxrss / 1000)}
    return row | {"epochs": epochs, "epochs_timed": EPOCHS if epochs else 0}


def verdicts() -> list[dict]:
    """Milliseconds of `predict`, from the decoded picture to verdict and map, with all threads and with one."""
    detectors = Catalog.bundled().load("parts / washer")
    detectors |= {method: untrained(method) for method in METHODS if method not in detectors}
    picture = read_picture(ROOT / "examples/parts/washer/scratch.png")
    cases = {
        method: lambda detector=detector: detector.predict(picture).anomaly_map
        for method, detector in detectors.items()
    }
    rows, most = [], torch.get_num_threads()
    for threads in dict.fromkeys((most, 1)):
        torch.set_num_threads(threads)
        for method, times in time_in_turns(cases, ROUNDS).items():
            size = sum(4 * t.numel() for t in detectors[method].head.state_dict().values()) / 1e6
            row = {"case": "verdict", "method": method, "threads": threads, "model_mb": round(size, 1)}
            rows.append(row | spread(times))
    torch.set_num_threads(most)
    return rows


def untrained(method: str) -> AnomalyDetector:
    """A model as large as a trained one."""
    fingerprint = load_backbone(COMPACT_BACKBONE).fingerprint
    detector = METHODS[method].detector(
        backbone=COMPACT_BACKBONE, backbone_sha256=fingerprint, image_size=COMPACT_IMAGE_SIZE
    )
    objective_of(method).grow(detector)
    return detector.eval()


def results_table() -> str:
    """The committed rows."""
    return table(json.loads(RESULT.read_text()), COLUMNS)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of real pictures")
    parser.add_argument("--table", action="store_true", help="print the committed rows")
    args = parser.parse_args()
    if args.table or not args.data:
        print(results_table())
        return
    screw = read_category(None, "screw", args.data / "data/mvtec_ad/screw")
    good = [sample.source for sample in screw.train]
    with tempfile.TemporaryDirectory() as folder:
        rows = verdicts()
        rows += [training("hybrid", good[:count], Path(folder)) for count in PICTURES]
        rows += [training(method, good[: PICTURES[0]], Path(folder)) for method in METHODS if method != "hybrid"]
    origin = provenance(f"python -m benchmarks.methods_time {' '.join(sys.argv[1:])}")
    report("methods_time", [row | origin for row in rows], COLUMNS)


if __name__ == "__main__":
    main()
