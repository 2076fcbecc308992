"""One server for many visitors: their files, requests that are refused, memory, and private names of folders."""

import ctypes
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import NoReturn

import gradio as gr
from gradio import processing_utils
from gradio.utils import get_upload_folder
from huggingface_hub import constants
from starlette._utils import get_route_path
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubmodels import PictureError
from hubmodels.hub.catalog import BUNDLE, FOLDER, Catalog

# Paths that the page does not need. The first two would fetch any web address for anybody and return it as ours. The
# next ones store what visitors send in folders that are never emptied. The last ones report how the app is used.
FETCHING = ("file=http", "file/http", "proxy=")
WRITING = ("process_recording", "deep_link", "component_server", "vibe-", "undo-vibe")
CLOSED = (*FETCHING, *WRITING, "monitoring", "profiling", "run-history", "dev/")
CALL = re.compile(r"(?P<way>run|api|call|call/v2)/(?P<name>[^/]*)/?")  # of an event
WITH_SESSION = ("run", "api")  # ways that the page uses, too
MAX_UPLOAD = 1_100_000_000  # bytes of one upload request: a whole batch
MAX_UPLOAD_HERE = 2_200_000_000  # the same on one's own computer: 500 pictures of a phone
FILE_ON_SPACE, FILE_HERE = "64 MB", "2 GB"  # of one file
MAX_BODY = 32_000_000  # bytes of all other requests, kept in memory: a picture of 24 MB in a data URL
FETCH = "async_ssrf_protected_get"  # Gradio's function that fetches web addresses
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h of glibc
# of Linux, macOS or Windows, also with doubled backslashes; but not the path of a web address
PATH = re.compile(r"(?<![\w/\\:.~<-])(?:~|\.{1,2}|[A-Za-z]:)?(?:[/\\]+[^\s/\\'\":;,()<>]+)+[/\\]?")


# ---------------------------------------------------------------- requests


class RequestFilter:
    """ASGI middleware. It answers 404 for closed paths, and 413 for a body that is too large or of unknown size.

    It also answers 404 for calls of the page's own events without a session, which Gradio answers with 500.

    Args:
        endpoints: names of the events that need no session.
    """

    def __init__(self, app: ASGIApp, max_upload: int = MAX_UPLOAD, endpoints: Sequence[str] = ()) -> None:
        self._app, self._max_upload, self._endpoints = app, max_upload, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope, self._max_upload) if scope["type"] == "http" else None
        call = CALL.fullmatch(_path(scope)) if scope["type"] == "http" and scope["method"] == "POST" else None
        if call and not refusal:
            refusal, receive = await self._refused_call(call, receive)
        await (refusal or self._app)(scope, receive, send)

    async def _refused_call(self, call: re.Match, receive: Receive) -> tuple[JSONResponse | None, Receive]:
        """The refusal of a call of an event, if it has no session; and the request again, because it was read."""
        is_known = call["name"] in self._endpoints
        if call["way"] in WITH_SESSION:
            messages = await _read(receive)
            body, receive = _described(messages), _again(messages, receive)
            is_known = bool(body.get("session_hash")) or (is_known and body.get("fn_index") is None)
        known = ", ".join(self._endpoints)
        words = f"this endpoint belongs to the page and needs its session; programs can use: {known} (docs/api.md)"
        return None if is_known else JSONResponse({"error": words}, 404), receive


async def _read(receive: Receive) -> list[Message]:
    """The messages with the body of a request."""
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    return messages


def _again(messages: list[Message], receive: Receive) -> Receive:
    """A `receive` that begins with these messages."""
    first = iter(messages)

    async def receive_again() -> Message:
        message = next(first, None)
        return await receive() if message is None else message

    return receive_again


def _described(messages: list[Message]) -> dict:
    """The object in JSON that a request contains; empty if it is none."""
    try:
        body = json.loads(b"".join(message.get("body", b"") for message in messages))
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _path(scope: Scope) -> str:
    # the router's own function: a text comparison of ours would differ from it when the page has a root path
    return get_route_path(scope).lower().lstrip("/").removeprefix("gradio_api/").lstrip("/")


def _refusal(scope: Scope, max_upload: int) -> PlainTextResponse | None:
    path = _path(scope)
    if path.startswith(CLOSED):
        return PlainTextResponse("Not found", 404)
    headers = dict(scope["headers"])
    size, limit = headers.get(b"content-length", b"0"), max_upload if path.startswith("upload") else MAX_BODY
    if b"transfer-encoding" in headers or not size.isdigit() or int(size) > limit:
        return PlainTextResponse(f"A request must state its size, at most {limit:,} bytes", 413)
    return None


