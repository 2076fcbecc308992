"""A stand-in for huggingface.co on the loopback, so that publishing can be tested with the real client and no account.

    python tests/hub_server.py --folder /tmp/hub      # prints the HF_ENDPOINT to set; HF_TOKEN=hf_write may publish

It speaks the protocol that `huggingface_hub` 2.4 speaks: repositories are chains of immutable commits, large files go
through LFS or Xet, errors carry the codes from which the client makes its exceptions. Tests can break it on purpose
(`Fault`), see what was transferred (`requests`), and edit files as a person would in the web page (`edit`).

Differences from the Hub: large files are served in place and not by a redirect to a CDN, stored bytes are shared by
all repositories, Spaces do not run, no pull requests, no discussions. Only the bytes are on the disk.
"""

import argparse
import asyncio
import base64
import contextlib
import functools
import hashlib
import itertools
import json
import re
import secrets
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlencode

import uvicorn
import yaml
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.datastructures import MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

WEB_PREFIX = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}  # by the name of the kind in API addresses
LARGE_SUFFIXES = (".safetensors", ".parquet", ".png", ".jpg")
LARGE_SIZE = 10_000_000  # bytes, above which any file is stored as a large one
CARD_COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
INFO_WHEN_LISTED = {"id", "modelId", "author", "createdAt", "likes", "downloads", "private", "tags"} | {
    *("pipeline_tag", "library_name", "sdk")  # the rest, `sha` and `lastModified` too, comes by `expand` or `full`
}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- What the Hub keeps ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """Whose token it is; `role` is the token's: one that may only "read" writes nowhere, not even to its own."""

    name: str
    orgs: tuple[str, ...] = ()
    role: str = "write"

    def owns(self, namespace: str) -> bool:
        return namespace in (self.name, *self.orgs)


@dataclass(frozen=True)
class Blob:
    """A file's content; `git_oid` is the SHA-1 that git gives to it, or to the pointer in place of a large file."""

    sha256: str
    size: int
    git_oid: str
    pointer_size: int | None = None

    @classmethod
    def regular(cls, content: bytes) -> "Blob":
        return cls(hashlib.sha256(content).hexdigest(), len(content), cls._git(content))

    @classmethod
    def large(cls, sha256: str, size: int) -> "Blob":
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return cls(sha256, size, cls._git(pointer), len(pointer))

    @staticmethod
    def _git(content: bytes) -> str:
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.pointer_size else self.git_oid


@dataclass(frozen=True)
class Commit:
    """One state of a repository; `files` is the whole snapshot and never changes."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, Blob]


@dataclass
class Repo:
    kind: str
    id: str
    visibility: str = "public"
    sdk: str | None = None
    gated: str | bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)  # name -> oid
    tags: dict[str, str] = field(default_factory=dict)
    variables: dict[str, dict] = field(default_factory=dict)  # of a Space

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def commit(self, branch: str, files: dict[str, Blob], title: str, message: str = "", author: str = "") -> Commit:
        parent, date = self.branches.get(branch), now()
        tree = {path: blob.git_oid for path, blob in sorted(files.items())}
        identity = json.dumps([parent, title, message, author, date, tree, len(self.commits)])
        commit = Commit(hashlib.sha1(identity.encode()).hexdigest(), parent, title, message, author, date, files)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def resolve(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    def history(self, commit: Commit) -> list[Commit]:
        """The commit and all before it, newest first."""
        chain = [commit]
        while parent := chain[-1].parent:
            chain.append(self.commits[parent])
        return chain

    def last_change(self, commit: Commit, path: str) -> Commit:
        """The commit that gave the file its content as of `commit`."""
        chain = self.history(commit)
        for later, earlier in itertools.pairwise(chain):
            if later.files[path] != earlier.files.get(path):
                return later
        return chain[-1]


# --- Faults: what goes wrong on purpose ------------------------------------------------------------------------------

Action = Callable[[ASGIApp, Scope, Receive, Send], Awaitable[None]]


@dataclass
class Fault:
    """The next `times` requests whose method and quoted path match (regular expressions) go wrong by `action`."""

    method: str
    path_regex: str
    times: int
    action: Action

    def concerns(self, method: str, path: str) -> bool:
        return bool(re.fullmatch(self.method, method) and re.search(self.path_regex, path))


def answer(status: int, retry_after: int | None = None) -> Action:
    """Answer with an error, without doing anything."""

    async def act(app, scope, receive, send):
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        await JSONResponse({"error": f"Fault {status}"}, status, headers)(scope, receive, send)

    return act


def delay(seconds: float) -> Action:
    async def act(app, scope, receive, send):
        await asyncio.sleep(seconds)
        await app(scope, receive, send)

    return act


def cut_download(after: int) -> Action:
    """Hang up when `after` bytes of the body were sent, at its end at the latest."""

    async def act(app, scope, receive, send):
        left = after

        async def sending(message: Message) -> None:
            nonlocal left
            if message["type"] == "http.response.start":
                return await send(message)
            body = message.get("body", b"")[:left]
            left -= len(body)
            await send({**message, "body": body, "more_body": True})
            if not left or not message.get("more_body"):
                scope["hang_up"]()

        await app(scope, receive, sending)

    return act


def cut_upload(after: int) -> Action:
    """Hang up when at least `after` bytes of the request's body have come."""

    async def act(app, scope, receive, send):
        come, more = 0, True
        while more and come < after:
            message = await receive()
            come, more = come + len(message.get("body", b"")), message.get("more_body", False)
        scope["hang_up"]()

    return act


