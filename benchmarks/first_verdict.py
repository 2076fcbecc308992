"""From the first click to the first verdict of a new part: `python -m benchmarks.first_verdict --data DIR`.

A browser clicks through the demo as a person does: it opens the tab Teach, names a part, gives 20, 50 and 200 real
good pictures of a category, presses Teach, changes to the tab Inspect, and gives a good picture and a defective one
that are new. The time that a person takes to read and to choose files is not in it. Writes
`results/first_verdict.json`; `--table` prints it. DIR is a folder of real pictures, see `docs/data.md`. It needs
Chromium and a quiet machine.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks import compact_backbone
from benchmarks.demo_time import CHROMIUM, start
from benchmarks.measuring import RESULTS, provenance, table
from training.evaluation import write_json

if TYPE_CHECKING:
    from playwright.sync_api import Page

RESULT, COUNTS, LIMIT = RESULTS / "first_verdict.json", (20, 50, 200), 600_000  # ms
COLUMNS = ("category", "pictures", "upload_s", "teach_s", "verdict_s", "total_s", "said of a good one", "of a defect")


def measure(page: "Page", name: str, good: list[Path], new: list[Path]) -> dict:
    """Seconds of each step, and the headlines of the new pictures."""
    begun = time.perf_counter()
    page.get_by_role("tab", name="Teach").click()
    page.locator("#teach-part input").fill(name)
    page.keyboard.press("Enter")
    page.locator("#teach-good input[type=file]").first.set_input_files(good)
    page.get_by_text(f"Pictures that can be used: {len(good)}.").wait_for()
    uploaded = time.perf_counter()
    page.get_by_role("button", name="Teach", exact=True).click()
    page.get_by_text(f"{name} is taught").wait_for()
    taught = time.perf_counter()
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_label("Category").first.click()
    page.get_by_role("option", name=name).click()
    headlines = [inspect(page, new[0])]
    ended = time.perf_counter()
    headlines += [inspect(page, picture) for picture in new[1:]]
    times = {"upload_s": uploaded - begun, "teach_s": taught - uploaded, "verdict_s": ended - taught}
    times["total_s"] = ended - begun
    said = dict(zip(("said of a good one", "of a defect"), headlines, strict=True))
    return {"pictures": len(good)} | {step: round(seconds, 1) for step, seconds in times.items()} | said


def inspect(page: "Page", picture: Path) -> str:
    """Gives a picture; returns the headline of its report."""
    page.locator(".report, #report .card").first.evaluate("report => { report.id = 'before'; }")
    if page.get_by_label("Remove Image").count():
        page.get_by_label("Remove Image").click()
        page.locator("#before").wait_for(state="detached")
        page.locator(".report, #report .card").first.evaluate("report => { report.id = 'before'; }")
    page.locator("#picture input[type=file]").set_input_files(picture)
    page.locator(".report:not(#before):not(.example)").wait_for()
    return page.locator(".report .headline:visible").text_content() or ""


def results_table() -> str:
    """The committed rows."""
    return table(json.loads(RESULT.read_text()), COLUMNS)


def main() -> None:
    """Measures, or prints the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of real pictures, see docs/data.md")
    parser.add_argument("--category", choices=compact_backbone.SETS, default="capsule")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    args = parser.parse_args()
    if not args.table:
        if args.data is None:
            parser.error("--data is needed")
        folder = args.data / "data" / compact_backbone.SETS[args.category]
        good = sorted((folder / "train/good").iterdir())
        kinds = sorted(path for path in (folder / "test").iterdir() if path.name != "good")
        new = [sorted(kind.iterdir())[0] for kind in (folder / "test/good", kinds[0])]
        origin = {"category": args.category} | provenance("python -m benchmarks.first_verdict --data DIR")
        write_json(RESULT, [visit(args.category, good[:count], new) | origin for count in COUNTS])
    print(results_table())


def visit(name: str, good: list[Path], new: list[Path]) -> dict:
    """A demo of its own, with an empty folder of models."""
    from playwright.sync_api import sync_playwright  # only where there is a browser

    with TemporaryDirectory() as folder, sync_playwright() as driver:
        process, url, _ = start("--models", folder)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            page = browser.new_page()
            page.set_default_timeout(LIMIT)
            page.goto(url)
            page.locator(".report.example").wait_for()
            return measure(page, name, good, new)
        finally:
            browser.close()
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
