"""Hostile visitors: nothing that they send is read, fetched or executed, and the app keeps working.

The app runs as `make demo` starts it, with the bundle and a category whose name is a script. All requests
to other machines go to the `trap`, a proxy that records them.
"""

import functools
import io
import json
import pickle
import socket
import struct
import threading
import time
import urllib.request
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import httpx2
import numpy as np
import pytest
from batch_page import served
from browser import ROOT, running, visit
from gradio import utils
from PIL import Image

from hubmodels.hub.catalog import Catalog
from webapp.api import ENDPOINTS, mcp_available
from webapp.hosting import FETCH, MAX_UPLOAD, _refusal, delete_old, keep_deleting, refuse_web_addresses
from webapp.page import WAITING, launch_settings

SCRIPT = "<img src=x onerror=alert(1)><script>alert(2)</script>"
PICTURE = ROOT / "examples" / "parts" / "pill" / "crack.png"
PILL = "parts / pill"
MARK = {"meta": {"_type": "gradio.FileData"}}


# ---------------------------------------------------------------- the app, and its requests


@pytest.fixture(scope="module")
def trap():
    """A server that must get no requests: its address, and its requests."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.requestline)
            self.send_error(404)

        do_HEAD = do_POST = do_CONNECT = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


class App:
    """The running app, used without a browser; no answer may contain anything private of the server."""

    def __init__(self, url, folder):
        self.url, self.folder, self.uploads = url, folder, folder / "up" / "hubmodels"
        afresh = httpx2.Limits(max_keepalive_connections=0)  # an error ends a connection
        self.client = httpx2.Client(base_url=url, timeout=60, trust_env=False, limits=afresh)
        functions = self.get("/config").json()["dependencies"]
        self.functions = {f["api_name"]: f["id"] for f in functions}
        self.inputs = {f["api_name"]: len(f["inputs"]) for f in functions}

    def checked(self, answer, asked="x"):
        own = (str(self.uploads), asked, str(Path(asked).resolve()))  # sent by the client itself
        text = functools.reduce(lambda text, known: text.replace(known, ""), own, answer.text)
        secrets = ("Traceback", 'File "', "site-packages", str(ROOT), str(self.folder), str(Path.home()) + "/")
        told = [secret for secret in secrets if secret in text]
        assert told == [], text[:2000]
        return answer

    def get(self, path, **options):
        return self.checked(self.client.get(path, **options), path.rpartition("=")[2])

    def post(self, path, **options):
        return self.checked(self.client.post(path, **options))

    def upload(self, content, name="part.png"):
        return {"path": self.post("/gradio_api/upload", files={"files": (name, content)}).json()[0], **MARK}

    def event(self, name, *data, event_data=None, language="en"):
        """The output of an event of the page; for what the server keeps itself a browser sends nothing."""
        session, data = uuid.uuid4().hex, [*data, *[None] * (self.inputs[name] - len(data))]
        body = {"data": data, "fn_index": self.functions[name], "session_hash": session, "event_data": event_data}
        headers = {"Accept-Language": language, "Content-Type": "application/json"}
        joined = self.post("/gradio_api/queue/join", content=json.dumps(body), headers=headers)
        if joined.status_code != 200:
            return {"error": joined.status_code}
        stream = self.get("/gradio_api/queue/data", params={"session_hash": session}).text
        messages = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
        return next(m["output"] for m in messages if m["msg"] == "process_completed")

    def api(self, name, *data):
        """The answer to a program: data, or {"failed": ...}."""
        body, headers = json.dumps({"data": data}), {"Content-Type": "application/json"}
        joined = self.post(f"/gradio_api/call/{name}", content=body, headers=headers)
        if joined.status_code != 200:
            return {"failed": joined.status_code}
        answer = self.get(f"/gradio_api/call/{name}/{joined.json()['event_id']}").text
        kind, told = (line.partition(": ")[2] for line in answer.strip().split("\n"))
        return json.loads(told)[0] if kind == "complete" else {"failed": json.loads(told)}

    def inspects(self):
        """Whether it still does its work."""
        report = self.event("inspect_1", PILL, self.upload(PICTURE.read_bytes()), None)["data"][0]
        return 'aria-label="SimpleNet"' in report and 'aria-label="GLASS"' in report


@pytest.fixture(scope="module")
def app(trap, saved_models, backbone_weights, tmp_path_factory):
    folder, models = tmp_path_factory.mktemp("app"), tmp_path_factory.mktemp("models") / "models"
    for place in saved_models.iterdir():
        target = models / place.name
        target.mkdir(parents=True)
        (target / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes())
        config = json.loads((place / "config.json").read_text()) | {"category": SCRIPT}
        (target / "config.json").write_text(json.dumps(config))
    with ExitStack() as started, pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.setenv(name, trap[0])
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        patch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
        url = started.enter_context(running(folder, "--models", models, "--backbone-weights", backbone_weights))
        patch.undo()  # of the app alone
        urllib.request.install_opener(None)  # or this process would go on asking the trap
        assert trap[1] == []
        app = App(url, folder)
        yield app
        assert app.inspects()


@pytest.fixture(autouse=True)
def nobody_is_asked(trap):
    trap[1].clear()
    yield
    assert trap[1] == []


# ---------------------------------------------------------------- files that are not the picture they seem to be


def png(width, height, *chunks):
    """A grey PNG of zeros whose pixels are really there."""
    pack = zlib.compressobj(9)
    pixels = b"".join(pack.compress(bytes(1 + width)) for _ in range(height)) + pack.flush()
    return png_of(width, height, *chunks, (b"IDAT", pixels))


def png_of(width, height, *chunks):
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in (head, *chunks))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body) + struct.pack(">I", 0) + b"IEND\xaeB`\x82"


def saved(format, **options):
    stream = io.BytesIO()
    Image.new("L", (64, 64)).save(stream, format, **options)
    return stream.getvalue()


def frames(format):
    pages = [Image.fromarray(np.full((64, 64), grey, np.uint8)) for grey in range(10)]
    return saved(format, save_all=True, append_images=pages)


def jpeg_of(side):
    content = bytearray(saved("JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(content)


class Opens:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n({}) (w) file closefile\nshowpage\n%%EOF\n"
MAGICK = "push graphic-context\nviewbox 0 0 64 64\nimage over 0,0 0,0 'url({})'\npop graphic-context\n"
SVG = "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><image href='{}'/><script>alert(1)</script></svg>"
XML = '<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'
BOMBS = {
    "png of 10^10 pixels by its header": lambda: png_of(10**5, 10**5, (b"IDAT", zlib.compress(b"\0" * 999))),
    "png of 2^62 pixels by its header": lambda: png_of(2**31 - 1, 2**31 - 1, (b"IDAT", b"")),
    "png of 100 megapixels in 100 kB": lambda: png(10**4, 10**4),
    "jpeg of 65500 x 65500 by its header": lambda: jpeg_of(65500),
    "bmp of 10^10 pixels by its header": lambda: (
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 10**5, 10**5, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "ppm of 10^10 pixels by its header": lambda: b"P6 100000 100000 255\n" + bytes(99),
    "gif of 65535 x 65535 by its header": lambda: b"GIF89a" + b"\xff" * 4 + saved("GIF")[10:],
}
MASKED = {
    "empty": lambda _: (b"", "empty"),
    "cut png": lambda _: (PICTURE.read_bytes()[:9000], "corrupt"),
    "png with a text of 200 MB": lambda _: (
        png_of(64, 64, (b"zTXt", b"a\0\0" + zlib.compress(bytes(2 * 10**8), 9)), (b"IDAT", b"")),
        "corrupt",
    ),
    "png with a profile of 200 MB": lambda _: (
        png_of(64, 64, (b"iCCP", b"a\0\0" + zlib.compress(bytes(2 * 10**8), 9)), (b"IDAT", b"")),
        "corrupt",
    ),
    "gif of frames": lambda _: (frames("GIF"), "animated"),
    "tiff of pages": lambda _: (frames("TIFF"), "animated"),
    "png of frames": lambda _: (frames("PNG"), "animated"),
    "svg with a script": lambda lure: (SVG.format(lure).encode(), "unknown_format"),
    "xml that includes a file": lambda _: (XML.encode(), "unknown_format"),
    "html": lambda _: (b"<html><script>alert(1)</script></html>", "unknown_format"),
    "eps that writes a file": lambda lure: (EPS.format(lure).encode(), "unknown_format"),
    "imagemagick script": lambda lure: (MAGICK.format(lure).encode(), "unknown_format"),
    "pdf": lambda _: (b"%PDF-1.4\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj", "unknown_format"),
    "pickle": lambda lure: (pickle.dumps(Opens(lure)), "unknown_format"),
    "gif that is a script": lambda _: (b"GIF89a/*" + bytes(99) + b"*/=alert(1)", "unknown_format"),
    "zip": lambda _: (b"PK\x03\x04" + bytes(99), "unknown_format"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_told_by_their_header(app, bomb):
    content = BOMBS[bomb]()
    assert len(content) < 200_000
    upload, begun = app.upload(content), time.perf_counter()
    said = app.event("inspect_1", PILL, upload, None)["data"][0]
    assert "Not inspected" in said and "64,000,000" in said
    assert app.api("inspect", upload, PILL, None, False)["error"]["kind"] == "too_large"
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize("name", MASKED)
def test_what_is_no_picture_is_neither_opened_nor_run(app, name):
    lure = app.folder / "made by what was uploaded"
    content, kind = MASKED[name](lure)
    upload = app.upload(content)
    assert "Not inspected" in app.event("inspect_1", PILL, upload, None)["data"][0]
    assert app.api("inspect", upload, PILL, None, False)["error"]["kind"] == kind
    assert not lure.exists()


def test_of_a_picture_with_something_behind_it_only_the_picture_is_used(app):
    upload = app.upload(PICTURE.read_bytes() + b"<script>alert('behind')</script>PK\x03\x04")
    report = app.event("inspect_1", PILL, upload, None)["data"][0]
    assert 'aria-label="GLASS"' in report and "behind" not in report


# ---------------------------------------------------------------- uploads


def test_a_file_above_the_limit_is_refused_and_not_kept(tmp_path, monkeypatch):
    """The limit of a Space; on one's own computer it is 2 GB."""
    with served(Catalog(), tmp_path / "up", monkeypatch) as url:
        files = {"files": ("big.png", bytes(64 * 2**20 + 1))}
        answer = httpx2.post(f"{url}/gradio_api/upload", files=files, trust_env=False, timeout=60)
        assert answer.status_code == 413 and "maximum allowed size of 67108864 bytes" in answer.text
        assert [path for path in (tmp_path / "up").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("path", "size"), [("queue/join", 10**8), ("call/inspect", 10**8), ("upload", 3 * 10**9)])
