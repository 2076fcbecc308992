"""One plain request: a picture is sent by HTTP, and the answer is its result as JSON. Without the page and Gradio.

    hubmodels serve --model "parts / washer"
    curl -F picture=@photo.png http://127.0.0.1:8000/judge

The program answers /healthz while it judges. Pictures of one category are judged one after the other. If too many
requests wait, the next one is refused at once.
"""

import ipaddress
import logging
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import anyio
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from hubmodels import __version__
from hubmodels.hub.catalog import find_category
from hubmodels.line.counts import (
    ALARM,
    CAPITAL,
    ERRORS,
    IN_PROGRESS,
    INFO,
    JUDGED,
    MEDIA_TYPE,
    PICTURES,
    WAITED,
    WAITING,
    Counts,
)
from hubmodels.line.drift import DriftWatch
from hubmodels.line.gate import Gate, Pace, Refusal
from hubmodels.line.line import Line, drift_in_words
from hubmodels.line.log import LogError
from hubmodels.line.openapi import MOST_PICTURES, document

logger = logging.getLogger(__name__)

TOKEN = "HUBMODELS_TOKEN"  # variable of the environment
VERDICTS = GOOD, LOOK_AGAIN, DEFECTIVE, NONE = ("good", "look_again", "defective", "none")
SLOWEST = 60.0  # seconds in which a body has to arrive
IN_MEMORY = 1_000_000  # bytes of a picture; larger ones wait in a temporary file
LONGEST_FIELD = 10_000  # bytes
PATIENCE = 60  # seconds in which a process has to answer the first one; importing torch can take long
MODEL, NOT_KEPT = "model", "not_kept"  # kinds of errors: a model cannot be loaded, the log cannot be written
STATUS = {"unknown_format": 415, MODEL: 500, NOT_KEPT: 500}  # of the faults of pictures; all others are 422
EXPLAINED = {  # refusals by Starlette: the kind, and our words
    400: ("multipart", None),
    404: ("not_found", "there is no such address: /openapi.json lists all"),
    405: ("method", "this address needs another method: /openapi.json lists all"),
}


@dataclass(frozen=True)
class Limits:
    """What a server accepts.

    Args:
        body: bytes of a request.
        waiting: requests that are being read, or wait for their turn.
        per_minute: requests of one address; None = without a limit.
    """

    body: int = 64_000_000
    waiting: int = 16
    per_minute: int | None = None


@dataclass(frozen=True)
class Choice:
    """What a request wants besides its pictures."""

    label: str
    rate: float | None
    methods: list[str]


class Category(Protocol):
    """What a server needs of a `Line`."""

    drift: DriftWatch | None

    @property
    def methods(self) -> list[str]:
        """Names of the methods."""

    def judge(self, name: str, picture: bytes, rate: float | None, methods: Collection[str]) -> dict:
        """As `Line.judge`."""


