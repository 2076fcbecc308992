"""What a person knows better: a false alarm is taken back, or a part that was called good is a known defect.

The picture joins those of the part. A false alarm also raises the thresholds of the part's models at once, without
training; they are saved with cards that state the new promise, and "Teach" takes everything in. Only for parts that
were taught here.
"""

import json
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hubmodels import AnomalyDetector, AnomalyPrediction
from hubmodels.hub.catalog import ModelEntry
from hubmodels.hub.files import CARD_FILE, CONFIG_FILE, REPORT_FILE, put_in_place
from hubmodels.pictures import read_picture
from hubmodels.prediction import check_rate, threshold_in_words
from webapp.inspection import Inspection, inspect_picture
from webapp.own_parts import BAD, DATASET, GOOD, TAKEN_BACK, Upload
from webapp.teaching import Teacher

FILE = "corrections.json"  # in a model's folder: what was taken back, the latest last


@dataclass(frozen=True, eq=False)
class Correction:
    """A person's word for one picture.

    Attributes:
        picture: where it is kept.
        is_new: whether it was not there before.
        raised: how many models raised their threshold.
    """

    picture: Path
    is_new: bool
    raised: int = 0


class Corrections:
    """Corrections of the parts of a teacher."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher, self._catalog, self._lock = teacher, teacher.catalog, threading.Lock()
        self._latest: dict[str, Correction] = {}  # by part

    def part_of(self, label: str | None) -> str | None:
        """The part that a category shows, if it was taught here."""
        dataset, _, name = (label or "").partition(" / ")
        parts = self._teacher.parts.choices() if dataset == DATASET else []
        return next((part for written, part in parts if written == name), None)

    def correct(self, label: str, path: str, good: bool, rate: float | None = None) -> int:
        """Takes a person's word for a picture; returns how many models raised their threshold.

        Args:
            rate: the accepted false alarms of the verdict that the person saw; None = the calibrated ones.

        Raises:
            PictureError, ModelError, BackboneError: the picture cannot be inspected.
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
        with self._lock:
            is_new = bool(self._teacher.parts.add(part, [upload], TAKEN_BACK if good else BAD))
            picture = self._teacher.parts.find(part, upload, GOOD if good else BAD)
            raised = self._raise(label, part, path, picture, rate) if good else 0
            self._latest[part] = Correction(picture, is_new, raised)
            return raised

    def latest(self, label: str) -> Correction | None:
        """The correction of a part that `undo` would undo."""
        return self._latest.get(self.part_of(label) or "")

    def undo(self, label: str) -> bool:
        """Undoes the latest correction of a part; False if there is none."""
        part = self.part_of(label)
        correction = self._latest.pop(part or "", None)
        if correction is None:
            return False
        with self._lock:
            if correction.is_new:
                correction.picture.unlink(missing_ok=True)
            for entry in self._teacher.entries(part) if correction.raised else ():
                known = _known(entry)
                if known and known[-1]["picture"] == correction.picture.stem:
                    detector = self._detector(entry)
                    detector.calibration.undo(_prediction(known[-1]))
                    _save(entry, detector, known[:-1])
            self._catalog.refresh()
        return True

    def _detector(self, entry: ModelEntry) -> AnomalyDetector:
        return self._catalog.load(entry.label)[entry.method]

    def _raise(self, label: str, part: str, path: str, picture: Path, rate: float | None) -> int:
        """Raises the thresholds of a part for a picture that is defective at a rate; returns how many."""
        inspection = inspect_picture(self._catalog, label, path, rate, None)
        taken = [e for e in self._teacher.entries(part) if self._take_back(e, self._detector(e), inspection, picture)]
        self._catalog.refresh()
        return len(taken)

    def _take_back(self, entry: ModelEntry, detector: AnomalyDetector, inspection: Inspection, picture: Path) -> bool:
        """Raises the threshold of a model that called the part defective; returns whether it did."""
        found = {d.method: inspection.predictions[name] for name, d in inspection.detectors.items()}.get(entry.method)
        if found is None or not found.is_anomalous:
            return False
        detector.calibration.take_back(found)
        new = {"score": found.image_score, "maximum": float(found.counted_map.max())}
        _save(entry, detector, [*_known(entry), {"picture": picture.stem, **new}])
        return True


def what_followed(good: bool, raised: int, still: bool) -> str:
    """The key of the text about a correction.

    Args:
        raised: how many models raised their threshold.
        still: whether the part is called defective now.
    """
    if not good:
        return "corrected_bad"
    if not raised:
        return "corrected_otherwise" if still else "corrected_kept"
    return "corrected_still" if still else "corrected_good"


def limit_of(p_values: Iterable[float]) -> float:
    """The accepted false alarms below which no method calls a part defective that was taken back."""
    return min(p_values, default=1.0)


def _known(entry: ModelEntry) -> list[dict]:
    try:
        return json.loads((Path(entry.source) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []


def _prediction(known: dict) -> AnomalyPrediction:
    return AnomalyPrediction(known["score"], np.full((1, 1), known["maximum"], np.float32))


def _save(entry: ModelEntry, detector: AnomalyDetector, known: list[dict]) -> None:
    """Writes a model with another calibration next to its folder, then puts it in its place."""
    folder = Path(entry.source)
    new = folder.with_name(f"{folder.name}.new")
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
    put_in_place(new, folder)


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