def test_a_request_above_the_limit_is_refused_before_it_is_read(app, path, size):
    assert raw(app, f"POST /gradio_api/{path}", f"Content-Length: {size}").startswith("HTTP/1.1 413")
    assert raw(app, f"POST /gradio_api/{path}", "Transfer-Encoding: chunked").startswith("HTTP/1.1 413")


NAMES = ["../../evil.png", "/etc/cron.d/evil", "..", ".", "a\0b.png", "C:\\evil.png", "a/../../b.png", f"{SCRIPT}.png"]


@pytest.mark.parametrize("name", [*NAMES, "x" * 5000 + ".png", "\n.png", "\u202egnp.exe", "$(touch evil).png"])
def test_names_of_uploads_lead_nowhere(app, name):
    answer = app.post("/gradio_api/upload", files={"files": (name, PICTURE.read_bytes())})
    assert answer.status_code in (200, 400, 413)
    if answer.status_code == 200:
        (path,) = answer.json()
        assert Path(path).resolve().is_relative_to(app.uploads) and len(Path(path).relative_to(app.uploads).parts) == 2
        assert (
            "<img src=x"
            not in app.event("inspect_1", PILL, {"path": path, "orig_name": name, **MARK}, None)["data"][0]
        )
    assert {p.name for p in app.folder.iterdir()} == {"log.txt", "up"}


