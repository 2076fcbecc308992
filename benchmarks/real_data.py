"""Results of training on real pictures: collects them, and prints the tables of README and `docs/benchmarks.md`.

    python -m benchmarks.real_data collect real_data runs/one runs/other   # adds rows to results/real_data.json
    python -m benchmarks.real_data table [real_data|ablation]              # all rows
    python -m benchmarks.real_data summary                                 # the study: the short table of the README
    python -m benchmarks.real_data study|methods|defects|sizes|deviations  # more of the studies
    python -m benchmarks.real_data inputs                                  # by input size and method
    python -m benchmarks.real_data pairs                                   # inputs on the same test pictures
    python -m benchmarks.real_data steps                                   # by patches in a training step
    python -m benchmarks.real_data bundled                                 # the bundled models

Each row comes from a `metrics.json` that training wrote. It contains the command, so that anybody can repeat it.
Rows that differ only in the seed become one line of a table: the mean, and the standard deviation over the seeds.
"""

import argparse
import json
import math
import re
import statistics
from collections.abc import Iterable
from pathlib import Path

from benchmarks.measuring import RESULTS, table
from hubmodels.hub.catalog import BUNDLED_MODELS
from hubmodels.methods import METHODS
from hubmodels.metric_names import HEADLINE, METRICS, OVERVIEW
from hubmodels.sizes import Size, as_pair, in_words
from training.compare import Run, all_pairs, compared, difference_cells, p_text, runs_of
from training.evaluation import write_json
from training.study import tables
from training.study.tables import Results

STUDY = RESULTS / "study"
COMPACT = "compactnet"  # the setting with the bundled backbone

OPERATING_POINT = ("false_alarm_rate", "recall_at_threshold")
IDENTITY = ("method", "category", "command")
SAME = ("method", "dataset", "category", "backbone", "image_size", "epochs", "held_out", "stabilise", "textures")
SHOWN = {key: METRICS[key].short for key in OVERVIEW}


def row_of(report: dict) -> dict:
    """One result, with everything that is needed to repeat it."""
    settings, training = report["settings"], report["training"]
    return {
        **{key: report[key] for key in ("method", "dataset", "category")},
        **{"backbone": report["backbone"]["name"], "image_size": settings["image_size"]},
        **{"seed": report["seed"], "protocol": report["protocol"]},
        **{key: report["metrics"].get(key) for key in (*HEADLINE, *OPERATING_POINT)},
        **{"epochs": report["epochs"]},
        **{key: training.get(key) for key in ("noise_std", "feature_rms", "hypothesis", "foreground", "textures")},
        **{"stabilise": settings.get("stabilise"), "fit": training["fit"], "held_out": training["held_out"]},
        **{"step_patches": training.get("step_patches")},  # None: all
        **{"train_seconds": training["train_seconds"], "machine": report["machine"], "command": report["command"]},
        **{"versions": report["versions"], "commit": report.get("commit")},
    }


def collect(target: Path, folders: Iterable[Path]) -> None:
    """Adds the rows of all model folders; a row of the same method, category and command is replaced."""
    reports = [json.loads(path.read_text()) for folder in folders for path in sorted(folder.rglob("metrics.json"))]
    new = [row_of(report) for report in reports]
    kept = json.loads(target.read_text()) if target.exists() else []
    write_json(target, list({tuple(row[key] for key in IDENTITY): row for row in [*kept, *new]}.values()))
    print(table([line_of([row]) for row in new], line_of(new[:1])) if new else "no metrics.json in these folders")


def full_table(rows: list[dict]) -> str:
    """All settings and results."""
    lines = [line_of(runs) for runs in group(rows).values()]
    return table(lines, lines[0])


def summary_table() -> str:
    """The study with the bundled backbone: image AUROC / AUPRO of each method, a line for each category, and means."""
    return tables.summary_table(study_rows(COMPACT))


def study_table() -> str:
    """All models of the study, by setting, category and method."""
    return tables.full_table(study_rows())


def defects_table() -> str:
    """Image AUROC by kind of defect, with the bundled backbone."""
    return tables.defect_table(Results(STUDY), COMPACT)


