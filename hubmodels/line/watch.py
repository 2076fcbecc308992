"""Judges the pictures that arrive in a folder, each once, whenever the program is stopped, killed, or started again.

The log is the memory: a picture is judged as soon as its line is on the disk. Nothing else is kept, so that nothing is
judged twice or lost. A picture is known by its bytes. If it is renamed or copied, the log says where it came from. A
file that was replaced by another picture is judged again.

The folder is read again and again, which also works on network shares, where changes are not announced.
"""

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hubmodels.folders import is_picture, is_visible
from hubmodels.line.line import Line, sha256_of

logger = logging.getLogger(__name__)

SETTLED = 1.0  # seconds without a change after which a file counts as written
PATIENCE = 30.0  # seconds without a change after which a picture that cannot be read is not awaited any more
SCANNING = 0.25  # share of the time that may be spent on reading the folder
RETRY = 5.0  # seconds after which the log is tried again, for example where the disk is full


class State(NamedTuple):
    """What tells that a file was not changed: bytes, and time of the last change in nanoseconds."""

    size: int
    changed: int


@dataclass
class FolderWatch:
    """The pictures of a folder, in the order in which they were written.

    Args:
        folder: with all folders in it, except hidden ones, and those of the line's log and overlays.
        line: judges, and has a log.
        sidecar: whether to write each result next to its picture, as `PICTURE.json`.
    """

    folder: Path
    line: Line
    sidecar: bool = False
    _known: dict[str, State] = field(default_factory=dict)  # by path in the folder
    _judged: dict[str, str] = field(default_factory=dict)  # path by SHA-256
    _seen: dict[str, tuple[State, float]] = field(default_factory=dict)  # not judged yet, and since when it is so

    def __post_init__(self) -> None:
        if self.line.log is None:
            raise ValueError("watching a folder needs a log, which remembers what was judged")
        for entry in self.line.log.lines():
            if "file" in entry:
                self._known[entry["picture"]] = State(*entry["file"])
                self._judged.setdefault(entry.get("sha256"), entry["picture"])
        own = (self.line.overlays, self.line.log.folder)
        self._left_out = {os.path.realpath(place) for place in own if place}

    def run(self, interval: float = 1.0) -> Iterator[dict]:
        """Results without end. Where the folder cannot be read, or a line cannot be written, it is tried again."""
        while True:
            begun = time.monotonic()
            try:
                ready, failure = self.ready(), None
            except OSError as error:
                ready, failure = [], f"{self.folder} cannot be read ({error.strerror or error})"
            scanned = time.monotonic() - begun
            yield from self._judge_all(ready)
            if failure:
                logger.warning("%s: trying again", failure)
            time.sleep(max(interval, scanned / SCANNING, RETRY if failure else 0))

    def ready(self) -> list[str]:
        """Paths in the folder of new files that are not being written any more, the oldest first.

        Raises:
            OSError: the folder cannot be read.
        """
        now, found = time.monotonic(), {}
        for path, state in self._files(self.folder):
            if self._known.get(path) != state:
                before = self._seen.get(path)
                found[path] = before if before and before[0] == state else (state, now)
        self._seen = found
        settled = [path for path, (_, since) in found.items() if now - since >= SETTLED]
        return sorted(settled, key=lambda path: (found[path][0].changed, path))

    def judge(self, path: str) -> dict | None:
        """Judges a file; None if it is gone, still being written, or known under another name.

        Raises:
            OSError, LogError: the result cannot be written; the file stays to be judged.
        """
        state, since = self._seen[path]
        try:
            content = (self.folder / path).read_bytes()
            if _state((self.folder / path).stat()) != state:
                return None  # it was changed meanwhile
        except OSError:
            return None  # gone, or locked by who writes it: the next scan says
        sha256 = sha256_of(content)
        if sha256 in self._judged:
            self._keep(path, state, {"picture": path, "sha256": sha256, "same_as": self._judged[sha256]})
            return None
        record = self.line.inspect(path, content)
        if "error" in record and time.monotonic() - since < PATIENCE:
            return None
        if self.sidecar:
            _write(self.folder / f"{path}.json", record)
        self._keep(path, state, record | {"sha256": sha256})
        self._judged[sha256] = path
        return record

    def _judge_all(self, paths: list[str]) -> Iterator[dict]:
        for path in paths:
            while True:
                try:
                    record = self.judge(path)
                    break
                except OSError as error:
                    logger.error("%s: the result cannot be written (%s): trying again in %.0f s", path, error, RETRY)
                    time.sleep(RETRY)
            if record:
                yield record

    def _keep(self, path: str, state: State, record: dict) -> None:
        self.line.keep(record | {"file": state})
        self._known[path] = state
        self._seen.pop(path, None)

    def _files(self, place: Path) -> Iterator[tuple[str, State]]:
        with os.scandir(place) as entries:
            for entry in entries:
                if not is_visible(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):  # a link may lead in circles
                    if os.path.realpath(entry.path) not in self._left_out:
                        yield from self._files(Path(entry.path))
                elif is_picture(Path(entry.name)):
                    try:
                        yield os.path.relpath(entry.path, self.folder), _state(entry.stat())
                    except FileNotFoundError:  # moved meanwhile
                        continue


def _state(stat: os.stat_result) -> State:
    return State(stat.st_size, stat.st_mtime_ns)


def _write(path: Path, record: dict) -> None:
    new = path.with_name(f".{path.name}")
    new.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")
    new.replace(path)
