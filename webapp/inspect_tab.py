"""The tab Inspect: one picture in, the report of all methods out."""

import json
import logging
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency
from markupsafe import Markup

from hubmodels import BackboneError, ModelError, PictureError, PreparedPicture
from hubmodels.appearance import UNLIKE
from hubmodels.folders import find_shown
from hubmodels.hub.catalog import Catalog
from hubmodels.inspection import Inspection, method_titles
from hubmodels.methods import METHODS
from hubmodels.pictures import read_picture
from webapp.corrections import Corrections, found_in_words, limit_of, what_followed
from webapp.hosting import checked_path, fresh_path, hide_folders
from webapp.inspection import (
    CHOSEN_AT_FIRST,
    MODEL,
    Asked,
    FirstChoice,
    VouchedRates,
    dropdown,
    expected_methods,
    fit_methods,
    inspect_picture,
    keep_ticks,
    method_choice,
    on_ticks,
    suggest_category,
    wish_methods,
)
from webapp.inspection_report import render_report
from webapp.own_parts import digest
from webapp.results import models_of, write_download
from webapp.texts import (
    LANGUAGES,
    data_url,
    explain_fault,
    label,
    language_of,
    part_words,
    percent,
    read_static,
    render,
    shows_words,
    translate,
    translate_plainly,
)
from webapp.visitors import Everybody, LayeredCatalog, Visitors, Workplace

logger = logging.getLogger(__name__)

SHOWN_BY_BROWSERS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}

THUMBNAIL = 144  # pixels
EXAMPLES_JS = """element.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-example]");
    if (button) trigger("select", { index: Number(button.dataset.example) });
});"""
START_DOWNLOAD = "() => document.querySelector('#download').click()"
ADOPT = "(category, suggested) => category || suggested || null"  # the visitor can have chosen one in the meantime
DOWNLOAD_ENDED = "() => document.querySelector('#report').dispatchEvent(new Event('downloaded'))"


@dataclass(frozen=True)
class Example:
    """A picture to click, of a category with models; `shows` describes it, None = what a visitor's part was taught."""

    path: Path
    category: str
    shows: str | None = None


