"""Who may send a request, how often, and how large: checked before anything of its body is read."""

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATH = "/healthz"  # for everybody, at any time
MOST_ADDRESSES = 10_000  # that are remembered
LONGEST_SIZE = 18  # digits


class Refusal(Exception):
    """A request that is answered by an error, which the caller can fix.

    Attributes:
        status: of HTTP.
        kind: the cause for programs.
        message: the cause and the remedy for people.
    """

    def __init__(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, headers

    def response(self) -> JSONResponse:
        """As it is sent."""
        return JSONResponse({"error": {"kind": self.kind, "message": self.message}}, self.status, self.headers)


@dataclass
class Pace:
    """A bucket of tokens for each address: a full one allows a burst of `per_minute` requests.

    Args:
        clock: seconds.
    """

    per_minute: int
    clock: Callable[[], float] = time.monotonic
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)  # tokens, and at which time

    def wait(self, address: str) -> float:
        """Takes a token; returns 0, or after how many seconds there is one."""
        now, per_second = self.clock(), self.per_minute / 60
        tokens, since = self._left.pop(address, (self.per_minute, now))
        tokens = min(self.per_minute, tokens + per_second * (now - since))
        self._left[address] = (tokens - 1, now) if tokens >= 1 else (tokens, now)
        if len(self._left) > MOST_ADDRESSES:
            del self._left[next(iter(self._left))]  # was silent for the longest time
        return 0 if tokens >= 1 else (1 - tokens) / per_second


@dataclass
class Gate:
    """ASGI middleware.

    Args:
        refused: gets each refusal.
        token: that requests must contain; None = none.
        pace: how often an address may send a request; None = as often as it likes.
        largest: bytes of a body.
    """

    app: ASGIApp
    refused: Callable[[Refusal], None]
    token: str | None
    pace: Pace | None
    largest: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or get_route_path(scope) == OPEN_PATH:
            return await self.app(scope, receive, send)
        try:
            self._check(scope)
        except Refusal as refusal:
            self.refused(refusal)
            return await refusal.response()(scope, receive, send)
        await self.app(scope, self._limited(receive), send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        address = (scope.get("client") or ("", 0))[0]
        if self.pace and (seconds := self.pace.wait(address)):
            raise _too_often(seconds)
        if self.token and not _is_same(headers.get("authorization", ""), f"Bearer {self.token}"):
            words = "send the server's token: Authorization: Bearer TOKEN"
            raise Refusal(401, "token", words, {"WWW-Authenticate": "Bearer"})
        size = headers.get("content-length", "0")
        if not size.isdecimal() or len(size) > LONGEST_SIZE or int(size) > self.largest:
            raise self._too_large()

    def _limited(self, receive: Receive) -> Receive:
        """`receive` that fails as soon as a body is too large; its size need not be announced."""
        left = self.largest

        async def receive_limited() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise self._too_large()
            return message

        return receive_limited

    def _too_large(self) -> Refusal:
        return Refusal(
            413, "body_too_large", f"a request may have {self.largest:,} bytes: send fewer or smaller files"
        )


def _too_often(seconds: float) -> Refusal:
    words = "too many requests of this address: wait as many seconds as Retry-After says"
    return Refusal(429, "too_often", words, {"Retry-After": str(max(1, round(seconds + 0.5)))})


def _is_same(sent: str, expected: str) -> bool:
    scheme, _, token = sent.partition(" ")
    whole = f"{scheme.capitalize()} {token.strip()}"  # schemes have no case
    return hmac.compare_digest(whole.encode("latin-1"), expected.encode())
