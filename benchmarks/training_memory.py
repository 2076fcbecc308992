"""Memory and disk that training needs with large inputs: `python -m benchmarks.training_memory`.

SimpleNet trains for one epoch on PICTURES good parts with inputs of several sizes; the parts are small rendered ones,
because every picture is resized to the input. `memory_mb` is the highest anonymous memory of the process above that of
its imports: what cannot be given back. `mapped_mb` is the highest part of the mapped files that was in memory, which
the system takes back when it needs it. `features_gb` is the size of the cached features, in memory or in those files.

Writes `results/training_memory.json`; `--table` prints the table of `docs/training.md` from it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.measuring import RESULTS, origin, provenance, table
from hubmodels.backbone import feature_channels, feature_strides
from hubmodels.compactnet import COMPACT_BACKBONE
from training.evaluation import write_json
from training.parts.dataset import render

RESULT = RESULTS / "training_memory.json"
PICTURES, HELD_OUT = 300, 0.05  # and its share that is held out
INPUTS = ("256", "512", "1024", "2048x1536")
LAYERS = (2, 3)  # that are cached
COLUMNS = ("input", "memory_mb", "mapped_mb", "features_gb", "minutes")


def measure(size: str, pictures: Path, output: Path) -> dict:
    """One training, watched from outside."""
    command = [sys.executable, "training/train.py", "--data-root", str(pictures), "--methods", "simplenet"]
    command += ["--epochs", "1", "--image-size", size, "--backbone", COMPACT_BACKBONE, "--holdout", str(HELD_OUT)]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--output", str(output)])
    anonymous, mapped, features, imports = [0], [0], [0], 0
    while process.poll() is None:
        status = _status(process.pid)
        anonymous.append(status.get("RssAnon", 0))
        mapped.append(status.get("RssFile", 0) + status.get("RssShmem", 0))
        features.append(sum(path.stat().st_size for path in output.rglob("features*.bin")))
        if not list(output.rglob("*")):
            imports = anonymous[-1]  # nothing is written before they are finished
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(process.returncode)
    (report,) = (json.loads(path.read_text()) for path in output.rglob("metrics.json"))
    height, width = (int(side) for side in (size.split("x") * 2)[:2])
    strides = feature_strides(COMPACT_BACKBONE, LAYERS)
    channels = sum(feature_channels(COMPACT_BACKBONE, LAYERS)) // len(strides)  # of each cached layer
    values = sum((height // stride) * (width // stride) * channels for stride in strides)
    return {
        **{"input": size.replace("x", " x "), "memory_mb": round((max(anonymous) - imports) / 1024)},
        **{"mapped_mb": round(max(mapped) / 1024), "in_memory": report["training"]["features_in_memory"]},
        **{"features_gb": round((max(features) or 4 * report["training"]["fit"] * values) / 1e9, 1)},
        **{"minutes": round((time.perf_counter() - started) / 60, 1)},
    }


def _status(pid: int) -> dict[str, int]:
    """The memory lines of a process, kB; empty once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: int(value.split()[0]) for name, value in (line.split(":", 1) for line in lines) if "kB" in value}


def results_table() -> str:
    """The rows, with the machine that measured them."""
    rows = json.loads(RESULT.read_text())
    return f"{table(rows, COLUMNS)}\n\n{origin(rows[0])}"


def main() -> None:
    """Measures all inputs, or prints the last table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="only print the table of the last results")
    if parser.parse_args().table:
        return print(results_table())
    common = provenance(" ".join(["python -m benchmarks.training_memory", *sys.argv[1:]]))
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as folder:  # not where files are in memory
        good = Path(folder) / "parts" / "washer" / "train" / "good"
        good.mkdir(parents=True)
        for seed in range(PICTURES):
            Image.fromarray(render("washer", seed)[0]).save(good / f"{seed:03}.png")
        for size in INPUTS:
            rows.append(measure(size, Path(folder) / "parts", Path(folder) / size) | common)
            write_json(RESULT, rows)
    print(results_table())


if __name__ == "__main__":
    main()