class InspectTab:
    """The events of the tab."""

    def __init__(
        self, catalog: Catalog, examples: Sequence[Example], visitors: Everybody | Visitors | None = None
    ) -> None:
        self._catalog, self._examples, self._visitors = catalog, list(examples), visitors or Everybody(catalog)
        self._groups = _grouped(self._examples)

    def build(self, page: gr.Blocks, tabs: gr.Tabs) -> gr.Dropdown:
        """Adds the components and events inside the current gr.Tab; returns the choice of category.

        Args:
            page: when it is opened, the tab shows an example.
            tabs: a part that nobody knows yet leads to the tab Teach.
        """
        with gr.Row(elem_classes="inspect"):
            with gr.Column(scale=2, min_width=280):
                self._build_inputs()
            with gr.Column(scale=5, min_width=320):
                self._build_outputs()
        self._connect(page, tabs)
        return self._category

    def fit_to_category(self) -> None:
        """Fits the methods to another category. The page adds this after what must not wait for the answer."""
        keep_ticks(self._methods, gr.on([self._category.change, self._wished.change], **self._fit))

    def inspect_after(self, event: Dependency) -> None:
        """Inspects the picture again after an event that chose a category, whose models can be new."""
        event.then(**self._inspection).failure(**self._failed)

    @property
    def inputs(self) -> list[Component]:
        """Category, picture, chosen methods, and at which rate a batch was; a new picture is inspected at once."""
        return [self._category, self._picture, self._wished, self._asked]

    def _build_inputs(self) -> None:
        self._category = dropdown(self._catalog)
        sources = ["upload", "clipboard", "webcam"]
        self._picture = gr.Image(
            label=label("picture"), type="filepath", sources=sources, height=300, buttons=[], elem_id="picture"
        )
        self._button = gr.Button(label("inspect"), variant="primary")
        (self._methods, self._wished), self._asked = method_choice(self._catalog), gr.State()
        gr.HTML(label("examples"), elem_classes=["quiet", "examples"], visible=bool(self._examples))
        self._gallery = gr.HTML(
            self._pictures(LANGUAGES[0]),
            label=label("examples"),
            elem_id="examples",
            elem_classes="examples",
            js_on_load=EXAMPLES_JS,
            apply_default_css=False,
            visible=bool(self._examples),
        )

    def _build_outputs(self) -> None:
        self._suggestion = gr.Button(visible=False, size="sm", elem_id="suggestion")
        self._suggested, self._adopted = gr.State(), gr.Textbox(visible="hidden")
        self._report = gr.HTML(
            label("hint_card"),
            label=label("tab_inspect"),
            elem_id="report",
            js_on_load=read_static("report.js"),
            apply_default_css=False,
        )
        self._file = gr.DownloadButton(visible="hidden", elem_id="download")
        with gr.Accordion(label("how_to_read"), open=False):
            gr.Markdown(label("explanation"))
        with gr.Accordion(label("own_parts"), open=False):
            gr.Markdown(label("own_parts_how"))

    def _connect(self, page: gr.Blocks, tabs: gr.Tabs) -> None:
        inputs = self.inputs
        outputs = [self._report, self._suggestion, self._suggested, self._adopted]
        self.wanted = gr.State()  # the part that the tab Teach chooses when it is opened
        private = {"api_visibility": "private", "preprocess": False}  # see `uploaded_path`
        event = dict(fn=self.inspect, inputs=inputs, outputs=outputs, show_progress_on=self._report)
        self._inspection = event | private | MODEL
        self._failed = dict(fn=None, outputs=self._report, js=no_response(), api_visibility="private")
        quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        inspected = gr.on(
            [self._button.click, self._picture.change, self._category.input],
            **self._inspection,
            trigger_mode="always_last",
        )
        ticked = {"inputs": [*inputs, self._methods], "outputs": [*outputs, self._wished]}
        ticked |= {"show_progress_on": self._report, **private, **MODEL}
        on_ticks(self._methods, self.choose, **ticked).failure(**self._failed)
        fitted = {"inputs": [self._category, self._wished], "outputs": self._methods, "preprocess": False}
        self._fit = {"fn": self.fit, **fitted, **quick}
        inspected.failure(**self._failed)
        inspected.success(None, [self._category, self._adopted], self._category, js=ADOPT, api_visibility="private")
        keep_ticks(self._methods, inspected.success(**self._fit))  # the part may have been taught again
        self._gallery.select(self.pick, None, [self._category, self._picture], trigger_mode="multiple", **quick)
        taken = self._suggestion.click(lambda suggested: suggested, self._suggested, self._category, **quick)
        self.inspect_after(taken)
        corrected = {"outputs": outputs, "show_progress_on": self._report, **private, **MODEL}
        self._report.apply(self.correct, inputs, **corrected)
        self._report.undo(self.undo, inputs, **corrected)
        downloaded = self._report.select(self.download, inputs[:3], self._file, **private, **MODEL)
        downloaded.success(fn=None, js=START_DOWNLOAD)
        for ended in (downloaded.success, downloaded.failure):
            ended(fn=None, js=DOWNLOAD_ENDED)
        self._report.expand(self.lead_to_teach, self._category, [tabs, self.wanted], preprocess=False, **quick)
        page.load(
            self.open, None, [*outputs, self._gallery], show_progress="hidden", api_visibility="private", **MODEL
        )

    def open(self, request: gr.Request) -> tuple:
        """A visitor arrives -> the examples in that language, and the report on one, to show what the page does."""
        language = language_of(request)
        return *self._opening(self._visitors.of(request), None, language), self._pictures(language)

    def _pictures(self, language: str) -> str:
        return str(render("examples.html", language, groups=self._groups))

    def pick(self, event: gr.EventData) -> tuple[str, str]:
        """A click on an example -> its category, and a copy of its picture."""
        example = self._examples[event.index]
        return example.category, str(shutil.copy(example.path, fresh_path(example.path.name)))

    def inspect(
        self,
        category: str | None,
        picture: dict | None,
        methods: list | None,
        request: gr.Request,
        asked: Asked | None = None,
    ) -> tuple:
        """The choices -> report (HTML), button and category of a suggestion, and a category to adopt."""
        language, place = language_of(request), self._visitors.of(request)
        if picture is None:
            return self._opening(place, category, language)
        try:
            return self._inspect(place, category, checked_path(picture), methods, language, asked)
        except (PictureError, ModelError, BackboneError) as error:
            reason, title = explain_fault(error, language, place.catalog), translate("not_inspected", language)
            return self._without_report(_card(reason, language, title, "failed"))

    def choose(
        self,
        category: str | None,
        picture: dict | None,
        wished: list,
        asked: Asked | None,
        ticked: list | None,
        request: gr.Request,
    ) -> tuple:
        """The ticks were changed -> the same as `inspect`, and the choice of methods."""
        wished = wish_methods(self._visitors.of(request).catalog, category, ticked, wished)
        return *self.inspect(category, picture, wished, request, asked), wished

    def fit(self, category: str | None, wished: list, request: gr.Request) -> dict:
        """Another category or choice -> the methods that the category has."""
        return fit_methods(self._visitors.of(request).catalog, category, wished, language_of(request))

    def _opening(self, place: Workplace, category: str | None, language: str) -> tuple:
        """The report on the last example, of the category if one is chosen; a hint if there is none."""
        known = [*_own_examples(place, category), *self._examples]
        shown = [example for example in known if category in (None, example.category)]
        try:
            return self._without_report(_example_report(place.catalog, shown[-1], language))
        except (IndexError, PictureError, ModelError, BackboneError):  # the tab Models names what cannot be loaded
            return self._without_report(translate("hint_card", language))

    def correct(
        self,
        category: str | None,
        picture: dict | None,
        methods: list | None,
        event: gr.EventData,
        request: gr.Request,
        asked: Asked | None = None,
    ) -> tuple:
        """A click on "This part is good" or "This part is defective" -> the report again, with what changed."""
        good, rate = bool(getattr(event, "good", False)), getattr(event, "rate", None)
        language, place = language_of(request), self._visitors.of(request)
        try:
            path = checked_path(picture)
            correction = place.corrections.correct(category, path, good, rate)
            now = inspect_picture(place.catalog, category, path, rate, methods).predictions.values()
            limit = limit_of(p.p_value for p in now if p.is_anomalous)
            key = what_followed(good, correction.raised, any(p.is_anomalous for p in now))
            note = translate(key, language, part=part_words(category, language), limit=percent(limit, language))
            note = Markup(" ").join([note, *found_in_words(correction, language)])
            return self._inspect(place, category, path, methods, language, asked, note, good)
        except (PictureError, ModelError, BackboneError, ValueError, TypeError, AttributeError, OSError) as error:
            raise gr.Error(str(explain_fault(error, language, place.catalog)), print_exception=False) from error

    def lead_to_teach(
        self, category: str | None, event: gr.EventData, request: gr.Request
    ) -> tuple[gr.Tabs, str | None]:
        """A click on "Teach ..." -> the tab, and the part of a correction to choose there."""
        corrections = self._visitors.of(request).corrections if getattr(event, "again", False) else None
        return gr.Tabs(selected="teach"), corrections and corrections.part_of(category)

    def undo(
        self,
        category: str | None,
        picture: dict | None,
        methods: list | None,
        request: gr.Request,
        asked: Asked | None = None,
    ) -> tuple:
        """A click on Undo -> the report as it was before."""
        corrections = self._visitors.of(request).corrections
        if corrections is not None and category:
            corrections.undo(category)
        return self.inspect(category, picture, methods, request, asked)

    def _inspect(
        self,
        place: Workplace,
        category: str | None,
        path: str,
        methods: list | None,
        language: str,
        asked: Asked | None = None,
        corrected: Markup | None = None,
        learnable: bool = False,
    ) -> tuple:
        picture = PreparedPicture(path)
        chosen = category or suggest_category(place.catalog, picture)
        if chosen is None:
            key, teachable = "no_category" if place.catalog.entries else "models_none", self._visitors.teaches
            words = translate(key, language)
            return self._without_report(_card(words, language, teachable=teachable))
        inspection = inspect_picture(place.catalog, chosen, picture, None, methods)
        rate = asked.rate if asked else VouchedRates.of(inspection.detectors.values()).least
        place.log.inspection(Path(path).name, Path(path), chosen, inspection, rate, place.catalog)
        adopted = None if category else chosen
        unlike = UNLIKE in inspection.appearance.warnings
        other = suggest_category(place.catalog, picture) if unlike else None
        is_own = place.corrections is not None and place.corrections.part_of(chosen) is not None
        said, is_latest = _said_before(place.corrections, chosen, path) if is_own else (None, False)
        report = render_report(
            inspection,
            category=chosen,
            absent=self._absent(place, chosen, inspection, methods, language),
            warnings=[_warning(code, chosen, other, language) for code in inspection.appearance.warnings],
            note=corrected
            or (said and translate(f"said_{said}", language))
            or (None if category else translate("suggested", language, category=part_words(chosen, language))),
            language=language,
            correctable=is_own,
            undoable=corrected is not None or is_latest,
            learnable=learnable,
            teachable=_offer_to_teach(is_own or other is not None) if unlike and self._visitors.teaches else None,
            asked=asked,
        )
        button = gr.update(
            visible=other is not None,
            value=translate_plainly("use_suggestion", language, category=part_words(other or "", language)),
        )
        return str(report), button, other, adopted

    def _without_report(self, card: Markup) -> tuple:
        return str(card), gr.update(visible=False), None, None

    def download(
        self,
        category: str | None,
        picture: dict | None,
        methods: list | None,
        event: gr.EventData,
        request: gr.Request,
    ) -> str:
        """A click on a download -> the file."""
        what, method, rate = (getattr(event, name, None) for name in ("what", "method", "rate"))
        catalog = self._visitors.of(request).catalog
        try:
            inspection = inspect_picture(catalog, category, checked_path(picture), rate, methods)
            models = models_of(catalog, category, inspection.detectors)
            record = inspection.record(category, rate) | {"models": models}
            return str(write_download(inspection, what, method, record))
        except (PictureError, ModelError, BackboneError, ValueError, TypeError) as error:
            reason = explain_fault(error, language_of(request), catalog)
            raise gr.Error(str(reason), print_exception=False) from error

    def _absent(
        self, place: Workplace, category: str, inspection: Inspection, methods: list | None, language: str
    ) -> list[Markup]:
        """The reasons of the chosen methods without a result."""
        problems, entries = place.catalog.problems, place.catalog.entries
        reasons = {e.method: problems[e.source] for e in entries if e.label == category and e.source in problems}
        wanted = {name: title for name, title in method_titles().items() if name in expected_methods(methods)}
        shown = inspection.predictions.keys()
        if not shown or shown - set(wanted.values()):  # others are shown instead
            wanted = {name: title for name, title in wanted.items() if name in reasons}
        absent = {name: title for name, title in wanted.items() if title not in inspection.predictions}
        return [
            translate("not_loadable", language, method=title, reason=hide_folders(reasons[name], place.catalog))
            if name in reasons
            else translate("no_model", language, method=title)
            for name, title in absent.items()
        ]


