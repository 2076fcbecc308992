"""The command line of training in the environments of users, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from read_only import obey, obeyed
from small_pictures import add_pictures

ROOT = Path(__file__).parents[2]
DEAD = "http://127.0.0.1:9"
HOSTILE = {
    **{"HTTP_PROXY": DEAD, "HTTPS_PROXY": DEAD, "ALL_PROXY": "socks5://127.0.0.1:9"},
    **{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
}


def start(place, *arguments, **variables):
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTEST_"))}
    command = [sys.executable, str(ROOT / "training" / "train.py"), *arguments]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    started.append(subprocess.Popen(command, cwd=place, env=own | variables, preexec_fn=obey, **streams))
    return started[-1]


started = []


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    yield
    while started:
        started.pop().kill()


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures whose names an ASCII terminal cannot show, and one name that is not UTF-8."""
    folder = tmp_path / "Gehäuse"
    add_pictures(folder, *(f"prüfung {i}.png" for i in range(12)), size=(48, 48))
    os.rename(folder / "prüfung 0.png", os.fsencode(folder) + b"/pr\xfcfung.png")
    return folder


def test_a_run_ends_well_where_nothing_suits_it(pictures, tmp_path):
    """No proxy that works, no UTF-8, a home and a working folder that are read-only."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work").chmod(0o555)
    output = tmp_path / "läufe"
    process = start(
        tmp_path / "work",
        *("--data-root", str(pictures), "--image-size", "64", "--epochs", "1", "--batch-size", "4"),
        *("--methods", "simplenet", "--output", str(output)),
        **HOSTILE,
        HOME=str(tmp_path / "work"),
    )
    told = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "Traceback" not in told, told[-3000:]
    assert "the Hub cannot be used: the proxy in the environment" in told
    (report,) = output.glob("*/metrics.json")
    assert "läufe" in json.loads(report.read_text(encoding="utf-8"))["command"]
    assert "models in" in told and "| method |" not in told and not list(output.glob("summary.*"))  # no metric


def test_ctrl_c_during_the_imports_is_one_line(tmp_path):
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    process = start(tmp_path, "--data-root", "parts:", PYTHONPATH=str(tmp_path))
    told = process.communicate(timeout=60)[0]
    assert process.returncode in (-signal.SIGINT, 130) and told == "stopped: the same command continues\n"


def test_ctrl_c_while_the_pictures_are_read_is_one_line(tmp_path):
    """The sanity report of a large folder: one large picture under many names."""
    (first,) = add_pictures(tmp_path / "parts", "000.png", size=(1500, 1500))
    for number in range(1, 200):
        os.link(first, first.with_name(f"{number:03}.png"))
    process = start(tmp_path, "--data-root", str(first.parent), "--methods", "simplenet")
    told = process.stdout.readline()
    while told and "backbone:" not in told:
        told = process.stdout.readline()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[0]
    assert process.returncode in (-signal.SIGINT, 130) and "Traceback" not in told
    assert told.splitlines()[-1] == "stopped: the same command continues"


def test_an_output_that_cannot_be_written_is_named(pictures, tmp_path):
    (tmp_path / "runs").mkdir()
    with obeyed(tmp_path / "runs"):
        process = start(tmp_path, "--data-root", str(pictures), "--methods", "simplenet", "--epochs", "1")
        told = process.communicate(timeout=300)[0]
    assert process.returncode == 1 and "Traceback" not in told and "Permission denied" in told
