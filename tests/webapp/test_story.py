"""From ten pictures of a phone to a verdict, in a real browser and with the real training, on small inputs.

The part is a washer with a date label that changes. `build/screenshots/story_*.png` shows each step.
"""

import json
import os
import re
import signal
import subprocess

import pytest
from browser import ROOT, launched, photograph, running, visit
from PIL import Image, ImageDraw

from benchmarks.first_verdict import inspect
from training.parts.dataset import render
from webapp import teaching

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(teaching.missing_packages()), reason="the extra `train` is not installed"),
]
PHONE = {"width": 360, "height": 740, "has_touch": True, "is_mobile": True}
LABEL = (0.70, 0.86, 0.96, 0.96)  # left, top, right, bottom of the label, as shares
SIDE = 600
QUICK = f"""
import sys

sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from webapp.environment import prepare

prepare()
import app
from quick_training import quick
from webapp.teaching import Teacher

command = Teacher.command
Teacher.command = lambda self, lesson: quick(command(self, lesson), "--image-size", "128", "--folds", "0")
app.main()
"""  # starts the app as `app.py` does, with quicker lessons


def photo(folder, name, seed, defect=None, label="2026-11-27", label_colour="white", hair=False):
    """A JPEG as of a phone: rotated, with the orientation in EXIF."""
    picture = Image.fromarray(render("washer", seed, defect)[0]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pen, box = ImageDraw.Draw(picture), [SIDE * share for share in LABEL]
    pen.rectangle(box, fill=label_colour)
    pen.text((box[0] + 10, box[1] + 10), label, fill="black", font_size=25)
    if hair:
        pen.line([(0.25 * SIDE, 0.2 * SIDE), (0.45 * SIDE, 0.35 * SIDE), (0.4 * SIDE, 0.6 * SIDE)], "black", width=6)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show it
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / name, "JPEG", quality=88, exif=exif)
    return str(folder / name)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phone")
    return {
        "good": [photo(folder, f"IMG_{i}.jpg", 700 + i, label=f"2026-11-{i + 10}") for i in range(10)],
        "bad": [photo(folder, f"BAD_{i}.jpg", 720 + i, "scratch") for i in range(3)],
        "new": photo(folder, "new.jpg", 740, label="2027-01-01"),
        "no label": photo(folder, "nolabel.jpg", 740, label="", label_colour="black"),
        "scratch": photo(folder, "scratch.jpg", 741, "scratch"),
        "hair": photo(folder, "hair.jpg", 742, hair=True),
    }


@pytest.fixture(scope="module")
def page_of_own_parts(tmp_path_factory, pictures):
    """Address of the app, and its folder of models, after a visitor has taught the washer on a phone, in German."""
    folder = tmp_path_factory.mktemp("story")
    (folder / "quick.py").write_text(QUICK)
    with running(folder, script=folder / "quick.py") as url, launched():
        with visit(url, locale="de-DE", **PHONE) as page:
            teach_on_a_phone(page, pictures)
        yield url, folder / "runs"


def teach_on_a_phone(page, pictures):
    page.get_by_role("tab", name="Anlernen").tap()
    page.get_by_text("Nehmen Sie 10 bis 500 Bilder").wait_for()
    page.locator("#teach-part input").fill("Scheibe mit Datum")
    page.keyboard.press("Enter")
    page.locator("#teach-good input[type=file]").set_input_files(pictures["good"])
    page.get_by_text("Verwendbare Bilder: 10.").wait_for()
    page.locator("#teach-bad input[type=file]").set_input_files(pictures["bad"])
    page.locator("#teach-bad").get_by_text("BAD_2").wait_for()
    page.get_by_text("Was im Bild zählt").tap()
    page.get_by_role("button", name="Auf einem der Bilder zeichnen").tap()
    page.get_by_role("button", name="zählt nicht").wait_for()
    canvas = page.locator(".region canvas")
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    place = canvas.bounding_box()
    corners = [(LABEL[0] - 0.03, LABEL[1] - 0.03), (LABEL[2] + 0.03, LABEL[3] + 0.03)]
    start, end = ((place["x"] + x * place["width"], place["y"] + y * place["height"]) for x, y in corners)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()
    page.get_by_text("Anteil des Bildes, der zählt").wait_for()
    photograph(page, "story_1_region")
    page.get_by_role("button", name="Anlernen", exact=True).tap()
    page.get_by_text("wird angelernt").wait_for()
    photograph(page, "story_2_teaching")
    page.get_by_text("Scheibe mit Datum ist angelernt").wait_for(timeout=300_000)
    page.get_by_text(re.compile(r"[0-3] von 3 bekannten Fehlern \(von allen solchen Fehlern")).wait_for()
    photograph(page, "story_3_taught")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def score(page):
    """The image score, from the fold."""
    return re.search(r"Image score\s*(\S+)", page.locator(".report dl").first.text_content())[1]


def choose(page):
    page.locator(".report.example").wait_for()
    page.get_by_label("Category").first.click()
    page.get_by_role("option", name="Scheibe mit Datum").click()


