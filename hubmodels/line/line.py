"""One place where parts of one kind are inspected, picture after picture: results as numbers, drift, log, overlays.

line = Line.of("parts / washer", log=Path("log"))
for found in pictures_of("camera:0"):
    print(line.judge(found.name, found.picture))
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from hubmodels.appearance import Appearance
from hubmodels.comparison import PreparedPicture
from hubmodels.detector import AnomalyDetector
from hubmodels.heatmap import overlay
from hubmodels.hub.catalog import Catalog, ModelEntry, find_models
from hubmodels.hub.errors import ModelError
from hubmodels.hub.files import fetch_model, read_config
from hubmodels.inspection import Inspection, inspect, method_titles
from hubmodels.line.drift import DriftWatch
from hubmodels.line.log import InspectionLog
from hubmodels.line.log_queue import RESULT
from hubmodels.line.outputs import Outputs
from hubmodels.methods import METHODS
from hubmodels.pictures import PictureError
from hubmodels.prediction import check_rate

LOOK, BRIGHTER, DARKER = "look", "brighter", "darker"  # what is watched besides the methods' scores


@dataclass
class Line:
    """The detectors of one category, and what is kept of their results.

    Args:
        label: of the category.
        detectors: by method.
        models: by title of the method, which model it is, for the log.
        rate: accepted share of good parts called defective; None = as each model was calibrated.
        log: every result is added to it.
        overlays: folder for pictures under their heat maps.
        drift_file: keeps the state of the drift alarm.
        outputs: send what is in the log; who sets them starts them.
    """

    label: str
    detectors: dict[str, AnomalyDetector]
    models: dict[str, dict] = field(default_factory=dict)
    rate: float | None = None
    log: InspectionLog | None = None
    overlays: Path | None = None
    drift_file: Path | None = None
    outputs: Outputs = field(default_factory=Outputs)

    def __post_init__(self) -> None:
        self._last: str | None = None
        self.drift = self._drift() if self.drift_file else None
        self._names: set[str] = set()

    @classmethod
    def of(
        cls,
        model: str | Path,
        category: str | None = None,
        methods: Collection[str] | None = None,
        rate: float | None = None,
        log: Path | None = None,
        overlays: Path | None = None,
        drift_file: Path | None = None,
    ) -> Self:
        """Loads the models that a person means.

        Args:
            model, category: as `find_models`.
            methods: names of methods; None or empty = all that the category has.

        Raises:
            ModelError: there are no such models; the message has a remedy.
            ValueError: the rate is not in (0, 1).
        """
        if rate is not None:
            check_rate(rate)
        catalog, label = find_models(model, category)
        loaded = catalog.load(label)
        detectors = chosen_detectors(label, loaded, methods)
        kept = InspectionLog(log) if log else None
        return cls(label, detectors, models_used(catalog, label, detectors), rate, kept, overlays, drift_file)

    @property
    def methods(self) -> list[str]:
        """Names of the methods."""
        return list(self.detectors)

    @property
    def titles(self) -> list[str]:
        """Printed names of the methods."""
        return [method_titles()[name] for name in self.detectors]

    def judge(
        self,
        name: str,
        picture: str | Path | np.ndarray | bytes,
        rate: float | None = None,
        methods: Collection[str] | None = None,
    ) -> dict:
        """The result of `inspect`, added to the log.

        Raises:
            OSError, LogError: log, overlay or state cannot be written.
        """
        record = self.inspect(name, picture, rate, methods)
        self.keep(record)
        return record

    def inspect(
        self,
        name: str,
        picture: str | Path | np.ndarray | bytes,
        rate: float | None = None,
        methods: Collection[str] | None = None,
    ) -> dict:
        """The result for a picture as `Inspection.record`, with its name and SHA-256; or `error`, as the API's.

        Args:
            rate, methods: of this picture; by default those of the line.

        Raises:
            ModelError: the line has no such method.
            ValueError: the rate is not in (0, 1).
        """
        rate, detectors = self.rate if rate is None else rate, chosen_detectors(self.label, self.detectors, methods)
        try:
            content = picture if isinstance(picture, np.ndarray | bytes) else _read(Path(picture))
            prepared = PreparedPicture(content)
            inspection = inspect(detectors, prepared, rate)
        except PictureError as error:
            return {"picture": name, "error": {"kind": error.fault, "message": str(error)}}
        record = {"picture": name, "sha256": sha256_of(content)} | inspection.record(self.label, rate)
        if self.overlays:
            record["overlays"] = self._draw(name, inspection)
        if self.drift is not None:
            record["drift"] = self._watch(record["sha256"], inspection, prepared)
        return record

    def keep(self, record: dict) -> None:
        """Adds a result to the log, if there is one."""
        if self.log:
            used = {
                title: model for title, model in self.models.items() if title in record.get("methods", self.models)
            }
            self.log.add(RESULT, record | {"models": used})
            self.outputs.wake()

    def _draw(self, name: str, inspection: Inspection) -> dict[str, str]:
        """Writes the overlays of all methods with a verdict; returns their paths by title."""
        self.overlays.mkdir(parents=True, exist_ok=True)
        stem, number = Path(name.rpartition("/")[2]).stem or "picture", 2
        free = stem
        while free in self._names:  # of the same name in another folder
            free, number = f"{stem}-{number}", number + 1
        self._names.add(free)
        paths = {}
        for title, prediction in inspection.predictions.items():
            if prediction.is_anomalous is not None:
                paths[title] = str(self.overlays / f"{free}_{title.lower()}.png")
                overlay(inspection.picture, prediction).save(paths[title], compress_level=1)
        return paths

    def _drift(self) -> DriftWatch:
        if self.drift_file.exists():
            return self._read_drift()
        return new_drift(self.detectors)

    def _read_drift(self) -> DriftWatch:
        """The state of the drift alarm; ValueError with the remedy for another or a damaged file."""
        try:
            state = json.loads(self.drift_file.read_text(encoding="utf-8"))
            self._last = state["last"]
            return DriftWatch.from_json(state["drift"])
        except (ValueError, TypeError, KeyError) as error:
            reason = error.__cause__ or error  # `from_json` adds its own remedy
            words = f"{self.drift_file} is no state of a drift watch ({reason}): delete it to begin again"
            raise ValueError(words) from error

    def _watch(self, sha256: str, inspection: Inspection, prepared: PreparedPicture) -> dict:
        """Where the drift alarm stands. The same picture again, as after a crash, does not count."""
        if sha256 != self._last:
            self.drift.add(drift_numbers(self.drift, inspection, prepared))
            self._last = sha256
            new = self.drift_file.with_name(f".{self.drift_file.name}")
            new.write_text(json.dumps({"last": sha256, "drift": self.drift.to_json()}), encoding="utf-8")
            new.replace(self.drift_file)
        return {name: getattr(self.drift, name) for name in ("pictures", "alarm", "cause", "capital")}


def new_drift(detectors: Mapping[str, AnomalyDetector]) -> DriftWatch:
    """A drift watch for the detectors of a category, by name: of their scores, of the look and of the light."""
    titles = method_titles()
    known = {titles[n]: d.calibration.image_scores.tolist() for n, d in detectors.items() if d.calibration.size}
    fitted = [detector.appearance for detector in detectors.values() if detector.appearance.is_fitted]
    return DriftWatch(known | (look_and_light(fitted[0]) if fitted else dict.fromkeys((LOOK, BRIGHTER, DARKER), ())))


def look_and_light(appearance: Appearance) -> dict[str, list[float]]:
    """What is known of the look and the light of good parts, as series of a drift watch."""
    light = appearance.brightness.tolist()
    return {LOOK: appearance.looks.tolist(), BRIGHTER: light, DARKER: [-each for each in light]}


def drift_numbers(drift: DriftWatch, inspection: Inspection, prepared: PreparedPicture) -> dict[str, float | None]:
    """The numbers of a picture that a drift watch takes."""
    brightness = prepared.statistics(next(iter(inspection.detectors.values())).front_end).brightness
    scores = {title: p.image_score for title, p in inspection.predictions.items() if title in drift.series}
    return scores | {BRIGHTER: brightness, DARKER: -brightness, LOOK: inspection.appearance.ratio}


def chosen_detectors(
    label: str, detectors: Mapping[str, AnomalyDetector], methods: Collection[str] | None
) -> dict[str, AnomalyDetector]:
    """The detectors of these methods; all detectors, if no method is named.

    Raises:
        ModelError: a method has no detector.
    """
    if missing := [name for name in methods or () if name not in detectors]:
        raise ModelError(f"{label} has no model of {', '.join(missing)}; it has: {', '.join(detectors)}")
    return {name: detector for name, detector in detectors.items() if not methods or name in methods}


def drift_in_words(record: Mapping) -> str | None:
    """What to say where this picture raised the drift alarm."""
    drift = record.get("drift")
    if not drift or drift["alarm"] != drift["pictures"]:
        return None
    reason = f"the parts look different from those taught or seen before ({drift['cause']})"
    return f"DRIFT at picture {drift['alarm']}: {reason}. Check light, camera, position and material."


def sha256_of(content: bytes | np.ndarray) -> str:
    """Of a file's bytes, or of an array's."""
    return hashlib.sha256(np.ascontiguousarray(content) if isinstance(content, np.ndarray) else content).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PictureError(f"{path} cannot be read ({error.strerror or error})", "unreadable") from error


def models_used(catalog: Catalog, label: str, detectors: Mapping[str, AnomalyDetector]) -> dict[str, dict]:
    """By title of the method, which model of a category each detector (by method) is, for the log."""
    entries = [e for e in catalog.entries if e.label == label and e.method in detectors]
    return {METHODS[e.method].title: _model(e, detectors[e.method]) for e in entries}


def _model(entry: ModelEntry, detector: AnomalyDetector) -> dict:
    """Which model it is, for the log."""
    config_file, _ = fetch_model(entry.source, revision=entry.revision, local_files_only=True)
    region = detector.front_end.region
    return {
        "name": entry.name,
        "source": os.path.abspath(entry.source) if entry.revision is None else entry.source,
        "revision": entry.revision,
        "weights_sha256": read_config(config_file, entry.source).get("weights_sha256"),
        "counted_share": None if region is None else region.share,
    }
