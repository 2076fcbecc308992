"""The drawings of the tab Compare, as SVG: ROC and score levels; told apart by line and shape, not by colour alone."""

import math
from collections.abc import Mapping

import numpy as np

from hubmodels.samples import MethodResults
from webapp.texts import number, percent, say

HIGHEST_LEVEL, LOWEST_LEVEL = 4.0, -1.0  # beyond these, pictures are counted at the edge
BINS_PER_LEVEL = 8
LINES = ("solid", "dashed")  # in the order of the methods; what is named so in compare.css
WIDTH = 360  # units of every drawing: pixels on a phone


def roc_figure(tallies: Mapping[str, MethodResults], language: str) -> str:
    """ROC curves of the methods in one drawing, each with its operating point at the calibrated threshold."""
    curves = "".join(_curve(tally, line) for tally, line in zip(tallies.values(), LINES, strict=False))
    words = [_roc_words(*named, line, language) for named, line in zip(tallies.items(), LINES, strict=False)]
    labels = f"{_roc_grid(language)}{_roc_legend(tallies, language)}"
    description = " ".join([say("compare_roc_alt", language), *words])
    return _figure(f"{say('compare_roc', language)}</h3>", description, 330, labels + curves, words)


def _roc_x(rate: float) -> float:
    return 58 + 288 * rate


def _roc_y(rate: float) -> float:
    return 282 - 270 * rate


def _roc_grid(language: str) -> str:
    lines, texts = "", ""
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y, shown = _roc_x(share), _roc_y(share), percent(share, language, 3)
        lines += f"<path d='M{x} {_roc_y(0)}V{_roc_y(1)}M{_roc_x(0)} {y}H{_roc_x(1)}'/>"
        texts += f"<text x='{x}' y='298' text-anchor='{'end' if share == 1 else 'middle'}'>{shown}</text>"
        texts += f"<text x='52' y='{y + 4}' text-anchor='end'>{shown}</text>" if share else ""
    chance = f"<path class='chance' d='M{_roc_x(0)} {_roc_y(0)}L{_roc_x(1)} {_roc_y(1)}'/>"
    texts += (
        f"<text x='{_roc_x(0.5)}' y='320' text-anchor='middle'>{say('compare_axis_false_alarms', language)}</text>"
    )
    texts += f"<text transform='translate(12 {_roc_y(0.5)}) rotate(-90)' text-anchor='middle'>"
    return f"<g class='grid'>{lines}{chance}</g>{texts}{say('compare_axis_recall', language)}</text>"


def _curve(tally: MethodResults, line: str) -> str:
    points = " ".join(f"{_roc_x(x):.1f},{_roc_y(y):.1f}" for x, y in tally.roc())
    drawn = f"<polyline class='curve {line}' points='{points}'/>"
    if tally.recall is None or tally.false_alarm_rate is None:
        return drawn
    return drawn + _marker(_roc_x(tally.false_alarm_rate), _roc_y(tally.recall), line)


def _marker(x: float, y: float, line: str) -> str:
    if line == "solid":
        return f"<circle class='marker {line}' cx='{x:.1f}' cy='{y:.1f}' r='6'/>"
    return f"<rect class='marker {line}' x='{x - 5:.1f}' y='{y - 5:.1f}' width='10' height='10'/>"


def _roc_legend(tallies: Mapping[str, MethodResults], language: str) -> str:
    drawn = ""
    for row, ((name, tally), line) in enumerate(zip(tallies.items(), LINES, strict=False)):
        y = 234 + 24 * row
        drawn += f"<polyline class='curve {line}' points='176,{y} 216,{y}'/>{_marker(196, y, line)}"
        drawn += f"<text x='224' y='{y + 4}'>{name} {_auroc(tally, language)}</text>"
    return f"<rect class='legend' x='168' y='214' width='172' height='{24 * len(tallies) + 14}' rx='4'/>{drawn}"


def _auroc(tally: MethodResults, language: str) -> str:
    area = tally.auroc()
    return "" if area is None else percent(area, language, 3)


def _roc_words(name: str, tally: MethodResults, line: str, language: str) -> str:
    told = {"method": name, "line": say(f"compare_{line}", language), "auroc": _auroc(tally, language)}
    if tally.recall is None or tally.false_alarm_rate is None:
        return say("compare_roc_line_alone", language, **told)
    rates = {
        "recall": percent(tally.recall, language, 3),
        "false_alarms": percent(tally.false_alarm_rate, language, 3),
    }
    return say("compare_roc_line", language, **told, **rates)