def _said_before(corrections: Corrections, category: str, path: str) -> tuple[str | None, bool]:
    """What a person said of a picture, see `Corrections.said`, and whether that can be undone."""
    found, latest = digest(Path(path).read_bytes()), corrections.latest(category)
    return corrections.said(category).get(found), latest is not None and latest.picture.stem == found


def _own_examples(place: Workplace, category: str | None) -> list[Example]:
    """A good picture of the visitor's part that was chosen, if one was."""
    part = place.corrections and place.corrections.part_of(category)
    pictures = place.teacher.parts.pictures(part) if part else []
    return [Example(path, category) for path in pictures[:1]]


def _example_report(catalog: Catalog | LayeredCatalog, example: Example, language: str) -> Markup:
    inspection = inspect_picture(
        catalog, example.category, example.path, None, FirstChoice(list(METHODS)[:CHOSEN_AT_FIRST])
    )
    words = {"part": part_words(example.category, language), "shows": shows_words(example.shows or "", language)}
    note = translate("example_own" if example.shows is None else "example", language, **words)
    return render_report(inspection, example.category, [], [], note, language, is_example=True)


def no_response() -> str:
    """Script that replaces the previous report if the server did not answer."""
    cards = {
        code: _card(translate("no_response", code), code, translate("not_inspected", code), "failed")
        for code in LANGUAGES
    }
    return (
        f"() => {{ const cards = {json.dumps(cards)}; "
        f"return cards[navigator.language.toLowerCase().split('-')[0]] ?? cards.{LANGUAGES[0]}; }}"
    )


