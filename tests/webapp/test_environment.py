"""The demo in the environments of users: proxies, other people's folders, terminals, variables of Gradio.

The other tests set variables that no user sets. The starts here are real, and have only those of a user.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from app_process import wait_for
from browser import ROOT
from read_only import obey, obeyed

from hubmodels.interruption import end_interrupted
from webapp import environment, page

PRIVATE = ("HF_", "HUGGING_FACE_", "GRADIO_", "PYTEST_", "SPACE", "HOME", "TMPDIR")
DEAD = "http://127.0.0.1:9"
COMPANY = {
    **{"HTTP_PROXY": DEAD, "HTTPS_PROXY": DEAD, "ALL_PROXY": "socks5://127.0.0.1:9"},
    **{"NO_PROXY": "[::1], intranet", "SSL_CERT_FILE": "/no/such/file.pem"},
}
GRADIO = {
    **{"GRADIO_SHARE": "true", "GRADIO_NUM_WORKERS": "2", "GRADIO_ALLOWED_PATHS": "/", "GRADIO_VIBE_MODE": "1"},
    **{"GRADIO_WATCH_DIRS": "/", "GRADIO_DEBUG": "1", "GRADIO_RUN_HISTORY": "true", "GRADIO_MCP_SERVER": "maybe"},
}
TERMINAL = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def started(place, variables, *arguments, cwd=None):
    """A user's start of the demo: the process, and the file of what it prints."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)}
    own = {name: value for name, value in own.items() if not name.lower().endswith("_proxy")}
    log, command = place / "log.txt", [sys.executable, str(ROOT / "app.py"), *map(str, arguments)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=cwd or place, env=own | variables, stdout=out, stderr=out, preexec_fn=obey
        )
        try:
            yield process, log
        finally:
            process.kill()
            process.wait(30)


def uploads_and_inspects(url):
    """Whether the page shows itself, and a picture goes all the way."""
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        assert client.get("/").status_code == 200
        picture = (ROOT / "examples" / "parts" / "pill" / "crack.png").read_bytes()
        (path,) = client.post("/gradio_api/upload", files={"files": ("part.png", picture)}).json()
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "parts / pill", None, False]
        event = client.post("/gradio_api/call/inspect", json={"data": data}).json()["event_id"]
        assert "is_anomalous" in client.get(f"/gradio_api/call/inspect/{event}").text
    return Path(path)


@pytest.fixture
def foreign(tmp_path):
    """A temporary folder in which another user owns Gradio's, a home and a working folder that are read-only."""
    for name in ("tmp/gradio", "home", "work"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name).chmod(0o555)
    return tmp_path


def test_a_second_user_behind_a_companys_proxy_in_a_plain_terminal(foreign):
    """Gradio visits its own address, and it once did so by the proxy."""
    variables = COMPANY | TERMINAL | GRADIO | {"TMPDIR": str(foreign / "tmp"), "HOME": str(foreign / "home")}
    variables |= {"GRADIO_SERVER_PORT": str(port := free_port())}
    with started(foreign, variables, "--host", "::1", cwd=foreign / "work") as (process, log):
        url = wait_for(f"http://[::1]:{port}", process, log)
        path = uploads_and_inspects(url)
        with httpx.Client(trust_env=False) as client:
            assert client.get(f"{url}/gradio_api/file=/etc/passwd").status_code == 403  # GRADIO_ALLOWED_PATHS
        assert path.is_relative_to(foreign / "tmp") and path.parents[1].name.startswith("hubmodels-")
        assert path.parents[1].stat().st_mode & 0o077 == 0  # nobody else reads what visitors send
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert "Traceback" not in log.read_text()
        lines = [line for line in log.read_text().splitlines() if line and "MCP" not in line and "/mcp/" not in line]
        ignored = [line.partition(" cannot be used")[0] for line in lines if "ignored" in line]
        assert sorted(ignored) == ["app.py: ALL_PROXY", "app.py: SSL_CERT_FILE"]
        assert lines[2] == f"The demo runs at {url}/ (Ctrl-C stops it)"
    assert list((foreign / "tmp").iterdir()) == [foreign / "tmp" / "gradio"]


def test_ctrl_c_at_the_start_is_one_line(tmp_path):
    with started(tmp_path, {"GRADIO_TEMP_DIR": str(tmp_path)}, "--port", free_port()) as (process, log):
        while process.poll() is None and not (tmp_path / "hubmodels").exists():  # made before the slow imports
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (-signal.SIGINT, 130)
        assert log.read_text() == "app.py: stopped\n"


# ---------------------------------------------------------------- what ends the program, with one line


@pytest.fixture
def own_environment(monkeypatch):
    """The variables of this process, restored afterwards."""
    before = dict(os.environ)
    yield monkeypatch
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("value", ["abc", "-1", "78 60", "7860.5", ""])
@pytest.mark.parametrize("name", environment.NUMBERS)
def test_a_number_that_is_none_is_named(own_environment, name, value):
    own_environment.setenv(name, value)
    with pytest.raises(SystemExit, match=f"the environment variable {name} is '{value}': give a number, or remove it"):
        environment.follow_few_variables()


def test_other_variables_of_gradio_are_not_followed(own_environment):
    for name, value in GRADIO.items():
        own_environment.setenv(name, value)
    own_environment.setenv("GRADIO_ROOT_PATH", "/inspect")
    environment.follow_few_variables()
    assert {name for name in os.environ if name.startswith("GRADIO_")} <= environment.FOLLOWED
    assert os.environ["GRADIO_ROOT_PATH"] == "/inspect"
    settings = page.launch_settings()
    assert (settings["share"], settings["num_workers"], settings["enable_monitoring"]) == (False, 0, False)


