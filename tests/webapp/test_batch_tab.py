"""A batch: one bad file does not stop it, finished results are kept, and file names of strangers are harmless."""

import io
import json
import re
import zipfile
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pandas
import pytest
from batch_page import read_csv, served, start
from browser import photograph, visit
from PIL import Image

from hubmodels import GLASS, AnomalyPrediction, AppearanceCheck
from hubmodels.hub.catalog import Catalog
from webapp import batch_rows, batch_tab, results
from webapp.batch_rows import DEFECTIVE, DISAGREEMENT, GOOD, NO_VERDICT, UNREAD
from webapp.inspect_tab import InspectTab
from webapp.inspection import inspect_picture
from webapp.results import BatchResults, printable
from webapp.texts import TEXTS

LABEL = "toy / widget"
HOSTILE = "<img src=x onerror=alert(1)>.png"
HEAD = {
    "category": LABEL,
    "false_alarm_rate": 0.2,
    "models": {"GLASS": {"name": "glass-toy-widget", "revision": "0a1b"}},
}


@pytest.fixture
def catalog(model_folder):
    return Catalog.from_folder(model_folder)


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    """Factory of uploads, as Gradio describes them: a picture, or a file with other content."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))

    def make(*names, content=None):
        described = []
        for number, name in enumerate(names):
            path = tmp_path / "uploads" / f"{number:064x}" / "part.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number) if content is None else content)
            described.append({"path": str(path), "orig_name": name, "meta": {"_type": "gradio.FileData"}})
        return described

    return make


def png(seed=0):
    """A picture that is not square."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 80, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def visitor(language="en"):
    return SimpleNamespace(headers={"accept-language": language}, session_hash="me")


def inspected(catalog, **verdicts):
    """An inspection with these verdicts, by method."""
    real = inspect_picture(catalog, LABEL, png(), 0.2)
    predictions = {
        name: replace(p, threshold=None if verdicts[name] is None else p.image_score - 1 + 2 * (not verdicts[name]))
        for name, p in real.predictions.items()
    }
    return replace(real, predictions=predictions, appearance=AppearanceCheck(1.0, ()))


def run(catalog, files, percent=20, category=LABEL, request=None):
    """All pages that the event shows."""
    return list(batch_tab._Batches(catalog).run(category, files, percent, None, request or visitor()))


# ---------------------------------------------------------------- what is left behind


def test_the_table_has_all_numbers_of_both_methods(catalog, tmp_path):
    inspection = inspected(catalog, SimpleNet=True, GLASS=False)
    with BatchResults(tmp_path / "batch", HEAD) as written:
        written.add("a.png", inspection)
        written.add_failure("b.png", "is empty")
        written.finish()
    assert written.csv_path.read_bytes().startswith(b"\xef\xbb\xbf")  # Excel takes it for Latin-1 otherwise
    good, bad = read_csv(written.csv_path)
    for name, prediction in inspection.predictions.items():
        for key, value in {**prediction.numbers(), "score_level": prediction.score_level}.items():
            cell = good[f"{name.lower()}_{key}"]
            assert float(cell) == pytest.approx(value, rel=5e-6) if type(value) is float else cell == str(value)
    assert (good["number"], good["file"], good["agree"], good["error"]) == ("1", "a.png", "False", "")
    assert (good["category"], good["false_alarm_rate"]) == (LABEL, "0.2")
    assert good["glass_model"] == "glass-toy-widget@0a1b"
    assert (bad["file"], bad["error"], bad["glass_p_value"]) == ("b.png", "is empty", "")


