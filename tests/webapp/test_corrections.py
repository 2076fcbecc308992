"""What a person knows better: false alarms are taken back at once, and can be undone."""

import io
import json
import queue
import re
import shutil
import sys
import threading
import zipfile
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import gradio as gr
import numpy as np
import pytest
from batch_page import read_csv, served, start
from browser import photograph, visit
from PIL import Image
from small_report import REPORT, describe

from hubmodels import GLASS, ModelError, PictureError, SimpleNet, load
from hubmodels.hub.catalog import Catalog, list_own
from hubmodels.line.line import sha256_of
from hubmodels.line.log import InspectionLog
from hubmodels.prediction import AnomalyPrediction
from training.publishing.card import card_of, write_card
from webapp.batch_tab import _Batches
from webapp.compare_tab import Comparing
from webapp.corrections import FILE, Corrections, LessonRunsError, what_followed
from webapp.inspect_tab import InspectTab
from webapp.inspection import Asked
from webapp.live_tab import DEVICE, LiveTab
from webapp.own_models import pack
from webapp.own_parts import BAD, GOOD, Upload
from webapp.page import arrive
from webapp.page_log import NotLoggedError, PageLog
from webapp.plain_requests import CategoryLine
from webapp.teach_tab import TeachTab
from webapp.teaching import DONE, Teacher
from webapp.visitors import Everybody

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
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
        calibration = REPORT["calibration"] | {"pictures": 99, "in_words": detector.calibration.describe()}
        describe(folder, method=detector.method, dataset="own", category="lid", calibration=calibration)
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
    """Of each method; a plain request gives the same."""
    plain = CategoryLine(teacher.catalog, LABEL).judge("strange.png", Path(upload["path"]).read_bytes())
    found = [d.predict(upload["path"]).is_anomalous for d in teacher.catalog.load(LABEL).values()]
    assert [numbers["is_anomalous"] for numbers in plain["methods"].values()] == found
    return found


def test_a_false_alarm_is_taken_back_at_once_saved_and_undone(teacher, false_alarm):
    corrections = Corrections(teacher)
    before = {f.name: (f / "model.safetensors").read_bytes() for f in teacher.models.glob("*-own-lid")}
    assert verdicts(teacher, false_alarm) == [True, True]
    assert corrections.correct(LABEL, false_alarm["path"], good=True).raised == 2
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


def test_the_cards_state_the_new_promise_and_after_undo_the_old_one(teacher, false_alarm, tmp_path):
    corrections, folders = Corrections(teacher), sorted(teacher.models.glob("*-own-lid"))
    for folder in folders:
        write_card(folder)
    before = [(folder / "README.md").read_text() for folder in folders]
    corrections.correct(LABEL, false_alarm["path"], good=True)
    cards = [(folder / "README.md").read_text() for folder in folders]
    with zipfile.ZipFile(pack(folders, tmp_path / "lid.zip")) as archive:
        assert [archive.read(f"{folder.name}/README.md").decode() for folder in folders] == cards
    for folder, old, new in zip(folders, before, cards, strict=True):
        said = load(folder).calibration.describe()
        assert "raised for 1 false alarm taken back" in said and f"\nIt {said}. The last 1 came after the test" in new
        assert "taken back" not in old and f"\nIt {said.partition(', and raised')[0]}.\n" not in new
        assert new == card_of(folder)  # what is pushed is rendered from the report
    corrections.undo(LABEL)
    assert [(folder / "README.md").read_text() for folder in folders] == before


@pytest.mark.parametrize("written", ["My lids.\n", None])
def test_a_card_that_a_person_wrote_or_deleted_states_the_promise_too(teacher, false_alarm, written):
    folder, corrections = teacher.models / "glass-own-lid", Corrections(teacher)
    (folder / "README.md").write_text(written) if written else (folder / "README.md").unlink()
    corrections.correct(LABEL, false_alarm["path"], good=True)
    said, text = load(folder).calibration.describe(), (folder / "README.md").read_text()
    assert text.startswith(written or "") and text.count("It flags") == 1 and f"It {said}. The last 1" in text
    corrections.undo(LABEL)
    text = (folder / "README.md").read_text()
    assert text.count("It flags") == 1 and f"It {load(folder).calibration.describe()}.\n" in text


def test_a_good_picture_that_was_called_good_changes_no_threshold(teacher, false_alarm):
    for folder in teacher.models.glob("*-own-lid"):
        detector = load(folder)
        detector.calibration.image_scores = detector.calibration.image_scores + 1000
        detector.save_pretrained(folder)
    teacher.catalog.refresh()
    corrections = Corrections(teacher)
    assert corrections.correct(LABEL, false_alarm["path"], good=True).raised == 0
    assert (
        len(teacher.parts.pictures("lid", GOOD)) == 4
        and load(teacher.models / "glass-own-lid").calibration.total == 99
    )
    assert corrections.undo(LABEL) and len(teacher.parts.pictures("lid", GOOD)) == 3


def test_a_missed_defect_is_a_known_one(teacher, false_alarm):
    assert Corrections(teacher).correct(LABEL, false_alarm["path"], good=False).raised == 0
    assert len(teacher.parts.pictures("lid", BAD)) == 1 and verdicts(teacher, false_alarm) == [True, True]


def test_a_corrected_picture_that_was_removed_is_no_mark_and_can_be_corrected_and_undone(teacher, false_alarm):
    corrections, parts = Corrections(teacher), teacher.parts
    corrections.correct(LABEL, false_alarm["path"], good=True)
    [one] = (one for one in parts.kept("lid") if one.kind == "corrected")
    assert parts.remove("lid", one.place) and corrections.said(LABEL) == {}
    assert verdicts(teacher, false_alarm) == [False, False]  # the threshold stays until the next lesson
    assert corrections.correct(LABEL, false_alarm["path"], good=True).raised == 0  # it is raised once
    assert corrections.said(LABEL) == {one.path.stem: "good"}
    parts.remove("lid", one.place)
    while corrections.undo(LABEL):
        pass
    assert verdicts(teacher, false_alarm) == [True, True] and len(parts.pictures("lid")) == 3


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
    assert "such a part is no longer called defective" in report and "data-undo" in report
    assert "good ones of lid" in report and "Look again" in report and 'data-teach="again"' in report
    assert tab.lead_to_teach(LABEL, SimpleNamespace(again=True), visitor)[1] == "lid"
    assert tab.lead_to_teach(LABEL, SimpleNamespace(again=False), visitor)[1] is None
    report = tab.undo(LABEL, false_alarm, None, visitor)[0]
    assert "Taken back" not in report and verdicts(teacher, false_alarm) == [True, True]


