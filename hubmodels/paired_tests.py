"""Is one detector better than another? Paired tests on the same pictures, with intervals.

Two things vary: the test pictures, and the seeds of the training. A difference of two methods is that of their mean
metrics over the runs. Its variance is that of the pictures (DeLong, or a bootstrap over pictures), plus that of the
runs where both methods have several. Intervals and p-values are those of Student's t with Satterthwaite's degrees of
freedom. With one run of a method, the result is about this trained model and not about the method.

All metrics are fractions in [0, 1]; scores are higher = more anomalous; labels are 0 = normal and 1 = anomalous.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtri, stdtr, stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A metric of one method, with its limits on the logit scale, which stay inside [0, 1].

    Attributes:
        value: mean over the runs.
        variance: of the mean.
        freedom: degrees of freedom of the variance.
        pairs: independent pairs of a normal and an anomalous picture; they limit a metric that is 0 or 1.
    """

    value: float
    variance: float
    freedom: float
    pairs: int

    def limits(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Two-sided interval; one-sided at 0 and 1, where the variance is unknown (see `hanley_interval`)."""
        if self.value in (0, 1) or not self.variance:
            reach = 1 - (1 - confidence) ** (1 / self.pairs)
            return max(0.0, self.value - reach), min(1.0, self.value + reach)
        reach = stdtrit(self.freedom, (1 + confidence) / 2) * self.variance**0.5
        return _on_logit_scale(self.value, float(reach))


@dataclass(frozen=True)
class Difference:
    """A metric of two methods, and what their difference can be.

    Attributes:
        ours, other: mean of the metric over the runs of each.
        of_pictures: variance of the difference because of the test pictures.
        of_runs: the same because of the seeds; 0 if a method has one run.
        freedom: degrees of freedom of the sum of both.
        counts: number of runs of each.
        estimates: of ours and of the other, if the metric needs intervals that are not symmetric.
    """

    ours: float
    other: float
    of_pictures: float
    of_runs: float
    freedom: float
    counts: tuple[int, int]
    estimates: tuple[Estimate, Estimate] | None = None

    @property
    def value(self) -> float:
        """Ours minus the other."""
        return self.ours - self.other

    @property
    def error(self) -> float:
        """Standard error of the difference; 0 if no picture tells the two apart, so that no test is possible."""
        return float(np.sqrt(self.of_pictures + self.of_runs))

    @property
    def interval(self) -> tuple[float, float]:
        """Two-sided 95 % interval of the difference."""
        return self._bounds(CONFIDENCE)

    @property
    def at_least(self) -> float:
        """One-sided 95 % bound: ours is not worse than the other by more than minus this."""
        return self._bounds(2 * CONFIDENCE - 1)[0]

    @property
    def p(self) -> float:
        """Two-sided p-value of no difference; 1 if no picture tells the two apart."""
        if not self.error:
            return float(self.value == 0)
        return float(2 * stdtr(self.freedom, -abs(self.value) / self.error))

    def _bounds(self, confidence: float) -> tuple[float, float]:
        if self.estimates is None or (not self.error and 0 < self.ours < 1):  # all pictures in the same order
            reach = float(stdtrit(self.freedom, (1 + confidence) / 2) * self.error) if self.error else 0.0
            return self.value - reach, self.value + reach
        (low, high), (other_low, other_high) = (estimate.limits(confidence) for estimate in self.estimates)
        down, up = self.ours - low, high - self.ours
        other_down, other_up = self.other - other_low, other_high - self.other
        return self.value - self._together(down, other_up), self.value + self._together(up, other_down)

    def _together(self, one: float, other: float) -> float:
        """Reach of the difference from those of both, which are correlated."""
        return float(np.sqrt(max(0.0, one**2 + other**2 - 2 * self._correlation * one * other)))

    @property
    def _correlation(self) -> float:
        variances = [estimate.variance for estimate in self.estimates]
        if not all(variances):
            return 0.0
        return float(np.clip((sum(variances) - self.error**2) / (2 * np.sqrt(np.prod(variances))), -1, 1))


def difference(
    ours: Sequence[float],
    other: Sequence[float],
    of_pictures: Sequence[float],
    freedom: Sequence[float],
    counted_twice: Sequence[float] = (0, 0),
) -> Difference:
    """The difference of two methods.

    Args:
        ours, other: the metric of each run.
        of_pictures: independent parts of the variance of the difference that come from the test pictures.
        freedom: degrees of freedom of each part.
        counted_twice: for ours and the other, the variance of its mean because runs differ in which pictures are
            difficult. It is in `of_pictures` and between the runs; it is taken from the latter.
    """
    parts, degrees = list(of_pictures), list(freedom)
    if len(ours) > 1 and len(other) > 1:
        parts += [between_runs(*side) for side in zip((ours, other), counted_twice, strict=True)]
        degrees += [len(runs) - 1 for runs in (ours, other)]
    total, degrees_of_total = sum_of_variances(parts, degrees)
    return Difference(
        *(float(np.mean(runs)) for runs in (ours, other)),
        *(float(sum(of_pictures)), float(total - sum(of_pictures))),
        freedom=degrees_of_total,
        counts=(len(ours), len(other)),
    )


def between_runs(values: Sequence[float], counted_twice: float) -> float:
    """Variance of the mean of several runs because of their seeds, without what the pictures already account for."""
    return max(0.0, float(np.var(values, ddof=1)) / len(values) - counted_twice)


def sum_of_variances(parts: Sequence[float], freedom: Sequence[float]) -> tuple[float, float]:
    """Sum of independent variances, and Satterthwaite's degrees of freedom of it."""
    total = float(sum(parts))
    spread = sum(part**2 / count for part, count in zip(parts, freedom, strict=True))
    return total, float(total**2 / spread) if spread else float("inf")


# ---------------------------------------------------------------- image AUROC


def placements(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """Share of the normal pictures below each anomalous one, and of the anomalous ones above each normal one.

    Ties count one half. The mean of either is the image AUROC.

    Raises:
        ValueError: a class is missing, or the shapes differ.
    """
    values, classes = np.asarray(scores, float), np.asarray(labels)
    if values.shape != classes.shape or not {0, 1} <= set(classes.tolist()):
        raise ValueError("image AUROC needs a score for each label, and pictures of both classes")
    anomalous, normal = values[classes == 1], values[classes == 0]
    return _share_below(anomalous, normal), _share_below(-normal, -anomalous)


def _share_below(values: NDArray, others: NDArray) -> NDArray:
    ordered = np.sort(others)
    return sum(np.searchsorted(ordered, values, side) for side in ("left", "right")) / 2 / len(others)


def compare_auroc(ours: Sequence[ArrayLike], other: Sequence[ArrayLike], labels: ArrayLike) -> Difference:
    """DeLong's test of the image AUROC of two methods on the same pictures (DeLong et al., Biometrics 1988).

    The p-value is that of DeLong's variance. The interval combines the intervals of both AUROCs on the logit scale and
    their correlation (Zou and Donner, Statistics in Medicine 27, 2008), because DeLong's variance is too small near 1.
    So in rare cases one of them excludes 0 and the other does not.

    Args:
        ours, other: scores (N,) of each run.
        labels: (N,), at least two pictures of each class.

    Raises:
        ValueError: a class has fewer than two pictures, or the shapes differ.
    """
    sides = [[np.array(p) for p in zip(*(placements(s, labels) for s in runs), strict=True)] for runs in (ours, other)]
    means = [[each.mean(0) for each in side] for side in sides]
    gaps = [one - two for one, two in zip(*means, strict=True)]
    if min(map(len, gaps)) < 2:
        raise ValueError("the variance of image AUROC needs at least two normal and two anomalous pictures")
    twice = [sum(map(_interaction, side)) for side in sides]
    values = [side[0].mean(1).tolist() for side in sides]
    found = difference(*values, *_delong(gaps), counted_twice=twice)
    seeds = min(map(len, values)) > 1
    both = zip(values, means, twice, strict=True)
    return replace(found, estimates=tuple(_estimate(*side, seeds=seeds) for side in both))


def _estimate(values: Sequence[float], placed: Sequence[NDArray], twice: float, seeds: bool) -> Estimate:
    """Image AUROC of one method, from that of its runs and from the mean placements."""
    parts, degrees = _delong(placed)
    if seeds:
        parts, degrees = [*parts, between_runs(values, twice)], [*degrees, len(values) - 1]
    return Estimate(float(np.mean(values)), *sum_of_variances(parts, degrees), pairs=min(map(len, placed)))


def _interaction(values: NDArray) -> float:
    """Variance of the mean of (R, n) values because each run has other difficult pictures; 0 with one run."""
    runs, count = values.shape
    if runs == 1:
        return 0.0
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    return float((rest**2).sum() / ((runs - 1) * (count - 1)) / (runs * count))


def _delong(gaps: Sequence[NDArray]) -> tuple[list[float], list[int]]:
    """The parts of DeLong's variance and their degrees of freedom, from the placements of each class."""
    return [float(np.var(gap, ddof=1)) / len(gap) for gap in gaps], [len(gap) - 1 for gap in gaps]


def bootstrap_auroc(
    ours: Sequence[ArrayLike], other: Sequence[ArrayLike], labels: ArrayLike, samples: int = 1000
) -> tuple[float, float]:
    """95 % percentile interval of the difference in image AUROC, from a paired bootstrap over the pictures.

    Normal and anomalous pictures are drawn apart, and all runs get the same ones. Seeds do not vary.

    Args:
        ours, other: scores (N,) of each run.
        labels: (N,), pictures of both classes.

    Raises:
        ValueError: a class is missing.
    """
    classes, rng = np.asarray(labels), np.random.default_rng(0)
    groups = [np.flatnonzero(classes == label) for label in (0, 1)]
    if not all(map(len, groups)):
        raise ValueError("the bootstrap needs pictures of both classes")
    draws = [[rng.choice(group, len(group)) for group in groups] for _ in range(samples)]
    normal, anomalous = (np.array([np.bincount(draw[i], minlength=len(classes)) for draw in draws]) for i in (0, 1))
    won = np.zeros(normal.shape)  # by the drawn anomalous pictures against each normal one, ours less the other's
    for some in np.array_split(groups[1], len(groups[1]) // 100 + 1):  # all pairs at once need too much memory
        sides = [np.mean([_won(np.asarray(scores), some) for scores in runs], axis=0) for runs in (ours, other)]
        won += anomalous[:, some] @ (sides[0] - sides[1])
    gaps = (won * normal).sum(1) / (len(groups[0]) * len(groups[1]))
    low, high = np.quantile(gaps, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _won(scores: NDArray, some: NDArray) -> NDArray:
    """1 where one of some pictures has the higher score than one of all, 1/2 where they are equal, and 0."""
    return np.mean([scores[some, None] > scores, scores[some, None] >= scores], axis=0)


def auroc_interval(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """95 % interval of the image AUROC of one model: DeLong's variance on the logit scale, so it stays inside [0, 1].

    `hanley_interval` replaces it where this variance is 0 or unknown: at an AUROC of 0 or 1, if all scores are
    equal, and with one picture of a class.

    Near 0 and 1 it can be too narrow. In a simulation with 50 normal and 100 anomalous pictures, 94 % of the intervals
    contained an AUROC of 0.99. With three times the spread of the anomalous scores it was 88 %.

    Args:
        scores, labels: (N,), pictures of both classes.
    """
    placed = placements(scores, labels)
    auroc, counts = float(placed[0].mean()), [len(each) for each in placed]
    found = _estimate([auroc], placed, 0, seeds=False) if min(counts) > 1 else None
    if found is None or not found.variance:
        return hanley_interval(auroc, normal=counts[1], anomalous=counts[0])
    return found.limits()


def hanley_interval(auroc: float, normal: int, anomalous: int) -> tuple[float, float]:
    """95 % interval of an image AUROC if only its value and the numbers of pictures are known.

    It has the variance of Hanley and McNeil ("The meaning and use of the area under a receiver operating
    characteristic (ROC) curve", Radiology 143, 1982) on the logit scale. This variance assumes exponential scores.

    It is 0 at an AUROC of 0 or 1. There, the one-sided limit needs no assumption. The pictures form min(normal,
    anomalous) independent pairs of both classes. The probability that all are in order is at most AUROC ** pairs. For
    many pictures, the limit is 3 / pairs away (the rule of three).

    Args:
        normal, anomalous: number of pictures, at least 1.
    """
    if auroc in (0, 1):
        limit = (1 - CONFIDENCE) ** (1 / min(normal, anomalous))
        return (limit, 1.0) if auroc else (0.0, 1 - limit)
    shared = 1 + (anomalous - 1) * (1 - auroc) / (2 - auroc) + (normal - 1) * auroc / (1 + auroc)
    error = np.sqrt(auroc * (1 - auroc) * shared / (normal * anomalous))  # their formula, without cancellation
    return _on_logit_scale(auroc, float(ndtri((1 + CONFIDENCE) / 2) * error))


def _on_logit_scale(auroc: float, reach: float) -> tuple[float, float]:
    """AUROC plus and minus `reach`, both taken on the logit scale."""
    middle, reach = logit(auroc), reach / (auroc * (1 - auroc))
    return float(expit(middle - reach)), float(expit(middle + reach))


# ---------------------------------------------------------------- verdicts


def mcnemar(ours: ArrayLike, other: ArrayLike) -> float:
    """Exact two-sided p-value of McNemar's test.

    Args:
        ours, other: (N,) bool, whether each is right on the same pictures.
    """
    from scipy.stats import binomtest  # takes a second

    ours, other = np.asarray(ours, bool), np.asarray(other, bool)
    only = int((ours & ~other).sum()), int((other & ~ours).sum())
    return float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0


# ---------------------------------------------------------------- several categories, several tests


def wilcoxon(ours: ArrayLike, other: ArrayLike) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test over categories; 1 if no category differs."""
    from scipy import stats  # takes a second

    gaps = np.asarray(ours, float) - np.asarray(other, float)
    return float(stats.wilcoxon(gaps).pvalue) if np.any(gaps) else 1.0


def holm(p_values: ArrayLike) -> NDArray:
    """p-values (N,) of a family of tests, corrected by Holm's method, in the same order."""
    values = np.asarray(p_values, float)
    order = np.argsort(values)
    scaled = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(scaled, 1)
    return corrected