@pytest.mark.parametrize(("language", "separator", "point"), [("en", ",", "."), ("de", ";", ",")])
def test_a_spreadsheet_reads_the_table_as_its_country_writes_it(catalog, tmp_path, language, separator, point):
    inspection = inspected(catalog, SimpleNet=True, GLASS=True)
    with BatchResults(tmp_path / "batch", HEAD, language) as written:
        written.add("Gehäuse.png", inspection)
        written.add("b;c,d.png", inspected(catalog, SimpleNet=False, GLASS=False))
        written.add_failure("e.png", "is empty")
        written.finish()
    read = pandas.read_csv(written.csv_path, sep=separator, decimal=point, encoding="utf-8-sig")
    words = {"en": ["Defective", "Good", "Not inspected"], "de": ["Fehlerhaft", "Gut", "Nicht geprüft"]}
    assert read.iloc[:, 0].tolist() == words[language]
    headers = {
        "en": ["result", "file", "width", "simplenet_image_score", "glass_image_score", "glass_latency_ms"],
        "de": ["Ergebnis", "Datei", "Breite", "simplenet: Bildwert", "glass: Bildwert", "glass: Dauer in ms"],
    }
    assert read.columns[0] == headers[language][0] and not read.columns.duplicated().any()
    read = read[headers[language]].set_axis(headers["en"], axis="columns")
    assert read["file"].tolist() == ["Gehäuse.png", "b;c,d.png", "e.png"]
    scores = [p.image_score for p in inspection.predictions.values()]
    assert read[["simplenet_image_score", "glass_image_score"]].iloc[0].tolist() == pytest.approx(scores, rel=5e-6)
    assert read["glass_latency_ms"].dtype == float and read["width"].iloc[0] == 80
    plain = read_csv(written.csv_path, separator)
    assert float(plain[0][headers[language][4]].replace(point, ".")) == pytest.approx(scores[1], rel=5e-6)
    with zipfile.ZipFile(written.zip_path) as archive:
        assert archive.read("inspection.csv") == written.csv_path.read_bytes()


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        *((name, f"'{name}") for name in ("=1+1.png", "+1.png", "-1.png", "@SUM(A1).png", "\uff1d1.png")),
        ("a;=1+1;b.png", "a;'=1+1;b.png"),  # a spreadsheet of another country begins a new cell there
        ('a,"=1+1".png', 'a,\'"=1+1".png'),
        ("part-1 = good, -20 C.png", "part-1 = good, -20 C.png"),
    ],
)
@pytest.mark.parametrize(("language", "separator"), [("en", ","), ("de", ";")])
def test_a_spreadsheet_does_not_compute_file_names(tmp_path, name, cell, language, separator):
    with BatchResults(tmp_path / "batch", HEAD, language) as written:
        written.add_failure(name, "=cmd")
        written.finish()
    (row,) = read_csv(written.csv_path, separator)
    file, error = {"en": ("file", "error"), "de": ("Datei", "Fehlermeldung")}[language]
    assert (row[file], row[error]) == (cell, "'=cmd")


def test_numbers_have_six_digits_and_stay_numbers():
    assert [results._cell(-0.5, language) for language in ("en", "de")] == ["-0.5", "-0,5"]
    assert results._cell(1 / 3, "en") == "0.333333" and results._cell(1234567.8, "de") == "1234568"
    assert results._cell(1.23456789e-05, "de") == "0,0000123457" and results._cell(17, "de") == 17


def test_every_batch_has_the_same_columns(catalog, tmp_path):
    whole, headers = inspected(catalog, SimpleNet=True, GLASS=False), []
    head = HEAD | {"models": {title: {"name": "toy"} for title in whole.detectors}}
    for name in ("whole", "failed", "corrected"):
        with BatchResults(tmp_path / name, head) as written:
            written.add_failure("a.png", "is empty") if name == "failed" else written.add("a.png", whole)
            written.corrections |= {1: "good"} if name == "corrected" else {}
            written.revise(whole.detectors if name == "corrected" else None)
            written.finish()
        headers.append(written.csv_path.read_text(encoding="utf-8-sig").splitlines()[0].split(","))
    assert headers[0] == headers[1] == headers[2]
    assert headers[0][0] == "result" and headers[0][-2:] == ["correction", "earlier_regions"]
    of_method = {f"glass_{key}" for key in whole.record(LABEL)["methods"]["GLASS"]}
    plain = whole.record(LABEL).keys() - {"methods"}
    assert of_method | plain <= set(headers[0])


def test_the_german_table_has_german_words(catalog, tmp_path):
    odd = replace(inspected(catalog, SimpleNet=True, GLASS=False), appearance=AppearanceCheck(9.0, ("unlike", "dark")))
    rows = {}
    for language, separator in (("en", ","), ("de", ";")):
        with BatchResults(tmp_path / language, HEAD, language) as written:
            written.add("a.png", odd)
            written.finish()
        (rows[language],) = read_csv(written.csv_path, separator)
    german = rows["de"]
    assert german["Warnungen"] == "zeigt etwas anderes; dunkel" and rows["en"]["warnings"] == "unlike; dark"
    assert (german["einig"], german["simplenet: fehlerhaft"]) == ("nein", "ja")
    assert (rows["en"]["agree"], rows["en"]["simplenet_is_anomalous"]) == ("False", "True")