@pytest.mark.parametrize(
    ("given", "used"),
    [("/inspect/", "/inspect"), ("inspect", "/inspect"), ("https://a.de/inspect/", "https://a.de/inspect"), ("", "")],
)
def test_a_root_path_may_have_any_slashes(own_environment, given, used):
    """With a slash at its end, no path of the page matched."""
    own_environment.setenv("GRADIO_ROOT_PATH", given)
    environment.follow_few_variables()
    assert os.environ["GRADIO_ROOT_PATH"] == used


def test_a_proxy_of_the_system_remains_in_use(own_environment):
    """Python takes Windows' own proxy only if no variable names one, and NO_PROXY counts as one."""
    for name in environment.PROXIES:
        own_environment.delenv(name, raising=False)
    system = {"http": DEAD, "https": "http://proxy:8080", "ftp": "http://proxy:21"}
    own_environment.setattr(urllib.request, "getproxies", lambda: system)
    environment.show_system_proxies()
    assert (os.environ["http_proxy"], os.environ["https_proxy"]) == (DEAD, "http://proxy:8080")
    assert "ftp_proxy" not in os.environ


def test_a_given_folder_that_cannot_be_written_is_named(own_environment, tmp_path):
    own_environment.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    with obeyed(tmp_path), pytest.raises(SystemExit, match=r"GRADIO_TEMP_DIR=.*uploads cannot be written: give a"):
        environment.use_own_folder()
    own_environment.setenv("GRADIO_TEMP_DIR", "/etc/passwd")
    with pytest.raises(SystemExit, match="GRADIO_TEMP_DIR=/etc/passwd cannot be written"):
        environment.use_own_folder()


def test_no_temporary_folder_at_all_is_named(own_environment):
    def missing():
        raise FileNotFoundError("No usable temporary directory found in ['/tmp']")

    own_environment.delenv("GRADIO_TEMP_DIR", raising=False)
    own_environment.setattr(tempfile, "gettempdir", missing)
    with pytest.raises(SystemExit, match="no folder for temporary files can be written: set TMPDIR"):
        environment.use_own_folder()


def test_a_relative_folder_is_that_of_the_start(own_environment, tmp_path):
    own_environment.chdir(tmp_path)
    own_environment.setenv("GRADIO_TEMP_DIR", "uploads")
    environment.use_own_folder()
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path / "uploads" / "hubmodels")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.77", "2001:db8::1", "a b"])
def test_a_host_that_is_not_this_computer_is_named(host):
    with pytest.raises(SystemExit, match=r"this computer cannot listen on .*: give one of its own by --host"):
        environment.listening_address(host, None)


@pytest.mark.parametrize(
    ("host", "address"),
    [(None, None), ("::1", "[::1]"), ("[::1]", "[::1]"), ("0.0.0.0", "0.0.0.0"), ("::", "[::]"), ("localhost",) * 2],
)
def test_hosts_are_given_to_gradio_as_it_needs_them(own_environment, host, address):
    own_environment.delenv("GRADIO_SERVER_NAME", raising=False)
    assert environment.listening_address(host, 7860) == address


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("https_proxy", "ftp://proxy:21"),
        ("HTTP_PROXY", "http://[::1"),
        ("HTTP_PROXY", "http://proxy:port"),
        ("SSL_CERT_FILE", "/no/such/file.pem"),
    ],
)
def test_settings_without_which_no_client_can_be_made_are_dropped(own_environment, capsys, name, value):
    for other in (*environment.PROXIES, *map(str.upper, environment.PROXIES), *environment.CERTIFICATES):
        own_environment.delenv(other, raising=False)
    own_environment.setenv("HTTPS_PROXY", "http://user:secret@proxy:8080")
    own_environment.setenv(name, value)
    with pytest.raises((OSError, ImportError, ValueError, httpx.InvalidURL)):
        httpx.Client()  # as Gradio does when it is imported
    environment.drop_unusable_settings()
    httpx.Client().close()
    assert name not in os.environ and "HTTPS_PROXY" in os.environ
    assert f"app.py: {name} cannot be used, and is ignored" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_own_addresses_bypass_the_proxy(own_environment, name):
    for other in ("NO_PROXY", "no_proxy"):
        own_environment.delenv(other, raising=False)
    own_environment.setenv(name, "intranet, 10.0.0.0/8,fd00::/8,[::1]")
    own_environment.setenv("HTTP_PROXY", DEAD)
    environment.bypass_proxies(*environment.LOCAL, "192.0.2.5", "")
    assert urllib.request.proxy_bypass("127.0.0.1") and urllib.request.proxy_bypass("intranet")
    assert urllib.request.proxy_bypass("192.0.2.5") and not urllib.request.proxy_bypass("example.com")
    httpx.Client().close()


def test_only_ctrl_c_is_shortened(capsys):
    end_interrupted("app.py: stopped", ValueError, ValueError("a fault"), None)
    end_interrupted("app.py: stopped", KeyboardInterrupt, KeyboardInterrupt(), None)
    failed = ImportError("initialization failed")
    failed.__cause__ = KeyboardInterrupt()
    end_interrupted("app.py: stopped again", ImportError, failed, None)
    assert capsys.readouterr().err == "ValueError: a fault\napp.py: stopped\napp.py: stopped again\n"