def truncate(keep: int) -> Action:
    """Serve only the first `keep` bytes, as a whole answer: nothing but the file's own size tells that some lack."""

    async def act(app, scope, receive, send):
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                headers["content-length"] = str(min(keep, int(headers["content-length"])))
            await send(message)

        await app(scope, receive, _editing(sending, lambda seen, body: body[: max(0, keep - seen)]))

    return act


def tamper(position: int = 0) -> Action:
    """Serve the body with the byte at `position` inverted; its size and all headers stay right."""

    def invert(seen: int, body: bytes) -> bytes:
        at = position - seen
        return body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :] if 0 <= at < len(body) else body

    async def act(app, scope, receive, send):
        await app(scope, receive, _editing(send, invert))

    return act


def _editing(send: Send, edit: Callable[[int, bytes], bytes]) -> Send:
    """`send`, but with each piece of the body replaced by what `edit` makes of its position and bytes."""
    seen = 0

    async def sending(message: Message) -> None:
        nonlocal seen
        body = message.get("body", b"")
        await send({**message, "body": edit(seen, body)} if body else message)
        seen += len(body)

    return sending


# --- The Hub ---------------------------------------------------------------------------------------------------------


def bound(port: int = 0) -> socket.socket:
    """A socket of the loopback; port 0 takes a free one."""
    sock = socket.socket(proto=socket.IPPROTO_TCP)  # said aloud, or asyncio keeps Nagle's delay: 40 ms an answer
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