def test_the_zip_holds_numbers_and_overlays_of_what_a_method_calls_defective(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "OVERLAY_SIDE", 40)
    with BatchResults(tmp_path / "batch", HEAD) as written:
        written.add("disputed.png", inspected(catalog, SimpleNet=False, GLASS=True))
        written.add("good.png", inspected(catalog, SimpleNet=False, GLASS=False))
        written.add("half.png", inspected(catalog, SimpleNet=None, GLASS=True))
        written.finish()
    with zipfile.ZipFile(written.zip_path) as archive:
        overlays = [name for name in archive.namelist() if name.endswith(".png")]
        assert archive.read("inspection.csv") == written.csv_path.read_bytes()
        content = json.loads(archive.read("results.json"))
        sizes = {Image.open(io.BytesIO(archive.read(name))).size for name in overlays}
    assert overlays == [
        "overlays/0001-disputed-simplenet.png",
        "overlays/0001-disputed-glass.png",
        "overlays/0003-half-glass.png",
    ]
    assert sizes == {(40, 24)}
    assert [row["overlays"] for row in content["pictures"]] == [overlays[:2], [], overlays[2:]]
    assert (content["category"], content["overlays_left_out"]) == (LABEL, 0)


def test_names_lead_nowhere_and_equal_ones_stay_apart(catalog, tmp_path):
    names = [
        "../../etc/passwd",
        "..\\..\\x.png",
        "/abs.png",
        "C:\\con.png",
        "a\n.png",
        "a.png",
        "a.png",
        "\ud800.png",
        ".",
    ]
    with BatchResults(tmp_path / "batch", HEAD) as written:
        for name in names:
            written.add(name, inspected(catalog, SimpleNet=True, GLASS=True))
        written.finish()
    with zipfile.ZipFile(written.zip_path) as archive:
        members = archive.namelist()
        archive.extractall(tmp_path / "out")
    assert len(set(members)) == len(members) == 2 * len(names) + 2
    assert all(set(name.removesuffix(".png")) & set(".\\:\n") == set() for name in members if name.endswith(".png"))
    assert all(name.count("/") == 1 for name in members if name.endswith(".png"))
    assert len(read_csv(written.csv_path)) == len(names)


def test_the_zip_does_not_grow_without_bound(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "MAX_OVERLAY_BYTES", 0)
    with BatchResults(tmp_path / "batch", HEAD) as written:
        row = written.add("a.png", inspected(catalog, SimpleNet=True, GLASS=True))
        written.finish()
    assert row["overlays"] == []
    assert json.loads(zipfile.ZipFile(written.zip_path).read("results.json"))["overlays_left_out"] == 2


@pytest.mark.parametrize(
    ("name", "shown"), [("a/b\\c.png", "c.png"), ("a\x1b[2J\n.png", "a\ufffd[2J\ufffd.png"), ("", "?")]
)
def test_file_names_become_one_line(name, shown):
    assert printable(name) == shown
    assert len(printable("x" * 1000)) == results.LONGEST_NAME


# ---------------------------------------------------------------- the event


def test_one_bad_file_does_not_stop_the_rest(catalog, uploads, tmp_path):
    bad = {**uploads("broken.png", content=b"no picture")[0], "path": str(tmp_path / "uploads" / "broken.png")}
    Path(bad["path"]).write_bytes(b"no picture")
    one, two = uploads("one.png", "two.png")
    pages = run(catalog, [one, bad, two])
    status, table, start, stop, *files = pages[-1]
    assert "Done: 3 of 3" in status and "<b>1</b> Not inspected" in status
    assert [row["file"] for row in table["rows"]] == ["one.png", "broken.png", "two.png"]
    assert "known format" in table["rows"][1]["cells"][0]["text"]
    assert (start["interactive"], stop["interactive"]) == (True, False)
    assert all(Path(update["value"]).is_file() for update in files)
    assert len(read_csv(Path(files[0]["value"]))) == 3


def test_the_rows_say_what_the_detectors_say(catalog, uploads):
    files = uploads("one.png")
    row = run(catalog, files)[-1][1]["rows"][0]
    predictions = inspect_picture(catalog, LABEL, files[0]["path"], 0.2).predictions.values()
    expected = [number for p in predictions for number in (p.score_level, p.numbers()["defects"])]
    assert [*row["keys"][3:5], *row["keys"][6:8]] == expected
    assert [row["keys"][2], row["keys"][5]] == [0 if p.is_anomalous else 1 if p.is_unsure else 2 for p in predictions]
    assert len(row["cells"]) + 1 == len(row["keys"]) == 8


def test_the_page_is_not_sent_anew_for_each_picture(catalog, uploads, monkeypatch):
    files = uploads("a", "b", "c")
    monkeypatch.setattr(batch_tab, "SHOWN_EVERY", 1000)
    assert len(run(catalog, files)) == 2  # before the first picture, and after the last
    monkeypatch.setattr(batch_tab, "SHOWN_EVERY", 0)
    pages = run(catalog, files)
    assert [len(page[1]["rows"]) for page in pages] == [0, 1, 2, 3, 3]
    assert "2 of 3" in pages[2][0] and "left" in pages[2][0] and 'value="2"' in pages[2][0]


