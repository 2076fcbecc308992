"""The program for archives, in this process; docs/archives.md has runs of it with several processes."""

import importlib.util
import json
import shutil
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch
from test_house import ROOT

from hubmodels.line.line import Line


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A folder of four pictures and two broken ones."""
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    shutil.copytree(ROOT / "examples/parts/washer", tmp_path / "archive/monday")
    (tmp_path / "archive/broken.png").write_text("no picture")
    (tmp_path / "archive/empty.png").write_bytes(b"")
    return tmp_path / "archive"


@pytest.fixture
def program():
    """The program with batches of two pictures."""
    specification = importlib.util.spec_from_file_location("archive", ROOT / "examples/archive.py")
    program = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(program)
    program.BATCH = 2
    return program


@pytest.fixture
def start(program, monkeypatch):
    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["archive.py", *map(str, arguments)])
        program.main()

    return start


def test_an_archive_is_judged_with_models_that_are_loaded_once(archive, start, tmp_path, monkeypatch, capsys):
    loaded, of, output = [], Line.of, tmp_path / "results.parquet"
    monkeypatch.setattr(Line, "of", lambda *settings: loaded.append(settings) or of(*settings))
    words = ["--model", "washer", "--method", "hybrid", "--rate", "0.05", "--processes", "0", "--output", output]
    start(archive, *words)
    assert loaded == [("washer", None, ("hybrid",), 0.05)]
    said = capsys.readouterr().out
    assert "6 of 6 pictures" in said and said.endswith(": 2 defective, 2 good, 2 not judged\n")
    rows = {row["picture"]: row for row in pyarrow.parquet.read_table(output).to_pylist()}
    scratch, broken = (str(archive / name) for name in ("monday/scratch.png", "broken.png"))
    expected = of("washer", None, ("hybrid",), 0.05).inspect(scratch, scratch)
    found = json.loads(rows[scratch]["record"])
    for record in (found, expected):
        del record["methods"]["Hybrid"]["latency_ms"]
    assert rows[scratch]["result"] == "defective" and found == expected
    assert rows[broken]["result"] == "not judged"
    assert json.loads(rows[broken]["record"])["error"]["kind"] == "unknown_format"


def test_the_class_for_ray_takes_and_returns_columns(archive, program):
    judge = program.Judge("washer", None, ("hybrid",), None)
    paths = np.array([str(archive / "monday/good.png"), str(archive / "empty.png")], object)  # as Ray has texts
    columns = judge({"picture": paths})
    assert columns["picture"] == list(paths) and columns["result"] == ["good", "not judged"]


@pytest.mark.parametrize(
    ("folder", "output", "said"),
    [("archive", "archive", "exists"), ("none", "new", "check its path"), ("empty", "new", "has no pictures")],
)
def test_wrong_folders_are_named(archive, start, tmp_path, capsys, folder, output, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="2"):
        start(tmp_path / folder, "--model", "washer", "--output", tmp_path / output)
    assert said in capsys.readouterr().err
