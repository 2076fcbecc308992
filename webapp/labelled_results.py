"""The results of several methods on labelled pictures, and how often each method was right.

Results contain a few numbers per picture and no maps, so they need little memory. Scores of several categories are
compared on the scale of `AnomalyPrediction.score_level`, where the threshold of each model is 1. Within one category
this scale orders the pictures as the raw scores do.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hubmodels import AnomalyPrediction
from hubmodels.hub.catalog import ModelEntry
from hubmodels.paired_tests import Difference, auroc_interval, compare_auroc, mcnemar
from hubmodels.samples import Category, Sample


def by_category(categories: Iterable[Category], entries: Iterable[ModelEntry]) -> dict[str, list[Sample]]:
    """The test pictures for which there is a model, by the label of its category, in the order of the entries."""
    labels = {entry.label: (entry.dataset, entry.category) for entry in entries}
    known = list(categories)
    found = {
        label: [s for c in known if c.name == category and c.dataset in (None, dataset) for s in c.test]
        for label, (dataset, category) in labels.items()
    }
    return {label: samples for label, samples in found.items() if samples}


@dataclass(frozen=True)
class Outcome:
    """The result of one method for one picture.

    Attributes:
        category: the label of the model's category, such as "mvtec / screw".
        level: the score, 0 = a typical good part, above 1 = anomalous; None if the model is not calibrated.
        is_anomalous: the verdict; None if the model is not calibrated.
        is_unsure: a person should look again: the verdict is good, but not by much.
    """

    picture: Sample
    category: str
    image_score: float
    level: float | None
    is_anomalous: bool | None
    is_unsure: bool = False

    @property
    def is_right(self) -> bool | None:
        """Whether the verdict is correct; None without a verdict."""
        return None if self.is_anomalous is None else self.is_anomalous == bool(self.picture.label)

    @property
    def distance(self) -> float:
        """Distance from the threshold, in levels."""
        return 0.0 if self.level is None else abs(self.level - 1)


@dataclass(frozen=True)
class MethodResults:
    """All outcomes of one method. Rates are fractions, and None without pictures of the class."""

    outcomes: tuple[Outcome, ...]

    def count(self, label: int) -> int:
        """Number of normal (0) or anomalous (1) pictures."""
        return sum(outcome.picture.label == label for outcome in self.outcomes)

    def flagged(self, label: int) -> int:
        """Number of pictures of a class that were called anomalous."""
        return sum(outcome.picture.label == label and bool(outcome.is_anomalous) for outcome in self.outcomes)

    def unsure(self) -> int:
        """Number of pictures that a person should look at again."""
        return sum(outcome.is_unsure for outcome in self.outcomes)

    @property
    def is_calibrated(self) -> bool:
        """Whether every picture has a verdict and a level."""
        return bool(self.outcomes) and all(outcome.is_anomalous is not None for outcome in self.outcomes)

    @property
    def recall(self) -> float | None:
        """Share of the anomalous pictures that were called anomalous, at the calibrated threshold."""
        return self._rate(1)

    @property
    def false_alarm_rate(self) -> float | None:
        """Share of the normal pictures that were called anomalous, at the calibrated threshold."""
        return self._rate(0)

    def auroc(self) -> float | None:
        """Image AUROC, exact: ties count one half."""
        from sklearn.metrics import roc_auc_score  # takes a second, and most visitors do not need it

        labels, scores = self._labels_and_scores()
        return float(roc_auc_score(labels, scores)) if len(set(labels)) == 2 else None

    def auroc_interval(self) -> tuple[float, float] | None:
        """95 % interval of the image AUROC, because of the choice of the pictures."""
        labels, scores = self._labels_and_scores()
        return auroc_interval(scores, labels) if len(set(labels)) == 2 else None

    def roc(self) -> list[tuple[float, float]]:
        """(false-alarm rate, recall) at every threshold, from (0, 0) to (1, 1); empty if a class is missing."""
        from sklearn.metrics import roc_curve

        labels, scores = self._labels_and_scores()
        if len(set(labels)) < 2:
            return []
        false_alarms, recall, _ = roc_curve(labels, scores, drop_intermediate=False)
        return list(zip(false_alarms.tolist(), recall.tolist(), strict=True))

    def scores(self, label: int) -> NDArray[np.float64]:
        """Ascending scores of a class: levels, or raw scores if there is no calibration and one category."""
        labels, scores = self._labels_and_scores()
        return np.sort([score for own, score in zip(labels, scores, strict=True) if own == label])

    def _labels_and_scores(self) -> tuple[list[int], list[float]]:
        """Of all pictures; empty if there is no calibration and several categories: their scores do not compare."""
        if not self.is_calibrated and len({outcome.category for outcome in self.outcomes}) > 1:
            return [], []
        scores = [o.level if self.is_calibrated else o.image_score for o in self.outcomes]
        return [outcome.picture.label for outcome in self.outcomes], scores

    def histogram(self, label: int, edges: NDArray[np.float64]) -> list[int]:
        """Number of pictures of a class per interval (low, high] of the level; the first and last are open."""
        clipped = np.clip(self.scores(label), edges[0], edges[-1])
        return np.histogram(-clipped, -edges[::-1])[0][::-1].tolist()  # numpy's own intervals are [low, high)

    @property
    def mistakes(self) -> list[Outcome]:
        """Wrong verdicts, the most distant from the threshold first."""
        return sorted((o for o in self.outcomes if o.is_right is False), key=lambda o: -o.distance)

    def worst(self, n: int) -> list[Outcome]:
        """Up to n missed defects, lowest level first, then up to n false alarms, highest level first."""
        return [o for label in (1, 0) for o in [m for m in self.mistakes if m.picture.label == label][:n]]

    def closest(self, n: int) -> list[Outcome]:
        """Up to n correct verdicts, the nearest to the threshold first."""
        return sorted((o for o in self.outcomes if o.is_right), key=lambda o: o.distance)[:n]

    def _rate(self, label: int) -> float | None:
        return self.flagged(label) / self.count(label) if self.is_calibrated and self.count(label) else None


@dataclass(frozen=True)
class PairedResults:
    """The outcomes of two methods on the pictures that both inspected, in the same order."""

    one: MethodResults
    other: MethodResults

    def verdicts(self) -> Counter[tuple[bool, bool]]:
        """Number of pictures by (one is right, the other is right), where both gave a verdict."""
        return Counter(self._both_right())

    def mcnemar(self) -> float | None:
        """p-value of McNemar's test: is one method right more often? None without two verdicts on a picture."""
        right = self._both_right()
        return mcnemar(*zip(*right, strict=True)) if right else None

    def auroc_difference(self) -> Difference | None:
        """Image AUROC of one minus that of the other; None if a class has fewer than two scores."""
        (labels, ours), (_, others) = (results._labels_and_scores() for results in (self.one, self.other))
        can_test = len(ours) == len(others) and min(labels.count(label) for label in (0, 1)) >= 2
        return compare_auroc([ours], [others], labels) if can_test else None

    def _both_right(self) -> list[tuple[bool, bool]]:
        pairs = zip(self.one.outcomes, self.other.outcomes, strict=True)
        return [(a.is_right, b.is_right) for a, b in pairs if None not in (a.is_right, b.is_right)]


