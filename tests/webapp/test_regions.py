"""Shapes drawn on a picture -> the mask that training gets."""

import base64
import io
import re
import zipfile
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from hubmodels import SimpleNet
from hubmodels.hub.catalog import Catalog, list_own
from hubmodels.samples import Sample
from webapp import compare_tab, regions, teach_tab
from webapp.defect_check import DefectCheck
from webapp.inspection import inspect_picture
from webapp.inspection_report import render_report
from webapp.labelled_results import Outcome
from webapp.own_parts import Upload
from webapp.regions import checked_shapes, draw_mask, save_region, saved_shapes, share_that_counts
from webapp.results import BatchResults, write_download
from webapp.teach_tab import TeachTab, keep_region
from webapp.teaching import Lesson, Teacher
from webapp.visitors import Everybody


def shape(kind, *points, counts=False, width=0.0):
    return {"kind": kind, "counts": counts, "width": width, "points": [list(point) for point in points]}


LEFT = shape("rectangle", (0, 0), (0.5, 1))


def white(mask):
    return (np.asarray(mask) > 127).mean()


def test_what_is_ignored_is_black_and_the_rest_counts():
    mask = draw_mask([LEFT], (640, 480))
    assert mask.size == (1024, 768) and white(mask) == pytest.approx(0.5, abs=0.002)
    assert not np.asarray(mask)[:, :500].any() and np.asarray(mask)[:, 520:].all()


def test_if_something_counts_nothing_else_does():
    inner = shape("rectangle", (0.25, 0.25), (0.5, 0.5), counts=True)
    assert white(draw_mask([inner], (100, 100))) == pytest.approx(1 / 16, abs=0.002)
    hole = shape("rectangle", (0.25, 0.25), (0.5, 0.375))
    assert white(draw_mask([inner, hole], (100, 100))) == pytest.approx(1 / 32, abs=0.002)


def test_polygons_and_brushes():
    triangle = shape("polygon", (0, 0), (1, 0), (0, 1))
    assert white(draw_mask([triangle], (100, 100))) == pytest.approx(0.5, abs=0.005)
    line = shape("brush", (0.2, 0.5), (0.8, 0.5), width=0.1)
    assert 1 - white(draw_mask([line], (100, 100))) == pytest.approx(0.06 + np.pi * 0.05**2, abs=0.004)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "shapes",
        [7],
        [{"kind": "circle", "points": [[0, 0], [1, 1]]}],
        [{"kind": "rectangle", "points": [[0, 0], [9, 1]]}],
        [{"kind": "rectangle", "points": [[0], [1]]}],
        [{"kind": "rectangle", "points": [["a", 0], [1, 1]]}],
        [{"kind": "rectangle"}],
        [{"kind": "rectangle", "points": []}],
    ],
)
def test_what_cannot_be_drawn_is_dropped(bad):
    assert checked_shapes(bad) == []


def test_too_much_is_cut():
    many = [LEFT] * 1000
    assert len(checked_shapes(many)) == regions.MOST
    [long] = checked_shapes([shape("brush", *[(0.5, 0.5)] * 9000, width=float("inf"))])
    assert len(long["points"]) == regions.MOST_POINTS and long["width"] == 0.0


def test_the_share_is_that_of_the_model_and_nothing_is_zero():
    assert share_that_counts(draw_mask([LEFT], (100, 100))) == pytest.approx(0.5, abs=0.01)
    assert share_that_counts(draw_mask([shape("rectangle", (0, 0), (1, 1))], (100, 100))) == 0.0
    assert (
        share_that_counts(draw_mask([shape("brush", (0.1, 0.1), (0.1, 0.1), counts=True, width=0.004)], (9, 9))) == 0.0
    )


def test_a_region_is_kept_with_the_part_and_removed(tmp_path):
    save_region(tmp_path / "lid", [LEFT], (640, 480))
    assert saved_shapes(tmp_path / "lid") == [LEFT] and Image.open(tmp_path / "lid/region.png").size == (1024, 768)
    save_region(tmp_path / "lid", [], (640, 480))
    assert saved_shapes(tmp_path / "lid") == [] and not (tmp_path / "lid/region.png").exists()


