"""Plots of a study: ROC curves, intervals of differences, and distributions of scores; one SVG file each."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from hubmodels.methods import METHODS
from training.compare import Run, compared, runs_of
from training.study.tables import Results

LINES = ("-", "--", ":", "-.", (0, (1, 1)), (0, (5, 1, 1, 1)))
BINS, LEVELS = 40, (-1.5, 4.0)  # scores beyond are counted at the edge
matplotlib.rcParams |= {"svg.hashsalt": "study", "font.size": 8, "svg.fonttype": "path"}


def draw_all(results: Results, folder: Path) -> list[Path]:
    """Draws all plots of each setting into the folder; returns their files."""
    files = []
    for setting in dict.fromkeys(row["setting"] for row in results.rows):
        runs = [run for run in runs_of(results) if run.setting == setting and run.has_both]
        if not runs:
            continue
        for name, draw in (("roc", draw_roc), ("scores", draw_scores), ("intervals", draw_intervals)):
            if (figure := draw(runs)) is not None:
                files.append(folder / f"{name}_{setting}.svg")
                figure.savefig(files[-1], metadata={"Date": None}, bbox_inches="tight")
    return files


def draw_roc(runs: Sequence[Run]) -> Figure:
    """For each category the ROC curve of each method, of its first seed."""
    figure, places = _grid(runs)
    for category, axes in places.items():
        for run in _firsts(run for run in runs if run.category == category):
            rates, found, _ = roc_curve(run.labels, run.scores)
            axes.plot(rates, found, **_style(run.method), label=METHODS[run.method].title, linewidth=1)
        axes.set(title=category, xlabel="false alarms", ylabel="recall", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    next(iter(places.values())).legend(loc="lower right")
    return figure


def draw_scores(runs: Sequence[Run]) -> Figure:
    """For each category and method, the scores of good and defective pictures of its first seed.

    They are on one scale: 0 is the median of good pictures, 1 the threshold.
    """
    figure, places = _grid(runs)
    for category, axes in places.items():
        chosen = [run for run in _firsts(run for run in runs if run.category == category) if run.threshold is not None]
        for i, run in enumerate(chosen):
            middle = np.median(run.scores[run.labels == 0])
            levels = ((run.scores - middle) / max(run.threshold - middle, 1e-9)).clip(*LEVELS)
            for label, sign, colour in ((0, 1, "0.6"), (1, -1, "tab:red")):
                counts, edges = np.histogram(levels[run.labels == label], BINS, LEVELS)
                axes.stairs(
                    i + sign * 0.45 * counts / max(1, counts.max()), edges, baseline=i, fill=True, color=colour
                )
        axes.axvline(1, color="0.3", linestyle="--", linewidth=0.8)
        axes.set(title=category, xlim=LEVELS)
        axes.set_yticks(range(len(chosen)), [METHODS[run.method].title for run in chosen])
    explained = "score: 0 = median of good pictures, 1 = threshold; good grey, above; defective red, below"
    figure.supxlabel(f"{explained}; scores beyond an end are in its last bin")
    return figure


def draw_intervals(runs: Sequence[Run]) -> Figure | None:
    """For each category the difference in image AUROC of each method to the best mean one, with 95 % intervals."""
    methods = list(dict.fromkeys(run.method for run in runs))
    if len(methods) < 2:
        return None
    runs = [replace(run, curves=None) for run in runs]  # pixels are not compared: that takes longest
    reference = max(methods, key=lambda m: np.mean([run.image_auroc for run in runs if run.method == m]))
    others = [method for method in METHODS if method in methods and method != reference]
    categories = sorted({run.category for run in runs})
    figure = Figure(figsize=(6, 1 + 0.16 * len(others) * len(categories)))
    axes = figure.subplots()
    axes.axvline(0, color="0.5", linewidth=0.8)
    step = 0.8 / len(others)
    for i, method in enumerate(others):
        rows = compared([r for r in runs if r.method == method], [r for r in runs if r.method == reference])
        for row in rows:
            place, gap = categories.index(row.category) + step * (i - (len(others) - 1) / 2), row.image_auroc
            low, high = (100 * bound for bound in gap.interval)
            style = {"color": _style(method)["color"]}
            axes.plot([low, high], [place, place], linewidth=1.5, **style)
            label = METHODS[method].title if row is rows[0] else None
            axes.plot(100 * gap.value, place, "o", label=label, **style)
    axes.set_yticks(range(len(categories)), categories)
    axes.set_ylim(len(categories) - 0.5, -0.5)
    axes.set(xlabel=f"image AUROC minus that of {METHODS[reference].title}, points, with 95 % intervals")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(others))
    return figure


def _grid(runs: Sequence[Run]) -> tuple[Figure, dict[str, Axes]]:
    """Axes for each category, three in a row."""
    categories = sorted({run.category for run in runs})
    rows, columns = -(-len(categories) // 3), min(3, len(categories))
    figure = Figure(figsize=(3 * columns, 2.6 * rows), layout="constrained")
    all_axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in all_axes[len(categories) :]:
        axes.remove()
    return figure, dict(zip(categories, all_axes, strict=False))


def _firsts(runs) -> list[Run]:
    """The first seed of each method, in the registry's order."""
    first: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        first.setdefault(run.method, run)
    return [first[method] for method in METHODS if method in first]


def _style(method: str) -> dict:
    order = list(METHODS).index(method)
    return {"color": [c / 255 for c in METHODS[method].colour], "linestyle": LINES[order % len(LINES)]}
