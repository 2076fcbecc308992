"""Programs get numbers or an error message: by gradio_client, HTTP, one plain request, MCP, and the docs' examples."""

import base64
import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from hubmodels import GLASS, AnomalyPrediction
from hubmodels.appearance import AppearanceCheck
from hubmodels.hub.catalog import Catalog
from webapp import api
from webapp.inspection import inspect_picture
from webapp.page import build_page
from webapp.page_log import PageLog
from webapp.plain_requests import PlainRequests, open_server

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "api.md"
LABEL = "toy / widget"
TOOLS = {"categories", "inspect", "inspect_batch"}
MARKED = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def catalog(saved_models):
    return Catalog.from_folder(saved_models) | Catalog.bundled()


@pytest.fixture(scope="module")
def url(catalog, tmp_path_factory):
    """Address of an app with the endpoints, an event that is not one of them, and plain requests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        with gr.Blocks(analytics_enabled=False) as demo:
            gr.Button().click(lambda: None, api_visibility="private")
            api.add(catalog)
        settings = {"quiet": True, "ssr_mode": False, "show_error": False, "prevent_thread_lock": True}
        settings["app_kwargs"] = {"middleware": [Middleware(PlainRequests, server=open_server(catalog))]}
        yield demo.queue().launch(**settings, mcp_server=api.mcp_available())[1].rstrip("/")
        demo.close()


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """Path of a picture that is not square."""
    path = tmp_path_factory.mktemp("pictures") / "part.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)).save(path)
    return path


def data_url(path):
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def call(url, name, *data):
    """The event and the data that plain HTTP answers."""
    body, headers = json.dumps({"data": data}).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/gradio_api/call/{name}", body, headers)
    event = json.load(urllib.request.urlopen(request, timeout=60))["event_id"]
    answer = urllib.request.urlopen(f"{url}/gradio_api/call/{name}/{event}", timeout=60).read().decode()
    kind, said = re.fullmatch(r"event: (\w+)\ndata: (.*)\n\n", answer).groups()
    return kind, json.loads(said)


def kind_of(result):
    assert set(result) == {"error"} and result["error"]["message"]
    return result["error"]["kind"]


def without_time(result):
    """A result without what differs from call to call."""
    for numbers in result["methods"].values():
        assert numbers.pop("latency_ms") > 0
    return result


# ---------------------------------------------------------------- what is answered


def test_the_categories_are_those_of_the_catalog(client, catalog):
    assert client.predict(api_name="/categories") == catalog.categories()


@pytest.mark.parametrize("rate", [None, 0.4])
def test_a_picture_gets_the_numbers_of_both_methods(client, catalog, picture, rate):
    result = client.predict(handle_file(picture), LABEL, rate, api_name="/inspect")
    inspection = inspect_picture(catalog, LABEL, str(picture), rate)
    assert (result["category"], result["false_alarm_rate"], result["agree"]) == (LABEL, rate, inspection.agree)
    assert list(result["methods"]) == ["SimpleNet", "GLASS"]
    for name, numbers in without_time(result)["methods"].items():
        prediction = inspection.predictions[name]
        assert numbers["score_level"] == prediction.score_level
        assert numbers["guaranteed_false_alarm_rate"] == (rate or 0.2)
        assert {key: numbers[key] for key in prediction.numbers() if key != "latency_ms"} == {
            key: value for key, value in prediction.numbers().items() if key != "latency_ms"
        }


def test_a_picture_that_is_good_but_not_at_five_times_the_rate_needs_another_look(make_detector, picture, tmp_path):
    """Two of 99 normal scores are above: an alarm from 3 % on. Python has no second threshold by default."""
    detector = make_detector(GLASS)
    score = detector.predict(picture).image_score
    scores = [score - 98 + i + 0.5 for i in range(97)] + [score + 1, score + 2]
    detector.calibration.fit([AnomalyPrediction(s, np.full((1, 1), s, np.float32)) for s in scores], 0.01)
    detector.save_pretrained(tmp_path / "glass-toy-widget")
    endpoints = api._Endpoints(Catalog.from_folder(tmp_path), PageLog())
    for rate, expected in ((None, True), (0.005, True), (0.03, False)):
        result = endpoints.inspect(data_url(picture), LABEL, rate)
        numbers = result["methods"]["GLASS"]
        assert (result["look_again"], numbers["is_unsure"], numbers["is_anomalous"]) == (
            expected,
            expected,
            not expected,
        )
        (one,) = endpoints.inspect_batch([data_url(picture)], LABEL, rate)["results"]
        assert one["look_again"] == expected
    alone = detector.predict(picture)
    assert not alone.is_unsure and not alone.is_anomalous and alone.unsure_threshold is None


def test_overlays_come_when_asked_for(client, picture):
    result = client.predict(handle_file(picture), LABEL, None, True, api_name="/inspect")
    for numbers in result["methods"].values():
        head, encoded = numbers["overlay"].split(",")
        assert head == "data:image/png;base64"
        assert Image.open(BytesIO(base64.b64decode(encoded))).size == (80, 48)


def test_a_batch_answers_for_each_picture(client, picture, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files = [handle_file(picture), handle_file(tmp_path / "broken.png"), handle_file(picture)]
    first, broken, last = client.predict(files, LABEL, api_name="/inspect_batch")["results"]
    single = client.predict(handle_file(picture), LABEL, api_name="/inspect")
    assert without_time(first) == without_time(last) == without_time(single)
    assert kind_of(broken) == "unknown_format"
    assert "broken.png" in broken["error"]["message"] and str(tmp_path) not in broken["error"]["message"]


def test_a_batch_notices_a_changed_camera(catalog, picture, monkeypatch):
    """24 pictures that are defective everywhere; one good or bad picture alone suggests nothing."""
    real = inspect_picture(catalog, LABEL, picture)
    alike = {
        name: replace(p, threshold=p.image_score - 1, map_source=np.full_like(p.anomaly_map, p.pixel_threshold))
        for name, p in real.predictions.items()
    }
    fitting = replace(real, predictions=alike, appearance=AppearanceCheck(1.0, ()))
    monkeypatch.setattr(api, "inspect_picture", lambda *_: fitting)
    endpoints = api._Endpoints(catalog, PageLog())
    notice = endpoints.inspect_batch([data_url(picture)] * 24, LABEL)["notice"]
    assert notice["kind"] == "setup_changed" and "the part's position may have changed" in notice["message"]
    assert endpoints.inspect_batch([data_url(picture)] * 7, LABEL)["notice"] is None


def test_a_data_url_needs_no_upload(url, client, picture):
    uploaded = client.predict(handle_file(picture), LABEL, api_name="/inspect")
    kind, (result,) = call(url, "inspect", data_url(picture), LABEL, None, False)
    assert kind == "complete" and without_time(result) == without_time(uploaded)


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("inspect", [{"path": "x"}, "toy / lid", None, False], "unknown_category"),
        ("inspect", [{"path": "x"}, ["toy"], None, False], "unknown_category"),
        ("inspect", [{"path": "x"}, LABEL, 0, False], "false_alarm_rate"),
        ("inspect", [{"path": "x"}, LABEL, "0.1", False], "false_alarm_rate"),
        ("inspect", [None, LABEL, None, False], "not_uploaded"),
        ("inspect", [["x"], LABEL, None, False], "not_uploaded"),
        ("inspect", ["http://127.0.0.1/", LABEL, None, False], "not_uploaded"),
        ("inspect", ["data:image/png;base64,!", LABEL, None, False], "not_uploaded"),
        ("inspect", ["data:image/png;base64,", LABEL, None, False], "empty"),
        ("inspect_batch", [[], LABEL, None], "count"),
        ("inspect_batch", ["x", LABEL, None], "count"),
        ("inspect_batch", [[None] * 33, LABEL, None], "count"),
        ("inspect_batch", [[None], "toy / lid", None], "unknown_category"),
    ],
)
def test_what_is_wrong_is_told(url, name, data, kind):
    event, (result,) = call(url, name, *data)
    assert event == "complete" and kind_of(result) == kind


def test_a_model_that_does_not_load_tells_no_path(model_folder, picture):
    for weights in model_folder.glob("*/model.safetensors"):
        weights.write_bytes(b"")
    result = api._Endpoints(Catalog.from_folder(model_folder), PageLog()).inspect(data_url(picture), LABEL)
    assert kind_of(result) == "model" and str(model_folder) not in result["error"]["message"]


# ---------------------------------------------------------------- one plain request


def judge(url, path, picture, **fields):
    return httpx.post(f"{url}/{path}", files={"picture": ("part.png", picture)}, data=fields, timeout=60)


@pytest.mark.parametrize("rate", [None, 0.4])
def test_a_plain_request_gets_the_same_result(url, client, catalog, picture, rate):
    fields = {"category": LABEL} if rate is None else {"category": "widget", "rate": str(rate)}
    plain = judge(url, "judge", picture.read_bytes(), **fields).json()
    assert plain.pop("picture") == "part.png" and plain.pop("sha256") == sha256(picture.read_bytes()).hexdigest()
    in_three_steps = client.predict(handle_file(picture), LABEL, rate, api_name="/inspect")
    in_python = json.loads(json.dumps(inspect_picture(catalog, LABEL, str(picture), rate).record(LABEL, rate)))
    assert without_time(plain) == without_time(in_three_steps) == without_time(in_python)


def test_plain_requests_have_all_addresses_of_the_server(url, catalog, picture):
    several = judge(url, "judge/batch", picture.read_bytes(), category=LABEL, methods="glass").json()["results"]
    assert [list(result["methods"]) for result in several] == [["GLASS"]]
    listed = httpx.get(f"{url}/categories").json()["categories"]
    assert [found["category"] for found in listed] == catalog.categories()
    assert {"category": LABEL, "methods": ["simplenet", "glass"]} in listed
    assert httpx.get(f"{url}/healthz").json()["models"] == len(catalog.entries)
    assert f'hubmodels_pictures_total{{category="{LABEL}",verdict=' in httpx.get(f"{url}/metrics").text
    document = httpx.get(f"{url}/openapi.json").json()
    assert "/judge" in document["paths"] and "servers" not in document
    refused = judge(url, "judge", picture.read_bytes())
    assert refused.status_code == 422 and refused.json()["error"]["kind"] == "unknown_category"


def test_a_model_that_does_not_load_fails_a_plain_request(model_folder, picture):
    """The other method gives no answer in its place."""
    (model_folder / "glass-toy-widget/model.safetensors").write_bytes(b"")
    client = TestClient(open_server(Catalog.from_folder(model_folder)))
    answer = judge_by(client, picture, "glass")
    assert (answer.status_code, answer.json()["error"]["kind"]) == (500, "model")
    assert str(model_folder) not in answer.text
    assert list(judge_by(client, picture, "").json()["methods"]) == ["SimpleNet"]


def judge_by(client, picture, methods):
    files, fields = {"picture": ("part.png", picture.read_bytes())}, {"category": LABEL, "methods": methods}
    return client.post("/judge", files=files, data=fields)


# ---------------------------------------------------------------- what is not


@pytest.fixture
def bait():
    """A server that must get no requests: its address, and the requested paths."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("mark", [{}, MARKED])