def test_corrections_are_logged_and_one_that_cannot_be_logged_is_not_made(teacher, false_alarm, tmp_path, monkeypatch):
    log = InspectionLog(tmp_path / "log")
    corrections, seen = Corrections(teacher, PageLog(log)), sha256_of(Path(false_alarm["path"]).read_bytes())
    corrections.correct(LABEL, false_alarm["path"], good=True)
    assert corrections.undo(LABEL)
    kept = [(line["event"], line["verdict"], line["sha256"]) for line in log.lines()]
    assert kept == [("correction", "good", seen), ("undone", "good", seen)]
    monkeypatch.setattr(InspectionLog, "add", lambda *_: full())
    with pytest.raises(NotLoggedError):
        corrections.correct(LABEL, false_alarm["path"], good=True)
    assert verdicts(teacher, false_alarm) == [True, True] and len(teacher.parts.pictures("lid", GOOD)) == 3


def test_a_false_alarm_of_a_camera_is_taken_back_and_undone(teacher, false_alarm):
    tab = LiveTab(Everybody(teacher.catalog, teacher))
    visitor = gr.Request(headers={"accept-language": "en"}, session_hash="me")
    (begun,) = tab.start(LABEL, None, DEVICE, None, visitor)
    said = {"run": begun["run"], "number": 1, "good": True}
    url = f"data:image/png;base64,{b64encode(Path(false_alarm['path']).read_bytes()).decode()}"
    seen = tab.see(SimpleNamespace(picture=url, seconds=0.0, now=True, **said), visitor)
    assert "<strong>1</strong> Defective" in seen["report"] and 'data-correct="good"' in seen["report"]
    report = tab.correct(SimpleNamespace(**said), visitor)["report"]
    assert "such a part is no longer called defective" in report and "data-undo" in report
    assert "Look again" in report and "Defective</section>" not in report and len(teacher.parts.pictures("lid")) == 4
    report = tab.see(SimpleNamespace(picture=url, seconds=9.0, now=True, **said), visitor)["report"]
    assert "Picture 1: " in report and "data-undo" in report  # the next part does not hide what can be undone
    report = tab.undo(SimpleNamespace(**said), visitor)["report"]
    assert "<strong>2</strong> Defective" in report and "Picture 1: " not in report
    assert verdicts(teacher, false_alarm) == [True, True]


def test_an_own_part_without_a_picture_shows_a_good_one_to_its_visitor_alone(teacher):
    visitor, place = gr.Request(headers={"accept-language": "en"}), Everybody(teacher.catalog, teacher)
    report = InspectTab(teacher.catalog, [], place).inspect(LABEL, None, None, visitor)[0]
    assert "one of the good pictures that lid was taught with" in report and report.count('class="method"') == 2
    assert "data-correct" not in report and "data-download" not in report
    assert "Choose a category" in InspectTab(teacher.catalog, []).inspect(LABEL, None, None, visitor)[0]


def test_a_picture_of_something_else_leads_to_teach(teacher, false_alarm, monkeypatch):
    monkeypatch.setattr("hubmodels.appearance.LIMIT", 0.0)  # every picture shows something else
    tab, visitor = InspectTab(teacher.catalog, [], Everybody(teacher.catalog, teacher)), gr.Request(headers={})
    for words in ("data-teach>Teach it as another part<", "data-teach>Teach this part<"):
        report = tab.inspect(LABEL, false_alarm, None, visitor)[0]
        assert "does not look like lid" in report and words in report
        monkeypatch.setattr(Corrections, "part_of", lambda self, label: None)  # of somebody else


def test_without_a_teacher_nothing_can_be_corrected(teacher, false_alarm):
    visitor = gr.Request(headers={"accept-language": "en"})
    tab = InspectTab(teacher.catalog, [])
    assert "This part is good" not in tab.inspect(LABEL, false_alarm, None, visitor)[0]
    with pytest.raises(gr.Error):
        tab.correct(LABEL, false_alarm, None, type("Event", (), {"good": True})(), visitor)


@pytest.mark.parametrize("rate", [0, 2, float("nan"), "0.1", [0.1]])
@pytest.mark.parametrize("good", [True, False])
def test_an_absurd_rate_corrects_nothing(teacher, false_alarm, good, rate):
    tab = InspectTab(teacher.catalog, [], Everybody(teacher.catalog, teacher))
    event, visitor = SimpleNamespace(good=good, rate=rate), gr.Request(headers={"accept-language": "en"})
    with pytest.raises(gr.Error):
        tab.correct(LABEL, false_alarm, None, event, visitor)
    assert len(teacher.parts.pictures("lid", GOOD)) == 3 and teacher.parts.pictures("lid", BAD) == []


def test_a_picture_that_is_there_already_stays_after_undo(teacher, false_alarm):
    teacher.parts.add("lid", [Upload("strange.png", lambda: png(77))])
    corrections = Corrections(teacher)
    assert corrections.correct(LABEL, false_alarm["path"], good=True).raised == 2
    assert corrections.undo(LABEL) and verdicts(teacher, false_alarm) == [True, True]
    assert len(teacher.parts.pictures("lid", GOOD)) == 4


def test_undo_of_a_known_defect_leaves_the_thresholds(teacher, false_alarm):
    corrections = Corrections(teacher)
    corrections.correct(LABEL, false_alarm["path"], good=True)
    corrections.correct(LABEL, false_alarm["path"], good=False)  # the same bytes, and the same name in another folder
    assert corrections.undo(LABEL) and verdicts(teacher, false_alarm) == [False, False]
    assert teacher.parts.pictures("lid", BAD) == [] and len(teacher.parts.pictures("lid", GOOD)) == 4


