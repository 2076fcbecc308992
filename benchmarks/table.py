"""Results file -> markdown table for the README: `python benchmarks/table.py benchmarks/results/real_data.json`.

Rows that differ in nothing but the seed are one line: mean, and standard deviation where there are several.
"""

import json
import re
import statistics
import sys
from pathlib import Path

SAME = ("method", "dataset", "category", "backbone", "image_size", "epochs", "held_out", "stabilise")
SAME += ("textures", "hypothesis", "foreground")
SETTINGS = (
    "category",
    "method",
    "backbone",
    "input",
    "epochs",
    "noise / RMS",
    "stabilised by",
    "held out",
    "hypothesis, foreground",
)
METRICS = {"image_auroc": "I-AUROC", "pixel_auroc": "P-AUROC", "aupro": "AUPRO@0.3"}


def group(rows: list[dict]) -> dict[tuple, list[dict]]:
    """Runs that are repetitions of each other; by category and method, then in the order of their first appearance."""
    groups: dict[tuple, list[dict]] = {}
    for row in sorted(rows, key=lambda row: (row["category"], row["method"])):
        key = (relative_noise(row), *(str(row[name]) for name in SAME))
        groups.setdefault(key, []).append(row)
    return groups


def relative_noise(row: dict) -> str:
    """Feature noise over the features' RMS, which varies with the pictures held out."""
    return f"{row['noise_std'] / row['feature_rms']:.2f}"


def cell(values: list[float | None]) -> str:
    """Per cent, mean and standard deviation over seeds; a dash where there is nothing to measure."""
    if None in values:
        return "-"
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def setting(row: dict) -> str:
    """GLASS's hypothesis and foreground without their reasons."""
    if row["method"] != "glass":
        return "-"
    return f"{row['hypothesis']}, {re.split('[:,(]', row['foreground'])[0].strip()}"


def line(runs: list[dict]) -> str:
    """One table row."""
    first = runs[0]
    minutes = statistics.mean(run["train_seconds"] for run in runs) / 60
    cells = [f"{first['dataset']}/{first['category']}", first["method"], first["backbone"].split(".")[0]]
    cells += [f"{first['image_size']} px", first["epochs"]]
    cells += [relative_noise(first), " ".join(first["stabilise"]), first["held_out"], setting(first)]
    cells += [*(cell([run[name] for run in runs]) for name in METRICS)]
    return "| " + " | ".join(map(str, [*cells, len(runs), f"{minutes:.0f}"])) + " |"


def main(path: Path) -> None:
    """Prints the table."""
    print("| " + " | ".join([*SETTINGS, *METRICS.values(), "seeds", "minutes"]) + " |")
    print("|---|---|---|---|--:|--:|---|--:|---|" + "--:|" * (len(METRICS) + 2))
    for runs in group(json.loads(path.read_text())).values():
        print(line(runs))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
