"""The contents of the tab Compare as HTML: recorded metrics of all models, and results on labelled pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from markupsafe import Markup
from PIL import Image

from hubmodels.hub.listing import ModelEntry
from hubmodels.hub.model_info import ModelInfo
from hubmodels.metric_names import METRICS, OVERVIEW, PROTOCOLS
from hubmodels.samples import is_normal
from webapp import compare_plots
from webapp.compare_plots import level_plots, roc_curves
from webapp.inspection import method_titles
from webapp.labelled_results import LabelledResults, MethodResults, Outcome
from webapp.templates import data_url, render
from webapp.texts import number, translate

FEW = 20  # pictures of a class; with fewer, one picture changes its rate by more than 5 points
WORST = 4  # missed defects, and false alarms, of each method in the gallery
LISTED_PROBLEMS = 50
RECORDED = (*OVERVIEW, "recall_at_threshold", "false_alarm_rate")  # columns of the recorded table
RECORDED_TEXTS = {"recall_at_threshold": "compare_recall", "false_alarm_rate": "compare_false_alarms"}
LESS_IS_BETTER = {"false_alarm_rate"}

Draw = Callable[[Outcome], Image.Image | None]


# ---------------------------------------------------------------- recorded metrics


@dataclass(frozen=True)
class RecordedCell:
    """A metric of one method; `is_best` marks the best methods of a comparison."""

    value: float | None
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
    keys = [f"compare_protocol_{protocol.replace('-', '_')}" for protocol in PROTOCOLS if protocol in protocols]
    rows = [_recorded_row(category, by_method) for category, by_method in known.items()]
    methods = list(method_titles().values())
    titles = {key: METRICS[key].short for key in OVERVIEW}
    values = {"rows": rows, "notes": ["compare_recorded_about", *keys], "methods": methods, "late": late}
    return render("recorded.html", language, keys=RECORDED, titles=titles, texts=RECORDED_TEXTS, **values)


def _recorded_row(category: str, by_method: Mapping[str, ModelInfo]) -> RecordedRow:
    infos = list(by_method.values())
    return RecordedRow(
        category,
        [_recorded_cells(key, by_method) for key in RECORDED],
        [info.protocol for info in infos if info.protocol],
        [_test_pictures(info.test_counts) for info in infos if info.test_counts],
        "1" if any(info.seed is not None for info in infos) else "",  # a model folder contains one run
    )


def _recorded_cells(key: str, by_method: Mapping[str, ModelInfo]) -> list[RecordedCell]:
    """One metric of every method. The best is marked if all values were measured in the same way."""
    values = [by_method[m].metrics.get(key) if m in by_method else None for m in method_titles()]
    shown = [None if value is None else round(100 * value, 1) for value in values]  # values that look equal are equal
    known = [value for value in shown if value is not None]
    measured = [info for info in by_method.values() if key in info.metrics]
    comparable = len(set(known)) > 1 and _measured_alike(measured)
    best = (min if key in LESS_IS_BETTER else max)(known) if comparable else None
    return [RecordedCell(v, comparable and s == best) for v, s in zip(values, shown, strict=True)]


def _measured_alike(infos: Sequence[ModelInfo]) -> bool:
    return len({(info.protocol, frozenset((info.test_counts or {}).items())) for info in infos}) == 1


def _test_pictures(counts: Mapping[str, int]) -> tuple[int, int]:
    good = sum(count for name, count in counts.items() if is_normal(name))
    return sum(counts.values()), good


# ---------------------------------------------------------------- labelled pictures


@dataclass(frozen=True)
class Pair:
    """Two methods: pictures with two verdicts, both right, only one right, only the other right, both wrong."""

    one: str
    other: str
    counts: tuple[int, ...]


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
        pairs=_pairs(results, by_method),
        problems=results.problems,
        listed_problems=LISTED_PROBLEMS,
        galleries=[_gallery(name, found, draw, language) for name, found in by_method.items()],
        **{"curves": roc_curves(by_method), "axis": axis, "levels": levels, "width": compare_plots.WIDTH},
        **{"roc_x": compare_plots.roc_x, "roc_y": compare_plots.roc_y},
        **{"highest_level": compare_plots.HIGHEST_LEVEL, "lowest_level": compare_plots.LOWEST_LEVEL},
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


def _pairs(results: LabelledResults, methods: Mapping) -> list[Pair]:
    """All unordered pairs of methods that gave verdicts on the same pictures."""
    pairs = []
    for one, other in combinations(methods, 2):
        if counts := results.pairing(one, other):
            kinds = ((True, True), (True, False), (False, True), (False, False))
            pairs.append(Pair(one, other, (counts.total(), *(counts[kind] for kind in kinds))))
    return pairs


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
    values = {"category": outcome.category, "shown": shown, "level": number(outcome.level, language, digits)}
    return translate(key, language, method=name, **values)