def test_stop_keeps_what_is_done(catalog, uploads, monkeypatch):
    monkeypatch.setattr(batch_tab, "SHOWN_EVERY", 0)
    batches, request = batch_tab._Batches(catalog), visitor()
    pages = batches.run(LABEL, uploads("a", "b", "c"), 20, None, request)
    next(pages), next(pages)  # the empty page, then the first picture
    batches.stop(SimpleNamespace(session_hash="somebody else"))
    batches.stop(request)
    status, table, _, _, csv_file, _ = next(pages)
    assert "Stopped after 1 of 3" in status and len(table["rows"]) == 1
    assert len(read_csv(Path(csv_file["value"]))) == 1
    assert list(pages) == []
    batches.stop(request)  # nothing runs any more
    assert "Done: 2 of 2" in list(batches.run(LABEL, uploads("a", "b"), 20, None, request))[-1][0]


def test_a_visitor_who_leaves_leaves_nothing(catalog, uploads, tmp_path):
    batches = batch_tab._Batches(catalog)
    pages = batches.run(LABEL, uploads("a", "b"), 20, None, visitor())
    next(pages)
    assert list((tmp_path / "uploads" / "batches").iterdir())
    pages.close()
    assert list((tmp_path / "uploads" / "batches").iterdir()) == [] and batches._stops == {}


def test_who_waits_may_stop_and_who_is_refused_is_told(catalog, uploads):
    batches, request = batch_tab._Batches(catalog), visitor()
    status, _, start, stop, *_ = batches.wait(request)
    assert "one batch runs at a time" in status and (start["interactive"], stop["interactive"]) == (False, True)
    batches.stop(request)
    assert "Stopped after 0 of 2" in list(batches.run(LABEL, uploads("a", "b"), 20, None, request))[-1][0]
    batches.wait(request)
    status, _, start, stop, *_ = batches.refused(request)
    assert "Too many people" in status and (start["interactive"], stop["interactive"]) == (True, False)
    assert batches._stops == {}


def test_a_rate_that_cannot_be_vouched_for_is_told(catalog, uploads):
    """Five held-out pictures: the table flags at 17 %, even if the slider is lower."""
    status = run(catalog, uploads("a"), percent=1)[-1][0].replace("\xa0", " ")
    for name in ("SimpleNet", "GLASS"):
        words = "With 5 pictures of good parts, 17% of good parts are called defective on average"
        assert f"{name}: {words}" in status and "For 1% the threshold needs 99 pictures" in status
    assert "on average" not in run(catalog, uploads("a"), percent=20)[-1][0]


def test_the_slider_starts_at_the_least_rate_that_the_part_can_vouch_for(catalog, make_detector, tmp_path):
    batches = batch_tab._Batches(catalog)
    update, vouched = batches.offer_rates(LABEL, None, None, visitor())
    assert (update["value"], update["maximum"]) == (20, 20) and vouched.lowest == pytest.approx(1 / 6)
    assert batches.offer_rates(LABEL, ["glass"], vouched, visitor()) == (gr.skip(), vouched)  # a choice stays
    assert batches.offer_rates(None, None, vouched, visitor()) == (gr.skip(), None)
    words = "1%: needs 99 good parts"
    assert [batches.doubt_rate(rate, vouched, visitor()) for rate in (1, 17, "x")] == [words, "", ""]
    assert "nur mit 99 guten Teilen" in batches.doubt_rate(1, vouched, visitor("de"))
    detector = make_detector(GLASS)
    detector.calibrate([Image.open(io.BytesIO(png(seed))) for seed in range(3)], 0.01)
    detector.save_pretrained(tmp_path / "few" / "glass-toy-widget")
    update, _ = batch_tab._Batches(Catalog.from_folder(tmp_path / "few")).offer_rates(LABEL, None, None, visitor())
    assert (update["value"], update["maximum"]) == (25, 25)


@pytest.mark.parametrize("size", [10, 30, 66, 99, 150])
def test_batch_and_inspect_start_at_the_same_rate(make_detector, uploads, tmp_path, size):
    """The lowest one that so many good pictures allow, before and after a correction."""
    detector, files = make_detector(GLASS), uploads("a")
    scores = [AnomalyPrediction(s, np.full((2, 2), s, np.float32)) for s in np.linspace(-3, 0, size)]
    detector.calibrate([file["path"] for file in uploads(*"abcd")])
    detector.calibration.fit(scores, 0.005)
    for is_corrected in (False, True):
        if is_corrected:
            detector.calibration.take_back(detector.predict(files[0]["path"]))
        detector.save_pretrained(tmp_path / f"{is_corrected}" / "glass-toy-widget")
        catalog = Catalog.from_folder(tmp_path / f"{is_corrected}")
        batches, tab = batch_tab._Batches(catalog), InspectTab(catalog, [])
        update, _ = batches.offer_rates(LABEL, None, None, visitor())
        report = tab.inspect(LABEL, {"path": files[0]["path"]}, None, visitor())[0]
        start, rates = (re.search(f'data-{name}="([^"]*)"', report)[1] for name in ("start", "rates"))
        assert float(rates.split("|")[int(start)]) == pytest.approx(1 / (size + 1), abs=1e-4)
        table = list(batches.run(LABEL, files, update["value"], None, visitor()))[-1][1]
        assert batches.open(event(run=table["run"], number=1), visitor())[-1].rate == float(
            rates.split("|")[int(start)]
        )


