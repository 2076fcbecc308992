"""Few good pictures, and defective ones among them: table and learning curves of `benchmarks/conditions.toml`.

    python -m training.study benchmarks/conditions.toml     # trains
    python -m benchmarks.conditions table                   # image AUROC
    python -m benchmarks.conditions verdicts                # false alarms and recall
    python -m benchmarks.conditions plot                    # docs/learning_curves.svg

What has all pictures comes from `benchmarks/study.toml`.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from benchmarks.measuring import RESULTS, table
from benchmarks.real_data import COMPACT, study_rows
from hubmodels.methods import METHODS
from hubmodels.metric_names import METRICS
from training.study.plan import Study
from training.study.tables import Results, cell, grouped

FOLDER, FILE, PLOT = (
    RESULTS / "conditions",
    Path(__file__).with_name("conditions.toml"),
    Path("docs/learning_curves.svg"),
)
ALL = "all"  # the setting without a condition
CURVES = ("image_auroc", "aupro")
VERDICTS = ("false_alarm_rate", "recall_at_threshold")
matplotlib.rcParams |= {"svg.hashsalt": "conditions", "svg.fonttype": "path"}


def rows() -> list[dict]:
    """The rows of the conditions, and with all pictures those of the study for the same categories and methods."""
    found = Results(FOLDER).rows
    measured = {(row["category"], row["method"]) for row in found}
    whole = [row | {"setting": ALL} for row in study_rows(COMPACT) if (row["category"], row["method"]) in measured]
    return [*found, *whole]


def results_table(metrics: Sequence[str] = ("image_auroc",)) -> str:
    """A line for each category and method, a column for each condition; per cent."""
    by_key = grouped(rows(), "category", "method", "setting")
    settings = [name for name in (*Study.read(FILE).settings, ALL) if any(key[2] == name for key in by_key)]
    lines = []
    for category, method in sorted({key[:2] for key in by_key}, key=lambda key: (key[0], list(METHODS).index(key[1]))):
        line = {"category": category, "method": METHODS[method].title}
        for name in settings:
            if some := by_key.get((category, method, name)):
                line[name] = " / ".join(cell([row[key] for row in some]) for key in metrics)
        lines.append(line)
    return table(lines, ("category", "method", *settings))


def draw() -> Figure:
    """Metrics by the number of good pictures: mean over the seeds of each category, and the mean over categories."""
    numbers = {name: setting.pictures for name, setting in Study.read(FILE).settings.items() if setting.pictures}
    by_key = grouped((row for row in rows() if row["setting"] in numbers), "category", "method", "setting")
    categories = sorted({key[0] for key in by_key})
    figure = Figure(figsize=(2.6 * len(categories), 4.4), layout="constrained")
    places = figure.subplots(len(CURVES), len(categories), squeeze=False, sharex=True)
    for metric, line in zip(CURVES, places, strict=True):
        for category, axes in zip(categories, line, strict=True):
            for method in (name for name in METHODS if any(key[:2] == (category, name) for key in by_key)):
                points = []
                for setting, number in numbers.items():
                    values = [100 * row[metric] for row in by_key.get((category, method, setting), [])]
                    points += [(number, statistics.mean(values), min(values), max(values))] if values else []
                x, mean, low, high = zip(*points, strict=True)
                style = {"color": [c / 255 for c in METHODS[method].colour]}
                axes.plot(x, mean, marker=".", label=METHODS[method].title, **style)
                axes.fill_between(x, low, high, alpha=0.15, **style)
            axes.set(title=category if metric == CURVES[0] else "", xscale="log")
            axes.set_xticks(list(numbers.values()), map(str, numbers.values()), minor=False)
            axes.minorticks_off()
        line[0].set_ylabel(f"{METRICS[metric].short}, per cent")
    for axes in places[-1]:
        axes.set_xlabel("good pictures")
    places[0][0].legend()
    return figure


def main() -> None:
    """Prints a table, or draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("table", "verdicts", "plot"))
    part = parser.parse_args().part
    if part == "plot":
        draw().savefig(PLOT, metadata={"Date": None})
    else:
        print(results_table(VERDICTS) if part == "verdicts" else results_table())


if __name__ == "__main__":
    main()
