"""The tab Batch: many pictures or a folder, a table that sorts, and CSV and ZIP of what was found."""

import secrets
import threading
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import gradio as gr  # noqa: TID251
from gradio.utils import get_upload_folder  # noqa: TID251
from PIL import Image

from hubmodels import BackboneError, ModelError, PictureError
from hubmodels.appearance import UNLIKE
from hubmodels.hub.catalog import Catalog
from hubmodels.hub.listing import METHODS
from webapp.categories import dropdown
from webapp.inspection import BATCH, judge
from webapp.inspection_report import vouches
from webapp.privacy import without_folders
from webapp.records import Records, models_of, printable
from webapp.templates import data_url, read_static
from webapp.texts import SIGNS, TONES, VERDICT_KEYS, label, language_of, number, say, say_fault
from webapp.uploads import checked_path, uploaded_path

MAX_PICTURES, MAX_BYTES = 500, 1_000_000_000  # `batch_limits` says so on the page
MAX_WAITING = 100  # sessions that are remembered; the queue holds far fewer
SHOWN_EVERY = 1.0  # seconds between updates of the page: not one for each picture
FILE_TYPES = ["image", ".pgm", ".ppm", ".pnm", ".jp2"]  # the latter are no pictures to some browsers
THUMBNAIL_SIDE = 64  # pixels
VERDICT_ORDER = {True: 0, False: 1, None: 2}
DISAGREEMENT, SOMETHING_ELSE, DEFECTIVE, UNREAD, NO_VERDICT, GOOD = range(6)  # the order of the table
# without what file managers leave in folders
JOIN_FOLDER = """(folder, pictures) => {
    const hidden = /^([.]|Thumbs[.]db$|desktop[.]ini$)/;
    return [[...(pictures ?? []), ...(folder ?? []).filter((file) => !hidden.test(file.orig_name))]];
}"""


