"""The tab Models: all usable models with their metrics, and the models that cannot be used, with the reason.

The contents come from other people and are escaped. Of local folders only the last part of the name is shown.
"""

import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
from markupsafe import Markup

from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.hub.catalog import BUNDLE, CACHE, FOLDER, HUB, Catalog, ModelEntry
from hubmodels.hub.files import CARD_FILE
from hubmodels.hub.model_info import LARGEST_TEXT, ModelInfo, read_model_info
from hubmodels.inspection import method_titles
from hubmodels.metric_names import METRICS, OVERVIEW, PROTOCOLS
from webapp.hosting import hide_folders
from webapp.inspection import SOURCES
from webapp.model_card import render_card
from webapp.texts import label, language_of, part_words, read_static, render
from webapp.visitors import Everybody, Visitors

PATIENCE = 8  # seconds that a visitor waits for the Hub
SHORT = 12  # characters of a commit
READERS = ThreadPoolExecutor(8, "model_info")  # of all visitors together
SCRIPT = read_static("models.js")
ORDER = list(SOURCES)
GROUPS = {FOLDER: "models_of_folder", HUB: "models_of_hub", CACHE: "models_of_cache", BUNDLE: "models_of_bundle"}
CARDS = Path(__file__).parents[1] / "model_cards"  # of the bundled models, in a clone of the repository
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.S)

FACTS = ("protocol", "test_counts", "smallest_defect", "size_bytes", "licence")  # of a model, besides its metrics

Infos = dict[ModelEntry, ModelInfo]


@dataclass(frozen=True)
class Row:
    """One model; the source and commit of bundled models are not shown."""

    method: str
    info: ModelInfo
    source: str
    commit: str
    card: str | None


@dataclass(frozen=True)
class Group:
    """The models of one place, by category; `key` is the text of its title."""

    key: str
    place: str
    has_sources: bool
    categories: dict[str, list[Row]]

    @property
    def count(self) -> int:
        """Number of models."""
        return sum(map(len, self.categories.values()))

    @property
    def known(self) -> set[str]:
        """The metrics and other facts that at least one model has; the others need no column."""
        infos = [row.info for rows in self.categories.values() for row in rows]
        metrics = {key for info in infos for key, value in info.metrics.items() if value is not None}
        return metrics | {name for name in FACTS if any(getattr(info, name) not in (None, "", {}) for info in infos)}


def add(catalog: Catalog, tab: gr.Tab, visitors: Everybody | Visitors | None = None) -> gr.HTML:
    """Builds the tab inside the current gr.Tab, which loads it whenever it is selected."""
    visitors = visitors or Everybody(catalog)
    page = gr.HTML(label("models_loading"), label=label("tab_models"), js_on_load=SCRIPT, apply_default_css=False)
    choice = gr.Dropdown(label=label("models_cards"), info=label("category_info"), visible=False, interactive=True)
    shown = gr.HTML(elem_classes="models-card", apply_default_css=False)

    def select(request: gr.Request) -> tuple[str, dict]:
        catalog, language = visitors.of(request).catalog, language_of(request)
        titles = list(cards_of(catalog, language))
        return str(render_models(catalog, language)), gr.update(choices=titles, visible=bool(titles))

    def show(title: str | None, request: gr.Request) -> str:
        catalog = visitors.of(request).catalog
        entry = cards_of(catalog, language_of(request)).get(title) if isinstance(title, str) else None
        return str(read_card(entry, catalog)) if entry else ""

    # without the queue, because a slow Hub must not block inspections; the progress would cover the text
    settings = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    tab.select(select, outputs=[page, choice], **settings)
    choice.change(show, choice, shown, preprocess=False, **settings)
    return page


def render_models(catalog: Catalog, language: str) -> Markup:
    """The whole tab as HTML."""
    infos, late = read_all_infos([entry for entry in catalog.entries if entry.source not in catalog.problems])
    entries = sorted(infos, key=lambda entry: (ORDER.index(entry.origin), _place(entry)))  # stable: then by category
    by_place = groupby(entries, lambda entry: (entry.origin, _place(entry)))
    return render(
        "models.html",
        language,
        notices=[hide_folders(notice, catalog) for notice in catalog.notices],
        groups=[_group(list(members), infos) for _, members in by_place],
        count=len(infos),
        categories=len({entry.label for entry in infos}),
        compact=any(info.backbone == COMPACT_BACKBONE for info in infos.values()),
        late=late,
        metrics={key: METRICS[key].short for key in OVERVIEW},
        protocols={name: f"models_protocol_{name.replace('-', '_')}" for name in PROTOCOLS},
        problems=[(hide_folders(s, catalog), hide_folders(reason, catalog)) for s, reason in catalog.problems.items()],
    )


def read_all_infos(entries: Sequence[ModelEntry]) -> tuple[Infos, bool]:
    """The information of all models, and whether some did not arrive in time; those are empty until the next call."""
    reading: dict[ModelEntry, Future] = {entry: READERS.submit(read_model_info, entry) for entry in entries}
    arrived, late = wait(reading.values(), PATIENCE)
    for future in late:
        future.cancel()
    return {e: future.result() if future in arrived else ModelInfo() for e, future in reading.items()}, bool(late)


def _group(entries: list[ModelEntry], infos: Infos) -> Group:
    by_category = groupby(entries, lambda entry: entry.label)
    categories = {name: [_row(entry, infos[entry]) for entry in members] for name, members in by_category}
    return Group(GROUPS[entries[0].origin], _place(entries[0]), entries[0].origin != BUNDLE, categories)


def _row(entry: ModelEntry, info: ModelInfo) -> Row:
    """With its repository, the link to its card, and the commit; or with the name of its folder."""
    method = method_titles()[entry.method]
    if entry.origin not in (HUB, CACHE):
        return Row(method, info, Path(entry.source).name, "", None)
    is_web = info.card and urlsplit(info.card).scheme in ("http", "https")
    return Row(method, info, entry.source, (entry.revision or "")[:SHORT], info.card if is_web else None)


def _place(entry: ModelEntry) -> str:
    """The folder that contains the model's folder, or its namespace."""
    return Path(entry.source).parent.name if entry.origin in (FOLDER, BUNDLE) else entry.source.partition("/")[0]


def cards_of(catalog: Catalog, language: str) -> dict[str, ModelEntry]:
    """By title, the local models that have a card; the others have a page on the Hub."""
    titles = method_titles()
    local = (entry for entry in catalog.entries if entry.origin in (FOLDER, BUNDLE))
    there = [entry for entry in local if (_card_folder(entry) / CARD_FILE).is_file()]
    return {f"{part_words(e.label, language)}, {titles[e.method]}": e for e in there}


def read_card(entry: ModelEntry, catalog: Catalog) -> Markup:
    """The card of a local model as HTML, without its front matter; empty if it cannot be read."""
    folder = _card_folder(entry)
    try:
        text = (folder / CARD_FILE).read_text(encoding="utf-8")[:LARGEST_TEXT]
    except (OSError, ValueError):
        return Markup("")
    return render_card(hide_folders(FRONT_MATTER.sub("", text), catalog), folder)


def _card_folder(entry: ModelEntry) -> Path:
    return CARDS / entry.name if entry.origin == BUNDLE else Path(entry.source)
