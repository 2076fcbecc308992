"""Patch scores -> map, score, p-value, verdict; against scipy and by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from hubmodels.prediction import AnomalyPrediction, HeldOut, SizedMap
from hubmodels.scoring import Calibration, smooth_map


@pytest.mark.parametrize(("grid", "size"), [((36, 36), (288, 288)), ((32, 32), (256, 256)), ((5, 12), (40, 96))])
def test_map_is_bilinear_then_gaussian_sigma_4(grid, size):
    """Against torch's bilinear upsampling followed by scipy's filter, borders included."""
    scores = torch.randn(2, *grid, generator=torch.Generator().manual_seed(0))
    upsampled = F.interpolate(scores[:, None], size, mode="bilinear", align_corners=False)[:, 0].numpy()
    expected = np.stack([gaussian_filter(u.astype(np.float64), sigma=4) for u in upsampled])
    ours = smooth_map(scores, size)
    assert ours.dtype == torch.float32
    assert np.abs(ours.numpy() - expected).max() < 2e-6
    assert size[0] != size[1] or torch.equal(smooth_map(scores, size[0]), ours)


def test_map_keeps_the_scale_of_the_scores():
    """No normalisation by the picture's own range: a constant stays that constant, twice the scores twice the map."""
    scores = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert smooth_map(torch.full((1, 8, 8), 3.5), 64).allclose(torch.tensor(3.5), atol=1e-5)
    assert smooth_map(2 * scores, 64).allclose(2 * smooth_map(scores, 64), atol=1e-5)


def predictions(scores, level=0.0):
    return [
        AnomalyPrediction(float(s), np.full((4, 4), level, np.float32) + np.eye(4, dtype=np.float32) * s)
        for s in scores
    ]


def calibrated(n, rate):
    calibration = Calibration()
    calibration.fit(predictions(np.arange(1, n + 1)), rate)
    return calibration


def test_p_value_by_hand():
    calibration = calibrated(4, 0.5)  # held-out scores 1, 2, 3, 4
    assert [calibration.p_value(s) for s in (0.0, 1.0, 2.5, 4.0, 9.0)] == [1.0, 1.0, 0.6, 0.4, 0.2]


@pytest.mark.parametrize(
    ("n", "rate", "threshold"),
    [(99, 0.01, 99), (199, 0.01, 198), (200, 0.01, 199), (9, 0.1, 9), (19, 0.1, 18), (10, 0.3, 8)],
)
def test_threshold_is_the_smallest_that_keeps_the_rate(n, rate, threshold):
    """k = ceil((n + 1)(1 - rate)): flagged exactly where the p-value is at most the rate."""
    calibration = calibrated(n, rate)
    assert calibration.is_sufficient()
    verdicts = [calibration.decide(float(s), np.zeros((2, 2), np.float32)) for s in range(n + 3)]
    assert verdicts[0].threshold == threshold
    assert [v.is_anomalous for v in verdicts] == [v.p_value <= rate + 1e-9 for v in verdicts]


def test_false_alarms_stay_under_the_rate_on_new_normals():
    """Monte Carlo: over many calibrations the mean false-alarm rate is at most the rate asked, and not far below."""
    rng, alarms = np.random.default_rng(0), []
    for _ in range(300):
        calibration = Calibration()
        calibration.fit(predictions(rng.standard_normal(60)), 0.05)
        threshold = calibration.decide(0.0, np.zeros((2, 2), np.float32)).threshold
        alarms.append((rng.standard_normal(200) > threshold).mean())
    assert 0.035 < np.mean(alarms) < 0.055


@pytest.mark.parametrize(
    ("n", "rate", "bound"), [(4, 0.01, 1 - 0.05 ** (1 / 4)), (50, 0.01, 1 - 0.05 ** (1 / 50)), (1, 0.5, 0.95)]
)
def test_the_bound_of_the_highest_score_by_hand(n, rate, bound):
    """The share above the maximum of n is Beta(1, n): it is beyond x with probability (1 - x)^n."""
    assert calibrated(n, rate).bound() == pytest.approx(bound)


@pytest.mark.parametrize(("n", "rate"), [(20, 0.05), (60, 0.05), (60, 0.3)])
def test_the_bound_is_exceeded_in_one_of_twenty_calibrations(n, rate):
    rng, beyond = np.random.default_rng(1), []
    for _ in range(2000):
        calibration = Calibration()
        calibration.fit(predictions(rng.uniform(size=n)), rate)
        beyond.append(1 - calibration.decide(0.0, np.zeros((2, 2), np.float32)).threshold > calibration.bound())
    assert 0.035 < np.mean(beyond) < 0.065


