"""Teaching parts: the ordinary training as a process of its own, one at a time, with a queue for all visitors.

The page imports no training. It starts `training/train.py`, reads its progress from a file, and stops it by its
process group. What is finished is in the folder of models; what is not is nowhere listed.
"""

import atexit
import contextlib
import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from hubmodels.hub.catalog import Catalog, ModelEntry, model_name
from hubmodels.hub.errors import NO_ROOM
from hubmodels.hub.files import CARD_FILE, REPORT_FILE, TITLE_FILE
from hubmodels.methods import METHODS
from hubmodels.prediction import FALSE_ALARM_RATE, HeldOut, number_held_out
from webapp.least_size import saved_least_size
from webapp.own_parts import DATASET, OwnParts, front_end
from webapp.regions import MASK

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
NEEDED = ("accelerate", "datasets", "matplotlib", "psutil")  # of the extra `train`
# Threads that wait for each other spin only shortly. Else they take the core from the thread they wait for, and
# a lesson next to a busy program hardly goes on.
PATIENT = {"GOMP_SPINCOUNT": "1000"}
PRIORITY = 10  # niceness above the page's own, so that it stays quick
PATIENCE = 5  # seconds between asking a process to end and ending it
PASS_MS = 8.0  # of the compact backbone on the machine that `Method.seconds` comes from
# where a stage of a training without epochs begins, and its length, as shares of the whole
STAGES = {
    "checking pictures": (0.05, 0.02),
    "reading pictures": (0.07, 0.03),
    "frozen features": (0.10, 0.05),
    "folds": (0.15, 0.70),  # with the damaged pictures, in the first one
    "damaged pictures": (0.15, 0.70),
    "discriminator": (0.85, 0.10),
    "test pictures": (0.95, 0.05),
}
LEAST_LEFT = 0.1  # share of the expected time, as long as the true one is not known
RESTART = 0.2  # a share that falls by more belongs to a training that began again
PACES: dict[str, float] = {}  # by method, time of its last lesson compared with `Method.seconds`
EPOCHS, KNOWN_ENOUGH = 0.95, 0.2  # share of the epochs; share from which the time so far says more than experience
FAULTS = KILLED, FULL = "killed", "full"  # reasons that the page has words for
NO_SPACE = ": free some"  # in each message of the training about a full disk
WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"


@dataclass(eq=False)
class Lesson:
    """One part that is taught, or waits for it.

    Attributes:
        teacher: whose part it is.
        title: what the person calls the part.
        bars: the open progress bars of the training: `what`, `done`, `total`.
        reason: of a failure.
        notes: what the page said at the beginning and says again with the result.
    """

    part: str
    methods: tuple[str, ...]
    pictures: int
    teacher: "Teacher | None" = None
    title: str = ""
    state: str = WAITING
    began: float | None = None
    ended: float | None = None
    bars: list[dict] = field(default_factory=list)
    reason: str = ""
    notes: tuple[str, ...] = ()
    asked_to_stop: threading.Event = field(default_factory=threading.Event)
    _shown: tuple[float, float] = (math.inf, 0.0)  # the time left and the share that `countdown` returned last

    @property
    def label(self) -> str:
        """Of the category that it becomes."""
        return f"{DATASET} / {self.title or self.part}"

    @property
    def is_over(self) -> bool:
        """Whether it is done, failed or stopped."""
        return self.state in (DONE, FAILED, STOPPED)

    @property
    def seconds(self) -> float:
        """How long it has run, or ran."""
        return 0.0 if self.began is None else (self.ended or time.monotonic()) - self.began

    @property
    def share(self) -> float:
        """How much is done, in [0, 1), as far as the bars of a single method say."""
        bar = next((bar for bar in self.bars if bar["what"] in STAGES), None)
        if bar is None and self.bars:  # epochs
            return EPOCHS * _share(self.bars[0])
        if bar is None or len(self.methods) > 1:
            return 0.0
        begin, length = STAGES[bar["what"]]
        return begin + length * _share(bar)

    @property
    def seconds_left(self) -> float:
        """Estimated; never 0 before the end."""
        expected = sum(estimate(method, self.pictures) for method in self.methods)
        if len(self.methods) > 1:
            return max(1.0, LEAST_LEFT * expected, expected - self.seconds)
        whole = self.seconds / self.share if self.share > KNOWN_ENOUGH else expected
        return max(1.0, whole * (1 - self.share))

    def countdown(self) -> float:
        """As `seconds_left`, but never more than before, unless the training began again."""
        left, share = self.seconds_left, self.share
        if share >= self._shown[1] - RESTART:
            left = min(left, self._shown[0])
        self._shown = left, share
        return left


