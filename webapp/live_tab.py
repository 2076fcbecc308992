"""The tab Live: a camera of the visitor's device, a video, or a camera of the server; each standstill is judged."""

import importlib.util
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence

import gradio as gr
from gradio.components import Component

from hubmodels import BackboneError, ModelError, PictureError
from hubmodels.hub.catalog import Catalog
from hubmodels.line.live import EVERY
from hubmodels.line.sources import Camera, Found, SourceError, video_pictures, without_password
from webapp.api import read_data_url
from webapp.hosting import checked_path, fresh_path, hide_folders
from webapp.inspection import (
    MODEL,
    Asked,
    chosen_methods,
    dropdown,
    fit_methods,
    keep_ticks,
    method_choice,
    on_ticks,
    wish_methods,
)
from webapp.live import LiveSession
from webapp.texts import LANGUAGES, explain_fault, label, language_of, read_static, render, translate_plainly
from webapp.visitors import Everybody, LayeredCatalog, Visitors

# A session of a video or camera takes a place as long as it runs; the pictures of browsers come one by one. The text
# `live_waiting` repeats the first limit, and `live_how` how long nothing moves.
RUNNING = {"concurrency_id": "live", "concurrency_limit": 4}
PICTURES = {"concurrency_id": "live_pictures", "concurrency_limit": 4}
MAX_SESSIONS = 20  # that are kept, the latest of each visitor
SHOWN_EVERY = 0.2  # seconds between two pictures on the page
DEVICE, VIDEO = "device", "video"  # sources; others are the names of cameras
VIDEO_TYPES = ["video", ".mkv", ".avi", ".ts"]
WORDS = ("pause", "step", "stop", "paused", "ended", "refused", "none", "insecure", "gone", "slow")  # of the browser
FAULTS = (PictureError, ModelError, BackboneError, ValueError, OSError)
REFUSED = "() => document.querySelector('.live').dispatchEvent(new Event('refused'))"