def test_all_steps_are_undone_also_after_a_restart(teacher, false_alarm):
    for good in (True, False):
        Corrections(teacher).correct(LABEL, false_alarm["path"], good=good)
    tab, visitor = InspectTab(teacher.catalog, [], Everybody(teacher.catalog, teacher)), gr.Request(headers={})
    report = tab.inspect(LABEL, false_alarm, None, visitor)[0]
    assert "belongs to the known defects" in report and "data-undo" in report
    assert "You said earlier that this part is good" in tab.undo(LABEL, false_alarm, None, visitor)[0]
    report = tab.undo(LABEL, false_alarm, None, visitor)[0]
    assert "You said" not in report and "data-undo" not in report
    assert verdicts(teacher, false_alarm) == [True, True] and len(teacher.parts.pictures("lid", GOOD)) == 3
    assert not Corrections(teacher).undo(LABEL)


def test_a_picture_of_something_else_is_no_false_alarm(teacher, false_alarm, monkeypatch):
    monkeypatch.setattr("hubmodels.appearance.LIMIT", 0.0)  # every picture shows something else
    tab, visitor = InspectTab(teacher.catalog, [], Everybody(teacher.catalog, teacher)), gr.Request(headers={})
    with pytest.raises(gr.Error, match="Not corrected, because this picture does not look like lid"):
        tab.correct(LABEL, false_alarm, None, SimpleNamespace(good=True), visitor)
    assert verdicts(teacher, false_alarm) == [True, True] and len(teacher.parts.pictures("lid", GOOD)) == 3
    tab.correct(LABEL, false_alarm, None, SimpleNamespace(good=False), visitor)  # a part in pieces is a defect
    assert len(teacher.parts.pictures("lid", BAD)) == 1


def test_a_correction_says_what_it_costs(teacher, false_alarm):
    """Known defects that are found before and missed now."""
    teacher.parts.add("lid", [Upload(f"{seed}.png", lambda seed=seed: png(seed)) for seed in range(200, 204)], BAD)
    before = [verdicts(teacher, {"path": path}) for path in teacher.parts.pictures("lid", BAD)]
    tab, visitor = InspectTab(teacher.catalog, [], Everybody(teacher.catalog, teacher)), gr.Request(headers={})
    report = tab.correct(LABEL, false_alarm, None, SimpleNamespace(good=True), visitor)[0]
    now = [verdicts(teacher, {"path": path}) for path in teacher.parts.pictures("lid", BAD)]
    assert sum(map(sum, now)) < sum(map(sum, before))
    for column, title in enumerate(("SimpleNet", "GLASS")):
        found = sum(row[column] for row in before), sum(row[column] for row in now)
        assert f"{title} found {found[0]} of 4 known defects before, and finds {found[1]} now." in report
    assert Corrections(teacher).undo(LABEL)
    assert [verdicts(teacher, {"path": path}) for path in teacher.parts.pictures("lid", BAD)] == before


def test_what_cannot_be_read_is_no_known_defect(teacher, false_alarm):
    Path(false_alarm["path"]).write_bytes(b"no picture")
    with pytest.raises(PictureError):
        Corrections(teacher).correct(LABEL, false_alarm["path"], good=False)
    assert teacher.parts.pictures("lid", BAD) == []


# ---------------------------------------------------------------- known defects without a lesson


