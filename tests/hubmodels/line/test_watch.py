"""Watching a folder: each picture is judged once, and none is lost."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from test_house import ROOT

from hubmodels.line import watch as module
from hubmodels.line.line import Line
from hubmodels.line.log import InspectionLog
from hubmodels.line.watch import FolderWatch

EXAMPLES = ROOT / "examples/parts/washer"
GOOD, SCRATCH, PIT = (EXAMPLES / f"{name}.png" for name in ("good", "scratch", "pit"))


@pytest.fixture(scope="module")
def loaded():
    return Line.of("parts / washer", methods=["hybrid"])


@pytest.fixture
def started(tmp_path, loaded, monkeypatch):
    """Makes a watch of `tmp_path/in`, as after a start of the program; files count as written at once."""
    monkeypatch.setattr(module, "SETTLED", 0)
    (tmp_path / "in").mkdir()

    def start(**settings):
        line = Line(loaded.label, loaded.detectors, log=InspectionLog(tmp_path / "log"), **settings)
        return FolderWatch(tmp_path / "in", line, sidecar=True)

    return start


def judged(watch):
    return [record["picture"] for record in watch._judge_all(watch.ready())]


def logged(watch):
    return [entry["picture"] for entry in watch.line.log.lines()]


def test_what_arrives_is_judged_once_also_after_a_restart(started, tmp_path):
    watch = started()
    assert judged(watch) == []
    shutil.copy(GOOD, tmp_path / "in/a.png")
    (tmp_path / "in/belt 2").mkdir()
    shutil.copy(SCRATCH, tmp_path / "in/belt 2/b.png")
    (tmp_path / "in/notes.txt").write_text("no picture")
    os.utime(tmp_path / "in/a.png", (2e9, 2e9))  # the newer one
    assert judged(watch) == [os.path.join("belt 2", "b.png"), "a.png"]
    assert judged(watch) == [] == judged(started())
    sidecar = json.loads((tmp_path / "in/a.png.json").read_text())
    assert (sidecar["picture"], sidecar["defective_verdicts"]) == ("a.png", 0)
    assert watch.line.log.verify().lines == 2


def test_a_renamed_copied_or_touched_file_is_not_judged_again(started, tmp_path):
    watch = started()
    shutil.copy(GOOD, tmp_path / "in/a.png")
    assert judged(watch) == ["a.png"]
    (tmp_path / "in/a.png").rename(tmp_path / "in/b.png")
    shutil.copy(GOOD, tmp_path / "in/c.png")
    assert judged(watch) == []
    os.utime(tmp_path / "in/c.png", (1, 1))
    assert judged(started()) == []
    known = [(entry["picture"], entry.get("same_as")) for entry in watch.line.log.lines()]
    assert known == [("a.png", None), ("b.png", "a.png"), ("c.png", "a.png"), ("c.png", "a.png")]


def test_a_file_with_another_picture_is_judged_again(started, tmp_path):
    watch = started()
    for picture in (GOOD, SCRATCH):
        shutil.copy(picture, tmp_path / "in/newest.png")
        assert judged(watch) == ["newest.png"]
    defective = [entry["defective_verdicts"] for entry in watch.line.log.lines()]
    assert defective == [0, 1]


def test_a_half_written_file_is_awaited(started, tmp_path, monkeypatch):
    watch, content, path = started(), SCRATCH.read_bytes(), tmp_path / "in/a.png"
    path.write_bytes(b"")
    assert judged(watch) == []
    path.write_bytes(content[:3000])
    assert judged(watch) == []
    path.write_bytes(content)
    assert judged(watch) == ["a.png"] and len(logged(watch)) == 1
    monkeypatch.setattr(module, "PATIENCE", 0)
    (tmp_path / "in/b.png").write_bytes(content[:3000])
    (record,) = watch._judge_all(watch.ready())
    assert record["error"]["kind"] == "corrupt" and judged(watch) == [] == judged(started())
    (tmp_path / "in/b.png").write_bytes(content + b" ")  # it went on after all
    assert judged(watch) == ["b.png"]


def test_a_file_that_still_grows_is_not_read(started, tmp_path, monkeypatch):
    watch = started()
    monkeypatch.setattr(module, "SETTLED", 0.2)
    path = tmp_path / "in/a.png"
    for count in (1000, 2000, 3000):
        path.write_bytes(GOOD.read_bytes()[:count])
        assert watch.ready() == []
        time.sleep(0.15)
    path.write_bytes(GOOD.read_bytes())
    assert watch.ready() == []
    time.sleep(0.25)
    assert watch.ready() == ["a.png"]


def test_a_file_that_changes_or_goes_before_it_is_judged_is_left_to_the_next_look(started, tmp_path):
    watch = started()
    for name in ("a.png", "b.png"):
        shutil.copy(GOOD, tmp_path / "in" / name)
    assert watch.ready() == ["a.png", "b.png"]
    (tmp_path / "in/a.png").unlink()
    shutil.copy(SCRATCH, tmp_path / "in/b.png")
    assert watch.judge("a.png") is None is watch.judge("b.png")
    assert judged(watch) == ["b.png"]


def test_a_full_disk_loses_nothing(started, tmp_path, monkeypatch, caplog):
    watch, add, failures = started(), InspectionLog.add, iter((OSError(28, "No space left on device"), None))

    def failing(self, *args):
        if error := next(failures, None):
            raise error
        return add(self, *args)

    monkeypatch.setattr(module, "RETRY", 0)
    monkeypatch.setattr(InspectionLog, "add", failing)
    shutil.copy(GOOD, tmp_path / "in/a.png")
    assert judged(watch) == ["a.png"] == logged(watch)
    assert "No space left on device" in caplog.text


def test_a_folder_that_is_gone_for_a_while_is_tried_again(started, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "RETRY", 0)
    watch = started()
    shutil.copy(GOOD, tmp_path / "in/a.png")
    (tmp_path / "in").rename(tmp_path / "away")
    sleep = time.sleep

    def back(seconds):
        if not (tmp_path / "in").exists():
            (tmp_path / "away").rename(tmp_path / "in")
        sleep(0.01)

    monkeypatch.setattr(time, "sleep", back)
    assert next(watch.run(0))["picture"] == "a.png"
    assert "cannot be read" in caplog.text


def test_own_files_are_not_watched(started, tmp_path):
    watch = started(overlays=tmp_path / "in/overlays")
    shutil.copy(SCRATCH, tmp_path / "in/a.png")
    assert judged(watch) == ["a.png"]
    assert (tmp_path / "in/overlays/a_hybrid.png").is_file() and judged(watch) == []


def test_a_watch_needs_a_log(loaded, tmp_path):
    with pytest.raises(ValueError, match="needs a log"):
        FolderWatch(tmp_path, Line(loaded.label, loaded.detectors))


def test_many_files_are_scanned_fast(started, tmp_path, monkeypatch):
    watch = started()
    for number in range(2_000):
        (tmp_path / f"in/{number}.png").touch()
    begun = time.monotonic()
    assert len(watch.ready()) == 2_000
    assert time.monotonic() - begun < 1


def test_a_killed_watch_judges_nothing_twice_and_loses_nothing(tmp_path):
    """The real command, killed at any moment, three times."""
    folder, log = tmp_path / "in", InspectionLog(tmp_path / "log")
    folder.mkdir()
    names = []
    for number in range(12):
        names.append(f"{number:02}.png")
        (folder / names[-1]).write_bytes((GOOD, SCRATCH, PIT)[number % 3].read_bytes() + bytes([number]))
    command = [sys.executable, "-m", "hubmodels", "watch", str(folder), "--model", "parts / washer"]
    command += ["--method", "hybrid", "--log", str(log.folder), "--interval", "0.1"]
    for least in (2, 6, 12):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
            deadline = time.monotonic() + 120
            while sum(1 for _ in log.lines()) < least and time.monotonic() < deadline:
                time.sleep(0.02)
            process.kill()
    found = [entry["picture"] for entry in log.lines() if entry["event"] == "inspection"]
    assert sorted(found) == names and log.verify()