def test_what_a_method_is_unsure_of_is_named_before_the_good_ones(catalog, uploads, monkeypatch):
    """One method finds the part good, and the other would call it defective at a higher rate only."""
    real = inspect_picture(catalog, LABEL, png(), 0.2)
    (one, first), (other, second) = real.predictions.items()
    unsure = replace(first, image_score=2.5, threshold=3.0, unsure_threshold=2.0)
    good = replace(second, image_score=0.5, threshold=3.0, unsure_threshold=2.0)
    doubtful = replace(real, appearance=AppearanceCheck(1.0, ()), predictions={one: unsure, other: good})
    monkeypatch.setattr(batch_tab, "inspect_picture", lambda *_: doubtful)
    status, table, *_ = run(catalog, uploads("a"))[-1]
    (row,) = table["rows"]
    assert [cell["text"] for cell in (row["cells"][0], row["cells"][1], row["cells"][4])] == ["Look again"] * 2 + [
        "Good"
    ]
    assert row["keys"][1] == batch_rows.AGAIN and "<b>1</b> Look again" in status


def test_pictures_of_something_else_are_no_defects(catalog, uploads, monkeypatch):
    real = inspected(catalog, SimpleNet=False, GLASS=False)
    strange = replace(real, appearance=AppearanceCheck(9.0, ("dark", "unlike")))
    monkeypatch.setattr(batch_tab, "inspect_picture", lambda *_: strange)
    status, table, *_ = run(catalog, uploads("a"))[-1]
    (row,) = table["rows"]
    assert row["cells"][0]["text"] == "No reliable verdict" and row["keys"][1] == batch_rows.SOMETHING_ELSE
    assert row["note"] == "darker than the good parts, shows something else"
    assert "<b>1</b> shows something else" in status and "Defective" not in status


@pytest.mark.parametrize(
    ("language", "words", "one", "two"),
    [
        ("en", "Defective, or it shows something else", "shows something else", "show something else"),
        ("de", "Fehlerhaft, oder es zeigt etwas anderes", "zeigt etwas anderes", "zeigen etwas anderes"),
    ],
)
def test_something_else_that_is_anomalous_may_be_a_broken_part(
    catalog, uploads, monkeypatch, language, words, one, two
):
    """One picture that both methods call good, and two that one of them or both call defective."""
    verdicts = iter([(False, False), (False, True), (True, True)])

    def strange(*_):
        real = inspected(catalog, **dict(zip(("SimpleNet", "GLASS"), next(verdicts), strict=True)))
        return replace(real, appearance=AppearanceCheck(9.0, ("unlike",)))

    monkeypatch.setattr(batch_tab, "inspect_picture", strange)
    files, seen = uploads("a", "b", "c", "d"), visitor(language)
    status, table, _, _, csv_file, _ = run(catalog, files[:3], request=seen)[-1]
    assert [row["cells"][0]["text"] for row in table["rows"]][1:] == [words] * 2
    ranks = [row["keys"][1] for row in table["rows"]]
    assert (
        ranks == [batch_rows.SOMETHING_ELSE, *[batch_rows.DEFECTIVE_OR_ELSE] * 2] and ranks[1] < ranks[0] < DEFECTIVE
    )
    assert f"<b>1</b> {one}" in status and f"<b>2</b> {batch_rows.count_in_words(ranks[1], 2, language)}" in status
    assert words in Path(csv_file["value"]).read_text(encoding="utf-8-sig")
    verdicts = iter([(False, False)] * 2)
    assert f"<b>2</b> {two}" in run(catalog, files[2:], request=seen)[-1][0]


