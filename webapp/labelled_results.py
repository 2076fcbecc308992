"""Labelled pictures: what each method found in them, and how often it was right.

Only a few numbers per picture are kept and no map, so memory does not grow with the pictures. Scores of several
categories are compared on the scale of `AnomalyPrediction.score_level`, on which every model's threshold is 1. Within
one category that scale orders the pictures exactly as the raw scores do.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hubmodels.hub.listing import ModelEntry
from hubmodels.prediction import AnomalyPrediction
from hubmodels.samples import Category, Sample


def by_category(categories: Iterable[Category], entries: Iterable[ModelEntry]) -> dict[str, list[Sample]]:
    """The test pictures that a model can judge, by the label of its category; in the order of the entries."""
    labels = {entry.label: (entry.dataset, entry.category) for entry in entries}
    known = list(categories)
    found = {
        label: [s for c in known if c.name == category and c.dataset in (None, dataset) for s in c.test]
        for label, (dataset, category) in labels.items()
    }
    return {label: samples for label, samples in found.items() if samples}


@dataclass(frozen=True)
class Outcome:
    """What one method said of one picture.

    Attributes:
        category: the label of the model's category, such as "mvtec / screw".
        level: the score, 0 = a typical good part, above 1 = anomalous; None where the model is not calibrated.
        is_anomalous: the verdict; None where the model is not calibrated.
    """

    picture: Sample
    category: str
    image_score: float
    level: float | None
    is_anomalous: bool | None

    @property
    def is_right(self) -> bool | None:
        """Whether the verdict is the truth; None without a verdict."""
        return None if self.is_anomalous is None else self.is_anomalous == bool(self.picture.label)

    @property
    def distance(self) -> float:
        """From the threshold, in levels: how far a mistake is from being none."""
        return 0.0 if self.level is None else abs(self.level - 1)


@dataclass(frozen=True)
class MethodResults:
    """How one method did. Rates are fractions; what the pictures cannot tell, for want of a class, is None."""

    outcomes: tuple[Outcome, ...]

    def count(self, label: int) -> int:
        """Number of normal (0) or anomalous (1) pictures."""
        return sum(outcome.picture.label == label for outcome in self.outcomes)

    def flagged(self, label: int) -> int:
        """How many of them were called anomalous."""
        return sum(outcome.picture.label == label and bool(outcome.is_anomalous) for outcome in self.outcomes)

    @property
    def is_judged(self) -> bool:
        """Whether there is a verdict on every picture, and a level to draw it at."""
        return bool(self.outcomes) and all(outcome.is_anomalous is not None for outcome in self.outcomes)

    @property
    def recall(self) -> float | None:
        """Share of the anomalous pictures that were called so, at the calibrated threshold."""
        return self._rate(1)

    @property
    def false_alarm_rate(self) -> float | None:
        """Share of the normal pictures that were called anomalous, at the calibrated threshold."""
        return self._rate(0)

    def auroc(self) -> float | None:
        """Image AUROC, exact: the chance that a defective picture scores above a good one, ties counted half."""
        normal, anomalous = self.scores(0), self.scores(1)
        if not (normal.size and anomalous.size):
            return None
        lower, not_higher = (np.searchsorted(normal, anomalous, side) for side in ("left", "right"))
        return float((lower + not_higher).mean() / (2 * normal.size))

    def roc(self) -> list[tuple[float, float]]:
        """(false-alarm rate, recall) at every threshold, from (0, 0) to (1, 1); empty where a class is missing."""
        normal, anomalous = self.scores(0), self.scores(1)
        if not (normal.size and anomalous.size):
            return []
        thresholds = np.unique(np.concatenate([normal, anomalous]))[::-1]
        rates = [1 - np.searchsorted(scores, thresholds, "left") / scores.size for scores in (normal, anomalous)]
        return [(0.0, 0.0), *zip(*(rate.tolist() for rate in rates), strict=True)]

    def scores(self, label: int) -> NDArray[np.float64]:
        """Ascending scores of a class: levels, or raw scores of the one category of a model without calibration."""
        if self.is_judged:
            return np.sort([o.level for o in self.outcomes if o.picture.label == label])
        if len({outcome.category for outcome in self.outcomes}) > 1:
            return np.empty(0)  # raw scores of different models cannot be ordered
        return np.sort([o.image_score for o in self.outcomes if o.picture.label == label])

    def histogram(self, label: int, edges: NDArray[np.float64]) -> list[int]:
        """Number of pictures of a class per interval (low, high] of the level; those beyond the edges count there."""
        clipped = np.clip(self.scores(label), edges[0], edges[-1])
        return np.histogram(-clipped, -edges[::-1])[0][::-1].tolist()  # numpy's own intervals are [low, high)

    @property
    def mistakes(self) -> list[Outcome]:
        """Verdicts that are not the truth, those farthest from the threshold first."""
        return sorted((o for o in self.outcomes if o.is_right is False), key=lambda o: -o.distance)

    def worst(self, n: int) -> list[Outcome]:
        """Up to n missed defects, least suspected first, then up to n false alarms, most suspected first."""
        return [o for label in (1, 0) for o in [m for m in self.mistakes if m.picture.label == label][:n]]

    def closest(self, n: int) -> list[Outcome]:
        """Up to n right verdicts, those nearest to the threshold first."""
        return sorted((o for o in self.outcomes if o.is_right), key=lambda o: o.distance)[:n]

    def _rate(self, label: int) -> float | None:
        return self.flagged(label) / self.count(label) if self.is_judged and self.count(label) else None


class LabelledResults:
    """Several methods on the same pictures.

    Attributes:
        rows: for each picture, what the methods said of it, by their names.
        problems: what could not be judged, and why.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Outcome]] = []
        self.problems: list[str] = []

    def add(self, picture: Sample, category: str, predictions: Mapping[str, AnomalyPrediction]) -> None:
        """Keeps the numbers of one picture's predictions, by method name, and lets the maps go."""
        self.rows.append(
            {
                name: Outcome(
                    picture, category, prediction.image_score, prediction.score_level, prediction.is_anomalous
                )
                for name, prediction in predictions.items()
            }
        )

    @property
    def categories(self) -> list[str]:
        """Labels of all categories judged so far."""
        return list(dict.fromkeys(outcome.category for row in self.rows for outcome in row.values()))

    def of(self, method: str, category: str | None = None) -> MethodResults:
        """How a method did, in one category or in all of them."""
        outcomes = (row[method] for row in self.rows if method in row)
        return MethodResults(tuple(o for o in outcomes if category in (None, o.category)))

    def pairing(self, one: str, other: str) -> Counter[tuple[bool, bool]]:
        """Number of pictures by (whether one is right, whether the other is right), where both gave a verdict."""
        pairs = [(row[one].is_right, row[other].is_right) for row in self.rows if one in row and other in row]
        return Counter(pair for pair in pairs if None not in pair)
