"""The tab Models: what can be asked here, how well each model did, and which models cannot be used, and why.

What is shown was written by others and is escaped; of a folder of this machine only the name is shown.
"""

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from html import escape
from itertools import groupby
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr  # noqa: TID251

from hubmodels.compactnet import COMPACT_LICENCE
from hubmodels.detector import CARD_FILE
from hubmodels.hub.catalog import Catalog
from hubmodels.hub.listing import BUNDLE, CACHE, FOLDER, HUB, METHODS, ModelEntry
from hubmodels.hub.model_info import LARGEST_TEXT, ModelInfo, read_model_info
from webapp.categories import SOURCES
from webapp.privacy import without_folders
from webapp.templates import read_static
from webapp.texts import label, language_of, say

PATIENCE = 8  # seconds that a visitor waits for what the Hub tells
SHORT = 12  # characters of a commit
READERS = ThreadPoolExecutor(8, "facts")  # of all visitors together
SCRIPT = read_static("models.js")
ORDER = list(SOURCES)
GROUPS = {FOLDER: "models_of_folder", HUB: "models_of_hub", CACHE: "models_of_cache", BUNDLE: "models_of_bundle"}
PROTOCOLS = {"last": "models_last", "best-on-test": "models_best_on_test"}
METRICS = {"image_auroc": "I-AUROC", "pixel_auroc": "P-AUROC", "aupro": "AUPRO@0.3"}
NUMERIC = (*METRICS.values(), "models_tested", "models_size")  # columns that are aligned at their end
COLUMNS = ("category", "models_method", *METRICS.values(), "models_protocol", *NUMERIC[-2:], "models_licence")
SOURCE = "models_source"  # a column of its own, where the caption does not say it all
CARDS = Path(__file__).parents[1] / "model_cards"  # of the bundled models, in a copy of the repository
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.S)
UNKNOWN = "–"  # noqa: RUF001


def add(catalog: Catalog, tab: gr.Tab) -> gr.HTML:
    """Builds the tab inside the current gr.Tab, which fills it whenever it is selected."""
    page = gr.HTML(label("models_loading"), label=label("tab_models"), js_on_load=SCRIPT, apply_default_css=False)

    def select(request: gr.Request) -> str:
        return render(catalog, language_of(request))

    tab.select(
        select,
        outputs=page,
        queue=False,  # a slow Hub keeps nobody from inspecting
        show_progress="hidden",  # it would grey out the words that say so
        api_visibility="private",
    )
    return page


def render(catalog: Catalog, language: str) -> str:
    """The whole tab as HTML."""
    facts, late = gather([entry for entry in catalog.entries if entry.source not in catalog.problems])
    groups = sorted(facts, key=lambda entry: (ORDER.index(entry.origin), _place(entry)))  # stable: by category inside
    parts = [
        _notices(catalog, language),
        _head(facts, late, language) if facts else _paragraph("models_none", language),
        *(_group(list(group), facts, language) for _, group in groupby(groups, lambda e: (e.origin, _place(e)))),
        _cards(groups, catalog, language),
        _problems(catalog, language),
    ]
    return f'<div class="models">{"".join(parts)}</div>'


def gather(entries: Sequence[ModelEntry]) -> tuple[dict[ModelEntry, ModelInfo], bool]:
    """The facts of all models, and whether some did not arrive in time; those are empty, and are asked for again."""
    asked: dict[ModelEntry, Future] = {entry: READERS.submit(read_model_info, entry) for entry in entries}
    arrived, late = wait(asked.values(), PATIENCE)
    for future in late:
        future.cancel()
    return {e: future.result() if future in arrived else ModelInfo() for e, future in asked.items()}, bool(late)


# ---------------------------------------------------------------- models that can be used


def _head(facts: dict[ModelEntry, ModelInfo], late: bool, language: str) -> str:
    name = say("models_filter", language)
    field = f'<label class="models-filter"><span>{name}</span><input type="search" autocomplete="off"></label>'
    count = say("models_count", language, models=len(facts), categories=len({entry.label for entry in facts}))
    shown = say("models_shown", language, models="{}", all=len(facts))
    status = f'<p class="models-count" role="status" data-shown="{shown}">{count}</p>'
    explanation = _paragraph("models_explanation", language)
    if any(told.licence == COMPACT_LICENCE for told in facts.values()):
        explanation += _paragraph("models_compact", language)
    return f'<div class="models-head">{field}{status}</div>{explanation}' + (
        _paragraph("models_late", language) if late else ""
    )


def _group(entries: list[ModelEntry], facts: dict[ModelEntry, ModelInfo], language: str) -> str:
    """The table of the models of one place."""
    title = say(GROUPS[entries[0].origin], language, name=_place(entries[0]))
    columns = COLUMNS if entries[0].origin == BUNDLE else (*COLUMNS, SOURCE)
    head = "".join(f'<th scope="col"{_aligned(c)}>{_heading(c, language)}</th>' for c in columns)
    by_category = groupby(entries, lambda entry: entry.label)
    bodies = "".join(_category(name, list(rows), facts, language) for name, rows in by_category)
    caption = f"<caption><span>{title} ({len(entries)})</span></caption>"
    table = f"<table>{caption}<thead><tr>{head}</tr></thead>{bodies}</table>"
    return f'<div class="models-table" role="region" tabindex="0" aria-label="{title}">{table}</div>'


