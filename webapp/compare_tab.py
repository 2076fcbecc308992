"""The tab Compare: what training measured, and both methods on pictures whose truth is known."""

import time
from collections.abc import Iterator
from functools import partial
from html import unescape
from pathlib import Path

import gradio as gr  # noqa: TID251
from PIL import Image

from hubmodels import BackboneError, ModelError, PictureError
from hubmodels.heatmap import PANEL_WORDS, panel
from hubmodels.hub.catalog import Catalog
from hubmodels.samples import LabelledPicture, LabelledResults, Outcome, by_category, find_labelled
from webapp.compare_recorded import recorded_table
from webapp.compare_report import report
from webapp.inspection import BATCH, judge
from webapp.models_tab import gather
from webapp.privacy import without_folders
from webapp.texts import LANGUAGES, label, language_of, say, say_fault, say_plainly

EXAMPLES, TEST = "examples", "test"  # where pictures of known truth come from
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
ENLARGE = """element.addEventListener("click", (event) => {
    const button = event.target.closest(".compare-gallery button");
    if (button) button.setAttribute("aria-expanded", button.getAttribute("aria-expanded") === "false");
});"""

Groups = dict[str, list[LabelledPicture]]  # by the label of the category


def add(catalog: Catalog, tab: gr.Tab, examples: Path | None = None, test_folder: Path | None = None) -> None:
    """Builds the tab inside the current gr.Tab.

    Args:
        tab: that very one; its content is fetched when it is opened.
        examples: folder of pictures `DATASET/CATEGORY/SHOWN.*`, where `good*` is normal.
        test_folder: folder in MVTec AD layout, or one of its categories.
    """
    comparing = Comparing(catalog, {TEST: test_folder, EXAMPLES: examples})
    recorded, about = _part(), _part()
    with gr.Row(elem_classes="compare-row"):
        choices = comparing.choices(LANGUAGES[0])
        choice = gr.Dropdown(choices, value=None, label=label("compare_pictures"), scale=3, min_width=240)
        run = gr.Button(label("compare_run"), variant="primary", min_width=150)
        stop = gr.Button(label("compare_stop"), interactive=False, min_width=100)
    status, found, trial = _part(), _part(js_on_load=ENLARGE), gr.State()
    outputs = [status, found, run, stop, trial]
    tab.select(comparing.arrive, None, [recorded, about, choice], queue=False, **QUIET)
    started = run.click(comparing.start, None, outputs, queue=False, **QUIET)
    judged = started.then(comparing.run, choice, outputs, **BATCH, **QUIET)
    judged.failure(lambda: _buttons(runs=False), None, [run, stop], queue=False, **QUIET)
    stop.click(comparing.stop, trial, outputs, cancels=[judged], **QUIET)


def _part(**settings: str) -> gr.HTML:
    return gr.HTML(elem_classes="compare", apply_default_css=False, **settings)


