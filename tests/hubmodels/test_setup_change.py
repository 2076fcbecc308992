"""A moved camera is told from defects: by hand, and on sample parts with the bundled models."""

from dataclasses import replace

import numpy as np
import pytest

from hubmodels import AnomalyPrediction
from hubmodels.hub.catalog import Catalog
from hubmodels.prediction import HeldOut
from hubmodels.setup_change import FEWEST, WINDOW, _chance, setup_changed
from training.parts.dataset import DEFECTS, render

SIDE = 64


def held_out(n=99, rate=0.01):
    scores = np.linspace(0, 1, n, dtype=np.float32)
    return HeldOut(scores, scores, 0.0, rate)


def prediction(anomaly_map, flagged=True):
    """Zero = the level of good parts, one = the threshold of a pixel."""
    fields = {"p_value": 0.5, "threshold": 1.0, "pixel_threshold": 1.0, "normal_level": 0.0, "normal_score": 0.5}
    return AnomalyPrediction(2.0 if flagged else 0.5, np.asarray(anomaly_map, np.float32), **fields)


def noise(seed):
    """A map of a good part: half of it below the level of good parts."""
    return np.random.default_rng(seed).normal(0, 0.2, (SIDE, SIDE))


def spot(seed, place=None):
    """A defect of 16 pixels at its own place, or at the given one."""
    found = noise(seed)
    row, column = place or np.random.default_rng(seed).integers(0, SIDE - 16, 2)
    found[row : row + 16, column : column + 16] = 3
    return found


def everywhere(seed):
    return noise(seed) + 0.3


@pytest.mark.parametrize(
    ("draw", "expected"),
    [(everywhere, True), (lambda seed: spot(seed, (20, 30)), True), (spot, False), (noise, False)],
    ids=["everywhere", "same place", "defects", "nothing"],
)
@pytest.mark.parametrize("count", [FEWEST, WINDOW])
def test_maps_that_agree_are_told_from_defects_at_different_places(draw, expected, count):
    assert setup_changed([prediction(draw(seed)) for seed in range(count)], held_out()) is expected


def test_as_few_as_chance_explains_are_no_change():
    """At 1 % of 99 held-out pictures, 2 of 8 false alarms have a probability of 0.5 %, and 3 of 8 of 0.03 %."""
    for flagged, expected in ((2, False), (3, True)):
        row = [prediction(everywhere(seed), seed < flagged) for seed in range(8)]
        assert setup_changed(row, held_out()) is expected


def test_a_higher_accepted_rate_needs_more_false_alarms():
    row = [prediction(everywhere(seed), seed < 4) for seed in range(8)]
    assert setup_changed(row, held_out()) and not setup_changed(row, held_out(), 0.2)


def test_the_chance_by_hand():
    """The threshold is the only held-out score: the share above it is uniform, so each count has the same chance."""
    assert _chance(8, 8, held_out(n=1, rate=0.5), None) == pytest.approx(1 / 9)
    assert _chance(7, 8, held_out(n=1, rate=0.5), None) == pytest.approx(2 / 9)
    assert _chance(0, 8, held_out(), None) == pytest.approx(1)


def test_the_chance_is_that_of_random_scores():
    rng, calls = np.random.default_rng(0), 20_000
    threshold = np.sort(rng.random((calls, 19)), axis=1)[:, -1]  # 5 % of 19 held-out pictures: the largest
    alarms = (rng.random((calls, 10)) > threshold[:, None]).sum(1)
    assert _chance(2, 10, held_out(19, 0.05), None) == pytest.approx((alarms >= 2).mean(), abs=0.01)


def test_seven_pictures_are_too_few_and_uncalibrated_ones_do_not_count():
    row = [prediction(everywhere(seed)) for seed in range(8)]
    assert setup_changed(row, held_out()) and not setup_changed(row[:7], held_out())
    assert not setup_changed([replace(p, threshold=None, pixel_threshold=None) for p in row], held_out())


def test_the_last_pictures_count():
    good, bad = ([prediction(draw(s), draw is everywhere) for s in range(WINDOW)] for draw in (noise, everywhere))
    assert setup_changed(good + bad, held_out()) and not setup_changed(bad + good, held_out())


def test_pictures_of_any_size_are_compared():
    row = [prediction(np.kron(everywhere(seed), np.ones((1 + seed % 2, 2)))) for seed in range(8)]
    assert setup_changed(row, held_out())


# ------------------------------------------------------------------------------------------------ sample parts


@pytest.fixture(scope="module")
def glass():
    return Catalog.bundled().load("parts / cloth")["glass"]


def cloth(seed, right=0, defect=None):
    """A picture of the cloth, of a seed used nowhere else, as a camera sees it that was moved by some pixels."""
    picture = render("cloth", 850_000 + seed, defect)[0]
    return np.pad(picture, ((0, 0), (right, 0), (0, 0)), mode="reflect")[:, : picture.shape[1]]


def test_a_shifted_camera_is_noticed_and_defects_are_not(glass):
    kinds = DEFECTS["cloth"]
    shifted = glass.predict_batch([cloth(seed, right=12) for seed in range(8)])
    defective = glass.predict_batch([cloth(seed, defect=kinds[seed % len(kinds)]) for seed in range(8)])
    assert sum(p.is_anomalous for p in shifted) >= 6 and sum(p.is_anomalous for p in defective) >= 4
    assert setup_changed(shifted, glass.calibration) and not setup_changed(defective, glass.calibration)
