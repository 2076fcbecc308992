"""The results in a log that an output has not received yet: the log is the queue, and only a position in it is kept.

    LOG/outputs/NAME.json    the last line that was delivered, and where the next one begins

So results are delivered in order, and after a restart or a crash at least once. Nothing is written twice. A result is
in the log before it can be delivered, so that none is lost. If too many wait, the oldest are not delivered any more.
They remain in the log.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hubmodels.line.log import (
    START,
    InspectionLog,
    LogError,
    hash_of,
    place_of,
    tail_of,
    whole_lines,
    write_whole,
)

logger = logging.getLogger(__name__)

FOLDER = "outputs"  # in the log's
RESULT = "inspection"  # event of the lines that are delivered
MOST_LINES, MOST_BYTES = 100_000, 200_000_000  # that may wait
BLOCK = 262_144  # bytes of lines that are read at a time


class Position(NamedTuple):
    """Behind a line of a log.

    Attributes:
        line, sha256: number and hash of that line; 0 and START = before the first one.
        file, offset: where the next line begins.
        skipped: how many results were never delivered, because too many waited.
    """

    line: int
    sha256: str
    file: str
    offset: int
    skipped: int = 0


class Waiting(NamedTuple):
    """A result with the number and the hash of its line, and the position behind it."""

    result: dict
    position: Position


@dataclass
class LogQueue:
    """What an output has not received yet. A new queue begins with the next result.

    Args:
        name: of the output, and of the file.
        most_lines, most_bytes: of the log, from its end; older results are skipped.

    Raises:
        LogError: the log, or the file with the position, is not as it was written.
        OSError: the position cannot be written.
    """

    log: InspectionLog
    name: str
    most_lines: int = MOST_LINES
    most_bytes: int = MOST_BYTES

    def __post_init__(self) -> None:
        self.file = self.log.folder / FOLDER / f"{self.name}.json"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.log.lock():
            if not self.file.exists():
                self.done(self._end())
        self.load()

    def load(self) -> None:
        """Reads the position, which another process may have changed. Raises LogError."""
        try:
            self.position = Position(**json.loads(self.file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise LogError(f"{self.file} was changed: delete it, and delivery begins with the next result") from error

    def done(self, position: Position) -> None:
        """Everything up to this position was delivered."""
        write_whole(self.file, json.dumps(position._asdict()).encode())
        self.position = position

    def next(self) -> list[Waiting]:
        """The oldest results that wait, but not all of them; too old ones are skipped.

        Raises:
            LogError: the log is not as it was written.
        """
        waiting: list[Waiting] = []
        before = self.position.skipped
        while not waiting and (lines := self._lines()):
            skipped = self.position.skipped
            for line, is_old, position in lines:
                result = _result(line)
                skipped += result is not None and is_old
                position = position._replace(skipped=skipped)
                if result and not is_old:
                    waiting.append(Waiting(result, position))
                elif not waiting:
                    self.position = position
        self._tell(self.position.skipped - before)
        return waiting

    def _tell(self, skipped: int) -> None:
        if skipped:
            self.done(self.position)
            total = f"{skipped} results are not delivered, {self.position.skipped} since the beginning"
            logger.warning("%s: too many results wait: the oldest %s; they are in the log", self.name, total)

    def _lines(self) -> list[tuple[bytes, bool, Position]]:
        """The next lines, whether they are too old, and the positions behind them."""
        if not self.log.files():
            return []
        if not self._is_there():
            self.position = self._found_again()
        lines = self._block()
        if lines and place_of(lines[0][0]) != (self.position.line + 1, self.position.sha256):
            self.position = self._found_again()
            lines = self._block()
        return lines

    def _is_there(self) -> bool:
        """Whether the file of the position is at least as long as it was."""
        path = self.log.folder / self.position.file
        return (path.stat().st_size if path.exists() else 0) >= self.position.offset

    def _block(self) -> list[tuple[bytes, bool, Position]]:
        with self.log.lock():  # a line that is being written may be taken back
            for path in self.log.files():
                if path.name >= self.position.file:
                    with path.open("rb") as file:
                        file.seek(self._offset(path))
                        lines = [line for line in file.readlines(BLOCK) if line.endswith(b"\n")]
                    if lines:
                        return list(self._placed(path, lines))
        return []

    def _placed(self, path: Path, lines: list[bytes]) -> Iterator[tuple[bytes, bool, Position]]:
        """With the lines of a file: whether they are too old, and the positions behind them."""
        number, offset, end = self.position.line, self._offset(path), self.log.end().lines
        left = sum(p.stat().st_size for p in self.log.files() if p >= path) - offset
        for line in lines:
            place = place_of(line)
            number = place[0] if place and isinstance(place[0], int) else number + 1
            is_old = end - number >= self.most_lines or left > self.most_bytes
            offset, left = offset + len(line), left - len(line)
            yield line, is_old, Position(number, hash_of(line), path.name, offset)

    def _offset(self, path: Path) -> int:
        return self.position.offset if path.name == self.position.file else 0

    def _found_again(self) -> Position:
        """The same position in a log whose files were changed; or the beginning of another log."""
        files = self.log.files()
        for path in files:
            offset = 0
            for line in whole_lines(path):
                offset += len(line)
                if hash_of(line) == self.position.sha256:
                    return self.position._replace(file=path.name, offset=offset)
        if self.position.sha256 != START:
            logger.warning("%s: line %d is not in the log any more: it is another log", self.name, self.position.line)
        return Position(0, START, files[0].name, 0, self.position.skipped)

    def _end(self) -> Position:
        """Behind the last line; only for who has the log's lock."""
        end, files = self.log.end(), self.log.files()
        if not files:
            return Position(*end, f"{1:06}.jsonl", 0)
        return Position(*end, files[-1].name, files[-1].stat().st_size - tail_of(files[-1])[1])


def _result(line: bytes) -> dict | None:
    """What is delivered of a line, if anything: a picture that was only renamed is no result."""
    if place_of(line) is None:  # `verify` finds it
        return None
    entry = json.loads(line)
    is_result = entry.get("event") == RESULT and "same_as" not in entry
    return entry | {"hash": hash_of(line)} if is_result else None
