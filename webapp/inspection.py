"""One picture, judged by all methods of a category; every tab and endpoint asks here."""

import threading
from dataclasses import dataclass

from PIL import Image

from hubmodels import AnomalyDetector, AnomalyPrediction, AppearanceCheck, PreparedPicture, check, compare, suggest
from hubmodels.hub.catalog import Catalog
from hubmodels.hub.listing import METHODS
from hubmodels.pictures import Picture

# Events that ask a model share one place in Gradio's queue. A batch has a place of its own, or nobody else could
# inspect while it lasts: it takes turns with the others by `_turn`, one picture each.
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
BATCH = {"concurrency_id": "batch", "concurrency_limit": 1}
_turn = threading.Lock()


@dataclass(frozen=True, eq=False)
class Inspection:
    """What the methods of a category say about one picture.

    Attributes:
        picture: upright RGB, of the size of every anomaly map.
        resemblance: whether the picture looks like the category, and is fit to be judged.
        detectors, predictions: by the method's printed name, in the order of `METHODS`.
    """

    picture: Image.Image
    resemblance: AppearanceCheck
    detectors: dict[str, AnomalyDetector]
    predictions: dict[str, AnomalyPrediction]

    def at_rate(self, false_alarm_rate: float | None) -> dict[str, AnomalyPrediction]:
        """The predictions, decided at another false-alarm rate; None = the one each was calibrated for."""
        return {name: self.detectors[name].decide(p, false_alarm_rate) for name, p in self.predictions.items()}

    def record(self, category: str, rate: float | None = None) -> dict:
        """All that can be said in numbers, ready for JSON."""
        return {
            "category": category,
            "width": self.picture.width,
            "height": self.picture.height,
            "false_alarm_rate": rate,  # None: the one each model was calibrated for
            "appearance_matches": self.resemblance.matches,
            "warnings": list(self.resemblance.warnings),
            "agree": self.agree,
            "methods": {name: self._numbers(name, rate) for name in self.predictions},
        }

    def _numbers(self, method: str, rate: float | None) -> dict:
        calibration = self.detectors[method].calibration
        guaranteed = calibration.guaranteed_rate(rate) if calibration.size else None
        return self.predictions[method].numbers() | {"guaranteed_false_alarm_rate": guaranteed}

    @property
    def agree(self) -> bool | None:
        """Whether all methods give the same verdict; None where there are not two verdicts to compare."""
        return agreement(self.predictions)


def judge(
    catalog: Catalog, category: str | None, picture: Picture | PreparedPicture, rate: float | None = None
) -> Inspection:
    """Reads a picture and asks the category's methods, at a false-alarm rate of one's own or the calibrated ones.

    Raises:
        PictureError, ModelError, BackboneError: the message says what to do.
        ValueError: the rate lies outside (0, 1).
    """
    look = picture if isinstance(picture, PreparedPicture) else PreparedPicture(picture)
    detectors = catalog.load(category)
    with _turn:
        predictions, resemblance = compare(detectors, look), check(detectors, look)
    names = [METHODS[detector.method].__name__ for detector in detectors]
    decided = [d.decide(p, rate) for d, p in zip(detectors, predictions, strict=True)]
    return Inspection(
        look.picture, resemblance, dict(zip(names, detectors, strict=True)), dict(zip(names, decided, strict=True))
    )


def suggest_category(catalog: Catalog, look: PreparedPicture) -> str | None:
    """The category that a picture looks like most; None where it looks like none of them."""
    scouts = catalog.scouts()
    with _turn:
        ranked = suggest(scouts, look)
    return ranked[0][0] if ranked and ranked[0][1].matches else None


def agreement(predictions: dict[str, AnomalyPrediction]) -> bool | None:
    """Whether all methods give the same verdict; None where there are not two verdicts to compare."""
    verdicts = [prediction.is_anomalous for prediction in predictions.values()]
    return None if len(verdicts) < 2 or None in verdicts else len(set(verdicts)) == 1
