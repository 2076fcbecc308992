"""The tab Teach: pictures of own parts, lessons in a process of their own, and what known defects say."""

import base64
import errno
import io
import json
import os
import re
import sys
import time
import tracemalloc
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from batch_page import served
from browser import photograph, visit
from huggingface_hub.utils import validate_repo_id
from PIL import Image

from hubmodels import GLASS, PictureError
from hubmodels.hub.catalog import Catalog, list_own
from hubmodels.methods import METHODS
from hubmodels.samples import Sample
from training.config import TrainConfig
from training.data import hold_out
from webapp import defect_check, own_parts, part_pictures, teach_tab, teaching
from webapp.corrections import Corrections
from webapp.defect_check import DefectCheck
from webapp.inspection import choices
from webapp.models_tab import render_models
from webapp.own_parts import (
    BAD,
    GIVEN_FILE,
    GOOD,
    TAKEN_BACK,
    OwnParts,
    Upload,
    ZipError,
    left_out,
    part_name,
    told_apart,
    unreadable_in,
    uploads_in,
)
from webapp.part_changes import PartChanges
from webapp.part_pictures import PartPictures
from webapp.teach_tab import TeachTab, keep_region
from webapp.teaching import DONE, FAILED, RUNNING, STOPPED, WAITING, Lesson, Teacher, expected_promise
from webapp.texts import explain_fault, part_words
from webapp.visitors import Everybody

FOREVER = [sys.executable, "-c", "import time; time.sleep(600)"]


def png(seed, size=(64, 64), base=120):
    """Pictures that are alike: one texture, and a little noise."""
    texture = np.random.default_rng(99).integers(0, 80, (*size, 3))
    noise = np.random.default_rng(seed).integers(0, 12, (*size, 3))
    stream = io.BytesIO()
    Image.fromarray((base - 40 + texture + noise).clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def given(*contents):
    return [Upload(f"{i}.png", lambda content=content: content) for i, content in enumerate(contents)]


def last(updates):
    *_, update = updates
    return update


@pytest.fixture
def parts(tmp_path):
    return OwnParts(tmp_path / "pictures")


@pytest.fixture
def teacher(tmp_path):
    catalog = Catalog(lambda: list_own(tmp_path / "runs"))
    return Teacher(catalog, tmp_path / "runs", tmp_path / "runs/pictures")


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too late"
        time.sleep(0.05)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Bottle 500 ml", "bottle_500_ml"),
        ("Deckel A", "deckel_a"),
        ("Deckel-A", "deckel_a_955550"),
        (" Gehäuse-Süd ", "gehaeuse_sued_DIGITS"),
        ("Wa\u0308rmetauscher", "waermetauscher_DIGITS"),
        ("../../etc", "etc_DIGITS"),
        ("盖子", "part_DIGITS"),
        ("Крышка", "part_DIGITS"),
        ("x" * 60, "x" * 60),
        ("x" * 100, "x" * 40 + "_DIGITS"),
        ("Masse", "masse"),
        ("Maße", "masse_DIGITS"),
        ("CON", "con_DIGITS"),
        ("lpt1", "lpt1_DIGITS"),
        ("Console", "console"),
        ("ä" * 100, "ae" * 20 + "_DIGITS"),
        ("", ""),
        ("-/ -", ""),
    ],
)
def test_a_name_becomes_a_folder(text, name):
    found = part_name(text)
    assert re.fullmatch(name.replace("DIGITS", r"\d{6}"), found) and part_name(found) == found
    assert not found or validate_repo_id(f"somebody/simplenet-own-{found}") is None


def test_a_second_part_takes_no_place_of_the_first(parts):
    for text in ("Deckel A", "盖子", "盖"):
        parts.name(part_name(text), text)
        parts.add(part_name(text), given(png(0)))
    assert sorted(parts.choices()) == sorted((t, part_name(t)) for t in ("Deckel A", "盖子", "盖"))
    free = ("Deckel A", " deckel  a", "deckel_a", "Deckel-A", "Deckel B", "盖子", part_name("盖子"), "new")
    assert [parts.namesake(text) for text in free] == [None] * len(free)
    assert parts.namesake("Deckel_A") == "Deckel A"
    parts.name("deckel_a", "another")
    assert parts.written("deckel_a") == "Deckel A"  # it has pictures


def test_names_that_differ_only_at_their_end_are_two_parts(parts):
    one, other = ("Cover plate of the gear box, drawing 4711-0815, " + "with a long note, " * 3 + end for end in "AB")
    assert part_name(one) != part_name(other) and parts.namesake(one) is None
    parts.name(part_name(one), one)
    assert len(parts.written(part_name(one))) <= 60 and parts.written(part_name(one)).endswith("…")


def test_a_part_without_a_name_file_keeps_its_name(parts):
    parts.add("oil_cap", given(png(0)))
    assert parts.choices() == [("oil_cap", "oil_cap")] and parts.namesake("oil_cap") is None
    assert parts.namesake("Oil cap") == "oil_cap"


def test_pictures_are_kept_once_and_unreadable_ones_not_at_all(parts):
    assert parts.add("lid", given(png(0), png(1), png(0), b"no picture")) == 2
    assert parts.add("lid", given(png(1), png(2))) == 1
    assert len(parts.pictures("lid")) == 3 and parts.names() == ["lid"]
    parts.add("lid", given(png(3)), BAD)
    [kept] = parts.pictures("lid", BAD)
    assert parts.given_name("lid", kept) == "0.png"
    (parts.folder / "lid" / GIVEN_FILE).unlink()  # of a part from before
    assert parts.given_name("lid", kept) == kept.name
    assert len(parts.pictures("lid", BAD)) == 1 and parts.pictures("lid")[0].parent.parts[-2:] == tuple(
        GOOD.split("/")
    )


def test_what_is_odd_is_named(parts):
    parts.add("lid", given(*(png(seed) for seed in range(10))))
    black = io.BytesIO()
    Image.new("RGB", (64, 64), (2, 2, 2)).save(black, "PNG")
    cat = np.random.default_rng(5).integers(0, 2, (64, 64, 1)).repeat(3, 2).astype(np.uint8) * 255
    strange = io.BytesIO()
    Image.fromarray(cat).save(strange, "PNG")
    new = given(png(3), png(11), black.getvalue(), strange.getvalue(), b"none", png(12, (64, 128)))
    found = parts.check("lid", new)
    assert found.pictures == 14 and found.doubled == ["0.png"] and found.unreadable == ["4.png"]
    assert "dark" in found.odd["2.png"] and "unlike" in found.odd["3.png"] and "1.png" not in found.odd
    assert found.sizes == {(64, 64): 13, (128, 64): 1} and found.smallest == 2
    assert len(parts.pictures("lid")) == 10  # a check keeps nothing


