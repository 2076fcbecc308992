"""What a person knows better: false alarms are taken back at once, and can be undone."""

import io
import json

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from hubmodels import GLASS, SimpleNet, load
from hubmodels.hub.catalog import Catalog, list_own
from hubmodels.prediction import AnomalyPrediction
from webapp.corrections import FILE, Corrections
from webapp.inspect_tab import InspectTab
from webapp.own_parts import BAD, GOOD, Upload
from webapp.teaching import Teacher
from webapp.visitors import Everybody

LABEL = "own / lid"


def png(seed):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def teacher(make_detector, tmp_path):
    """A part that was taught, with two models of 99 normal scores each."""
    runs = tmp_path / "runs"
    for method in (SimpleNet, GLASS):
        detector = make_detector(method, dataset="own", category="lid")
        seen = [detector.predict(png(seed)) for seed in range(8)]
        scores = np.linspace(min(p.image_score for p in seen) - 1, max(p.image_score for p in seen) + 1, 99)
        detector.calibration.fit([AnomalyPrediction(float(s), np.full((2, 2), s, np.float32)) for s in scores], 0.01)
        folder = runs / f"{detector.method}-own-lid"
        detector.save_pretrained(folder)
        (folder / "metrics.json").write_text(json.dumps({"calibration": {"pictures": 99}}))
    teacher = Teacher(Catalog(lambda: list_own(runs)), runs, runs / "pictures")
    teacher.parts.add("lid", [Upload(f"{seed}.png", lambda seed=seed: png(seed)) for seed in range(3)])
    return teacher


@pytest.fixture
def false_alarm(teacher, tmp_path, monkeypatch):
    """An upload that all models call defective: their scores are moved up by its own."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    path = tmp_path / "uploads/strange.png"
    path.write_bytes(png(77))
    for folder in teacher.models.glob("*-own-lid"):
        detector = load(folder)
        shift = detector.calibration.image_scores.max() - detector.predict(path).image_score + 1
        for name in ("image_scores", "map_maxima"):
            setattr(detector.calibration, name, getattr(detector.calibration, name) - shift)
        detector.save_pretrained(folder)
    teacher.catalog.refresh()
    return {"path": str(path), "orig_name": "strange.png"}


def verdicts(teacher, upload):
    return [d.predict(upload["path"]).is_anomalous for d in teacher.catalog.load(LABEL).values()]


def test_a_false_alarm_is_taken_back_at_once_saved_and_undone(teacher, false_alarm):
    corrections = Corrections(teacher)
    before = {f.name: (f / "model.safetensors").read_bytes() for f in teacher.models.glob("*-own-lid")}
    assert verdicts(teacher, false_alarm) == [True, True]
    assert corrections.correct(LABEL, false_alarm["path"], good=True) == 2
    assert verdicts(teacher, false_alarm) == [False, False]
    assert len(teacher.parts.pictures("lid", GOOD)) == 4
    for folder in teacher.models.glob("*-own-lid"):  # a stranger who loads it sees it, too
        calibration = load(folder).calibration
        assert (calibration.size, calibration.total) == (99, 100)
        assert "taken back" in json.loads((folder / "metrics.json").read_text())["calibration"]["in_words"]
    assert not [p for p in teacher.models.iterdir() if p.suffix in (".new", ".1")]
    assert corrections.undo(LABEL) and not corrections.undo(LABEL)
    assert verdicts(teacher, false_alarm) == [True, True] and len(teacher.parts.pictures("lid", GOOD)) == 3
    after = {f.name: load(f).calibration.image_scores for f in teacher.models.glob("*-own-lid")}
    assert {name: len(scores) for name, scores in after.items()} == dict.fromkeys(before, 99)
    assert json.loads((teacher.models / "glass-own-lid" / FILE).read_text()) == []


def test_a_good_picture_that_was_called_good_changes_no_threshold(teacher, false_alarm):
    for folder in teacher.models.glob("*-own-lid"):
        detector = load(folder)
        detector.calibration.image_scores = detector.calibration.image_scores + 1000
        detector.save_pretrained(folder)
    teacher.catalog.refresh()
    corrections = Corrections(teacher)
    assert corrections.correct(LABEL, false_alarm["path"], good=True) == 0
    assert (
        len(teacher.parts.pictures("lid", GOOD)) == 4
        and load(teacher.models / "glass-own-lid").calibration.total == 99
    )
    assert corrections.undo(LABEL) and len(teacher.parts.pictures("lid", GOOD)) == 3


def test_a_missed_defect_is_a_known_one(teacher, false_alarm):
    assert Corrections(teacher).correct(LABEL, false_alarm["path"], good=False) == 0
    assert len(teacher.parts.pictures("lid", BAD)) == 1 and verdicts(teacher, false_alarm) == [True, True]


def test_only_parts_that_were_taught_here_are_corrected(teacher, false_alarm):
    corrections = Corrections(teacher)
    assert corrections.part_of(LABEL) == "lid"
    assert [corrections.part_of(label) for label in ("parts / lid", "own / other", None, "own / ../lid")] == [None] * 4
    with pytest.raises(ValueError, match="was not taught here"):
        corrections.correct("parts / lid", false_alarm["path"], good=True)


def test_the_page_offers_it_for_own_parts_and_says_what_happened(teacher, false_alarm):
    tab = InspectTab(teacher.catalog, [], Everybody(teacher.catalog, teacher))
    visitor = gr.Request(headers={"accept-language": "en"})
    report = tab.inspect(LABEL, false_alarm, None, visitor)[0]
    assert "This part is good" in report and "data-undo" not in report
    good = type("Event", (), {"good": True})()
    report = tab.correct(LABEL, false_alarm, None, good, visitor)[0]
    assert "Taken back. Such a part is no longer called defective" in report and "data-undo" in report
    assert "good ones of lid" in report and "Look again" in report
    report = tab.undo(LABEL, false_alarm, None, visitor)[0]
    assert "Taken back" not in report and verdicts(teacher, false_alarm) == [True, True]


def test_without_a_teacher_nothing_can_be_corrected(teacher, false_alarm):
    visitor = gr.Request(headers={"accept-language": "en"})
    tab = InspectTab(teacher.catalog, [])
    assert "This part is good" not in tab.inspect(LABEL, false_alarm, None, visitor)[0]
    with pytest.raises(gr.Error):
        tab.correct(LABEL, false_alarm, None, type("Event", (), {"good": True})(), visitor)
