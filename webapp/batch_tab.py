"""The tab Batch: many pictures or a folder, a table that can be sorted, and the results as CSV and ZIP."""

import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import gradio as gr
from gradio.components import Component
from gradio.utils import get_upload_folder
from markupsafe import Markup

from hubmodels import AnomalyDetector, BackboneError, ModelError, PictureError
from hubmodels.hub.catalog import Catalog
from hubmodels.inspection import SetupWatch, method_titles
from hubmodels.scoring import Calibration
from webapp.batch_rows import COLUMNS, RANKS, UNREAD, count_in_words, inspected_row, rank_of, thumbnail, unread_row
from webapp.corrections import Correction, Corrections, found_in_words, limit_of, what_followed
from webapp.hosting import checked_path, fresh_path, hide_folders, uploaded_path
from webapp.inspection import (
    BATCH,
    MODEL,
    Asked,
    VouchedRates,
    chosen_methods,
    dropdown,
    fit_methods,
    folder_button,
    inspect_picture,
    keep_ticks,
    load_methods,
    method_choice,
    on_ticks,
    wish_methods,
)
from webapp.inspection_report import describe_guarantee
from webapp.own_parts import digest
from webapp.results import BatchResults, models_of, printable
from webapp.texts import (
    explain_fault,
    label,
    language_of,
    percent,
    read_static,
    render,
    translate,
    translate_plainly,
)
from webapp.visitors import Everybody, Visitors, Workplace

MAX_PICTURES, MAX_BYTES = 500, 1_000_000_000  # the text `batch_limits` repeats them
MAX_WAITING = 100  # remembered sessions; the queue has far fewer places
MAX_KEPT = 20  # batches whose rows can be opened and corrected, the latest of each session; each takes some MB
LEAST, MOST, STEP = 0.5, 20, 0.01  # accepted false alarms in %; the step is as fine as `VouchedRates.least`
SHOWN_EVERY = 1.0  # seconds between updates of the page
# some browsers do not know the last ones as pictures
FILE_TYPES = ["image", ".pgm", ".ppm", ".pnm", ".jp2", ".heic"]
REFUSED = "() => document.querySelector('.batch-table').dispatchEvent(new Event('refused'))"


