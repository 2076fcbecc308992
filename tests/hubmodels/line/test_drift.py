"""The alarm for parts that begin to look different."""

import json
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from hubmodels.appearance import Appearance, PictureStatistics
from hubmodels.line.drift import BETS, DEFECTS, RICHEST, DriftWatch, Series, _gain, _rounded
from hubmodels.line.line import BRIGHTER, DARKER, LOOK, Line, look_and_light


def normal(seed, count, shift=0.0):
    draws = random.Random(seed)
    return [draws.gauss(shift, 1) for _ in range(count)]


def watched(numbers, known=(), seed=0):
    watch = DriftWatch({"score": known}, seed)
    for number in numbers:
        watch.add({"score": number})
    return watch


@pytest.mark.parametrize("bet", BETS)
def test_no_bet_wins_on_average_while_nothing_changes_and_few_parts_are_defective(bet):
    tail = bet[0]
    uniform = tail * _gain(0.0, *bet) + (1 - tail) * _gain(1.0, *bet)
    assert (1 - DEFECTS) * uniform + DEFECTS * _gain(0.0, *bet) == pytest.approx(1)
    assert _gain(tail, *bet) > 1 > _gain(tail + 1e-9, *bet)


def test_a_p_value_is_the_place_among_all_numbers():
    known = Series().learn([3.0, 1.0, 1.0, 2.0])
    assert (known.values, known.counts) == ([1.0, 2.0, 3.0], [2, 1, 1])
    assert [known._p_value(value, 0.5) for value in (4.0, 3.0, 1.0, 0.0)] == [0.1, 0.2, 0.7, 0.9]


@pytest.mark.parametrize("kinds", [1, 3])
def test_p_values_are_uniform_also_among_equal_numbers(kinds):
    chances, series, found = random.Random(1), Series(), []
    for value in (float(chances.randrange(kinds)) for _ in range(1_000)):
        found.append(series._p_value(value, chances.random()))
        series._count(value)
    assert kstest(found, "uniform").pvalue > 0.01


def test_p_values_of_a_stream_are_uniform():
    series, chances, found = Series().learn(normal(0, 50)), random.Random(1), []
    for value in map(_rounded, normal(2, 2_000)):
        found.append(series._p_value(value, chances.random()))
        series._count(value)
    assert kstest(found, "uniform").pvalue > 0.01
    assert abs(sum(a * b for a, b in pairwise(found)) / len(found) - 0.25) < 0.02  # independent


def test_the_shares_of_all_beginnings_are_the_whole():
    series = Series(begun=100)
    begun = sum(1 / (n * (n + 1)) for n in range(1, 101))
    assert begun + series.capital == pytest.approx(1)


def test_alarms_without_a_change_are_rarer_than_promised():
    """At most 1 of 100 streams on average; a probability of 1.4 % for more than 4."""
    alarms = [watched(normal(seed, 300), normal(1000 + seed, 50)).alarm for seed in range(100)]
    assert sum(alarm is not None for alarm in alarms) <= 4


def test_light_and_look_of_the_training_pictures_are_known_from_the_first_picture_on():
    rng = np.random.default_rng(0)
    appearance = Appearance(8)
    appearance.fit(
        [PictureStatistics(torch.from_numpy(rng.normal(3, 1, 8)), b, 0.3, 1.0) for b in rng.normal(0.5, 0.01, 50)]
    )
    known = look_and_light(appearance)

    def alarm(brightness, look):
        watch = DriftWatch(known)
        for light in rng.normal(brightness, 0.01, 100):
            watch.add({LOOK: look(), BRIGHTER: light, DARKER: -light})
        return watch.alarm, watch.cause

    def usual():
        return rng.choice(known[LOOK])

    assert alarm(0.5, usual) == (None, None)
    assert (dark := alarm(0.4, usual))[0] < 15 and dark[1] == DARKER
    assert (other := alarm(0.5, lambda: 2 * usual()))[0] < 25 and other[1] == LOOK


def test_defective_parts_now_and_then_are_no_drift():
    for seed in range(20):
        numbers = [8.0 + n if n % 50 == 49 else x for n, x in enumerate(normal(seed, 400))]
        assert watched(numbers, normal(1000 + seed, 50)).alarm is None


@pytest.mark.parametrize(("before", "known"), [(0, 50), (200, 50), (2_000, 50), (200, 0)])
def test_a_change_is_found_soon(before, known):
    alarms = [
        watched(normal(seed, before) + normal(50 + seed, 120, 1.5), normal(100 + seed, known)).alarm
        for seed in range(10)
    ]
    assert all(alarm and before < alarm <= before + 80 for alarm in alarms), alarms


def test_the_series_that_wins_most_is_the_cause():
    watch = DriftWatch({"score": normal(0, 50), "darker": ()})
    raised = []
    for n, (score, light) in enumerate(zip(normal(1, 100), normal(2, 100), strict=True)):
        raised.append(watch.add({"score": score, "darker": light + 3 * (n >= 50)}))
    assert watch.cause == "darker" and 51 < watch.alarm < 70
    assert [n for n, new in enumerate(raised, 1) if new] == [watch.alarm]  # told once, and kept


def test_missing_numbers_wait():
    watch = DriftWatch({"score": (), "look": ()})
    for _ in range(5):
        watch.add({"score": float("nan"), "look": None})
        watch.add({"score": 1.0})
    assert (watch.pictures, watch.series["score"].begun, watch.series["look"].begun) == (10, 5, 0)
    with pytest.raises(KeyError, match="other"):
        watch.add({"other": 1.0})
    with pytest.raises(ValueError, match="no series"):
        DriftWatch({})


def test_a_restart_changes_nothing():
    numbers, known = normal(0, 80) + normal(1, 40, 2.0), normal(2, 30)
    whole, parts = watched(numbers, known, seed=5), DriftWatch({"score": known}, seed=5)
    for number in numbers:
        parts = DriftWatch.from_json(parts.to_json())
        parts.add({"score": number})
    assert parts.to_json() == whole.to_json() and whole.alarm


def test_the_state_stays_small_and_the_capital_finite():
    watch = watched(normal(0, 3_000) + [float(n) for n in range(4, 600)])
    assert len(watch.to_json()) < 100_000
    rich = Series(capitals=[RICHEST] * len(BETS))
    rich.add(9.0, 0.0)
    assert rich.capital < float("inf")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"series": {}}', '{"series": {"a": {"values": [1]}}, "seed": 0}'])
def test_another_file_is_refused(text):
    with pytest.raises(ValueError, match="no state of a drift watch"):
        DriftWatch.from_json(text)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"last": "", "drift": {}}', b'{"last": "", "drift": "{}"}']
)
def test_a_damaged_file_of_a_line_is_named_with_the_remedy(tmp_path, content):
    (tmp_path / "drift.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"drift\.json is no state of a drift watch .*: delete it to begin again"):
        Line("parts / washer", {}, drift_file=tmp_path / "drift.json")


def test_lists_of_different_lengths_are_refused():
    state = json.loads(watched([1.0, 2.0]).to_json())
    state["series"]["score"]["counts"] = [1]
    with pytest.raises(ValueError, match="different lengths"):
        DriftWatch.from_json(json.dumps(state))
