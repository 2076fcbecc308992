"""What a person knows better: a false alarm is taken back, or a part that was called good is a known defect.

The picture joins those of the part. A false alarm also raises the thresholds of the part's models at once, without
training; they are saved with cards that state the new promise, and "Teach" takes everything in. Only for parts that
were taught here.
"""

import copy
import json
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup

from hubmodels import AnomalyDetector, AnomalyPrediction
from hubmodels.hub.catalog import ModelEntry
from hubmodels.hub.files import CARD_FILE, CONFIG_FILE, REPORT_FILE, put_in_place
from hubmodels.inspection import Inspection
from hubmodels.line.line import sha256_of
from hubmodels.methods import METHODS
from hubmodels.pictures import PictureError, read_picture
from hubmodels.prediction import check_rate, threshold_in_words
from webapp.inspection import inspect_picture
from webapp.own_parts import BAD, DATASET, GOOD, TAKEN_BACK, Upload
from webapp.page_log import NotLoggedError, PageLog
from webapp.teaching import Teacher
from webapp.texts import translate

FILE = "corrections.json"  # in a model's folder: what was taken back, the latest last
STEPS_FILE, MOST_STEPS = "undo.json", 50  # in the part's folder: what can be undone, the latest last

Changes = dict[ModelEntry, tuple[list[dict], list[dict]]]  # what models have taken back, before and after


class UnlikePartError(PictureError):
    """The picture does not show such a part, so that it cannot be a false alarm of it."""

    def __init__(self, part: str) -> None:
        super().__init__(f"the picture does not look like {part}: choose the right category", "unlike_part")
        self.values = {"part": part}


class LessonRunsError(PictureError):
    """The part is taught at the moment, and its models will be replaced."""

    def __init__(self, part: str) -> None:
        super().__init__(f"{part} is taught at the moment: correct it when the lesson has ended", "lesson")


@dataclass(frozen=True)
class Correction:
    """A person's word for one picture.

    Attributes:
        picture: where it is kept.
        was: where it was before; None if it was nowhere.
        before, after: what models had taken back, by folder, where it changed.
        defects: number of known defects, if a threshold moved.
        found: of those, how many each method called defective before and now, by title.
    """

    picture: Path
    was: Path | None
    before: dict[str, list[dict]]
    after: dict[str, list[dict]]
    defects: int = 0
    found: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def raised(self) -> int:
        """How many models raised their threshold."""
        return sum(len(now) > len(self.before[folder]) for folder, now in self.after.items())