def methods_table() -> str:
    """All pairs of methods of the study over its categories, with the bundled backbone."""
    return all_pairs([run for run in runs_of(Results(STUDY)) if run.setting == COMPACT and run.has_both])


def size_table() -> str:
    """Time of a verdict, and size of a model, with the bundled backbone: medians."""
    lines = []
    for (method,), rows in tables.grouped(study_rows(COMPACT), "method").items():
        title, known = METHODS[method].title, [row["latency_ms"] for row in rows if row["latency_ms"]]
        mb, seconds = (statistics.median(row[key] for row in rows) for key in ("model_mb", "train_seconds"))
        line = {"method": title, "verdict and map, ms": f"{statistics.median(known):.0f}", "model, MB": f"{mb:.1f}"}
        lines.append(line | {"training, seconds": f"{seconds:.0f}"})
    order = [method.title for method in METHODS.values()]
    return table(sorted(lines, key=lambda line: order.index(line["method"])), list(lines[0]))


def study_rows(setting: str | None = None) -> list[dict]:
    """The rows of the study, of one setting or all."""
    return [row for row in Results(STUDY).rows if setting in (None, row["setting"])]


def deviations_table() -> str:
    """What differs from the official codes, one at a time, compared with the defaults on the same test pictures."""
    runs, default = runs_of(Results(RESULTS / "deviations")), runs_of(Results(STUDY))
    lines = []
    for (setting, method), some in _by_setting(runs).items():
        for row in compared(some, [run for run in default if (run.setting, run.method) == (COMPACT, method)]):
            line = {"change": setting, "method": METHODS[method].title, "category": row.category}
            line |= {"seeds": "{} / {}".format(*row.image_auroc.counts)}
            for title, gap in (("image AUROC", row.image_auroc), ("AUPRO", row.aupro)):
                line |= dict(zip((title, f"difference in {title}", "p"), difference_cells(gap), strict=True))
                line[f"p of {title}"] = line.pop("p")
            lines.append(line)
    return table(lines, lines[0])


def _by_setting(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.setting, run.method), []).append(run)
    return groups


def steps_table(rows: list[dict]) -> str:
    """Image AUROC / AUPRO by how many patches of each picture a training step takes."""
    lines = [
        {
            **{"category": runs[0]["category"], "method": runs[0]["method"], "input": in_words(_size(runs))},
            **{"patches in a step": runs[0].get("step_patches") or "all", "AUROC / AUPRO": _summary(runs)},
            **{"seeds": len(runs), "seconds": f"{statistics.mean(run['train_seconds'] for run in runs):.0f}"},
        }
        for runs in group(rows).values()
    ]
    return table(lines, lines[0])


def inputs_table(rows: list[dict]) -> str:
    """Image AUROC / AUPRO of each method, a line for each category and input; with the number of seeds."""
    lines: dict[tuple, dict] = {}
    for runs in sorted(group(rows).values(), key=lambda runs: (runs[0]["category"], math.prod(as_pair(_size(runs))))):
        line = lines.setdefault((runs[0]["category"], in_words(_size(runs))), {})
        line[runs[0]["method"]] = f"{_summary(runs)} ({len(runs)})"
    named = [dict(zip(("category", "input"), key, strict=True)) | line for key, line in lines.items()]
    methods = [method for method in METHODS if any(method in line for line in named)]
    return table(named, ("category", "input", *methods))


def pairs_table(rows: list[dict]) -> str:
    """Comparisons of inputs, or of patches in a training step, on the same test pictures: image AUROC, per cent."""
    lines = [_pair(row) for row in rows]
    order = {(line["category"], line["inputs"], line["method"]): line for line in lines}
    return table([order[key] for key in sorted(order)], ("category", "method", "inputs", "seeds", "image AUROC", "p"))


def _pair(row: dict) -> dict:
    (method, larger), (_, smaller) = (row[side].split(", ") for side in ("ours", "other"))
    return {
        **{"category": row["category"], "method": method, "inputs": f"{larger} / {smaller}"},
        "seeds": " / ".join(str(len(seeds)) for seeds in row["seeds"]),
        "image AUROC": " / ".join(f"{100 * value:.1f}" for value in row["image_auroc"]),
        "p": p_text(row["image_p"]),
    }