def test_pictures_of_one_name_have_their_folder(parts, tmp_path):
    files = {"crack/000.png": 0, "poke/000.png": 1, "poke/1.png": 2, "a\\x/2.png": 3, "b/x/2.png": 4}
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, seed in files.items():
            archive.writestr(name, png(seed))
    (tmp_path / "here.png").write_bytes(png(5))
    assert parts.add("lid", uploads_in([("bad.zip", path), ("scratch/000.png", tmp_path / "here.png")]), BAD) == 6
    names = {"crack/000.png", "poke/000.png", "scratch/000.png", "1.png", "a/x/2.png", "b/x/2.png"}
    assert {one.name for one in parts.kept("lid")} == names
    assert {parts.given_name("lid", picture) for picture in parts.pictures("lid", BAD)} == names
    deep = Upload("1.png", bytes, "a/" * 30_000)
    assert deep.whole == "a/a/a/a/a/a/a/1.png"
    assert told_apart(["1.png", "a/1.png", "a/1.png", "2.png"]) == ["1.png", "a/1.png", "a/1.png", "2.png"]


def test_a_zip_file_is_its_pictures(tmp_path):
    path = tmp_path / "lids.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some/folder/one.png", png(0))
        archive.writestr("__MACOSX/some/._one.png", b"rubbish")
        archive.writestr(".hidden.png", png(1))
        archive.writestr("notes.txt", "text")
        archive.writestr("two.JPG", png(2))
    found = list(uploads_in([("lids.zip", path), ("three.png", path)]))
    assert [upload.name for upload in found] == ["one.png", "two.JPG", "three.png"] and found[0].read() == png(0)


def test_what_a_zip_file_has_besides_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(own_parts, "LARGEST", 10_000)
    path = tmp_path / "lids.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"a/one.png": b"1" * 10_000, "huge.png": b"1" * 10_001, "a/notes.txt": b"text"}.items():
            archive.writestr(name, content)
        for name in ("__MACOSX/._one.png", ".DS_Store", "a/Thumbs.db", "b/Thumbs.db", "../two.png", "C:\\four.png"):
            archive.writestr(name, b"rubbish")
    given = [("lids.zip", path), ("three.png", path)]
    assert left_out(given) == {
        **{"large": ["huge.png"], "other": ["notes.txt"], "outside": ["two.png", "four.png"]},
        "system": ["._one.png", ".DS_Store", "Thumbs.db", "Thumbs.db"],
    }
    assert [upload.name for upload in uploads_in(given)] == ["one.png", "three.png"]


def test_a_file_that_is_no_zip_is_named(tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"PK rubbish")
    for function in (uploads_in, left_out):
        with pytest.raises(ZipError, match=r"broken\.zip"):
            list(function([("broken.zip", tmp_path / "broken.zip")]))


def test_pictures_of_a_zip_file_are_in_memory_one_at_a_time(parts, tmp_path):
    """20 phone pictures have 60 MB. Here they are 20 pictures of 2 MB."""
    path, rng = tmp_path / "lids.zip", np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(20):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (850, 850, 3), np.uint8)).save(stream, "BMP")
            archive.writestr(f"{i}.bmp", stream.getvalue())
    parts.check("lid", given(png(0)))  # loads the backbone
    tracemalloc.start()
    try:
        assert parts.check("lid", uploads_in([("lids.zip", path)])).pictures == 20
        assert parts.add("lid", uploads_in([("lids.zip", path)])) == 20
        assert tracemalloc.get_traced_memory()[1] < 20_000_000 < path.stat().st_size
    finally:
        tracemalloc.stop()


def test_a_picture_is_decoded_once(parts, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        own_parts, "_is_picture", lambda content, real=own_parts._is_picture: real(decoded.append(0) or content)
    )
    for _ in range(2):
        assert parts.check("lid", given(png(0), png(1))).pictures == 2
    assert parts.add("lid", given(png(0), png(1))) == 2 and len(decoded) == 2
    parts.check("lid", ())
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read again"))
    assert parts.check("lid", ()).pictures == 2


