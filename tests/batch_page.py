"""The tab Batch in a browser, and the table that it exports."""

import csv
import io
from contextlib import contextmanager

from webapp.page import build_page, launch_settings
from webapp.visitors import Everybody


def read_csv(path, separator=","):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), delimiter=separator))


@contextmanager
def served(catalog, folder, monkeypatch, teacher=None):
    """Address of a page."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    page = build_page(catalog, visitors=Everybody(catalog, teacher))
    try:
        yield page.launch(**launch_settings(), quiet=True, prevent_thread_lock=True)[1].rstrip("/")
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
