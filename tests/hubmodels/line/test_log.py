"""The log of inspections, and what happens to it."""

import csv
import io
import json
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from hubmodels.line import log as log_module
from hubmodels.line.log import START, InspectionLog, LogError, export_csv


@pytest.fixture
def log(tmp_path):
    """With 6 lines in 3 files."""
    log = InspectionLog(tmp_path / "log", largest=300)
    for number in range(6):
        log.add("inspection", {"picture": f"{number}.png", "verdict": "good"})
    assert [len(path.read_bytes().splitlines()) for path in log.files()] == [2, 2, 2]
    return log


def change(path, number, edit):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number : number + 1] = edit(lines[number])
    path.write_bytes(b"".join(lines))


def test_each_line_carries_the_hash_of_the_one_before(log):
    lines = list(log.lines())
    assert [line["line"] for line in lines] == [1, 2, 3, 4, 5, 6] and lines[0]["previous"] == START
    assert list(lines[0]) == ["line", "previous", "time", "event", "picture", "verdict"]
    end = log.verify()
    assert end.lines == 6 and end == InspectionLog(log.folder).verify(end.sha256)
    assert log.verify(lines[3]["previous"]) == end  # a hash that was noted earlier


@pytest.mark.parametrize("file", [0, 1, 2])
@pytest.mark.parametrize("line", [0, 1])
@pytest.mark.parametrize(
    "edit",
    [
        lambda line: [line.replace(b"good", b"defective")],
        lambda line: [],
        lambda line: [line, line],
        lambda line: [b"nonsense\n"],
        lambda line: [b'{"line": 3}\n'],
    ],
)
def test_a_changed_missing_or_added_line_is_found(log, file, line, edit):
    change(log.files()[file], line, edit)
    with pytest.raises(LogError, match=r"changed or is missing|were written|its last line was changed"):
        log.verify()


def test_lost_files_and_a_new_log_are_found(log):
    noted = log.verify().sha256
    content = log.files()[-1].read_bytes()
    log.files()[-1].unlink()
    with pytest.raises(LogError, match="it has 4 lines, but 6 were written"):
        log.verify()
    with pytest.raises(LogError, match="move the folder"):
        log.add("inspection", {})
    log.folder.joinpath("000003.jsonl").write_bytes(content)
    assert log.verify().sha256 == noted
    log.files()[0].unlink()
    with pytest.raises(LogError, match=r"000002\.jsonl, line 1"):
        log.verify()
    other = InspectionLog(log.folder.parent / "other")
    other.add("inspection", {})
    with pytest.raises(LogError, match="written again"):
        other.verify(noted)


def test_a_changed_end_is_found(log):
    (log.folder / "end.json").write_text("[]")
    with pytest.raises(LogError, match="was changed"):
        log.verify()


def test_a_crash_in_mid_line_loses_that_line_only(log):
    with log.files()[-1].open("ab") as file:
        file.write(b'{"line": 7, "prev')
    assert log.verify().lines == 6
    log.add("inspection", {"picture": "8.png"})
    *_, lost, last = log.lines()
    assert (lost["event"], lost["bytes"], last["picture"], log.verify().lines) == ("lost_line", 17, "8.png", 8)


def test_a_crash_in_the_first_line_of_a_file_loses_that_line_only(log, tmp_path):
    (log.folder / "000004.jsonl").write_bytes(b"{")
    log.add("inspection", {})
    assert log.verify().lines == 8
    fresh = InspectionLog(tmp_path / "fresh")
    fresh.folder.mkdir()
    (fresh.folder / "000001.jsonl").write_bytes(b"{")
    fresh.add("inspection", {})
    assert fresh.verify().lines == 2


def test_a_crash_before_the_end_was_kept_loses_nothing(log, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(InspectionLog, "_keep", lambda self, end: None)
        log.add("inspection", {"picture": "7.png"})  # begins a file
        assert log.verify().lines == 7
    log.add("inspection", {"picture": "8.png"})
    assert log.verify().lines == 8 and [line["line"] for line in log.lines()] == list(range(1, 9))


def test_a_full_disk_leaves_the_log_as_it_was(log, monkeypatch):
    before, add = log.verify(), log_module._append
    for full in ("000004.jsonl", ".end.json"):

        def append(path, content, full=full):
            add(path, content[:9] if path.name == full else content)
            if path.name == full:
                raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(log_module, "_append", append)
            with pytest.raises(OSError, match="No space"):
                log.add("inspection", {})
        assert log.verify() == before
    log.add("inspection", {})
    assert log.verify().lines == 7


WRITER = """
import sys
from pathlib import Path
from hubmodels.line.log import InspectionLog
log = InspectionLog(Path(sys.argv[1]), largest=5_000)
number = 0
while True:
    log.add("inspection", {"number": number, "text": "x" * 500})
    number += 1
    print(number, flush=True)
"""


def test_a_killed_process_loses_nothing_that_was_added(tmp_path):
    log = InspectionLog(tmp_path / "log", largest=5_000)
    added = 0
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(log.folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(15):
                added_here = int(process.stdout.readline())
            process.kill()
            rest = process.stdout.read().split()
        added += int(rest[-1]) if rest else added_here
    log.add("inspection", {})
    assert log.verify().lines >= added + 1
    assert sum(line["event"] == "inspection" for line in log.lines()) >= added + 1


def write(folder, count):
    for _ in range(count):
        InspectionLog(Path(folder), largest=2_000).add("inspection", {"text": "x" * 100})


def test_several_processes_write_to_one_log(tmp_path):
    with ProcessPoolExecutor(3) as pool:
        list(pool.map(write, [str(tmp_path / "log")] * 3, [20] * 3))
    assert InspectionLog(tmp_path / "log").verify().lines == 60


@pytest.mark.parametrize("length", [10, 65_536, 300_000])
def test_long_lines_are_found_again(tmp_path, length):
    log = InspectionLog(tmp_path / "log")
    for _ in range(3):
        log.add("inspection", {"text": "x" * length})
    assert log.verify().lines == 3


def test_a_value_that_is_no_json_is_refused(log):
    with pytest.raises(ValueError, match="JSON"):
        log.add("inspection", {"score": float("nan")})
    assert log.verify().lines == 6


def test_the_table_has_all_keys_and_no_formulas(log):
    log.add("correction", {"picture": "=1+1", "scores": {"Hybrid": 1.5}})
    stream = io.StringIO()
    export_csv(log, stream)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert list(rows[0]) == ["line", "previous", "time", "event", "picture", "verdict", "scores"]
    assert len(rows) == 7 and rows[-1]["picture"] == "'=1+1" and json.loads(rows[-1]["scores"]) == {"Hybrid": 1.5}
