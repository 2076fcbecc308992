"""Model folders -> one results file: `python benchmarks/collect.py benchmarks/results/NAME.json DIR [DIR ...]`.

Every row comes from a `metrics.json` that training wrote; nothing is typed in by hand. Rows that the file already
holds stay, except those of the same method, category and command.
"""

import json
import sys
from pathlib import Path

METRICS = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")
IDENTITY = ("method", "category", "command")
OPERATING_POINT = ("false_alarm_rate", "recall_at_threshold")


def row(report: dict) -> dict:
    """One result with all that is needed to repeat it."""
    settings, training = report["settings"], report["training"]
    return {
        **{key: report[key] for key in ("method", "dataset", "category")},
        **{"backbone": report["backbone"]["name"], "image_size": settings["image_size"]},
        **{"seed": report["seed"], "protocol": report["protocol"]},
        **{key: report["metrics"].get(key) for key in (*METRICS, *OPERATING_POINT)},
        **{"epochs": report["epochs"], "noise_std": training["noise_std"], "feature_rms": training["feature_rms"]},
        **{key: training.get(key) for key in ("hypothesis", "foreground", "textures")},
        **{"stabilise": settings["stabilise"], "fit": training["fit"], "held_out": training["held_out"]},
        **{"train_seconds": training["train_seconds"], "machine": report["machine"], "command": report["command"]},
        **{"versions": report["versions"], "commit": report.get("commit")},
    }


def main(target: Path, folders: list[Path]) -> None:
    """Adds the rows of all model folders found below the given ones."""
    reports = [json.loads(path.read_text()) for folder in folders for path in sorted(folder.rglob("metrics.json"))]
    new = [row(report) for report in reports]
    kept = json.loads(target.read_text()) if target.exists() else []
    rows = {tuple(r[key] for key in IDENTITY): r for r in [*kept, *new]}
    target.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    for r in new:
        shown = [key for key in ("image_auroc", "pixel_auroc", "aupro") if r[key] is not None]
        figures = "  ".join(f"{key} {r[key]:.3f}" for key in shown)
        run = f"{r['method']:9} {r['category']:16} {r['image_size']} px seed {r['seed']} {r['epochs']:3} epochs"
        print(run, figures, sep="  ")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