class LiveTab:
    """The events of the tab.

    Args:
        cameras: those that the server may open, as `hubmodels.line.sources` takes them.
    """

    def __init__(self, visitors: Everybody | Visitors, cameras: Sequence[str] = ()) -> None:
        self._visitors, self._cameras = visitors, {without_password(camera): camera for camera in cameras}
        self._sessions: dict[str, LiveSession] = {}  # by session of Gradio

    def build(self, catalog: Catalog, opened: Sequence[Component]) -> gr.Dropdown:
        """Adds the components and events inside the current gr.Tab; returns the choice of category.

        Args:
            opened: where a picture opens: the tabs, and category, picture, methods and rate of the tab Inspect.
        """
        with gr.Row(elem_classes="live-inputs"):
            with gr.Column(scale=2, min_width=280):
                category = dropdown(catalog)
                methods, wished = method_choice(catalog)
                source = gr.Radio(self._sources(), value=DEVICE, label=label("live_source"), elem_id="live-source")
                video = gr.File(label=label("live_video"), file_types=VIDEO_TYPES, visible=False, elem_id="live-video")
                start = gr.Button(label("live_start"), variant="primary", elem_id="live-start")
                gr.Markdown(label("live_how"), elem_classes="note")
            with gr.Column(scale=5, min_width=320):
                view = gr.HTML(
                    html_template=str(render("live.html", LANGUAGES[0])),
                    js_on_load=read_static("live.js"),
                    label=label("tab_live"),
                    elem_id="live",
                    apply_default_css=False,
                )
        private = {"api_visibility": "private", "preprocess": False, "show_progress": "hidden"}
        quick = private | {"queue": False}
        source.change(lambda chosen: gr.update(visible=chosen == VIDEO), source, video, **quick)
        keep_ticks(methods, gr.on([category.change, wished.change], self.fit, [category, wished], methods, **quick))
        on_ticks(methods, self.wish, [category, methods, wished], wished, **quick)
        begun = start.click(self.wait, None, view, trigger_mode="multiple", **quick)
        begun.then(self.start, [category, wished, source, video], view, trigger_mode="multiple", **private, **RUNNING)
        view.apply(self.see, None, view, **private, **PICTURES).failure(None, js=REFUSED, api_visibility="private")
        each = {"trigger_mode": "multiple"}  # a click counts, also before the answer to the last one
        view.input(self.command, **each, **quick)
        view.select(self.open, None, opened, **each, **quick)
        for event, answer in ((view.like, self.correct), (view.undo, self.undo)):
            event(answer, None, view, **each, **private, **MODEL).failure(None, js=REFUSED, api_visibility="private")
        return category

    def _sources(self) -> list[tuple[object, str]]:
        known = [(label("live_device"), DEVICE)]
        if importlib.util.find_spec("av"):
            known += [(label("live_video"), VIDEO), *((name, name) for name in self._cameras)]
        return known

    def fit(self, category: str | None, wished: list, request: gr.Request) -> dict:
        """Another category or choice -> the methods that the category has."""
        return fit_methods(self._visitors.of(request).catalog, category, wished, language_of(request))

    def wish(self, category: str | None, ticked: list | None, wished: list, request: gr.Request) -> list[str]:
        """The ticks were changed -> the choice of methods."""
        return wish_methods(self._visitors.of(request).catalog, category, ticked, wished)

    def wait(self, request: gr.Request) -> dict:
        """Start was clicked -> at once, what was shown before ends, also if all places are taken."""
        self.leave(request)
        language = language_of(request)
        return _without_session(translate_plainly("live_waiting", language), language)

    def start(
        self, category: str | None, methods: list | None, source: str, video: dict | None, request: gr.Request
    ) -> Iterator[dict]:
        """Start -> the view, and for a video or a camera of the server the view again after each picture."""
        language, place = language_of(request), self._visitors.of(request)
        self.leave(request)
        try:
            path = checked_path(video) if source == VIDEO else None
            session = LiveSession(place, category, methods, language)
        except FAULTS as error:
            yield _without_session(_reason(error, category, source, language, place.catalog), language, failed=True)
            return
        self._keep(request.session_hash, session)
        yield _view(session, language, device=source == DEVICE)
        if source == VIDEO:
            yield from self._play(session, path, language)
        elif source in self._cameras:
            yield from self._follow(session, self._cameras[source], language)

    def _play(self, session: LiveSession, path: str, language: str) -> Iterator[dict]:
        """All pictures of a video, as fast as they are judged."""
        shown_at, newest = 0.0, None
        try:
            for found in video_pictures(path, EVERY):
                while session.waits():
                    time.sleep(SHOWN_EVERY / 2)
                if session.stopped.is_set():
                    break
                newest, is_new = found, session.see(found.picture, found.seconds, session.take_step())
                if is_new or time.monotonic() - shown_at >= SHOWN_EVERY:
                    shown_at = time.monotonic()
                    yield _view(session, language, found)
            yield _view(session, language, newest, over="ended" if session.count else "nothing")
        except SourceError:
            yield _view(session, language, newest, over="unreadable", failed=True)
        except FAULTS as error:
            yield self._failed(session, error, language, over="ended")

    def _follow(self, session: LiveSession, address: str, language: str) -> Iterator[dict]:
        """The newest pictures of a camera until Stop."""
        with Camera(address) as camera:
            while not session.stopped.is_set():
                begun, found = time.monotonic(), camera.newest(1.0)
                if found is None:
                    if camera.problem:
                        yield _view(session, language, state="silent", failed=True)
                    continue
                try:
                    if not session.waits():
                        session.see(found.picture, found.seconds, session.take_step())
                    yield _view(session, language, found)
                except FAULTS as error:
                    yield self._failed(session, error, language)
                time.sleep(max(0.0, EVERY - (time.monotonic() - begun)))
        yield _view(session, language, over="ended")

    def see(self, event: gr.EventData, request: gr.Request) -> dict:
        """A picture of the visitor's camera -> the view."""
        session, language = self._found(event, request), language_of(request)
        if session is None:  # the server began again, or too many came later
            over = _without_session(translate_plainly("live_over", language), language, failed=True)
            return over | {"run": getattr(event, "run", None), "report": None}
        picture, seconds = read_data_url(getattr(event, "picture", None)), getattr(event, "seconds", None)
        if picture is None or not isinstance(seconds, int | float) or not math.isfinite(seconds):
            return self._failed(session, PictureError("the browser sent no picture", "unreadable"), language)
        try:
            session.see(picture, seconds, bool(getattr(event, "now", False)))
        except FAULTS as error:
            return self._failed(session, error, language)
        return _view(session, language, device=True)

    def command(self, event: gr.EventData, request: gr.Request) -> None:
        """A click on Pause, Single picture or Stop."""
        session = self._session(event, request)
        act = getattr(event, "act", None)
        session.paused = act in ("pause", "step")
        session.steps += act == "step"
        if act == "stop":
            session.stopped.set()

    def open(self, event: gr.EventData, request: gr.Request) -> tuple:
        """A picture of the list was chosen -> the tab Inspect with a copy of it."""
        session = self._session(event, request)
        row = session.judged(getattr(event, "number", None))
        if row is None or not row.path.is_file():
            raise gr.Error(translate_plainly("live_deleted", language_of(request)), print_exception=False)
        methods = chosen_methods(session.methods) if session.methods else gr.skip()
        copy, asked = str(shutil.copy(row.path, fresh_path(row.path.name))), session.rate and Asked(session.rate)
        return gr.Tabs(selected="inspect"), session.category, copy, methods, asked

    def correct(self, event: gr.EventData, request: gr.Request) -> dict:
        """A click on "This part is good" or "This part is defective" -> the view."""
        session, good = self._session(event, request), bool(getattr(event, "good", False))
        return self._changed(lambda: session.correct(getattr(event, "number", None), good), session, request)

    def undo(self, event: gr.EventData, request: gr.Request) -> dict:
        """A click on Undo -> the view."""
        session = self._session(event, request)
        return self._changed(session.undo, session, request)

    def _changed(self, change: Callable[[], None], session: LiveSession, request: gr.Request) -> dict:
        language = language_of(request)
        try:
            change()
        except FAULTS as error:
            reason = explain_fault(error, language, session.place.catalog)
            raise gr.Error(str(reason), print_exception=False) from error
        return _view(session, language)

    def leave(self, request: gr.Request) -> None:
        """The visitor left, or begins again."""
        if session := self._sessions.pop(request.session_hash, None):
            session.stopped.set()

    def _found(self, event: gr.EventData, request: gr.Request) -> LiveSession | None:
        """The visitor's session, if it is the one on the page."""
        session = self._sessions.get(request.session_hash)
        return session if session and session.run == getattr(event, "run", None) else None

    def _session(self, event: gr.EventData, request: gr.Request) -> LiveSession:
        """As `_found`.

        Raises:
            gr.Error: it is no longer there.
        """
        session = self._found(event, request)
        if session is None:
            raise gr.Error(translate_plainly("live_over", language_of(request)), print_exception=False)
        return session

    def _keep(self, name: str, session: LiveSession) -> None:
        while len(self._sessions) >= MAX_SESSIONS:
            self._sessions.pop(next(iter(self._sessions))).stopped.set()
        self._sessions[name] = session

    def _failed(self, session: LiveSession, error: Exception, language: str, over: str | None = None) -> dict:
        words = explain_fault(error, language, session.place.catalog).unescape()
        return _view(session, language, words=words, failed=True, over=over)


