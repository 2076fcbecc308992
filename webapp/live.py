"""Continuous pictures of one part: which are judged, what they showed, and whether the parts look different."""

import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from hubmodels.appearance import LIMIT
from hubmodels.comparison import PreparedPicture
from hubmodels.inspection import Inspection, judged_again, method_titles
from hubmodels.line.drift import FALSE_ALARMS
from hubmodels.line.line import BRIGHTER, DARKER, LOOK, drift_numbers, new_drift
from hubmodels.line.live import Scene, Standstill
from hubmodels.pictures import read_picture
from webapp.batch_rows import SOMETHING_ELSE, count_in_words, rank_of, result_cell, thumbnail
from webapp.corrections import found_in_words, limit_of, what_followed
from webapp.hosting import fresh_path
from webapp.inspection import VouchedRates, inspect_picture, load_methods
from webapp.results import small_overlay
from webapp.texts import SIGNS, TONES, data_url, number, part_words, percent, render, translate, translate_plainly
from webapp.visitors import Workplace

MOST_ROWS = 12  # pictures that are shown in the list; the counts are of all
MOST_POINTS = 400  # of the drawing
LONGEST_PAUSE = 600  # seconds; only few videos and cameras of the server run at once
SHOWN_SIDE, OVERLAY_SIDE = 960, 480  # pixels
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM = 360, 120, 34, 6, 20  # of a drawing and its margins
CAUSES = {LOOK: "live_cause_look", BRIGHTER: "live_cause_brighter", DARKER: "live_cause_darker"}


@dataclass(frozen=True)
class Judged:
    """A picture that was judged.

    Attributes:
        number: from 1.
        path: where the picture is kept for an hour.
        record: as `Inspection.record`.
        thumbnail: as a data URL.
        at: the time of day.
        took: milliseconds from the picture to its result.
    """

    number: int
    path: Path
    record: dict
    thumbnail: str
    at: str
    took: float

    @property
    def rank(self) -> int:
        """As `rank_of`; a picture without such a part is no defective one."""
        return SOMETHING_ELSE if self.record["appearance_matches"] is False else rank_of(self.record)