def add(
    catalog: Catalog, tab: gr.Tab, visitors: Everybody | Visitors | None, opened: Sequence[Component]
) -> gr.Dropdown:
    """Builds the tab inside the current gr.Tab.

    Args:
        tab: when it is opened, the rows follow what was corrected elsewhere.
        visitors: whose parts each request sees and can correct; None = rows cannot be corrected.
        opened: where a row opens: the tabs, and category, picture, methods and rate of the tab Inspect.

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
            folder_button(pictures, "batch-folder")
            gr.Markdown(label("batch_limits"), elem_classes="note")
        with gr.Column(scale=2, min_width=280):
            category = dropdown(catalog)
            methods, wished = method_choice(catalog)
            rate = gr.Slider(LEAST, MOST, 1, step=STEP, label=label("batch_rate"), elem_id="batch-rate")
            beyond = gr.HTML(elem_id="batch-beyond", elem_classes="note", apply_default_css=False)
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
    vouched = gr.State()
    offered = gr.on(
        [category.change, wished.change, tab.select],  # a part can be taught again with more pictures
        batches.offer,
        [category, wished, vouched],
        [methods, rate, vouched],
        preprocess=False,  # the list does not know a part that was taught meanwhile
        **quick,
    )
    keep_ticks(methods, offered)
    on_ticks(methods, batches.wish, [category, methods, wished], wished, preprocess=False, **quick)
    gr.on([rate.change, vouched.change], batches.doubt_rate, [rate, vouched], beyond, preprocess=False, **quick)
    waiting = start.click(batches.wait, None, outputs, **quick)
    running = waiting.then(
        batches.run,
        [category, pictures, rate, wished],
        outputs,
        preprocess=False,  # see `uploaded_path`
        show_progress="hidden",  # Gradio's own estimate of the waiting time is wrong
        api_visibility="private",
        **BATCH,
    )
    running.failure(batches.refused, None, outputs, **quick)
    stop.click(batches.stop, **quick)
    found.select(batches.open, None, opened, trigger_mode="multiple", **quick)
    # each key counts, also if it is pressed before the answer to the last one
    person = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "multiple", **MODEL}
    for event, answer in ((found.apply, batches.correct), (found.undo, batches.undo)):
        event(answer, None, [status, found, *downloads], **person).failure(None, js=REFUSED, api_visibility="private")
    tab.select(batches.follow, None, [status, found, *downloads], **person)
    return category


class _Batches:
    """The events of the tab, for all visitors."""

    def __init__(self, catalog: Catalog, visitors: Everybody | Visitors | None = None) -> None:
        self._visitors = visitors or Everybody(catalog)
        self._kept: dict[str, _Batch] = {}  # by session, its latest batch
        self._stops: dict[str, threading.Event] = {}  # by session, of each waiting or running batch

    def wish(self, category: str | None, ticked: list | None, wished: list, request: gr.Request) -> list[str]:
        """The ticks were changed -> the choice of methods."""
        return wish_methods(self._visitors.of(request).catalog, category, ticked, wished)

    def offer(self, category: str | None, wished: list, before: VouchedRates | None, request: gr.Request) -> tuple:
        """Parts or methods were chosen -> the methods of the parts, and what `offer_rates` returns."""
        fitted = fit_methods(self._visitors.of(request).catalog, category, wished, language_of(request))
        return fitted, *self.offer_rates(category, wished, before, request)

    def offer_rates(
        self, category: str | None, methods: list | None, before: VouchedRates | None, request: gr.Request
    ) -> tuple:
        """Parts or methods were chosen -> the slider at the least rate they can vouch for, and what they vouch for.

        A visitor's choice stays if they vouch for the same rates as `before`.
        """
        try:
            vouched = VouchedRates.of(load_methods(self._visitors.of(request).catalog, category, methods).values())
        except (ModelError, BackboneError):  # said when the batch starts
            return gr.skip(), None
        if vouched == before or vouched.least is None:
            return gr.skip(), vouched
        least = round(100 * vouched.least, 2)
        return gr.update(value=least, maximum=max(MOST, least)), vouched

    def doubt_rate(self, share: object, vouched: VouchedRates | None, request: gr.Request) -> str:
        """The slider was moved -> how many good pictures the rate needs, if it is too low; it is grey then."""
        if vouched is None or _is_bad_rate(share) or not vouched.is_beyond(share / 100):
            return ""
        return str(vouched.in_words(share / 100, language_of(request)))

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
        language, place = language_of(request), self._visitors.of(request)
        catalog = place.catalog
        stopped = self._stops.setdefault(request.session_hash, threading.Event())
        if refusal := self._refusal(catalog, category, uploads, percent, language):
            self._stops.pop(request.session_hash, None)
            yield _page(_status(refusal, language, refused=True))
            return
        rate, shown = round(float(percent) / 100, 6), _by_title(catalog, category, methods)
        head = {"category": category, "false_alarm_rate": rate, "models": models_of(catalog, category, shown)}
        folder = Path(get_upload_folder()).resolve() / "batches" / secrets.token_hex(16)  # cannot be guessed
        with BatchResults(folder, head, language) as results:
            can_correct = place.corrections is not None and place.corrections.part_of(category) is not None
            batch = _Batch(results, uploads, methods, shown, language, can_correct)
            self._keep(request.session_hash, batch)
            try:
                yield batch.shown()
                for upload in uploads:
                    if stopped.is_set():
                        break
                    batch.inspect(place, upload)
                    if batch.is_due():
                        yield batch.shown()
            finally:
                self._stops.pop(request.session_hash, None)
            batch.finish()
        yield batch.ended()

    def open(self, event: gr.EventData, request: gr.Request) -> tuple:
        """A row was chosen -> the tab Inspect with its category, a copy of its picture, its methods and its rate."""
        try:
            batch = self._batch(event, request)
            path = batch.picture(getattr(event, "number", None))
        except PictureError as error:
            reason = explain_fault(error, language_of(request), self._visitors.of(request).catalog)
            raise gr.Error(str(reason), print_exception=False) from error
        methods = chosen_methods(batch.methods) if batch.methods else gr.skip()
        copy = str(shutil.copy(path, fresh_path(path.name)))
        return gr.Tabs(selected="inspect"), batch.category, copy, methods, Asked(batch.rate)

    def correct(self, event: gr.EventData, request: gr.Request) -> list:
        """A key or button of a row, "is good" or "is defective" -> status, table, CSV and ZIP."""
        batch, place = self._batch(event, request), self._visitors.of(request)
        number, good = getattr(event, "number", None), bool(getattr(event, "good", False))
        batch.correct(place.catalog, place.corrections, number, good)
        return batch.corrected()

    def undo(self, event: gr.EventData, request: gr.Request) -> list:
        """A click on Undo -> status, table, CSV and ZIP without the last correction."""
        batch, place = self._batch(event, request), self._visitors.of(request)
        batch.undo(place.catalog, place.corrections)
        return batch.corrected()

    def follow(self, request: gr.Request) -> list:
        """The tab is opened -> status, table, CSV and ZIP, if something was corrected elsewhere."""
        batch, place = self._kept.get(request.session_hash), self._visitors.of(request)
        is_changed = batch is not None and batch.follow(place.catalog, place.corrections)
        return batch.corrected() if is_changed else [gr.skip()] * 4

    def _batch(self, event: gr.EventData, request: gr.Request) -> "_Batch":
        """The visitor's latest batch, if it is the one on the page.

        Raises:
            gr.Error: it is no longer there.
        """
        batch = self._kept.get(request.session_hash)
        if batch is None or batch.run != getattr(event, "run", None):
            reason = translate_plainly("fault_gone", language_of(request))
            raise gr.Error(reason, print_exception=False)
        return batch

    def _keep(self, session: str, batch: "_Batch") -> None:
        self._kept.pop(session, None)
        while len(self._kept) >= MAX_KEPT:
            self._kept.pop(next(iter(self._kept)), None)
        self._kept[session] = batch

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
        if _is_bad_rate(percent):
            return translate("batch_bad_rate", language)
        if not category:
            return translate("batch_no_category", language)
        try:
            catalog.load(category)
        except (ModelError, BackboneError) as error:
            return translate("batch_no_model", language, reason=hide_folders(str(error), catalog))


class _Batch:
    """One visitor's batch: its results so far, a person's corrections, and their display on the page.

    Args:
        uploads: of the visitor, not checked yet.
        methods: as `load_methods`.
        detectors: of the methods that are shown, by title.
        can_correct: whether a person may correct rows.

    Attributes:
        run: its name in the browser.
    """

    def __init__(
        self,
        results: BatchResults,
        uploads: list,
        methods: list | None,
        detectors: Mapping[str, AnomalyDetector],
        language: str,
        can_correct: bool = False,
    ) -> None:
        self.methods, self.run = methods, secrets.token_hex(4)
        self._results, self._uploads, self._total, self._language = results, uploads, len(uploads), language
        self._rows, self._titles, self._lock = [], list(detectors), threading.Lock()
        calibrations, rate = {n: d.calibration for n, d in detectors.items()}, results.head["false_alarm_rate"]
        self._watch, self._guarantees = SetupWatch(rate), _guarantees(calibrations, rate, language)
        self._can_correct, self._models, self._marks = can_correct, _identities(detectors), results.corrections
        self._digests: list[str | None] = []  # of the pictures, by row
        self._known: dict[int, str] = {}  # what a person had said about rows before the batch
        self._corrected: set[int] = set()  # numbers of the rows that were corrected here
        self._last: tuple[int, Correction] | None = None  # what Undo undoes, with the number of its row
        self._is_over, self._note = False, {"lines": [], "failed": False}
        self._began = self._shown_at = time.monotonic()

    @property
    def category(self) -> str:
        """Of all its pictures."""
        return self._results.head["category"]

    @property
    def rate(self) -> float:
        """The accepted false alarms."""
        return self._results.head["false_alarm_rate"]

    def picture(self, number: object) -> Path:
        """The picture of a row.

        Raises:
            PictureError: there is no such row, or the upload was deleted.
        """
        return Path(checked_path(self._uploads[number - 1] if self._has_row(number) else None))

    def inspect(self, place: Workplace, upload: object) -> None:
        """Inspects one upload; a picture that cannot be read is a row like the others."""
        name, catalog = _name(upload), place.catalog
        try:
            path = checked_path(upload)
            inspection = inspect_picture(catalog, self.category, path, self.rate, self.methods)
            content = Path(path).read_bytes()
            place.log.inspection(name, content, self.category, inspection, self.rate, catalog)
            shown, found = thumbnail(inspection.picture), digest(content)
        except (PictureError, ModelError, BackboneError, OSError) as error:
            reason = explain_fault(error, self._language, catalog).unescape()
            with self._lock:
                self._digests.append(None)
                record = self._results.add_failure(name, hide_folders(str(error), catalog))
                self._rows.append(unread_row(record, reason, self._titles, self._language))
            return
        self._watch.add(inspection)
        with self._lock:  # a correction can come at any time
            self._digests.append(found)
            self._mark_known(place.corrections, found)
            record = self._results.add(name, inspection)
            self._results.head["setup_changed"] = self._watch.changed
            self._rows.append(self._row(record, shown))

    def finish(self) -> None:
        """Completes the files."""
        with self._lock:
            self._results.finish()
            self._is_over = True

    # ------------------------------------------------------------ corrections

    def follow(self, catalog: Catalog, corrections: Corrections | None) -> bool:
        """Takes in what was corrected elsewhere, such as in Inspect; returns whether a row changed."""
        if corrections is None or not self._can_correct:
            return False
        before, is_lost = self._results.rows, self._last is not None and not self._is_latest(corrections)
        if is_lost:
            self._corrected.discard(self._last[0])
            self._last = None
        try:
            changed = self._revise(corrections, _by_title(catalog, self.category, self.methods))
        except (ModelError, BackboneError):  # said when somebody corrects a row
            return is_lost
        is_changed = before != self._results.rows
        if is_changed or is_lost:
            line = translate_plainly("batch_followed", self._language, count=len(changed))
            self._note = {"lines": [line] if is_changed else [], "failed": False}
        return is_changed or is_lost

    def correct(self, catalog: Catalog, corrections: Corrections | None, number: object, good: bool) -> None:
        """Takes a person's word for a row, once, and decides all rows by the thresholds that follow."""
        followed = self.follow(catalog, corrections)
        if not self._can_be_corrected(number):
            return
        try:
            correction = corrections.correct(self.category, str(self.picture(number)), good, self.rate)
            now = _by_title(catalog, self.category, self.methods)
        except (PictureError, ModelError, BackboneError, ValueError, OSError) as error:
            self._fail(number, explain_fault(error, self._language, catalog))
            return
        self._last = number, corrections.latest(self.category)
        self._corrected.add(number)
        is_alarm = good and self._is_alarm(number)
        changed = self._revise(corrections, now) - {number}
        raised, found = correction.raised, map(str, found_in_words(correction, self._language))
        moved = self._moved(changed, now) if raised or changed or is_alarm else []
        before = self._note["lines"] if followed else []
        line = self._followed(number, what_followed(good, raised, self._is_alarm(number), self._are_ours(now)), before)
        self._note = {"lines": [*before, line, *found, *moved], "failed": False}

    def undo(self, catalog: Catalog, corrections: Corrections | None) -> None:
        """Undoes the last correction of this batch, unless the part was corrected elsewhere since."""
        if corrections is None or self._last is None:
            return
        is_latest, ((number, correction), self._last) = self._is_latest(corrections), (self._last, None)
        if not is_latest:
            self._note = {"lines": [self._about(number, "batch_undone_elsewhere")], "failed": True}
            return
        try:
            corrections.undo(self.category)
            now = _by_title(catalog, self.category, self.methods)
        except (ModelError, BackboneError, ValueError, OSError) as error:
            self._fail(number, explain_fault(error, self._language, catalog))
            return
        self._corrected.discard(number)
        self._revise(corrections, now)
        key = "batch_undone_all" if correction.after else "batch_undone"
        self._note = {"lines": [self._about(number, key)], "failed": False}

    def corrected(self) -> list:
        """Status, table, CSV and ZIP after a correction; a running batch updates all but the table later."""
        if not self._is_over:
            return [gr.skip(), self._table(), gr.skip(), gr.skip()]
        status, table, _, _, *files = self.ended()
        return [status, table, *files]

    def _has_row(self, number: object) -> bool:
        return isinstance(number, int) and 1 <= number <= len(self._rows)

    def _can_be_corrected(self, number: object) -> bool:
        is_there = self._has_row(number) and self._results.rows[number - 1]["error"] is None
        return self._can_correct and is_there and self._is_free(number)

    def _is_free(self, number: int) -> bool:
        """Whether nobody has corrected a row since it was inspected."""
        return number not in self._corrected and self._marks.get(number) == self._known.get(number)

    def _is_latest(self, corrections: Corrections) -> bool:
        """Whether the last correction of this batch is the last one of the part."""
        return self._last is not None and corrections.latest(self.category) == self._last[1]

    def _mark_known(self, corrections: Corrections | None, found: str) -> None:
        """Marks the next row if a person has judged its picture before."""
        said = corrections.said(self.category) if corrections else {}
        if self._can_correct and found in said:
            self._marks[len(self._digests)] = self._known[len(self._digests)] = said[found]

    def _is_alarm(self, number: int) -> bool:
        """Whether a method calls a row defective."""
        return bool(self._results.rows[number - 1]["defective_verdicts"])

    def _followed(self, number: int, key: str, before: list[str]) -> str:
        """What followed from a correction.

        Args:
            key: of its text.
            before: what the page says about another correction, by which rows have just changed.
        """
        methods = self._results.rows[number - 1]["methods"].values()
        limit = limit_of(m["p_value"] for m in methods if m["is_anomalous"])
        key = "batch_kept" if before and key == "corrected_kept" else key
        return self._about(number, key, limit=percent(limit, self._language))

    def _fail(self, number: int, reason: Markup) -> None:
        self._note = {"lines": [self._about(number, "batch_not_corrected", reason=reason)], "failed": True}
        self._rows[number - 1] = self._rows[number - 1] | {"revision": self._rows[number - 1]["revision"] + 1}

    def _about(self, number: int, key: str, **values: object) -> str:
        part = self.category.partition(" / ")[2]
        return f"{self._rows[number - 1]['file']}: {translate_plainly(key, self._language, part=part, **values)}"

    def _revise(self, corrections: Corrections, detectors: Mapping[str, AnomalyDetector]) -> set[int]:
        """Marks all rows, and decides them by the present thresholds; returns those with another mark or result."""
        with self._lock:
            said, before = corrections.said(self.category), self._results.rows
            marks = {number: said[found] for number, found in enumerate(self._digests, 1) if found in said}
            self._marks.clear()
            self._marks.update(marks)
            self._results.revise(detectors if self._are_ours(detectors) else None)
            self._rows = list(map(self._shown_again, self._rows, self._results.rows))
            if self._is_over and before != self._results.rows:
                self._results.rewrite()
            return {new["number"] for old, new in zip(before, self._results.rows, strict=True) if _differ(old, new)}

    def _are_ours(self, detectors: Mapping[str, AnomalyDetector]) -> bool:
        """Whether the scores of the rows are of these detectors."""
        return _identities(detectors) == self._models

    def _moved(self, changed: set[int], now: Mapping[str, AnomalyDetector]) -> list[str]:
        """What the thresholds promise after they have changed, and what happened to the other rows."""
        key = "batch_judged_again" if self._are_ours(now) else "batch_not_judged_again"
        judged = translate_plainly(key, self._language, count=len(changed))
        return [*_promises(now, self.rate, self._language), judged]

    def _row(self, record: dict, thumbnail: str) -> dict:
        shown = inspected_row(record, thumbnail, self._titles, self._language)
        return shown | {"is_free": self._is_free(record["number"])}

    def _shown_again(self, row: dict, record: dict) -> dict:
        """A row of the table, as its record is now; `revision` tells the browser that it changed."""
        if record["error"] is not None:
            return row
        new = self._row(record, row["thumbnail"])
        is_same = new == row | {"revision": new["revision"]}
        return row if is_same else new | {"revision": row["revision"] + 1}

    # ------------------------------------------------------------ the page

    def is_due(self) -> bool:
        """Whether it is time to update the page."""
        return time.monotonic() - self._shown_at >= SHOWN_EVERY

    def shown(self) -> list:
        """The page while the batch runs."""
        self._shown_at = time.monotonic()
        done, failed = len(self._rows), self._ranks().count(UNREAD)
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
        """By what the rows are, how many there are."""
        found = {rank: self._ranks().count(rank) for rank in range(len(RANKS))}
        return {count_in_words(rank, count, self._language): count for rank, count in found.items() if count}

    def _ranks(self) -> list[int]:
        return [row["keys"][1] for row in self._rows]

    def _table(self) -> dict:
        """The data for static/batch.js, which makes the table; Gradio only sends new rows."""
        names = {key: translate_plainly(key, self._language) for key in ("batch_picture", "batch_result", *COLUMNS)}
        columns = [{"name": names["batch_picture"]}, {"name": names["batch_result"]}]
        for title in self._titles:
            columns += [{"name": names[k], "group": title, "numeric": k != COLUMNS[0]} for k in COLUMNS]
        shown = {"run": self.run, "columns": columns, "sorted": 1, "rows": list(self._rows)}
        note = self._note | {"can_undo": self._last is not None}
        return shown | {"words": self._words(), "note": note, "can_correct": self._can_correct}

    def _words(self) -> dict[str, str]:
        """The texts around the rows."""
        own = {"keys_own": "batch_keys_own", "touch_own": "batch_touch_own"} if self._can_correct else {}
        keys = own | {"good": "batch_is_good", "defective": "batch_is_defective", "waiting": "batch_correcting"}
        keys |= {
            "caption": "batch_caption",
            "keys": "batch_keys",
            "touch": "batch_touch",
            "open": "batch_open",
            "undo": "undo",
        }
        return {name: translate_plainly(key, self._language) for name, key in keys.items()}


