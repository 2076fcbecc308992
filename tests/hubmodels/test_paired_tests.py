"""Paired tests: hand-worked cases, scipy and scikit-learn, and how often intervals contain the truth."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from hubmodels.paired_tests import (
    auroc_interval,
    bootstrap_auroc,
    compare_auroc,
    difference,
    hanley_interval,
    holm,
    mcnemar,
    placements,
    wilcoxon,
)

LABELS = np.array([0] * 40 + [1] * 60)


def scores(rng, shift, shared=None, noise=1.0):
    """Scores of a method whose defective pictures are `shift` higher; `shared` are difficulties of the pictures."""
    shared = 0 if shared is None else shared
    return shift * LABELS + shared + noise * rng.normal(size=len(LABELS))


def test_placements_with_ties_by_hand():
    below, above = placements([1, 2, 2, 3], [0, 0, 1, 1])
    assert below.tolist() == [0.75, 1.0]  # 2 is above 1 and ties with 2
    assert above.tolist() == [1.0, 0.75]


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_the_values_are_those_of_scikit_learn(digits):
    rng = np.random.default_rng(0)
    runs = [np.round(scores(rng, shift), digits) for shift in (1.0, 1.5, 0.2)]
    gap = compare_auroc(runs[:2], runs[2:], LABELS)
    aurocs = [roc_auc_score(LABELS, run) for run in runs]
    assert gap.ours == pytest.approx(np.mean(aurocs[:2])) and gap.other == pytest.approx(aurocs[2])


def test_delong_by_hand():
    """Placements: ours (1, 1, 0.5) and (1, 0.667), other (0.5, 1, 1) and (0.667, 1)."""
    labels = [0, 0, 1, 1, 1]
    gap = compare_auroc([[1, 3, 4, 5, 2]], [[3, 1, 2, 4, 5]], labels)
    assert (gap.ours, gap.other) == (pytest.approx(5 / 6), pytest.approx(5 / 6))
    anomalous = np.var([0.5, 0, -0.5], ddof=1) / 3
    normal = np.var([1 / 3, -1 / 3], ddof=1) / 2
    assert gap.of_pictures == pytest.approx(anomalous + normal)
    assert gap.of_runs == 0 and gap.p == 1 and gap.counts == (1, 1)


def test_equal_scores_do_not_differ():
    run = scores(np.random.default_rng(0), 1.0)
    gap = compare_auroc([run], [3 * run + 1], LABELS)
    assert (gap.value, gap.interval, gap.p, gap.at_least) == (0, (0, 0), 1, 0)


def test_two_perfect_methods_can_still_differ():
    """No picture tells them apart, but other pictures could: 0.05 ** (1 / 40) is the least that each can be."""
    gap = compare_auroc([LABELS + 0.0], [LABELS * 2.0], LABELS)
    limit = np.sqrt(2) * (1 - 0.05 ** (1 / 40)) / np.sqrt(2)
    assert (gap.value, gap.error, gap.p) == (0, 0, 1)
    assert gap.interval == pytest.approx((-limit, limit)) and -limit < gap.at_least < 0


def test_the_bootstrap_agrees_with_delong():
    rng = np.random.default_rng(5)
    shared = rng.normal(size=len(LABELS))
    runs = [[scores(rng, shift, shared)] for shift in (1.5, 0.8)]
    gap, drawn = compare_auroc(*runs, LABELS), bootstrap_auroc(*runs, LABELS, samples=400)
    assert drawn == pytest.approx(gap.interval, abs=0.02)
    with pytest.raises(ValueError):
        bootstrap_auroc([[1, 2]], [[2, 1]], [1, 1])


def test_one_class_is_an_error():
    with pytest.raises(ValueError, match="both classes"):
        compare_auroc([[1, 2]], [[2, 1]], [1, 1])
    with pytest.raises(ValueError, match="at least two normal"):
        compare_auroc([[1, 2, 3]], [[2, 1, 3]], [0, 1, 1])


def test_a_bound_of_one_side_is_nearer():
    rng = np.random.default_rng(0)
    gap = compare_auroc([scores(rng, 1.0)], [scores(rng, 1.0)], LABELS)
    assert gap.interval[0] < gap.at_least < gap.value < gap.interval[1]


@pytest.mark.parametrize(
    ("means", "runs", "spread"),
    [((1.2, 0.9), 1, 0.0), ((1.2, 0.9), 3, 0.0), ((1.2, 0.9), 3, 0.5), ((1.2, 0.9), 6, 0.5), ((4.5, 3.5), 1, 0.0),
     ((4.5, 3.5), 3, 0.3)],
)  # fmt: skip
def test_the_interval_contains_the_truth_in_95_of_100_cases(means, runs, spread):
    """The truth is the difference of the expected AUROC, over pictures and, with several runs, over seeds.

    AUROCs are 0.76 and 0.70, and in the last cases 0.995 and 0.979.
    """
    rng, cases, inside, below = np.random.default_rng(1), 800, 0, 0
    big = 200_000
    total = np.sqrt(2 * 1.0**2 + 2 * 0.7**2)
    shifts = rng.normal(0, spread, big)
    truth = np.subtract(*(np.mean(stats.norm.cdf((mean + shifts) / total)) for mean in means))
    for _ in range(cases):
        shared = 0.7 * rng.normal(size=len(LABELS))
        sides = [[scores(rng, s + spread * rng.normal(), shared) for _ in range(runs)] for s in means]
        gap = compare_auroc(*sides, LABELS)
        inside += gap.interval[0] <= truth <= gap.interval[1]
        below += gap.at_least <= truth
    assert 0.9 <= inside / cases <= 0.99
    assert 0.9 <= below / cases <= 0.99


def test_p_values_are_uniform_if_nothing_differs():
    rng = np.random.default_rng(2)
    values = []
    for _ in range(600):
        shared = rng.normal(size=len(LABELS))
        values.append(compare_auroc([scores(rng, 1, shared)], [scores(rng, 1, shared)], LABELS).p)
    assert stats.kstest(values, "uniform").pvalue > 0.01


def test_seeds_count_where_both_have_several():
    rng = np.random.default_rng(3)
    pairs = [[scores(rng, 1 + 0.8 * rng.normal()) for _ in range(3)] for _ in range(2)]
    both, alone = compare_auroc(*pairs, LABELS), compare_auroc(pairs[0], pairs[1][:1], LABELS)
    assert both.of_runs > 0 == alone.of_runs
    assert both.freedom < alone.freedom


def test_degrees_of_freedom_are_those_of_welch_without_pictures():
    rng = np.random.default_rng(4)
    ours, other = rng.normal(0.9, 0.02, 5), rng.normal(0.88, 0.05, 7)
    gap = difference(ours, other, [], [])
    welch = stats.ttest_ind(ours, other, equal_var=False)
    assert gap.p == pytest.approx(welch.pvalue)
    assert gap.interval == pytest.approx(tuple(welch.confidence_interval(0.95)))


def test_mcnemar_is_the_binomial_test_of_those_that_differ():
    ours = np.array([True] * 50 + [True] * 9 + [False] * 2 + [False] * 5)
    other = np.array([True] * 50 + [False] * 9 + [True] * 2 + [False] * 5)
    assert mcnemar(ours, other) == pytest.approx(stats.binomtest(9, 11).pvalue)
    assert mcnemar(ours, other) == pytest.approx(2 * sum(stats.binom.pmf(k, 11, 0.5) for k in (9, 10, 11)))
    assert mcnemar(ours, ours) == 1


def test_wilcoxon_over_categories():
    assert wilcoxon([0.9, 0.8, 0.7, 0.95, 0.85, 0.6], [0.8, 0.71, 0.62, 0.88, 0.79, 0.55]) == pytest.approx(2 / 2**6)
    assert wilcoxon([0.5, 0.6], [0.5, 0.6]) == 1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert holm([]).tolist() == []


# ---------------------------------------------------------------- one image AUROC


SIZES = [(5, 15), (20, 40)]  # normal and anomalous pictures


def drawn(rng, auroc, normal, anomalous, spread=1.0):
    """Normally distributed scores with this true AUROC, and labels; `spread` is that of the anomalous scores."""
    shift = np.hypot(1, spread) * stats.norm.ppf(auroc)
    scores = np.concatenate([rng.normal(size=normal), rng.normal(shift, spread, anomalous)])
    return scores, np.repeat([0, 1], [normal, anomalous])


def coverage(interval_of, auroc, counts, spread=1.0, runs=600):
    rng = np.random.default_rng(0)
    found = [interval_of(*drawn(rng, auroc, *counts, spread)) for _ in range(runs)]
    return np.mean([low <= auroc <= high for low, high in found])


def by_hanley(scores, labels):
    anomalous, normal = placements(scores, labels)
    return hanley_interval(float(anomalous.mean()), len(normal), len(anomalous))


@pytest.mark.parametrize("seed", range(3))
def test_placements_count_every_pair_and_ties_one_half(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 6, 30) / 7, np.arange(30) % 3 // 2
    anomalous, normal = scores[labels == 1], scores[labels == 0]
    higher = (anomalous[:, None] > normal) + 0.5 * (anomalous[:, None] == normal)
    found = placements(scores, labels)
    assert np.allclose(found[0], higher.mean(1)) and np.allclose(found[1], higher.mean(0))


def test_placements_of_many_pictures_need_little_memory():
    """A table of all pairs would have 4 x 10**10 entries."""
    scores = np.arange(400_000.0)
    anomalous, normal = placements(scores, scores >= 200_000)
    assert anomalous.min() == normal.min() == 1


@pytest.mark.parametrize("counts", SIZES)
@pytest.mark.parametrize("auroc", [0.75, 0.9, 0.97])
@pytest.mark.parametrize("spread", [1, 3])
def test_intervals_contain_the_true_auroc(auroc, counts, spread):
    """Near 1 and with a wide spread, fewer than 95 % do."""
    assert coverage(auroc_interval, auroc, counts, spread) > (0.93 if spread == 1 else 0.9)


def test_many_pictures_give_neither_too_wide_nor_too_narrow_intervals():
    assert 0.92 < coverage(auroc_interval, 0.8, (100, 100), runs=600) < 0.98


def test_the_interval_is_worked_out_by_hand():
    """Placements of the anomalous ones are 1, 1/2, 1 and of the normal ones 1, 2/3: variances 1/12 and 1/18."""
    scores, labels = [0, 2, 3, 1, 4], [0, 0, 1, 1, 1]
    auroc, parts = 5 / 6, (1 / 12 / 3, 1 / 18 / 2)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 1)
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(sum(parts)) / (auroc * (1 - auroc))
    odds = auroc / (1 - auroc) * np.exp([-reach, reach])
    assert auroc_interval(scores, labels) == pytest.approx(odds / (1 + odds))


def test_reversed_scores_mirror_the_interval():
    scores, labels = drawn(np.random.default_rng(1), 0.8, 20, 30)
    low, high = auroc_interval(scores, labels)
    assert 0 < low < high < 1 and auroc_interval(-scores, labels) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("scores", "auroc"), [((0, 0, 0, 1, 1, 1), 1), ((1, 1, 1, 0, 0, 0), 0), ((1,) * 6, 0.5)])
def test_without_variance_the_interval_has_a_width(scores, auroc):
    low, high = auroc_interval(scores, [0, 0, 0, 1, 1, 1])
    assert high - low > 0.4 and low <= auroc <= high
    assert (low, high) == hanley_interval(auroc, 3, 3)


@pytest.mark.parametrize("scores", [(0, 1, 2, 1.5), (5, 1, 2, 3), (0, 1, 2, 3)])
def test_one_picture_of_a_class_has_a_wide_interval(scores):
    for labels in ((0, 0, 0, 1), (0, 1, 1, 1)):
        low, high = auroc_interval(scores, labels)
        assert 0 <= low < high <= 1 and high - low > 0.5


def test_an_interval_needs_both_classes():
    with pytest.raises(ValueError, match="both classes"):
        auroc_interval([1, 2], [0, 0])


def test_the_standard_error_is_that_of_hanley_and_mcneil():
    low, high = hanley_interval(0.893, normal=58, anomalous=51)
    logits = np.log([low / (1 - low), high / (1 - high)])
    error = np.diff(logits)[0] / 2 / stats.norm.ppf(0.975) * 0.893 * 0.107
    q1, q2 = 0.893 / 1.107, 2 * 0.893**2 / 1.893
    variance = 0.893 * 0.107 + 50 * (q1 - 0.893**2) + 57 * (q2 - 0.893**2)
    assert error == pytest.approx(np.sqrt(variance / 58 / 51))


@pytest.mark.parametrize("counts", SIZES)
@pytest.mark.parametrize("auroc", [0.75, 0.9, 0.97])
def test_intervals_by_hanley_contain_the_true_auroc(auroc, counts):
    assert coverage(by_hanley, auroc, counts) > 0.91


@pytest.mark.parametrize("pictures", [1, 5, 20, 1000])
def test_a_perfect_auroc_is_limited_by_the_smaller_class(pictures):
    low, high = hanley_interval(1.0, pictures, 3 * pictures)
    assert high == 1 and low**pictures == pytest.approx(0.05)
    assert hanley_interval(0.0, 3 * pictures, pictures) == pytest.approx((0, 1 - low))
    if pictures == 1000:
        assert 1 - low == pytest.approx(3 / pictures, rel=0.01)  # the rule of three


@pytest.mark.parametrize("counts", SIZES)
def test_intervals_of_perfect_samples_contain_the_true_auroc(counts):
    """A tenth of the defects looks better than every good part. A perfect sample has none of these by chance."""

    def sample(rng):
        invisible = rng.random(counts[1]) < 0.1  # the true AUROC is 0.9
        return auroc_interval(np.r_[rng.random(counts[0]), 2 - 3 * invisible], np.repeat([0, 1], counts))

    rng = np.random.default_rng(0)
    assert np.mean([low <= 0.9 <= high for low, high in (sample(rng) for _ in range(600))]) > 0.93


@pytest.mark.parametrize("auroc", [5e-324, 1e-300, 1e-9, 1 - 1e-16])
@pytest.mark.parametrize("counts", [(1, 1), (2**62, 2**62), (1, 2**62)])
def test_extreme_values_stay_inside(auroc, counts):
    """They can come from the card of a stranger."""
    with np.errstate(all="raise"):
        low, high = hanley_interval(auroc, *counts)
    assert 0 <= low <= high <= 1