def _category(name: str, entries: list[ModelEntry], facts: dict[ModelEntry, ModelInfo], language: str) -> str:
    """A row per method, under the category's common heading."""
    heading = f'<th scope="rowgroup" rowspan="{len(entries)}">{_breakable(name)}</th>'
    rows = [f"{_row(entry, facts[entry], language)}</tr>" for entry in entries]
    return f"<tbody><tr>{heading}{'<tr>'.join(rows)}</tbody>"


def _row(entry: ModelEntry, facts: ModelInfo, language: str) -> str:
    values = {name: _percent(facts.metrics.get(key), language) for key, name in METRICS.items()}
    values["models_protocol"] = _protocol(facts.protocol, language)
    values["models_tested"] = str(sum(facts.test_counts.values())) if facts.test_counts else UNKNOWN
    values["models_size"] = _megabytes(facts.size_bytes, language)
    values["models_licence"] = escape(facts.licence or UNKNOWN)
    if entry.origin != BUNDLE:
        values[SOURCE] = _source(entry, facts)
    cells = "".join(f"<td{_aligned(column)}>{value}</td>" for column, value in values.items())
    return f'<th scope="row">{METHODS[entry.method].__name__}</th>{cells}'


def _source(entry: ModelEntry, facts: ModelInfo) -> str:
    """Its repository, linked to its card, and the commit; or the name of its folder."""
    if entry.origin not in (HUB, CACHE):
        return _breakable(Path(entry.source).name)
    name, commit = _breakable(entry.source), escape((entry.revision or "")[:SHORT])
    if facts.card and urlsplit(facts.card).scheme in ("http", "https"):
        name = f'<a href="{escape(facts.card)}" target="_blank" rel="noopener noreferrer">{name}</a>'
    return f"{name}<code>{commit}</code>" if commit else name


def _breakable(name: str) -> str:
    """A name that may go on in the next line where a person would break it."""
    return re.sub(r"(?<=[-_/])(?=\w)", "<wbr>", escape(name))


def _place(entry: ModelEntry) -> str:
    """The folder that holds the model's, or its namespace."""
    return Path(entry.source).parent.name if entry.origin in (FOLDER, BUNDLE) else entry.source.partition("/")[0]


def _heading(column: str, language: str) -> str:
    return column if column in METRICS.values() else say(column, language)


def _aligned(column: str) -> str:
    return ' class="number"' if column in NUMERIC else ""


def _protocol(protocol: str | None, language: str) -> str:
    return say(PROTOCOLS[protocol], language) if protocol in PROTOCOLS else escape(protocol or UNKNOWN)


def _percent(fraction: float | None, language: str) -> str:
    return UNKNOWN if fraction is None else _one_digit(100 * fraction, language)


def _megabytes(size_bytes: int | None, language: str) -> str:
    return UNKNOWN if size_bytes is None else f"{_one_digit(size_bytes / 1e6, language)} MB"


def _one_digit(value: float, language: str) -> str:
    """With one digit after the point, so that a column lines up."""
    return f"{value:.1f}".replace(".", "," if language == "de" else ".")


# ---------------------------------------------------------------- cards that lie on this machine


def _cards(entries: Sequence[ModelEntry], catalog: Catalog, language: str) -> str:
    """The cards of models that have no page on the Hub, folded up."""
    read = ((entry, _card(entry)) for entry in entries if entry.origin in (FOLDER, BUNDLE))
    folded = [_folded(entry, without_folders(text, catalog)) for entry, text in read if text]
    title = say("models_cards", language)
    return f'<section class="models-cards"><h2>{title}</h2>{"".join(folded)}</section>' if folded else ""


def _card(entry: ModelEntry) -> str | None:
    """The text of a model's card, without its front matter; None where there is none to be had."""
    folder = CARDS / entry.name if entry.origin == BUNDLE else Path(entry.source)
    try:
        text = (folder / CARD_FILE).read_text(encoding="utf-8")[:LARGEST_TEXT]
    except (OSError, ValueError):
        return None
    return FRONT_MATTER.sub("", text).strip()


def _folded(entry: ModelEntry, text: str) -> str:
    summary = f"{escape(entry.label)}, {METHODS[entry.method].__name__}"
    return f"<details><summary>{summary}</summary><pre>{escape(text)}</pre></details>"


# ---------------------------------------------------------------- what cannot be used


def _problems(catalog: Catalog, language: str) -> str:
    """Models that cannot be used, with the reason."""
    problems = catalog.problems
    if not problems:
        return ""
    title = say("models_problems", language, count=len(problems))
    rows = [(without_folders(s, catalog), without_folders(reason, catalog)) for s, reason in problems.items()]
    listed = "".join(f"<dt>{escape(source)}</dt><dd>{escape(reason)}</dd>" for source, reason in rows)
    return f'<section class="models-problems"><h2>{title}</h2><dl>{listed}</dl></section>'


def _notices(catalog: Catalog, language: str) -> str:
    if not catalog.notices:
        return ""
    title, items = say("models_notices", language), _items(without_folders(n, catalog) for n in catalog.notices)
    return f'<section class="models-notices"><h2>{title}</h2><ul>{items}</ul></section>'


def _items(lines: Iterable[str]) -> str:
    return "".join(f"<li>{escape(line)}</li>" for line in lines)


def _paragraph(key: str, language: str) -> str:
    return f'<p class="models-note">{say(key, language)}</p>'