@pytest.mark.parametrize(("level", "expected"), [(2.0, True), (0.0, False)])
def test_pictures_that_are_unusual_in_the_same_way_get_a_notice(catalog, uploads, monkeypatch, level, expected):
    """In units of the pixel threshold, above the level of good parts; all pictures are called defective."""
    real = inspected(catalog, SimpleNet=True, GLASS=True)
    alike = {
        name: replace(p, map_source=np.full((48, 80), p.normal_level + level * (p.pixel_threshold - p.normal_level)))
        for name, p in real.predictions.items()
    }
    monkeypatch.setattr(batch_tab, "inspect_picture", lambda *_: replace(real, predictions=alike))
    names = [f"{number}.png" for number in range(24)]  # so many false alarms happen with 5 held-out pictures, fewer do
    pages = {language: run(catalog, uploads(*names), request=visitor(language)) for language in ("en", "de")}
    status = pages["en"][-1][0]
    assert ("The camera, the light" in status and "position may have changed." in status) is expected
    assert ("Kamera, Licht oder Lage des Teils" in pages["de"][-1][0]) is expected
    with zipfile.ZipFile(pages["en"][-1][-1]["value"]) as archive:
        assert json.loads(archive.read("results.json"))["setup_changed"] is expected
    strange = replace(real, predictions=alike, appearance=AppearanceCheck(9.0, ("unlike",)))
    monkeypatch.setattr(batch_tab, "inspect_picture", lambda *_: strange)  # of another category: no camera moved
    assert "The camera, the light" not in run(catalog, uploads(*names))[-1][0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"files": None}, "There are no pictures yet"),
        ({"files": "x"}, "There are no pictures yet"),
        ({"category": None}, "Choose the category"),
        ({"category": HOSTILE}, "there is no category"),
        ({"percent": 0}, "between 0% and 100%"),
        ({"percent": "1"}, "between 0% and 100%"),
        ({"percent": float("nan")}, "between 0% and 100%"),
        ({"files": [{}] * 501}, "501 pictures are too many. The limit is 500"),
        ({"request": visitor("de-DE,de;q=0.9"), "files": []}, "Noch keine Bilder"),
    ],
)
def test_what_cannot_start_says_why(catalog, uploads, change, words):
    (page,) = run(catalog, **({"files": uploads("a")} | change))
    assert words in page[0] and page[1] is None
    assert HOSTILE not in page[0]


def test_a_batch_that_is_too_large_or_without_model_does_not_start(catalog, uploads, model_folder, monkeypatch):
    monkeypatch.setattr(batch_tab, "MAX_BYTES", 100)
    assert "MB are too much" in run(catalog, uploads("a"))[0][0]
    monkeypatch.undo()
    for weights in model_folder.glob("*/model.safetensors"):
        weights.write_bytes(b"")
    page = run(Catalog.from_folder(model_folder), uploads("a"))[0]
    assert "Not inspected" in page[0] and str(model_folder.parent) not in page[0]


def test_files_of_the_server_are_out_of_reach(catalog, uploads, tmp_path):
    uploads("a")
    (tmp_path / "secret.png").write_bytes(png())
    table = run(catalog, [{"path": str(tmp_path / "secret.png")}, "x", None])[-1][1]
    assert [row["keys"][1] for row in table["rows"]] == [UNREAD] * 3
    assert str(tmp_path) not in json.dumps(table)


def event(**data):
    return SimpleNamespace(**data)


def test_a_row_opens_with_its_category_and_a_copy_of_its_picture(catalog, uploads):
    batches, files = batch_tab._Batches(catalog), uploads("one.png", "two.png")
    table = list(batches.run(LABEL, files, 20, ["glass"], visitor()))[-1][1]
    tabs, category, path, methods, asked = batches.open(event(run=table["run"], number=2), visitor())
    assert (tabs.selected, category, methods, asked.rate) == ("inspect", LABEL, ["glass"], 0.2)
    assert Path(path).read_bytes() == Path(files[1]["path"]).read_bytes() and path != files[1]["path"]
    assert batches.open(event(run=table["run"], number=2), visitor())[2] != path  # a new one is inspected again
    Path(files[1]["path"]).unlink()
    with pytest.raises(gr.Error, match="Uploads are deleted after an hour"):
        batches.open(event(run=table["run"], number=2), visitor())


@pytest.mark.parametrize("percent", [1, 17.5, 34])
def test_a_row_and_its_report_give_the_same_verdict(make_detector, uploads, tmp_path, percent):
    """At each rate, also one that the slider of the report has not; 99 scores around those of the pictures."""
    detector, files = make_detector(GLASS), uploads(*"abcdefgh")
    detector.calibrate([file["path"] for file in files])  # they look like the part
    scores = detector.calibration.image_scores.numpy()
    spread = np.interp(np.linspace(-3, 7, 99), range(8), scores, scores[0] - 1)
    detector.calibration.fit([AnomalyPrediction(s, np.full((2, 2), s, np.float32)) for s in spread], 0.01)
    detector.save_pretrained(tmp_path / "own" / "glass-toy-widget")
    catalog = Catalog.from_folder(tmp_path / "own")
    batches, tab = batch_tab._Batches(catalog), InspectTab(catalog, [])
    table = list(batches.run(LABEL, files, percent, None, visitor()))[-1][1]
    for row in table["rows"]:
        _, category, path, _, asked = batches.open(event(run=table["run"], number=row["number"]), visitor())
        report = tab.inspect(category, {"path": path}, None, visitor(), asked)[0]
        start = re.search(r'data-start="(\d+)" data-opening', report)[1]
        rate = float(re.search(r'data-rates="([^"]*)"', report)[1].split("|")[int(start)])
        (shown,) = re.findall(rf'single" data-step="{start}">\S* ([^<]*)', report)
        assert (rate, shown) == (percent / 100, row["cells"][1]["text"])


