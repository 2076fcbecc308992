"""Counts of a server, as Prometheus reads them: its text format 0.0.4.

Several processes that serve together keep their counts in one folder, and each returns the sum. Counts of a process
that ended remain; its requests in progress do not.
"""

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PICTURES, ERRORS = "hubmodels_pictures_total", "hubmodels_errors_total"
IN_PROGRESS, WAITING = "hubmodels_requests_in_progress", "hubmodels_requests_waiting"
WAITED, JUDGED = "hubmodels_waiting_seconds", "hubmodels_judging_seconds"
ALARM, CAPITAL = "hubmodels_drift_alarm", "hubmodels_drift_capital"
INFO = "hubmodels_info"
FAMILIES = {
    INFO: ("gauge", "Version of the library."),
    PICTURES: ("counter", "Judged pictures by category and verdict."),
    ERRORS: ("counter", "Refused requests and pictures by kind of error."),
    WAITED: ("histogram", "Seconds from the arrival of a picture until it was its turn."),
    JUDGED: ("histogram", "Seconds in which a picture was judged."),
    IN_PROGRESS: ("gauge", "Requests whose picture is being judged."),
    WAITING: ("gauge", "Requests that are being read, or wait for their turn."),
    ALARM: ("gauge", "1 since the drift alarm of a category was raised, else 0."),
    CAPITAL: ("gauge", "What the bets against no drift have made of 1; the alarm is at 100."),
}
NOW = (IN_PROGRESS, WAITING)  # that end with their process
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # upper limits in seconds


class Counts:
    """The counts of this process.

    Args:
        folder: of the processes that serve together; None = there is only this one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._values: Counter[str] = Counter(dict.fromkeys(NOW, 0))  # by series, such as name{label="value"}
        self._file = folder and folder / f"{uuid.uuid4().hex}.json"
        if self._file:
            self._lives = FileLock(self._file.with_suffix(".lock"))
            self._lives.acquire()  # until this process ends
            self.save()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Adds to a number."""
        self._values[_series(name, labels)] += amount

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Adds a duration to a histogram."""
        for limit in BUCKETS:
            self.add(f"{name}_bucket", seconds <= limit, **labels, le=str(limit))
        self.add(f"{name}_bucket", **labels, le="+Inf")
        self.add(f"{name}_sum", seconds, **labels)
        self.add(f"{name}_count", **labels)

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Counts as one more in a number of what goes on now."""
        self.add(name)
        self.save()
        try:
            yield
        finally:
            self.add(name, -1)
            self.save()

    def now(self, name: str) -> int:
        """A number of what goes on now, in this process."""
        return int(self._values[name])

    def mean_seconds(self, name: str) -> float:
        """Of a histogram of this process, over all labels; 0 if it is empty."""
        ends = (f"{name}_sum", f"{name}_count")
        seconds, count = (sum(v for series, v in self._values.items() if series.startswith(end)) for end in ends)
        return seconds / count if count else 0.0

    def save(self) -> None:
        """Shows the counts to the other processes."""
        if self._file:
            new = self._file.with_suffix(".new")
            new.write_text(json.dumps(self._values), encoding="utf-8")
            new.replace(self._file)

    def text(self, gauges: Mapping[str, Mapping[str, float]]) -> str:
        """All counts of all processes.

        Args:
            gauges: further values, by family and category.
        """
        now = {_series(name, {"category": label}): v for name, of in gauges.items() for label, v in of.items()}
        values = dict(self._all()) | now
        lines = []
        for family, (kind, words) in FAMILIES.items():
            found = [f"{series} {_number(value)}" for series, value in values.items() if _family(series) == family]
            lines += [f"# HELP {family} {words}", f"# TYPE {family} {kind}", *found] if found else []
        return "\n".join(lines) + "\n"

    def _all(self) -> Counter[str]:
        values = self._values.copy()
        others = self._file.parent.glob("*.json") if self._file else ()
        for file in others:
            if file != self._file:
                values.update(_read(file))
        return values


def _read(file: Path) -> dict[str, float]:
    """The counts of another process."""
    values = json.loads(file.read_text(encoding="utf-8"))
    try:
        with FileLock(file.with_suffix(".lock"), timeout=0):  # it has ended
            return {series: value for series, value in values.items() if series not in NOW}
    except Timeout:
        return values


def _series(name: str, labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels.items())
    return f"{name}{{{pairs}}}" if pairs else name


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _family(series: str) -> str:
    name = series.partition("{")[0]
    return name if name in FAMILIES else name.rpartition("_")[0]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