def test_both_rates_are_in_the_words():
    words = calibrated(50, 0.01).describe()
    assert words.startswith("flags 2 % of good parts on average, hardly ever more than 5.8 % (95 % confidence)")
    assert "calibrated on 50 normal pictures (too few for the 1 % asked for, which needs 99)" in words


def test_too_few_held_out_pictures_are_named():
    calibration = calibrated(32, 0.01)
    assert not calibration.is_sufficient()
    assert calibration.guaranteed_rate() == pytest.approx(1 / 33)
    assert "too few" in calibration.describe() and "needs 99" in calibration.describe()
    assert calibration.decide(0.0, np.zeros((2, 2), np.float32)).threshold == 32  # the most anomalous normal
    assert "too few" not in calibrated(99, 0.01).describe()


def test_pixel_threshold_leaves_held_out_pictures_unmarked():
    calibration = calibrated(20, 0.1)
    marked = [calibration.decide(p.image_score, p.anomaly_map).mask.any() for p in predictions(np.arange(1, 21))]
    assert sum(marked) == 1  # k = ceil(21 * 0.9) = 19: only the most anomalous of 20 lies above


def outlined(anomaly_map, threshold=2.0, normal_level=0.0):
    return AnomalyPrediction(9.0, np.float32(anomaly_map), pixel_threshold=threshold, normal_level=normal_level).mask


def test_a_defect_is_outlined_near_its_maximum_and_not_where_the_map_is_smeared():
    rows = np.arange(-20, 21, dtype=np.float32)
    bump = 10 * np.exp(-0.5 * (rows / 5) ** 2)
    mask = outlined(bump[:, None] * np.ones(3, np.float32))
    assert (mask == (bump >= 7)[:, None]).all() and 0 < mask.sum() < (bump > 2).sum() * 3


def test_each_region_is_outlined_by_its_own_maximum():
    """A weak defect does not vanish next to a strong one; regions that touch at a corner are one."""
    mask = outlined([[10, 8, 0, 3, 0], [0, 0, 6.9, 0, 2.2], [0, 0, 0, 0, 0]])
    assert mask.tolist() == [[True, True, False, False, False], [False] * 5, [False] * 5]
    assert outlined([[10, 8, 0, 0, 0], [0, 0, 0, 0, 3], [0, 0, 0, 0, 2.2]])[:, 4].tolist() == [False, True, True]


def test_the_outline_begins_at_the_normal_level():
    assert outlined([[6, 4.6, 4.4]], normal_level=1.0).tolist() == [[True, True, False]]  # 1 + 0.7 x 5 = 4.5


@pytest.mark.parametrize("level", [5.0, 50.0])
def test_a_region_above_the_threshold_is_never_left_without_an_outline(level):
    assert outlined([[3, 4, 1]], normal_level=level).tolist() == [[False, True, False]]


def test_without_calibration_there_is_no_verdict():
    prediction = Calibration().decide(1.0, np.zeros((2, 2), np.float32))
    assert (prediction.p_value, prediction.threshold, prediction.is_anomalous, prediction.mask) == (None,) * 4
    assert "not calibrated" in Calibration().describe()


def test_calibration_survives_its_state():
    calibration, loaded = calibrated(7, 0.2), Calibration()
    loaded.load_state_dict(calibration.state_dict(), strict=True)
    assert loaded.describe() == calibration.describe()
    assert loaded.p_value(3.0) == calibration.p_value(3.0)


@pytest.mark.parametrize(
    ("scores", "rate", "word"), [([], 0.01, "at least one"), ([np.nan], 0.01, "finite"), ([1.0], 1.5, "between")]
)
def test_impossible_calibrations_are_refused(scores, rate, word):
    with pytest.raises(ValueError, match=word):
        Calibration().fit(predictions(scores), rate)


def test_normal_level_is_the_median_pixel():
    calibration = Calibration()
    calibration.fit(predictions([5.0, 5.0, 5.0], level=2.0), 0.5)
    assert calibration.normal_level.item() == 2.0


# ---------------------------------------------------------------- other false-alarm rates


