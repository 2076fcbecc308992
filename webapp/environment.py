"""The environment of the user who starts the demo: proxies, folders, terminal, and variables of Gradio.

Gradio reads most of it when it is imported, and fails there with tracebacks. So `app.py` calls `prepare` first, and
this module imports neither Gradio nor anything slow.
"""

import atexit
import os
import shutil
import socket
import sys
import tempfile
import urllib.request
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx

from hubmodels.interruption import end_interrupted

# Gradio's variables that the demo follows. Others could publish it, or serve further folders and ports.
FOLLOWED = {f"GRADIO_{name}" for name in ("SERVER_NAME", "SERVER_PORT", "NUM_PORTS", "ROOT_PATH", "TEMP_DIR")}
NUMBERS = ("GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS")
LOCAL = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def prepare() -> None:
    """Makes this process independent of the user's environment where the demo can do without it.

    It ends the program with one line where it cannot.
    """
    sys.excepthook = partial(end_interrupted, "app.py: stopped")
    for stream in filter(None, (sys.stdout, sys.stderr)):  # Gradio prints symbols that a terminal may not have
        stream.reconfigure(errors="replace")
    follow_few_variables()
    show_system_proxies()
    use_own_folder()
    drop_unusable_settings()
    bypass_proxies(*LOCAL, os.environ.get("GRADIO_SERVER_NAME", ""))


def follow_few_variables() -> None:
    """Removes Gradio's variables that the demo does not follow, and checks the others."""
    for name in [name for name in os.environ if name.startswith("GRADIO_") and name not in FOLLOWED]:
        del os.environ[name]
    for name in NUMBERS:
        if not os.environ.get(name, "1").isdecimal():
            sys.exit(f"app.py: the environment variable {name} is {os.environ[name]!r}: give a number, or remove it")
    if root := os.environ.get("GRADIO_ROOT_PATH", "").rstrip("/"):  # with a slash at its end no path matches
        os.environ["GRADIO_ROOT_PATH"] = root if root.startswith(("/", "http")) else f"/{root}"


def show_system_proxies() -> None:
    """Copies the proxies of Windows and macOS into the environment: NO_PROXY alone would hide them."""
    for scheme, address in urllib.request.getproxies().items():
        if scheme in ("http", "https") and address:
            os.environ.setdefault(f"{scheme}_proxy", address)


def use_own_folder() -> None:
    """Gives this app its own folder for uploads, so that no other program's files are deleted.

    By default it is inside Gradio's folder, which may belong to another user of this computer. Then it is a new one.
    """
    given = os.environ.get("GRADIO_TEMP_DIR")
    try:
        folder = Path(given or Path(tempfile.gettempdir()) / "gradio").absolute() / "hubmodels"
        if not _is_writable(folder):
            if given:
                sys.exit(f"app.py: GRADIO_TEMP_DIR={given} cannot be written: give a folder of your own, or remove it")
            folder = Path(tempfile.mkdtemp(prefix="hubmodels-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
    except OSError as error:
        sys.exit(f"app.py: no folder for temporary files can be written: set TMPDIR to one of your own ({error})")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)


def _is_writable(folder: Path) -> bool:
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        return True
    return False


def bypass_proxies(*hosts: str) -> None:
    """Reaches these hosts without the proxy in the environment: Gradio sends requests to its own address."""
    known, usable = (os.environ.pop("no_proxy", "") or os.environ.get("NO_PROXY", "")).split(","), []
    for host in filter(None, (*map(str.strip, known), *hosts)):
        os.environ["no_proxy"] = host
        if _failure(trust_env=True) is None:  # httpx fails for some forms, which others accept
            usable.append(host)
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys(usable))


def drop_unusable_settings() -> None:
    """Removes proxies and certificates with which no HTTP client can be made; the demo needs no network."""
    for name in [name for name in os.environ if name.lower() in PROXIES or name in CERTIFICATES]:
        value, error = os.environ[name], None
        if name.lower() in PROXIES and value:
            error = _failure(proxy=value if "://" in value else f"http://{value}")
        elif name in CERTIFICATES and not Path(value).exists():
            error = "there is no such file or folder"
        if error:
            del os.environ[name]
            print(f"app.py: {name} cannot be used, and is ignored: {error}", file=sys.stderr)


def _failure(proxy: str | None = None, trust_env: bool = False) -> str | None:
    """Why no HTTP client can be made with this proxy, or with those in the environment."""
    try:
        httpx.Client(proxy=proxy, trust_env=trust_env, verify=False).close()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        return str(error)
    return None


def listening_address(host: str | None, port: int | None) -> str | None:
    """The host as Gradio needs it; ends the program if this computer has no such address, or no such port."""
    host = host or os.environ.get("GRADIO_SERVER_NAME")
    if host is None:
        return None
    plain = host.strip("[]")
    try:
        family, *_, address = socket.getaddrinfo(plain, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.bind((plain, 0, *address[2:]))
    except OSError as error:
        sys.exit(f"app.py: this computer cannot listen on {host} ({error.strerror}): give one of its own by --host")
    return f"[{plain}]" if ":" in plain else plain