@pytest.mark.parametrize(
    "asked",
    [{"number": 0}, {"number": 3}, {"number": -1}, {"number": "1"}, {"number": None}, {"run": "x"}, {"run": None}],
)
def test_only_rows_of_the_visitors_own_batch_open(catalog, uploads, tmp_path, asked):
    (tmp_path / "secret.png").write_bytes(png())
    batches, files = batch_tab._Batches(catalog), uploads("one.png")
    files.append({"path": str(tmp_path / "secret.png")})
    table = list(batches.run(LABEL, files, 20, None, visitor()))[-1][1]
    known = {"run": table["run"], "number": 1}
    batches.open(event(**known), visitor())
    for refused in (known | asked, known | {"number": 2}):
        with pytest.raises(gr.Error):
            batches.open(event(**refused), visitor())
    with pytest.raises(gr.Error):
        batches.open(event(**known), SimpleNamespace(headers={}, session_hash="somebody else"))


def test_only_the_latest_batches_are_remembered(catalog, uploads, monkeypatch):
    monkeypatch.setattr(batch_tab, "MAX_KEPT", 2)
    batches, files, runs = batch_tab._Batches(catalog), uploads("one.png"), {}
    for session in ("a", "b", "a", "c"):
        request = SimpleNamespace(headers={}, session_hash=session)
        runs[session] = list(batches.run(LABEL, files, 20, None, request))[-1][1]["run"]
    assert {session: batch.run for session, batch in batches._kept.items()} == {s: runs[s] for s in "ac"}


def test_a_german_visitor_reads_german(catalog, uploads):
    status, table, _, _, csv_file, _ = run(catalog, uploads("a"), request=visitor("de"))[-1]
    assert "Fertig: 1 von 1" in status
    (row,) = read_csv(Path(csv_file["value"]), ";")
    assert row["Ergebnis"] == table["rows"][0]["cells"][0]["text"] and "," in row["glass: Bildwert"]
    assert [column["name"] for column in table["columns"][:4]] == ["Bild", "Ergebnis", "Urteil", "Auffälligkeit"]
    assert {".", ","} & set("".join(cell["text"] for cell in table["rows"][0]["cells"])) == {","}


@pytest.mark.parametrize(
    ("verdicts", "rank"),
    [
        ((True, False), DISAGREEMENT),
        ((True, True), DEFECTIVE),
        ((True, None), DEFECTIVE),
        ((None, False), NO_VERDICT),
        ((False, False), GOOD),
    ],
)
def test_disagreements_come_first(catalog, tmp_path, verdicts, rank):
    with BatchResults(tmp_path / "batch", HEAD) as written:
        record = written.add("a", inspected(catalog, **dict(zip(("SimpleNet", "GLASS"), verdicts, strict=True))))
    row = batch_rows.inspected_row(record, "", list(record["methods"]), "en")
    assert row["keys"][1] == rank
    assert row["cells"][0]["sign"] and row["cells"][0]["text"]  # not by colour alone
    assert sorted([GOOD, UNREAD, DEFECTIVE, DISAGREEMENT]) == [DISAGREEMENT, DEFECTIVE, UNREAD, GOOD]


@pytest.mark.parametrize("size", [(500, 300), (8, 3000), (10, 10)])
def test_thumbnails_are_small(size):
    data = batch_rows.thumbnail(Image.new("RGB", size)).removeprefix("data:image/jpeg;base64,")
    thumbnail = Image.open(io.BytesIO(b64decode(data)))
    assert max(thumbnail.size) == 64 and thumbnail.format == "JPEG"


def test_the_page_states_the_limits_that_hold():
    for text in TEXTS["batch_limits"].values():
        assert f" {batch_tab.MAX_PICTURES} " in text and f" {batch_tab.MAX_BYTES // 10**9} GB" in text


# ---------------------------------------------------------------- in a browser


def names(page):
    return page.locator(".batch-table .file").all_text_contents()