def test_at_any_rate_the_verdict_is_that_of_the_p_value():
    """score > threshold exactly where p <= the guaranteed rate, ties included."""
    rng = np.random.default_rng(0)
    for n in (1, 5, 20, 100):
        calibration = Calibration()
        calibration.fit(predictions(rng.integers(0, 30, n)), 0.01)
        for rate in (0.005, 0.01, 0.05, 1 / (n + 1), 0.2, 0.5):
            for score in (-1.0, *rng.integers(0, 30, 10).astype(float), 31.0):
                said = calibration.decide(score, np.zeros((2, 2), np.float32), rate)
                assert said.is_anomalous == (said.p_value <= calibration.guaranteed_rate(rate) + 1e-9)


def test_without_a_rate_the_one_asked_for_at_calibration_holds():
    calibration = Calibration()
    calibration.fit(predictions(range(100)), 0.05)
    scores = np.zeros((2, 2), np.float32)
    assert calibration.decide(7.0, scores).threshold == calibration.decide(7.0, scores, 0.05).threshold == 95
    assert calibration.decide(7.0, scores, 0.2).threshold == 80
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibration.decide(7.0, scores, 1.0)


def test_the_score_level_is_0_for_a_typical_good_part_and_1_at_the_threshold():
    calibration = Calibration()
    calibration.fit(predictions(range(101)), 0.01)
    scores = np.zeros((2, 2), np.float32)
    threshold = calibration.decide(0.0, scores).threshold
    assert calibration.decide(50.0, scores).score_level == pytest.approx(0)
    assert calibration.decide(threshold, scores).score_level == 1
    assert calibration.decide(threshold + 1, scores).score_level > 1
    assert AnomalyPrediction(1.0, scores).score_level is None
    assert calibration.decide(50.0, scores, None, 0.5).unsure_level == pytest.approx(0, abs=0.03)
    assert calibration.decide(50.0, scores).unsure_level is calibration.decide(50.0, scores, 0.5, 0.5).unsure_level
    assert calibration.decide(50.0, scores).unsure_level is None


def test_a_calibration_of_equal_scores_keeps_verdict_and_level_together():
    calibration = Calibration()
    calibration.fit(predictions([3.0] * 10), 0.1)
    for score in (2.0, 3.0, 3.0001):
        said = calibration.decide(score, np.zeros((2, 2), np.float32))
        assert said.is_anomalous == (said.score_level > 1)


def test_the_numbers_are_ready_for_json():
    calibration = Calibration()
    calibration.fit(predictions(range(10)), 0.1)
    spots = np.zeros((10, 10), np.float32)
    spots[0, 0] = spots[5, 5:7] = 100
    numbers = calibration.decide(100.0, spots).numbers()
    assert {type(value) for value in numbers.values()} <= {bool, int, float, type(None)}
    numbers = json.loads(json.dumps(numbers))
    assert numbers["is_anomalous"] is True and numbers["defects"] == 2 and numbers["defect_share"] == 0.03
    uncalibrated = AnomalyPrediction(1.0, spots).numbers()
    assert uncalibrated["image_score"] == 1.0 and uncalibrated["defects"] is uncalibrated["is_anomalous"] is None


class Recorder:
    """Makes maps, and remembers at which sizes."""

    def __init__(self):
        self.sizes = []

    def __call__(self, size):
        self.sizes.append(size)
        return np.full(size, 2.0, np.float32)


def test_a_map_is_made_once_and_only_when_it_is_needed():
    made = Recorder()
    calibration = Calibration()
    calibration.fit(predictions(range(10)), 0.1)
    prediction = calibration.decide(100.0, SizedMap((3000, 4000), 20, made))
    assert prediction.is_anomalous and replace(prediction, latency_ms=1.0).score_level > 1 and made.sizes == []
    assert prediction.at_most(40).anomaly_map.shape == (30, 40) and made.sizes == [(30, 40)]
    other = calibration.decide(prediction.image_score, prediction.map_source, 0.5)
    assert prediction.anomaly_map.shape == other.anomaly_map.shape == (3000, 4000)
    assert made.sizes == [(30, 40), (3000, 4000)]
    assert prediction.at_most(4000) is prediction
    assert prediction.at_most(10).anomaly_map.shape == (15, 20)  # as much as there is to see


