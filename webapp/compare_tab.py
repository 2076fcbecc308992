"""The tab Compare: the recorded metrics of all models, and all methods on labelled pictures."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import gradio as gr
from markupsafe import Markup
from PIL import Image

from hubmodels import BackboneError, ModelError, PictureError
from hubmodels.folders import find_labelled, find_shown
from hubmodels.heatmap import PANEL_WORDS, panel
from hubmodels.hub.catalog import Catalog
from hubmodels.samples import Sample
from webapp.compare_report import recorded_table, render_comparison
from webapp.inspection import BATCH, inspect_picture
from webapp.labelled_results import LabelledResults, Outcome, by_category
from webapp.models_tab import read_all_infos
from webapp.own_parts import BAD
from webapp.texts import LANGUAGES, explain_fault, label, language_of, part_words, render, translate, translate_plainly
from webapp.visitors import Everybody, Visitors

EXAMPLES, TEST = "examples", "test"  # sources of labelled pictures
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
ENLARGE = """element.addEventListener("click", (event) => {
    const button = event.target.closest("button[aria-expanded]");
    if (button) button.setAttribute("aria-expanded", button.getAttribute("aria-expanded") === "false");
});"""

CHECK = """element.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-part]");
    if (button) trigger("select", { part: button.dataset.part });
});"""

Groups = dict[str, list[Sample]]  # by the label of the category


def add(
    catalog: Catalog,
    tab: gr.Tab,
    examples: Path | None = None,
    test_folder: Path | None = None,
    normal_folder: str | None = None,
    visitors: Everybody | Visitors | None = None,
) -> gr.HTML:
    """Builds the tab inside the current gr.Tab.

    Own parts have no labelled good pictures: those taught their models. The tab Teach compares on known defects alone.

    Args:
        tab: the current gr.Tab; its content is loaded when it is opened.
        examples: folder of pictures `DATASET/CATEGORY/SHOWN.*`, where `good*` and `ok*` are normal.
        test_folder: folder in MVTec AD layout, or one of its categories.
        normal_folder: name of its folders of good parts, where it is none of the usual ones.
        visitors: whose models the recorded table shows; there are labelled pictures only for shared models.

    Returns:
        The list of the visitor's own parts with known defects. Its event `select` has the `part` to check.
    """
    comparing = Comparing(catalog, {TEST: test_folder, EXAMPLES: examples}, normal_folder, visitors)
    recorded, introduction = _part(), _part()
    with gr.Row(elem_classes="compare-row"):
        choices = comparing.choices(LANGUAGES[0])
        first = choices[0][1] if choices else None
        choice = gr.Dropdown(choices, value=first, label=label("compare_pictures"), scale=3, min_width=240)
        run = gr.Button(label("compare_run"), variant="primary", min_width=150)
        stop = gr.Button(label("compare_stop"), interactive=False, min_width=100)
    status, found, results = _part(), _part(js_on_load=ENLARGE), gr.State()
    outputs = [status, found, run, stop, results]
    own = _part(js_on_load=CHECK)
    tab.select(comparing.arrive, None, [recorded, introduction, choice, own], queue=False, **QUIET)
    started = run.click(comparing.start, None, outputs, queue=False, **QUIET)
    finished = started.then(comparing.run, choice, outputs, **BATCH, **QUIET)
    finished.failure(lambda: _buttons(runs=False), None, [run, stop], queue=False, **QUIET)
    stop.click(comparing.stop, results, outputs, cancels=[finished], **QUIET)
    return own


def _part(**settings: str) -> gr.HTML:
    return gr.HTML(elem_classes="compare", apply_default_css=False, **settings)


class Comparing:
    """The events of the tab.

    Args:
        folders: of labelled pictures, by source, in the order of display; None = none.
        normal_folder: name of the test folder's folders of good parts, where it is none of the usual ones.
    """

    def __init__(
        self,
        catalog: Catalog,
        folders: dict[str, Path | None],
        normal_folder: str | None = None,
        visitors: Everybody | Visitors | None = None,
    ) -> None:
        self.catalog, self._visitors = catalog, visitors or Everybody(catalog)
        readers = {TEST: lambda folder: find_labelled(folder, normal_folder), EXAMPLES: find_shown}
        self.pictures = {source: readers[source](folder) for source, folder in folders.items() if folder}

    def arrive(self, request: gr.Request) -> list:
        """The tab is opened: the recorded table, the introduction, the choices of pictures, and the own parts."""
        language, catalog = language_of(request), self._visitors.of(request).catalog
        usable = [entry for entry in catalog.entries if entry.source not in catalog.problems]
        infos, late = read_all_infos(usable)
        choices = self.choices(language)
        unused = [(category.name, each) for category in self.pictures.get(TEST, ()) for each in category.unused]
        introduction = render("compare_introduction.html", language, has_pictures=bool(choices), unused=unused)
        own = render("compare_own.html", language, parts=self.own_parts(request))
        return [str(recorded_table(infos, language, late)), str(introduction), gr.update(choices=choices), str(own)]

    def own_parts(self, request: gr.Request) -> list[tuple[str, str, int]]:
        """(part, written name, number of known defects) of the visitor's parts that have models and known defects."""
        if not (teacher := self._visitors.of(request).teacher):
            return []
        counts = [(part, name, len(teacher.parts.pictures(part, BAD))) for name, part in teacher.parts.choices()]
        return [each for each in counts if each[2] and teacher.entries(each[0])]

    def choices(self, language: str) -> list[tuple[str, str]]:
        """(shown text, value) of the list: of each source all pictures, then each category."""
        offered = []
        for source in self.pictures:
            groups = self.groups(source)
            if len(groups) > 1:
                words = translate_plainly(f"compare_all_{source}", language, count=sum(map(len, groups.values())))
                offered.append((words, f"{source}:"))
            for category, members in groups.items():
                words = translate_plainly(
                    f"compare_some_{source}", language, category=part_words(category, language), count=len(members)
                )
                offered.append((words, f"{source}:{category}"))
        return offered

    def groups(self, source: str) -> Groups:
        """The pictures of a source for which there is a model, by category."""
        return by_category(self.pictures.get(source, ()), self.catalog.entries)

    def chosen(self, choice: str | None) -> Groups:
        """The pictures of a value of the list; none for any other value."""
        source, _, category = (choice or "").partition(":")
        return {name: members for name, members in self.groups(source).items() if category in ("", name)}

    def start(self, request: gr.Request) -> list:
        """Runs at once, even if others wait in the queue: removes previous results, and the visitor can stop."""
        language = language_of(request)
        status = _status(translate("compare_waiting", language), language)
        return [status, "", *_buttons(runs=True), LabelledResults()]

    def run(self, choice: str | None, request: gr.Request) -> Iterator[list]:
        """Inspects the chosen pictures one by one, yields the progress, and at the end the results."""
        language, results, groups = language_of(request), LabelledResults(), self.chosen(choice)
        if not groups:
            yield _ended(translate("compare_choose", language), "", results, language)
            return
        yield [_status(translate("compare_starting", language), language), *(gr.skip() for _ in range(3)), results]
        total, start = sum(map(len, groups.values())), time.monotonic()
        for done in self._inspect_all(groups, results, language):
            seconds = round((time.monotonic() - start) / done * (total - done))
            words = translate("compare_progress", language, done=done, total=total, seconds=seconds)
            yield [_status(words, language, done, total), *(gr.skip() for _ in range(3)), results]
        yield [_status(translate("compare_drawing", language), language), *(gr.skip() for _ in range(4))]
        yield self._results(results, "compare_done", language)

    def stop(self, results: LabelledResults | None, request: gr.Request) -> list:
        """The visitor stops: the results so far."""
        return self._results(results or LabelledResults(), "compare_stopped", language_of(request))

    def _inspect_all(self, groups: Groups, results: LabelledResults, language: str) -> Iterator[int]:
        """Adds each picture to the results, or to their problems; yields the number of finished pictures."""
        done = 0
        for category, pictures in groups.items():
            for index, picture in enumerate(pictures):
                try:
                    predictions = inspect_picture(self.catalog, category, picture.source).predictions
                    results.add(picture, category, predictions)
                except PictureError as error:
                    results.problems.append(
                        (f"{category}, {picture.name}", explain_fault(error, language, self.catalog))
                    )
                except (ModelError, BackboneError) as error:  # the same for all pictures of the category
                    results.problems.append((category, explain_fault(error, language, self.catalog)))
                    done += len(pictures) - index
                    yield done
                    break
                done += 1
                yield done

    def _results(self, results: LabelledResults, key: str, language: str) -> list:
        words = translate(key if results.rows else "compare_none_inspected", language, count=len(results.rows))
        found = str(render_comparison(results, partial(self._panel, language), language))
        return _ended(words, found, results, language)

    def _panel(self, language: str, outcome: Outcome) -> Image.Image | None:
        """Inspects the picture again, so that no map had to be kept; None if it no longer exists."""
        try:
            inspection = inspect_picture(self.catalog, outcome.category, outcome.picture.source)
        except (PictureError, ModelError, BackboneError):
            return None
        try:
            gt_mask = outcome.picture.read_mask((inspection.picture.height, inspection.picture.width))
        except ValueError:  # an unusable mask; the mistake is shown without it
            gt_mask = None
        calibrated = {name: p for name, p in inspection.predictions.items() if p.is_anomalous is not None}
        words = {key: translate_plainly(f"panel_{key}", language) for key in PANEL_WORDS}
        return panel(inspection.picture, gt_mask, calibrated, words=words)


def _ended(status: Markup, found: str, results: LabelledResults, language: str) -> list:
    return [_status(status, language), found, *_buttons(runs=False), results]


def _buttons(runs: bool) -> list:
    return [gr.update(interactive=not runs), gr.update(interactive=runs)]


def _status(words: Markup, language: str, done: int = 0, total: int = 0) -> str:
    return str(render("compare_status.html", language, words=words, done=done, total=total))