class Queue:
    """Runs the lessons of all teachers, one after the other."""

    def __init__(self) -> None:
        self._lessons: list[Lesson] = []  # waiting and running
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, lesson: Lesson) -> Lesson:
        """The lesson in the queue; if its teacher has one for the part already, that one."""
        with self._changed:
            for known in self._lessons:
                if (known.teacher, known.part) == (lesson.teacher, lesson.part):
                    return known
            self._lessons.append(lesson)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="teacher")
                self._thread.start()
            self._changed.notify_all()
        return lesson

    def of(self, teacher: "Teacher") -> list[Lesson]:
        """The lessons of a teacher that wait or run."""
        with self._changed:
            return [lesson for lesson in self._lessons if lesson.teacher is teacher]

    def ahead(self, lesson: Lesson) -> int:
        """How many lessons come before it, of all teachers."""
        with self._changed:
            return self._lessons.index(lesson) if lesson in self._lessons else 0

    def stop(self, lesson: Lesson) -> None:
        """Ends a lesson, at once if it waits."""
        with self._changed:
            lesson.asked_to_stop.set()
            if lesson.state == WAITING and lesson in self._lessons:
                lesson.state = STOPPED
                self._lessons.remove(lesson)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._lessons:
                    self._changed.wait()
                lesson = self._lessons[0]
                lesson.began, lesson.state = time.monotonic(), RUNNING
            try:
                state, lesson.reason = lesson.teacher.train(lesson)
            except Exception as error:  # the other lessons go on
                logger.exception("the lesson %s failed", lesson.label)
                state, lesson.reason = FAILED, f"{type(error).__name__}: {error}"
            lesson.ended = time.monotonic()
            with self._changed:
                lesson.state = state
                self._lessons.remove(lesson)


class Teacher:
    """Teaches the parts of one folder.

    Args:
        catalog: lists the new models when a lesson is done.
        models: folder of the models.
        pictures: folder of the pictures of own parts.
        queue: of all teachers whose lessons must not run at the same time.
    """

    def __init__(self, catalog: Catalog, models: Path, pictures: Path, queue: Queue | None = None) -> None:
        self.catalog, self.models, self.parts = catalog, models, OwnParts(pictures)
        self._queue = queue or Queue()

    def start(self, part: str, methods: Sequence[str]) -> Lesson:
        """A lesson in the queue; if the part is already there, that one."""
        count, title = len(self.parts.pictures(part)), self.parts.written(part)
        return self._queue.add(Lesson(part, tuple(methods), count, self, title))

    def ahead(self, lesson: Lesson) -> int:
        """How many lessons come before it."""
        return self._queue.ahead(lesson)

    def current(self, part: str) -> Lesson | None:
        """The lesson of a part that waits or runs."""
        return next((lesson for lesson in self._queue.of(self) if lesson.part == part), None)

    def lessons(self) -> list[Lesson]:
        """All that wait or run."""
        return self._queue.of(self)

    def stop(self, lesson: Lesson) -> None:
        """Ends a lesson, at once if it waits."""
        self._queue.stop(lesson)

    def stop_all(self) -> None:
        """Ends all lessons."""
        for lesson in self.lessons():
            self.stop(lesson)

    def entries(self, part: str) -> list[ModelEntry]:
        """The models of a part that were taught here."""
        own = (e for e in self.catalog.entries if (e.dataset, e.category) == (DATASET, part))
        return [entry for entry in own if Path(entry.source).parent == self.models]

    def has(self, part: str) -> bool:
        """Whether there are pictures or models of a part."""
        return bool(part) and ((self.parts.folder / part).is_dir() or bool(self.entries(part)))

    def rename(self, part: str, text: str) -> None:
        """Gives a part another name, as a person wrote it; its folders and repositories keep theirs.

        Raises:
            OSError: it cannot be written.
        """
        before = self.parts.written(part)
        self.parts.rename(part, text)
        for entry in self.entries(part):
            _retitle(Path(entry.source), f"{before} ({part})", self.parts.written(part), part)
        self.catalog.refresh()

    def delete(self, part: str) -> None:
        """Deletes the models of a part, then its pictures. Of a link only the link is deleted.

        Raises:
            OSError: something cannot be deleted.
        """
        if not self.has(part):  # without a name it would be the folder of all parts
            return
        names = [model_name(method, DATASET, part) for method in METHODS]
        folders = {Path(entry.source) for entry in self.entries(part)} | {self.models / name for name in names}
        for folder in folders:
            unfinished = folder.parent / ".unfinished" / folder.name
            for place in (unfinished, *(folder.with_name(f"{folder.name}{end}") for end in ("", ".1", ".new"))):
                _delete(place)
        _delete(self.parts.folder / part)
        self.catalog.refresh()

    def train(self, lesson: Lesson) -> tuple[str, str]:
        """Runs a lesson; returns the state and the reason of a failure."""
        names = [path.name for path in self.parts.pictures(lesson.part)]
        try:
            ended = self._train(lesson)
            if ended[0] == DONE:
                self.parts.keep_learned(lesson.part, names)
        except OSError as error:
            return FAILED, FULL if error.errno in NO_ROOM else str(error)
        if ended[0] == DONE:
            keep_pace(lesson)
        self.catalog.refresh()  # of several methods, some can be complete after a failure
        return ended

    def command(self, lesson: Lesson) -> list[str]:
        """What trains it."""
        places = ["--data-root", str(self.parts.folder.resolve()), "--output", str(self.models.resolve())]
        named = ["--categories", lesson.part, "--dataset-name", DATASET, "--methods", *lesson.methods]
        titled = [f"--title={lesson.title}"] if lesson.title not in ("", lesson.part) else []
        mask = (self.parts.folder / lesson.part / MASK).resolve()
        region = ["--region", str(mask)] if mask.is_file() else []
        pixels = saved_least_size(self.parts.folder / lesson.part)
        counted = [*titled, *region, *(["--least-size", str(pixels)] if pixels else [])]
        return [sys.executable, str(ROOT / "training/train.py"), *places, *named, *counted, "--skip-bad", "--replace"]

    def _train(self, lesson: Lesson) -> tuple[str, str]:
        """Runs the training; returns the state and the reason of a failure."""
        with tempfile.TemporaryDirectory() as folder:
            progress, log = Path(folder) / "progress.json", Path(folder) / "log"
            page = {"HUBMODELS_PROGRESS": str(progress), "HUBMODELS_PARENT": str(os.getpid())}
            environment = PATIENT | os.environ | page | {"PYTHONWARNINGS": "ignore"}
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
            with log.open("wb") as said:
                process = subprocess.Popen(
                    self.command(lesson),
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    start_new_session=os.name == "posix",
                )
            _lower_priority(process.pid)
            ending = atexit.register(partial(end, process))  # with the page
            try:
                while process.poll() is None:
                    if lesson.asked_to_stop.wait(0.2):
                        end(process)
                        return STOPPED, ""
                    lesson.bars = _read(progress) or lesson.bars
            finally:
                atexit.unregister(ending)
            return (DONE, "") if process.returncode == 0 else (FAILED, reason_of(process.returncode, log))