class LabelledResults:
    """The outcomes of several methods on the same pictures.

    Attributes:
        rows: for each picture, the outcomes by method.
        problems: (name, reason) of pictures that could not be inspected.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Outcome]] = []
        self.problems: list[tuple[str, str]] = []

    def add(self, picture: Sample, category: str, predictions: Mapping[str, AnomalyPrediction]) -> None:
        """Adds the numbers of one picture's predictions, by method; the maps are not kept."""
        self.rows.append(
            {
                name: Outcome(picture, category, p.image_score, p.score_level, p.is_anomalous, bool(p.is_unsure))
                for name, p in predictions.items()
            }
        )

    @property
    def categories(self) -> list[str]:
        """Labels of all categories so far."""
        return list(dict.fromkeys(outcome.category for row in self.rows for outcome in row.values()))

    def of(self, method: str, category: str | None = None) -> MethodResults:
        """The outcomes of a method, in one category or in all categories."""
        outcomes = (row[method] for row in self.rows if method in row)
        return MethodResults(tuple(o for o in outcomes if category in (None, o.category)))

    def pair(self, one: str, other: str) -> PairedResults:
        """The outcomes of two methods on the pictures that both inspected."""
        shared = [row for row in self.rows if one in row and other in row]
        return PairedResults(*(MethodResults(tuple(row[name] for row in shared)) for name in (one, other)))
