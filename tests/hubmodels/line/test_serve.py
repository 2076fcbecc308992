"""`hubmodels serve`: every address, every refusal, the queue, and the program from its start to its end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import anyio
import pytest
from app_process import wait_for
from hub_environment import free_port
from jsonschema import Draft202012Validator
from starlette.testclient import TestClient
from test_house import ROOT
from typer.testing import CliRunner
from webhook_receiver import Receiver

from hubmodels.cli import app as command
from hubmodels.line import gate, serve
from hubmodels.line.counts import IN_PROGRESS, PICTURES, WAITING, Counts
from hubmodels.line.gate import Gate, Pace
from hubmodels.line.line import Line
from hubmodels.line.log import InspectionLog
from hubmodels.line.openapi import MOST_PICTURES, document
from hubmodels.line.serve import Limits, Server, Settings

WASHERS = ROOT / "examples/parts/washer"
LABEL = "parts / washer"
GOOD, SCRATCH = (WASHERS / f"{name}.png" for name in ("good", "scratch"))
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def line():
    return Line.of(LABEL)


@contextmanager
def serving(lines, limits=None, **options):
    with TestClient(Server(lines, limits or Limits(), **options).app(), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def client(line):
    with serving({LABEL: line}) as client:
        yield client


def sent(*files, **fields):
    return {"files": [("picture", (path.name, path.read_bytes())) for path in files], "data": fields}


def documented(response):
    """The answer in JSON, after a check that the document describes it."""
    whole = document([LABEL], with_token=True, largest=1)
    request = response.request
    answers = whole["paths"][request.url.path][request.method.lower()]["responses"]
    content = answers[str(response.status_code)]["content"]
    schema = content[response.headers["content-type"].partition(";")[0]]["schema"]
    Draft202012Validator(schema | {"components": whole["components"]}).validate(response.json())
    return response.json()


def refused(response):
    """Status and kind of a refusal."""
    error = documented(response)["error"]
    assert error["message"]
    return response.status_code, error["kind"]


def without_time(record):
    return json.loads(re.sub(r'"latency_ms": [^,}]+', '"latency_ms": 0', json.dumps(record)))


# ------------------------------------------------------------------------------------------------- what is answered


def test_an_answer_has_the_fields_of_the_command(client, line):
    answer = client.post("/judge", **sent(SCRATCH, category=LABEL, rate="0.05"))
    found = documented(answer)
    assert answer.status_code == 200 and without_time(found) == without_time(
        line.inspect("scratch.png", SCRATCH, 0.05)
    )
    assert found["defective_verdicts"] == 3 and found["false_alarm_rate"] == 0.05


def test_the_body_can_be_the_picture(client):
    answer = client.post("/judge?rate=0.05&methods=hybrid,glass&name=a.png", content=SCRATCH.read_bytes(), headers=PNG)
    found = documented(answer)
    assert found["picture"] == "a.png" and list(found["methods"]) == ["GLASS", "Hybrid"]
    assert documented(client.post("/judge", content=GOOD.read_bytes(), headers=PNG))["picture"] == "picture"


def test_methods_can_be_repeated_and_a_category_be_short(client):
    found = documented(client.post("/judge?methods=glass", **sent(GOOD, category="washer", methods=["simplenet"])))
    assert list(found["methods"]) == ["SimpleNet", "GLASS"] and found["category"] == LABEL


def test_a_batch_keeps_the_order_and_goes_on_after_a_bad_picture(client, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    answer = client.post("/judge/batch", **sent(SCRATCH, tmp_path / "broken.png", GOOD, methods="hybrid"))
    scratch, broken, good = documented(answer)["results"]
    assert [scratch["defective_verdicts"], good["defective_verdicts"]] == [1, 0]
    assert broken["picture"] == "broken.png" and broken["error"]["kind"] == "unknown_format"


@pytest.mark.parametrize(
    ("path", "request_", "expected"),
    [
        ("/judge", {"files": {"picture": ("a.png", b"no picture")}}, (415, "unknown_format")),
        ("/judge", {"files": {"picture": ("a.png", b"")}}, (422, "empty")),
        ("/judge", {"files": {"picture": ("a.png", GOOD.read_bytes()[:900])}}, (422, "corrupt")),
        ("/judge", {"files": {"photo": ("a.png", b"")}}, (422, "count")),
        ("/judge", sent(GOOD, GOOD), (422, "count")),
        ("/judge", {"files": {"picture": (None, "text")}}, (422, "no_file")),
        ("/judge", sent(GOOD, category="parts / nail"), (422, "unknown_category")),
        ("/judge", sent(GOOD, methods="patchcore"), (422, "unknown_method")),
        *[("/judge", sent(GOOD, rate=rate), (422, "false_alarm_rate")) for rate in ("0", "1", "nan", "many", "")],
        ("/judge?rate=1", sent(GOOD, rate="0.1"), (422, "twice")),
        ("/judge", sent(GOOD, category=[LABEL, LABEL]), (422, "twice")),
        ("/judge", {"content": b"{}", "headers": {"Content-Type": "application/json"}}, (415, "content_type")),
        ("/judge", {"content": b"picture"}, (415, "content_type")),
        ("/judge/batch", {"content": GOOD.read_bytes(), "headers": PNG}, (415, "content_type")),
        ("/judge/batch", sent(*[GOOD] * (MOST_PICTURES + 1)), (422, "count")),
        ("/judge/batch", sent(*[GOOD] * (MOST_PICTURES + 2)), (400, "multipart")),
        ("/judge/batch", {"files": {"photo": ("a.png", b"")}}, (422, "count")),
        (
            "/judge",
            {"content": b"--x\r\nnonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            (422, "count"),
        ),
        ("/judge", {"content": b"", "headers": {"Content-Type": "multipart/form-data"}}, (400, "multipart")),
    ],
)
def test_mistakes_are_refused_with_a_kind(client, path, request_, expected):
    assert refused(client.post(path, **request_)) == expected


def test_unknown_addresses_and_methods_are_refused(client):
    nowhere, wrong = client.get("/judges"), client.get("/judge")
    assert (nowhere.status_code, nowhere.json()["error"]["kind"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["kind"], wrong.headers["allow"]) == (405, "method", "POST")


def test_one_of_several_categories_must_be_chosen(line):
    with serving({LABEL: line, "parts / pill": line}) as client:
        answer = client.post("/judge", **sent(GOOD))
        assert refused(answer) == (422, "unknown_category") and "parts / pill" in answer.json()["error"]["message"]


def test_categories_and_health(client):
    found = documented(client.get("/categories"))
    assert found == {"categories": [{"category": LABEL, "methods": ["simplenet", "glass", "hybrid"]}]}
    assert documented(client.get("/healthz")) == {"status": "ok", "version": "0.1.0", "categories": 1, "models": 3}


def test_the_document_is_valid_and_complete(client):
    found = documented(client.get("/openapi.json"))
    routes = {route.path: route.methods - {"HEAD"} for route in Server({}).app().routes}
    assert {path: {method.upper() for method in methods} for path, methods in found["paths"].items()} == routes
    for schema in found["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    text = json.dumps(found)
    assert set(re.findall(r'"#/components/schemas/(\w+)"', text)) | {"Health"} == found["components"]["schemas"].keys()
    assert "securitySchemes" not in text and '"securitySchemes"' in json.dumps(document([LABEL], True, 1))


def test_the_check_of_answers_can_fail(client):
    answer = client.get("/healthz")
    answer._content = answer.content.replace(b'"ok"', b'"bad"')
    with pytest.raises(Exception, match="'ok' was expected"):
        documented(answer)


# ------------------------------------------------------------------------------------------------- who may ask


def test_a_token_is_needed_for_all_but_the_health(line):
    with serving({LABEL: line}, token="sécret") as client:
        assert client.get("/healthz").status_code == 200
        for path in ("/categories", "/metrics", "/openapi.json"):
            answer = client.get(path)
            assert refused(answer) == (401, "token") and answer.headers["www-authenticate"] == "Bearer"
        for sent_token in ("Bearer secret", "sécret", "Basic sécret", "Bearer sécret2", "Bearer"):
            assert client.get("/categories", headers={"Authorization": sent_token.encode()}).status_code == 401
        for sent_token in ("Bearer sécret", "bearer  sécret"):
            assert client.get("/categories", headers={"Authorization": sent_token.encode()}).status_code == 200
        assert refused(client.post("/judge", **sent(GOOD))) == (401, "token")


def test_a_large_body_is_refused_before_it_is_read(line):
    with serving({LABEL: line}, Limits(body=10_000)) as client:
        assert refused(client.post("/judge", content=b"x" * 10_001, headers=PNG)) == (413, "body_too_large")
        assert refused(client.post("/judge", content=b"x" * 10_000, headers=PNG)) == (415, "unknown_format")
        endless = (b"x" * 1_000 for _ in range(11))
        assert refused(client.post("/judge", content=endless, headers=PNG)) == (413, "body_too_large")
        strange = {**PNG, "Content-Length": "9" * 5000}
        assert refused(client.post("/judge", content=b"x", headers=strange)) == (413, "body_too_large")


def test_no_more_than_the_limit_is_read():
    read = []

    async def receive():
        read.append(1_000)
        return {"type": "http.request", "body": b"x" * 1_000, "more_body": True}

    async def endless(scope, receive, send):
        while True:
            await receive()

    limited = Gate(endless, list, None, None, 5_000)
    scope = {"type": "http", "path": "/judge", "headers": []}
    with pytest.raises(gate.Refusal):
        anyio.run(limited, scope, receive, None)
    assert sum(read) == 6_000


def call(server, receive):
    """Sends a picture by the messages of `receive`; returns the status, if there is an answer."""
    answers = []

    async def send(message):
        answers.append(message)

    headers = [(b"content-type", b"image/png")]
    scope = {"type": "http", "method": "POST", "path": "/judge", "query_string": b"", "headers": headers}
    anyio.run(server.app(), scope, receive, send)
    return [answer["status"] for answer in answers if "status" in answer]


def test_a_slow_body_is_given_up(line, monkeypatch):
    monkeypatch.setattr(serve, "SLOWEST", 0.1)

    async def receive():
        await anyio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    server = Server({LABEL: line})
    assert call(server, receive) == [408] and '{kind="slow"} 1' in server.counts.text({})


def test_an_address_has_a_pace(line):
    now = [0.0]
    pace = Pace(60, lambda: now[0])
    assert [pace.wait("a") for _ in range(61)] == [0] * 60 + [1.0] and pace.wait("b") == 0
    now[0] = 1.0
    assert [pace.wait("a"), pace.wait("a")] == [0, 1.0]
    now[0] = 1000.0
    assert [pace.wait("a") for _ in range(61)] == [0] * 60 + [1.0]
    with serving({LABEL: line}, Limits(per_minute=2)) as client:
        assert [client.get("/categories").status_code for _ in range(3)] == [200, 200, 429]
        answer = client.get("/categories")
        assert refused(answer) == (429, "too_often") and int(answer.headers["retry-after"]) in (30, 31)
        assert client.get("/healthz").status_code == 200


def test_addresses_are_forgotten_at_some_time(monkeypatch):
    monkeypatch.setattr(gate, "MOST_ADDRESSES", 3)
    pace = Pace(1, lambda: 0.0)
    for address in "abcd":
        pace.wait(address)
    assert pace.wait("d") > 0 and pace.wait("a") == 0


# ------------------------------------------------------------------------------------------------- the queue


class SlowLine(Line):
    """Judges when it may."""

    def __post_init__(self):
        super().__post_init__()
        self.may, self.at_once, self.most = threading.Event(), 0, 0

    def judge(self, *arguments):
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        assert self.may.wait(30)
        self.at_once -= 1
        return super().judge(*arguments)


def wait_until(is_true):
    for _ in range(300):
        if is_true():
            return
        time.sleep(0.05)
    raise AssertionError("it never became true")


def value(client, series):
    return float(re.search(rf"(?m)^{re.escape(series)} (.*)$", client.get("/metrics").text)[1])


def test_too_many_waiting_requests_are_refused_and_the_health_answers(line):
    slow = SlowLine(LABEL, {"hybrid": line.detectors["hybrid"]})
    with serving({LABEL: slow}, Limits(waiting=2)) as client, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(client.post, "/judge", **sent(SCRATCH))]
        wait_until(lambda: value(client, IN_PROGRESS) == 1)
        asked += [pool.submit(client.post, "/judge", **sent(SCRATCH)) for _ in range(2)]
        wait_until(lambda: value(client, WAITING) == 2)
        answer = client.post("/judge", **sent(GOOD))
        assert refused(answer) == (503, "busy") and int(answer.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200
        slow.may.set()
        assert [documented(future.result())["defective_verdicts"] for future in asked] == [1, 1, 1]
        assert slow.most == 1 and value(client, WAITING) == value(client, IN_PROGRESS) == 0
        assert value(client, 'hubmodels_errors_total{kind="busy"}') == 1
        assert value(client, 'hubmodels_waiting_seconds_count{category="parts / washer"}') == 3


@pytest.mark.parametrize("more", [False, True])
def test_a_picture_that_nobody_awaits_is_not_judged(line, more):
    """The client leaves after the last byte, or before it."""
    messages = [{"type": "http.request", "body": GOOD.read_bytes(), "more_body": more}]

    async def receive():
        return messages.pop() if messages else {"type": "http.disconnect"}

    server = Server({LABEL: line})
    assert call(server, receive) == [408]
    text = server.counts.text({})
    assert 'hubmodels_errors_total{kind="gone"} 1' in text and 'verdict="good"} 0' in text


# ------------------------------------------------------------------------------------------------- what is kept


def test_counts_are_in_the_format_of_prometheus(line):
    with serving({LABEL: line}) as client:
        client.post("/judge/batch", **sent(SCRATCH, GOOD, methods="hybrid"))
        client.post("/judge", files={"picture": ("a.png", b"x")})
        answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    assert all(re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)+\})? [-+.\de]+', text) for text in lines)
    assert f'{PICTURES}{{category="{LABEL}",verdict="defective"}} 1' in lines
    assert f'{PICTURES}{{category="{LABEL}",verdict="good"}} 1' in lines
    assert 'hubmodels_errors_total{kind="unknown_format"} 1' in lines
    buckets = [int(text.split()[-1]) for text in lines if text.startswith("hubmodels_judging_seconds_bucket")]
    assert buckets == sorted(buckets) and buckets[-1] == 3 and len(buckets) == 11


def test_labels_are_escaped():
    counts = Counts()
    counts.add(PICTURES, category='a"b\\c\nd')
    assert 'category="a\\"b\\\\c\\nd"} 1' in counts.text({})


def test_processes_add_their_counts(tmp_path):
    mine, other = Counts(tmp_path), Counts(tmp_path)
    for counts in (mine, other):
        counts.add(PICTURES, 2, category="a")
    with other.during(IN_PROGRESS):
        assert f'{PICTURES}{{category="a"}} 4\n' in mine.text({}) and f"{IN_PROGRESS} 1\n" in mine.text({})
        other._lives.release()  # as when the process is killed
        assert f'{PICTURES}{{category="a"}} 4\n' in mine.text({}) and f"{IN_PROGRESS} 0\n" in mine.text({})


def test_results_are_in_the_log_with_their_models_and_a_full_disk_is_an_error(line, tmp_path, monkeypatch):
    kept = Line(LABEL, line.detectors, line.models, log=InspectionLog(tmp_path))
    with serving({LABEL: kept}) as client:
        client.post("/judge", **sent(SCRATCH, methods="hybrid"))
        monkeypatch.setattr(InspectionLog, "add", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert refused(client.post("/judge", **sent(GOOD))) == (500, "not_kept")
    (entry,) = InspectionLog(tmp_path).lines()
    assert entry["picture"] == "scratch.png" and list(entry["models"]) == ["Hybrid"]


def test_a_failure_is_an_error_without_details(line, monkeypatch):
    broken = Line(LABEL, line.detectors)
    monkeypatch.setattr(broken, "judge", lambda *_: 1 / 0)
    with serving({LABEL: broken}) as client:
        answer = client.post("/judge", **sent(GOOD))
        assert refused(answer) == (500, "server") and "zero" not in answer.text
        assert value(client, IN_PROGRESS) == value(client, WAITING) == 0


def test_drift_is_watched_for_each_category(tmp_path, caplog):
    settings = Settings(("washer", "pill"), methods=("hybrid",), drift=tmp_path / "drift")
    lines = settings.lines()
    with serving(lines) as client:
        assert documented(client.post("/judge", **sent(GOOD, category="washer")))["drift"]["pictures"] == 1
        series = 'hubmodels_drift_{}{{category="parts / washer"}}'
        assert value(client, series.format("alarm")) == 0 and value(client, series.format("capital")) > 0
        lines[LABEL].drift.alarm = None
        lines[LABEL].drift.series["Hybrid"].capitals[0] = 1e6
        documented(client.post("/judge", **sent(SCRATCH, category="washer")))
        assert value(client, series.format("alarm")) == 1
        assert "parts / washer: DRIFT at picture 2" in caplog.text
    assert [path.name for path in (tmp_path / "drift").iterdir()] == ["parts %2F washer.json"]


# ------------------------------------------------------------------------------------------------- the program


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nowhere"], "there is no such local folder"),
        (["--model", "washer", "--model", "parts / washer"], "put them in one folder"),
        (["--model", "nowhere", "--workers", "2"], "there is no such local folder"),
        (["--model", "washer", "--drift", "drift", "--workers", "2"], "--drift needs one process"),
    ],
)
def test_wrong_choices_end_with_a_remedy(arguments, said):
    result = CliRunner().invoke(command, ["serve", *arguments])
    assert result.exit_code == 2 and said in result.stderr


def test_without_the_extra_the_command_names_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "hubmodels.line.serve")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(command, ["serve", "--model", "washer"])
    assert result.exit_code == 2 and "anomaly-hubmodels[serve]" in result.stderr


@pytest.mark.parametrize(
    ("host", "token", "warns"),
    [
        *[(host, None, False) for host in ("127.0.0.1", "localhost", "::1")],
        *[("0.0.0.0", None, True), ("0.0.0.0", "secret", False), ("server", None, True)],
    ],
)
def test_an_open_server_warns(host, token, warns, caplog, monkeypatch):
    monkeypatch.setattr(serve.uvicorn.Server, "run", lambda self: None)
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    monkeypatch.setattr(Settings, "lines", lambda self: {})
    serve.run(Settings((), token=token), host, 8000)
    assert ("EVERYBODY who reaches" in caplog.text) == warns


@contextmanager
def program(tmp_path, *options, **variables):
    port, log = free_port(), tmp_path / "log.txt"
    words = [sys.executable, "-m", "hubmodels", "serve", "--model", "washer", "--method", "hybrid", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    with (
        log.open("w") as out,
        subprocess.Popen([*words, "--port", str(port)], stdout=out, stderr=out, env=environment) as process,
    ):
        try:
            yield wait_for(f"http://127.0.0.1:{port}/healthz", process, log).removesuffix("/healthz"), process, log
        finally:
            process.kill()


def posted(url, name, content, kind, token="secret"):
    headers = {"Content-Type": kind, "Authorization": f"Bearer {token}"}
    return json.load(urllib.request.urlopen(urllib.request.Request(f"{url}/{name}", content, headers), timeout=120))


def test_the_program_judges_and_ends_after_the_last_answer(tmp_path):
    part = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n%b\r\n' % GOOD.read_bytes()
    with program(tmp_path, HUBMODELS_TOKEN="secret") as (url, process, log), ThreadPoolExecutor(1) as pool:
        assert posted(url, "judge", SCRATCH.read_bytes(), "image/png")["defective_verdicts"] == 1
        with pytest.raises(urllib.error.HTTPError, match="401"):
            posted(url, "judge", SCRATCH.read_bytes(), "image/png", "wrong")
        kind = "multipart/form-data; boundary=x"
        batch = pool.submit(posted, url, "judge/batch", part * MOST_PICTURES + b"--x--\r\n", kind)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert len(batch.result()["results"]) == MOST_PICTURES
        assert process.wait(30) == 0 and "Traceback" not in log.read_text()


def test_several_processes_serve_together_and_one_sends_the_results(tmp_path):
    receiver = Receiver()
    receiver.start()
    sending = ("--log", str(tmp_path / "log"), "--webhook", receiver.url)
    with program(tmp_path, "--workers", "2", *sending) as (url, process, log):
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(posted, url, "judge", SCRATCH.read_bytes(), "image/png") for _ in range(8)]
            assert [future.result()["defective_verdicts"] for future in asked] == [1] * 8
        text = urllib.request.urlopen(f"{url}/metrics", timeout=60).read().decode()
        assert 'verdict="defective"} 8\n' in text
        deadline = time.monotonic() + 30
        while len(receiver.messages) < 8 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0 and "Traceback" not in log.read_text()
    receiver.end()
    assert [message["result"] for message in receiver.messages] == ["defective"] * 8


def test_a_process_that_cannot_load_its_models_is_not_started_again(tmp_path, capsys):
    with pytest.raises(SystemExit, match="3"):
        Settings((str(tmp_path),))()
    assert "contains no usable model folder" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_example_of_the_docs_runs():
    page = (ROOT / "docs/api.md").read_text("utf-8")
    (block,) = [block for block in re.findall(r"(?s)```bash\n(.*?)```", page) if "hubmodels serve" in block]
    port = str(free_port())
    for written, here in (
        (":8000", f":{port}"),
        (".venv/bin/hubmodels serve", f"{sys.executable} -m hubmodels serve --port {port}"),
    ):
        assert written in block
        block = block.replace(written, here)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-ec", block], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    health, scratch, good, batch, *counts = re.sub(r"\}(?=[{#])", "}\n", done.stdout).splitlines()
    assert json.loads(health)["models"] == 3 and json.loads(scratch)["defective_verdicts"] == 3
    assert list(json.loads(good)["methods"]) == ["Hybrid"] and len(json.loads(batch)["results"]) == 2
    assert f'{PICTURES}{{category="{LABEL}",verdict="defective"}} 2' in counts
