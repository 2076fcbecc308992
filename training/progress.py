"""Progress bars, which a program that started the training can also read from a file.

The file is named by the environment variable HUBMODELS_PROGRESS. It contains a JSON list of the bars that are open
now, the outermost first: `what`, `done`, `total` (null if unknown). The program's process number in HUBMODELS_PARENT
ends the training with the program: two trainings of one model would write to the same files.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from tqdm import tqdm as _tqdm

FILE, PARENT = "HUBMODELS_PROGRESS", "HUBMODELS_PARENT"
EVERY = 0.25  # seconds between two writes

_open: list["tqdm"] = []
_written_at = 0.0


def end_with_parent(every: float = 1.0) -> None:
    """Ends this process and all that it started when the program ends that reads the file."""
    if parent := os.environ.get(PARENT):
        threading.Thread(target=_watch, args=(int(parent), every), daemon=True).start()


def _watch(parent: int, every: float) -> None:
    with suppress(psutil.NoSuchProcess):  # it has ended already
        program = psutil.Process(parent)
        while program.is_running() and program.status() != psutil.STATUS_ZOMBIE:
            time.sleep(every)
    own = psutil.Process()
    for process in (*own.children(recursive=True), own):
        with suppress(psutil.NoSuchProcess):
            process.terminate()


class tqdm(_tqdm):
    """As in the package of that name; by default without a trace after the end, and silent if nobody looks."""

    def __init__(self, *args, leave: bool = False, disable: bool | None = None, **settings) -> None:
        super().__init__(*args, leave=leave, disable=disable, **settings)
        self.what = settings.get("desc") or (args[1] if len(args) > 1 else "")
        self.passed, self.whole = settings.get("initial", 0), settings.get("total")
        if self.whole is None and args and hasattr(args[0], "__len__"):
            self.whole = len(args[0])
        _open.append(self)
        _tell(now=True)

    def __iter__(self) -> Iterator:
        try:
            for item in super().__iter__():
                yield item
                self._pass(1)
        finally:
            _drop(self)

    def update(self, n: float = 1) -> bool | None:
        """Counts further steps."""
        if not self.iterable:
            self._pass(n)
        return super().update(n)

    def _pass(self, n: float) -> None:
        self.passed += n
        _tell()

    def close(self) -> None:
        """Ends the bar."""
        _drop(self)
        super().close()


def _drop(bar: tqdm) -> None:
    if not _open:  # also at the end of the program
        return
    left = [other for other in _open if other is not bar]  # tqdm's own == compares positions on the screen
    if len(left) < len(_open):
        _open[:] = left
        _tell(now=True)


def _tell(now: bool = False) -> None:
    """Writes the file, if somebody wants it and it is time. A disk that is full ends no training."""
    global _written_at
    path = os.environ.get(FILE)
    if not path or not (now or time.monotonic() - _written_at > EVERY):
        return
    _written_at = time.monotonic()
    bars = [{"what": bar.what, "done": bar.passed, "total": bar.whole} for bar in _open]
    with suppress(OSError):
        partial = Path(f"{path}.partial")
        partial.write_text(json.dumps(bars), encoding="utf-8")
        partial.replace(path)
