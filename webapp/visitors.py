"""Whose parts the page shows: on one's own computer those of everybody, on a Space only the visitor's.

Each tab asks for the workplace of a request. On a Space a workplace belongs to one visitor. Its pictures and models
are in a folder that only this process reads, and nobody else can list, choose or load them.
"""

import secrets
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr

from hubmodels.comparison import CategoryAppearance
from hubmodels.detector import AnomalyDetector
from hubmodels.hub.catalog import Catalog, ModelEntry, list_own
from webapp.corrections import Corrections
from webapp.page_log import PageLog
from webapp.teaching import Queue, Teacher

GONE = 60  # seconds after which the lessons of a visitor who left end; a connection can break for a moment
AWAY = 600  # seconds in which a visitor finds the parts again: a login leaves the page
ASLEEP = 86400  # seconds without an event after which an open page counts as left


class LayeredCatalog:
    """A visitor's models above the shared ones; the page uses it like a `Catalog`.

    Each layer loads and keeps its own models, so that shared models are in memory once. A category of the visitor
    hides a shared one of the same name.
    """

    def __init__(self, own: Catalog, shared: Catalog) -> None:
        self._own, self._shared = own, shared

    @property
    def entries(self) -> list[ModelEntry]:
        """As `Catalog.entries`."""
        hidden = set(self._own.categories())
        entries = [*self._own.entries, *(e for e in self._shared.entries if e.label not in hidden)]
        return sorted(entries, key=lambda entry: entry.label)  # stable: methods keep their order

    @property
    def problems(self) -> dict[str, str]:
        """As `Catalog.problems`."""
        return self._shared.problems | self._own.problems

    @property
    def notices(self) -> list[str]:
        """As `Catalog.notices`."""
        return [*self._own.notices, *self._shared.notices]

    @property
    def is_local(self) -> bool:
        """As `Catalog.is_local`."""
        return self._shared.is_local

    def categories(self) -> list[str]:
        """As `Catalog.categories`."""
        return list(dict.fromkeys(entry.label for entry in self.entries))

    def refresh(self, older_than: float = 0) -> None:
        """Lists the visitor's models. Lists the shared ones only with a limit of age, because the Hub is slow."""
        self._own.refresh()
        if older_than:
            self._shared.refresh(older_than)

    def load(self, label: str) -> dict[str, AnomalyDetector]:
        """As `Catalog.load`."""
        return (self._own if label in self._own.categories() else self._shared).load(label)

    def appearances(self) -> dict[str, CategoryAppearance]:
        """As `Catalog.appearances`."""
        return self._shared.appearances() | self._own.appearances()


@dataclass(frozen=True, eq=False)
class Workplace:
    """What a request may see and change; without a teacher nothing can be taught or corrected."""

    catalog: Catalog | LayeredCatalog
    teacher: Teacher | None = None
    corrections: Corrections | None = None
    log: PageLog = field(default_factory=PageLog)

    @classmethod
    def of(cls, teacher: Teacher, log: PageLog | None = None) -> "Workplace":
        """The workplace around a teacher."""
        log = log or PageLog()
        return cls(teacher.catalog, teacher, Corrections(teacher, log), log)


class Everybody:
    """One workplace, which all visitors share: the page on one's own computer, or without teaching."""

    private = False  # whether a visitor's parts are hidden from others

    def __init__(self, catalog: Catalog, teacher: Teacher | None = None, log: PageLog | None = None) -> None:
        self.teaches, log = teacher is not None, log or PageLog()
        self._workplace = Workplace.of(teacher, log) if teacher else Workplace(catalog, log=log)

    def of(self, request: gr.Request | None) -> Workplace:
        """The workplace of a request."""
        return self._workplace

    def arrive(self, request: gr.Request, key: str | None) -> str | None:
        """Nobody needs a key here."""

    def leave(self, request: gr.Request) -> None:
        """A lesson goes on without the visitor, whose computer it is."""

    def delete_old(self, age_s: float) -> None:
        """Nothing is deleted here."""


@dataclass(eq=False)
class _Guest:
    """A visitor: the workplace with its folder, the open sessions (tabs), and when the last event was."""

    folder: Path
    workplace: Workplace
    sessions: set[str] = field(default_factory=set)
    seen: float = field(default_factory=time.monotonic)


class Visitors:
    """A workplace for each visitor.

    The browser keeps a key. With it a visitor comes back after a login or a reload, which begin a new session.

    Args:
        shared: the models that everybody sees.
        folder: where the visitors' folders are made; nothing else is in it.
    """

    private, teaches = True, True

    def __init__(self, shared: Catalog, folder: Path) -> None:
        self._shared, self._folder, self._queue = shared, folder, Queue()
        self._nobody = Workplace(shared)
        self._guests: dict[str, _Guest] = {}  # by key
        self._keys: dict[str, str] = {}  # by session
        self._lock = threading.Lock()

    def of(self, request: gr.Request | None) -> Workplace:
        """The workplace of a request; for programs, which have no session, the shared models alone."""
        session = getattr(request, "session_hash", None)
        if not session:
            return self._nobody
        with self._lock:
            return self._enter(session).workplace

    def arrive(self, request: gr.Request, key: str | None) -> str:
        """A session begins; returns the key of its workplace, which is another one if the given key is unknown."""
        with self._lock:
            self._enter(request.session_hash, key)
            return self._keys[request.session_hash]

    def leave(self, request: gr.Request) -> None:
        """A session ends."""
        with self._lock:
            if guest := self._guests.get(self._keys.get(request.session_hash, "")):
                guest.sessions.discard(request.session_hash)
                guest.seen = time.monotonic()

    def delete_old(self, age_s: float) -> None:
        """Deletes what nobody has added to for so long, and all of those who left; first it ends their lessons."""
        with self._lock:
            for key, guest in list(self._guests.items()):
                silent, teacher = time.monotonic() - guest.seen, guest.workplace.teacher
                if not guest.sessions and silent > GONE:
                    teacher.stop_all()
                if teacher.lessons():  # they use the files
                    continue
                if silent > (ASLEEP if guest.sessions else AWAY):
                    self._forget(key)
                elif _age(guest.folder) > age_s:
                    shutil.rmtree(guest.folder, ignore_errors=True)
                    guest.workplace = self._workplace(guest.folder)  # the old one keeps models in memory

    def _enter(self, session: str, key: str | None = None) -> _Guest:
        before = self._keys.get(session)
        if key not in self._guests:
            key = before or self._invite()
        elif before not in (None, key):  # an event came before the page had sent its key
            self._guests[before].sessions.discard(session)
        guest, self._keys[session] = self._guests[key], key
        guest.sessions.add(session)
        guest.seen = time.monotonic()
        return guest

    def _invite(self) -> str:
        """The key of a new guest."""
        key, folder = secrets.token_urlsafe(24), self._folder / secrets.token_hex(16)
        self._guests[key] = _Guest(folder, self._workplace(folder))
        return key

    def _workplace(self, folder: Path) -> Workplace:
        models = folder / "runs"
        catalog = LayeredCatalog(Catalog(lambda: list_own(models)), self._shared)
        return Workplace.of(Teacher(catalog, models, models / "pictures", self._queue))

    def _forget(self, key: str) -> None:
        shutil.rmtree(self._guests.pop(key).folder, ignore_errors=True)
        self._keys = {session: known for session, known in self._keys.items() if known != key}


def _age(folder: Path) -> float:
    """Seconds since something was last written into a folder; 0 if there is nothing."""
    written = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # deleted in the meantime
            written.append(path.stat().st_mtime)
    return time.time() - max(written) if written else 0.0
