"""The tab Live: which events a belt gives, and what the page says of them."""

import io
from base64 import b64encode
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from belt_video import frames, write_video
from PIL import Image

from hubmodels.hub.catalog import Catalog, list_bundle
from hubmodels.line.log import InspectionLog
from hubmodels.line.sources import Found
from webapp import live, live_tab
from webapp.live import LiveSession
from webapp.live_tab import DEVICE, VIDEO, LiveTab
from webapp.page_log import NotLoggedError, PageLog
from webapp.texts import TEXTS
from webapp.visitors import Everybody, Workplace

LABEL, METHODS = "parts / washer", ["glass"]


@pytest.fixture(scope="module")
def place():
    return Workplace(Catalog(list_bundle))


@pytest.fixture
def tab(place, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return LiveTab(Everybody(place.catalog), ["rtsp://me:secret@10.0.0.7/belt"])


@pytest.fixture(scope="module")
def watched(place, tmp_path_factory):
    """A session that has seen the belt with a good part, another, a scratched one, none, and a hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("live")))
        session = LiveSession(place, LABEL, METHODS, "en")
        judged = [number for number, picture in enumerate(frames()) if session.see(picture, number / 10)]
    return session, judged


def visitor(language="en"):
    return SimpleNamespace(headers={"accept-language": language}, session_hash="me")


def event(session, **data):
    return SimpleNamespace(run=session if isinstance(session, str) else session.run, **data)


def texts(session):
    return [session._result(session.judged(number))["text"] for number in range(1, len(session._rows) + 1)]


def data_url(picture):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=95)
    return f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode()}"


def test_a_belt_gives_one_verdict_for_each_part_and_none_for_belt_and_hand(watched):
    session, judged = watched
    nothing = TEXTS["live_no_part"]["en"]
    assert texts(session) == ["Good", "Good", "Defective", nothing, nothing] and len(judged) == 5
    report = session.report()
    assert "<strong>2</strong> Good" in report and f"<strong>2</strong> {nothing}" in report


def test_the_report_shows_no_heat_map_of_a_hand_but_the_course_of_the_parts(watched):
    report = watched[0].report()
    assert "live-overlays" in report and 'alt="The picture with the heat map' not in report
    assert report.count("<polyline") == 3 and "over 3 pictures" in report
    assert 0 < watched[0]._history[0][1] < 1  # a good part's look is within the limit, and drawn so


def test_a_video_is_judged_to_its_end_and_a_row_opens_in_inspect(tab, tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed")
    video = write_video(tmp_path / "belt.mp4")
    *_, last = tab.start(LABEL, METHODS, VIDEO, {"path": str(video)}, visitor())
    session = tab._sessions["me"]
    assert (
        last["over"]
        and last["state"] == TEXTS["live_ended"]["en"]
        and texts(session)[:3] == ["Good", "Good", "Defective"]
    )
    tabs, category, copy, methods, asked = tab.open(event(session, number=3), visitor())
    assert (tabs.selected, category, methods, asked.rate) == ("inspect", LABEL, METHODS, session.rate)
    assert np.asarray(Image.open(copy)).shape == (256, 256, 3)
    with pytest.raises(gr.Error, match="deleted after an hour"):
        tab.open(event(session, number=99), visitor())


def test_a_video_in_which_nothing_stands_still_says_so(tab, tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed")
    video = write_video(tmp_path / "belt.mp4", still=3)
    *_, last = tab.start(LABEL, METHODS, VIDEO, {"path": str(video)}, visitor())
    assert last["over"] and last["state"] == TEXTS["live_nothing"]["en"]


def test_a_damaged_video_says_so_and_keeps_the_results(tab, tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed")
    (tmp_path / "belt.mp4").write_bytes(b"no video")
    *_, last = tab.start(LABEL, METHODS, VIDEO, {"path": str(tmp_path / "belt.mp4")}, visitor("de"))
    assert last["failed"] and last["over"] and last["state"] == TEXTS["live_unreadable"]["de"]


def test_pictures_of_a_browser_are_judged_at_a_standstill_or_at_once(tab):
    good = next(frames())
    (begun,) = tab.start(LABEL, METHODS, DEVICE, None, visitor())
    assert begun["device"] and not begun["over"] and begun["state"] == TEXTS["live_waiting"]["en"]
    seen = [tab.see(event(begun["run"], picture=data_url(good), seconds=t), visitor()) for t in (0, 0.3, 0.6, 0.9)]
    assert [view["state"] for view in seen] == [
        TEXTS[f"live_{k}"]["en"] for k in ("first", "settling", "ready", "held")
    ]
    assert [bool(view["report"]) for view in seen] == [False, False, True, False]
    at_once = tab.see(event(begun["run"], picture=data_url(good), seconds=1.0, now=True), visitor())
    assert "<strong>2</strong> Good" in at_once["report"]


@pytest.mark.parametrize(
    "wrong", [{"picture": "data:image/png;base64,%%%"}, {"seconds": float("nan")}, {"picture": 7}]
)
def test_what_a_browser_sends_is_not_trusted(tab, wrong):
    (begun,) = tab.start(LABEL, METHODS, DEVICE, None, visitor())
    view = tab.see(event(begun["run"], **({"picture": data_url(next(frames())), "seconds": 0.0} | wrong)), visitor())
    assert view["failed"] and not view["over"] and tab._sessions["me"].scene is None


def test_another_session_is_out_of_reach(tab):
    (begun,) = tab.start(LABEL, METHODS, DEVICE, None, visitor())
    stranger = SimpleNamespace(headers={}, session_hash="other")
    for run, request in ((begun["run"], stranger), ("0123", visitor())):
        view = tab.see(event(run, picture=data_url(next(frames())), seconds=0.0), request)
        assert view["over"] and view["run"] == run and view["state"] == TEXTS["live_over"]["en"]
        with pytest.raises(gr.Error, match=TEXTS["live_over"]["en"]):
            tab.command(event(run, act="pause"), request)
    assert tab._sessions["me"].scene is None and not tab._sessions["me"].paused


def test_a_part_that_could_not_be_judged_is_tried_again(place, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "kept"))
    (tmp_path / "log").write_text("no folder")
    session, good = (
        LiveSession(replace(place, log=PageLog(InspectionLog(tmp_path / "log"))), LABEL, METHODS, "en"),
        next(frames()),
    )
    session.see(good, 0.0)
    for seconds in (0.6, 0.8):
        with pytest.raises(NotLoggedError):
            session.see(good, seconds)
    assert not list((tmp_path / "kept").rglob("*.png"))
    (tmp_path / "log").unlink()
    assert session.see(good, 1.0) and not session.see(good, 1.2)


@pytest.mark.parametrize(
    ("category", "source", "said"),
    [(None, DEVICE, "batch_no_category"), (LABEL, VIDEO, "live_no_video")],
)
def test_a_start_without_part_or_video_says_what_is_missing(tab, category, source, said):
    (view,) = tab.start(category, METHODS, source, None, visitor("de"))
    assert view["over"] and view["failed"] and view["state"] == TEXTS[said]["de"]


class Cable:
    """Stands in for a camera that gives two pictures, is pulled out, and comes back."""

    def __init__(self, address):
        self.address, self.problem, self._steps = address, None, iter([0.0, 1.0, None, 2.0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def newest(self, timeout):
        seconds = next(self._steps)
        self.problem = "gone" if seconds is None else None
        return None if seconds is None else Found("camera", next(frames()), seconds)


def test_a_camera_of_the_server_hides_its_password_and_says_when_it_is_silent(tab, monkeypatch):
    monkeypatch.setattr(live_tab, "Camera", Cable)
    ((_, name),) = tab._sources()[2:]
    assert name == "rtsp://10.0.0.7/belt"
    views = tab.start(LABEL, METHODS, name, None, visitor())
    seen = [next(views) for _ in range(5)]
    assert [view["failed"] for view in seen] == [False, False, False, True, False]
    assert seen[3]["state"] == TEXTS["live_silent"]["en"] and seen[2]["report"]
    tab.command(event(seen[0]["run"], act="stop"), visitor())
    assert next(views)["state"] == TEXTS["live_ended"]["en"] and next(views, None) is None


def test_pause_holds_a_session_and_a_single_picture_is_judged(tab, monkeypatch):
    (begun,) = tab.start(LABEL, METHODS, DEVICE, None, visitor())
    session = tab._sessions["me"]
    tab.command(event(begun["run"], act="pause"), visitor())
    assert session.waits() and not session.take_step()
    tab.command(event(begun["run"], act="step"), visitor())
    assert not session.waits() and session.take_step() and session.waits()
    with monkeypatch.context() as patch:
        patch.setattr(live, "LONGEST_PAUSE", -1)
        assert not session.waits() and session.stopped.is_set()  # others wait for the place
    session.stopped.clear()
    tab.command(event(begun["run"], act="go"), visitor())
    assert not session.waits()
    assert tab.wait(visitor())["state"] == TEXTS["live_waiting"]["en"]  # Start again
    assert session.stopped.is_set() and not tab._sessions
