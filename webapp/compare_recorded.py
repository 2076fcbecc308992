"""What training measured of every model, as a table: a row per category, both methods side by side."""

from collections.abc import Mapping, Sequence

from hubmodels.hub.listing import METHODS, ModelEntry
from hubmodels.hub.model_info import ModelInfo
from hubmodels.samples import NORMAL_NAMES
from webapp.texts import say

NAMES = [method.__name__ for method in METHODS.values()]
METRICS = {  # key in the report: title, whether more is better
    "image_auroc": ("I-AUROC", True),
    "pixel_auroc": ("P-AUROC", True),
    "aupro": ("AUPRO@0.3", True),
    "recall_at_threshold": ("compare_recall", True),
    "false_alarm_rate": ("compare_false_alarms", False),
}
ENDS = ("compare_protocol", "compare_test_pictures", "compare_seeds")  # the last columns
PROTOCOLS = {"last": "compare_protocol_last", "best-on-test": "compare_protocol_best"}
NONE = "\N{EN DASH}"


def recorded_table(facts: Mapping[ModelEntry, ModelInfo], language: str) -> str:
    """The table with its heading and what it means; HTML."""
    known: dict[str, dict[str, ModelInfo]] = {}
    for entry, told in facts.items():
        if told.metrics:
            known.setdefault(entry.label, {})[entry.method] = told
    if not known:
        return f"<p>{say('compare_nothing_recorded', language)}</p>"
    protocols = {told.protocol for by_method in known.values() for told in by_method.values()}
    notes = ["compare_recorded_about", *(key for protocol, key in PROTOCOLS.items() if protocol in protocols)]
    rows = "".join(_row(category, by_method, language) for category, by_method in known.items())
    table = scrolling(say("compare_recorded_table", language), _head(language), f"<tbody>{rows}</tbody>")
    return "".join(f"<p>{say(note, language)}</p>" for note in notes) + table


def scrolling(caption: str, head: str, body: str) -> str:
    """A table in a container of its own that scrolls, by keyboard too; all HTML."""
    table = f"<table><caption>{caption}</caption><thead>{head}</thead>{body}</table>"
    return f"<div class='compare-scroll' tabindex='0' role='region' aria-label='{caption}'>{table}</div>"


def _head(language: str) -> str:
    titles = [say(title, language) if title.startswith("compare_") else title for title, _ in METRICS.values()]
    first = f"<th class='word' rowspan='2' scope='col'>{say('category', language)}</th>"
    groups = "".join(f"<th class='first' colspan='{len(NAMES)}' scope='colgroup'>{title}</th>" for title in titles)
    ends = "".join(f"<th class='first' rowspan='2' scope='col'>{say(key, language)}</th>" for key in ENDS)
    methods = "".join(f"<th class='{'' if i else 'first'}' scope='col'>{name}</th>" for i, name in enumerate(NAMES))
    return f"<tr>{first}{groups}{ends}</tr><tr>{methods * len(titles)}</tr>"


def _row(category: str, facts: Mapping[str, ModelInfo], language: str) -> str:
    told = list(facts.values())
    ends = [
        [say("compare_value", language, value=f.protocol) for f in told if f.protocol],
        [_test_pictures(f.test_counts, language) for f in told if f.test_counts],
        [_seeds(told)],
    ]
    cells = "".join(_cells(key, facts, language) for key in METRICS)
    cells += "".join(f"<td class='first'>{' / '.join(dict.fromkeys(end)) or NONE}</td>" for end in ends)
    return f"<tr><th scope='row'>{say('compare_value', language, value=category)}</th>{cells}</tr>"


def _cells(key: str, facts: Mapping[str, ModelInfo], language: str) -> str:
    """One metric of every method; the better one is marked where both were measured alike."""
    values = [facts[method].metrics.get(key) if method in facts else None for method in METHODS]
    shown = [None if value is None else f"{100 * value:.1f}" for value in values]  # what looks equal is not marked
    alike = None not in shown and len(set(shown)) > 1 and _measured_alike(list(facts.values()))
    best = (max if METRICS[key][1] else min)(shown, key=float) if alike else None
    cells = [_cell(text, alike and text == best, language) for text in shown]
    return f"<td class='first'>{cells[0]}</td>" + "".join(f"<td>{cell}</td>" for cell in cells[1:])


def _cell(text: str | None, is_better: bool, language: str) -> str:
    if text is None:
        return NONE
    text = text.replace(".", ",") if language == "de" else text
    hidden = f"<span class='compare-hidden'>{say('compare_better', language)}</span>"
    return f"<b><span aria-hidden='true'>▲</span> {text}</b>{hidden}" if is_better else text


def _measured_alike(facts: Sequence[ModelInfo]) -> bool:
    return len({(f.protocol, frozenset((f.test_counts or {}).items())) for f in facts}) == 1


def _test_pictures(counts: Mapping[str, int], language: str) -> str:
    good = sum(count for name, count in counts.items() if name.lower() in NORMAL_NAMES)
    return say("compare_of_which_good", language, total=sum(counts.values()), good=good)


def _seeds(facts: Sequence[ModelInfo]) -> str:
    """How many runs: a model folder holds one."""
    return "1" if any(f.seed is not None for f in facts) else ""
