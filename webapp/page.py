"""The page: its tabs, and settings that they share."""

import json
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
from starlette.applications import Starlette
from starlette.middleware import Middleware

from hubmodels.hub.catalog import Catalog, find_category
from webapp import api, batch_tab, compare_tab, models_tab
from webapp.hosting import FILE_HERE, FILE_ON_SPACE, MAX_UPLOAD, MAX_UPLOAD_HERE, RequestFilter, hide_folders
from webapp.inspect_tab import InspectTab, find_examples
from webapp.inspection import ARRIVED, RECALL, REMEMBER, choices
from webapp.live_tab import LiveTab
from webapp.plain_requests import PlainRequests
from webapp.teach_tab import TeachTab
from webapp.texts import I18N, LANGUAGES, STATIC, TEXTS, label, language_of, read_static, render, translate_plainly
from webapp.visitors import Everybody, LayeredCatalog, Visitors

LISTED_FOR = 600  # seconds after which the next visitor's arrival lists the models of the Hub again
LISTED_HERE_FOR = 5  # the same, if all models are on this computer
KEPT_FOR, CHECKED_EVERY = 3600, 60  # seconds: age at which uploads and results are deleted, and time between checks
WAITING = 16  # visitors in the queue; further visitors get a message to try again
SESSIONS = 100  # Gradio keeps the last report of so many visitors in memory, some MB each
STYLES = sorted(path.name for path in STATIC.glob("*.css"))
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
    body_text_color_subdued="*neutral_600",  # the contrast of Gradio's own colours is below AA
    block_info_text_color="*neutral_600",
    block_label_text_color="*primary_700",
    block_title_text_color="*primary_700",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    checkbox_label_background_fill_selected="*primary_600",
    checkbox_label_background_fill_selected_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
)
COPY = "(category) => [category, category]"
TOASTS = {key: TEXTS[key] for key in ("title", "not_done", "busy", "file_too_large", "connection_lost")}


def launch_settings(here: bool = False, server: Starlette | None = None) -> dict:
    """The arguments to `launch` the page; a new dict each time, because Gradio changes it.

    Args:
        here: whether this is the visitor's own computer, where a file may be larger.
        server: answers plain requests of programs; None = nobody does.
    """
    limit = FILE_HERE if here else FILE_ON_SPACE
    max_upload = MAX_UPLOAD_HERE if here else MAX_UPLOAD
    middleware = [Middleware(RequestFilter, max_upload=max_upload, endpoints=api.ENDPOINTS)]
    if server:
        middleware.insert(0, Middleware(PlainRequests, server=server))  # it has its own limits
    appearance = {
        "theme": THEME,
        "css": "\n".join(map(read_static, STYLES)),
        "js": read_static("page.js").replace("WORDS", json.dumps(TOASTS).replace("{limit}", limit)),
        "i18n": I18N,
        "footer_links": ["api"],
        "run_history": False,
    }
    return appearance | {
        "show_error": False,
        "max_file_size": limit.replace(" ", ""),
        "enable_monitoring": False,  # by default everybody can read how often each event ran
        "state_session_capacity": SESSIONS,
        "ssr_mode": False,
        "share": False,  # also in notebooks, where Gradio would publish the page
        "num_workers": 0,  # they serve uploads on further ports, without the filter of requests
        "mcp_server": api.mcp_available(),
        "app_kwargs": {"middleware": middleware},
    }


