"""`make demo` fills .venv: the real Makefile and the real pip, with packages without content from a server here."""

import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from small_wheels import write_wheel
from test_house import ROOT

DEAD = "http://127.0.0.1:9/simple"
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "small_wheels"\nbackend-path = ["."]\n'
ORDINARY, CPU = ["torch-2.9.0", "torchvision-0.24.0"], ["torch-2.8.0+cpu", "torchvision-0.23.0+cpu"]

MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(not MAKE, reason="needs make")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of two package indexes: `ordinary`, and `cpu`, whose builds are older."""
    root = tmp_path_factory.mktemp("indexes")
    for index, (torch, torchvision) in {"ordinary": ORDINARY, "cpu": CPU}.items():
        for wheel, requires in ((torch, []), (torchvision, [f"torch=={torch.split('-')[1]}"])):
            name, version = wheel.split("-")
            (root / index / name).mkdir(parents=True)
            write_wheel(root / index / name, name, version, *requires)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root)) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A folder with the .venv that the Makefile makes, without any package."""
    place = tmp_path_factory.mktemp("environment")
    shutil.copy(ROOT / "Makefile", place)
    subprocess.run([MAKE, f"PYTHON={sys.executable}", ".venv/bin/pip"], cwd=place, check=True, timeout=300)
    return place / ".venv"


@pytest.fixture
def make(tmp_path, environment, server):
    """`make(OPTION, ...)` runs `make demo` in a small project. It returns the exit status and what was printed."""
    shutil.copytree(environment, tmp_path / ".venv", symlinks=True)
    for file in ("Makefile", "install.sh", "tests/small_wheels.py"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "requirements.txt").write_text("torch>=2.8\ntorchvision\n")
    (tmp_path / "app.py").write_text("print('the page')\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "TORCH_INDEX"))}
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"{server}/ordinary", "PIP_NO_CACHE_DIR": "1"}

    def run(*options, **variables):
        env, command = kept | own | {"PIP_RETRIES": "0"} | variables, [MAKE, "demo", *options]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
        )
        return done.returncode, done.stdout

    return run


def installed(place):
    """The packages in .venv named torch and torchvision."""
    return sorted(path.stem for path in place.glob(".venv/lib/python*/site-packages/torch*.dist-info"))


def test_progress_is_shown_and_the_second_start_installs_nothing(make, tmp_path):
    status, printed = make()
    assert status == 0 and installed(tmp_path) == ORDINARY
    first, *lines = printed.splitlines()
    assert first.startswith("Installing into .venv: up to") and "GB" in first
    assert any(line.startswith("Collecting torchvision") for line in lines)
    assert lines[-2].startswith("Installed in ") and lines[-1] == "the page"
    assert make(PIP_INDEX_URL=DEAD) == (0, "the page\n")


def test_without_a_network_it_says_what_to_do_and_goes_on_later(make, tmp_path):
    status, printed = make(PIP_INDEX_URL=DEAD)
    assert status != 0 and "the page" not in printed
    assert "If there is no network now, run the same command later: it goes on." in printed
    status, printed = make()
    assert status == 0 and printed.endswith("the page\n") and installed(tmp_path) == ORDINARY


@pytest.mark.parametrize("ordinary_first", [False, True])
def test_torch_and_torchvision_come_from_the_named_index(make, server, tmp_path, ordinary_first):
    """Also in place of a newer ordinary build that is there already, or on an index in the settings of pip."""
    (tmp_path / "pip.conf").write_text(f"[global]\nextra-index-url = {server}/ordinary\n")
    if ordinary_first:
        make()
        assert installed(tmp_path) == ORDINARY
    option = f"TORCH_INDEX={server}/cpu"
    status, printed = make(option, PIP_CONFIG_FILE=str(tmp_path / "pip.conf"))
    assert status == 0 and installed(tmp_path) == CPU
    assert printed.startswith(f"Installing torch from {server}/cpu into .venv")
    assert make(option, PIP_INDEX_URL=DEAD) == make(PIP_INDEX_URL=DEAD) == (0, "the page\n")


def test_where_the_named_index_cannot_be_reached_the_ordinary_torch_is_used(make, tmp_path):
    notice = f"{DEAD} cannot be reached, or has no torch for this computer: the ordinary torch is used.\n"
    status, printed = make(f"TORCH_INDEX={DEAD}")
    assert status == 0 and installed(tmp_path) == ORDINARY
    assert printed.startswith(notice) and "add TORCH_INDEX=" not in printed
    assert make(f"TORCH_INDEX={DEAD}", PIP_INDEX_URL=DEAD) == (0, f"{notice}the page\n")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the ordinary build is small")
@pytest.mark.parametrize("gpu", [False, True])
def test_the_small_build_is_offered_where_there_is_no_gpu(make, tmp_path, gpu):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "date", "uname", "touch", *(["true"] if gpu else [])):
        (tools / (name if name != "true" else "nvidia-smi")).symlink_to(shutil.which(name))
    status, printed = make(PATH=str(tools))
    assert status == 0 and ("add TORCH_INDEX=https://download.pytorch.org/whl/cpu" in printed) is not gpu