class Comparing:
    """The events of the tab.

    Args:
        folders: of pictures of known truth, by source, the first one first; None = none.
    """

    def __init__(self, catalog: Catalog, folders: dict[str, Path | None]) -> None:
        self.catalog = catalog
        self.pictures = {source: find_labelled(folder) for source, folder in folders.items() if folder}

    def arrive(self, request: gr.Request) -> list:
        """The tab is opened: the recorded table, the introduction of the trial, and what it can be run on."""
        language = language_of(request)
        facts, late = gather([entry for entry in self.catalog.entries if entry.source not in self.catalog.problems])
        notes = f"<p>{say('models_late', language)}</p>" if late else ""
        recorded = f"<h2>{say('compare_recorded', language)}</h2>{notes}{recorded_table(facts, language)}"
        choices = self.choices(language)
        about = say("compare_live_about" if choices else "compare_no_pictures", language)
        introduction = f"<h2>{say('compare_live', language)}</h2><p>{about}</p>"
        return [recorded, introduction, gr.update(choices=choices, value=choices[0][1] if choices else None)]

    def choices(self, language: str) -> list[tuple[str, str]]:
        """(what is shown, value) of the dropdown: of each source everything, then each category."""
        offered = []
        for source in self.pictures:
            groups = self.groups(source)
            if len(groups) > 1:
                words = say(f"compare_all_{source}", language, count=sum(map(len, groups.values())))
                offered.append((unescape(words), f"{source}:"))
            for category, members in groups.items():
                words = say(f"compare_some_{source}", language, category=category, count=len(members))
                offered.append((unescape(words), f"{source}:{category}"))
        return offered

    def groups(self, source: str) -> Groups:
        """The pictures of a source that a model can judge, by category."""
        return by_category(self.pictures.get(source, ()), self.catalog.entries)

    def chosen(self, choice: str | None) -> Groups:
        """The pictures of a value of the dropdown; none for anything else."""
        source, _, category = (choice or "").partition(":")
        return {name: members for name, members in self.groups(source).items() if category in ("", name)}

    def start(self, request: gr.Request) -> list:
        """At once, whatever waits in the queue: what was shown before goes, and the visitor may still stop."""
        return [_status(say("compare_waiting", language_of(request))), "", *_buttons(runs=True), LabelledResults()]

    def run(self, choice: str | None, request: gr.Request) -> Iterator[list]:
        """Judges the chosen pictures one by one and tells how far it is, then how the methods did."""
        language, trial, groups = language_of(request), LabelledResults(), self.chosen(choice)
        if not groups:
            yield _ended(say("compare_choose", language), "", trial)
            return
        yield [_status(say("compare_starting", language)), *(gr.skip() for _ in range(3)), trial]
        total, start = sum(map(len, groups.values())), time.monotonic()
        for done in self._judge_all(groups, trial, language):
            left_s = (time.monotonic() - start) / done * (total - done)
            yield [_progress(done, total, left_s, language), *(gr.skip() for _ in range(3)), trial]
        yield [_status(say("compare_drawing", language)), *(gr.skip() for _ in range(4))]
        yield self._report(trial, "compare_done", language)

    def stop(self, trial: LabelledResults | None, request: gr.Request) -> list:
        """The visitor has seen enough: how the methods did until then."""
        return self._report(trial or LabelledResults(), "compare_stopped", language_of(request))

    def _judge_all(self, groups: Groups, trial: LabelledResults, language: str) -> Iterator[int]:
        """Adds each picture to the trial, or to its problems; yields how many are done."""
        done = 0
        for category, pictures in groups.items():
            for index, picture in enumerate(pictures):
                try:
                    trial.add(picture, category, judge(self.catalog, category, picture.path).predictions)
                except PictureError as error:
                    trial.problems.append(self._problem(picture.name, error, language))
                except (ModelError, BackboneError) as error:  # the same for the rest of the category
                    trial.problems.append(self._problem(category, error, language))
                    done += len(pictures) - index
                    yield done
                    break
                done += 1
                yield done

    def _problem(self, name: str, error: Exception, language: str) -> str:
        words = f"{say('compare_named', language, name=name)} {say_fault(error, language)}"
        return without_folders(words, self.catalog)

    def _report(self, trial: LabelledResults, key: str, language: str) -> list:
        words = say(key if trial.rows else "compare_none_judged", language, count=len(trial.rows))
        return _ended(words, report(trial, partial(self._panel, language), language), trial)

    def _panel(self, language: str, outcome: Outcome) -> Image.Image | None:
        """The picture is judged once more, so that no map had to be kept; None where it is gone meanwhile."""
        try:
            judged = judge(self.catalog, outcome.category, outcome.picture.path)
        except (PictureError, ModelError, BackboneError):
            return None
        try:
            gt_mask = outcome.picture.read_mask((judged.picture.height, judged.picture.width))
        except ValueError:  # a mask that cannot be used: the mistake is a mistake all the same
            gt_mask = None
        calibrated = {name: p for name, p in judged.predictions.items() if p.is_anomalous is not None}
        words = {key: say_plainly(f"panel_{key}", language) for key in PANEL_WORDS}
        return panel(judged.picture, gt_mask, calibrated, words=words)


def _ended(status: str, found: str, trial: LabelledResults) -> list:
    return [_status(status), found, *_buttons(runs=False), trial]


def _buttons(runs: bool) -> list:
    return [gr.update(interactive=not runs), gr.update(interactive=runs)]


def _status(words: str) -> str:
    return f"<p role='status'>{words}</p>"


def _progress(done: int, total: int, left_s: float, language: str) -> str:
    words = say("compare_progress", language, done=done, total=total, seconds=round(left_s))
    return f"<p>{words}</p><progress max='{total}' value='{done}' aria-label='{words}'></progress>"