@pytest.mark.parametrize(("detail", "counted"), [(256, (512, 1024)), (2048, (1024, 2048)), (4096, (2000, 4000))])
def test_defects_of_a_large_picture_are_counted_in_a_map_with_all_details(detail, counted):
    made = Recorder()
    prediction = AnomalyPrediction(1.0, SizedMap((2000, 4000), detail, made), pixel_threshold=1.0, normal_level=0.0)
    numbers = prediction.numbers()
    assert made.sizes == [counted] and (numbers["defects"], numbers["defect_share"]) == (1, 1.0)


# ---------------------------------------------------------------------- false alarms that were taken back


def false_alarm(score=150.0):
    return AnomalyPrediction(score, np.full((2, 2), score, np.float32))


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (50, 0.01), (60, 0.1)])
def test_a_false_alarm_taken_back_raises_the_threshold_and_keeps_the_promise(n, rate):
    calibration = calibrated(n, rate)
    promised = calibration.guaranteed_rate(), calibration.bound(), calibration.size
    before = calibration.decide(150.0, np.zeros((2, 2), np.float32))
    assert before.is_anomalous
    calibration.take_back(false_alarm())
    after = calibration.decide(150.0, np.zeros((2, 2), np.float32))
    assert after.threshold >= before.threshold and (calibration.guaranteed_rate(), calibration.bound()) == promised[:2]
    assert (calibration.size, calibration.total, int(calibration.corrections)) == (n, n + 1, 1)
    assert after.is_anomalous == (rate == 0.1)  # a rate that allows six alarms keeps this one
    assert "raised for 1 false alarm taken back" in calibration.describe()
    calibration.undo(false_alarm())
    assert calibration.decide(150.0, np.zeros((2, 2), np.float32)).threshold == before.threshold
    assert calibration.total == n and "taken back" not in calibration.describe()


@pytest.mark.parametrize("score", [0.5, 30.0, 55.0, 150.0])
def test_what_is_taken_back_lowers_no_threshold_and_leaves_p_values_in_step(score):
    """Also a score that is a false alarm at high rates only."""
    rates, zeros = np.linspace(0.002, 0.9, 300), np.zeros((2, 2), np.float32)
    for n in (5, 60, 99, 198):
        calibration = calibrated(n, 0.1)
        before = [calibration.decide(score, zeros, rate) for rate in rates]
        p_value = calibration.p_value(score)
        calibration.take_back(false_alarm(score))
        for old, rate in zip(before, rates, strict=True):
            new = calibration.decide(score, zeros, rate)
            assert new.threshold >= old.threshold and new.pixel_threshold >= old.pixel_threshold
            assert new.is_anomalous == (new.p_value <= calibration.guaranteed_rate(rate))
        assert calibration.p_value(score) == pytest.approx(min(1, p_value + 1 / (n + 1)))


def test_only_what_was_taken_back_can_be_undone():
    calibration = calibrated(20, 0.1)
    with pytest.raises(ValueError, match="was not taken back"):
        calibration.undo(false_alarm(20.0))  # the score of a normal picture
    calibration.take_back(false_alarm())
    with pytest.raises(ValueError, match="was not taken back"):
        calibration.undo(false_alarm(151.0))
    with pytest.raises(ValueError, match="not calibrated"):
        Calibration().take_back(false_alarm())


def test_corrections_survive_the_state_and_files_without_them_load():
    calibration, loaded = calibrated(20, 0.1), Calibration()
    calibration.take_back(false_alarm())
    loaded.load_state_dict(calibration.state_dict(), strict=True)
    assert loaded.describe() == calibration.describe() and loaded.size == 20
    older = {name: value for name, value in calibrated(20, 0.1).state_dict().items() if name != "corrections"}
    loaded.load_state_dict(older, strict=True)
    assert loaded.total == loaded.size == 20


@pytest.mark.parametrize("count", [-1, 21, 0.5])
def test_a_count_of_corrections_that_cannot_be_is_damage(count):
    calibration = calibrated(20, 0.1)
    calibration.take_back(false_alarm())
    calibration.corrections.fill_(count)
    with pytest.raises(ValueError, match="cannot have"):
        calibration.require_sound()


def test_numpy_scores_decide_alike_with_corrections():
    calibration = calibrated(20, 0.05)
    calibration.take_back(false_alarm())
    exported = HeldOut.from_lists({name: value.tolist() for name, value in calibration.state_dict().items()})
    one, two = (each.decide(21.0, np.zeros((2, 2), np.float32)) for each in (calibration, exported))
    assert (one.threshold, one.p_value) == (two.threshold, two.p_value)
    assert exported.bound() == calibration.bound()
