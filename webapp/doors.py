"""What Gradio would serve or accept and the page does not need: refused before Gradio sees it."""

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# Each writes what any visitor sends into folders that nobody empties, or tells how the app is used.
CLOSED = ("process_recording", "deep_link", "component_server", "monitoring", "profiling", "run-history", "vibe-", "dev/")
MAX_UPLOAD = 1_100_000_000  # bytes of one request: a whole batch
MAX_BODY = 90_000_000  # bytes of every other one, held in memory: a picture of 64 MB in a data URL


class Doors:
    """ASGI middleware that answers 404 for closed paths, and 413 for a body that is too large or of unsaid size."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)


def _refusal(scope: Scope) -> PlainTextResponse | None:
    path = scope["path"].lstrip("/").removeprefix("gradio_api/").lstrip("/")
    if path.startswith(CLOSED):
        return PlainTextResponse("Not found", 404)
    headers = dict(scope["headers"])
    size, limit = headers.get(b"content-length", b"0"), MAX_UPLOAD if path.startswith("upload") else MAX_BODY
    if b"transfer-encoding" in headers or not size.isdigit() or int(size) > limit:
        return PlainTextResponse(f"A request may have {limit:,} bytes, and has to say how many", 413)
    return None