class Server:
    """Judges the pictures of requests.

    Args:
        lines: by label of the category.
        token: that every request except /healthz must contain; None = none.
    """

    def __init__(
        self,
        lines: Mapping[str, Category],
        limits: Limits = Limits(),
        token: str | None = None,
        counts: Counts | None = None,
    ) -> None:
        self.lines, self.limits, self.token, self.counts = lines, limits, token, counts or Counts()
        self._turns: dict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self.counts.add(INFO, version=__version__)
        for label in lines:
            for verdict in VERDICTS:
                self.counts.add(PICTURES, 0, category=label, verdict=verdict)

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/judge", self.judge, methods=["POST"]),
            Route("/judge/batch", self.judge_batch, methods=["POST"]),
            Route("/categories", self.categories),
            Route("/healthz", self.healthz),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.openapi),
        ]
        pace = Pace(self.limits.per_minute) if self.limits.per_minute else None
        settings = {"refused": self._count, "token": self.token, "pace": pace, "largest": self.limits.body}
        handlers = {Refusal: self._refuse, HTTPException: self._refuse_http, Exception: self._fail}
        return Starlette(routes=routes, middleware=[Middleware(Gate, **settings)], exception_handlers=handlers)

    # ------------------------------------------------------------ endpoints

    async def judge(self, request: Request) -> Response:
        """The result of one picture."""
        async with self._received(request, most=1) as (pictures, choice):
            record = await self._judged(request, pictures[0], choice)
        if error := record.get("error"):
            return JSONResponse({"error": error}, STATUS.get(error["kind"], 422))
        return JSONResponse(record)

    async def judge_batch(self, request: Request) -> Response:
        """The results of several pictures; a bad one does not stop the others."""
        async with self._received(request, most=MOST_PICTURES) as (pictures, choice):
            return JSONResponse({"results": [await self._judged(request, picture, choice) for picture in pictures]})

    async def categories(self, request: Request) -> Response:
        """Labels and methods."""
        found = [{"category": label, "methods": line.methods} for label, line in self.lines.items()]
        return JSONResponse({"categories": found})

    async def healthz(self, request: Request) -> Response:
        """Whether it works; without names, because everybody may read it."""
        models = sum(len(line.methods) for line in self.lines.values())
        return JSONResponse({"status": "ok", "version": __version__, "categories": len(self.lines), "models": models})

    async def metrics(self, request: Request) -> Response:
        """Counts for Prometheus."""
        drifts = {label: drift for label, line in self.lines.items() if (drift := line.drift)}
        alarms = {label: drift.alarm is not None for label, drift in drifts.items()}
        capitals = {label: drift.capital for label, drift in drifts.items()}
        return Response(self.counts.text({ALARM: alarms, CAPITAL: capitals}), media_type=MEDIA_TYPE)

    async def openapi(self, request: Request) -> Response:
        """The description of all of this."""
        place = request.scope.get("root_path", "")
        return JSONResponse(document(list(self.lines), self.token is not None, self.limits.body, place))

    # ------------------------------------------------------------ a request

    @asynccontextmanager
    async def _received(self, request: Request, most: int) -> AsyncIterator[tuple[list[UploadFile], Choice]]:
        """The pictures and the choice of a request, which counts as waiting meanwhile."""
        if self.counts.now(WAITING) >= self.limits.waiting:
            words = f"{self.limits.waiting} requests wait already: try again later"
            raise Refusal(503, "busy", words, {"Retry-After": str(self._patience())})
        with self.counts.during(WAITING):
            form = await _read(request, most)
            try:
                yield _pictures(form, most), self._choice(request, form)
            finally:
                await form.close()

    def _patience(self) -> int:
        """Seconds in which the waiting requests may be judged."""
        return max(1, round(self.limits.waiting * self.counts.mean_seconds(JUDGED)))

    def _choice(self, request: Request, form: FormData) -> Choice:
        texts = _given(request, form, "methods")
        methods = [name.strip() for text in texts for name in text.split(",") if name.strip()]
        label = self._label(_once(request, form, "category"))
        if unknown := [name for name in methods if name not in self.lines[label].methods]:
            words = f"there is no method {', '.join(unknown)}; choose of: {', '.join(self.lines[label].methods)}"
            raise Refusal(422, "unknown_method", words)
        return Choice(label, _rate(_once(request, form, "rate")), methods)

    def _label(self, wanted: str | None) -> str:
        labels = list(self.lines)
        label = labels[0] if wanted is None and len(labels) == 1 else find_category(wanted, labels)
        if label is None:
            raise Refusal(422, "unknown_category", f"send `category`, one of: {', '.join(labels)}")
        return label

    async def _judged(self, request: Request, picture: UploadFile, choice: Choice) -> dict:
        """The result of one picture, when it is its turn."""
        arrived = time.perf_counter()
        async with self._turns[choice.label]:
            if await request.is_disconnected():
                raise _gone()
            self.counts.observe(WAITED, time.perf_counter() - arrived, category=choice.label)
            self.counts.add(WAITING, -1)
            try:
                with self.counts.during(IN_PROGRESS):
                    return self._counted(await anyio.to_thread.run_sync(self._judge, picture, choice), choice.label)
            finally:
                self.counts.add(WAITING)

    def _judge(self, picture: UploadFile, choice: Choice) -> tuple[dict, float]:
        """The result and the seconds that it took; runs in a thread."""
        begun, line = time.perf_counter(), self.lines[choice.label]
        name = picture.filename or "picture"
        try:
            record = line.judge(name, picture.file.read(), choice.rate, choice.methods)
        except (OSError, LogError) as error:  # a result that is not in the log must not be used
            logger.error("the result of %s cannot be kept: %s", name, error)
            raise Refusal(500, NOT_KEPT, "the result cannot be kept: the server's log has the reason") from error
        return record, time.perf_counter() - begun

    def _counted(self, judged: tuple[dict, float], label: str) -> dict:
        record, seconds = judged
        self.counts.observe(JUDGED, seconds, category=label)
        if "error" in record:
            self.counts.add(ERRORS, kind=record["error"]["kind"])
        else:
            self.counts.add(PICTURES, category=label, verdict=verdict_of(record))
        if words := drift_in_words(record):
            logger.warning("%s: %s", label, words)
        return record

    # ------------------------------------------------------------ errors

    def _count(self, refusal: Refusal) -> None:
        self.counts.add(ERRORS, kind=refusal.kind)
        self.counts.save()

    async def _refuse(self, request: Request, refusal: Refusal) -> Response:
        self._count(refusal)
        return refusal.response()

    async def _refuse_http(self, request: Request, error: HTTPException) -> Response:
        kind, words = EXPLAINED.get(error.status_code, ("http", error.detail))
        return await self._refuse(request, Refusal(error.status_code, kind, words or error.detail, error.headers))

    async def _fail(self, request: Request, error: Exception) -> Response:
        return await self._refuse(request, Refusal(500, "server", "the server failed: its log has the reason"))