def _view(
    session: LiveSession,
    language: str,
    found: Found | None = None,
    over: str | None = None,
    state: str | None = None,
    words: str | None = None,
    failed: bool = False,
    device: bool = False,
) -> dict:
    """What the browser shows.

    Args:
        found: the picture, of a camera that the browser does not have.
        over: key of the reason why no further picture comes.
        state, words: what is said of the present, by its key or in words; by default what the scene does.
    """
    key = over or state
    said = {"state": words or translate_plainly(f"live_{key}", language)} if key or words else {}
    view = session.view(None if found is None else found.picture)
    return _static(language) | view | said | {"over": over is not None, "failed": failed, "device": device}


def _static(language: str) -> dict:
    return {"every": EVERY, "words": {key: translate_plainly(f"live_{key}", language) for key in WORDS}}


def _without_session(words: str, language: str, failed: bool = False) -> dict:
    empty = {"run": str(time.monotonic()), "report": "", "frame": None, "device": False}
    return _static(language) | empty | {"state": words, "over": True, "failed": failed}


def _reason(
    error: Exception, category: str | None, source: str, language: str, catalog: Catalog | LayeredCatalog
) -> str:
    if not category:
        return translate_plainly("batch_no_category", language)
    if isinstance(error, PictureError) and source == VIDEO:
        return translate_plainly("live_no_video", language)
    return hide_folders(explain_fault(error, language, catalog).unescape(), catalog)