class Corrections:
    """Corrections of the parts of a teacher."""

    def __init__(self, teacher: Teacher, log: PageLog | None = None) -> None:
        self._log = log or PageLog()
        self._teacher, self._catalog, self._lock = teacher, teacher.catalog, threading.Lock()
        self._said: dict[str, dict[str, str]] = {}  # by part and digest, as `said`

    def part_of(self, label: str | None) -> str | None:
        """The part that a category shows, if it was taught here."""
        dataset, _, name = (label or "").partition(" / ")
        parts = self._teacher.parts.choices() if dataset == DATASET else []
        return next((part for written, part in parts if written == name), None)

    def correct(self, label: str, path: str, good: bool, rate: float | None = None) -> Correction:
        """Takes a person's word for a picture.

        The later word replaces an earlier one for the same picture. Nothing changes if it fails.

        Args:
            rate: the accepted false alarms of the verdict that the person saw; None = the calibrated ones.

        Raises:
            PictureError, ModelError, BackboneError: the picture cannot be inspected.
            UnlikePartError: it shall be good, but does not show such a part.
            LessonRunsError: the part is taught at the moment.
            NotLoggedError: the log cannot be written.
            ValueError: the part was not taught here, or the rate is not in (0, 1).
            OSError: nothing can be written.
        """
        part = self.part_of(label)
        if part is None:
            raise ValueError(f"{label} was not taught here")
        if rate is not None:
            check_rate(rate)
        upload = Upload(Path(path).name, Path(path).read_bytes)
        read_picture(upload.read())
        with self.rest(part):
            inspection = inspect_picture(self._catalog, label, path, rate, None) if good else None
            if inspection is not None and inspection.appearance.matches is False:
                raise UnlikePartError(self._teacher.parts.written(part))
            picture, was = self._teacher.parts.place(part, upload, TAKEN_BACK if good else BAD)
            changes = self._changes(part, picture, inspection)
            known = self._teacher.parts.pictures(part, BAD) if changes else []
            checked = [inspect_picture(self._catalog, label, defect, None, list(METHODS)) for defect in known]
            lists = [{entry.source: pair[i] for entry, pair in changes.items()} for i in (0, 1)]
            before = _found(checked, rate)
            try:
                self._apply(changes)
                now = _found(checked, rate)  # by the same detectors, whose thresholds have moved
                found = {title: (count, now[title]) for title, count in before.items()}
                correction = Correction(picture, was, *lists, len(checked), found)
                is_new = was != picture or bool(changes)  # otherwise the one before can be undone
                if is_new:
                    self._keep_steps(part, [*self._steps(part), correction])
            except BaseException:
                _put_back(Correction(picture, was, *lists))
                raise
            verdict = "good" if good else "defective"
            self._said.setdefault(part, {})[picture.stem] = verdict
            try:
                self._log.correction(label, _sha256(picture), verdict)
            except NotLoggedError:
                if is_new:
                    self._undo(part)
                raise
            return correction

    def said(self, label: str | None) -> dict[str, str]:
        """By digest, what a person said about pictures of a part: "good" = taken back, "defective" = known defect."""
        part = self.part_of(label) or ""
        kept = {kind: self._teacher.parts.digests(part, kind) for kind in (GOOD, TAKEN_BACK, BAD)}
        said = dict.fromkeys(kept[TAKEN_BACK], "good") | dict.fromkeys(kept[BAD], "defective")
        there = kept[GOOD] | kept[BAD]  # others were removed since
        return said | {one: word for one, word in self._said.get(part, {}).items() if one in there}

    def latest(self, label: str) -> Correction | None:
        """The correction of a part that `undo` would undo, also after a restart."""
        part = self.part_of(label)
        return next(reversed(self._steps(part)), None) if part else None

    def undo(self, label: str) -> bool:
        """Undoes the latest correction of a part that was not undone yet; False if there is none.

        A model that was trained since then keeps its threshold.

        Raises:
            LessonRunsError: the part is taught at the moment.
            NotLoggedError, OSError: nothing can be written.
        """
        part = self.part_of(label)
        if part is None:
            return False
        with self.rest(part):
            latest = next(reversed(self._steps(part)), None)
            if latest is None:
                return False
            verdict = self.said(label).get(latest.picture.stem, "good")
            self._log.correction(label, _sha256(latest.picture), verdict, undone=True)
            self._undo(part)
        return True

    def _undo(self, part: str) -> None:
        *earlier, correction = self._steps(part)
        entries = {entry: _known(entry) for entry in self._teacher.entries(part)}
        same = {entry: now for entry, now in entries.items() if correction.after.get(entry.source) == now}
        self._apply({entry: (now, correction.before[entry.source]) for entry, now in same.items()})
        _put_back(correction)
        self._keep_steps(part, earlier)
        self._said.get(part, {}).pop(correction.picture.stem, None)

    def _steps(self, part: str) -> list[Correction]:
        """What can be undone, the latest last."""
        try:
            steps = json.loads((self._teacher.parts.folder / part / STEPS_FILE).read_text(encoding="utf-8"))
            return [_step(**step) for step in steps]
        except (OSError, ValueError, TypeError):
            return []

    def _keep_steps(self, part: str, steps: list[Correction]) -> None:
        path = self._teacher.parts.folder / part / STEPS_FILE
        new = path.with_name(f".{path.name}")
        new.write_text(json.dumps([asdict(step) for step in steps[-MOST_STEPS:]], default=str), encoding="utf-8")
        new.replace(path)

    @contextmanager
    def rest(self, part: str) -> Iterator[None]:
        """While the part is changed, nobody corrects it.

        Raises:
            LessonRunsError: the part is taught at the moment.
        """
        with self._lock:
            if self._teacher.current(part) is not None:
                raise LessonRunsError(part)
            yield

    def forget(self, part: str) -> None:
        """A part was deleted: a later one of its name begins without what was said about this one."""
        self._said.pop(part, None)

    def _changes(self, part: str, picture: Path, inspection: Inspection | None) -> Changes:
        """What a picture changes: a false alarm by its inspection, or a known defect."""
        found = {} if inspection is None else inspection.predictions
        found = {inspection.detectors[name].method: prediction for name, prediction in found.items()}
        changes = {}
        for entry in self._teacher.entries(part):
            known, now = _known(entry), found.get(entry.method)
            others = [one for one in known if one["picture"] != picture.stem]
            if inspection is None and len(others) < len(known):
                changes[entry] = known, others
            elif now is not None and now.is_anomalous and len(others) == len(known):  # once for each picture
                new = {"score": now.image_score, "maximum": float(now.counted_map.max())}
                changes[entry] = known, [*known, {"picture": picture.stem, **new}]
        return changes

    def _apply(self, changes: Changes) -> None:
        """Moves the thresholds of models, all or none."""
        detectors = {entry: self._catalog.load(entry.label)[entry.method] for entry in changes}
        calibrations = {entry: copy.deepcopy(detector.calibration) for entry, detector in detectors.items()}
        try:
            for entry, (before, after) in changes.items():
                for known in (one for one in before if one not in after):
                    detectors[entry].calibration.undo(_prediction(known))
                for known in (one for one in after if one not in before):
                    detectors[entry].calibration.take_back(_prediction(known))
                _write(entry, detectors[entry], after)
            for entry in changes:
                put_in_place(_next_to(entry), Path(entry.source))
        except BaseException:
            for entry, detector in detectors.items():
                detector.calibration = calibrations[entry]
                shutil.rmtree(_next_to(entry), ignore_errors=True)
            raise
        finally:
            self._catalog.refresh()