def add(catalog: Catalog) -> gr.Dropdown:
    """Builds the tab inside the current gr.Tab.

    Returns:
        The choice of category, for its choices to be kept fresh.
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
    batches, outputs = _Batches(catalog), [status, found, start, stop, *downloads]
    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    folder.upload(None, [folder, pictures], pictures, js=JOIN_FOLDER, api_visibility="private")
    waiting = start.click(batches.wait, None, outputs, **quick)
    running = waiting.then(
        batches.run,
        [category, pictures, rate],
        outputs,
        preprocess=False,  # see uploaded_path
        show_progress="hidden",  # Gradio's own would guess wrongly how long others take
        api_visibility="private",
        **BATCH,
    )
    running.failure(batches.refused, None, outputs, **quick)
    stop.click(batches.stop, **quick)
    return category


class _Batches:
    """The events of the tab, for all visitors."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._stops: dict[str, threading.Event] = {}  # by the session of a visitor whose batch waits or runs

    def wait(self, request: gr.Request) -> list:
        """At once, whoever else has a batch: the visitor may still stop."""
        while len(self._stops) >= MAX_WAITING:  # of visitors who left before their turn
            self._stops.pop(next(iter(self._stops)), None)
        self._stops[request.session_hash] = threading.Event()
        return _page(f"<p>{say('batch_waiting', language_of(request))}</p>", running=True)

    def stop(self, request: gr.Request) -> None:
        """Lets the visitor's batch end after the picture in hand; what is done is kept."""
        if asked := self._stops.get(request.session_hash):
            asked.set()

    def refused(self, request: gr.Request) -> list:
        """The queue was full, or the run failed."""
        self._stops.pop(request.session_hash, None)
        return _page(f'<p class="failed" role="alert">{say("busy", language_of(request))}</p>')

    def run(self, category: str | None, uploads: list | None, percent: float, request: gr.Request) -> Iterator[list]:
        """Inspects the uploads one by one; yields updates of status, table, both buttons, CSV and ZIP."""
        language = language_of(request)
        stopped = self._stops.setdefault(request.session_hash, threading.Event())
        if refusal := self._refusal(category, uploads, percent, language):
            self._stops.pop(request.session_hash, None)
            yield _page(f'<p class="failed" role="alert">{refusal}</p>')
            return
        rate = float(percent) / 100
        head = {"category": category, "false_alarm_rate": rate, "models": models_of(self._catalog, category)}
        folder = Path(get_upload_folder()).resolve() / "batches" / secrets.token_hex(16)  # nobody guesses that
        with Records(folder, head) as records:
            batch = _Batch(records, len(uploads), self._promises(category, rate, language), language)
            try:
                yield batch.shown()
                for upload in uploads:
                    if stopped.is_set():
                        break
                    batch.inspect(self._catalog, upload)
                    if batch.is_due():
                        yield batch.shown()
            finally:
                self._stops.pop(request.session_hash, None)
            records.finish()
        yield batch.ended()

    def _promises(self, category: str, rate: float, language: str) -> str:
        """What each method's threshold promises where that is less than was asked for, as HTML."""
        calibrations = {type(d).__name__: d.calibration for d in self._catalog.load(category)}
        short = {name: c for name, c in calibrations.items() if not c.size or c.guaranteed_rate(rate) > rate}
        lines = (f"<p class='note'>{name}: {vouches(c, rate, language)}</p>" for name, c in short.items())
        return "".join(lines)

    def _refusal(self, category: object, uploads: object, percent: object, language: str) -> str | None:
        """Why this batch cannot be inspected, as HTML; None where it can."""
        if not isinstance(uploads, list) or not uploads:
            return say("batch_no_pictures", language)
        if len(uploads) > MAX_PICTURES:
            return say("batch_too_many", language, count=len(uploads), limit=MAX_PICTURES)
        if (size := sum(map(_size, uploads))) > MAX_BYTES:
            return say("batch_too_large", language, size=size // 10**6, limit=MAX_BYTES // 10**6)
        if not isinstance(percent, int | float) or not 0 < percent < 100:
            return say("batch_bad_rate", language)
        if not category:
            return say("batch_no_category", language)
        try:
            self._catalog.load(category)
        except (ModelError, BackboneError) as error:
            return say("batch_no_model", language, reason=without_folders(str(error), self._catalog))


class _Batch:
    """One visitor's batch: what is done, and how the page shows it."""

    def __init__(self, records: Records, total: int, promises: str, language: str) -> None:
        self._records, self._total, self._promises, self._language = records, total, promises, language
        self._run, self._rows = secrets.token_hex(4), []
        self._began = self._shown_at = time.monotonic()

    def inspect(self, catalog: Catalog, upload: object) -> None:
        """Judges one upload; a picture that cannot be read is a row like the others."""
        name, head = _name(upload), self._records.head
        try:
            inspection = judge(catalog, head["category"], checked_path(upload), head["false_alarm_rate"])
        except (PictureError, ModelError, BackboneError) as error:
            record = self._records.add_failure(name, without_folders(str(error), catalog))
            reason = without_folders(unescape(say_fault(error, self._language)), catalog)
            self._rows.append(_unread(record, reason, self._language))
        else:
            record = self._records.add(name, inspection)
            self._rows.append(_row(record, _thumbnail(inspection.picture), self._language))

    def is_due(self) -> bool:
        """Whether the page was last shown long enough ago to be shown again."""
        return time.monotonic() - self._shown_at >= SHOWN_EVERY

    def shown(self) -> list:
        """The page while the batch runs."""
        self._shown_at = time.monotonic()
        done, failed = len(self._rows), self._counts()[UNREAD]
        words = [self._say("batch_progress", done=done, total=self._total)]
        if done:
            seconds = (self._shown_at - self._began) / done * (self._total - done)
            words.append(self._say("batch_left", time=_duration(seconds)))
        if failed:
            words.append(self._say("batch_failed", failed=failed))
        bar = f'<progress max="{self._total}" value="{done}" aria-label="{self._say("batch_running")}"></progress>'
        return _page(f"<p>{', '.join(words)}</p>{bar}{self._promises}", self._table(), running=True)

    def ended(self) -> list:
        """The page after the last picture, or after Stop."""
        done, counts = len(self._rows), self._counts()
        words = self._say("batch_stopped" if done < self._total else "batch_done", done=done, total=self._total)
        keys = ("batch_disagree", "batch_unlike", "defective", "batch_unread", "no_verdict", "good")
        listed = "".join(
            f"<li><b>{count}</b> {self._say(key)}</li>" for key, count in zip(keys, counts, strict=True) if count
        )
        status = f'<div role="status"><p><strong>{words}</strong></p><ul>{listed}</ul></div>{self._promises}'
        return _page(status, self._table(), files=(self._records.csv_path, self._records.zip_path))

    def _counts(self) -> list[int]:
        ranks = [row["keys"][1] for row in self._rows]
        return [ranks.count(rank) for rank in range(GOOD + 1)]

    def _table(self) -> dict:
        """What static/batch.js makes a table of; Gradio sends the rows that are new since the last time."""
        columns = [{"name": self._say(key)} for key in ("batch_picture", "batch_result")]
        for method in METHODS.values():
            columns.append({"name": self._say("batch_verdict"), "group": method.__name__})
            for key in ("batch_p_value", "batch_level", "batch_defects"):
                columns.append({"name": self._say(key), "group": method.__name__, "numeric": True})
        caption = self._say("batch_caption")
        return {"run": self._run, "caption": caption, "columns": columns, "sorted": 1, "rows": list(self._rows)}

    def _say(self, key: str, **values: object) -> str:
        return say(key, self._language, **values)


def _page(status: str, table: dict | None = None, running: bool = False, files: tuple = (None, None)) -> list:
    """The outputs of the event, in their order."""
    return [
        f'<div class="batch-status">{status}</div>',
        table,
        gr.update(interactive=not running),
        gr.update(interactive=running),
        *(gr.update(value=path and str(path), visible=path is not None) for path in files),
    ]


def _row(record: dict, thumbnail: str, language: str) -> dict:
    """A record as a row of the table: its cells, and the keys it is sorted by, one for each column."""
    rank = _rank(record)
    cells, keys = [_result(rank, language)], [record["file"], rank]
    for method in METHODS.values():
        for cell, key in _said(record["methods"].get(method.__name__), language):
            cells.append(cell)
            keys.append(key)
    note = ", ".join(say(f"batch_{code}", language) for code in record["warnings"])
    shown = {"thumbnail": thumbnail, "alt": say("batch_alt", language), "note": note}
    return {"number": record["number"], "file": record["file"], **shown, "cells": cells, "keys": keys}


def _unread(record: dict, reason: str, language: str) -> dict:
    """The row of a picture that could not be inspected."""
    text, beside = f"{say('batch_unread', language)}: {reason}", 4 * len(METHODS)
    cells = [{"text": text, "sign": "!", "tone": "failed", "span": 1 + beside}]
    keys = [record["file"], UNREAD, *[None] * beside]
    return {"number": record["number"], "file": record["file"], "thumbnail": None, "cells": cells, "keys": keys}


def _rank(record: dict) -> int:
    verdicts = {numbers["is_anomalous"] for numbers in record["methods"].values()}
    if UNLIKE in record["warnings"]:
        return SOMETHING_ELSE
    if record["agree"] is False:
        return DISAGREEMENT
    return DEFECTIVE if True in verdicts else NO_VERDICT if None in verdicts else GOOD


def _result(rank: int, language: str) -> dict:
    if rank == DISAGREEMENT:
        return {"text": say("batch_disagree", language), "sign": "≠", "tone": "disagree"}
    if rank == SOMETHING_ELSE:
        return {"text": say("unsure", language), "sign": SIGNS[None], "tone": TONES[None]}
    return _verdict({DEFECTIVE: True, GOOD: False, NO_VERDICT: None}[rank], language)


def _verdict(is_anomalous: bool | None, language: str) -> dict:
    words = say(VERDICT_KEYS[is_anomalous], language)
    return {"text": words, "sign": SIGNS[is_anomalous], "tone": TONES[is_anomalous]}


def _said(numbers: dict | None, language: str) -> list[tuple[dict, float | None]]:
    """Verdict, p-value, level and number of defects of one method, each with its key to sort by."""
    if numbers is None:  # no model of this method
        return [({"text": "-"}, None)] * 4
    verdict = numbers["is_anomalous"]
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
    """What the visitor calls the file."""
    described = upload if isinstance(upload, dict) else {}
    return printable(str(described.get("orig_name") or described.get("path") or "?"))


def _size(upload: object) -> int:
    path = uploaded_path(upload)
    try:
        return Path(path).stat().st_size if path else 0
    except OSError:  # deleted meanwhile; its row will say so
        return 0


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