def damaged(path):
    """A ZIP file with a good picture, and one whose bytes were changed."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.png", png(0))
        archive.writestr("torn.png", png(1))
    content = bytearray(path.read_bytes())
    content[content.index(png(1)) + 500] ^= 255
    path.write_bytes(content)
    return [("lids.zip", path)]


def test_a_damaged_picture_of_a_zip_file_is_named(parts, tmp_path):
    files = damaged(tmp_path / "lids.zip")
    found = parts.check("lid", uploads_in(files))
    assert (found.pictures, found.unreadable) == (1, ["torn.png"])
    assert parts.add("lid", uploads_in(files)) == 1 and unreadable_in(uploads_in(files)) == ["torn.png"]


@pytest.mark.parametrize(
    ("name", "limit", "fault", "said"),
    [
        ("MEMBERS", 2, "zip_members", "contains more than 2 files. Pack only"),
        ("DIRECTORY", 100, "zip_members", "contains more than 5000 files"),
        ("UNPACKED", 3_000, "zip_unpacked", "Give fewer pictures"),
        ("METHODS", (), "zip_broken", "as an ordinary ZIP file"),
        (None, None, "zip_password", "without a password"),
    ],
)
def test_a_zip_file_beyond_the_limits_is_refused(tmp_path, monkeypatch, name, limit, fault, said):
    path = tmp_path / "lids.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(f"{i}.png", bytes(1000))
    content = path.read_bytes()
    if name:
        monkeypatch.setattr(own_parts, name, limit)
    else:  # the flag in the list of members
        place = content.index(b"PK\1\2") + 8
        path.write_bytes(content[:place] + b"\1" + content[place + 1 :])
    with pytest.raises(ZipError) as caught:
        list(uploads_in([("lids.zip", path)]))
    assert caught.value.fault == fault and said in explain_fault(caught.value, "en", Catalog())


def test_a_member_never_has_more_bytes_than_the_list_says(tmp_path):
    path = tmp_path / "lids.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(50_000_000))
    content, size = path.read_bytes(), (50_000_000).to_bytes(4, "little")
    path.write_bytes(content.replace(size, (1000).to_bytes(4, "little")))
    [upload] = uploads_in([("lids.zip", path)])
    tracemalloc.start()
    try:
        with pytest.raises(PictureError, match="pack it again"):
            upload.read()
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- lessons


def test_a_part_is_shown_as_a_person_wrote_it(teacher, make_detector):
    """The training writes the title, as test_story.py shows."""
    written, part = "-Wärme / 盖子", part_name("-Wärme / 盖子")
    teacher.parts.name(part, written)
    teacher.parts.add(part, given(png(0)))
    lesson = Lesson(part, ("glass",), 10, teacher, teacher.parts.written(part))
    assert f"--title={written}" in teacher.command(lesson) and part in teacher.command(lesson)
    folder = teacher.models / f"glass-own-{part}"
    make_detector(GLASS, dataset="own", category=part).save_pretrained(folder)
    (folder / "title.txt").write_text(lesson.title, encoding="utf-8")
    teacher.catalog.refresh()
    assert teacher.catalog.categories() == [lesson.label] == [f"own / {written}"]
    assert part_words(lesson.label, "de") == written and Corrections(teacher).part_of(lesson.label) == part
    assert [entry.name for entry in teacher.entries(part)] == [f"glass-own-{part}"]
    assert choices(teacher.catalog, "en")[0] == (f"{written} (own part)", lesson.label)
    assert f">{written}<" in re.sub("<wbr>|\u200b", "", render_models(teacher.catalog, "en"))
    (folder / "README.md").write_text(f"of {written} ({part})", encoding="utf-8")
    (folder / "metrics.json").write_text("{}", encoding="utf-8")
    changes = PartChanges(Everybody(teacher.catalog, teacher))
    said, offered, category, taught, _ = changes.rename("Cap Ö", part, lesson.label, None, visitor("de"))
    assert "Das Teil heißt jetzt Cap Ö." in said and offered["choices"] == [("Cap Ö", part)] and taught is None
    assert teacher.catalog.categories() == ["own / Cap Ö"] and category["value"] == "own / Cap Ö"
    assert (folder / "README.md").read_text(encoding="utf-8") == f"of Cap Ö ({part})"
    assert json.loads((folder / "metrics.json").read_text())["title"] == "Cap Ö"
    assert (
        Corrections(teacher).part_of("own / Cap Ö")
        == part
        == teacher.parts.part(" cap ö ")
        == teacher.parts.part(part)
    )
    assert teacher.catalog.load("own / Cap Ö") and teacher.parts.namesake(written) == "Cap Ö"


def test_a_name_of_another_part_is_refused(teacher):
    for text in ("Lid A", "Cap"):
        teacher.parts.name(part_name(text), text)
        teacher.parts.add(part_name(text), given(png(0)))
    changes = PartChanges(Everybody(teacher.catalog, teacher))
    for text, words in {
        "lid a": "belongs to the part Lid A",
        "lid_a": "belongs to",
        "-": "Give the part a name",
    }.items():
        said, *others = changes.rename(text, "cap", None, None, visitor())
        assert words in said and others == [gr.skip()] * 4
    assert "now called CAP" in changes.rename("CAP", "cap", None, None, visitor())[0]
    assert sorted(teacher.parts.choices()) == [("CAP", "cap"), ("Lid A", "lid_a")]


def test_a_deleted_part_is_gone_and_nothing_else(teacher, make_detector, tmp_path, monkeypatch):
    changes, parts, outside = PartChanges(Everybody(teacher.catalog, teacher)), teacher.parts, tmp_path / "outside"
    for part in ("lid", "lid_2"):
        parts.name(part, part.title())
        parts.add(part, given(png(0)))
        parts.add(part, given(png(1)), BAD)
        for end in ("", ".1"):
            make_detector(GLASS, dataset="own", category=part).save_pretrained(
                teacher.models / f"glass-own-{part}{end}"
            )
    (teacher.models / ".unfinished/glass-own-lid").mkdir(parents=True)
    outside.mkdir()
    (outside / "kept.png").write_bytes(png(3))
    (parts.folder / "lid/test/linked").symlink_to(outside, target_is_directory=True)
    (teacher.models / "hybrid-own-lid").symlink_to(outside, target_is_directory=True)
    others = {path for path in tmp_path.rglob("*") if "lid_2" in str(path)}
    teacher.catalog.refresh()
    shown, question = changes.ask("lid", visitor())
    assert shown["visible"] and "Delete Lid for good? Pictures: 2. Models: 1." in question
    monkeypatch.setattr(teacher, "current", lambda part: object())
    assert "being taught at the moment" in changes.delete("lid", None, None, visitor())[0] and teacher.has("lid")
    monkeypatch.undo()
    said, _, words, results, offered, category, taught, inspect = changes.delete(
        "lid", "own / lid", "own / lid", visitor()
    )
    assert (said, results, taught, inspect["visible"]) == ("", "", None, False) and "Lid was deleted." in words
    assert offered["choices"] == [("Lid_2", "lid_2")] and offered["value"] is None
    for part in ("lid", "", "nothing", ".."):
        assert "no longer there" in changes.delete(part, None, None, visitor())[0]
    assert [entry.category for entry in teacher.catalog.entries] == ["lid_2"] and category["value"] is None
    assert {path for path in tmp_path.rglob("*") if "lid" in str(path.relative_to(tmp_path))} == others
    assert (outside / "kept.png").is_file() and teacher.models.is_dir() and parts.folder.is_dir()


def test_a_part_that_is_taught_is_not_taught_twice(teacher, uploads, monkeypatch):
    """The new pictures and methods would not be in it."""
    monkeypatch.setattr(teacher, "command", lambda lesson: FOREVER)
    lesson = teacher.start("lid", ["hybrid"])
    pages = list(tab_of(teacher).teach("Lid", uploads(*map(png, range(12))), None, ["hybrid"], None, None, visitor()))
    assert "This part is being taught at the moment" in pages[-1][0] and not teacher.parts.pictures("lid")
    teacher.stop(lesson)


def test_too_many_known_defects_are_refused_and_those_of_before_do_not_count(teacher, uploads, monkeypatch):
    monkeypatch.setattr("webapp.defect_check.MOST", 3)
    good, bad = (uploads(*map(png, range(*numbers))) for numbers in ((0, 12), (50, 54)))
    pages = list(tab_of(teacher).teach("Lid", good, bad, ["hybrid"], None, None, visitor()))
    assert "There are 4 new known defects. Give at most 3 at a time." in pages[-1][0]
    teacher.parts.add("lid", given(*map(png, range(50, 54))), BAD)
    monkeypatch.setattr(teacher, "command", lambda lesson: [sys.executable, "-c", ""])
    monkeypatch.setattr(teacher, "entries", lambda part: [])
    pages = list(tab_of(teacher).teach("Lid", good, bad, ["hybrid"], None, None, visitor()))
    assert "new known defects" not in pages[-1][0]


def test_a_lesson_is_stopped_with_all_its_processes(teacher, monkeypatch):
    monkeypatch.setattr(teacher, "command", lambda lesson: FOREVER)
    first, second = teacher.start("one", ["hybrid"]), teacher.start("two", ["hybrid"])
    wait_for(lambda: first.state == RUNNING)
    assert second.state == WAITING and teacher.ahead(second) == 1
    assert teacher.start("one", ["hybrid"]) is first  # pressed twice
    teacher.stop(second)
    assert second.state == STOPPED and teacher.current("two") is None
    began = time.monotonic()
    teacher.stop(first)
    wait_for(lambda: first.is_over, 10)
    assert first.state == STOPPED and time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("print('FAILED hybrid-own-lid: the disk is full')", "the disk is full"),
        ("import os; os.kill(os.getpid(), 9)", "killed"),
        ("print('one'); print('the last line'); raise SystemExit(1)", "the last line"),
    ],
)
def test_a_failure_is_told(teacher, monkeypatch, script, reason):
    ending = script if "kill" in script or "Exit" in script else f"{script}; raise SystemExit(1)"
    monkeypatch.setattr(teacher, "command", lambda lesson: [sys.executable, "-c", ending])
    lesson = teacher.start("lid", ["hybrid"])
    wait_for(lambda: lesson.is_over)
    assert (lesson.state, lesson.reason) == (FAILED, reason)
    assert teacher.catalog.categories() == []
    after = teacher.start("lid", ["hybrid"])  # the next one runs
    wait_for(lambda: after.is_over)


def test_the_training_has_a_lower_priority(teacher, monkeypatch, tmp_path):
    out = tmp_path / "nice"
    script = f"import os, time; time.sleep(1); open({str(out)!r}, 'w').write(str(os.getpriority(os.PRIO_PROCESS, 0)))"
    monkeypatch.setattr(teacher, "command", lambda lesson: [sys.executable, "-c", script])
    lesson = teacher.start("lid", ["hybrid"])
    wait_for(lambda: lesson.is_over)
    assert int(out.read_text()) >= min(19, os.getpriority(os.PRIO_PROCESS, 0) + 1)


def test_the_threads_of_the_training_do_not_spin_for_long(teacher, monkeypatch, tmp_path):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    out = tmp_path / "policy"
    script = f"import os; open({str(out)!r}, 'w').write(os.environ['GOMP_SPINCOUNT'])"
    monkeypatch.setattr(teacher, "command", lambda lesson: [sys.executable, "-c", script])
    lesson = teacher.start("lid", ["hybrid"])
    wait_for(lambda: lesson.is_over)
    assert out.read_text() == "1000"


def test_the_time_left_comes_from_the_stage():
    lesson = Lesson("lid", ("hybrid",), 50, state=RUNNING, began=time.monotonic() - 30)
    lesson.bars = [{"what": "folds", "done": 3, "total": 6}, {"what": "discriminator", "done": 1, "total": 500}]
    assert lesson.share == pytest.approx(0.15 + 0.7 / 2) and lesson.seconds_left == pytest.approx(30, rel=0.05)
    lesson.bars = [{"what": "simplenet-own-lid", "done": 10, "total": 100}]
    assert lesson.share == pytest.approx(0.095)


def test_the_countdown_never_goes_up_unless_the_training_begins_again(monkeypatch):
    monkeypatch.setattr(teaching, "PACES", {"hybrid": 1.0})
    lesson = Lesson("lid", ("hybrid",), 50, state=RUNNING, began=time.monotonic())
    assert lesson.countdown() == pytest.approx(35)
    lesson.bars = [{"what": "folds", "done": 1, "total": 5}]
    lesson.began = time.monotonic() - 9
    assert (first := lesson.countdown()) == pytest.approx(22, rel=0.05)
    lesson.began -= 60  # the fold takes longer than expected
    assert lesson.seconds_left > 100 and lesson.countdown() == first
    lesson.bars = [{"what": "folds", "done": 4, "total": 5}]
    assert lesson.countdown() <= first
    lesson.bars = [{"what": "reading pictures", "done": 0, "total": 50}]
    assert lesson.countdown() > first


def test_the_first_lesson_says_how_fast_later_ones_are(teacher, monkeypatch):
    monkeypatch.setattr(teaching, "PACES", {})
    monkeypatch.setattr(teaching, "slowness", lambda: 20.0)
    monkeypatch.setattr(Lesson, "seconds", 70.0)
    assert teaching.estimate("hybrid", 50) == 20 * 35
    monkeypatch.setattr(teacher, "command", lambda lesson: [sys.executable, "-c", ""])
    monkeypatch.setattr(teacher, "_train", lambda lesson: (FAILED, "-"))
    teacher.train(Lesson("lid", ("hybrid",), 50, teacher))
    assert teaching.estimate("hybrid", 50) == 20 * 35
    monkeypatch.setattr(teacher, "_train", lambda lesson: (DONE, ""))
    teacher.train(Lesson("lid", ("hybrid",), 50, teacher))
    assert teaching.estimate("hybrid", 50) == 70 and teaching.estimate("hybrid", 200) == 2 * 65
    assert teaching.estimate("simplenet", 8) == 2 * 20  # as much slower than the reference


def test_stages_are_named_in_their_order(teacher):
    folds = {"what": "folds", "done": 1, "total": 5}
    said = []
    for bars in ([], [{"what": "frozen features", "done": 1, "total": 3}], [folds], [folds | {"done": 5}]):
        said.append(str(teach_tab._stage(bars, "en")))
    said.append(str(teach_tab._stage([{"what": "discriminator", "done": 1, "total": 3}], "en")))
    threshold = [f"learning for the threshold, {number} of 5" for number in (2, 5)]
    assert said == ["starting", "looking at the pictures", *threshold, "learning"]


def test_pictures_that_came_after_a_lesson_wait_for_the_next(teacher, monkeypatch):
    tab, en = tab_of(teacher), visitor()
    teacher.parts.add("lid", given(*map(png, range(10))))
    assert tab.known("lid", None, en)[0] == "" == tab.known(None, None, en)[0]
    monkeypatch.setattr(teacher, "_train", lambda lesson: (DONE, ""))
    monkeypatch.setattr(teaching, "PACES", {})
    lesson = Lesson("lid", ("hybrid",), 10, teacher)
    teacher.train(lesson)
    assert tab.known("lid", None, en)[0] == ""
    teacher.parts.add("lid", given(png(11), png(12)), TAKEN_BACK)
    said, priced = tab.known("lid", None, en)
    assert "wait for the next lesson: 2." in said and ": " in priced["choices"][0][0]
    assert "With 10 good pictures" in priced["info"]  # the corrected ones promise nothing
    assert tab.known("lid", [{"path": "more.png"}], en)[1] == gr.skip()  # they change the time
    teacher.train(lesson)
    assert tab.known("lid", None, en)[0] == ""
    shapes = [{"kind": "rectangle", "counts": True, "width": 0, "points": [[0, 0], [0.5, 1]]}]
    keep_region(teacher, "lid", {"part": "lid", "size": (64, 64), "shapes": shapes})
    monkeypatch.setattr(teacher.catalog, "load", lambda label: {})
    said = teach_tab._result(replace(lesson, state=DONE), "en")
    assert (
        "Corrected good pictures that were learned, too: 2. The promise does not count them." in said
        and "Share of the picture that counts: 50" in said
    )


def test_without_pictures_no_time_is_shown(teacher):
    _, priced, least = last(tab_of(teacher).check("Lid", None, visitor()))
    assert [name for name, _ in priced["choices"]] == ["Hybrid", "SimpleNet", "GLASS"]
    assert least["info"].key == "teach_least_size_info"


def test_the_promise_before_a_lesson_is_that_of_its_calibration():
    """A method without cross-fitting can promise much less, and the visitor sees that before the start."""
    config = TrainConfig("pictures")
    assert {n for n in METHODS if config.folds_of(n)} == {n for n in METHODS if METHODS[n].cross_fitted}
    samples = [Sample(f"{i:02}.png", Path(f"{i:02}.png"), "good", 0) for i in range(40)]
    assert len(hold_out(samples)[1]) == expected_promise("simplenet", 40).size == 4
    first, hybrid, others = teach_tab._promises(40, "en")
    assert first == "With 40 good pictures, so many good parts are called defective:"
    assert hybrid == "• Hybrid: 2.4% on average, hardly ever more than 7.2% (95%). All pictures set its threshold."
    assert others.startswith("• SimpleNet, GLASS: 20% on average, hardly ever more than 53% (95%). Only 4 of the ")
    assert "nur selten mehr als 2,3\xa0%" in [*teach_tab._promises(200, "de")][1]


def test_a_check_says_how_far_it_is(teacher, uploads, monkeypatch):
    monkeypatch.setattr(teach_tab, "EVERY", 0)
    *far, (said, *_) = tab_of(teacher).check("Lid", uploads(*map(png, range(10))), visitor())
    assert [f"Checking the pictures: {done} of 10 …" in text for done, (text, *_) in enumerate(far)] == [True] * 10
    assert "Pictures that can be used: 10." in said and all(rest == [gr.skip()] * 2 for _, *rest in far)


def test_a_check_without_known_defects_says_so(teacher):
    *_, (_, said, _) = tab_of(teacher).judge("Lid", None, visitor())
    assert "Known defects are missing. Add 3 to 50 pictures" in said


def test_a_lesson_that_fails_in_an_unknown_way_does_not_stop_the_others(teacher, monkeypatch, caplog):
    ends = iter((MemoryError("no room"), (DONE, "")))

    def train(lesson):
        if isinstance(end := next(ends), Exception):
            raise end
        return end

    monkeypatch.setattr(teacher, "train", train)
    first, second = (teacher.start(part, ["hybrid"]) for part in ("lid", "cap"))
    deadline = time.monotonic() + 20
    while not second.is_over and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (first.state, first.reason, second.state) == (FAILED, "MemoryError: no room", DONE)
    assert "the lesson own / lid failed" in caplog.text


def test_a_lesson_without_others_before_it_starts(teacher, monkeypatch):
    lesson = Lesson("lid", ("hybrid",), 10, teacher, title="Lid")
    assert "Lid starts." in teach_tab._progress(lesson, "en")
    monkeypatch.setattr(teacher, "ahead", lambda lesson: 2)
    assert "Lid waits. Parts before it: 2." in teach_tab._progress(lesson, "en")


# ---------------------------------------------------------------- the tab


def asked(**data):
    """The event of the list of a part's pictures."""
    return gr.EventData(None, data)