def test_files_of_the_server_are_out_of_reach(url, picture, mark):
    """Gradio refuses what is marked as a file, without a word; what is not marked it lets pass, and we refuse."""
    for forged in ({"path": str(picture)}, {"path": f"{ROOT}/examples/../README.md"}):
        calls = {"inspect": [forged | mark, LABEL, None, True], "inspect_batch": [[forged | mark], LABEL, None]}
        for name, data in calls.items():
            event, answer = call(url, name, *data)
            assert "is_anomalous" not in json.dumps(answer) and str(picture) not in json.dumps(answer)
            assert event == ("error" if mark else "complete")


@pytest.mark.parametrize("mark", [{}, MARKED])
def test_addresses_inside_are_not_fetched(url, picture, bait, mark):
    address, asked = bait
    for forged in (
        {"path": f"{address}/part.png"},
        {"path": f"{address}/part.png", "url": f"{address}/part.png"},
        {"path": str(picture), "url": f"{address}/part.png"},
        {"url": f"{address}/part.png"},
    ):
        _, answer = call(url, "inspect", forged | mark, LABEL, None, False)
        assert "is_anomalous" not in json.dumps(answer)
    assert asked == []
    with pytest.raises(urllib.error.HTTPError):  # the bait does record requests
        urllib.request.urlopen(address, timeout=5)
    assert asked == ["/"]