class LiveSession:
    """What one visitor sees of one part, from Start to Stop.

    Args:
        methods: as `load_methods`.

    Raises:
        ModelError, BackboneError: the part has no model that can be loaded.

    Attributes:
        run: its name in the browser.
        stopped: that no further picture is wanted.
        steps: how many single pictures the visitor asked for and did not get yet.
    """

    def __init__(self, place: Workplace, category: str, methods: list | None, language: str) -> None:
        self.run, self.category, self.place, self.methods = secrets.token_hex(4), category, place, methods
        self.stopped, self.steps = threading.Event(), 0
        self._paused_at: float | None = None
        self.scene: Scene | None = None
        detectors = load_methods(place.catalog, category, methods)
        self.rate = VouchedRates.of(detectors.values()).least
        self._language, self._lock = language, threading.Lock()
        self._standstill, self._drift = Standstill(), new_drift(detectors)
        self._history: list[tuple[float, float | None, float]] = []  # as `_drawings`
        self._rows: deque[Judged] = deque(maxlen=MOST_ROWS)
        self._counts: Counter[int] = Counter()
        self._last: Inspection | None = None
        self._alarm: int | None = None  # the picture at which the drift alarm was raised
        self._note, self._revision, self._shown = [], 0, -1

    def waits(self) -> bool:
        """Whether the visitor paused, and did not ask for a single picture. A long pause ends the session."""
        if self._paused_at is not None and time.monotonic() - self._paused_at > LONGEST_PAUSE:
            self.stopped.set()
        return self.paused and not self.steps and not self.stopped.is_set()

    @property
    def paused(self) -> bool:
        """Whether the visitor pressed Pause."""
        return self._paused_at is not None

    @paused.setter
    def paused(self, wanted: bool) -> None:
        self._paused_at = time.monotonic() if wanted else None

    def take_step(self) -> bool:
        """Whether the next picture is one that the visitor asked for."""
        is_asked = self.steps > 0
        self.steps -= is_asked
        return is_asked

    def see(self, picture: bytes | np.ndarray, seconds: float, now: bool = False) -> bool:
        """The next picture of the camera or video; returns whether it was judged.

        Args:
            picture: an encoded file, or RGB (H, W, 3) uint8.
            seconds: when it was taken.
            now: judge it without waiting for a standstill.

        Raises:
            PictureError, ModelError, BackboneError: it cannot be inspected.
            OSError: the disk is full.
        """
        with self._lock:
            begun, upright = time.perf_counter(), read_picture(picture)
            if now:
                self._standstill.judged(upright, seconds)
            self.scene = Scene.READY if now else self._standstill.add(upright, seconds)
            if self.scene is Scene.READY:
                try:
                    self._judge(picture, upright, begun)
                except BaseException:
                    self._standstill.failed()
                    raise
            return self.scene is Scene.READY

    def _judge(self, picture: bytes | np.ndarray, upright: Image.Image, begun: float) -> None:
        prepared = PreparedPicture(upright)
        inspection = inspect_picture(self.place.catalog, self.category, prepared, self.rate, self.methods)
        number, shown = self.count + 1, thumbnail(inspection.picture)
        path = self._keep_and_log(picture, number, inspection)
        took, at = 1000 * (time.perf_counter() - begun), f"{datetime.now():%H:%M:%S}"
        judged = Judged(number, path, self._record(inspection), shown, at, took)
        self._rows.appendleft(judged)
        self._counts[judged.rank] += 1
        self._last, self._revision = inspection, self._revision + 1
        if inspection.appearance.matches is not False:
            numbers = drift_numbers(self._drift, inspection, prepared)
            if self._drift.add(numbers):
                self._alarm = number
            ratio = inspection.appearance.ratio
            self._history.append((self._drift.capital, ratio and ratio / LIMIT, numbers[BRIGHTER]))

    def _keep_and_log(self, picture: bytes | np.ndarray, number: int, inspection: Inspection) -> Path:
        path = _keep(picture)
        try:
            name, catalog = f"live#{number}", self.place.catalog
            self.place.log.inspection(name, path, self.category, inspection, self.rate, catalog)
        except BaseException:
            path.unlink()  # it is soon tried again
            raise
        return path

    def _record(self, inspection: Inspection) -> dict:
        return inspection.record(self.category, self.rate) | {"error": None}

    @property
    def count(self) -> int:
        """How many pictures were judged."""
        return self._counts.total()

    # ------------------------------------------------------------ a person's word

    def judged(self, number: object) -> Judged | None:
        """A picture of the list."""
        return next((row for row in self._rows if row.number == number), None)

    def correct(self, number: object, good: bool) -> None:
        """A person says that the verdict on a picture is wrong.

        Raises:
            PictureError, ModelError, BackboneError, ValueError, OSError: as `Corrections.correct`.
        """
        if (row := self.judged(number)) is None or not self._can_correct:
            return
        correction = self.place.corrections.correct(self.category, str(row.path), good, self.rate)
        with self._lock:
            self._decide_again()
            methods = (self.judged(number) or row).record["methods"].values()
            flagged = [numbers["p_value"] for numbers in methods if numbers["is_anomalous"]]
            key, limit = what_followed(good, correction.raised, bool(flagged)), limit_of(flagged)
            words = {"part": part_words(self.category, self._language), "limit": percent(limit, self._language)}
            said = {"number": number, "words": translate(key, self._language, **words)}
            first = translate("live_corrected", self._language, **said)
            self._note = [first, *found_in_words(correction, self._language)]  # until the next correction

    def undo(self) -> None:
        """Undoes the latest correction of the part."""
        if self._can_correct:
            self.place.corrections.undo(self.category)
            with self._lock:
                self._decide_again()
                self._note = []

    def _decide_again(self) -> None:
        """The pictures of the list by the thresholds of now."""
        titles, loaded = method_titles(), load_methods(self.place.catalog, self.category, self.methods)
        detectors = {titles[name]: detector for name, detector in loaded.items()}
        for index, row in enumerate(self._rows):
            now = replace(row, record=judged_again(row.record, detectors))
            self._rows[index] = now
            self._counts[row.rank] -= 1
            self._counts[now.rank] += 1
        self._last = replace(self._last, predictions=self._last.at_rate(self.rate))
        self._revision += 1

    @property
    def _can_correct(self) -> bool:
        return self.place.corrections is not None and self.place.corrections.part_of(self.category) is not None

    # ------------------------------------------------------------ what the page shows

    def view(self, picture: np.ndarray | None = None) -> dict:
        """What changed since the last call, for the browser.

        Args:
            picture: of a camera that the browser does not have.
        """
        report = self.report() if self._revision != self._shown else None
        self._shown = self._revision
        frame = None if picture is None else _small(picture)
        new = secrets.token_hex(4)  # the browser is not told of a value that equals the last one
        return {"run": self.run, "state": self._state(), "report": report, "frame": frame, "tick": new}

    def _state(self) -> str:
        """What the scene does, in words."""
        key = self.scene.value if self.scene else "waiting"
        if self.scene is Scene.MOVING and not self._rows:
            key = "first"  # there is no verdict yet that could be held
        return translate_plainly(f"live_{key}", self._language)

    def report(self) -> str:
        """The last verdict, the pictures before it, and the drift, as HTML."""
        last = self._rows[0] if self._rows else None
        return str(
            render(
                "live_report.html",
                self._language,
                last=last,
                result=last and self._result(last),
                overlays=_overlays(self._last) if last and last.rank != SOMETHING_ELSE else {},
                took=last and round(last.took),
                part=part_words(self.category, self._language),
                can_correct=self._can_correct,
                note=self._note,
                counts=[(n, self._counted(rank, n)) for rank, n in sorted(self._counts.items()) if n],
                rows=[(row, self._result(row)) for row in self._rows],
                alarm=self._alarm,
                cause=self._cause(),
                chance=percent(FALSE_ALARMS, self._language),
                drawings=self._drawings(),
                size=(WIDTH, HEIGHT),
                inner=(LEFT, WIDTH - RIGHT),
            )
        )

    def _result(self, row: Judged) -> dict:
        """As `result_cell`."""
        if row.rank != SOMETHING_ELSE:
            return result_cell(row.record, self._language)
        return {"text": translate_plainly("live_no_part", self._language), "sign": SIGNS[None], "tone": TONES[None]}

    def _counted(self, rank: int, count: int) -> str:
        if rank != SOMETHING_ELSE:
            return count_in_words(rank, count, self._language)
        return translate_plainly("live_no_part", self._language)

    def _cause(self) -> Markup | None:
        """What has changed, in words."""
        if self._alarm is None:
            return None
        key = CAUSES.get(self._drift.cause, "live_cause_score")
        return translate(key, self._language, method=self._drift.cause)

    def _drawings(self) -> list[dict]:
        """The course of capital, look and brightness over the pictures; empty if there are fewer than two."""
        if len(self._history) < 2:
            return []
        capital, look, light = map(list, zip(*self._history, strict=True))
        kinds = [("live_capital", np.log10(capital), -np.log10(FALSE_ALARMS)), ("live_look", look, 1.0)]
        return [self._drawing(*kind) for kind in [*kinds, ("live_light", light, None)] if None not in kind[1]]

    def _drawing(self, key: str, values: Sequence[float], limit: float | None) -> dict:
        values = np.asarray(values, float)
        low, high = min(values.min(), 0 if limit else np.inf), max(values.max(), limit or -np.inf)
        spread = max(high - low, 1e-6)
        across = LEFT + (WIDTH - LEFT - RIGHT) * np.arange(len(values)) / (len(values) - 1)
        up = _height(values, low, spread)
        chosen = np.unique(np.linspace(0, len(values) - 1, MOST_POINTS).round().astype(int))
        return {
            "name": translate(key, self._language),
            "points": " ".join(f"{across[i]:.1f},{up[i]:.1f}" for i in chosen),
            "limit": None if limit is None else _height(limit, low, spread),
            "ends": [(number(float(value), self._language, 2), _height(value, low, spread)) for value in (low, high)],
            "last": number(float(values[-1]), self._language, 3),
            "count": len(values),
        }


def _height(value: float | np.ndarray, low: float, spread: float) -> float | np.ndarray:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 8) * (value - low) / spread


def _keep(picture: bytes | np.ndarray) -> Path:
    """Writes a picture where it is deleted after an hour."""
    if isinstance(picture, bytes):
        path = fresh_path("live.jpg")
        path.write_bytes(picture)
    else:
        path = fresh_path("live.png")
        Image.fromarray(picture).save(path, compress_level=1)
    return path


def _small(picture: np.ndarray) -> str:
    shown = Image.fromarray(picture)
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE), reducing_gap=2)
    return data_url(shown, "JPEG", quality=80)


def _overlays(inspection: Inspection) -> dict[str, str]:
    """By method, the picture under its heat map."""
    found = {name: p for name, p in inspection.predictions.items() if p.is_anomalous is not None}
    drawn = {name: small_overlay(inspection.picture, p, OVERLAY_SIDE) for name, p in found.items()}
    return {name: data_url(picture, "JPEG", quality=85) for name, picture in drawn.items()}