def test_a_picture_is_removed_and_put_back(teacher):
    pictures, parts, en = PartPictures(Everybody(teacher.catalog, teacher)), teacher.parts, visitor()
    parts.add("lid", given(*map(png, range(3))))
    parts.add("lid", given(png(7)), TAKEN_BACK)
    parts.add("lid", given(png(8)), BAD)
    parts.keep_learned("lid", [path.name for path in parts.pictures("lid")])
    assert Counter(one.kind for one in parts.kept("lid")) == {"good": 3, "corrected": 1, "bad": 1}
    [corrected] = (one for one in parts.kept("lid") if one.kind == "corrected")
    content = corrected.path.read_bytes()
    shown = pictures.change("lid", asked(picture=corrected.place, kind="all"), en)
    assert f'data-picture="{corrected.place}" data-back="yes"' in shown and parts.since_lesson("lid") == (0, 1)
    assert len(parts.pictures("lid")) == 3 and parts.digests("lid", TAKEN_BACK) == set()
    assert "are removed now: 1." in tab_of(teacher).known("lid", None, en)[0]
    [removed] = (one for one in parts.kept("lid") if one.kind == "removed")
    assert (removed.name, removed.path.read_bytes()) == (corrected.name, content)
    assert "es gibt keine" not in pictures.show("lid", asked(kind="removed"), visitor("de")).lower()
    pictures.change("lid", asked(picture=corrected.place, back=True), en)
    assert corrected in parts.kept("lid") and parts.since_lesson("lid") == (0, 0)
    parts.remove("lid", corrected.place)
    parts.add("lid", given(content), TAKEN_BACK)  # given again
    assert corrected in parts.kept("lid") and len(parts.kept("lid")) == 5