@dataclass
class Exchange:
    """A request as it came over the wire; sizes are of bodies, in bytes; status 0: no answer was sent."""

    method: str
    path: str
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class QuickServer(uvicorn.Server):
    """Ends at once; uvicorn's own looks every tenth of a second."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            await asyncio.sleep(0.01)


class LoopbackHub:
    """The server, run by `start` or `with`; what it holds outlives `stop`, and `start` brings it back on its port.

    Attributes:
        endpoint: what `HF_ENDPOINT` should be
        tokens: token -> account, to be changed at will
        faults: rules that are used up as requests match them
        requests: all requests so far, in the order in which they came; never any header
        page_size: entries in one page of a list
    """

    def __init__(self, folder: Path, sock: socket.socket | None = None) -> None:
        self.folder = Path(folder).absolute()
        for room in ("blobs", "xet"):
            (self.folder / room).mkdir(parents=True, exist_ok=True)
        self._socket = sock or bound()
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.tokens = {
            "hf_write": Account("acme", orgs=("factory",)),
            "hf_read": Account("acme", orgs=("factory",), role="read"),
            "hf_stranger": Account("stranger"),
        }
        self.repos: dict[tuple[str, str], Repo] = {}  # (kind, id)
        self.collections: dict[str, dict] = {}
        self.announced: set[str] = set()  # SHA-256 of large files: their addresses need no token, like signed URLs
        self.faults: list[Fault] = []
        self.requests: list[Exchange] = []
        self.page_size = 1000
        self._server: QuickServer | None = None

    def start(self) -> "LoopbackHub":
        """Serve from a thread of its own; returns when requests are answered."""
        if self._socket.fileno() < 0:  # closed by `stop`
            self._socket = bound(int(self.endpoint.rsplit(":", 1)[1]))
        quiet = {"log_config": None, "log_level": "critical", "access_log": False}
        bare = {"http": "h11", "ws": "none", "lifespan": "off", "proxy_headers": False}
        config = uvicorn.Config(self._serve, interface="asgi3", timeout_graceful_shutdown=1, **quiet, **bare)
        self._server = QuickServer(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._server:
            self._server.should_exit = True
            self._thread.join()
        self._socket.close()

    def __enter__(self) -> "LoopbackHub":
        return self.start()

    def __exit__(self, *exception) -> None:
        self.stop()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The outermost layer: notes the request and lets it go wrong where a fault says so."""
        path = scope["raw_path"].decode("ascii")
        exchange = Exchange(scope["method"], path)
        self.requests.append(exchange)

        async def receiving() -> Message:
            message = await receive()
            exchange.bytes_in += len(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            exchange.status = message.get("status", exchange.status)
            exchange.bytes_out += len(message.get("body", b""))
            await send(message)

        # The path stays quoted, as a revision may hold a slash. ASGI has no way to hang up, uvicorn's transport has.
        scope = {**scope, "path": path, "hang_up": receive.__self__.transport.close}
        await self._action(scope["method"], path)(self._app, scope, receiving, sending)

    def _action(self, method: str, path: str) -> Action:
        """What the first fault that concerns the request does, and one time less of it; or plain service."""
        for fault in self.faults:
            if fault.concerns(method, path):
                fault.times -= 1
                self.faults = [fault for fault in self.faults if fault.times > 0]
                return fault.action
        return lambda app, scope, receive, send: app(scope, receive, send)

    @functools.cached_property
    def _app(self) -> FastAPI:
        app = FastAPI(openapi_url=None)
        app.state.hub = self
        app.include_router(router)
        app.add_exception_handler(HubError, HubError.answer)
        return app

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        return self.repos[f"{repo_type}s", repo_id]

    def create(
        self, repo_id: str, files: dict[str, bytes], repo_type: str = "model", author: str = "person", **settings
    ) -> Repo:
        """A repository with its first commit; `settings` are fields of `Repo`."""
        repo = self.repos[f"{repo_type}s", repo_id] = Repo(f"{repo_type}s", repo_id, **settings)
        blobs = {path: self.store(path, content) for path, content in files.items()}
        repo.commit("main", blobs, "initial commit", author=author)
        return repo

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        files = self.repo(repo_id, repo_type).resolve(revision).files
        return {path: self.place(blob.sha256).read_bytes() for path, blob in files.items()}

    def commits(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> list[Commit]:
        """The branch's commits, newest first."""
        repo = self.repo(repo_id, repo_type)
        return repo.history(repo.resolve(revision))

    def edit(
        self, repo_id: str, path: str, content: bytes, title: str = "Edit on the Hub", repo_type: str = "model"
    ) -> Commit:
        """What a person does in the web page: a commit to one file of the main branch."""
        repo = self.repo(repo_id, repo_type)
        files = repo.resolve("main").files | {path: self.store(path, content)}
        return repo.commit("main", files, title, author="person")

    def place(self, sha256: str) -> Path:
        return self.folder / "blobs" / sha256

    def store(self, path: str, content: bytes) -> Blob:
        blob = Blob.regular(content)
        self.place(blob.sha256).write_bytes(content)
        return Blob.large(blob.sha256, blob.size) if is_large(path, blob.size) else blob

    def large(self, sha256: str) -> Blob:
        """A large file that was uploaded before, by LFS or by Xet."""
        place = self.place(sha256)
        if not place.exists():
            fetch_from_xet(self.folder / "xet", sha256, place)
        if not place.exists():
            raise HubError(400, f"The large file {sha256} was never uploaded")
        return Blob.large(sha256, place.stat().st_size)


def is_large(path: str, size: int) -> bool:
    return 0 < size and (path.endswith(LARGE_SUFFIXES) or size > LARGE_SIZE)


def fetch_from_xet(store: Path, sha256: str, place: Path) -> None:
    """Put together a file that the client left in the local Xet store, if it is there."""
    for name, size, xet_hash in _files_in_xet(store):
        if name == sha256:
            import hf_xet

            # The client keeps the store's index locked for as long as it lives.
            copy = shutil.copytree(store, Path(tempfile.mkdtemp(dir=store.parent)) / "store")
            access = {"endpoint": f"local://{copy}", "token": "any", "token_expiry_unix_secs": int(time.time()) + 3600}
            with hf_xet.XetSession().new_file_download_group(**access) as group:
                group.start_download_file(hf_xet.XetFileInfo(xet_hash, size), str(place))
            return shutil.rmtree(copy.parent)


def _files_in_xet(store: Path) -> Iterable[tuple[str, int, str]]:
    """SHA-256, size and Xet hash of the files that a store's shards describe.

    A shard is a row of records of 48 bytes: a header, then for each file one with its hash, one for each segment, as
    many again when bit 31 of the flags is set, and with bit 30 one more, with the SHA-256; a hash of ones ends it.
    """
    for shard in store.rglob("xorbs/shards/*.mdb"):
        content, at = shard.read_bytes(), 48
        while content[at : at + 32] != b"\xff" * 32:
            flags, segments = struct.unpack_from("<II", content, at + 32)
            sizes = [struct.unpack_from("<I", content, at + 48 * (1 + i) + 36)[0] for i in range(segments)]
            last = at + 48 * (1 + segments * (1 + (flags >> 31)))
            yield _hash(content[last : last + 32]), sum(sizes), _hash(content[at : at + 32])
            at = last + 48 * (flags >> 30 & 1)


def _hash(stored: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", stored))  # the words are little-endian


# --- Who asks, and for what ------------------------------------------------------------------------------------------


class HubError(Exception):
    """An answer from which the client makes its exception: by `code` first, then by status."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict | None = None, **body) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": message, **body}
        self.headers = {"X-Error-Message": message.replace("\n", " ").encode("ascii", "replace").decode()}
        self.headers |= ({"X-Error-Code": code} if code else {}) | (headers or {})

    @staticmethod
    async def answer(request: Request, error: "HubError") -> Response:
        return JSONResponse(error.body, error.status, error.headers)


async def the_hub(request: Request) -> LoopbackHub:
    return request.app.state.hub


Hub = Annotated[LoopbackHub, Depends(the_hub)]


async def whose_token(request: Request, hub: Hub) -> Account | None:
    """None without a token; a token that nobody has is refused everywhere, for what is public too."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token and token not in hub.tokens:
        raise HubError(401, "Invalid credentials in Authorization header")
    return hub.tokens.get(token)


Asker = Annotated[Account | None, Depends(whose_token)]


def may_see(account: Account | None, repo: Repo) -> bool:
    return repo.visibility == "public" or bool(account and account.owns(repo.namespace))


def writer(account: Account | None, namespace: str) -> Account:
    if account is None:
        raise HubError(401, "Invalid username or password.")
    if account.role != "write" or not account.owns(namespace):
        raise HubError(403, f"This token has no right to write under the namespace {namespace}")
    return account


async def readable(hub: Hub, account: Asker, namespace: str, name: str, kind: str = "models") -> Repo:
    """The repository; a private one looks to others as if it were not there."""
    repo = hub.repos.get((kind, f"{namespace}/{name}"))
    if repo is None or not may_see(account, repo):
        raise HubError(404 if account else 401, "Repository not found", "RepoNotFound")
    return repo


Readable = Annotated[Repo, Depends(readable)]


async def writable(account: Asker, repo: Readable) -> Repo:
    writer(account, repo.namespace)
    return repo


Writable = Annotated[Repo, Depends(writable)]


async def at_revision(repo: Readable, revision: str = "main") -> Commit:
    if commit := repo.resolve(unquote(revision)):
        return commit
    raise HubError(404, f"Invalid rev id: {unquote(revision)}", "RevisionNotFound")


At = Annotated[Commit, Depends(at_revision)]


async def branch_name(repo: Writable, revision: str) -> str:
    """The branch that is to be written to."""
    if unquote(revision) in repo.branches:
        return unquote(revision)
    raise HubError(404, f"Invalid branch: {unquote(revision)}", "RevisionNotFound")


Branch = Annotated[str, Depends(branch_name)]


async def ungated(account: Asker, repo: Readable) -> None:
    """Gating hides the files; that the repository is there, and what its files are called, anybody may know."""
    if repo.gated and not (account and account.owns(repo.namespace)):
        raise HubError(403 if account else 401, f"Access to {repo.kind[:-1]} {repo.id} is restricted.", "GatedRepo")


def page(request: Request, hub: LoopbackHub, items: list, size: int | None = None) -> Response:
    """One page of a list; the Link header leads to the next."""
    start, size = int(request.query_params.get("cursor", 0)), min(size or hub.page_size, hub.page_size)
    query = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
    following = f"{hub.endpoint}{request.scope['path']}?{urlencode([*query, ('cursor', start + size)])}"
    headers = {"Link": f'<{following}>; rel="next"'} if start + size < len(items) else {}
    return JSONResponse(items[start : start + size], headers=headers)


async def pager(request: Request, hub: Hub) -> Callable[..., Response]:
    return functools.partial(page, request, hub)


Paged = Annotated[Callable[..., Response], Depends(pager)]


# --- Accounts, repositories, cards -----------------------------------------------------------------------------------

router = APIRouter()
Payload = dict[str, Any]


@router.get("/api/whoami-v2")
async def whoami(account: Asker) -> Payload:
    if account is None:
        raise HubError(401, "Invalid username or password.")
    orgs = [{"type": "org", "name": org, "fullname": org, "roleInOrg": "write"} for org in account.orgs]
    token = {"displayName": "loopback", "role": account.role}
    auth = {"type": "access_token", "accessToken": token}
    return {"type": "user", "name": account.name, "fullname": account.name, "orgs": orgs, "auth": auth}


@router.post("/api/repos/create")
async def create_repo(hub: Hub, account: Asker, payload: Payload) -> Payload:
    repo_type, repo_id = payload.get("type", "model"), _named(account, payload)
    author = writer(account, repo_id.split("/")[0]).name
    where = {"url": f"{hub.endpoint}/{WEB_PREFIX[f'{repo_type}s']}{repo_id}", "name": repo_id}
    if (f"{repo_type}s", repo_id) in hub.repos:
        raise HubError(409, f"You already created this {repo_type} repo: {repo_id}", **where)
    settings = {"visibility": payload.get("visibility", "public"), "sdk": payload.get("sdk")}
    variables = {variable["key"]: _variable(variable) for variable in payload.get("variables", [])}
    hub.create(repo_id, _first_files(settings["sdk"]), repo_type, author, variables=variables, **settings)
    return where


def _named(account: Account | None, payload: Payload) -> str:
    """The full id of the repository that a request names; without a namespace it is the asker's own."""
    return f"{payload.get('organization') or (account.name if account else '')}/{payload['name']}"


def _first_files(sdk: str | None) -> dict[str, bytes]:
    """No repository on the Hub is empty; a new Space has a card already, which nobody wrote."""
    large = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES)
    card = f"---\ntitle: New\ncolorFrom: blue\ncolorTo: pink\nsdk: {sdk}\n---\n"
    return {".gitattributes": large.encode()} | ({"README.md": card.encode()} if sdk else {})


@router.delete("/api/repos/delete")
async def delete_repo(hub: Hub, account: Asker, payload: Payload) -> Payload:
    repo_id = _named(account, payload)
    repo = await readable(hub, account, *repo_id.split("/"), f"{payload.get('type', 'model')}s")
    writer(account, repo.namespace)
    del hub.repos[repo.kind, repo.id]
    return {}


@router.post("/api/validate-yaml")
async def validate_yaml(payload: Payload) -> Response:
    errors, warnings = [], []
    try:
        metadata = card_metadata(payload["content"])
        errors = _card_errors(metadata)
        warnings = [] if metadata else ["empty or missing yaml metadata in repo card"]
    except ValueError as error:
        errors = [str(error)]
    found = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
    return JSONResponse(found, 400 if errors else 200)


def card_metadata(card: str) -> Payload:
    """The front matter of a README.md; ValueError where it cannot be read."""
    front = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*$", card, re.DOTALL | re.MULTILINE)
    try:
        metadata = yaml.safe_load(front[1] if front else "") or {}
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(metadata, dict):
        raise ValueError("the front matter is no mapping")
    return metadata


def _card_errors(metadata: Payload) -> list[str]:
    """Some of the rules of the Hub that are easily broken."""
    tags = metadata.get("tags", [])
    checks = {
        '"tags" must be an array of strings': isinstance(tags, list) and all(isinstance(tag, str) for tag in tags),
        '"short_description" is longer than 60 characters': len(metadata.get("short_description", "")) <= 60,
    }
    for name in ("colorFrom", "colorTo"):
        checks[f'"{name}" must be one of {sorted(CARD_COLOURS)}'] = metadata.get(name, "red") in CARD_COLOURS
    return [message for message, kept in checks.items() if not kept]


# --- Writing ---------------------------------------------------------------------------------------------------------


@router.post("/api/{kind}/{namespace}/{name}/preupload/{revision}")
async def preupload(repo: Writable, commit: At, payload: Payload) -> Payload:
    """How each file is to be sent; the `oid` of the one in its place lets the client skip what did not change."""
    answers = []
    for file in payload["files"]:
        path, present = file["path"], commit.files.get(file["path"])
        answers.append({"path": path, "uploadMode": "lfs" if is_large(path, file["size"]) else "regular"})
        answers[-1] |= {"shouldIgnore": False} | ({"oid": present.etag} if present else {})
    return {"files": answers, "commitOid": commit.oid}


@router.post("/{namespace}/{name}.git/info/lfs/objects/batch")
@router.post("/{kind}/{namespace}/{name}.git/info/lfs/objects/batch")
async def lfs_batch(hub: Hub, repo: Writable, payload: Payload) -> Payload:
    """Where to send large files; one without actions is there already."""
    objects = []
    for wanted in payload["objects"]:
        place = {"href": f"{hub.endpoint}/lfs/{wanted['oid']}"}
        actions = {"upload": place, "verify": {"href": f"{place['href']}/verify"}}
        objects.append(wanted if hub.place(wanted["oid"]).exists() else {**wanted, "actions": actions})
        hub.announced.add(wanted["oid"])
    return {"transfer": "basic", "objects": objects}


@router.put("/lfs/{sha256}")
async def lfs_upload(hub: Hub, sha256: str, request: Request) -> Response:
    if sha256 not in hub.announced:
        raise HubError(403, "No batch request announced this file")
    partial, digest = hub.place(f"{sha256}.{secrets.token_hex(4)}.part"), hashlib.sha256()
    with contextlib.closing(partial.open("wb")) as file:
        async for chunk in request.stream():
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        partial.unlink()
        raise HubError(400, "The bytes received have another SHA-256")
    partial.replace(hub.place(sha256))
    return Response()


@router.post("/lfs/{sha256}/verify")
async def lfs_verify(hub: Hub, account: Asker, sha256: str, payload: Payload) -> Payload:
    if hub.large(sha256).size != payload["size"]:
        raise HubError(400, "The file received has another size")
    return {}


@router.get("/api/{kind}/{namespace}/{name}/xet-write-token/{revision}")
async def xet_write_token(hub: Hub, repo: Writable) -> Response:
    """Directs the client's own Xet library to a store on the disk."""
    access = {"casUrl": f"local://{hub.folder / 'xet'}", "accessToken": "any", "exp": int(time.time()) + 3600}
    names = ("X-Xet-Cas-Url", "X-Xet-Access-Token", "X-Xet-Token-Expiration")
    headers = {name: str(value) for name, value in zip(names, access.values(), strict=True)}
    return JSONResponse(access, headers=headers)


@router.post("/api/{kind}/{namespace}/{name}/commit/{revision}")
async def commit_files(hub: Hub, account: Asker, repo: Writable, branch: Branch, request: Request) -> Payload:
    if "create_pr" in request.query_params:
        raise HubError(400, "Pull requests are not supported here")
    lines = [json.loads(line) for line in (await request.body()).splitlines()]
    header = lines[0]["value"]
    head = repo.branches[branch]
    if header.get("parentCommit", head) != head:
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repo.commits[head].files)
    for line in lines[1:]:
        _change(hub, files, line["key"], line["value"])
    commit = repo.commit(branch, files, header["summary"], header.get("description", ""), account.name)
    url = f"{hub.endpoint}/{WEB_PREFIX[repo.kind]}{repo.id}/commit/{commit.oid}"
    return {"success": True, "commitOid": commit.oid, "commitUrl": url}


def _change(hub: LoopbackHub, files: dict[str, Blob], kind: str, value: Payload) -> None:
    """Apply one operation of a commit to the snapshot."""
    path = value["path"]
    match kind:
        case "file":
            files[path] = _sent_inline(hub, path, base64.b64decode(value["content"]))
        case "lfsFile":
            files[path] = hub.large(value["oid"])
        case "deletedFile" | "deletedFolder":
            inside = path if kind == "deletedFile" else path.rstrip("/") + "/"
            gone = [name for name in files if name == path or (kind == "deletedFolder" and name.startswith(inside))]
            if not gone:
                raise HubError(404, f"{path} is not there to be deleted", "EntryNotFound")
            for name in gone:
                del files[name]
        case _:
            raise HubError(400, f"Unknown operation {kind}")


def _sent_inline(hub: LoopbackHub, path: str, content: bytes) -> Blob:
    if path == "README.md":
        try:
            card_metadata(content.decode())
        except ValueError as error:
            raise HubError(400, f"Invalid metadata in README.md: {error}") from error
    return hub.store(path, content)


@router.post("/api/{kind}/{namespace}/{name}/branch/{new}")
async def create_branch(repo: Writable, new: str, payload: Payload) -> Payload:
    start = await at_revision(repo, payload.get("startingPoint", "main"))
    return _create_ref(repo.branches, unquote(new), start)


@router.post("/api/{kind}/{namespace}/{name}/tag/{revision}")
async def create_tag(repo: Writable, commit: At, payload: Payload) -> Payload:
    return _create_ref(repo.tags, payload["tag"], commit)


def _create_ref(refs: dict[str, str], name: str, commit: Commit) -> Payload:
    if name in refs:
        raise HubError(409, f"Reference already exists: {name}")
    refs[name] = commit.oid
    return {}


@router.delete("/api/{kind}/{namespace}/{name}/{what}/{old}")
async def delete_ref(repo: Writable, what: str, old: str) -> Payload:
    refs = {"branch": repo.branches, "tag": repo.tags}.get(what, {})
    if what == "branch" and old == "main":
        raise HubError(403, "The main branch cannot be deleted")
    if refs.pop(unquote(old), None) is None:
        raise HubError(404, f"Reference not found: {old}", "RevisionNotFound")
    return {}


@router.put("/api/{kind}/{namespace}/{name}/settings")
async def settings(repo: Writable, payload: Payload) -> Payload:
    repo.gated = payload.get("gated", repo.gated)
    repo.visibility = payload.get("visibility", repo.visibility)
    return {}


# --- Space variables and collections ---------------------------------------------------------------------------------


def _variable(payload: Payload) -> Payload:
    return {"value": payload["value"], "description": payload.get("description"), "updatedAt": now()}


@router.get("/api/spaces/{namespace}/{name}/variables")
async def space_variables(hub: Hub, account: Asker, namespace: str, name: str) -> Payload:
    return (await writable(account, await readable(hub, account, namespace, name, "spaces"))).variables


@router.post("/api/spaces/{namespace}/{name}/variables")
async def set_space_variable(hub: Hub, account: Asker, namespace: str, name: str, payload: Payload) -> Payload:
    variables = await space_variables(hub, account, namespace, name)
    variables[payload["key"]] = _variable(payload)
    return variables


@router.get("/api/collections")
async def list_collections(request: Request, hub: Hub, account: Asker, paged: Paged, limit: int = 0) -> Response:
    """As in the Hub, a listed collection shows its first four items only."""
    owners = request.query_params.getlist("owner")
    shown = [c for c in hub.collections.values() if not owners or c["owner"]["name"] in owners]
    shown = [c for c in shown if not c["private"] or (account and account.owns(c["owner"]["name"]))]
    listed = [{**collection, "items": collection["items"][:4]} for collection in shown]
    for collection in listed:
        del collection["position"]  # the client counts for itself
    return paged(listed, limit)


@router.post("/api/collections")
async def create_collection(hub: Hub, account: Asker, payload: Payload) -> Payload:
    title, namespace = payload["title"], payload["namespace"]
    writer(account, namespace)
    for slug, present in hub.collections.items():
        if (present["title"], present["owner"]["name"]) == (title, namespace):
            raise HubError(409, f"Collection already exists: {title}", slug=slug)
    slug = f"{namespace}/{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}-{secrets.token_hex(12)}"
    collection = {"slug": slug, "title": title, "description": payload.get("description"), "items": []}
    collection |= {"owner": {"name": namespace, "type": "user"}, "lastUpdated": now(), "theme": "blue"}
    collection |= {"private": payload.get("private", False), "position": len(hub.collections), "upvotes": 0}
    return hub.collections.setdefault(slug, collection)


@router.get("/api/collections/{namespace}/{slug}")
async def collection(hub: Hub, account: Asker, namespace: str, slug: str) -> Payload:
    found = hub.collections.get(f"{namespace}/{slug}")
    if found is None or (found["private"] and not (account and account.owns(namespace))):
        raise HubError(404, "Collection not found")
    return found


@router.post("/api/collections/{namespace}/{slug}/items")
async def add_collection_item(hub: Hub, account: Asker, namespace: str, slug: str, payload: Payload) -> Payload:
    changed, item = await collection(hub, account, namespace, slug), payload["item"]
    writer(account, namespace)
    if (f"{item['type']}s", item["id"]) not in hub.repos:
        raise HubError(404, f"{item['type']} {item['id']} not found")
    if any((present["id"], present["type"]) == (item["id"], item["type"]) for present in changed["items"]):
        raise HubError(409, "Item already in the collection")
    note = {"note": {"text": payload["note"]}} if "note" in payload else {}
    changed["items"].append({**item, "_id": secrets.token_hex(12), "position": len(changed["items"]), **note})
    return changed


# --- Reading ---------------------------------------------------------------------------------------------------------


def card_of(hub: LoopbackHub, commit: Commit) -> Payload:
    """The front matter as JSON can hold it (dates become text); nothing of a card that cannot be read."""
    if "README.md" not in commit.files:
        return {}
    card = hub.place(commit.files["README.md"].sha256).read_bytes()
    try:
        return json.loads(json.dumps(card_metadata(card.decode()), default=str))
    except ValueError:
        return {}


def _tags(card: Payload) -> list[str]:
    prefixed = {"license": "license", "datasets": "dataset", "base_model": "base_model"}
    named = {f"{prefix}:{value}" for key, prefix in prefixed.items() for value in _listed(card.get(key))}
    return list(dict.fromkeys([*_listed(card.get("library_name")), *_listed(card.get("tags")), *sorted(named)]))


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def described(hub: LoopbackHub, repo: Repo, commit: Commit, sizes: bool = False) -> Payload:
    """All that is known about a repository."""
    card, created = card_of(hub, commit), repo.history(commit)[-1].date
    info = {"id": repo.id, "author": repo.namespace, "sha": commit.oid, "lastModified": commit.date, "likes": 0}
    info |= {"createdAt": created, "private": repo.visibility != "public", "gated": repo.gated, "downloads": 0}
    info |= {"siblings": [_sibling(path, blob, sizes) for path, blob in sorted(commit.files.items())]}
    info |= {"tags": _tags(card), "cardData": card, "pipeline_tag": card.get("pipeline_tag"), "disabled": False}
    return info | ({"sdk": repo.sdk} if repo.sdk else {"modelId": repo.id, "library_name": card.get("library_name")})


def _sibling(path: str, blob: Blob, sizes: bool) -> Payload:
    entry = {"rfilename": path} | ({"size": blob.size, "blobId": blob.git_oid} if sizes else {})
    if sizes and blob.pointer_size:
        entry["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}
    return entry


def only(info: Payload, names: Iterable[str]) -> Payload:
    return {name: info[name] for name in info if name in names}


@router.get("/api/{kind}")
async def list_repos(request: Request, hub: Hub, account: Asker, paged: Paged, kind: str, limit: int = 0) -> Response:
    """Those that the asker may see and that match all filters; without their commits, unless asked for."""
    if kind not in WEB_PREFIX:
        raise HubError(404, f"No such list: {kind}")
    visible = [repo for repo in hub.repos.values() if repo.kind == kind and may_see(account, repo)]
    infos = [described(hub, repo, repo.resolve("main")) for repo in visible]
    infos = [info for info in infos if _fits(info, request.query_params)]
    expand = request.query_params.getlist("expand")
    if expand or "full" not in request.query_params:
        infos = [only(info, {"id", *expand} if expand else INFO_WHEN_LISTED) for info in infos]
    return paged(infos, limit)


def _fits(info: Payload, query: QueryParams) -> bool:
    known = {*info["tags"], info["pipeline_tag"]}
    searched = query.get("search", "").lower() in info["id"].lower()
    return searched and query.get("author") in (None, info["author"]) and known.issuperset(query.getlist("filter"))


@router.get("/api/{kind}/{namespace}/{name}")
@router.get("/api/{kind}/{namespace}/{name}/revision/{revision}")
async def repo_info(request: Request, hub: Hub, repo: Readable, commit: At) -> Payload:
    info = described(hub, repo, commit, "blobs" in request.query_params)
    expand = request.query_params.getlist("expand")
    return only(info, {"id", *expand}) if expand else info


@router.get("/api/{kind}/{namespace}/{name}/auth-check", dependencies=[Depends(ungated)])
async def auth_check() -> Payload:
    return {}


@router.get("/api/{kind}/{namespace}/{name}/refs")
async def refs(repo: Readable) -> Payload:
    def listed(place: str, refs: dict[str, str]) -> list[Payload]:
        return [{"name": name, "ref": f"refs/{place}/{name}", "targetCommit": oid} for name, oid in refs.items()]

    return {"branches": listed("heads", repo.branches), "tags": listed("tags", repo.tags), "converts": []}


@router.get("/api/{kind}/{namespace}/{name}/commits/{revision}")
async def commits(paged: Paged, repo: Readable, commit: At) -> Response:
    def listed(commit: Commit) -> Payload:
        words = {"title": commit.title, "message": commit.message, "date": commit.date}
        return {"id": commit.oid, "authors": [{"user": commit.author}], **words}

    return paged([listed(commit) for commit in repo.history(commit)], 50)


@router.get("/api/{kind}/{namespace}/{name}/tree/{revision}")
@router.get("/api/{kind}/{namespace}/{name}/tree/{revision}/{path:path}")
async def tree(
    paged: Paged, repo: Readable, commit: At, path: str = "", recursive: bool = False, expand: bool = False
) -> Response:
    folder = f"{unquote(path).rstrip('/')}/" if path else ""
    inside = [entry for entry in _entries(repo, commit, expand) if entry["path"].startswith(folder)]
    if path and not inside:
        raise HubError(404, f"{unquote(path)} does not exist", "EntryNotFound", {"X-Repo-Commit": commit.oid})
    shown = [entry for entry in inside if recursive or "/" not in entry["path"].removeprefix(folder)]
    return paged(shown, 50 if expand else 1000)


def _entries(repo: Repo, commit: Commit, expand: bool) -> list[Payload]:
    """All files and folders of a commit, as tree listings show them."""
    folders = {str(parent) for path in commit.files for parent in Path(path).parents} - {"."}
    entries = [_file_entry(repo, commit, path, expand) for path in commit.files]
    for folder in folders:
        entries.append({"type": "directory", "path": folder, "size": 0, "oid": Blob._git(folder.encode())})
    return sorted(entries, key=lambda entry: entry["path"])


def _file_entry(repo: Repo, commit: Commit, path: str, expand: bool) -> Payload:
    blob = commit.files[path]
    entry = {"type": "file", "path": path, "size": blob.size, "oid": blob.git_oid}
    if blob.pointer_size:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}
    if expand:
        last = repo.last_change(commit, path)
        entry["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
    return entry


@router.post("/api/{kind}/{namespace}/{name}/paths-info/{revision}")
async def paths_info(request: Request, repo: Readable, commit: At) -> list[Payload]:
    """Paths that do not exist are left out without a word."""
    form = await request.form()
    entries = _entries(repo, commit, form.get("expand") == "true")
    return [entry for entry in entries if entry["path"] in form.getlist("paths")]


GATED = [Depends(ungated)]
METHODS = ["GET", "HEAD"]


@router.api_route("/{namespace}/{name}/resolve/{revision}/{path:path}", methods=METHODS, dependencies=GATED)
@router.api_route("/{kind}/{namespace}/{name}/resolve/{revision}/{path:path}", methods=METHODS, dependencies=GATED)
async def resolve(hub: Hub, commit: At, path: str) -> Response:
    """A file's bytes, or the range of them that was asked for, or just its headers."""
    headers = {"X-Repo-Commit": commit.oid}
    if not (blob := commit.files.get(unquote(path))):
        raise HubError(404, "Entry not found", "EntryNotFound", headers)
    headers["ETag"] = f'"{blob.etag}"'
    if blob.pointer_size:
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(blob.size)}
    return FileResponse(hub.place(blob.sha256), headers=headers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--folder", type=Path, required=True, help="where the files' bytes go")
    args = parser.parse_args()
    with LoopbackHub(args.folder, bound(args.port)) as hub, contextlib.suppress(KeyboardInterrupt):
        print(f"HF_ENDPOINT={hub.endpoint}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