@pytest.fixture
def bad(false_alarm, tmp_path):
    """Three uploads that all models call defective: other files with the same pixels."""
    paths = [tmp_path / f"uploads/bad{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(Path(false_alarm["path"]).read_bytes() + bytes([i]))
    return [{"path": str(path), "orig_name": path.name} for path in paths]


def judge(teacher, files, language="en", part="lid"):
    visitor = gr.Request(headers={"accept-language": language})
    return [*TeachTab(Everybody(teacher.catalog, teacher)).judge(part, files, visitor)]


def test_known_defects_are_checked_without_a_lesson(teacher, bad, false_alarm):
    broken = Path(bad[0]["path"]).with_name("broken.png")
    broken.write_bytes(b"no picture")
    pages = judge(teacher, [*bad, {"path": str(broken), "orig_name": "broken.png"}])
    assert "Checking known defects: 2 of 3." in pages[2][0] and pages[-1][2] is None
    said = pages[-1][0].replace("\xa0", " ")
    assert "lid was checked with known defects: 3." in said and "Cannot be read (1): broken.png" in said
    assert "SimpleNet finds 3 of 3 known defects (of all such defects, 44% to 100%) at 1% false alarms." in said
    assert "Look again" not in said and "<img" not in said
    assert len(teacher.parts.pictures("lid", BAD)) == 3 and teacher.lessons() == []
    Corrections(teacher).correct(LABEL, false_alarm["path"], good=True)
    said = judge(teacher, None, "de")[-1][0].replace("\xa0", " ")  # those that the part has
    assert "GLASS findet 0 von 3 bekannten Fehlern" in said
    assert "„Noch einmal ansehen“ bei den übrigen: 3." in said
    assert said.count("<img") == 6 and "Von GLASS übersehen" in said


@pytest.mark.parametrize(
    ("part", "count", "most", "message"),
    [
        ("lid", 2, 50, "takes 3 to 50 known defects"),
        ("lid", 0, 50, "Known defects are missing. Add 3 to 50"),
        ("lid", 3, 2, "There are 3 new known defects. Give at most 2"),
        ("cap", 3, 50, "no models. Teach it first"),
        ("", 3, 50, "no models. Teach it first"),
        ("", 0, 50, "Known defects are missing"),
    ],
)
def test_a_check_needs_a_taught_part_and_some_defects(teacher, bad, part, count, most, message, monkeypatch):
    monkeypatch.setattr("webapp.defect_check.MOST", most)
    _, (status, refused, _) = judge(teacher, [*bad[:count], *bad[:count]], part=part)  # doubled ones count once
    assert message in refused and teacher.parts.pictures("lid", BAD) == [] and isinstance(status, dict)


def test_no_check_while_a_part_is_taught(teacher, bad, monkeypatch):
    monkeypatch.setattr(teacher, "lessons", lambda: ["one"])
    assert "being taught" in judge(teacher, bad)[-1][1] and teacher.parts.pictures("lid", BAD) == []


# ---------------------------------------------------------------- in a batch


class Visitor:
    """A visitor of the tab Batch, who inspects and corrects."""

    def __init__(self, teacher, language="en"):
        everybody = Everybody(teacher.catalog, teacher)
        self.everybody, self.corrections = everybody, everybody.of(None).corrections
        self.batches = _Batches(teacher.catalog, everybody)
        self.request = SimpleNamespace(headers={"accept-language": language}, session_hash="me")

    def inspect(self, uploads, percent=1):
        self.table = list(self.batches.run(LABEL, uploads, percent, None, self.request))[-1][1]
        return self.table["rows"]

    def correct(self, number, good):
        self.answer = self.batches.correct(
            SimpleNamespace(run=self.table["run"], number=number, good=good), self.request
        )
        self.table = self.answer[1]

    def follow(self):
        """The tab is opened again."""
        answer = self.batches.follow(self.request)
        self.table = answer[1] if "rows" in answer[1] else self.table
        return answer

    def undo(self):
        self.answer = self.batches.undo(SimpleNamespace(run=self.table["run"]), self.request)
        self.table = self.answer[1]

    @property
    def results(self):
        return [row["cells"][0]["text"] for row in self.table["rows"]]

    @property
    def said(self):
        return "\n".join(self.table["note"]["lines"]).replace("\xa0", " ")


@pytest.fixture
def alike(false_alarm, tmp_path):
    """The false alarm; another one that is a little less unusual, with the same pixels in another file; and a part."""
    almost = tmp_path / "uploads/almost.png"
    almost.write_bytes(Path(false_alarm["path"]).read_bytes() + b"another file")
    broken = tmp_path / "uploads/broken.png"
    broken.write_bytes(b"no picture")
    others = [{"path": str(path), "orig_name": path.name} for path in (almost, broken)]
    return [false_alarm, *others]


def test_a_correction_in_a_batch_changes_all_rows_and_the_files(teacher, alike):
    person = Visitor(teacher)
    rows = person.inspect(alike)
    assert person.results[:2] == ["Defective"] * 2 and person.table["can_correct"]
    assert not read_csv(Path(person.batches._kept["me"]._results.csv_path))[0]["correction"]
    person.correct(1, good=True)
    assert "strange.png: Taken back." in person.said and "good ones of lid" in person.said
    assert "judged with the old threshold" in person.said and "Rows with another result: 1" in person.said
    assert "SimpleNet: On average 1% of good parts" in person.said and "taken back so far: 1." in person.said
    after = person.table["rows"]
    assert person.results[:2] == ["Look again"] * 2 and after[0]["correction"] == "Corrected: good"
    assert [row["revision"] for row in after] == [1, 1, 0] and after[1]["correction"] is None
    assert "<b>2</b> Look again" in person.answer[0]
    csv_path, zip_path = (Path(update["value"]) for update in person.answer[2:])
    first, second, third = read_csv(csv_path)
    assert [row["result"] for row in (first, second, third)] == ["Look again", "Look again", "Not inspected"]
    assert [row["correction"] for row in (first, second, third)] == ["Good", "", ""]
    assert first["glass_threshold"] == first["glass_image_score"] and first["earlier_regions"] == "True"
    with zipfile.ZipFile(zip_path) as archive:
        assert len([name for name in archive.namelist() if name.startswith("overlays/")]) == 4
        assert len(archive.namelist()) == len(set(archive.namelist())) == 6
        pictures = json.loads(archive.read("results.json"))["pictures"]
    assert [row.get("correction") for row in pictures] == ["good", None, None]
    assert pictures[1]["methods"]["GLASS"]["is_anomalous"] is False
    person.undo()
    assert [row["cells"] for row in person.table["rows"]] == [row["cells"] for row in rows]
    assert "undone" in person.said and not person.table["note"]["can_undo"]
    (first, *_) = read_csv(Path(person.answer[2]["value"]))
    assert not first["correction"] and not first["earlier_regions"]
    assert len(teacher.parts.pictures("lid", GOOD)) == 3 and not csv_path.exists()


def test_a_row_is_corrected_once_and_only_if_it_was_inspected(teacher, alike):
    person = Visitor(teacher)
    person.inspect(alike)
    for number in (3, 0, 4, "1", None):
        person.correct(number, good=True)
        assert person.said == ""
    person.correct(1, good=False)
    assert "known defects of lid" in person.said and person.results[0] == "Defective"
    assert person.table["rows"][0]["correction"] == "Known defect"
    person.correct(1, good=True)
    assert len(teacher.parts.pictures("lid", GOOD)) == 3 and verdicts(teacher, alike[0]) == [True, True]


def test_a_running_batch_is_corrected_and_goes_on_with_the_new_threshold(teacher, alike, monkeypatch):
    monkeypatch.setattr("webapp.batch_tab.SHOWN_EVERY", 0)
    person = Visitor(teacher, "de")
    pages = person.batches.run(LABEL, alike, 1, None, person.request)
    next(pages)
    person.table = next(pages)[1]
    assert person.results == ["Fehlerhaft"]
    person.correct(1, good=True)
    assert person.results == ["Noch einmal ansehen"] and "Zeilen mit anderem Ergebnis: 0" in person.said
    *_, (_, person.table, _, _, csv_file, _) = pages
    assert person.results[:2] == ["Noch einmal ansehen"] * 2 and "Zurückgenommen" in person.said
    assert [row["Korrektur"] for row in read_csv(Path(csv_file["value"]), ";")] == ["Gut", "", ""]


@pytest.mark.parametrize(
    ("good", "raised", "still", "key"),
    [
        (False, 0, True, "corrected_bad"),
        (True, 1, False, "corrected_good"),
        (True, 2, True, "corrected_still"),
        (True, 0, False, "corrected_kept"),
        (True, 0, True, "corrected_still"),  # taken back before
    ],
)
def test_the_note_says_what_followed(good, raised, still, key):
    assert what_followed(good, raised, still) == key


def test_a_row_of_a_part_that_was_taught_again_is_inspected_again():
    assert what_followed(True, 0, still=True, is_of_today=False) == "corrected_otherwise"


def move_down(teacher, path, above):
    """Makes so many of the 99 normal scores at least those of a picture."""
    for folder in teacher.models.glob("*-own-lid"):
        detector = load(folder)
        scores = detector.calibration.image_scores
        shift = detector.predict(path).image_score - (scores[98 - above] + scores[99 - above]) / 2
        for name in ("image_scores", "map_maxima"):
            setattr(detector.calibration, name, getattr(detector.calibration, name) + shift)
        detector.save_pretrained(folder)
    teacher.catalog.refresh()


@pytest.mark.parametrize(
    ("rate", "raised", "said"),
    [
        (0.01, False, "is not called defective, so nothing else changed"),
        (0.05, True, "no longer called defective"),
        (0.1, True, "still called defective, because so many false alarms are accepted. Below 6% it is not."),
    ],
)
def test_the_rate_that_is_shown_decides_and_words_and_verdict_agree(teacher, false_alarm, rate, raised, said):
    """Four of 99 normal scores are above the picture's: an alarm from 5 % on, and after a correction from 6 % on."""
    move_down(teacher, false_alarm["path"], 4)
    tab = InspectTab(teacher.catalog, [], Everybody(teacher.catalog, teacher))
    event, visitor = SimpleNamespace(good=True, rate=rate), gr.Request(headers={"accept-language": "en"})
    report = tab.correct(LABEL, false_alarm, None, event, visitor, Asked(rate))[0].replace("\xa0", " ")
    start = re.search(r'data-start="(\d+)"', report)[1]
    (tone,) = re.findall(rf'headline (\w+)" data-step="{start}"', report)
    assert said in report and (tone == "defective") == ("still" in said)
    calibration = load(teacher.models / "glass-own-lid").calibration
    assert calibration.total == 99 + raised
    tab.undo(LABEL, false_alarm, None, visitor)
    assert load(teacher.models / "glass-own-lid").calibration.total == 99


def test_a_batch_corrects_at_its_own_rate(teacher, alike):
    move_down(teacher, alike[0]["path"], 4)
    person = Visitor(teacher)
    person.inspect(alike, percent=5)
    assert person.results[:2] == ["Defective"] * 2
    person.correct(1, good=True)
    assert person.results[:2] == ["Look again"] * 2 and "no longer called defective" in person.said
    person.inspect(alike, percent=6)
    assert person.results[:2] == ["Defective"] * 2
    person.correct(1, good=True)
    assert person.results[:2] == ["Defective"] * 2 and "It is still called defective" in person.said  # it counts once


def test_a_picture_counts_once_and_a_second_click_keeps_the_undo_of_the_first(teacher, false_alarm):
    corrections, folder = Corrections(teacher), teacher.models / "glass-own-lid"
    assert corrections.correct(LABEL, false_alarm["path"], good=True).raised == 2
    for rate in (None, 0.5, 0.9):
        assert corrections.correct(LABEL, false_alarm["path"], good=True, rate=rate).raised == 0
    assert load(folder).calibration.total == 100 and len(json.loads((folder / FILE).read_text())) == 1
    assert corrections.undo(LABEL) and verdicts(teacher, false_alarm) == [True, True]
    assert len(teacher.parts.pictures("lid", GOOD)) == 3 and not corrections.undo(LABEL)


def test_the_later_word_replaces_the_earlier_one(teacher, false_alarm):
    corrections = Corrections(teacher)
    corrections.correct(LABEL, false_alarm["path"], good=True)
    corrections.correct(LABEL, false_alarm["path"], good=False)
    assert [len(teacher.parts.pictures("lid", kind)) for kind in (GOOD, BAD)] == [3, 1]
    assert verdicts(teacher, false_alarm) == [True, True]
    corrections.undo(LABEL)
    assert [len(teacher.parts.pictures("lid", kind)) for kind in (GOOD, BAD)] == [4, 0]
    assert verdicts(teacher, false_alarm) == [False, False]


@pytest.mark.parametrize("fails", ["the second folder", "no report", "no models"])
def test_a_correction_that_fails_changes_nothing_and_can_be_repeated(teacher, false_alarm, monkeypatch, fails):
    corrections, report = Corrections(teacher), teacher.models / "glass-own-lid/metrics.json"
    content = report.read_bytes()
    with monkeypatch.context() as patch:
        if fails == "the second folder":
            copy, copied = shutil.copytree, []
            patch.setattr(shutil, "copytree", lambda *a: copied.append(a) or (copy(*a) if len(copied) < 2 else full()))
        elif fails == "no report":
            report.unlink()
        else:
            patch.setattr(Catalog, "load", Mock(side_effect=ModelError("the model is gone")))
        with pytest.raises((OSError, ModelError)):
            corrections.correct(LABEL, false_alarm["path"], good=True)
    report.write_bytes(content)
    assert verdicts(teacher, false_alarm) == [True, True]
    assert len(teacher.parts.pictures("lid", GOOD)) == 3 and not corrections.undo(LABEL)
    assert not [path for path in teacher.models.iterdir() if path.suffix == ".new"]
    assert corrections.correct(LABEL, false_alarm["path"], good=True).raised == 2


def full():
    raise OSError("no space left")


def test_nothing_is_corrected_while_the_part_is_taught(teacher, false_alarm, monkeypatch):
    corrections = Corrections(teacher)
    corrections.correct(LABEL, false_alarm["path"], good=True)
    monkeypatch.setattr(teacher, "current", lambda part: object())
    for change in (lambda: corrections.undo(LABEL), lambda: corrections.correct(LABEL, false_alarm["path"], True)):
        with pytest.raises(LessonRunsError):
            change()
    monkeypatch.undo()
    assert len(teacher.parts.pictures("lid", GOOD)) == 4


def test_a_row_follows_what_was_corrected_elsewhere(teacher, alike):
    person = Visitor(teacher)
    person.inspect(alike)
    person.corrections.correct(LABEL, alike[1]["path"], good=True)
    person.correct(1, good=True)
    assert person.results[:2] == ["Look again"] * 2 and "so nothing else changed" not in person.said
    assert "corrected in another place" in person.said and "Rows with another mark or result: 2" in person.said
    assert "strange.png: The picture belongs to the good ones of lid now. It was not called" in person.said
    assert [row["correction"] for row in person.table["rows"][:2]] == ["Corrected: good"] * 2


def test_a_correction_in_inspect_marks_the_row_that_was_opened(teacher, alike):
    person = Visitor(teacher)
    rows = person.inspect(alike)
    assert person.follow() == [gr.skip()] * 4  # nothing was corrected
    opened = person.batches.open(SimpleNamespace(run=person.table["run"], number=1), person.request)
    tab = InspectTab(teacher.catalog, [], person.everybody)
    inputs = opened[1], {"path": opened[2], "orig_name": "strange.png"}, opened[3]
    tab.correct(*inputs, SimpleNamespace(good=True, rate=0.01), person.request)
    status, table, csv_file, _ = person.follow()
    assert person.results[:2] == ["Look again"] * 2 and "<b>2</b> Look again" in status
    assert [row.get("correction") for row in table["rows"]] == ["Corrected: good", None, None]
    assert [row["is_free"] for row in table["rows"][:2]] == [False, True]
    assert [row["correction"] for row in read_csv(Path(csv_file["value"]))] == ["Good", "", ""]
    person.correct(1, good=True)
    assert "so nothing else changed" not in person.said and len(teacher.parts.pictures("lid", GOOD)) == 4
    tab.undo(*inputs, person.request)
    person.follow()
    assert [row["cells"] for row in person.table["rows"]] == [row["cells"] for row in rows]
    assert person.table["rows"][0]["correction"] is None and person.table["rows"][0]["is_free"]


def test_a_correction_of_the_batch_that_is_undone_in_inspect_cannot_be_undone_again(teacher, alike):
    person = Visitor(teacher)
    person.inspect(alike)
    person.correct(1, good=True)
    person.corrections.undo(LABEL)
    person.follow()
    assert not person.table["note"]["can_undo"] and person.results[:2] == ["Defective"] * 2


def test_a_correction_elsewhere_that_changes_no_result_leaves_no_dead_downloads(teacher, alike):
    """At 20 % both pictures stay alarms, but the threshold is another one, and so the files are others."""
    person = Visitor(teacher)
    person.inspect(alike[:1], percent=20)
    person.corrections.correct(LABEL, alike[1]["path"], good=True, rate=0.2)
    _, _, *files = person.follow()
    assert person.results == ["Defective"] and all(Path(file["value"]).is_file() for file in files)


def test_a_row_to_look_at_again_becomes_a_known_defect(teacher, alike):
    person = Visitor(teacher)
    person.inspect(alike)
    person.correct(1, good=True)
    assert person.results[1] == "Look again"
    person.correct(2, good=False)
    assert person.results[:2] == ["Look again", "Look again"]  # what the model says; the mark is the person's word
    assert person.table["rows"][1]["correction"] == "Known defect" and "<b>2</b> Look again" in person.answer[0]
    row = read_csv(Path(person.answer[2]["value"]))[1]
    assert (row["result"], row["correction"]) == ("Look again", "Defective")
    person.undo()
    assert person.results[1] == "Look again" and person.table["rows"][1]["correction"] is None


def test_a_new_batch_marks_what_a_person_has_said(teacher, alike):
    teacher.parts.add("lid", [Upload("known.png", Path(alike[1]["path"]).read_bytes)], BAD)
    Visitor(teacher).corrections.correct(LABEL, alike[0]["path"], good=True)
    person = Visitor(teacher)  # after a restart
    rows = person.inspect(alike)
    assert [row.get("correction") for row in rows] == ["Corrected: good", "Known defect", None]
    assert person.results[1] == "Look again" and all(row["is_free"] for row in rows[:2])
    person.correct(2, good=True)
    assert [row["correction"] for row in person.table["rows"][:2]] == ["Corrected: good"] * 2
    assert not person.table["rows"][1]["is_free"]
    person.undo()
    assert person.table["rows"][1]["correction"] == "Known defect" and person.table["rows"][1]["is_free"]


def test_a_part_that_was_taught_again_leaves_the_rows(teacher, alike):
    person = Visitor(teacher)
    person.inspect(alike)
    for folder in teacher.models.glob("*-own-lid"):
        detector = load(folder)
        detector.calibration.normal_level += 1
        detector.save_pretrained(folder)
    teacher.catalog.refresh()
    person.correct(1, good=True)
    assert "taught again after this batch" in person.said and person.results[:2] == ["Defective"] * 2
    assert person.table["rows"][0]["correction"] == "Corrected: good"


def test_a_correction_that_came_later_elsewhere_is_not_undone(teacher, alike):
    person = Visitor(teacher)
    person.inspect(alike)
    person.correct(1, good=True)
    person.corrections.correct(LABEL, alike[1]["path"], good=False)
    person.undo()
    assert "Not undone" in person.said and person.table["note"]["failed"]
    assert len(teacher.parts.pictures("lid", BAD)) == 1 and verdicts(teacher, alike[0]) == [False, False]


def test_a_deleted_upload_is_not_corrected(teacher, alike):
    person = Visitor(teacher)
    person.inspect(alike)
    Path(alike[0]["path"]).unlink()
    person.correct(1, good=True)
    assert "Not corrected: Uploads are deleted after an hour" in person.said and person.table["note"]["failed"]
    assert person.table["rows"][0]["revision"] == 1 and person.table["rows"][0]["correction"] is None


def test_a_batch_of_other_parts_offers_no_corrections(teacher, alike, monkeypatch):
    monkeypatch.setattr(Corrections, "part_of", lambda self, label: None)
    person = Visitor(teacher)
    person.inspect(alike)
    assert not person.table["can_correct"] and not {"keys_own", "touch_own"} & person.table["words"].keys()
    assert "Tap a row" in person.table["words"]["touch"]
    person.correct(1, good=True)
    assert len(teacher.parts.pictures("lid", GOOD)) == 3


@pytest.mark.browser
@pytest.mark.usefixtures("one_browser")
def test_the_keys_correct_and_open_rows(teacher, alike, tmp_path, monkeypatch):
    with (
        served(teacher.catalog, tmp_path / "up", monkeypatch, teacher) as url,
        visit(url, "/?category=own/lid") as page,
    ):
        start(page, [file["path"] for file in alike])
        page.get_by_role("status").get_by_text("Done: 3 of 3").wait_for()
        photograph(page, "batch_own")
        rows = page.locator(".batch-table tbody tr")
        row = rows.filter(has_text="strange.png")
        rows.first.focus()
        while "strange.png" not in page.evaluate("document.activeElement.textContent"):
            page.keyboard.press("ArrowDown")
        place = [line.text_content() for line in rows.all()].index(row.text_content())
        before = row.bounding_box()["y"]
        page.keyboard.press("g")
        row.get_by_text("Corrected: good").wait_for()
        assert row.evaluate("line => line === document.activeElement") and "Look again" in row.text_content()
        assert "strange.png" in rows.nth(place).text_content()  # it does not jump away
        assert row.bounding_box()["y"] == pytest.approx(before, abs=2)  # although a note came above the table
        page.get_by_text("judged with the old threshold").wait_for()
        assert "Look again" in rows.filter(has_text="almost.png").text_content()
        with page.expect_download() as download:
            page.get_by_role("button", name="Table as CSV").click()
        assert [line["correction"] for line in read_csv(Path(download.value.path()))] == ["Good", "", ""]
        photograph(page, "batch_corrected")
        page.set_viewport_size({"width": 360, "height": 740})
        photograph(page, "batch_corrected_phone")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.set_viewport_size({"width": 1280, "height": 900})
        page.get_by_role("button", name="Undo").focus()
        page.keyboard.press("Enter")
        page.get_by_text("All rows follow the former threshold again").wait_for()
        assert row.evaluate("line => line === document.activeElement")  # the button is gone
        row.get_by_role("button", name="is defective").click()
        row.get_by_text("Known defect").wait_for()
        assert len(teacher.parts.pictures("lid", BAD)) == 1
        row.focus()
        page.keyboard.press("Enter")
        page.locator(".report:not(.example) .headline:visible").wait_for()
        assert page.get_by_label("Category").first.input_value().startswith("lid")
        assert "Inspected as lid" in page.locator(".report").text_content()
        photograph(page, "batch_opened")
        page.get_by_role("tab", name="Batch").click()
        page.get_by_role("button", name="broken.png: open in Inspect").click()
        page.locator("#report .card.failed").wait_for()


@pytest.mark.browser
@pytest.mark.usefixtures("one_browser")
def test_a_correction_in_inspect_is_seen_in_the_batch(teacher, alike, tmp_path, monkeypatch):
    with (
        served(teacher.catalog, tmp_path / "up", monkeypatch, teacher) as url,
        visit(url, "/?category=own/lid") as page,
    ):
        start(page, [file["path"] for file in alike])
        page.get_by_role("status").get_by_text("Done: 3 of 3").wait_for()
        row = page.locator(".batch-table tbody tr", has_text="strange.png")
        page.get_by_role("button", name="strange.png: open in Inspect").click()
        page.get_by_role("button", name="This part is good").click()
        page.locator("#report .card", has_text="Taken back").wait_for()
        page.get_by_role("tab", name="Batch").click()
        row.get_by_text("Corrected: good").wait_for()
        assert row.get_by_role("button", name="is good").count() == 0
        page.get_by_text("corrected in another place").wait_for()
        photograph(page, "batch_followed")
        page.get_by_role("tab", name="Inspect").click()
        page.locator("[data-undo]").click()
        page.locator("#report .card", has_text="Taken back").wait_for(state="detached")
        page.get_by_role("tab", name="Batch").click()
        row.get_by_role("button", name="is good").wait_for()


@pytest.mark.browser
@pytest.mark.usefixtures("one_browser")
def test_a_part_that_was_taught_again_is_inspected_with_the_new_model(teacher, false_alarm, tmp_path, monkeypatch):
    def train(lesson):
        move_down(teacher, false_alarm["path"], 90)  # then it is a good part
        for folder in teacher.models.glob("*-own-lid"):
            detector = load(folder)
            for name in ("image_scores", "map_maxima"):
                setattr(detector.calibration, name, getattr(detector.calibration, name)[:30])
            detector.save_pretrained(folder)
        teacher.catalog.refresh()
        return DONE, ""

    monkeypatch.setattr(teacher, "train", train)
    monkeypatch.setattr("webapp.teach_tab.FEWEST", 1)
    monkeypatch.setattr("webapp.teach_tab.missing_packages", list)
    with (
        served(teacher.catalog, tmp_path / "up", monkeypatch, teacher) as url,
        visit(url, "/?category=own/lid") as page,
    ):
        headline = page.locator(".report .headline:visible")
        page.locator("#picture input[type=file]").set_input_files(false_alarm["path"])
        headline.get_by_text("Both methods agree: Defective").wait_for()
        page.get_by_role("tab", name="Teach").click()
        page.locator("#teach-part input").fill("lid")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Teach", exact=True).click()
        page.get_by_role("button", name="Inspect such a part now").click()
        headline.get_by_text("Both methods agree: Good").wait_for(timeout=20_000)
        assert page.locator("[data-output=rate]").text_content() == "3.2%"
        page.get_by_role("tab", name="Batch").click()
        page.wait_for_function("document.querySelector('#batch-rate input[type=range]').value === '3.23'")


@pytest.mark.browser
@pytest.mark.usefixtures("one_browser")
def test_ticks_follow_the_category_and_the_choice_comes_back(teacher, tmp_path, monkeypatch):
    shutil.rmtree(teacher.models / "simplenet-own-lid")
    teacher.catalog.refresh()
    chosen = threading.Event()

    def late(*arrival):
        """The answer on a slow connection."""
        assert chosen.wait(20)
        categories, *others = arrive(*arrival)
        categories["choices"] = [(f"{words}, listed", name) for words, name in categories["choices"]]
        return categories, *others

    monkeypatch.setattr("webapp.page.arrive", late)
    with (
        served(teacher.catalog | Catalog.bundled(), tmp_path / "up", monkeypatch) as url,
        visit(url) as page,
    ):

        def choose(category):
            page.get_by_label("Category").first.click()
            page.get_by_role("option", name=category).click()

        def slow(name):
            """Each answer of this function waits for an entry of the queue."""
            module, _, attribute = name.rpartition(".")
            known, turns = getattr(sys.modules[module], attribute), queue.Queue()
            monkeypatch.setattr(name, lambda *given: turns.get(timeout=20) and known(*given))
            return turns

        def seen(name):
            """Is set once this function was called."""
            module, _, attribute = name.rpartition(".")
            known, called = getattr(sys.modules[module], attribute), threading.Event()
            monkeypatch.setattr(name, lambda *given: [known(*given), called.set()][0])
            return called

        ticks = page.locator("label:visible", has=page.locator(":checked")).filter(has_text=re.compile("Net|GLA|Hyb"))
        expect(ticks).to_have_text(["SimpleNet", "GLASS"])
        choose("lid")
        chosen.set()
        expect(page.get_by_label("Category").first).to_have_value("lid (own part), listed")
        expect(ticks).to_have_text(["GLASS"])
        expect(page.locator("label:visible", has_text="SimpleNet")).to_have_count(0)
        page.get_by_text("No model for this category: SimpleNet, Hybrid.").first.wait_for()
        choose("Pill")
        expect(ticks).to_have_text(["SimpleNet", "GLASS"])
        wished, fitted = slow("webapp.inspect_tab.wish_methods"), seen("webapp.inspect_tab.fit_methods")
        for method in ("SimpleNet", "SimpleNet"):  # the second click comes before the answer to the first one
            page.locator("label:visible", has_text=method).click()
        wished.put("answer")
        assert fitted.wait(20)
        page.locator("label:visible", has_text="Hybrid").click()
        expect(ticks).to_have_text(["SimpleNet", "GLASS", "Hybrid"])
        for method in ("SimpleNet", "Hybrid"):
            page.locator("label:visible", has_text=method).click()
            wished.put("answer")
        wished.put("answer")
        expect(ticks).to_have_text(["GLASS"])
        choose("lid")
        choose("Washer")
        expect(ticks).to_have_text(["GLASS"])
        listed = slow("webapp.page.choices")
        page.get_by_role("tab", name="Batch").click()
        batch = page.get_by_label("Category").last
        expect(batch).to_have_value("Washer (sample)")
        batch.click()
        page.get_by_role("option", name="Pill").click()
        for tab in ("Inspect", "Batch"):
            listed.put("answer")
            page.get_by_role("tab", name=tab).click()
        expect(batch).to_have_value("Pill (sample)")
        expect(ticks).to_have_text(["SimpleNet", "GLASS"])


def test_compare_offers_own_parts_with_models_and_known_defects(teacher):
    visitors = Everybody(teacher.catalog, teacher)
    comparing, english = Comparing(teacher.catalog, {}, visitors=visitors), gr.Request(headers={})
    assert comparing.arrive(english)[-1].strip() == ""
    teacher.parts.add("lid", [Upload("a.png", lambda: png(50))], BAD)
    teacher.parts.name("cap", "<b>")
    teacher.parts.add("cap", [Upload("a.png", lambda: png(51))])  # no models
    teacher.parts.add("cap", [Upload("a.png", lambda: png(52))], BAD)
    shown = comparing.arrive(english)[-1]
    assert re.findall('data-part="(.*?)">(.*?)<', shown) == [("lid", "Check lid with 1 known defect")]
    assert "good pictures are no test pictures here" in shown
    assert Comparing(teacher.catalog, {}).arrive(english)[-1].strip() == ""  # nobody teaches


def test_a_part_of_compare_is_checked_once_when_teach_opens(teacher):
    teacher.parts.add("lid", [Upload(f"{i}.png", lambda i=i: png(i)) for i in range(50, 54)], BAD)
    tab = TeachTab(Everybody(teacher.catalog, teacher))
    _, wanted, to_check = tab.lead_to_check(gr.EventData(None, {"part": "lid"}), None)
    assert wanted == to_check == "lid"
    pages = list(tab.judge_wanted("lid", None))
    assert "lid was checked with known defects: 4." in pages[-1][0] and {page[2] for page in pages} == {None}
    assert "good pictures that the judging model had not learned" in pages[-1][0]
    assert "GLASS finds" in pages[-1][0] and "SimpleNet finds" in pages[-1][0]
    assert list(tab.judge_wanted(None, None)) == [(gr.skip(), gr.skip(), None)]
    for absurd in ("../lid", None, 7, ["lid"]):
        assert tab.lead_to_check(gr.EventData(None, {"part": absurd}), None)[1:] == (None, None)


@pytest.mark.browser
@pytest.mark.usefixtures("one_browser")
def test_one_click_in_compare_checks_an_own_part(teacher, tmp_path, monkeypatch):
    teacher.parts.add("lid", [Upload(f"{i}.png", lambda i=i: png(i)) for i in range(50, 54)], BAD)
    with (
        served(teacher.catalog, tmp_path / "up", monkeypatch, teacher) as url,
        visit(url, width=360, height=740) as page,
    ):
        page.get_by_role("tab", name="Compare").click()
        page.get_by_role("button", name="Check lid with 4 known defects").click()
        page.get_by_text("lid was checked with known defects: 4.").wait_for()
        expect(page.locator("#teach-status")).to_be_in_viewport(timeout=30_000)
        expect(page.locator("#teach-part input")).to_have_value("lid")
        page.get_by_role("tab", name="Compare").click()
        photograph(page, "compare_own_phone")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
