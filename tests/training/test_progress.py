"""Progress for the program that started the training."""

import json
import os
import subprocess
import sys
import time

import psutil
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


PROGRAM = """
import os, subprocess, sys
own = str(os.getpid())
code = "import subprocess, sys, time; from training.progress import end_with_parent; end_with_parent(0.05); "
code += "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
environment = os.environ | {"HUBMODELS_PARENT": own}
print(subprocess.Popen([sys.executable, "-c", code], start_new_session=True, env=environment).pid, flush=True)
sys.stdin.read()
"""


def test_a_training_and_what_it_started_end_with_the_page(file):
    """Also if the page was killed and could not end them."""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", PROGRAM], **pipes) as program:
        training = psutil.Process(int(program.stdout.readline()))
        while not (started := training.children()):
            time.sleep(0.02)
        assert all(map(is_running, (training, *started)))
        program.kill()
    wait_for(lambda: not any(map(is_running, (training, *started))))


def test_a_training_whose_page_ended_before_it_looked_ends(file):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    code = "import time; from training.progress import end_with_parent; end_with_parent(); time.sleep(60)"
    environment = os.environ | {"HUBMODELS_PARENT": str(gone.pid)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=50).returncode != 0


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def is_running(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
