"""Do all methods train on this device, and are its scores those of the CPU? `python -m benchmarks.device_check`.

Each method is trained for a moment on rendered parts, on the GPU if there is one. Then the CPU and the device score
the same test pictures. `difference` is the largest difference of image scores divided by their spread, and
`map_difference` is the same for maps. Precisions: `fp32`, `tf32` (torch's default for convolutions on a GPU), `bf16`
(autocast of the network). On a CPU the device is the CPU itself, which shows that the program runs. Writes
`results/device_check.json`.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import RESULTS, provenance, table
from hubmodels import AnomalyDetector, load
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.methods import METHODS
from training import train
from training.evaluation import write_json
from training.parts.dataset import parts_categories

RESULT = RESULTS / "device_check.json"
CATEGORY, PICTURES = "washer", 12
COLUMNS = ("method", "device", "precision", "pictures", "difference", "map_difference", "verdicts_changed")
PRECISIONS = ("fp32", "tf32", "bf16")


@contextmanager
def precision(name: str, device: str) -> Iterator[None]:
    """Computes in a precision."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        with torch.autocast(device, torch.bfloat16) if name == "bf16" else nullcontext():
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def trained(folder: Path, methods: list[str]) -> dict[str, Path]:
    """A model folder of each method, trained on the device that training chooses."""
    arguments = ["--data-root", "parts:", "--categories", CATEGORY, "--backbone", COMPACT_BACKBONE, "--epochs", "1"]
    if train.main([*arguments, "--methods", *methods, "--output", str(folder)]):
        raise SystemExit("not all methods can be trained on this device: see above")
    return {method: folder / f"{method}-parts-{CATEGORY}" for method in methods}


def compared(folder: Path, device: str) -> Iterator[dict]:
    """A row for each precision."""
    [category] = parts_categories([CATEGORY])
    pictures = [sample.read() for sample in (*category.test[:PICTURES], *category.test[-PICTURES:])]
    reference = outputs(load(folder), pictures)
    detector = load(folder, map_location=device)
    for name in PRECISIONS:
        with precision(name, device):
            found = outputs(detector, pictures)
        scores, maps, verdicts = zip(reference, found, strict=True)
        yield {
            **{"method": detector.method, "device": device, "precision": name, "pictures": len(pictures)},
            **{"difference": distance(*scores), "map_difference": distance(*maps)},
            "verdicts_changed": int(np.sum(verdicts[0] != verdicts[1])),
        }


def outputs(detector: AnomalyDetector, pictures: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image scores, maps and verdicts."""
    found = detector.predict_batch(pictures)
    columns = zip(*((p.image_score, p.anomaly_map, p.is_anomalous) for p in found), strict=True)
    return tuple(np.array(column) for column in columns)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference, in units of the spread of the first."""
    return float(np.abs(one - other).max() / np.ptp(one))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    command, rows = provenance(f"python -m benchmarks.device_check {' '.join(sys.argv[1:])}".strip()), []
    with tempfile.TemporaryDirectory() as folder:
        for place in trained(Path(folder), args.methods).values():
            rows += compared(place, device)
            write_json(RESULT, [row | command for row in rows])
    print(table([row | {k: f"{row[k]:.0e}" for k in COLUMNS[4:6]} for row in rows], COLUMNS))
    exact = [row for row in rows if row["precision"] == "fp32"]
    if any(max(row["difference"], row["map_difference"]) > 1e-4 or row["verdicts_changed"] for row in exact):
        raise SystemExit("the scores of this device are not those of the CPU")


if __name__ == "__main__":
    main()