def test_no_other_file_can_be_removed_and_none_during_a_lesson(teacher, monkeypatch):
    pictures, parts = PartPictures(Everybody(teacher.catalog, teacher)), teacher.parts
    parts.name("lid", "Lid")
    parts.add("lid", given(png(0)))
    before = {path for path in parts.folder.rglob("*") if path.is_file()}
    for name in ("name.txt", "../lid/name.txt", str(parts.pictures("lid")[0]), None):
        for back in (False, True):
            pictures.change("lid", asked(picture=name, back=back), visitor())
    monkeypatch.setattr(teacher, "current", lambda part: object())
    [one] = parts.kept("lid")
    assert "being taught at the moment" in pictures.change("lid", asked(picture=one.place), visitor())
    assert {path for path in parts.folder.rglob("*") if path.is_file()} == before


def test_of_many_pictures_only_those_of_a_page_are_decoded(teacher, monkeypatch):
    folder, decoded = teacher.parts.folder / "lid" / GOOD, []
    folder.mkdir(parents=True)
    for i in range(500):
        (folder / f"IMG_{i}.png").write_bytes(png(0, (8, 8)))
    (folder / "IMG_1.png").write_bytes(b"no picture")
    reduced = part_pictures._reduced
    monkeypatch.setattr(part_pictures, "_reduced", lambda path: decoded.append(path.name) or reduced(path))
    pictures = PartPictures(Everybody(teacher.catalog, teacher))
    shown = pictures.show("lid", asked(), visitor())
    assert decoded == [f"IMG_{i}.png" for i in range(24)] and "1 to 24 of 500" in shown and "no-picture" in shown
    assert "481 to 500 of 500" in pictures.show("lid", asked(page=99), visitor())
    assert "1 bis 1 von 1" in pictures.show("lid", asked(page=99, find="img_77"), visitor("de"))
    assert "There are no such pictures." in pictures.show("lid", asked(find="<b>"), visitor())


