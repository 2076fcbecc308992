"""The page: what all tabs share, and the tabs."""

import json
from html import escape
from pathlib import Path

import gradio as gr  # noqa: TID251
from starlette.middleware import Middleware

from hubmodels.hub.catalog import Catalog
from webapp import api, batch_tab, compare_tab, models_tab
from webapp.categories import RECALL, REMEMBER, choices, find_category
from webapp.inspect_tab import InspectTab, find_examples
from webapp.privacy import without_folders
from webapp.request_filter import RequestFilter
from webapp.templates import STATIC, read_static
from webapp.texts import I18N, LANGUAGES, TEXTS, label, language_of, say

LISTED_FOR = 600  # seconds until a visitor's arrival makes the app look for new models
KEPT_FOR, LOOKED_AFTER = 3600, 60  # seconds: uploads and results are deleted after an hour, looked for each minute
WAITING = 16  # visitors in the queue; more are told to come back
SESSIONS = 100  # whose last report Gradio keeps in memory, some MB each; it never forgets one below this number
STYLES = sorted(path.name for path in STATIC.glob("*.css"))
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
    body_text_color_subdued="*neutral_600",  # Gradio's own colours are too faint for AA
    block_info_text_color="*neutral_600",
    block_label_text_color="*primary_700",
    block_title_text_color="*primary_700",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
)
TOASTS = {key: TEXTS[key] for key in ("title", "not_done", "busy", "file_too_large", "connection_lost")}


def launch_settings() -> dict:
    """How to `launch` the page; a new one each time, for Gradio writes into it."""
    appearance = {
        "theme": THEME,
        "css": "\n".join(map(read_static, STYLES)),
        "js": read_static("page.js").replace("WORDS", json.dumps(TOASTS)),
        "i18n": I18N,
        "footer_links": ["api"],
        "run_history": False,
    }
    return appearance | {
        "show_error": False,
        "max_file_size": "64mb",
        "enable_monitoring": False,  # by default everybody may read which events ran how often
        "state_session_capacity": SESSIONS,
        "ssr_mode": False,
        "mcp_server": api.mcp_available(),
        "app_kwargs": {"middleware": [Middleware(RequestFilter)]},
    }


def build_page(catalog: Catalog, examples: Path | None = None, test_folder: Path | None = None) -> gr.Blocks:
    """The page with all its tabs, ready to `launch(**launch_settings())`.

    Args:
        examples: folder of pictures to click on, DATASET/CATEGORY/SHOWN.png.
        test_folder: pictures of known truth for the tab Compare, in MVTec AD layout.
    """
    with gr.Blocks(title=say("title", LANGUAGES[0]), analytics_enabled=False) as page:
        api.add(catalog)  # first: Gradio gives the names of later events to nobody else
        gr.Markdown(label("headline"))
        notices, remembered, followed = gr.HTML(visible=False), gr.Textbox(visible="hidden"), gr.State()
        with gr.Tabs():
            with gr.Tab(label("tab_inspect"), id="inspect"):
                inspected = InspectTab(catalog, find_examples(examples, catalog) if examples else []).build()
            with gr.Tab(label("tab_batch"), id="batch") as batch:
                sorted_out = batch_tab.add(catalog)
            with gr.Tab(label("tab_compare"), id="compare") as compare:
                compare_tab.add(catalog, compare, examples, test_folder)
            with gr.Tab(label("tab_models"), id="models") as models:
                models_tab.add(catalog, models)

        def welcome(remembered: str | None, request: gr.Request) -> tuple[dict, dict]:
            linked = dict(request.query_params).get("category")
            return arrive(catalog, linked, remembered, language_of(request))

        def follow(category: str | None, before: str | None, request: gr.Request) -> tuple[dict, str | None]:
            changed = {"value": category} if category != before else {}  # else what was chosen in the tab itself holds
            return gr.update(choices=choices(catalog, language_of(request)), **changed), category

        page.load(
            welcome,
            remembered,
            [inspected, notices],
            js=RECALL,
            queue=False,  # a slow Hub keeps nobody from inspecting
            show_progress="hidden",
            api_visibility="private",
        )
        inspected.change(None, inspected, js=REMEMBER, api_visibility="private")
        # at each change, and when the tab is opened, because Gradio loses updates of one that was never shown
        quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        inspected.change(lambda category: category, inspected, sorted_out, **quick)
        batch.select(follow, [inspected, followed], [sorted_out, followed], **quick)
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def arrive(catalog: Catalog, linked: str | None, remembered: str | None, language: str) -> tuple[dict, dict]:
    """A visitor's arrival -> Gradio updates of the lists of categories and of the notices, as they are now.

    Args:
        linked, remembered: the category of the address, and the one that the browser keeps from the last visit.
    """
    catalog.refresh(older_than=LISTED_FOR)
    chosen = find_category(linked or remembered, catalog)  # a link that leads nowhere leads to nothing else
    categories = gr.update(choices=choices(catalog, language), value=chosen)
    notices = _notices(catalog, linked if linked and not chosen else None, language)
    return categories, gr.update(value=notices, visible=bool(notices))


def _notices(catalog: Catalog, unknown: str | None, language: str) -> str:
    """What a visitor should know at once, as HTML; empty where there is nothing."""
    parts = [f"<p>{say('fault_category', language, category=unknown)}</p>"] if unknown else []
    if catalog.notices:
        lines = "".join(f"<li>{escape(without_folders(notice, catalog))}</li>" for notice in catalog.notices)
        parts.append(f"<p>{say('some_missing', language)}</p><ul class='note'>{lines}</ul>")
    return f'<section class="card failed" role="status">{"".join(parts)}</section>' if parts else ""