def refuse_web_addresses() -> None:
    """Prevents Gradio, in this process, from fetching pictures from web addresses.

    Gradio 6.31 downloads every upload whose path is the address of a public host, for anybody and of any size. It
    also uses a public name server.

    Raises:
        RuntimeError: the installed Gradio fetches in another way, so that the page would not be safe.
    """
    if not callable(getattr(processing_utils, FETCH, None)):
        raise RuntimeError(
            f"Gradio {gr.__version__} has no gradio.processing_utils.{FETCH}, so this app cannot prevent it from "
            "fetching web addresses for visitors. Install Gradio 6.31: pip install 'gradio==6.31.*'"
        )

    async def refuse(_: str) -> NoReturn:
        raise ValueError("web addresses are not fetched")

    setattr(processing_utils, FETCH, refuse)


# ---------------------------------------------------------------- files of visitors


def keep_deleting(age_s: float, every_s: float, *others: Callable[[float], None]) -> None:
    """Starts a thread that deletes files of this age from the upload folder, whoever wrote them.

    It also calls the others with the age: they delete what is not in that folder.

    Gradio's `delete_cache` is not enough. In 6.31 it ends when an upload arrives while it works. It also misses what
    an interrupted upload or an earlier process left.
    """

    folder = Path(get_upload_folder())

    def work() -> None:
        while True:
            for delete in (partial(delete_old, folder), *others):
                delete(age_s)
            time.sleep(every_s)

    threading.Thread(target=work, daemon=True).start()


def delete_old(folder: Path, age_s: float) -> None:
    """Deletes files of at least this age in a folder, and empty folders."""
    for place, _, names in os.walk(folder, topdown=False):
        for path in (*(Path(place) / name for name in names), Path(place)):
            with suppress(OSError):  # already deleted, or a folder that is not empty
                if time.time() - path.lstat().st_ctime > age_s:
                    path.rmdir() if path == Path(place) else path.unlink()


def uploaded_path(upload: dict | None) -> str | None:
    """The path in Gradio's description of an upload; None for any path that is not in the upload folder.

    Events take uploads with `preprocess=False`. Otherwise gr.Image would clip 16-bit pictures, decode before our limit
    of pixels, and answer a broken file with just "Error". Gradio 6.31 checks a path only if the caller of the API
    marks it as a file. Without this check a caller could request any picture on the server.
    """
    path = upload.get("path") if isinstance(upload, dict) else None
    uploads = Path(get_upload_folder()).resolve()
    return path if isinstance(path, str) and _is_inside(Path(path), uploads) else None


def checked_path(upload: object) -> str:
    """The path of an upload that still exists.

    Raises:
        PictureError: it is not an upload of a visitor, or it was deleted.
    """
    path = uploaded_path(upload)
    if path is None or not Path(path).is_file():
        raise PictureError("the upload no longer exists: uploads are deleted after an hour; upload it again", "gone")
    return path


def fresh_path(name: str) -> Path:
    """A new path in the upload folder, for a file that a visitor downloads; it is deleted after an hour."""
    folder = Path(get_upload_folder()) / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return folder / name


def _is_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder)
    except (OSError, ValueError):  # not a valid file name
        return False


# ---------------------------------------------------------------- the server itself


def return_freed_memory() -> None:
    """Makes glibc return the memory of pictures at once; call it before threads start. Elsewhere it has no effect.

    By default glibc keeps large freed blocks in each thread: 800 MB more after a minute of 50 visitors
    (`benchmarks/load.py`), and growing.
    """
    with suppress(OSError, AttributeError):  # no glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 2**20)  # fixed; by default it grows with the freed blocks, up to 32 MB
        libc.mallopt(M_ARENA_MAX, 2)


def hide_folders(text: str, catalog: Catalog) -> str:
    """A text without the folders of this computer: only the last part of each path remains. A Space is public."""
    weights = [str(e.backbone_weights) for e in catalog.entries if e.backbone_weights]
    paths = map(Path, [*_folders(catalog), *weights, constants.HF_HUB_CACHE])
    parents = {str(parent) for path in paths for parent in path.parents[:2] if len(parent.parts) > 1}
    for parent in sorted(parents, key=len, reverse=True):  # known folders first: their names may contain spaces
        text = text.replace(f"{parent}{os.sep}", "")
    return PATH.sub(lambda match: PureWindowsPath(match[0]).name, text)  # which supports both kinds of slashes


def _folders(catalog: Catalog) -> list[str]:
    sources = [*catalog.problems, *(e.source for e in catalog.entries if e.origin in (FOLDER, BUNDLE))]
    return [source for source in sources if Path(source).is_absolute()]