def _differ(old: dict, new: dict) -> bool:
    """Whether mark or result of a record differ."""
    return (rank_of(old), old.get("correction")) != (rank_of(new), new.get("correction"))


def _by_title(catalog: Catalog, category: str, methods: list | None) -> dict[str, AnomalyDetector]:
    """As `load_methods`, by the methods' titles."""
    titles = method_titles()
    return {titles[name]: detector for name, detector in load_methods(catalog, category, methods).items()}


def _identities(detectors: Mapping[str, AnomalyDetector]) -> dict[str, tuple]:
    """By method, what a correction leaves as it is and another training does not."""
    calibrations = {name: detector.calibration for name, detector in detectors.items()}
    return {
        name: (c.size, str(c.normal_level.item()), str(c.false_alarm_rate.item())) for name, c in calibrations.items()
    }


def _promises(detectors: Mapping[str, AnomalyDetector], rate: float, language: str) -> list[str]:
    """By method, what its threshold promises now, and how many corrections raised it."""
    calibrations = {name: detector.calibration for name, detector in detectors.items()}
    values = [
        {"method": name, "guarantee": describe_guarantee(c, rate, language), "count": int(c.corrections)}
        for name, c in calibrations.items()
    ]
    return [translate_plainly("batch_promise", language, **one) for one in values]


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


def _is_bad_rate(percent: object) -> bool:
    return not isinstance(percent, int | float) or not 0 < percent < 100


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