def _retitle(folder: Path, before: str, now: str, part: str) -> None:
    """Changes what people call the part of a model. The card states it as "NAME (PART)", if it has a name."""
    (folder / TITLE_FILE).write_text(now, encoding="utf-8")
    report, card = folder / REPORT_FILE, folder / CARD_FILE
    if report.is_file():
        content = json.loads(report.read_text(encoding="utf-8")) | {"title": now}
        report.write_text(json.dumps(content, indent=2), encoding="utf-8")
    if card.is_file():
        text = card.read_text(encoding="utf-8").replace(before, f"{now} ({part})")
        card.write_text(text, encoding="utf-8")


def _delete(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def end(process: subprocess.Popen) -> None:
    """Ends a process with all that it started."""
    for name in ("SIGTERM", "SIGKILL"):
        with contextlib.suppress(ProcessLookupError, OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, getattr(signal, name))
            else:
                process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
            return


def reason_of(status: int, log: Path) -> str:
    """The cause of a failure in the words of the training without its own headings, or one of `FAULTS`."""
    text = log.read_text(encoding="utf-8", errors="replace")
    if status < 0 or status == 137:
        return KILLED
    failed = re.findall(r"^FAILED [^:]*: (.*)$", text, re.M)
    lines = [line for line in text.strip().splitlines() if line.strip()]
    reason = failed[-1] if failed else lines[-1] if lines else f"status {status}"
    return FULL if NO_SPACE in reason else reason


def missing_packages() -> list[str]:
    """What teaching needs and is not installed."""
    return [name for name in NEEDED if find_spec(name) is None]


def estimate(method: str, pictures: int) -> float:
    """About how many seconds a method takes on this computer: as the lessons before, or else as `slowness` says."""
    pace = PACES.get(method) or (median(PACES.values()) if PACES else slowness())
    return pace * _reference_seconds(method, pictures)


def expected_promise(method: str, pictures: int) -> HeldOut:
    """The calibration that a lesson with so many good pictures gives a method, as far as their number decides."""
    size = pictures if METHODS[method].cross_fitted else number_held_out(pictures)
    return HeldOut(np.zeros(size), np.zeros(size), 0.0, FALSE_ALARM_RATE)


def keep_pace(lesson: Lesson) -> None:
    """Remembers how long a finished lesson really took, for `estimate`."""
    expected = sum(_reference_seconds(method, lesson.pictures) for method in lesson.methods)
    PACES.update(dict.fromkeys(lesson.methods, lesson.seconds / expected))


def _reference_seconds(method: str, pictures: int) -> float:
    """On the machine that `Method.seconds` comes from."""
    fixed, each = METHODS[method].seconds
    return fixed + each * pictures


@lru_cache(1)
def slowness() -> float:
    """Time of a backbone pass here, compared with the machine that `Method.seconds` comes from."""
    picture, times, shared = Image.new("RGB", (256, 256)), [], front_end()
    for _ in range(5):
        start = time.perf_counter()
        shared(shared.prepare([picture]))
        times.append(1000 * (time.perf_counter() - start))
    return max(0.2, min(times) / PASS_MS)


def teachable() -> list[str]:
    """Methods that a visitor can choose, the quickest first."""
    names = (name for name, method in METHODS.items() if not method.baseline)
    return sorted(names, key=lambda name: METHODS[name].seconds[1])


def _share(bar: dict) -> float:
    return min(1.0, bar["done"] / bar["total"]) if bar["total"] else 0.0


def _lower_priority(pid: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + PRIORITY))


def _read(path: Path) -> list[dict]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