@pytest.mark.browser
@pytest.mark.usefixtures("one_browser")
def test_a_batch_in_the_browser(catalog, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    files = [tmp_path / "in" / name for name in ("part10.png", "part9.png", HOSTILE)]
    for number, file in enumerate(files):
        file.write_bytes(b"no picture" if file.name == HOSTILE else png(number))
    with served(catalog, tmp_path / "up", monkeypatch) as url, visit(url, "/?category=widget") as page:
        page.get_by_role("tab", name="Batch").click()
        slider, note = page.locator("#batch-rate input[type=range]"), page.locator("#batch-beyond")
        page.wait_for_function("document.querySelector('#batch-rate input[type=range]').value === '20'")
        slider.focus()
        page.keyboard.press("Home")
        note.get_by_text("0.5%: needs 199 good parts").wait_for()
        grey = "slider => getComputedStyle(slider.closest('#batch-rate')).filter"
        assert slider.evaluate(grey) == "grayscale(1)"
        page.locator("#batch-rate input[type=number]").fill("18")
        note.get_by_text("needs").wait_for(state="detached")
        assert slider.evaluate(grey) == "none"
        start(page, files)
        page.get_by_role("status").get_by_text("Done: 3 of 3").wait_for()
        assert page.locator(".batch-table img").count() == 2  # the file name is text, not a third one
        heading = page.get_by_role("columnheader", name="Picture")
        assert heading.get_attribute("aria-sort") is None
        page.get_by_role("button", name="Picture", exact=True).focus()
        page.keyboard.press("Enter")
        assert heading.get_attribute("aria-sort") == "ascending"
        assert names(page) == [HOSTILE, "part9.png", "part10.png"]
        page.keyboard.press("Enter")  # the heading kept the focus
        assert heading.get_attribute("aria-sort") == "descending"
        assert names(page) == ["part10.png", "part9.png", HOSTILE]
        page.get_by_role("button", name="GLASS How unusual").click()
        assert names(page)[-1] == HOSTILE  # without a level it stays below, in both directions
        page.get_by_role("button", name="GLASS How unusual").click()
        assert names(page)[-1] == HOSTILE
        with page.expect_download() as download:
            page.get_by_role("button", name="Table as CSV").click()
        assert len(read_csv(Path(download.value.path()))) == 3
        photograph(page, "batch")
        page.set_viewport_size({"width": 360, "height": 740})
        photograph(page, "batch_phone")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.get_by_role("button", name="part9.png: open in Inspect").click()
        page.locator(".report:not(.example)").wait_for()
        assert page.locator("[data-output=rate]").text_content() == "18%"  # of the batch, and no step of its own
        with page.expect_download() as download:
            page.get_by_role("button", name="Result (JSON)").click()
        assert json.loads(download.value.path().read_text())["false_alarm_rate"] == 0.18


@pytest.mark.browser
@pytest.mark.usefixtures("one_browser")
def test_stop_in_the_browser(catalog, tmp_path, monkeypatch):
    def slowly(*arguments):
        batch_tab.time.sleep(0.2)
        return inspect_picture(*arguments)

    monkeypatch.setattr(batch_tab, "inspect_picture", slowly)
    (tmp_path / "in").mkdir()
    files = [tmp_path / "in" / f"part{number}.png" for number in range(40)]
    for number, file in enumerate(files):
        file.write_bytes(png(number))
    with served(catalog, tmp_path / "up", monkeypatch) as url, visit(url, "/?category=widget") as page:
        start(page, files)
        page.locator(".batch-table tbody tr").first.wait_for()  # rows come while it runs
        assert page.get_by_role("button", name="Inspect all").is_disabled()
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("status").get_by_text("Stopped after").wait_for()
        assert 0 < page.locator(".batch-table tbody tr").count() < len(files)
        with page.expect_download() as download:
            page.get_by_role("button", name="All results as ZIP").click()
        with zipfile.ZipFile(download.value.path()) as archive:
            assert len(json.loads(archive.read("results.json"))["pictures"]) == len(names(page))


@pytest.mark.browser
@pytest.mark.usefixtures("one_browser")
def test_a_folder_joins_the_files(catalog, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("one.png", "two.png"):
        (tmp_path / "in" / name).write_bytes(png())
    (tmp_path / "in" / ".DS_Store").write_bytes(b"Bud1")
    (tmp_path / "single.png").write_bytes(png())
    with served(catalog, tmp_path / "up", monkeypatch) as url, visit(url) as page:
        page.get_by_role("tab", name="Batch").click()
        page.set_input_files("#batch-files input[type=file]", tmp_path / "single.png")
        page.locator("#batch-files tr").first.wait_for()
        page.locator("input[webkitdirectory]").set_input_files(tmp_path / "in")
        page.locator("#batch-files tr").nth(2).wait_for()
        listed = page.locator("#batch-files tr").all_text_contents()
        assert len(listed) == 3 and not any("DS_Store" in line for line in listed)