def test_an_uploaded_page_is_not_shown_as_one(app):
    for name in ("page.html", "drawing.svg", "page.xhtml"):
        answer = app.get(f"/gradio_api/file={app.upload(SVG.encode(), name)['path']}")
        assert answer.headers["content-disposition"].startswith("attachment"), name


def test_what_an_interrupted_upload_leaves_is_deleted_like_the_rest(app):
    head = "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 999999"
    part = '--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + "x" * 99_000
    before = set(app.uploads.iterdir())
    raw(app, "POST /gradio_api/upload", head, part, wait_s=0.5)
    (left,) = set(app.uploads.iterdir()) - before  # Gradio's, which it forgets
    delete_old(app.uploads, 3600)
    assert left.exists()
    time.sleep(0.2)
    delete_old(app.uploads, 0.1)
    assert not left.exists()


def raw(app, line, *headers, wait_s=5):
    """The beginning of the answer to a request that is not finished."""
    *headers, body = (*headers, "") if len(headers) == 1 else headers
    with connected(app) as link:
        link.sendall(f"{line} HTTP/1.1\r\nHost: x\r\n{headers[0]}\r\n\r\n{body}".encode())
        link.settimeout(wait_s)
        try:
            return link.recv(4096).decode()
        except TimeoutError:
            return ""


