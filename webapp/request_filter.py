"""What Gradio would serve or accept and the page does not need: refused before Gradio sees it."""

from typing import NoReturn

from gradio import processing_utils  # noqa: TID251
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# The first would fetch any address of the internet for anybody, and hand it out as ours; the next ones write what any
# visitor sends into folders that nobody empties; the last ones tell how the app is used.
FETCHING, WRITING = (
    ("file=http", "proxy="),
    ("process_recording", "deep_link", "component_server", "vibe-", "undo-vibe"),
)
CLOSED = (*FETCHING, *WRITING, "monitoring", "profiling", "run-history", "dev/")
MAX_UPLOAD = 1_100_000_000  # bytes of one request: a whole batch
MAX_BODY = 32_000_000  # bytes of every other one, held in memory: a picture of 24 MB in a data URL


class RequestFilter:
    """ASGI middleware that answers 404 for closed paths, and 413 for a body that is too large or of unsaid size."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)


def refuse_web_addresses() -> None:
    """Keeps Gradio, in this process, from fetching pictures by their web address.

    In 6.31 every event downloads what is described as an upload and has the address of a public host as its path,
    whatever its size, for anybody, and asks a public name server besides.
    """

    async def refuse(_: str) -> NoReturn:
        raise ValueError("web addresses are not fetched")

    processing_utils.async_ssrf_protected_get = refuse


def _refusal(scope: Scope) -> PlainTextResponse | None:
    path = scope["path"].lower().lstrip("/").removeprefix("gradio_api/").lstrip("/")
    if path.startswith(CLOSED):
        return PlainTextResponse("Not found", 404)
    headers = dict(scope["headers"])
    size, limit = headers.get(b"content-length", b"0"), MAX_UPLOAD if path.startswith("upload") else MAX_BODY
    if b"transfer-encoding" in headers or not size.isdigit() or int(size) > limit:
        return PlainTextResponse(f"A request may have {limit:,} bytes, and has to say how many", 413)
    return None