def found_in_words(correction: Correction, language: str) -> list[Markup]:
    """What a moved threshold costs: how many known defects each method found before and finds now."""
    return [
        translate("corrected_found", language, method=title, before=before, now=now, count=correction.defects)
        for title, (before, now) in correction.found.items()
    ]


def _found(checked: Sequence[Inspection], rate: float | None) -> dict[str, int]:
    """By title, how many pictures a method calls defective by its present threshold."""
    verdicts = [inspection.at_rate(rate) for inspection in checked]
    titles = dict.fromkeys(title for predictions in verdicts for title in predictions)
    return {title: sum(bool(predictions[title].is_anomalous) for predictions in verdicts) for title in titles}


def _step(picture: str, was: str | None, found: dict, **known: object) -> Correction:
    pairs = {title: tuple(pair) for title, pair in found.items()}
    return Correction(Path(picture), was and Path(was), found=pairs, **known)


def _put_back(correction: Correction) -> None:
    """The picture is where it was before."""
    if correction.was is None:
        correction.picture.unlink(missing_ok=True)
    elif correction.was != correction.picture and correction.picture.is_file():
        correction.picture.replace(correction.was)


def what_followed(good: bool, raised: int, still: bool, is_of_today: bool = True) -> str:
    """The key of the text about a correction.

    Args:
        raised: how many models raised their threshold; none if the picture was taken back before.
        still: whether the part is called defective now.
        is_of_today: whether the models of today say so, and not those that a lesson replaced.
    """
    if not good:
        return "corrected_bad"
    if still:
        return "corrected_still" if is_of_today else "corrected_otherwise"
    return "corrected_good" if raised else "corrected_kept"


def limit_of(p_values: Iterable[float]) -> float:
    """The accepted false alarms below which no method calls a part defective that was taken back."""
    return min(p_values, default=1.0)


def _sha256(picture: Path) -> str | None:
    return sha256_of(picture.read_bytes()) if picture.is_file() else None


def _known(entry: ModelEntry) -> list[dict]:
    try:
        return json.loads((Path(entry.source) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []


def _prediction(known: dict) -> AnomalyPrediction:
    return AnomalyPrediction(known["score"], np.full((1, 1), known["maximum"], np.float32))


def _next_to(entry: ModelEntry) -> Path:
    return Path(f"{entry.source}.new")


def _write(entry: ModelEntry, detector: AnomalyDetector, known: list[dict]) -> None:
    """Writes a model with another calibration next to its folder."""
    folder, new = Path(entry.source), _next_to(entry)
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(folder, new)
    (new / CARD_FILE).touch()  # the mixin writes its own card where there is none
    before = _stated(new)
    detector.save_pretrained(new)
    (new / FILE).write_text(json.dumps(known, indent=2), encoding="utf-8")
    report = json.loads((new / REPORT_FILE).read_text(encoding="utf-8"))
    calibration = detector.calibration
    report["calibration"] |= {"in_words": calibration.describe(), "later_corrections": len(known)}
    (new / REPORT_FILE).write_text(json.dumps(report, indent=2), encoding="utf-8")
    _restate(new / CARD_FILE, before, _stated(new))


def _stated(folder: Path) -> tuple[str, str]:
    """What the card of a model states and a correction changes: the threshold, and the weights' SHA-256."""
    report, config = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (REPORT_FILE, CONFIG_FILE))
    return threshold_in_words(report["calibration"]), config["weights_sha256"]


def _restate(card: Path, before: tuple[str, str], now: tuple[str, str]) -> None:
    """Replaces in a card what it stated; a person may have edited it, then the threshold is added at the end."""
    text = card.read_text(encoding="utf-8")
    text = text if before[0] in text else f"{text.rstrip()}\n\n{before[0]}\n"
    for old, new in zip(before, now, strict=True):
        text = text.replace(old, new)
    card.write_text(text, encoding="utf-8")
