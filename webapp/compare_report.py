"""The contents of the tab Compare as HTML: recorded metrics of all models, and results on labelled pictures."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from markupsafe import Markup
from PIL import Image

from hubmodels.hub.catalog import ModelEntry
from hubmodels.hub.model_info import ModelInfo
from hubmodels.inspection import method_titles
from hubmodels.methods import METHODS, Method
from hubmodels.metric_names import METRICS, OVERVIEW, PROTOCOLS
from hubmodels.paired_tests import CONFIDENCE, Difference, hanley_interval
from hubmodels.samples import GOOD
from webapp.labelled_results import LabelledResults, MethodResults, Outcome, PairedResults
from webapp.texts import data_url, number, part_words, points, render, signed, translate

FEW = 20  # pictures of a class; with fewer, one picture changes its rate by more than 5 points
WORST = 4  # missed defects, and false alarms, of each method in the gallery
LISTED_PROBLEMS = 50
RECORDED = (*OVERVIEW, "recall_at_threshold", "false_alarm_rate")  # columns of the recorded table
RECORDED_TEXTS = {"recall_at_threshold": "compare_recall", "false_alarm_rate": "compare_false_alarms"}
NO_ERROR = 1e-9  # a standard error below it comes from rounding

Draw = Callable[[Outcome], Image.Image | None]


# ---------------------------------------------------------------- recorded metrics


@dataclass(frozen=True)
class RecordedCell:
    """A metric of one method, its 95 % interval if that is known, and whether it is clearly the best."""

    value: float | None
    interval: tuple[float, float] | None
    is_best: bool


@dataclass(frozen=True)
class RecordedRow:
    """A category: a cell for each metric and method; protocols and test pictures (total, good) of its models."""

    category: str
    metrics: list[list[RecordedCell]]
    protocols: list[str]
    test_pictures: list[tuple[int, int]]
    seeds: str


def recorded_table(infos: Mapping[ModelEntry, ModelInfo], language: str, late: bool = False) -> Markup:
    """The metrics of all models: a row per category, all methods next to each other.

    Args:
        late: whether the Hub has not answered for some models.
    """
    known: dict[str, dict[str, ModelInfo]] = {}
    for entry, info in infos.items():
        if info.metrics:
            known.setdefault(entry.label, {})[entry.method] = info
    protocols = {info.protocol for by_method in known.values() for info in by_method.values()}
    notes = ["compare_recorded_about", "compare_recorded_best"]
    notes += [f"compare_protocol_{protocol.replace('-', '_')}" for protocol in PROTOCOLS if protocol in protocols]
    there = {method for by_method in known.values() for method in by_method}
    methods = {name: title for name, title in method_titles().items() if name in there}
    rows = [_recorded_row(category, by_method, list(methods)) for category, by_method in known.items()]
    titles = {key: METRICS[key].short for key in OVERVIEW}
    values = {"rows": rows, "notes": notes, "methods": list(methods.values()), "late": late}
    return render("recorded.html", language, keys=RECORDED, titles=titles, texts=RECORDED_TEXTS, **values)


def _recorded_row(category: str, by_method: Mapping[str, ModelInfo], methods: list[str]) -> RecordedRow:
    infos = list(by_method.values())
    return RecordedRow(
        category,
        [_recorded_cells(key, by_method, methods) for key in RECORDED],
        [info.protocol for info in infos if info.protocol],
        [_test_pictures(info.test_counts) for info in infos if info.test_counts],
        "1" if any(info.seed is not None for info in infos) else "",  # a model folder contains one run
    )


def _recorded_cells(key: str, by_method: Mapping[str, ModelInfo], methods: list[str]) -> list[RecordedCell]:
    """One metric of every method."""
    infos = [by_method.get(method, ModelInfo()) for method in methods]
    intervals = [_recorded_interval(key, info) for info in infos]
    alike = _measured_alike([info for info in infos if key in info.metrics])
    best = _clearly_best([interval for interval in intervals if interval]) if alike else None
    pairs = zip(infos, intervals, strict=True)
    return [RecordedCell(info.metrics.get(key), i, i is not None and i == best) for info, i in pairs]


def _recorded_interval(key: str, info: ModelInfo) -> tuple[float, float] | None:
    """Only the number of test pictures is recorded, and it is enough for image AUROC alone."""
    total, good = _test_pictures(info.test_counts or {})
    known = key == "image_auroc" and key in info.metrics and 0 < good < total
    return hanley_interval(info.metrics[key], good, total - good) if known else None


def _clearly_best(intervals: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """The interval that is above all others."""
    *others, best = sorted(intervals) or [None]
    return best if others and best[0] > max(high for _, high in others) else None


def _measured_alike(infos: Sequence[ModelInfo]) -> bool:
    return len({(info.protocol, frozenset((info.test_counts or {}).items())) for info in infos}) == 1


def _test_pictures(counts: Mapping[str, int]) -> tuple[int, int]:
    good = sum(count for name, count in counts.items() if name == GOOD)
    return sum(counts.values()), good


# ---------------------------------------------------------------- labelled pictures


@dataclass(frozen=True)
class Pair:
    """Two methods on the pictures that both inspected.

    Attributes:
        counts: pictures with two verdicts, both right, only one right, only the other right, both wrong.
        mcnemar: p-value of the verdicts; None without two verdicts.
        difference: image AUROC of one minus that of the other; None if there is no test.
        sentence: what the test of image AUROC shows, or why there is none.
        summary: the same in words without numbers.
    """

    one: str
    other: str
    counts: tuple[int, ...]
    mcnemar: float | None
    difference: Difference | None
    sentence: Markup
    summary: Markup

    @property
    def is_clear(self) -> bool:
        """Whether image AUROC differs significantly."""
        return self.difference is not None and _is_significant(self.difference)


@dataclass(frozen=True)
class Gallery:
    """The worst mistakes of a method: picture, its data URL, and caption; None without verdicts."""

    heading: Markup
    figures: list[tuple[Image.Image, str, Markup]] | None


def render_comparison(results: LabelledResults, draw: Draw, language: str) -> Markup:
    """Size of the sample, results, pairs, drawings, problems, and the worst mistakes.

    Args:
        draw: the panel of one picture for the gallery; None if it no longer exists.
    """
    by_method = {name: found for name in method_titles().values() if (found := results.of(name)).outcomes}
    axis, levels = level_plots(by_method)
    return render(
        "comparison.html",
        language,
        by_method=by_method,
        evidence=_evidence(results, language) if results.rows else "",
        groups={category: _outcomes_in(category, results, by_method) for category in results.categories},
        pairs=_pairs(results, by_method, language),
        problems=results.problems,
        listed_problems=LISTED_PROBLEMS,
        galleries=[_gallery(name, found, draw, language) for name, found in by_method.items()],
        **{"curves": roc_curves(by_method), "axis": axis, "levels": levels, "width": WIDTH},
        **{"roc_x": roc_x, "roc_y": roc_y},
        **{"highest_level": HIGHEST_LEVEL, "lowest_level": LOWEST_LEVEL},
    )


def _evidence(results: LabelledResults, language: str) -> Markup:
    """How much this number of pictures can show."""
    labels = [next(iter(row.values())).picture.label for row in results.rows]
    good, defective = labels.count(0), labels.count(1)
    values: dict[str, object] = {"count": len(labels), "good": good, "defective": defective}
    key = "compare_few"
    if min(good, defective) >= FEW:
        key = "compare_measured"
        steps = {"good_step": 100 / good, "defective_step": 100 / defective}
        values |= {name: number(step, language, 2) for name, step in steps.items()}
    sentences = [translate(key, language, **values)]
    if not (good and defective):
        sentences.append(translate("compare_one_class", language))
    return Markup(" ").join(sentences)


def _outcomes_in(category: str, results: LabelledResults, methods: Mapping) -> dict[str, MethodResults]:
    return {name: found for name in methods if (found := results.of(name, category)).outcomes}


def _pairs(results: LabelledResults, methods: Mapping, language: str) -> list[Pair]:
    """All unordered pairs of methods that inspected the same pictures."""
    found = {names: results.pair(*names) for names in combinations(methods, 2)}
    return [_pair(*names, paired, language) for names, paired in found.items() if paired.one.outcomes]


def _pair(one: str, other: str, paired: PairedResults, language: str) -> Pair:
    verdicts, difference = paired.verdicts(), paired.auroc_difference()
    kinds = ((True, True), (True, False), (False, True), (False, False))
    counts = (verdicts.total(), *(verdicts[kind] for kind in kinds))
    if difference is None:
        few = min(paired.one.count(label) for label in (0, 1)) < 2
        sentence = summary = translate(
            "compare_pair_few" if few else "compare_pair_raw", language, one=one, other=other
        )
    else:
        sentence, summary = _difference_words(one, other, difference, language)
        difference = difference if difference.error > NO_ERROR else None
    return Pair(one, other, counts, paired.mcnemar(), difference, sentence, summary)


def _is_significant(difference: Difference) -> bool:
    return difference.p < 1 - CONFIDENCE


def _difference_words(one: str, other: str, difference: Difference, language: str) -> tuple[Markup, Markup]:
    """The sentence about a pair, with and without numbers; the better method comes first if there is one."""
    key, short, value, (low, high) = "unsure", "unsure", difference.value, difference.interval
    if difference.error <= NO_ERROR:
        key = "constant"
    elif _is_significant(difference):
        key = short = "better"
        if value < 0:
            one, other, value, low, high = other, one, -value, -high, -low
    bounds = {name: points(bound, language) for name, bound in {"low": low, "high": high}.items()}
    words = {"one": one, "other": other}
    numbers = {"difference": signed(100 * value, language), **bounds}
    return (
        translate(f"compare_pair_{key}", language, **words, **numbers),
        translate(f"compare_short_{short}", language, **words),
    )


def _gallery(name: str, results: MethodResults, draw: Draw, language: str) -> Gallery:
    """The worst mistakes of a method, or its closest decisions."""
    if not results.is_calibrated:
        return Gallery(translate("compare_no_gallery", language, method=name), None)
    count, chosen = len(results.mistakes), results.worst(WORST) or results.closest(WORST)
    key = "compare_one_mistake" if count == 1 else "compare_mistakes" if count else "compare_no_mistakes"
    drawn = [(outcome, picture) for outcome in chosen if (picture := draw(outcome)) is not None]
    heading = translate(key, language, method=name, count=count, shown=len(drawn))
    figures = [(p, data_url(p, "WEBP", quality=85), _caption(outcome, name, language)) for outcome, p in drawn]
    return Gallery(heading, figures)


def _caption(outcome: Outcome, name: str, language: str) -> Markup:
    key = "compare_right" if outcome.is_right else "compare_missed" if outcome.picture.label else "compare_false_alarm"
    shown = outcome.picture.name.split("/", 1)[-1]
    digits = 2 if outcome.distance >= 0.05 else 5  # otherwise a close decision would look like the threshold
    values = {
        "category": part_words(outcome.category, language),
        "shown": shown,
        "level": number(outcome.level, language, digits),
    }
    return translate(key, language, method=name, **values)


# ---------------------------------------------------------------- figures


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
