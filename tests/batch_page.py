"""The tab Batch in a browser, and the table that it exports."""

import csv
import io
from contextlib import contextmanager

from hub_environment import free_port

from webapp.page import build_page, launch_settings
from webapp.visitors import Everybody

PORT = free_port()  # always the same, so that the browser has compiled the scripts of the address


def read_csv(path, separator=","):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), delimiter=separator))


@contextmanager
def served(catalog, folder, monkeypatch, teacher=None):
    """Address of a page."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    page = build_page(catalog, visitors=Everybody(catalog, teacher))
    try:
        settings = launch_settings() | {"server_port": PORT, "quiet": True, "prevent_thread_lock": True}
        yield page.launch(**settings)[1].rstrip("/")
    finally:
        page.close()


def start(page, files):
    """Inspects files as the category of the address."""
    page.get_by_role("tab", name="Batch").click()
    page.wait_for_function(
        "[...document.querySelectorAll('input[role=combobox]')].some((box) => box.checkVisibility() && box.value)"
    )
    page.set_input_files("#batch-files input[type=file]", files)
    page.locator("#batch-files tr").nth(len(files) - 1).wait_for()
    page.get_by_role("button", name="Inspect all").click()