def level_figure(name: str, tally: MethodResults, highest: int, edges: np.ndarray, language: str) -> str:
    """Score levels of one method: good parts as hollow bars upwards, defective ones as solid bars downwards.

    Args:
        highest: pictures of the longest bar; the same for all methods, so that they can be compared.
        edges: of the bars, from `level_edges`.
    """
    words = [_range_words(tally, label, language) for label in (0, 1) if tally.count(label)]
    bars = "".join(_bars(tally.histogram(label, edges), label, highest) for label in (0, 1))
    description = say("compare_scores_of", language, method=name) + ": " + "; ".join(words) + "."
    drawn = f"{_level_axis(edges, language)}{bars}{_threshold_line(edges, language)}"
    heading = f"{say('compare_scores_of', language, method=name)}</h3>{_key(highest, language)}"
    return _figure(heading, description, 206, drawn, ["; ".join(words) + "."])


def level_edges(tallies: Mapping[str, MethodResults]) -> np.ndarray:
    """Edges of the bars for all methods: whole levels from the lowest to the highest, the threshold always inside."""
    levels = np.concatenate([tally.scores(label) for tally in tallies.values() for label in (0, 1)])
    low = math.floor(max(min(levels.min(), 0), LOWEST_LEVEL))
    high = math.ceil(min(max(levels.max(), 1.5), HIGHEST_LEVEL))
    return np.linspace(low, high, (high - low) * BINS_PER_LEVEL + 1)


def _level_x(level: float, edges: np.ndarray) -> float:
    return 12 + 336 * (level - edges[0]) / (edges[-1] - edges[0])


def _bars(counts: list[int], label: int, highest: int) -> str:
    width, unit = 336 / len(counts), 70 / highest
    bars = ""
    for index, count in enumerate(counts):
        if count:
            x, y = 12 + index * width + 1, 94 - unit * count if label == 0 else 94
            bars += f"<rect x='{x:.1f}' y='{y:.1f}' width='{width - 2:.1f}' height='{unit * count:.1f}'/>"
    return f"<g class='{'defective' if label else 'good'}'>{bars}</g>"


def _level_axis(edges: np.ndarray, language: str) -> str:
    low, high = round(edges[0]), round(edges[-1])
    ticks = f"<path class='axis' d='M12 94H348'/><text x='12' y='200'>{say('compare_axis_level', language)}</text>"
    for level in range(low, high + 1):
        x = _level_x(level, edges)
        anchor = "start" if level == low else "end" if level == high else "middle"
        sign = "≥ " if level == HIGHEST_LEVEL else "≤ " if level == LOWEST_LEVEL else ""
        ticks += f"<path class='grid' d='M{x:.1f} 24V164'/>"
        ticks += f"<text x='{x:.1f}' y='180' text-anchor='{anchor}'>{sign}{number(level, language)}</text>"
    return ticks


def _threshold_line(edges: np.ndarray, language: str) -> str:
    x = _level_x(1, edges)
    words = f"<text x='{x:.1f}' y='12' text-anchor='middle'>{say('compare_threshold', language)}</text>"
    return f"<path class='threshold' d='M{x:.1f} 18V168'/>{words}"


def _range_words(tally: MethodResults, label: int, language: str) -> str:
    levels = tally.scores(label)
    told = {"low": number(levels[0], language, 2), "high": number(levels[-1], language, 2)}
    key = "compare_range_defective" if label else "compare_range_good"
    return say(key, language, count=tally.count(label), flagged=tally.flagged(label), **told)


def _key(highest: int, language: str) -> str:
    signs = {"good": "compare_good_up", "defective": "compare_defective_down"}
    listed = "".join(f"<span class='sign {tone}'></span> {say(key, language)} " for tone, key in signs.items())
    return f"<p class='compare-key'>{listed} <span>({say('compare_longest', language, count=highest)})</span></p>"


def _figure(heading: str, description: str, height: int, drawn: str, words: list[str]) -> str:
    """A drawing under its heading, with what it shows in words, below it and for those who do not see it."""
    svg = f"<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label=\"{description}\">{drawn}</svg>"
    lines = "".join(f"<p>{line}</p>" for line in words)
    return f"<figure class='compare-figure'><h3>{heading}{svg}<figcaption>{lines}</figcaption></figure>"