def test_known_defects_are_judged_and_the_part_is_promised(page_of_own_parts):
    _, models = page_of_own_parts
    (config,) = (json.loads(path.read_text()) for path in models.glob("hybrid-own-*/config.json"))
    assert config["region"] and config["category"] == "scheibe_mit_datum"
    assert len(list((models / "pictures/scheibe_mit_datum/test/bad").iterdir())) == 3


def test_good_and_defective_parts_and_a_label_that_does_not_count(page_of_own_parts, pictures):
    url, _ = page_of_own_parts
    with visit(url) as page:
        choose(page)
        assert inspect(page, pictures["scratch"]) == "✕ Defective"
        photograph(page, "story_4_defective")
        inspect(page, pictures["new"])
        labelled = score(page)
        photograph(page, "story_5_label")
        inspect(page, pictures["no label"])
        assert score(page) == labelled  # the label changes nothing


def test_a_false_alarm_is_taken_back_and_undone_by_keyboard(page_of_own_parts, pictures):
    url, models = page_of_own_parts
    kept = models / "pictures/scheibe_mit_datum/train/good"
    before = len(list(kept.rglob("*.jpg")))
    with visit(url) as page:
        choose(page)
        assert inspect(page, pictures["hair"]) == "✕ Defective"  # a hair lies on a good part
        page.locator("[data-correct=good]").focus()
        page.keyboard.press("Enter")
        page.locator("#report .card", has_text="Taken back").wait_for()
        photograph(page, "story_6_taken_back")
        assert len(list(kept.rglob("corrected/*.jpg"))) == 1
        page.locator("[data-undo]").focus()
        page.keyboard.press("Enter")
        page.locator("#report .card", has_text="Taken back").wait_for(state="detached")
        assert page.locator(".report .headline:visible").text_content() == "✕ Defective"
        assert len(list(kept.rglob("*.jpg"))) == before


def test_stop_and_crash_in_the_middle_leave_the_part_as_it_was(page_of_own_parts, pictures):
    url, models = page_of_own_parts
    before = {path: path.stat().st_mtime_ns for path in models.glob("hybrid-own-*/*")}
    with visit(url) as page:
        page.get_by_role("tab", name="Teach").click()
        page.locator("#teach-part input").click()
        page.get_by_role("option", name="Scheibe mit Datum").click()
        page.get_by_text("Pictures that can be used: 10.").wait_for()
        page.get_by_role("button", name="Teach", exact=True).click()
        page.get_by_text("Teaching Scheibe mit Datum").wait_for()
        page.get_by_role("button", name="Stop").last.click()
        page.get_by_text("Stopped. The pictures are kept").wait_for()
        page.get_by_role("button", name="Teach", exact=True).click()
        page.get_by_text("Teaching Scheibe mit Datum").wait_for()
        kill_training(models)
        page.get_by_text("The computer ended the training").wait_for()
        assert not page.locator("#teach-file").is_visible()
        photograph(page, "story_7_crash")
    assert {path: path.stat().st_mtime_ns for path in models.glob("hybrid-own-*/*")} == before
    assert {path.name for path in models.iterdir()} >= {"pictures"} and not list(models.glob("*partial*"))


def kill_training(models):
    """Kills the training of this test's app, as a computer without memory does."""
    found = subprocess.run(["pgrep", "-f", f"training.py.*{models}"], capture_output=True, text=True, check=False)
    for pid in map(int, found.stdout.split()):
        os.kill(pid, signal.SIGKILL)


def test_a_part_is_drawn_on_and_taught_by_keyboard_alone(page_of_own_parts, pictures):
    url, _ = page_of_own_parts
    with visit(url) as page:
        page.get_by_role("tab", name="Teach").focus()
        page.keyboard.press("Enter")
        page.wait_for_timeout(1500)  # the list of parts arrives
        page.locator("#teach-part input").focus()
        page.wait_for_timeout(300)  # the page selects the field's text
        page.keyboard.type("scheibe mit datum")
        page.keyboard.press("Enter")
        page.get_by_text("Pictures that can be used: 10.").wait_for()
        page.get_by_role("button", name="What counts in the picture").focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Draw on one of the pictures").focus()
        page.keyboard.press("Enter")
        page.get_by_text("Remove all").wait_for()
        page.get_by_role("button", name="Remove all").focus()
        page.keyboard.press("Enter")
        page.get_by_text("Share of the picture that counts: 100%").wait_for()
        page.locator(".region canvas").focus()
        page.keyboard.press("Enter")
        for key in ["ArrowRight"] * 10 + ["ArrowDown"] * 10:
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        page.locator("#region-share", has_text="96").or_(page.locator("#region-share", has_text="95")).wait_for()
        photograph(page, "story_8_keyboard")
        page.get_by_role("button", name="Teach", exact=True).focus()
        page.keyboard.press("Enter")
        page.get_by_text("Scheibe mit Datum is taught").wait_for(timeout=300_000)
        page.get_by_role("button", name="Inspect such a part now").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_label("Category").first).to_have_value("Scheibe mit Datum (own part)")
        inspect(page, pictures["new"])
        labelled = score(page)
        inspect(page, pictures["no label"])
        assert score(page) != labelled  # the new region is elsewhere
