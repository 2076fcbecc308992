"""The tab Batch: many pictures or a folder, a table that can be sorted, and the results as CSV and ZIP."""

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder
from markupsafe import Markup
from PIL import Image

from hubmodels import BackboneError, ModelError, PictureError
from hubmodels.appearance import UNLIKE
from hubmodels.hub.catalog import Catalog
from hubmodels.scoring import Calibration
from webapp.hosting import checked_path, hide_folders, uploaded_path
from webapp.inspection import (
    BATCH,
    SetupWatch,
    dropdown,
    inspect_picture,
    load_methods,
    method_choice,
    method_titles,
)
from webapp.inspection_report import describe_guarantee
from webapp.results import BatchResults, models_of, printable
from webapp.texts import (
    LOOK,
    SIGNS,
    TONES,
    VERDICT_KEYS,
    data_url,
    explain_fault,
    label,
    language_of,
    number,
    read_static,
    render,
    translate,
    translate_plainly,
)
from webapp.visitors import Everybody, Visitors

MAX_PICTURES, MAX_BYTES = 500, 1_000_000_000  # the text `batch_limits` repeats them
MAX_WAITING = 100  # remembered sessions; the queue has far fewer places
SHOWN_EVERY = 1.0  # seconds between updates of the page
# some browsers do not know the last ones as pictures
FILE_TYPES = ["image", ".pgm", ".ppm", ".pnm", ".jp2", ".heic"]
THUMBNAIL_SIDE = 64  # pixels
VERDICT_ORDER = {True: 0, LOOK: 1, False: 2, None: 3}
COLUMNS = ("batch_verdict", "batch_p_value", "batch_level", "batch_defects")  # of each method
DISAGREEMENT, SOMETHING_ELSE, DEFECTIVE, AGAIN, UNREAD, NO_VERDICT, GOOD = range(7)  # the order of the table
RANKS = ("batch_disagree", "batch_unlike", "defective", "look_again", "batch_unread", "no_verdict", "good")  # texts
# without the hidden files of file managers
JOIN_FOLDER = """(folder, pictures) => {
    const hidden = /^([.]|Thumbs[.]db$|desktop[.]ini$)/;
    return [[...(pictures ?? []), ...(folder ?? []).filter((file) => !hidden.test(file.orig_name))]];
}"""


def add(catalog: Catalog, visitors: Everybody | Visitors | None = None) -> gr.Dropdown:
    """Builds the tab inside the current gr.Tab.

    Returns:
        The choice of category; the page updates its choices.
    """
    with gr.Row(elem_classes="batch-inputs"):
        with gr.Column(scale=3, min_width=280):
            pictures = gr.File(
                file_count="multiple",
                file_types=FILE_TYPES,
                label=label("batch_pictures"),
                height=200,
                elem_id="batch-files",
            )
            folder = gr.UploadButton(label("batch_folder"), file_count="directory", size="sm", elem_id="batch-folder")
            gr.Markdown(label("batch_limits"), elem_classes="note")
        with gr.Column(scale=2, min_width=280):
            category = dropdown(catalog)
            methods = method_choice(catalog)
            rate = gr.Slider(0.5, 20, 1, step=0.5, label=label("batch_rate"), elem_id="batch-rate")
            with gr.Row():
                start = gr.Button(label("batch_start"), variant="primary", min_width=120)
                stop = gr.Button(label("batch_stop"), interactive=False, min_width=80)
    status = gr.HTML(elem_id="batch-status", apply_default_css=False)
    with gr.Row():
        keys = ("batch_csv", "batch_zip")
        downloads = [gr.DownloadButton(label(key), visible=False, size="sm", scale=0, min_width=180) for key in keys]
    found = gr.HTML(
        html_template='<div class="batch-table"></div>', js_on_load=read_static("batch.js"), apply_default_css=False
    )
    with gr.Accordion(label("batch_reading"), open=False):
        gr.Markdown(label("batch_explanation"))
    batches, outputs = _Batches(catalog, visitors), [status, found, start, stop, *downloads]
    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    folder.upload(None, [folder, pictures], pictures, js=JOIN_FOLDER, api_visibility="private")
    waiting = start.click(batches.wait, None, outputs, **quick)
    running = waiting.then(
        batches.run,
        [category, pictures, rate, methods],
        outputs,
        preprocess=False,  # see `uploaded_path`
        show_progress="hidden",  # Gradio's own estimate of the waiting time is wrong
        api_visibility="private",
        **BATCH,
    )
    running.failure(batches.refused, None, outputs, **quick)
    stop.click(batches.stop, **quick)
    return category


