"""The page's log: what somebody saw is in it, and what cannot be logged is not shown."""

import io
from base64 import b64encode
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from hubmodels.hub.catalog import Catalog
from hubmodels.line.line import sha256_of
from hubmodels.line.log import InspectionLog
from webapp.api import _Endpoints
from webapp.batch_tab import _Batches
from webapp.inspect_tab import InspectTab
from webapp.live_tab import DEVICE, LiveTab
from webapp.page_log import PageLog
from webapp.plain_requests import CategoryLines, open_server
from webapp.texts import TEXTS
from webapp.visitors import Everybody

LABEL = "toy / widget"


def png(seed=0):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def log(tmp_path):
    return InspectionLog(tmp_path / "log")


@pytest.fixture
def everybody(model_folder, log):
    return Everybody(Catalog.from_folder(model_folder), log=PageLog(log))


@pytest.fixture
def upload(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "up"))
    path = tmp_path / "up/one/part.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(png())
    return {"path": str(path), "orig_name": "part.png"}


def visitor():
    return SimpleNamespace(headers={"accept-language": "en"}, session_hash="me", query_params={})


def see(everybody, upload):
    """Every way to a result, each once: names of the ways by what they wrote as the picture's name."""
    catalog, url = everybody.of(None).catalog, f"data:image/png;base64,{b64encode(png()).decode()}"
    yield "part.png", InspectTab(catalog, [], everybody).inspect(LABEL, upload, None, visitor())[0]
    yield "part.png", str(list(_Batches(catalog, everybody).run(LABEL, [upload], 20, None, visitor()))[-1][1])
    live = LiveTab(everybody)
    (begun,) = live.start(LABEL, None, DEVICE, None, visitor())
    sent = SimpleNamespace(run=begun["run"], picture=url, seconds=0.0, now=True)
    yield "live#1", str(live.see(sent, visitor()))
    yield "", str(_Endpoints(catalog, everybody.of(None).log).inspect(url, LABEL))
    yield "a.png", str(CategoryLines(catalog, everybody.of(None).log)[LABEL].judge("a.png", png()))


def test_every_way_to_a_result_is_logged_with_model_rate_and_hash(everybody, upload, log):
    ways = list(see(everybody, upload))
    lines = list(log.lines())
    assert [(line["event"], line["picture"]) for line in lines] == [("inspection", name) for name, _ in ways]
    assert {line["sha256"] for line in lines} == {sha256_of(png())} and log.verify().lines == len(ways)
    for line in lines:
        assert line["category"] == LABEL and len(line["models"]["GLASS"]["weights_sha256"]) == 64
        assert line["methods"]["GLASS"]["threshold"] is not None and line["methods"].keys() == line["models"].keys()
    assert lines[1]["false_alarm_rate"] == 0.2 and lines[3]["false_alarm_rate"] is None


def test_what_cannot_be_logged_is_not_shown(everybody, upload, log, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(InspectionLog, "add", full)
    for name, shown in see(everybody, upload):
        assert "log" in shown and "Good" not in shown and "Defective" not in shown, (name, shown)
    assert (
        TEXTS["fault_not_logged"]["en"] in InspectTab(None, [], everybody).inspect(LABEL, upload, None, visitor())[0]
    )


def test_what_cannot_be_logged_fails_a_plain_request(everybody, monkeypatch):
    monkeypatch.setattr(InspectionLog, "add", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    client = TestClient(open_server(everybody.of(None).catalog, log=everybody.of(None).log))
    answer = client.post("/judge", files={"picture": ("a.png", png())}, data={"category": LABEL})
    assert (answer.status_code, answer.json()["error"]["kind"]) == (500, "not_kept")


def test_without_a_folder_nothing_is_kept(model_folder, upload, tmp_path):
    everybody = Everybody(Catalog.from_folder(model_folder))
    assert len(list(see(everybody, upload))) == 5 and not (tmp_path / "log").exists()