def _size(runs: list[dict]) -> Size:
    return runs[0]["image_size"]


def _summary(runs: list[dict]) -> str:
    cells = (cell([run[key] for run in runs]) for key in ("image_auroc", "aupro"))
    return " / ".join(each or "-" for each in cells)


def bundled_table(folder: Path = BUNDLED_MODELS) -> str:
    """Results of the models that come with the package, from their own reports."""
    reports = [json.loads(path.read_text()) for path in folder.glob("*/metrics.json")]
    lines = [
        {
            **{"category": report["category"], "method": report["method"]},
            **{name: cell([report["metrics"].get(key)]) for key, name in SHOWN.items()},
            **{"false alarms": f"{100 * report['metrics']['false_alarm_rate']:.0f}"},
            **{"recall": f"{100 * report['metrics']['recall_at_threshold']:.0f}"},
            **{"seconds": f"{report['training']['train_seconds']:.0f}"},
        }
        for report in sorted(reports, key=lambda report: (report["category"], list(METHODS).index(report["method"])))
    ]
    return table(lines, lines[0])


def group(rows: list[dict]) -> dict[tuple, list[dict]]:
    """Runs that repeat each other, by category and method, then in the order of their first appearance."""
    groups: dict[tuple, list[dict]] = {}
    for row in sorted(rows, key=lambda row: (row["category"], row["method"])):
        key = (relative_noise(row), geometry(row), row.get("step_patches") or 0, *(str(row[name]) for name in SAME))
        groups.setdefault(key, []).append(row)
    return groups


def line_of(runs: list[dict]) -> dict[str, str | int]:
    """One line of a table."""
    first = runs[0]
    return {
        **{"category": f"{first['dataset']}/{first['category']}", "method": first["method"]},
        **{"backbone": first["backbone"].split(".")[0], "input": f"{in_words(first['image_size'])} px"},
        **{"epochs": first["epochs"], "noise / RMS": relative_noise(first)},
        **{"stabilised by": " ".join(first["stabilise"] or ()) or None, "held out": first["held_out"]},
        **{"hypothesis, foreground": geometry(first)},
        **{name: cell([run[key] for run in runs]) for key, name in SHOWN.items()},
        **{"seeds": len(runs), "minutes": f"{statistics.mean(run['train_seconds'] for run in runs) / 60:.0f}"},
    }


def relative_noise(row: dict) -> str | None:
    """Feature noise divided by the features' RMS, which depends on the pictures held out; None for a fixed noise."""
    return f"{row['noise_std'] / row['feature_rms']:.2f}" if row["noise_std"] else None


def geometry(row: dict) -> str | None:
    """Hypothesis and foreground without their reasons; None for methods without a hypothesis."""
    if not row["hypothesis"]:
        return None
    return f"{row['hypothesis']}, {re.split('[:,(]', row['foreground'])[0].strip()}"


def cell(values: list[float | None]) -> str | None:
    """Per cent: the mean, and the standard deviation of several values; None if a metric cannot be computed."""
    return None if None in values else tables.cell(values)


def read(name: str) -> list[dict]:
    """The rows of `results/NAME.json`."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    adding = actions.add_parser("collect", help="add rows to a file of results")
    adding.add_argument("name", help="results/NAME.json")
    adding.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folders that training wrote to")
    actions.add_parser("table", help="print all rows").add_argument("name", nargs="?", default="real_data")
    for name in PRINTED:
        actions.add_parser(name, help="print a table")
    args = parser.parse_args()
    if args.action == "collect":
        collect(RESULTS / f"{args.name}.json", args.folders)
    elif args.action == "table":
        print(full_table(read(args.name)))
    else:
        print(PRINTED[args.action]())


PRINTED = {
    "summary": summary_table,
    "study": study_table,
    "methods": methods_table,
    "defects": defects_table,
    "sizes": size_table,
    "deviations": deviations_table,
    "inputs": lambda: inputs_table(read("shapes")),
    "pairs": lambda: pairs_table(read("paired")),
    "steps": lambda: steps_table(read("step_patches")),
    "bundled": bundled_table,
}


if __name__ == "__main__":
    main()
