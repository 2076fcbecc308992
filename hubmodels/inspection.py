"""One picture, inspected by all methods of a category: their predictions, their verdicts, and both as numbers.

detectors = Catalog.bundled().load("parts / washer")
inspect(detectors, "photo.png").record("parts / washer")
"""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hubmodels.appearance import BRIGHT, DARK, AppearanceCheck
from hubmodels.comparison import PreparedPicture, check_appearance, compare
from hubmodels.detector import AnomalyDetector
from hubmodels.methods import METHODS
from hubmodels.pictures import Picture
from hubmodels.prediction import AnomalyPrediction
from hubmodels.setup_change import CELL, GRID, WINDOW, setup_changed

UNSURE, MOST_UNSURE = 5, 0.5  # times the accepted rate: which good parts a person has to look at again; at most half
DECIDED = ("is_anomalous", "is_unsure", "p_value", "threshold", "unsure_threshold", "score_level")  # without a map


@dataclass(frozen=True, eq=False)
class Inspection:
    """The results of all methods of a category for one picture.

    Attributes:
        picture: upright RGB, of the size of every anomaly map.
        appearance: whether the picture looks like the category, and whether its quality is sufficient.
        detectors, predictions: by the method's title, in the order of `METHODS`.
    """

    picture: Image.Image
    appearance: AppearanceCheck
    detectors: dict[str, AnomalyDetector]
    predictions: dict[str, AnomalyPrediction]

    def at_rate(self, false_alarm_rate: float | None) -> dict[str, AnomalyPrediction]:
        """The predictions at another false-alarm rate; None = the rate that each method was calibrated for."""
        return {name: decided(self.detectors[name], p, false_alarm_rate) for name, p in self.predictions.items()}

    def record(self, category: str, rate: float | None = None) -> dict:
        """All results as numbers, ready for JSON."""
        return {
            "category": category,
            "width": self.picture.width,
            "height": self.picture.height,
            "false_alarm_rate": rate,  # None: the rate that each model was calibrated for
            "appearance_matches": self.appearance.matches,
            "warnings": list(self.appearance.warnings),
            **_together(self.predictions),
            "methods": {name: self._numbers(name, rate) for name in self.predictions},
        }

    def _numbers(self, method: str, rate: float | None) -> dict:
        calibration, least = self.detectors[method].calibration, self.detectors[method].least_size
        guaranteed, bound = (
            (calibration.guaranteed_rate(rate), calibration.bound(rate)) if calibration.size else [None] * 2
        )
        promised = {"guaranteed_false_alarm_rate": guaranteed, "false_alarm_rate_bound": bound}
        return self.predictions[method].numbers() | promised | {"least_size": least and least.pixels}

    @property
    def agree(self) -> bool | None:
        """Whether all verdicts are the same; None if there are fewer than two."""
        return all_agree(self.predictions)


def _together(predictions: Mapping[str, AnomalyPrediction]) -> dict:
    """The verdicts of all methods as numbers."""
    verdicts = count_verdicts(predictions)
    counts = {"verdicts": verdicts.total(), "defective_verdicts": verdicts[True]}
    return {"agree": all_agree(predictions), **counts, "look_again": needs_look(predictions)}


def judged_again(record: dict, detectors: Mapping[str, AnomalyDetector]) -> dict:
    """A record with the verdicts of the detectors' present thresholds; only its scores are needed.

    Regions cannot be counted again without the map. Where a threshold differs, `earlier_regions` says so.

    Args:
        detectors: by title, those that gave the scores.
    """
    rate, before = record["false_alarm_rate"], record["methods"]
    scored = {n: AnomalyPrediction(numbers["image_score"], np.zeros((1, 1))) for n, numbers in before.items()}
    now = {name: decided(detectors[name], p, rate) for name, p in scored.items()}
    methods = {n: before[n] | {key: p.numbers()[key] for key in DECIDED} for n, p in now.items()}
    is_moved = any(methods[name]["threshold"] != before[name]["threshold"] for name in methods)
    earlier = {"earlier_regions": True} if is_moved else {}
    return record | _together(now) | {"methods": methods} | earlier


class SetupWatch:
    """Notices over the pictures of a batch that camera, light or position may have changed; keeps small maps only.

    Args:
        rate: the false-alarm rate of the inspections; None = the calibrated ones.

    Attributes:
        changed: whether any row of pictures so far suggested it, for any method.
    """

    def __init__(self, rate: float | None) -> None:
        self.changed = False
        self._rate, self._last = rate, defaultdict(lambda: deque(maxlen=WINDOW))

    def add(self, inspection: Inspection) -> None:
        """Takes the next picture into account, unless it shows something else in the usual light."""
        if inspection.appearance.matches is False and not {DARK, BRIGHT} & set(inspection.appearance.warnings):
            return
        for method, prediction in inspection.predictions.items():
            last, calibration = self._last[method], inspection.detectors[method].calibration
            last.append(prediction.at_most(CELL * GRID))
            self.changed = self.changed or setup_changed(list(last), calibration, self._rate)


def inspect(
    detectors: Mapping[str, AnomalyDetector], picture: Picture | PreparedPicture, rate: float | None = None
) -> Inspection:
    """Inspects a picture with detectors of one category, at this false-alarm rate or at the calibrated ones.

    Args:
        detectors: by the method's name.

    Raises:
        PictureError: the picture cannot be inspected; the message names the cause.
        ValueError: the rate is not in (0, 1), or there are no detectors.
    """
    prepared = picture if isinstance(picture, PreparedPicture) else PreparedPicture(picture)
    predictions, appearance = compare(detectors, prepared), check_appearance(detectors, prepared)
    titles = method_titles()
    by_title = {titles[name]: detector for name, detector in detectors.items()}
    verdicts = {titles[name]: decided(detectors[name], p, rate) for name, p in predictions.items()}
    return Inspection(prepared.picture, appearance, by_title, verdicts)


def decided(detector: AnomalyDetector, prediction: AnomalyPrediction, rate: float | None) -> AnomalyPrediction:
    """The prediction at a false-alarm rate, None = the calibrated one, and unsure up to UNSURE times that rate."""
    if not detector.calibration.size:
        return prediction
    unsure = min(MOST_UNSURE, UNSURE * detector.calibration.guaranteed_rate(rate))
    return detector.decide(prediction, rate, unsure)


def count_verdicts(predictions: Mapping[str, AnomalyPrediction]) -> Counter[bool]:
    """The number of methods by verdict, True = defective; methods without a calibration do not count."""
    return Counter(p.is_anomalous for p in predictions.values() if p.is_anomalous is not None)


def needs_look(predictions: Mapping[str, AnomalyPrediction]) -> bool:
    """Whether a person should look again: a method is unsure, and none calls the part defective."""
    return any(p.is_unsure for p in predictions.values()) and not count_verdicts(predictions)[True]


def all_agree(predictions: Mapping[str, AnomalyPrediction]) -> bool | None:
    """Whether all verdicts are the same; None if there are fewer than two."""
    counts = count_verdicts(predictions)
    return None if counts.total() < 2 else len(counts) == 1


def method_titles() -> dict[str, str]:
    """The printed names of all methods, by method, in the order of display."""
    return {name: method.title for name, method in METHODS.items()}