class _Batches:
    """The events of the tab, for all visitors."""

    def __init__(self, catalog: Catalog, visitors: Everybody | Visitors | None = None) -> None:
        self._visitors = visitors or Everybody(catalog)
        self._stops: dict[str, threading.Event] = {}  # by session, of each waiting or running batch

    def wait(self, request: gr.Request) -> list:
        """Runs at once, even if another batch is running, so that the visitor can stop."""
        while len(self._stops) >= MAX_WAITING:  # of visitors who left before their turn
            self._stops.pop(next(iter(self._stops)), None)
        self._stops[request.session_hash] = threading.Event()
        language = language_of(request)
        return _page(_status(translate("batch_waiting", language), language), running=True)

    def stop(self, request: gr.Request) -> None:
        """Ends the visitor's batch after the current picture; finished results are kept."""
        if stopping := self._stops.get(request.session_hash):
            stopping.set()

    def refused(self, request: gr.Request) -> list:
        """The queue was full, or the run failed."""
        self._stops.pop(request.session_hash, None)
        language = language_of(request)
        return _page(_status(translate("busy", language), language, refused=True))

    def run(
        self,
        category: str | None,
        uploads: list | None,
        percent: float,
        methods: list | None,
        request: gr.Request,
    ) -> Iterator[list]:
        """Inspects the uploads one by one; yields updates of status, table, both buttons, CSV and ZIP."""
        language, catalog = language_of(request), self._visitors.of(request).catalog
        stopped = self._stops.setdefault(request.session_hash, threading.Event())
        if refusal := self._refusal(catalog, category, uploads, percent, language):
            self._stops.pop(request.session_hash, None)
            yield _page(_status(refusal, language, refused=True))
            return
        rate, titles = float(percent) / 100, method_titles()
        shown = {titles[name]: d.calibration for name, d in load_methods(catalog, category, methods).items()}
        head = {"category": category, "false_alarm_rate": rate, "models": models_of(catalog, category, shown)}
        folder = Path(get_upload_folder()).resolve() / "batches" / secrets.token_hex(16)  # cannot be guessed
        with BatchResults(folder, head) as results:
            batch = _Batch(results, len(uploads), methods, shown, language)
            try:
                yield batch.shown()
                for upload in uploads:
                    if stopped.is_set():
                        break
                    batch.inspect(catalog, upload)
                    if batch.is_due():
                        yield batch.shown()
            finally:
                self._stops.pop(request.session_hash, None)
            results.finish()
        yield batch.ended()

    def _refusal(
        self, catalog: Catalog, category: object, uploads: object, percent: object, language: str
    ) -> Markup | None:
        """The reason why this batch cannot be inspected, as HTML; None if it can."""
        if not isinstance(uploads, list) or not uploads:
            return translate("batch_no_pictures", language)
        if len(uploads) > MAX_PICTURES:
            return translate("batch_too_many", language, count=len(uploads), limit=MAX_PICTURES)
        if (size := sum(map(_size, uploads))) > MAX_BYTES:
            return translate("batch_too_large", language, size=size // 10**6, limit=MAX_BYTES // 10**6)
        if not isinstance(percent, int | float) or not 0 < percent < 100:
            return translate("batch_bad_rate", language)
        if not category:
            return translate("batch_no_category", language)
        try:
            catalog.load(category)
        except (ModelError, BackboneError) as error:
            return translate("batch_no_model", language, reason=hide_folders(str(error), catalog))


class _Batch:
    """One visitor's batch: its results so far, and their display on the page.

    Args:
        methods: as `load_methods`.
        calibrations: of the methods that are shown, by title.
    """

    def __init__(
        self,
        results: BatchResults,
        total: int,
        methods: list | None,
        calibrations: dict[str, Calibration],
        language: str,
    ) -> None:
        self._results, self._total, self._methods, self._language = results, total, methods, language
        self._run, self._rows, self._titles = secrets.token_hex(4), [], list(calibrations)
        rate = results.head["false_alarm_rate"]
        self._watch, self._guarantees = SetupWatch(rate), _guarantees(calibrations, rate, language)
        self._began = self._shown_at = time.monotonic()

    def inspect(self, catalog: Catalog, upload: object) -> None:
        """Inspects one upload; a picture that cannot be read is a row like the others."""
        name, head = _name(upload), self._results.head
        try:
            path = checked_path(upload)
            inspection = inspect_picture(catalog, head["category"], path, head["false_alarm_rate"], self._methods)
        except (PictureError, ModelError, BackboneError) as error:
            record = self._results.add_failure(name, hide_folders(str(error), catalog))
            reason = explain_fault(error, self._language, catalog).unescape()
            self._rows.append(_unread(record, reason, self._titles, self._language))
        else:
            record = self._results.add(name, inspection)
            self._watch.add(inspection)
            self._results.head["setup_changed"] = self._watch.changed
            self._rows.append(_row(record, _thumbnail(inspection.picture), self._titles, self._language))

    def is_due(self) -> bool:
        """Whether it is time to update the page."""
        return time.monotonic() - self._shown_at >= SHOWN_EVERY

    def shown(self) -> list:
        """The page while the batch runs."""
        self._shown_at = time.monotonic()
        done, failed = len(self._rows), self._counts()["batch_unread"]
        words = [translate("batch_progress", self._language, done=done, total=self._total)]
        if done:
            seconds = (self._shown_at - self._began) / done * (self._total - done)
            words.append(translate("batch_left", self._language, time=_duration(seconds)))
        if failed:
            words.append(translate("batch_failed", self._language, failed=failed))
        status = self._status(Markup(", ").join(words), done=done, total=self._total)
        return _page(status, self._table(), running=True)

    def ended(self) -> list:
        """The page after the last picture, or after Stop."""
        done = len(self._rows)
        key = "batch_stopped" if done < self._total else "batch_done"
        status = self._status(translate(key, self._language, done=done, total=self._total), counts=self._counts())
        return _page(status, self._table(), files=(self._results.csv_path, self._results.zip_path))

    def _status(self, words: Markup, **values: object) -> Markup:
        return _status(words, self._language, guarantees=self._guarantees, changed=self._watch.changed, **values)

    def _counts(self) -> dict[str, int]:
        ranks = [row["keys"][1] for row in self._rows]
        return {key: ranks.count(rank) for rank, key in enumerate(RANKS)}

    def _table(self) -> dict:
        """The data for static/batch.js, which makes the table; Gradio only sends new rows."""
        names = {key: translate_plainly(key, self._language) for key in ("batch_picture", "batch_result", *COLUMNS)}
        columns = [{"name": names["batch_picture"]}, {"name": names["batch_result"]}]
        for title in self._titles:
            columns += [{"name": names[k], "group": title, "numeric": k != COLUMNS[0]} for k in COLUMNS]
        caption = translate_plainly("batch_caption", self._language)
        return {"run": self._run, "caption": caption, "columns": columns, "sorted": 1, "rows": list(self._rows)}


def _guarantees(calibrations: dict[str, Calibration], rate: float, language: str) -> dict[str, Markup]:
    """By method, the guarantee of its threshold, if it is weaker than requested."""
    weaker = {name: c for name, c in calibrations.items() if not c.size or c.guaranteed_rate(rate) > rate}
    return {name: describe_guarantee(c, rate, language) for name, c in weaker.items()}


def _status(words: Markup, language: str, **values: object) -> Markup:
    defaults = {"refused": False, "counts": None, "done": 0, "total": 0, "guarantees": {}, "changed": False}
    return render("batch_status.html", language, words=words, **(defaults | values))


def _page(status: Markup, table: dict | None = None, running: bool = False, files: tuple = (None, None)) -> list:
    """The outputs of the event, in their order."""
    return [
        str(status),
        table,
        gr.update(interactive=not running),
        gr.update(interactive=running),
        *(gr.update(value=path and str(path), visible=path is not None) for path in files),
    ]


# ---------------------------------------------------------------- rows of the table


def _row(record: dict, thumbnail: str, titles: Sequence[str], language: str) -> dict:
    """A record as a row of the table: its cells, and for each column the key to sort by."""
    cells, keys = [_result(record, language)], [record["file"], _rank(record)]
    for title in titles:
        for cell, key in _method_cells(record["methods"].get(title), language):
            cells.append(cell)
            keys.append(key)
    note = ", ".join(translate_plainly(f"batch_{code}", language) for code in record["warnings"])
    shown = {"thumbnail": thumbnail, "alt": translate_plainly("batch_alt", language), "note": note}
    return {"number": record["number"], "file": record["file"], **shown, "cells": cells, "keys": keys}


def _unread(record: dict, reason: str, titles: Sequence[str], language: str) -> dict:
    """The row of a picture that could not be inspected."""
    text, further = f"{translate_plainly('batch_unread', language)}: {reason}", len(COLUMNS) * len(titles)
    cells = [{"text": text, "sign": "!", "tone": "failed", "span": 1 + further}]
    keys = [record["file"], UNREAD, *[None] * further]
    return {"number": record["number"], "file": record["file"], "thumbnail": None, "cells": cells, "keys": keys}


def _rank(record: dict) -> int:
    if UNLIKE in record["warnings"]:
        return SOMETHING_ELSE
    if record["agree"] is False:
        return DISAGREEMENT
    if record["defective_verdicts"]:
        return DEFECTIVE
    if record["look_again"]:
        return AGAIN
    return NO_VERDICT if record["verdicts"] < len(record["methods"]) else GOOD


def _result(record: dict, language: str) -> dict:
    rank = _rank(record)
    if rank == DISAGREEMENT:
        count, total = record["defective_verdicts"], len(record["methods"])
        key = "batch_disagree" if total == 2 else "batch_disagree_count"
        return {"text": translate_plainly(key, language, count=count, total=total), "sign": "≠", "tone": "disagree"}
    if rank == SOMETHING_ELSE:
        return {"text": translate_plainly("unsure", language), "sign": SIGNS[None], "tone": TONES[None]}
    return _verdict({DEFECTIVE: True, AGAIN: LOOK, GOOD: False, NO_VERDICT: None}[rank], language)


def _verdict(verdict: bool | str | None, language: str) -> dict:
    words = translate_plainly(VERDICT_KEYS[verdict], language)
    return {"text": words, "sign": SIGNS[verdict], "tone": TONES[verdict]}


def _method_cells(numbers: dict | None, language: str) -> list[tuple[dict, float | None]]:
    """Verdict, p-value, level and number of defects of one method, each with its key to sort by."""
    if numbers is None:  # no model of this method
        return [({"text": "-"}, None)] * len(COLUMNS)
    verdict = LOOK if numbers["is_unsure"] else numbers["is_anomalous"]
    cells = [(_verdict(verdict, language), VERDICT_ORDER[verdict])]
    for key, digits in (("p_value", 2), ("score_level", 3), ("defects", 6)):
        value = numbers[key]
        text = "-" if value is None else number(value, language, digits)
        cells.append(({"text": text, "tone": "number"}, value))
    return cells


def _thumbnail(picture: Image.Image) -> str:
    """The picture as a tiny JPEG in a data URL."""
    scale = THUMBNAIL_SIDE / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return data_url(picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2), "JPEG", quality=70)


def _name(upload: object) -> str:
    """The visitor's name of the file."""
    described = upload if isinstance(upload, dict) else {}
    return printable(str(described.get("orig_name") or described.get("path") or "?"))


def _size(upload: object) -> int:
    path = uploaded_path(upload)
    try:
        return Path(path).stat().st_size if path else 0
    except OSError:  # already deleted; its row will show that
        return 0


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