def test_only_the_documented_endpoints_are_public(url):
    info = json.load(urllib.request.urlopen(f"{url}/gradio_api/info", timeout=60))["named_endpoints"]
    assert set(info) == {f"/{name}" for name in TOOLS}
    assert all(endpoint["description"] for endpoint in info.values())
    assert [p["parameter_name"] for p in info["/inspect"]["parameters"]] == [
        "picture",
        "category",
        "false_alarm_rate",
        "overlays",
    ]


def test_the_page_adds_no_endpoint(catalog):
    """What the tabs do is for them alone: an assistant would find it among its tools."""
    assert set(build_page(catalog).get_api_info()["named_endpoints"]) == {f"/{name}" for name in TOOLS}


# ---------------------------------------------------------------- MCP


MCP_CALLS = """
import asyncio, json, sys
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

async def main(url, calls):
    async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        tools = {tool.name: [tool.description, tool.inputSchema] for tool in (await session.list_tools()).tools}
        answers = [await session.call_tool(name, arguments) for name, arguments in calls]
        told = [[answer.isError, [content.text for content in answer.content]] for answer in answers]
        print(json.dumps([tools, told]))

asyncio.run(main(sys.argv[1], json.loads(sys.stdin.read())))
"""


@pytest.mark.skipif(not api.mcp_available(), reason="the extra mcp is not installed")
def test_an_assistant_finds_and_calls_the_tools(url, picture, bait):
    address, asked = bait
    given = {"picture": data_url(picture), "category": LABEL}
    calls = [
        ["categories", {}],
        ["inspect", given],
        ["inspect_batch", {"pictures": [given["picture"], "x"], "category": LABEL}],
        ["inspect", given | {"picture": f"{address}/part.png"}],
        ["inspect", given | {"picture": str(picture)}],
    ]
    command = [sys.executable, "-c", MCP_CALLS, f"{url}/gradio_api/mcp/"]
    done = subprocess.run(command, input=json.dumps(calls), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    tools, (categories, one, several, *forged) = json.loads(done.stdout)
    assert set(tools) == TOOLS
    description, schema = tools["inspect"]
    assert "defective" in description and "categories" in schema["properties"]["category"]["description"]
    assert LABEL in categories[1][0]
    assert not one[0] and "'SimpleNet'" in one[1][0] and "'is_anomalous'" in one[1][0]
    assert "'SimpleNet'" in several[1][0] and "not_uploaded" in several[1][0]
    assert all(is_error and "is_anomalous" not in str(content) for is_error, content in forged) and asked == []


# ---------------------------------------------------------------- docs


def examples(language):
    """The page's code blocks of a language, between the markers."""
    marked = re.search(r"<!-- api examples -->(.*)<!-- end of api examples -->", PAGE.read_text("utf-8"), re.DOTALL)
    blocks = re.findall(rf"```{language}\n(.*?)```", marked[1], re.DOTALL)
    assert blocks
    return blocks


@pytest.mark.parametrize(("language", "command"), [("python", [sys.executable, "-c"]), ("bash", ["bash", "-ec"])])
def test_the_examples_of_the_docs_run(url, language, command):
    if language == "bash" and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    for block in examples(language):
        assert "http://127.0.0.1:7860" in block
        code = block.replace("http://127.0.0.1:7860", url)
        done = subprocess.run([*command, code], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "SimpleNet" in done.stdout and "GLASS" in done.stdout, done.stdout
