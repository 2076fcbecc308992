"""The smallest defect that counts, on the page: kept with a part, given to the training, named in reports."""

import gradio as gr
import pytest
from PIL import Image

from hubmodels import SimpleNet
from hubmodels.hub.catalog import Catalog, list_own
from webapp import teach_tab
from webapp.inspection_report import describe_least_size
from webapp.least_size import checked_least_size, save_least_size, saved_least_size
from webapp.own_parts import Upload
from webapp.teach_tab import TeachTab
from webapp.teaching import DONE, Lesson, Teacher
from webapp.visitors import Everybody


@pytest.fixture
def tab(tmp_path):
    teacher = Teacher(Catalog(lambda: list_own(tmp_path / "runs")), tmp_path / "runs", tmp_path / "runs/pictures")
    for i in range(12):
        picture = tmp_path / f"{i}.png"
        Image.new("RGB", (64, 48), (i, 90, 90)).save(picture)
        teacher.parts.add("lid", [Upload(picture.name, picture.read_bytes)])
    return TeachTab(Everybody(teacher.catalog, teacher))


@pytest.mark.parametrize(
    ("sent", "pixels"),
    [
        *((None, None), ("", None), (0, None), (-4, None), ("40", None), (True, None), (float("nan"), None)),
        *((40, 40), (40.4, 40), (0.2, 1), (1e300, 10**9)),
    ],
)
def test_what_a_browser_sends_is_checked(sent, pixels):
    assert checked_least_size(sent) == pixels


def test_a_damaged_file_means_every_size(tmp_path):
    assert saved_least_size(tmp_path) is None
    for content in ("{", '"40"', "[40]", "-1"):
        (tmp_path / "least_size.json").write_text(content)
        assert saved_least_size(tmp_path) is None
    save_least_size(tmp_path, 40)
    assert saved_least_size(tmp_path) == 40


def test_the_training_gets_it(tab):
    teacher, lesson = tab._visitors.of(None).teacher, Lesson("lid", ("hybrid",), 12)
    assert "--least-size" not in teacher.command(lesson)
    save_least_size(teacher.parts.folder / "lid", 40)
    command = teacher.command(lesson)
    assert command[command.index("--least-size") + 1] == "40"
    save_least_size(teacher.parts.folder / "lid", None)
    assert "--least-size" not in teacher.command(lesson)


def test_it_is_kept_when_a_part_is_taught_and_shown_again(tab, monkeypatch):
    monkeypatch.setattr(teach_tab, "missing_packages", list)
    teacher = tab._visitors.of(None).teacher
    lesson = Lesson("lid", ("hybrid",), 12, teacher, state="failed", reason="-")
    monkeypatch.setattr(teacher, "start", lambda *_: lesson)
    visitor = gr.Request(headers={"accept-language": "en"})
    for given, kept in ((40, 40), (None, None)):
        list(tab.teach("Lid", [], None, ["hybrid"], None, given, visitor))
        assert saved_least_size(teacher.parts.folder / "lid") == kept == tab.kept_least_size("Lid", visitor)
    assert tab.kept_least_size("another", visitor) == gr.skip() == tab.kept_least_size(None, visitor)


def test_the_field_is_empty_until_somebody_fills_it(tab):
    visitor = gr.Request(headers={"accept-language": "en"})
    parts, empty, _ = tab.arrive(None, 0, visitor)  # Gradio sends 0 for an empty field at first
    assert parts["choices"] == [("lid", "lid")] and empty is None and tab.arrive(None, 40, visitor)[1] == gr.skip()


def test_reports_name_it(make_detector):
    plain, least = make_detector(SimpleNet), make_detector(SimpleNet, least_size=40)
    assert describe_least_size(plain, "en") == ""
    assert describe_least_size(least, "en") == " Regions of fewer than 40 pixels do not count."
    assert describe_least_size(least, "de") == " Stellen von weniger als 40 Pixeln zählen nicht."


def test_the_result_of_a_lesson_names_it(tab, make_detector, monkeypatch):
    teacher, detectors = tab._visitors.of(None).teacher, {"simplenet": make_detector(SimpleNet, least_size=40)}
    monkeypatch.setattr(teacher.catalog, "load", lambda label: detectors)
    lesson = Lesson("lid", ("simplenet",), 12, state=DONE, began=0.0, ended=1.0, teacher=teacher)
    assert "Regions of fewer than 40 pixels do not count." in teach_tab._result(lesson, "en")
