"""How long a visitor of the demo waits: `python -m benchmarks.demo_time`.

Starts the demo like `make demo`, offline, and uploads the bundled examples like a browser. Writes
`results/demo_time.json`: seconds to the first page, to the first paint in a browser, to the first result (which loads
models and backbone), to the first result of each further category, to later results; and the memory of the process.
Use a quiet machine.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import psutil

from app import EXAMPLES
from hubmodels.hub.catalog import Catalog
from training.evaluation import machine, versions, write_json
from webapp.inspect_tab import find_examples

ROOT = Path(__file__).parents[1]
CHROMIUM = Path("/usr/bin/chromium")
RESULT = Path(__file__).parent / "results" / "demo_time.json"


def start(*arguments: str) -> tuple[subprocess.Popen, str, float]:
    """The running demo with further arguments, its address, and the seconds until it answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun, environment = time.perf_counter(), os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "app.py", "--port", str(port), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    url = f"http://127.0.0.1:{port}"
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).read()
            return process, url, time.perf_counter() - begun
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the demo did not start")


def inspect(url: str, picture: Path, label: str) -> float:
    """Seconds from the upload to the verdicts and heat maps."""
    begun, boundary = time.perf_counter(), uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="part.png"\r\n\r\n'
    body = head.encode() + picture.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    uploaded = json.loads(post(f"{url}/gradio_api/upload", body, f"multipart/form-data; boundary={boundary}"))[0]
    data = {"data": [{"path": uploaded, "meta": {"_type": "gradio.FileData"}}, label, None, True]}
    event = json.loads(post(f"{url}/gradio_api/call/inspect", json.dumps(data).encode(), "application/json"))
    answer = urllib.request.urlopen(f"{url}/gradio_api/call/inspect/{event['event_id']}").read().decode()
    verdicts = answer.count("is_anomalous")
    if verdicts == 0 or answer.count("data:image/png") != verdicts:
        raise SystemExit(f"verdicts or heat maps are missing: {answer[:500]}")
    return time.perf_counter() - begun


def first_paint(url: str) -> float | None:
    """Median seconds of five visits until a browser shows something; None without Chromium."""
    if not CHROMIUM.is_file():
        return None
    from playwright.sync_api import sync_playwright  # only where there is a browser

    script = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    times = []
    with sync_playwright() as driver:
        for _ in range(5):
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.goto(url)
            times.append(page.wait_for_function(script).json_value() / 1000)
            browser.close()
    return statistics.median(times)


def post(url: str, body: bytes, kind: str) -> bytes:
    """The answer to a POST."""
    return urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": kind})).read()


def main() -> None:
    """Prints and writes the results."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    examples = find_examples(EXAMPLES, Catalog.bundled())
    process, url, page_s = start()
    try:
        first = inspect(url, examples[0].path, examples[0].category)
        categories = {example.category: example.path for example in examples}
        new = [inspect(url, picture, label) for label, picture in list(categories.items())[1:]]
        later = [inspect(url, example.path, example.category) for example in examples]
        paint = first_paint(url)
        memory = psutil.Process(process.pid).memory_info().rss
    finally:
        process.terminate()
    row = {"page_s": page_s, "first_contentful_paint_s": paint, "first_result_s": first}
    row |= {"first_result_of_a_further_category_s": statistics.median(new)}
    row |= {"later_result_s": statistics.median(later), "later_result_max_s": max(later), "memory_mb": memory / 2**20}
    row = {name: value and round(value, 3) for name, value in row.items()}
    row |= {"command": "python -m benchmarks.demo_time", "machine": machine(), "versions": versions()}
    write_json(RESULT, [row])
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
