"""The list of categories in every tab: searchable, ordered by source, remembered, and linked by `?category=`."""

import gradio as gr  # noqa: TID251

from hubmodels.hub.catalog import Catalog
from hubmodels.hub.listing import BUNDLE, CACHE, FOLDER, HUB
from webapp.texts import LANGUAGES, label, translate_plainly

SOURCES = {FOLDER: "source_folder", HUB: "source_hub", CACHE: "source_hub_cache", BUNDLE: "source_bundled"}
REMEMBER = """(category) => {
    if (!category) return;
    localStorage.setItem("hubmodels-category", category);
    const address = new URL(location);
    address.searchParams.set("category", category);
    history.replaceState(null, "", address);
}"""
RECALL = """() => localStorage.getItem("hubmodels-category")"""


def dropdown(catalog: Catalog) -> gr.Dropdown:
    """A list of the categories without a choice."""
    return gr.Dropdown(
        choices(catalog, LANGUAGES[0]),
        value=None,
        label=label("category"),
        info=label("category_info"),
        interactive=True,
    )


def choices(catalog: Catalog, language: str) -> list[tuple[str, str]]:
    """(shown text, label) of each category, grouped by the source of its models, local models first."""
    origins = {}
    for entry in catalog.entries:
        origins.setdefault(entry.label, entry.origin)
    order = list(SOURCES)
    grouped = sorted(origins.items(), key=lambda item: (order.index(item[1]), item[0]))
    return [(f"{name} ({translate_plainly(SOURCES[origin], language)})", name) for name, origin in grouped]


def find_category(wanted: str | None, catalog: Catalog) -> str | None:
    """The category of a link or of the browser's memory, by its label, with or without spaces, or by its last part."""
    if not wanted:
        return None
    squeezed = _squeezed(wanted)
    labels = catalog.categories()
    named = [name for name in labels if _squeezed(name) == squeezed]
    shorter = [name for name in labels if _squeezed(name.split(" / ")[-1]) == squeezed]
    return next(iter(named or (shorter if len(shorter) == 1 else [])), None)


def _squeezed(name: str) -> str:
    return "".join(name.lower().split())