def build_page(
    catalog: Catalog,
    examples: Path | None = None,
    test_folder: Path | None = None,
    normal_folder: str | None = None,
    visitors: Everybody | Visitors | None = None,
    cameras: Sequence[str] = (),
) -> gr.Blocks:
    """The page with all its tabs, ready to `launch(**launch_settings())`.

    Args:
        examples: folder of pictures to click, DATASET/CATEGORY/SHOWN.png.
        test_folder: labelled pictures for the tab Compare, in MVTec AD layout.
        normal_folder: name of its folders of good parts, where it is none of the usual ones.
        visitors: whose parts each request sees; by default nobody teaches any, and there is no such tab.
        cameras: of this computer or in the network, which every visitor may look through in the tab Live.
    """
    visitors = visitors or Everybody(catalog)
    with gr.Blocks(title=translate_plainly("title", LANGUAGES[0]), analytics_enabled=False) as page:
        api.add(
            catalog, visitors.of(None).log
        )  # first, because later events may not take its names; programs see no visitor's parts
        gr.Markdown(label("headline"))
        notices = gr.HTML(visible=False)
        remembered, key = gr.Textbox(visible="hidden"), gr.Textbox(visible="hidden")
        with gr.Tabs() as tabs:
            with gr.Tab(label("tab_inspect"), id="inspect"):
                shown = find_examples(examples, catalog) if examples else []
                inspect = InspectTab(catalog, shown, visitors)
                category = inspect.build(page, tabs)
            with gr.Tab(label("tab_batch"), id="batch") as batch:
                batch_category = batch_tab.add(catalog, batch, visitors, [tabs, *inspect.inputs])
            with gr.Tab(label("tab_live"), id="live") as live:
                watching = LiveTab(visitors, cameras)
                live_category = watching.build(catalog, [tabs, *inspect.inputs])
            with gr.Tab(label("tab_compare"), id="compare") as compare:
                own = compare_tab.add(catalog, compare, examples, test_folder, normal_folder, visitors)
            if visitors.teaches:
                with gr.Tab(label("tab_teach"), id="teach") as teach:
                    teaching = TeachTab(visitors)
                    inspect.inspect_after(teaching.build(teach, tabs, category, inspect.wanted, own))
            with gr.Tab(label("tab_models"), id="models") as models:
                models_tab.add(catalog, models, visitors)

        def welcome(remembered: str | None, key: str | None, request: gr.Request) -> tuple:
            linked, key = dict(request.query_params).get("category"), visitors.arrive(request, key)
            return *arrive(visitors.of(request).catalog, linked, remembered, language_of(request)), key

        def follow_notices(chosen: str | None, request: gr.Request) -> dict:
            """Without the error of a wrong link, once a category is chosen or taught."""
            return warn(visitors.of(request).catalog, None, language_of(request)) if chosen else gr.skip()

        def offer(chosen: str | None, here: str | None, request: gr.Request) -> dict:
            """The categories of today. The choice in this tab stays, unless its part was deleted or renamed."""
            catalog = visitors.of(request).catalog
            changed = {} if here in (None, *catalog.categories()) else {"value": chosen}
            return gr.update(choices=choices(catalog, language_of(request)), **changed)

        page.load(
            welcome,
            [remembered, key],
            [category, remembered, notices, key],
            js=RECALL,
            queue=False,  # a slow Hub must not block inspections
            show_progress="hidden",
            api_visibility="private",
        ).then(None, [remembered, key, category], category, js=ARRIVED, api_visibility="private")
        page.unload(visitors.leave)
        page.unload(watching.leave)
        category.change(None, category, js=REMEMBER, api_visibility="private")
        quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        # in the browser: a late answer would replace a choice in those tabs
        category.change(None, category, [batch_category, live_category], js=COPY, api_visibility="private")
        inspect.fit_to_category()
        category.change(follow_notices, category, notices, preprocess=False, **quick)
        if visitors.teaches:
            teaching.taught.change(follow_notices, teaching.taught, notices, **quick)
        for tab, here in ((batch, batch_category), (live, live_category)):
            tab.select(offer, [category, here], here, preprocess=False, **quick)
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def arrive(
    catalog: Catalog | LayeredCatalog, linked: str | None, remembered: str | None, language: str
) -> tuple[dict, str | None, dict]:
    """A visitor arrives -> the categories (Gradio update of the list), the one to begin with, and the notices.

    Args:
        linked, remembered: the category of the address, and the category that the browser kept from the last visit.
    """
    catalog.refresh(older_than=LISTED_HERE_FOR if catalog.is_local else LISTED_FOR)
    # an unknown link must not select another category
    chosen = find_category(linked or remembered, catalog.categories())
    notices = warn(catalog, linked if linked and not chosen else None, language)
    return gr.update(choices=choices(catalog, language)), chosen, notices


def warn(catalog: Catalog | LayeredCatalog, unknown: str | None, language: str) -> dict:
    """The Gradio update of the notices: a category that does not exist, and models that are not available."""
    hidden = [hide_folders(notice, catalog) for notice in catalog.notices]
    notices = render("notices.html", language, unknown=unknown, notices=hidden) if unknown or hidden else ""
    return gr.update(value=str(notices), visible=bool(notices))