def verdict_of(record: dict) -> str:
    """The verdict of all methods of a result together, of `VERDICTS`."""
    if not record["verdicts"]:
        return NONE
    return DEFECTIVE if record["defective_verdicts"] else LOOK_AGAIN if record["look_again"] else GOOD


async def _read(request: Request, most: int) -> FormData:
    """The fields of a request; a body that is a picture becomes the field `picture`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        with anyio.fail_after(SLOWEST):
            if kind == "multipart/form-data":
                return await request.form(max_files=most + 1, max_part_size=LONGEST_FIELD)
            if kind.startswith("image/") and most == 1:
                return FormData([("picture", await _body(request))])
    except TimeoutError as error:
        raise Refusal(408, "slow", f"the request did not arrive in {SLOWEST:.0f} s: send it again") from error
    except ClientDisconnect as error:
        raise _gone() from error
    picture = ", or a picture with its own type, such as image/png" if most == 1 else ""
    raise Refusal(415, "content_type", f"send multipart/form-data with `picture`{picture}")


def _gone() -> Refusal:
    return Refusal(408, "gone", "the connection was closed before the picture was judged")


async def _body(request: Request) -> UploadFile:
    file = UploadFile(tempfile.SpooledTemporaryFile(IN_MEMORY), filename=request.query_params.get("name"))
    try:
        async for part in request.stream():
            await file.write(part)
    except BaseException:
        await file.close()
        raise
    await file.seek(0)
    return file


def _pictures(form: FormData, most: int) -> list[UploadFile]:
    pictures = form.getlist("picture")
    if not 1 <= len(pictures) <= most:
        expected = "one file" if most == 1 else f"1 to {most} files"
        raise Refusal(422, "count", f"send {expected} as `picture`, not {len(pictures)}")
    if any(_is_text(picture) for picture in pictures):
        raise Refusal(422, "no_file", "send `picture` as a file, with a file name: curl -F picture=@photo.png")
    return pictures


def _given(request: Request, form: FormData, name: str) -> list[str]:
    """All values of a field, in the address and in the form."""
    return [*request.query_params.getlist(name), *filter(_is_text, form.getlist(name))]


def _once(request: Request, form: FormData, name: str) -> str | None:
    """The value of a field; None if it is not sent."""
    values = _given(request, form, name)
    if len(values) > 1:
        raise Refusal(422, "twice", f"send `{name}` once, in the form or in the address, not {len(values)} times")
    return values[0] if values else None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _rate(text: str | None) -> float | None:
    try:
        rate = None if text is None else float(text)
    except ValueError:
        rate = 0.0
    if rate is not None and not 0 < rate < 1:
        raise Refusal(422, "false_alarm_rate", f"`rate` must be a number between 0 and 1, not {text}")
    return rate


# ---------------------------------------------------------------- the program


@dataclass(frozen=True)
class Settings:
    """What `hubmodels serve` was called with; calling it makes the application, in each process.

    Args:
        models, category: as `find_models`; each model with each category.
        log: folder of the log of all categories.
        drift: folder for the states of the drift alarms, one file for each category.
        folder: of the counts of all processes, if there are several.
        threads: of torch; None = its own choice.
    """

    models: tuple[str, ...]
    categories: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    rate: float | None = None
    log: Path | None = None
    drift: Path | None = None
    limits: Limits = Limits()
    token: str | None = field(default=None, repr=False)
    folder: Path | None = None
    threads: int | None = None

    def __call__(self) -> Starlette:
        """For uvicorn, which starts a process again that ends for another reason than STARTUP_FAILURE."""
        try:
            return self.open()
        except (ValueError, RuntimeError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(STARTUP_FAILURE)

    def open(self) -> Starlette:
        """Loads the models.

        Raises:
            ModelError, ValueError, OSError: as `Line.of`; the message has a remedy.
        """
        if self.threads:
            torch.set_num_threads(self.threads)
        return Server(self.lines(), self.limits, self.token, Counts(self.folder)).app()

    def lines(self) -> dict[str, Line]:
        """By label.

        Raises:
            ModelError, ValueError, OSError: as `open`.
        """
        lines = {}
        for model in self.models:
            for category in self.categories or (None,):
                line = Line.of(model, category, self.methods, self.rate, self.log)
                if line.label in lines:
                    raise ValueError(f"{model} has models of {line.label}, as another --model: put them in one folder")
                lines[line.label] = self._with_drift(line)
        return lines

    def _with_drift(self, line: Line) -> Line:
        if self.drift is None:
            return line
        self.drift.mkdir(parents=True, exist_ok=True)
        return replace(line, drift_file=self.drift / f"{quote(line.label, safe=' ')}.json")


def run(settings: Settings, host: str, port: int, workers: int = 1) -> int:
    """Serves until SIGTERM or Ctrl-C; requests that were received are answered. Returns an exit status.

    Raises:
        ModelError, ValueError, OSError: as `Settings.open`.
    """
    if not (_is_loopback(host) or settings.token):
        logger.warning(
            "EVERYBODY who reaches %s can send requests and read the counts: set %s, or leave out --host", host, TOKEN
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # also while models are loaded
    quiet = {"access_log": False, "server_header": False, "host": host, "port": port}
    if workers > 1:
        return _run_several(settings, quiet | {"workers": workers})
    uvicorn.Server(uvicorn.Config(settings.open(), lifespan="off", **quiet)).run()
    return 0


def _run_several(settings: Settings, options: dict) -> int:
    """Each process has its own models, and its part of the cores."""
    if settings.drift:
        raise ValueError("--drift needs one process, which sees all pictures in their order: leave out --workers")
    settings.lines()  # mistakes end the command before other processes start
    threads = max(1, torch.get_num_threads() // options["workers"])
    with tempfile.TemporaryDirectory(prefix="hubmodels-serve-") as folder:
        make = replace(settings, folder=Path(folder), threads=threads)
        health = {"timeout_worker_healthcheck": PATIENCE}
        config = uvicorn.Config(make, factory=True, lifespan="off", **health, **options)
        processes = Multiprocess(config, [config.bind_socket()])
        processes.run()
    return STARTUP_FAILURE if any(p.exitcode == STARTUP_FAILURE for p in processes.processes) else 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
