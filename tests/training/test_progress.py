"""Progress for the program that started the training."""

import json
import os
import subprocess
import sys
import time

import pytest

from training import progress
from training.progress import tqdm


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.setenv(progress.FILE, str(path))
    monkeypatch.setattr(progress, "EVERY", -1)
    monkeypatch.setattr(progress, "_open", [])
    return path


def bars(path):
    return [(bar["what"], bar["done"], bar["total"]) for bar in json.loads(path.read_text())]


@pytest.mark.parametrize("disable", [True, False])
def test_open_bars_are_written_the_outermost_first(file, disable):
    seen = []
    for _ in tqdm(range(2), "folds", disable=disable):
        for _ in tqdm([7, 8, 9], desc="steps", disable=disable):
            seen.append(bars(file))
    assert seen[1] == [("folds", 0, 2), ("steps", 1, 3)] and seen[5] == [("folds", 1, 2), ("steps", 2, 3)]
    assert bars(file) == []


@pytest.mark.parametrize("disable", [True, False])
def test_steps_are_counted_by_hand(file, disable):
    with tqdm(total=10, initial=2, desc="model", disable=disable) as bar:
        bar.update(3)
        bar.update()
        assert bars(file) == [("model", 6, 10)]
    assert bars(file) == []


def test_without_the_variable_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv(progress.FILE, raising=False)
    assert list(tqdm(range(3), "some")) == [0, 1, 2] and not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(progress.FILE, str(tmp_path / "gone" / "progress.json"))
    assert list(tqdm(range(3), "some")) == [0, 1, 2]


def test_a_failure_leaves_no_bar(file):
    with pytest.raises(RuntimeError):
        for _ in tqdm(range(3), "some"):
            raise RuntimeError
    import gc

    gc.collect()
    assert bars(file) == []


PARENT = """
import subprocess, sys
child = "import os, time; from training.progress import end_with_parent; end_with_parent(0.05); "
child += "print(os.getpid(), flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="Windows does not tell that a parent ended")
def test_a_training_ends_with_the_page_that_started_it(file):
    """Also if the page was killed and could not end it."""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", PARENT], **pipes) as parent:
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
    deadline = time.monotonic() + 20
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
