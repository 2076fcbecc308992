"""Known defects: shares with intervals, the rate that finds all, and the method that finds more."""

import pytest

from hubmodels.known_defects import KnownDefects, best_method, wilson


@pytest.mark.parametrize(
    ("found", "total", "low", "high"), [(0, 10, 0, 0.2775), (9, 10, 0.5958, 0.9821), (10, 10, 0.7225, 1)]
)
def test_the_interval_is_wilsons(found, total, low, high):
    """Values of Newcombe (1998) and of statsmodels."""
    assert wilson(found, total) == pytest.approx((low, high), abs=1e-4)


def test_defects_are_counted_and_the_least_rate_that_finds_all_is_said():
    verdicts, p_values = [True] * 10 + [False] * 2, [0.02] * 10 + [0.08, 0.04]
    known = KnownDefects.judge(verdicts, p_values, 0.02)
    assert (known.found, known.total, known.all_from) == (10, 12, 0.08)
    assert known.describe() == (
        "finds 10 of 12 defects (of all such defects 55 % to 95 %) at 2 % false alarms; all of them from 8 % on"
    )


def test_if_all_are_found_no_other_rate_is_said():
    known = KnownDefects.judge([True], [0.01], 0.05)
    assert known.all_from == 0.05
    assert known.describe() == "finds 1 of 1 defects (of all such defects 21 % to 100 %) at 5 % false alarms"


def test_one_hundred_per_cent_has_no_exponent():
    assert KnownDefects.judge([False], [1.0], 0.1).describe().endswith("all of them from 100 % on")


def best(rates=None, **found):
    """The best of methods with rows of + for found defects and - for missed ones."""
    verdicts = {method: [sign == "+" for sign in signs] for method, signs in found.items()}
    return best_method(verdicts, rates or dict.fromkeys(found, 0.01))


def test_a_method_is_best_only_if_that_is_certain():
    assert best(a="++-", b="-++") is None
    assert best(a="++++++", b="------") == "a"
    assert best(a="-----", b="+++++") is None  # p = 1/16
    assert best(a="+++++++++") is None and best() is None


def test_the_best_method_is_better_than_each_other_one_by_holm():
    """McNemar's p is 1/32 for six defects; with two others the smaller p-value is doubled."""
    assert best(a="++++++", b="------", c="------") is None
    assert best(a="+++++++", b="-------", c="-------") == "a"
    assert best(a="+++++++", b="-------", c="+++++++") is None


def test_a_method_with_more_false_alarms_is_not_best():
    assert best({"a": 0.17, "b": 0.02}, a="++++++++", b="--------") is None
    assert best({"a": 0.02, "b": 0.17}, a="++++++++", b="--------") == "a"