def find_examples(folder: Path, catalog: Catalog) -> list[Example]:
    """The pictures `folder/DATASET/CATEGORY/SHOWN.png` of categories with a model; those that can be read."""
    labels = {(entry.dataset, entry.category): entry.label for entry in catalog.entries}
    found = []
    for category in find_shown(folder):
        label = labels.get((category.dataset, category.name))
        for sample in (s for s in category.test if label and s.source.suffix.lower() in SHOWN_BY_BROWSERS):
            try:
                sample.read()
            except PictureError as error:
                logger.warning("an example is left out: %s", error)
            else:
                found.append(Example(sample.source, label, sample.defect_type))
    return found


def _card(words: Markup, language: str, title: str = "", tone: str = "", teachable: bool = False) -> Markup:
    return render("card.html", language, words=words, title=title, tone=tone, teachable=teachable)


def _warning(code: str, category: str, other: str | None, language: str) -> Markup:
    key = f"{code}_but" if code == UNLIKE and other else code
    return translate(
        f"warning_{key}", language, category=part_words(category, language), other=part_words(other or "", language)
    )


def _offer_to_teach(is_known: bool) -> str:
    """The key of the offer to teach what a picture shows, which may be a part that is known."""
    return "teach_other" if is_known else "teach_this"


def _grouped(examples: Sequence[Example]) -> dict[str, list[tuple[int, Example, str]]]:
    """By category: index, example, thumbnail."""
    groups = defaultdict(list)
    for index, example in enumerate(examples):
        groups[example.category].append((index, example, _thumbnail(example.path)))
    return groups


def _thumbnail(path: Path) -> str:
    picture = read_picture(path)  # Pillow alone would show 16 bits as white
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return data_url(picture, "JPEG", quality=80)
