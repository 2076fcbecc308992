"""What came out of a trial, as HTML: how much it can tell, the table, the drawings, the worst mistakes."""

from collections.abc import Callable, Mapping

from PIL import Image

from hubmodels.samples import LabelledResults, MethodResults, Outcome
from webapp.compare_plots import level_edges, level_figure, roc_figure
from webapp.compare_recorded import NAMES, NONE, scrolling
from webapp.templates import data_url
from webapp.texts import number, percent, say

FEW = 20  # of a class: with fewer, one picture moves its rate by more than 5 points
WORST = 4  # missed defects, and false alarms, of each method in the gallery
LISTED_PROBLEMS = 50
COLUMNS = ("category", "compare_method", "compare_auroc", "compare_recall", "compare_false_alarms")

Draw = Callable[[Outcome], Image.Image | None]


def report(trial: LabelledResults, draw: Draw, language: str) -> str:
    """All of it.

    Args:
        draw: the panel of one picture for the gallery; None where it cannot be drawn any more.
    """
    if not trial.rows:
        return problem_list(trial, language)
    tallies = {name: tally for name in NAMES if (tally := trial.of(name)).outcomes}
    parts = [_honestly(trial, language), _pairs(trial, language), _results(trial, tallies, language)]
    parts += [_figures(tallies, language), problem_list(trial, language)]
    return "".join([*parts, *(_gallery(name, tally, draw, language) for name, tally in tallies.items())])


def problem_list(trial: LabelledResults, language: str) -> str:
    """What could not be judged, and why; the problems are HTML."""
    if not trial.problems:
        return ""
    lines = "".join(f"<li>{line}</li>" for line in trial.problems[:LISTED_PROBLEMS])
    summary = say("compare_problems", language, count=len(trial.problems))
    return f"<details open><summary>{summary}</summary><ul>{lines}</ul></details>"


def _honestly(trial: LabelledResults, language: str) -> str:
    """How much so many pictures can tell."""
    truths = [next(iter(row.values())).picture.label for row in trial.rows]
    good, defective = truths.count(0), truths.count(1)
    told: dict[str, object] = {"count": len(truths), "good": good, "defective": defective}
    key = "compare_anecdote"
    if min(good, defective) >= FEW:
        key = "compare_measured"
        told |= {"good_step": number(100 / good, language, 2), "defective_step": number(100 / defective, language, 2)}
    alone = "" if good and defective else " " + say("compare_one_class", language)
    return f"<p class='compare-note'>{say(key, language, **told)}{alone}</p>"


def _pairs(trial: LabelledResults, language: str) -> str:
    one, other = NAMES
    pairs = trial.pairing(one, other)
    if not pairs:
        return ""
    told = {"both": pairs[True, True], "first": pairs[True, False], "second": pairs[False, True]}
    told |= {"neither": pairs[False, False], "total": pairs.total(), "one": one, "other": other}
    return f"<p>{say('compare_pairs', language, **told)}</p>"


def _results(trial: LabelledResults, tallies: Mapping[str, MethodResults], language: str) -> str:
    head = "".join(
        f"<th class='{'' if i > 1 else 'word'}' scope='col'>{say(c, language)}</th>" for i, c in enumerate(COLUMNS)
    )
    groups = {say("compare_value", language, value=c): {n: trial.of(n, c) for n in tallies} for c in trial.categories}
    body = "".join(_result_rows(title, group, language) for title, group in groups.items())
    if len(groups) > 1:
        body += _result_rows(say("compare_all", language), tallies, language, "all")
    table = scrolling(say("compare_live_table", language), f"<tr>{head}</tr>", body)
    return f"{table}<p>{say('compare_live_protocol', language)}</p>"


def _result_rows(title: str, tallies: Mapping[str, MethodResults], language: str, tone: str = "") -> str:
    """A row per method under one title."""
    told = {name: tally for name, tally in tallies.items() if tally.outcomes}
    rows = [f"<td class='word'>{name}</td>{_result_cells(tally, language)}" for name, tally in told.items()]
    heading = f"<th scope='rowgroup' rowspan='{len(rows)}'>{title}</th>"
    lines = "".join(f"<tr>{'' if i else heading}{row}</tr>" for i, row in enumerate(rows))
    return f"<tbody class='{tone}'>{lines}</tbody>"


def _result_cells(tally: MethodResults, language: str) -> str:
    area = tally.auroc()
    cells = [
        NONE if area is None else percent(area, language, 3),
        *(_flagged(tally, label, language) for label in (1, 0)),
    ]
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _flagged(tally: MethodResults, label: int, language: str) -> str:
    """The flagged pictures of a class, such as "3 of 20 (15 %)"."""
    total, rate = tally.count(label), tally.recall if label else tally.false_alarm_rate
    if rate is None:
        return say("compare_not_calibrated", language) if total else NONE
    told = {"part": tally.flagged(label), "total": total, "share": percent(rate, language, 3)}
    return say("compare_count_of", language, **told)


def _figures(tallies: Mapping[str, MethodResults], language: str) -> str:
    curved = {name: tally for name, tally in tallies.items() if tally.roc()}
    judged = {name: tally for name, tally in tallies.items() if tally.is_judged}
    figures = [roc_figure(curved, language)] if curved else []
    if judged:
        edges = level_edges(judged)
        highest = max(max(t.histogram(label, edges)) for t in judged.values() for label in (0, 1))
        figures += [level_figure(name, tally, highest, edges, language) for name, tally in judged.items()]
    return f"<div class='compare-figures'>{''.join(figures)}</div>"


# ---------------------------------------------------------------- the gallery


def _gallery(name: str, tally: MethodResults, draw: Draw, language: str) -> str:
    """The worst mistakes of a method, or its closest calls."""
    if not tally.is_judged:
        return f"<h3>{say('compare_no_gallery', language, method=name)}</h3>"
    count, shown = len(tally.mistakes), tally.worst(WORST) or tally.closest(WORST)
    key = "compare_one_mistake" if count == 1 else "compare_mistakes" if count else "compare_no_mistakes"
    drawn = [(outcome, picture) for outcome in shown if (picture := draw(outcome)) is not None]
    heading = say(key, language, method=name, count=count, shown=len(drawn))
    figures = "".join(_framed(picture, _caption(outcome, name, language), language) for outcome, picture in drawn)
    return f"<h3>{heading}</h3><div class='compare-gallery'>{figures}</div>"


def _framed(picture: Image.Image, caption: str, language: str) -> str:
    """A panel under its caption, to be enlarged by a click or key."""
    size = f"width='{picture.width}' height='{picture.height}'"
    source = data_url(picture, "WEBP", quality=85)
    image = f"<img {size} alt='{say('compare_panel', language)}' src='{source}'>"
    button = f"<button type='button' aria-expanded='false' title='{say('compare_enlarge', language)}'>{image}</button>"
    return f"<figure><figcaption>{caption}</figcaption>{button}</figure>"


def _caption(outcome: Outcome, name: str, language: str) -> str:
    key = "compare_right" if outcome.is_right else "compare_missed" if outcome.picture.label else "compare_false_alarm"
    shown = outcome.picture.name.split("/", 1)[-1]
    digits = 2 if outcome.distance >= 0.05 else 5  # or a close call would seem to be on the threshold
    told = {"category": outcome.category, "shown": shown, "level": number(outcome.level, language, digits)}
    return say(key, language, method=name, **told)
