"""Lessons of the tab Teach with the real training and its folds, but without a browser."""

import io
import json
import sys
from functools import partial

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from quick_training import quick

from hubmodels.hub.catalog import Catalog, list_own
from webapp import teaching
from webapp.own_parts import Upload
from webapp.teach_tab import TeachTab
from webapp.teaching import Teacher
from webapp.visitors import Everybody

resource = pytest.importorskip("resource", reason="this system has no limits of file sizes")
pytestmark = pytest.mark.skipif(bool(teaching.missing_packages()), reason="the extra `train` is not installed")
ROOM = 100_000  # bytes that fit into a file of the full disk: less than the weights of a model have
FULL = f"""
import resource, runpy, sys

resource.setrlimit(resource.RLIMIT_FSIZE, ({ROOM}, {ROOM}))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def picture(seed):
    """A PNG: one texture, and a little noise."""
    texture, noise = (
        np.random.default_rng(each).integers(0, top, (64, 64, 3)) for each, top in ((99, 80), (seed, 12))
    )
    stream = io.BytesIO()
    Image.fromarray((80 + texture + noise).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    models = tmp_path_factory.mktemp("runs")
    teacher = Teacher(Catalog(lambda: list_own(models)), models, models / "pictures")
    teacher.parts.name("lid", "Lid")
    teacher.parts.add("lid", [Upload(f"{seed}.png", partial(picture, seed)) for seed in range(10)])
    return teacher


def taught(teacher, monkeypatch, methods, program=(), options=()):
    """All that the page says of a lesson."""
    command = teacher.command
    monkeypatch.setattr("webapp.teach_tab.EVERY", 0.1)
    monkeypatch.setattr(
        teacher,
        "command",
        lambda lesson: [sys.executable, *program, *quick(command(lesson), "--image-size", "64", *options)[1:]],
    )
    tab, request = TeachTab(Everybody(teacher.catalog, teacher)), gr.Request(headers={"accept-language": "en"})
    pages = tab.teach("lid", None, None, methods, None, None, request)
    return [page[1] for page in pages if isinstance(page[1], str)]


def files(teacher):
    """What is in the folder of models, without the pictures."""
    found = (path for path in teacher.models.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in found if teacher.parts.folder not in path.parents}


def test_a_lesson_with_folds_promises_what_all_pictures_allow(teacher, monkeypatch):
    said = taught(teacher, monkeypatch, ["hybrid"])
    assert "Lid is taught" in said[-1] and any("learning for the threshold, " in page for page in said)
    assert "With 10 pictures of good parts, 9.1% of good parts are called defective on average" in said[-1]
    assert "set this threshold" not in said[-1]  # all do
    [detector] = teacher.catalog.load("own / Lid").values()
    assert detector.calibration.size == 10
    report = json.loads((teacher.models / "hybrid-own-lid/metrics.json").read_text())
    assert report["training"]["folds"] == 5 and report["training"]["held_out"] == 0


def test_a_full_disk_leaves_the_model_of_before_and_lists_no_other(teacher, monkeypatch):
    before = files(teacher)
    assert before
    said = taught(teacher, monkeypatch, ["hybrid", "simplenet"], ["-c", FULL], ["--folds", "0", "--epochs", "1"])
    assert "is full. Free some space, and press Teach again." in said[-1]
    assert {path: content for path, content in files(teacher).items() if path in before} == before
    [entry] = teacher.entries("lid")
    assert entry.name == "hybrid-own-lid" and [*teacher.catalog.load(entry.label)] == ["hybrid"]
    assert [path.parent.name for path in teacher.models.glob("*/config.json")] == ["hybrid-own-lid"]
    assert len(teacher.parts.pictures("lid")) == 10
