"""A log of inspections that can be trusted: every line carries the hash of the one before.

    FOLDER/000001.jsonl     one JSON object a line; a full file is followed by the next number
    FOLDER/end.json         number and hash of the last line

So a line that was changed, left out, or exchanged is found, and lost lines at the end are, too. Who may write to the
folder could write the whole log again: keep the hash of the last line, which `verify` returns, in another place now
and then. A line is on the disk before `add` returns. A crash loses at most the line that is being written.

Several processes may write to one log.
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TextIO

from filelock import FileLock

START = "0" * 64  # the hash before the first line
LARGEST = 64_000_000  # bytes of a file, about 50,000 inspections
BLOCK = 65_536  # bytes that are read at the end of a file at first
END_FILE, LOCK_FILE = "end.json", ".lock"
LOST = "lost_line"  # event after a crash
# A spreadsheet would compute such a cell. Another country's spreadsheet begins a new cell at another mark.
FORMULA = re.compile(r'(?:^|(?<=[,;\t\r\n]))(?="*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20])')


class LogError(ValueError):
    """A log is not as it was written; the message names the file and the line."""


class End(NamedTuple):
    """Where a log ends: the number of lines, and the hash of the last one."""

    lines: int
    sha256: str


@dataclass(frozen=True)
class InspectionLog:
    """The log in a folder, which is made if it is not there.

    Args:
        largest: bytes from which on a file is full.
    """

    folder: Path
    largest: int = LARGEST

    def add(self, event: str, record: Mapping[str, object]) -> End:
        """Writes one line with its number, the time, the event, and what belongs to it.

        Raises:
            LogError: the last line is not the one that was written last.
            OSError: the disk is full, or the folder cannot be written; the log stays as it was.
        """
        with self.lock():
            path = next(reversed(self.files()), self.folder / f"{1:06}.jsonl")
            end, unfinished = self.end(), tail_of(path)[1]
            if unfinished:
                os.truncate(path, path.stat().st_size - unfinished)
                end = self._write(path, end, LOST, {"bytes": unfinished})
            if path.exists() and path.stat().st_size >= self.largest:
                path = self.folder / f"{int(path.stem) + 1:06}.jsonl"
            return self._write(path, end, event, record)

    def lock(self) -> FileLock:
        """For a short time in which nobody else writes; makes the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / LOCK_FILE)

    def end(self) -> End:
        """The kept end; or the line after it, if a crash came before its end was kept. Only for who has the lock.

        Raises:
            LogError: the last line is not the one that was written last.
        """
        kept = self._kept()
        tails = (tail_of(path)[0] for path in reversed(self.files()))
        last = next(filter(None, tails), None)
        if last is None or kept.sha256 == hash_of(last):
            return kept
        if place_of(last) == (kept.lines + 1, kept.sha256):
            return End(kept.lines + 1, hash_of(last))
        raise LogError(
            f"{self.folder}: the last line was changed or is missing: move the folder, and a new log begins"
        )

    def lines(self) -> Iterator[dict]:
        """All whole lines, the oldest first, unchecked."""
        for path in self.files():
            for line in whole_lines(path):
                yield json.loads(line)

    def verify(self, sha256: str | None = None) -> End:
        """Reads the whole log; returns its end.

        Args:
            sha256: of a line that was noted earlier, and has to be there.

        Raises:
            LogError: a line was changed, left out, added or exchanged, or the noted one is missing.
        """
        before = found = End(0, START)
        is_there = sha256 in (None, START)
        for path in self.files():
            for number, line in enumerate(whole_lines(path), 1):
                before, found = found, End(found.lines + 1, hash_of(line))
                if place_of(line) != (found.lines, before.sha256):
                    raise LogError(f"{path}, line {number}: it, or the line before, was changed or is missing")
                is_there = is_there or found.sha256 == sha256
        kept = self._kept()
        if kept not in (found, before):  # after a crash, a line can be there whose end was not kept
            lost = f"it has {found.lines} lines, but {kept.lines} were written"
            raise LogError(f"{self.folder}: {lost if found.lines != kept.lines else 'its last line was changed'}")
        if not is_there:
            raise LogError(f"{self.folder}: no line has the hash {sha256}: the log was written again, or is another")
        return found

    def files(self) -> list[Path]:
        """The files, the oldest first."""
        return sorted(path for path in self.folder.glob("*.jsonl") if path.stem.isdigit())

    def _write(self, path: Path, end: End, event: str, record: Mapping[str, object]) -> End:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        head = {"line": end.lines + 1, "previous": end.sha256, "time": now, "event": event}
        line = json.dumps(head | dict(record), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        whole = path.stat().st_size if path.exists() else 0
        try:
            _append(path, line)
            end = End(end.lines + 1, hash_of(line))
            self._keep(end)
        except OSError:
            if path.exists():
                os.truncate(path, whole)
            raise
        return end

    def _keep(self, end: End) -> None:
        write_whole(self.folder / END_FILE, json.dumps(end).encode())

    def _kept(self) -> End:
        path = self.folder / END_FILE
        try:
            return End(*json.loads(path.read_text(encoding="utf-8"))) if path.exists() else End(0, START)
        except (ValueError, TypeError) as error:
            raise LogError(f"{path} was changed ({error})") from error


def export_csv(log: InspectionLog, file: TextIO) -> None:
    """Writes all lines as a table, nested values as JSON.

    The columns are all keys, in the order in which they first occur.
    """
    columns = list(dict.fromkeys(key for line in log.lines() for key in line))
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in line.items()} for line in log.lines())


def _cell(value: object) -> object:
    return without_formula(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def without_formula(text: str) -> str:
    """A cell that a spreadsheet shows as it is, and does not run."""
    return FORMULA.sub("'", text)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file; after a crash it is the old one or the new one."""
    new = path.with_name(f".{path.name}")
    new.unlink(missing_ok=True)
    _append(new, content)
    new.replace(path)


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def tail_of(path: Path) -> tuple[bytes | None, int]:
    """The last whole line of a file, and how many bytes an unfinished one has behind it; reads no more than needed."""
    size, block = path.stat().st_size if path.exists() else 0, BLOCK
    while size:
        with path.open("rb") as file:
            file.seek(max(0, size - block))
            content = file.read()
        whole = content.rfind(b"\n") + 1
        begin = content.rfind(b"\n", 0, whole - 1) + 1 if whole else 0
        if begin or block >= size:
            return content[begin:whole] or None, len(content) - whole
        block *= 2
    return None, 0


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, without one that is still being written."""
    with path.open("rb") as file:
        yield from (line for line in file if line.endswith(b"\n"))


def place_of(line: bytes) -> tuple[int, str] | None:
    """Number of a line, and hash of the one before."""
    try:
        values = json.loads(line)
        return values["line"], values["previous"]
    except (ValueError, TypeError, KeyError):
        return None


def hash_of(line: bytes) -> str:
    """SHA-256 of a line with its end, in hexadecimal digits."""
    return hashlib.sha256(line).hexdigest()