@pytest.fixture
def tab(tmp_path):
    teacher = Teacher(Catalog(lambda: list_own(tmp_path / "runs")), tmp_path / "runs", tmp_path / "runs/pictures")
    stream = tmp_path / "one.png"
    Image.new("RGB", (64, 48), "grey").save(stream)
    teacher.parts.add("lid", [Upload("one.png", stream.read_bytes)])
    return TeachTab(Everybody(teacher.catalog, teacher))


def visitor():
    return gr.Request(headers={"accept-language": "en"})


def test_the_training_gets_the_region(tab):
    teacher = tab._visitors.of(visitor()).teacher
    assert "--region" not in teacher.command(Lesson("lid", ("hybrid",), 10))
    keep_region(teacher, "lid", {"shapes": [LEFT]})
    command = teacher.command(Lesson("lid", ("hybrid",), 10))
    assert command[command.index("--region") + 1].endswith("pictures/lid/region.png")
    keep_region(teacher, "lid", None)  # nothing was changed
    assert "--region" in teacher.command(Lesson("lid", ("hybrid",), 10))
    keep_region(teacher, "lid", {"shapes": []})
    assert "--region" not in teacher.command(Lesson("lid", ("hybrid",), 10))


def test_the_tab_shows_a_picture_and_how_much_counts(tab):
    value, said, size = tab.picture_to_draw("Lid", None, visitor())
    assert value["picture"].startswith("data:image/jpeg") and value["words"]["brush"] == "Brush" and said == ""
    assert tab.picture_to_draw("Other", None, visitor())[1] == "Add pictures first."
    drawing, said = tab.drawn("Lid", size, type("Event", (), {"shapes": [LEFT]})(), visitor())
    assert drawing["shapes"] == [LEFT] and said.replace("\xa0", " ") == "Share of the picture that counts: 50%."
    whole = type("Event", (), {"shapes": [shape("rectangle", (0, 0), (1, 1))]})()
    assert tab.drawn("Lid", size, whole, visitor())[1].startswith("Nothing is left that counts")
    later = drawing | {"number": 2}
    assert tab.drawn("Lid", size, whole, visitor(), later) == (gr.skip(), gr.skip())  # it was overtaken


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([LEFT] * 201, "more than 200 shapes"),
        ([shape("brush", *[(0.5, 0.5)] * 5001, width=0.1)], "more than 5000 points"),
    ],
)
def test_a_drawing_beyond_a_limit_is_refused_in_words_and_not_cut(tab, shapes, words, monkeypatch):
    drawing, said = tab.drawn("Lid", (64, 48), type("Event", (), {"shapes": shapes})(), visitor())
    assert words in said and "Press Undo" in said
    monkeypatch.setattr(teach_tab, "missing_packages", list)
    monkeypatch.setattr(teach_tab, "FEWEST", 1)
    *_, page = tab.teach("lid", None, None, ["hybrid"], drawing, None, visitor())
    assert words in page[0] and saved_shapes(tab._visitors.of(None).teacher.parts.folder / "lid") == []
    fewer = shapes[:200] if len(shapes) > 1 else [LEFT]
    drawing, said = tab.drawn("Lid", (64, 48), type("Event", (), {"shapes": fewer})(), visitor())
    assert said.startswith("Share of the picture") and drawing["shapes"] == fewer


def test_what_was_drawn_for_a_part_is_not_for_another(tab):
    drawing, _ = tab.drawn("Lid", (64, 64), type("Event", (), {"shapes": [LEFT]})(), visitor())
    assert tab.forget_drawing("Other", drawing, visitor()) == (None, None, "")
    assert tab.forget_drawing("Lid", drawing, visitor())[0] == gr.skip()
    before, _ = tab.drawn("", (64, 64), type("Event", (), {"shapes": [LEFT]})(), visitor())
    assert tab.forget_drawing("Lid", before, visitor())[0] == gr.skip()  # drawn before it had a name