def test_a_thumbnail_is_upright_and_small(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1600, 800)).save(tmp_path / "phone.jpg", exif=exif)
    url = part_pictures.thumbnail(tmp_path / "phone.jpg", 0)
    assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == (80, 160)


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    """Makes files in the upload folder, as Gradio describes them."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    folder = tmp_path / "uploads/ab"
    folder.mkdir(parents=True)

    def make(*contents):
        files = []
        for i, content in enumerate(contents):
            path = folder / f"{len(list(folder.iterdir()))}-{i}.png"
            path.write_bytes(content)
            files.append({"path": str(path), "orig_name": path.name})
        return files

    return make


def tab_of(teacher):
    return TeachTab(Everybody(teacher.catalog, teacher))


def visitor(language="en"):
    return gr.Request(headers={"accept-language": language})


def test_pictures_are_judged_before_anything_is_kept(teacher, uploads):
    tab = tab_of(teacher)
    said, priced, least = last(tab.check("Lid", uploads(*(png(seed) for seed in range(8))), visitor()))
    assert (
        "Pictures that can be used: 8. Still missing: 2." in said
        and "about 2 x 2 pixels of your picture, an area of 4 pixels" in said
    )
    assert next(name for _, name in priced["choices"]) == "hybrid" and not teacher.parts.names()
    assert "• SimpleNet, GLASS: 50% on average, hardly ever more than 95% (95%). Only 1 of" in priced["info"]
    assert least["info"] == "For these pictures, an area below 16 pixels, for example 4 x 4, changes little."
    assert "Noch nötig: 2." in last(tab.check("Lid", uploads(*(png(seed) for seed in range(8))), visitor("de")))[0]


def test_what_is_left_out_is_said(teacher, uploads, tmp_path, monkeypatch):
    monkeypatch.setattr(own_parts, "LARGEST", 100_000)
    path = tmp_path / "uploads/ab/lids.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"0.png": png(0), "huge.png": b"1" * 100_001, "<b>.txt": b"text"}.items():
            archive.writestr(name, content)
        for i in range(4):
            archive.writestr(f"__MACOSX/._{i}.png", b"rubbish")
    files = [{"path": str(path), "orig_name": "lids.zip"}]
    said, tab = {}, TeachTab(Everybody(teacher.catalog, teacher))
    for language in ("en", "de"):
        said[language] = last(tab.check("Lid", [*uploads(png(1)), *files], visitor(language)))[0]
    assert "Pictures that can be used: 2." in said["en"] and "Left out (1): huge.png. A picture in a ZIP" in said["en"]
    assert "not pictures (1): &lt;b&gt;.txt" in said["en"] and "Ausgelassen (1): huge.png." in said["de"]
    assert "system wrote them (4): ._0.png, ._1.png, ._2.png and 1 more" in said["en"]
    broken, *_ = bad = uploads(b"no picture", png(2))
    defects = tab.check_defects(None, None, [*bad, *files], visitor())
    assert "Known defects given: 2." in defects  # one file, and one in the ZIP file
    assert f"Cannot be read (1): {broken['orig_name']}. Save" in defects and "Left out (1): huge.png" in defects
    assert (
        tab.check_defects(None, None, uploads(png(3)), visitor()).count("<li>") == 0
        and tab.check_defects("Lid", None, None, visitor()) == ""
    )


def test_a_disk_that_is_full_while_pictures_are_kept_is_told(teacher, uploads, monkeypatch):
    """No half of a picture is left, and no lesson begins."""
    monkeypatch.setattr(teach_tab, "missing_packages", list)
    whole = Path.write_bytes

    def write(path, content):
        whole(path, content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files = uploads(*map(png, range(10)))
    monkeypatch.setattr(Path, "write_bytes", write)
    *_, page = tab_of(teacher).teach("Lid", files, None, ["hybrid"], None, None, visitor())
    assert "(No space left on device). Free some space on the disk" in page[0].replace("[Errno 28] ", "")
    assert not teacher.lessons() and not [path for path in teacher.parts.folder.rglob("*.png") if path.is_file()]


def test_a_picture_cannot_be_good_and_a_known_defect(teacher, uploads, monkeypatch):
    """Only the log of the training said so."""
    monkeypatch.setattr(teach_tab, "missing_packages", list)
    tab, good, same, other = tab_of(teacher), uploads(*map(png, range(10))), uploads(png(3)), uploads(png(30))
    words = f"known defects at the same time: {good[3]['orig_name']}. A picture cannot be both"
    assert words in tab.check_defects("Lid", good, [*same, *other], visitor())
    assert "zugleich" in tab.check_defects("Lid", good, same, visitor("de"))
    assert "both" not in tab.check_defects("Lid", good, other, visitor())
    *_, page = tab.teach("Lid", good, same, ["hybrid"], None, None, visitor())
    assert words in page[0] and not teacher.parts.names()
    teacher.parts.add("lid", given(*map(png, range(10))))
    assert "at the same time" in tab.check_defects("Lid", None, same, visitor())
    monkeypatch.setattr(teacher, "entries", lambda part: [None])
    *_, (_, said, _) = tab.judge("Lid", [*same, *uploads(*map(png, range(20, 23)))], visitor())
    assert "at the same time" in said and not teacher.parts.pictures("lid", BAD)


def test_pictures_that_a_part_has_as_both_are_said_and_refuse_nothing(teacher, uploads):
    """Somebody put them into the folders; the list of the part's pictures removes one of the two."""
    teacher.parts.add("lid", given(*map(png, range(10))))
    teacher.parts.add("lid", given(png(3), png(40)), BAD)
    [name] = teacher.parts.in_both("lid").values()
    said = tab_of(teacher).check_defects("lid", None, uploads(png(41)), visitor())
    assert f"as good ones and as known defects: {name}. A picture" in said and "given: 1." in said
    assert "Pictures of this part" in said
    assert "at the same time" not in said
    assert not teach_tab._new_contradictions(teacher.parts, "lid", None, uploads(png(3)), "en")
    assert teacher.parts.in_both("other") == {}


