"""The drawings of the tab Compare, as SVG: ROC curves and score levels. Methods differ in dash and marker, too.

This module computes positions; `static/plots.html` draws.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from hubmodels.methods import METHODS, Method
from webapp.labelled_results import MethodResults

HIGHEST_LEVEL, LOWEST_LEVEL = 4.0, -1.0  # pictures beyond these are counted at the edge
BINS_PER_LEVEL = 8
WIDTH = 360  # units of every drawing: pixels on a phone


@dataclass(frozen=True)
class Curve:
    """The ROC curve of a method, with its operating point at the calibrated threshold.

    Attributes:
        points: of an SVG polyline.
        marked: position of the operating point; None without a calibration.
    """

    name: str
    method: Method
    results: MethodResults
    points: str
    marked: tuple[float, float] | None

    @property
    def colour(self) -> str:
        """Of the line and marker, for CSS."""
        return f"rgb{tuple(self.method.colour)}"


@dataclass(frozen=True)
class Levels:
    """The score levels of a method: bars (x, y, width, height) by label, and the range of levels by label."""

    name: str
    results: MethodResults
    bars: dict[int, list[tuple[float, float, float, float]]]
    ranges: dict[int, tuple[float, float]]


@dataclass(frozen=True)
class LevelAxis:
    """The common axis of all methods: (level, x), the x of the threshold, and the pictures of the longest bar."""

    ticks: list[tuple[int, float]]
    threshold: float
    highest: int


def roc_x(rate: float) -> float:
    """Position of a false-alarm rate."""
    return 58 + 288 * rate


def roc_y(rate: float) -> float:
    """Position of a recall."""
    return 282 - 270 * rate


def roc_curves(by_method: Mapping[str, MethodResults]) -> list[Curve]:
    """The curves of all methods with pictures of both classes."""
    styles = {method.title: method for method in METHODS.values()}
    return [Curve(n, styles[n], r, _points(r), _marked(r)) for n, r in by_method.items() if r.roc()]


def _points(results: MethodResults) -> str:
    return " ".join(f"{roc_x(x):.1f},{roc_y(y):.1f}" for x, y in results.roc())


def _marked(results: MethodResults) -> tuple[float, float] | None:
    if results.recall is None or results.false_alarm_rate is None:
        return None
    return roc_x(results.false_alarm_rate), roc_y(results.recall)


def level_plots(by_method: Mapping[str, MethodResults]) -> tuple[LevelAxis | None, list[Levels]]:
    """The score levels of all calibrated methods on one axis, with bars of one scale."""
    calibrated = {name: results for name, results in by_method.items() if results.is_calibrated}
    if not calibrated:
        return None, []
    edges = level_edges(calibrated)
    highest = max(max(results.histogram(label, edges)) for results in calibrated.values() for label in (0, 1))
    ticks = [(level, _level_x(level, edges)) for level in range(round(edges[0]), round(edges[-1]) + 1)]
    plots = [_levels(name, results, highest, edges) for name, results in calibrated.items()]
    return LevelAxis(ticks, _level_x(1, edges), highest), plots


def level_edges(by_method: Mapping[str, MethodResults]) -> np.ndarray:
    """Edges of the bars for all methods: whole levels from the lowest to the highest, including the threshold."""
    levels = np.concatenate([results.scores(label) for results in by_method.values() for label in (0, 1)])
    low = math.floor(max(min(levels.min(), 0), LOWEST_LEVEL))
    high = math.ceil(min(max(levels.max(), 1.5), HIGHEST_LEVEL))
    return np.linspace(low, high, (high - low) * BINS_PER_LEVEL + 1)


def _levels(name: str, results: MethodResults, highest: int, edges: np.ndarray) -> Levels:
    bars = {label: list(_bars(results.histogram(label, edges), label, highest)) for label in (0, 1)}
    scores = {label: results.scores(label) for label in (0, 1) if results.count(label)}
    return Levels(name, results, bars, {label: (values[0], values[-1]) for label, values in scores.items()})


def _bars(counts: list[int], label: int, highest: int) -> Iterator[tuple[float, float, float, float]]:
    """Normal pictures upwards, anomalous ones downwards."""
    width, unit = 336 / len(counts), 70 / highest
    for index, count in enumerate(counts):
        if count:
            top = 94 if label else 94 - unit * count
            yield 12 + index * width + 1, top, width - 2, unit * count


def _level_x(level: float, edges: np.ndarray) -> float:
    return 12 + 336 * (level - edges[0]) / (edges[-1] - edges[0])