def connected(app):
    return socket.create_connection(("127.0.0.1", int(app.url.rpartition(":")[2])))


# ---------------------------------------------------------------- paths and addresses


PATHS = [
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=../../../../etc/passwd",
    "/gradio_api/file=app.py",
    f"/gradio_api/file={ROOT}/app.py",
    f"/gradio_api/file={PICTURE}",
    "/gradio_api/file=file:///etc/passwd",
    "/gradio_api/file=%2e%2e/%2e%2e/etc/passwd",
    "/gradio_api/file=/etc/passwd%00.png",
    "/gradio_api/file={uploads}/../../log.txt",
    "/gradio_api/file={uploads}",
    "/gradio_api/file={uploads}/link.png",
    "/gradio_api/file={trap}/x.png",
    "/gradio_api/file=//169.254.169.254/latest/meta-data",
    "/gradio_api/file=HTTPS://example.invalid/x.png",
    "/gradio_api/proxy={trap}/x.png",
    "/gradio_api/file//etc/passwd",
    "/static/..%2f..%2f..%2fapp.py",
    "/assets/..%2f..%2f..%2froutes.py",
    "/svelte/..%2f..%2froutes.py",
    "/custom_component/0/client/component/..%2f..%2fapp.py",
    "/gradio_api/deep_link?session_hash=x",
    "/monitoring",
    "/monitoring/summary",
    "/gradio_api/vibe-code",
    "/gradio_api/dev/reload",
    "/gradio_api/run-history/records",
    "/?deep_link=../../../etc",
]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_but_the_page_is_served(app, trap, path):
    link = app.uploads / "link.png"
    if not link.is_symlink():
        app.uploads.mkdir(parents=True, exist_ok=True)
        link.symlink_to("/etc/passwd")
    answer = app.get(path.format(uploads=app.uploads, trap=trap[0]), follow_redirects=False)
    assert answer.status_code >= 400 or path.startswith("/?")
    assert "root:" not in answer.text and "import " not in answer.text[:2000]


@pytest.mark.parametrize("path", ["process_recording", "component_server", "vibe-edit", "undo-vibe-edit"])
def test_what_the_page_does_not_need_is_closed(app, path):
    answer = app.post(f"/gradio_api/{path}", files={"video": ("a.mp4", b"x")}, data={"session_hash": "x"})
    assert answer.status_code == 404


FORGED = {
    "path of a picture": {"path": str(PICTURE)},
    "path with an address of an upload": {"path": str(PICTURE), "url": "/gradio_api/file=x"},
    "path out of the uploads": {"path": "{uploads}/../../../" + str(PICTURE)},
    "path of a device": {"path": "/dev/zero"},
    "path of a process": {"path": "/proc/self/environ"},
    "path with a null byte": {"path": "{uploads}/a\0.png"},
    "path that is far too long": {"path": "{uploads}/" + "a/" * 5000},
    "path of a folder": {"path": "{uploads}"},
    "path as list": {"path": [str(PICTURE)]},
    "path as dict": {"path": {"path": str(PICTURE)}},
    "path as number": {"path": 7},
    "path as null": {"path": None},
    "path as address": {"path": "{trap}/x.png"},
    "url": {"path": "x.png", "url": "{trap}/x.png"},
    "url alone": {"path": None, "url": "{trap}/x.png"},
    "url of a cloud's metadata": {"path": "x.png", "url": "http://169.254.169.254/latest/meta-data"},
    "path as a cloud's metadata": {"path": "http://169.254.169.254/latest/meta-data"},
    "url of a file": {"path": "x.png", "url": "file:///etc/passwd"},
    "stream": {"path": str(PICTURE), "is_stream": True},
    "nested": {"image": {"path": str(PICTURE)}, "value": [{"path": str(PICTURE)}]},
    "text": str(PICTURE),
    "address": "{trap}/x.png",
    "list": [{"path": str(PICTURE)}],
    "number": 10**30,
    "true": True,
}