@pytest.mark.parametrize(("size", "said"), [(1, " Only 1 of the pictures sets this threshold."), (3, ""), (0, "")])
def test_the_result_says_how_few_pictures_set_a_threshold(teacher, size, said):
    teacher.parts.add("lid", given(*map(png, range(3))))
    lesson = SimpleNamespace(teacher=teacher, part="lid")
    assert teach_tab._set_by_some(lesson, size, "en") == said


def test_known_defects_that_cannot_be_read_are_said_with_the_result(teacher, uploads, monkeypatch):
    monkeypatch.setattr(teach_tab, "missing_packages", list)
    monkeypatch.setattr(teach_tab, "EVERY", 0.05)
    monkeypatch.setattr(teacher, "command", lambda lesson: [sys.executable, "-c", ""])
    monkeypatch.setattr(teacher.catalog, "load", lambda label: {})
    good, bad = uploads(*map(png, range(10))), uploads(b"no picture")
    pages = list(
        TeachTab(Everybody(teacher.catalog, teacher)).teach("Lid", good, bad, ["hybrid"], None, None, visitor())
    )
    assert "Lid is taught" in pages[-1][1] and f"Cannot be read (1): {bad[0]['orig_name']}" in pages[-1][1]


@pytest.mark.parametrize(
    ("part", "count", "methods", "message"),
    [
        ("!!", 10, ["hybrid"], "Give the part a name"),
        ("Lid", 9, ["hybrid"], "Still missing: 1."),
        ("Lid", 10, [], "Choose at least one method"),
        ("Lid", 10, ["patchcore"], "Choose at least one method"),
        ("Oil_Cap", 10, ["hybrid"], "too similar to the part Oil cap. Choose Oil cap in the list"),
    ],
)
def test_what_cannot_be_taught_is_refused(teacher, uploads, part, count, methods, message, monkeypatch):
    monkeypatch.setattr(teach_tab, "missing_packages", list)
    teacher.parts.name("oil_cap", "Oil cap")
    teacher.parts.add("oil_cap", given(png(0)))
    pages = list(tab_of(teacher).teach(part, uploads(*map(png, range(count))), None, methods, None, None, visitor()))
    assert (
        len(pages) == 2
        and message in pages[1][0]
        and "Checking the pictures" in pages[0][0]
        and teacher.current("lid") is None
    )


def test_missing_packages_are_named(teacher, uploads, monkeypatch):
    monkeypatch.setattr(teach_tab, "missing_packages", lambda: ["accelerate"])
    _, page = tab_of(teacher).teach("Lid", uploads(*map(png, range(10))), None, ["hybrid"], None, None, visitor())
    assert "pip install -e" in page[0]


def test_a_failure_and_a_stop_are_shown(teacher, uploads, monkeypatch):
    monkeypatch.setattr(teach_tab, "missing_packages", list)
    monkeypatch.setattr(teach_tab, "EVERY", 0.05)
    files = uploads(*map(png, range(10)))
    monkeypatch.setattr(
        teacher, "command", lambda lesson: [sys.executable, "-c", "raise SystemExit('no space in /a/b')"]
    )
    pages = list(tab_of(teacher).teach("Lid", files, None, ["hybrid"], None, None, visitor()))
    assert "Lid: Teaching failed. no space in b" in pages[-1][1] and pages[-1][2]["interactive"] is False
    assert len(teacher.parts.pictures("lid")) == 10  # nothing is lost
    monkeypatch.setattr(teacher, "command", lambda lesson: FOREVER)
    tab = tab_of(teacher)
    pages = tab.teach("Lid", files, None, ["hybrid"], None, None, visitor())
    page = next(pages)
    while "Teaching Lid" not in str(page[1]):
        page = next(pages)
    assert page[2]["interactive"] is True and page[4] == "lid"
    tab.stop("somebody_elses", visitor())
    tab.stop("lid", visitor())
    assert "Lid: Stopped. The pictures are kept" in [*pages][-1][1]


def test_a_lesson_is_shown_again_after_a_reload(teacher, uploads, monkeypatch):
    monkeypatch.setattr(teach_tab, "EVERY", 0.05)
    monkeypatch.setattr(teacher, "command", lambda lesson: FOREVER)
    tab = tab_of(teacher)
    nothing = [(gr.skip(),) * 9]
    assert list(tab.resume(None, visitor())) == nothing
    teacher.parts.name("lid", "Lid")
    lesson = teacher.start("lid", ["hybrid"])
    wait_for(lambda: lesson.state == RUNNING)
    pages = tab.resume(None, visitor("de"))
    assert [next(pages)] == nothing
    status, *_, part, _, _ = next(pages)
    assert (status, part["value"]) == ("", "lid")  # no introduction above a lesson
    _, shown, stop, _, running, *_ = next(pages)
    assert "Lid wird angelernt" in shown and "Noch etwa" in shown and "<progress" in shown
    assert (stop["interactive"], running) == (True, "lid")
    assert list(tab.resume("cap", visitor())) == nothing * 2  # this window shows it, and has another part in the form
    tab.stop(running, visitor())
    _, shown, stop, *_ = [*pages][-1]
    assert "Angehalten" in shown and stop["interactive"] is False


def test_another_part_waits_while_one_is_taught(teacher, uploads, monkeypatch):
    """The form belongs to the person: a running lesson changes neither the name nor the files in it."""
    monkeypatch.setattr(teach_tab, "missing_packages", list)
    monkeypatch.setattr(teach_tab, "EVERY", 0.05)
    monkeypatch.setattr(teacher, "command", lambda lesson: FOREVER)
    tab, files = tab_of(teacher), uploads(*map(png, range(10)))
    lid = tab.teach("Lid", files, None, ["hybrid"], None, None, visitor())
    assert "Checking" in next(lid)[0] and next(lid)[6:] == (
        {"choices": [("Lid", "lid")], "value": "lid", "__type__": "update"},
        *(None, None),
    )
    first = next(lid)
    assert "value" not in first[6] and first[7:] == (gr.skip(), gr.skip())
    again = [*tab.teach("Lid", files, None, ["hybrid"], None, None, visitor())]
    assert "This part is being taught at the moment" in again[-1][0]
    *_, kept = tab.teach("Cap", files, None, ["hybrid"], None, None, visitor())  # the first watch shows it
    assert kept[6]["value"] == "cap" and kept[7:] == (None, None)
    both = next(lid)
    assert "Lid" in both[1] and "Cap waits. Parts before it: 1." in both[1] and both[4] == "lid"
    tab.stop("lid", visitor())
    wait_for(lambda: teacher.current("lid") is None)
    later = next(lid)
    while later[4] != "cap":
        later = next(lid)
    assert "Stopped. The pictures are kept" in later[1]
    tab.stop("cap", visitor())
    assert [*lid][-1][1].count("Stopped. The pictures are kept") == 2


