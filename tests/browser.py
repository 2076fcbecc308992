"""The app in a real browser: started as a user starts it, used, photographed."""

import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from app_process import wait_for
from hub_environment import free_port

ROOT = Path(__file__).parents[1]
SCREENSHOTS = ROOT / "build" / "screenshots"  # artefacts of the run
CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers give it too little, and then a page crashes
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ENDED_STREAM = "Failed to load resource: net::ERR_INCOMPLETE_CHUNKED_ENCODING"  # by a reload of the page
CAMERA_FLAGS = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
_running = []  # the browser of `launched`
_left = {}  # its pages that no visit uses, by address and options


@contextmanager
def running(folder, *arguments, script=ROOT / "app.py"):
    """Address of the app, started from an empty folder, without network; `script` may start it in another way."""
    port = free_port()
    log, environment = folder / "log.txt", os.environ | {"HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder / "up")}
    command = [sys.executable, str(script), *map(str, arguments), "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
        try:
            yield wait_for(f"http://127.0.0.1:{port}", process, log)
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def launched(camera=None):
    """A real browser; inside the block all visits use it. Its start takes longer than most visits.

    Args:
        camera: a video (MJPEG) that every page sees as the device's camera, again and again.
    """
    flags = [f"--use-file-for-fake-video-capture={camera}", *CAMERA_FLAGS] if camera else []
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"no browser at {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS + flags)
        _running.append(browser)
        try:
            yield browser
        finally:
            _running.remove(browser)
            _left.clear()
            browser.close()


@contextmanager
def visit(url, path="/", width=1280, height=900, color_scheme="light", **context):
    """A page of a real browser; ends with the check that nothing went wrong in it and nobody else was asked.

    No visit shares cookies or storage with another. Those of one kind share the cache: to compile the scripts takes
    longer than most visits.

    Args:
        context: of `playwright.Browser.new_context`, such as `locale`.
    """
    errors, foreign = [], []
    watches = {
        "console": lambda message: (
            message.type == "error" and message.text != ENDED_STREAM and errors.append(message.text)
        ),
        "pageerror": lambda error: errors.append(str(error)),
        "request": lambda request: request.url.startswith((url, "data:", "blob:")) or foreign.append(request.url),
    }
    options = context | {"viewport": {"width": width, "height": height}, "color_scheme": color_scheme}
    with nullcontext(*_running) if _running else launched() as browser:
        with empty_page(browser, url, **options) as page:
            for event, watch in watches.items():
                page.on(event, watch)
            page.goto(url + path)
            yield page
            for event, watch in watches.items():
                page.remove_listener(event, watch)
    assert (errors, foreign) == ([], []), (errors, foreign)


@contextmanager
def empty_page(browser, url, **options):
    """A page without cookies and storage: that of an earlier visit of the same kind, or a new one."""
    kind = repr((url, options))
    page = _left.pop(kind, None) or browser.new_context(**options).new_page()
    page.set_default_timeout(60_000)
    page.set_viewport_size(options["viewport"])
    try:
        yield page
        page.goto("about:blank")
        page.context.clear_cookies()
        kept = {"origin": url, "storageTypes": "all"}
        page.context.new_cdp_session(page).send("Storage.clearDataForOrigin", kept)
        _left[kind] = page
    except BaseException:
        page.context.close()
        raise


def photograph(page, name, full_page=True):
    """Keeps what the page looks like as `build/screenshots/NAME.png`."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=full_page, animations="disabled")