def test_the_share_is_that_of_the_picture_and_not_of_a_square(tab):
    stroke = shape("brush", (0, 0.5), (1, 0.5), counts=True, width=0.03)
    event = type("Event", (), {"shapes": [stroke]})()
    for size in ((2000, 200), (640, 480)):
        _, said = tab.drawn("Lid", size, event, visitor())
        share = float(re.search(r"([\d.]+)\s?%", said)[1]) / 100
        assert share == pytest.approx(white(draw_mask([stroke], size)), rel=0.1)


@pytest.fixture
def inspect(make_detector, tmp_path):
    """Inspects a grey picture with a model for which the left part of it counts, as given in 64 columns."""

    def run(columns):
        detector = make_detector(SimpleNet, calibrated=False, region=True, dataset="own", category="lid")
        detector.front_end.region.set(torch.arange(64).expand(64, 64) < columns)
        detector.calibrate([Image.new("RGB", (64, 64), (level,) * 3) for level in (90, 100, 110)], 0.2)
        detector.save_pretrained(tmp_path / "runs/simplenet-own-lid")
        Image.new("RGB", (200, 100), "grey").save(tmp_path / "part.png")
        return inspect_picture(Catalog(lambda: list_own(tmp_path / "runs")), "own / lid", str(tmp_path / "part.png"))

    return run


def test_a_report_stripes_what_does_not_count(inspect):
    inspection = inspect(32)
    report = render_report(inspection, "own / lid", [], [], None, "en")
    [stripes] = re.findall(r'does not count"><img src="data:image/png;base64,([^"]+)"', report)
    alpha = np.asarray(Image.open(io.BytesIO(base64.b64decode(stripes))).convert("RGBA"))[..., 3]
    assert alpha.shape == (100, 200) and not alpha[:, :100].any() and 0.1 < (alpha[:, 100:] > 0).mean() < 0.6


def test_every_drawing_stripes_what_does_not_count(inspect, tmp_path, monkeypatch):
    """Download, batch, the missed defects of a lesson, and Compare."""
    drawings = [drawn(inspect(columns), tmp_path / str(columns), monkeypatch) for columns in (32, 64)]
    for name in drawings[0]:
        striped, whole = (np.asarray(each[name].convert("L"), int) for each in drawings)
        changed, half = np.abs(striped - whole) > 10, striped.shape[1] // 2
        left = changed.shape[1] - striped.shape[0] if name == "compare" else half
        assert changed.mean() > 0.05, name
        assert not changed[:, : left - 5].any(), name


def drawn(inspection, folder, monkeypatch):
    calm = {n: np.full(p.anomaly_map.shape, p.normal_level, np.float32) for n, p in inspection.predictions.items()}
    plain = {n: replace(p, map_source=calm[n], unsure_threshold=None) for n, p in inspection.predictions.items()}
    inspection = replace(inspection, predictions=plain)  # a ring would depend on the region
    calibrated = {name: replace(p, threshold=p.image_score + 1) for name, p in inspection.predictions.items()}
    missed = replace(inspection, predictions=calibrated)
    [first, *_] = next(iter(DefectCheck([("part.png", missed)]).missed("en").values()))
    found = {"missed": opened(base64.b64decode(first.picture.partition(",")[2]))}
    with zipfile.ZipFile(write_download(inspection, "zip", None, {})) as archive:
        found["download"] = opened(archive.read("simplenet_overlay.png"))
    defective = {name: replace(p, threshold=p.image_score - 1) for name, p in inspection.predictions.items()}
    with BatchResults(folder, {"category": "own / lid", "false_alarm_rate": None, "models": {}}) as results:
        [name] = results.add("part.png", replace(inspection, predictions=defective))["overlays"]
        results.finish()
        found["batch"] = opened(zipfile.ZipFile(results.zip_path).read(name))
    monkeypatch.setattr(compare_tab, "inspect_picture", lambda *_: inspection)
    outcome = Outcome(Sample("part.png", "part.png", "good", 0), "own / lid", 1.0, 1.0, True)
    return found | {"compare": compare_tab.Comparing(Catalog.bundled(), {})._panel("en", outcome)}


def opened(content):
    return Image.open(io.BytesIO(content))