@pytest.mark.browser
def test_a_reloaded_page_can_stop_the_lesson(teacher, tmp_path, monkeypatch):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    monkeypatch.setattr(teach_tab, "missing_packages", list)
    monkeypatch.setattr(teacher, "command", lambda lesson: FOREVER)
    for seed, name in enumerate(["a/0.png", "b/0.png", *(f"a/{i}.png" for i in range(1, 9))]):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed))
    with served(teacher.catalog, tmp_path / "up", monkeypatch, teacher) as url, visit(url) as page:
        page.get_by_role("tab", name="Teach").click()
        page.locator("#teach-part input").fill("盖子 A")
        page.keyboard.press("Enter")
        page.locator("input[webkitdirectory]").set_input_files(tmp_path / "set")
        page.get_by_text("Pictures that can be used: 10.").wait_for()
        page.get_by_role("button", name="Teach", exact=True).click()
        page.get_by_text("Teaching 盖子 A").wait_for()
        page.evaluate("console.error = () => {}")  # Gradio's, of requests that the reload ends
        page.reload()
        page.get_by_role("tab", name="Teach").click()
        page.get_by_text("Teaching 盖子 A").wait_for()
        playwright.expect(page.locator("#teach-part input")).to_have_value("盖子 A")
        assert page.get_by_role("progressbar").is_visible()
        photograph(page, "teach_reloaded")
        page.get_by_role("tab", name="Models").click()
        page.get_by_role("tab", name="Teach").click()
        page.get_by_role("button", name="Stop").last.click()
        page.get_by_text("Stopped. The pictures are kept").wait_for()
        playwright.expect(page.get_by_role("button", name="Teach", exact=True)).to_be_enabled()
        page.get_by_role("button", name="Pictures of this part").click()
        page.get_by_role("button", name="Remove 3.png").wait_for()
        assert page.locator(".pictures .name").all_inner_texts()[-2:] == ["a/0.png", "b/0.png"]
        page.get_by_role("button", name="Remove 3.png").focus()
        page.keyboard.press("Enter")
        page.get_by_text("Pictures that can be used: 9. Still missing: 1.").wait_for()
        playwright.expect(page.get_by_role("button", name="Put back 3.png")).to_be_focused()
        photograph(page, "teach_pictures")
        page.get_by_role("button", name="Removed 1").click()
        playwright.expect(page.locator(".pictures li")).to_have_count(1)
        playwright.expect(page.locator("[data-show=removed]")).to_be_focused()
        page.get_by_role("button", name="Put back 3.png").focus()
        page.keyboard.press("Enter")
        page.get_by_text("Pictures that can be used: 10.").wait_for()
        playwright.expect(page.locator("[data-show=removed]")).to_be_focused()  # the list is empty
        page.get_by_role("button", name="All 10").click()
        playwright.expect(page.locator(".pictures li")).to_have_count(10)
        playwright.expect(page.locator("[data-show=all]")).to_be_focused()
        page.get_by_label("Find a name").fill("7")
        page.keyboard.press("Enter")
        playwright.expect(page.locator(".pictures li")).to_have_count(1)
        page.get_by_role("button", name="Rename or delete").click()
        page.get_by_label("New name").fill("Cap")
        page.keyboard.press("Enter")
        page.get_by_text("The part is now called Cap.").wait_for()
        playwright.expect(page.locator("#teach-part input")).to_have_value("Cap")
        page.get_by_role("button", name="Delete this part").click()
        page.get_by_text("Delete Cap for good? Pictures: 10. Models: 0.").wait_for()
        photograph(page, "teach_delete")
        page.get_by_role("button", name="Delete for good").click()
        page.get_by_text("Cap was deleted.").wait_for()
        playwright.expect(page.locator("#teach-part input")).to_have_value("")
        playwright.expect(page.get_by_role("button", name="Rename or delete")).to_be_hidden()
    assert teacher.lessons() == [] == list(teacher.parts.folder.iterdir())


def judged(*verdicts, rate=0.01, size=99):
    """Inspections of known defects by file: by method, whether each is found."""
    calibration = SimpleNamespace(guaranteed_rate=lambda: rate, size=size)
    return [
        (
            "one.png",
            SimpleNamespace(
                predictions={
                    name: SimpleNamespace(is_anomalous=found, p_value=0.01 if found else 0.2, is_unsure=not found)
                    for name, found in zip("AB", row, strict=False)
                },
                picture=None,
                detectors=dict.fromkeys("AB", SimpleNamespace(calibration=calibration)),
            ),
        )
        for row in verdicts
    ]


@pytest.fixture
def without_maps(monkeypatch):
    monkeypatch.setattr(defect_check, "_heat_map", lambda picture, prediction: "data:,")


def test_known_defects_are_counted_with_an_interval(without_maps):
    [line] = DefectCheck(judged(*[(True,)] * 9, (False,))).lines("en")
    assert "A finds 9 of 10 known defects (of all such defects, 60% to 98%) at 1% false alarms." in line.replace(
        "\xa0", " "
    )
    assert "It finds all of them from 20% false alarms on." in line and "“Look again” among the others: 1." in line
    [line] = DefectCheck(judged((True,))).lines("en")
    assert "Look again" not in line
    assert DefectCheck().lines("en") == []


def test_heat_maps_of_missed_defects_are_not_endless(without_maps):
    check = DefectCheck(judged(*[(True, False)] * 9))
    assert check.missed("de") == {"Von B übersehen": [defect_check.Missed("one.png", "data:,")] * defect_check.SHOWN}


def test_a_method_suits_better_only_if_that_is_certain(without_maps):
    even, clear = [(True, False), (True, True), (False, True)], [(True, False)] * 8
    assert not any("suits" in line for line in DefectCheck(judged(*even)).lines("en"))
    assert "A suits this part better" in DefectCheck(judged(*clear)).lines("en")[-1]


def test_the_models_of_visitors_are_no_folder_outside(teacher):
    lesson = Lesson(part_name("../../../x; rm -rf"), ("hybrid",), 10)
    command = teacher.command(lesson)
    assert lesson.part.startswith("x_rm_rf_") and Path(command[command.index("--output") + 1]).is_absolute()