def filled(forged, app, trap):
    text = json.dumps(forged).replace("{uploads}", str(app.uploads)).replace("{trap}", trap[0])
    return json.loads(text)


@pytest.mark.parametrize("mark", [{}, MARK], ids=["plain", "marked as a file"])
@pytest.mark.parametrize("name", FORGED)
def test_forged_uploads_are_not_read(app, trap, name, mark):
    forged = filled(FORGED[name], app, trap)
    forged = forged | mark if isinstance(forged, dict) else forged
    calls = [
        ("inspect_1", PILL, forged, None),
        ("inspect_2", PILL, forged, None),
        ("download", PILL, forged, None),
        ("run", PILL, [forged], 1, None),
    ]
    for event, *data in calls:
        told = json.dumps(app.event(event, *data, event_data={"what": "json"}))
        assert "p_value" not in told and "is_anomalous" not in told and "data:image" not in told, event
    for answer in (app.api("inspect", forged, PILL, None, True), app.api("inspect_batch", [forged], PILL, None)):
        assert "is_anomalous" not in json.dumps(answer)


# ---------------------------------------------------------------- values that make no sense


ABSURD = {
    "list": [PILL],
    "dict": {"category": PILL},
    "number": 7,
    "true": True,
    "million characters": "x" * 10**6,
    "deep": json.loads("[" * 200 + "]" * 200),
    "script": SCRIPT,
    "format": "{0.__class__.__mro__} %s ${7*7} {{7*7}}",
    "path": "../../etc/passwd",
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_methods_are_no_choice(app, name):
    upload = app.upload(PICTURE.read_bytes())
    for event, data in (("inspect_1", [ABSURD[name]]), ("choose", [None, None, ABSURD[name]])):
        report = app.event(event, PILL, upload, *data)["data"][0]
        assert 'aria-label="SimpleNet"' in report and SCRIPT not in report


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_categories_are_refused(app, name):
    upload, absurd = app.upload(PICTURE.read_bytes()), ABSURD[name]
    for event, data in (
        ("inspect_1", [upload, None]),
        ("inspect_2", [upload, None]),
        ("download", [upload, None]),
        ("run", [[upload], 1, None]),
    ):
        told = json.dumps(app.event(event, absurd, *data, event_data={"what": "json"}))
        assert "p_value" not in told and SCRIPT not in told and len(told) < 20_000 + len(str(absurd))
        assert "$49" not in told and "{49}" not in told and "<class" not in told
    for answer in (app.api("inspect", upload, absurd, None, False), app.api("inspect_batch", [upload], absurd, None)):
        assert answer.get("failed") or answer["error"]["kind"] == "unknown_category"


@pytest.mark.parametrize("rate", ["NaN", "Infinity", "-1", "0", "1", "1e400", '"0.1"', "[0.1]", "true", "{}"])
def test_absurd_rates_are_refused(app, rate):
    upload = json.dumps(app.upload(PICTURE.read_bytes()))
    body, headers = f'{{"data": [{upload}, "{PILL}", {rate}, false]}}', {"Content-Type": "application/json"}
    joined = app.post("/gradio_api/call/inspect", content=body, headers=headers)
    if joined.status_code == 200:
        answer = app.get(f"/gradio_api/call/inspect/{joined.json()['event_id']}").text
        assert '"kind": "false_alarm_rate"' in answer or "event: error" in answer
    else:
        assert joined.status_code == 422


def test_too_many_pictures_in_one_call_are_refused(app):
    uploads = [app.upload(PICTURE.read_bytes())] * 501
    assert app.api("inspect_batch", uploads, PILL, None)["error"]["kind"] == "count"
    assert "501" in app.event("run", PILL, uploads, 1, None)["data"][0]


WISHES = [None, 7, [], {}, {"what": "../../etc/passwd"}, {"what": "mask", "method": "../GLASS"}, {"what": ["mask"]}]


@pytest.mark.parametrize("wish", [*WISHES, {"what": "map", "method": "GLASS", "rate": "x"}], ids=str)
def test_odd_wishes_for_a_download_are_refused(app, wish):
    told = app.event("download", PILL, app.upload(PICTURE.read_bytes()), None, event_data=wish)
    assert "path" not in json.dumps(told)


@pytest.mark.parametrize("index", [10**9, -(10**9), "0", None, [0], {"index": 0}, 0.5])
def test_examples_that_do_not_exist_are_refused(app, index):
    assert "path" not in json.dumps(app.event("pick", event_data={"index": index}))


@pytest.mark.parametrize(
    "change",
    [{"fn_index": 10**6}, {"fn_index": -1}, {"fn_index": "x"}, {"session_hash": None}, {"data": None}, {"data": []}],
    ids=str,
)
def test_calls_of_nothing_are_refused(app, change):
    body = {"data": [PILL, None], "fn_index": app.functions["inspect_1"], "session_hash": uuid.uuid4().hex} | change
    answer = app.post("/gradio_api/queue/join", json=body)
    if answer.status_code == 200:
        stream = app.get("/gradio_api/queue/data", params={"session_hash": body["session_hash"]}).text
        assert '"success":false' in stream
    else:
        assert 400 <= answer.status_code < 600


@pytest.mark.parametrize("way", ["run", "api", "call", "call/v2", "run/", "api/"])
def test_an_event_of_the_page_without_a_session_is_refused_in_words(app, way):
    """Gradio answered 500 without a reason."""
    private = sorted({name for name in app.functions if name} - set(ENDPOINTS))
    assert len(private) > 40
    for name in [*private, "predict", "no_such_name"]:
        for body in ({"data": [None] * app.inputs.get(name, 0)}, {"data": [], "session_hash": None}, {}):
            answer = app.post(f"/gradio_api/{way.rstrip('/')}/{name}{'/' * way.endswith('/')}", json=body)
            assert (answer.status_code, "programs can use: categories, inspect" in answer.text) == (404, True), name


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"[" * 100_000, b"\xff", b'{"fn_index": 3, "data": []}'])
def test_calls_without_sense_are_no_error_of_the_server(app, content):
    for name in ("pick", "categories"):
        answer = app.post(f"/gradio_api/run/{name}", content=content, headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, answer.text


def test_what_needs_no_session_is_answered_and_the_page_calls_with_one(app):
    assert PILL in app.post("/gradio_api/run/categories", json={"data": []}).json()["data"][0]
    body = {"data": [PILL], "fn_index": app.functions["follow_notices"], "session_hash": uuid.uuid4().hex}
    assert app.post("/gradio_api/run/predict", json=body).status_code == 200
    padded = {"data": [], "padding": "x" * 3_000_000}  # comes in several messages
    assert PILL in app.post("/gradio_api/run/categories", json=padded).json()["data"][0]


@pytest.mark.parametrize("session", ["nobody", "../../etc/passwd", SCRIPT, "x" * 10_000])
def test_strangers_sessions_tell_nothing(app, session):
    said = raw(app, f"GET /gradio_api/queue/data?session_hash={quote(session)}", "Accept: */*")
    assert "process_completed" not in said and SCRIPT not in said
    assert (
        app.post("/gradio_api/cancel", json={"session_hash": session, "fn_index": 3, "event_id": "x"}).status_code
        < 500
    )


# ---------------------------------------------------------------- scripts


def test_scripts_in_names_and_addresses_are_shown_and_not_run(app, tmp_path):
    (tmp_path / "<img src=x onerror=alert(3)>.png").write_bytes(b"no picture")
    with visit(app.url, f"/?category={SCRIPT}&__theme={SCRIPT}&view={SCRIPT}", locale="en") as page:
        dialogs = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.set_input_files("input[type=file] >> nth=0", PICTURE)
        page.get_by_role("alert").or_(page.locator(".report, .card.failed")).first.wait_for()
        page.get_by_label("Remove Image").click()
        page.set_input_files("input[type=file] >> nth=0", tmp_path / "<img src=x onerror=alert(3)>.png")
        page.locator("#report .failed").wait_for()
        for tab in ("Batch", "Compare", "Models"):
            page.get_by_role("tab", name=tab).click()
            page.wait_for_timeout(300)
        page.get_by_text("alert(1)").first.wait_for(state="attached")
        assert dialogs == [] and page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("language", [SCRIPT, "de" * 4000, ",;,;q=;"])
def test_odd_languages_are_answered_in_english(app, language):
    said = app.event("inspect_1", PILL, None, None, language=language)["data"][0]
    assert "An example: Pill" in said and SCRIPT not in said


def test_addresses_are_not_reflected(app):
    for place in (f"/?category={SCRIPT}", f"/{SCRIPT}", f"/?__lang={SCRIPT}&__theme={SCRIPT}"):
        assert SCRIPT not in app.get(place).text


# ---------------------------------------------------------------- crowds


def test_open_connections_keep_nobody_waiting(app):
    with ExitStack() as kept:
        for number in range(60):
            link = kept.enter_context(connected(app))
            path = (f"/gradio_api/heartbeat/{number}", f"/gradio_api/queue/data?session_hash={number}", "/")[
                number % 3
            ]
            end = "" if path == "/" else "\r\n\r\n"  # the last kind never ends its request
            link.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1{end}".encode())
        begun = time.perf_counter()
        assert app.inspects()
        assert time.perf_counter() - begun < 10


def test_a_flood_is_told_to_wait_and_loses_nobody(app):
    upload = app.upload(PICTURE.read_bytes())

    def ask(_):
        body = {"data": [upload, PILL, None, False]}
        joined = app.post("/gradio_api/call/inspect", json=body)
        if joined.status_code != 200:
            return joined.status_code, joined.json()["detail"]
        return 200, app.get(f"/gradio_api/call/inspect/{joined.json()['event_id']}").text

    with ThreadPoolExecutor(60) as crowd:
        told = list(crowd.map(ask, range(60)))
    answered = [text for status, text in told if status == 200]
    refused = [text for status, text in told if status == 503]
    assert len(answered) + len(refused) == 60 and len(answered) >= WAITING
    assert all("is_anomalous" in text for text in answered)
    assert refused and all(text.startswith("Queue is full") for text in refused)


@pytest.mark.parametrize(("here", "limit", "size"), [(False, "64 MB", 64 * 2**20), (True, "2 GB", 2 * 2**30)])
def test_on_ones_own_computer_files_may_be_larger(here, limit, size):
    """500 pictures of a phone in one ZIP file."""
    settings = launch_settings(here)
    [middleware] = settings["app_kwargs"]["middleware"]
    scope = {"type": "http", "path": "/gradio_api/upload", "headers": [(b"content-length", b"%d" % size)]}
    assert (
        utils._parse_file_size(settings["max_file_size"]) == size
        and f"The limit for a file is {limit}." in settings["js"]
    )
    assert _refusal(scope, middleware.kwargs["max_upload"]) is None
    assert (_refusal(scope | {"headers": [(b"content-length", b"2200000000")]}, MAX_UPLOAD)).status_code == 413


# ---------------------------------------------------------------- what the app sends by itself


def test_the_app_sends_nothing_and_tells_nothing_of_itself(app, trap):
    config = app.get("/config").json()
    assert (config["analytics_enabled"], config["show_error"]) == (False, False)
    assert not config.get("run_history") and config["max_file_size"] == 2 * 2**30
    assert launch_settings()["mcp_server"] == mcp_available() and trap[1] == []


def test_a_gradio_that_fetches_in_another_way_is_refused_at_the_start(monkeypatch):
    monkeypatch.delattr(f"gradio.processing_utils.{FETCH}")
    with pytest.raises(RuntimeError, match="cannot prevent it from fetching"):
        refuse_web_addresses()


# ---------------------------------------------------------------- an hour later


def test_uploads_downloads_and_results_are_deleted_in_time(app):
    """All files of visitors are in the one folder that is emptied, and deleting them breaks nothing."""
    upload = app.upload(PICTURE.read_bytes())
    app.event("download", PILL, upload, None, event_data={"what": "zip"})
    app.event("pick", event_data={"index": 0})
    app.event("run", PILL, [upload], 1, None)
    kept = {path.name for path in app.uploads.rglob("*") if path.is_file()}
    assert {"part.png", "inspection.zip", "inspection.csv"} < kept  # upload, downloads, and an example's copy
    delete_old(app.uploads, 3600)
    assert Path(upload["path"]).is_file()
    delete_old(app.uploads, 0)
    assert [path for path in app.uploads.rglob("*") if path.is_file()] == []
    assert app.client.get(f"/gradio_api/file={upload['path']}").status_code >= 400
    assert "Upload the picture again" in app.event("inspect_1", PILL, upload, None)["data"][0]
    assert app.inspects()


def test_the_folder_is_swept_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    keep_deleting(0.05, 0.05)
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(b"")
        deadline = time.monotonic() + 10
        while (tmp_path / name).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not (tmp_path / name).exists()
        tmp_path.mkdir(exist_ok=True)  # empty, it went too
