"""A least size: specks are lowered in the map, scratches and large defects are not, and the verdict follows."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from hubmodels import ExportError, Hybrid, ModelError, PatchCore, SimpleNet, load
from hubmodels.least_size import OUTLINED, SPOT, LeastSize, open_map
from hubmodels.onnx.export import export
from hubmodels.prediction import EIGHT_CONNECTED

SIZE = 64
METHODS = pytest.mark.parametrize("method", [SimpleNet, Hybrid, PatchCore])


def drawn(*shapes):
    """A map (12, 12) of zeros with values at places."""
    values = np.zeros((12, 12), np.float32)
    for place, value in shapes:
        values[place] = value
    return values


SPECK, LINE = (slice(1, 3), slice(1, 3)), (slice(8, 9), slice(1, 9))  # 4 and 8 pixels
DIAGONAL = (np.arange(8), np.arange(8) + 3)


@pytest.mark.parametrize(("pixels", "left"), [(1, 5), (4, 5), (5, 0), (144, 0)])
def test_a_speck_counts_if_it_has_enough_pixels(pixels, left):
    assert open_map(drawn((SPECK, 5)), pixels).max() == left


@pytest.mark.parametrize("place", [LINE, DIAGONAL], ids=["straight", "diagonal"])
def test_a_thin_scratch_of_enough_pixels_stays(place):
    one = drawn((place, 3))
    assert (open_map(one, 8) == one).all() and open_map(one, 9).max() == 0


def test_a_speck_goes_and_a_fainter_scratch_next_to_it_stays():
    found = open_map(drawn((SPECK, 9), (LINE, 3)), 6)
    assert (found == drawn((LINE, 3))).all()


def test_a_hot_spot_hides_no_scratch():
    found = open_map(drawn((LINE, 3), ((8, 4), 9)), 6)
    assert (found == drawn((LINE, 3))).all()


def test_two_specks_joined_at_a_low_level_are_lowered_to_it():
    bridge = (slice(1, 2), slice(3, 5))
    joined = drawn((SPECK, 9), ((slice(1, 3), slice(5, 7)), 8), (bridge, 2))
    assert open_map(joined, 4).max() == 9  # each is large enough
    assert open_map(joined, 5).max() == 2 and open_map(joined, 10).max() == 2  # together 10
    assert open_map(joined, 11).max() == 0


def test_a_strong_speck_is_no_larger_than_a_weak_one():
    """Both are 9 pixels at 70 % of their height; above a level of 2, the strong one has 25."""
    for height in (3, 30):
        cone = drawn((slice(2, 7), 0))
        cone[2:7, 2:7], cone[3:6, 3:6] = 0.4 * height, height
        assert open_map(cone, 9).max() == height and open_map(cone, 10).max() == 0
    assert open_map(cone, 10, outline=0).max() == pytest.approx(12)


def brute(values, pixels):
    """The area opening, level by level."""
    found = np.full_like(values, values.min())
    for level in np.unique(values):
        regions, _ = ndimage.label(values >= level, EIGHT_CONNECTED)
        enough = np.bincount(regions.ravel()) >= pixels
        enough[0] = False
        found[enough[regions]] = level
    return found


@pytest.mark.parametrize("seed", range(12))
def test_without_an_outline_it_is_the_area_opening(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 15, 2)
    values = (rng.integers(0, 5, size) if seed % 2 else rng.random(size)).astype(np.float32)
    for pixels in {1, 2, 4, 9, values.size}:
        expected = brute(values, min(pixels, values.size))
        assert (open_map(values, pixels, outline=0) == expected).all()


@pytest.mark.parametrize("seed", range(4))
def test_what_is_left_has_enough_pixels_at_every_level(seed):
    values = ndimage.gaussian_filter(np.random.default_rng(seed).random((40, 60)), 2).astype(np.float32)
    opened = open_map(values, 30)
    assert (opened <= values).all() and (opened < values).any()
    for level in np.unique(opened)[1:]:
        regions, _ = ndimage.label(opened >= level, EIGHT_CONNECTED)
        assert np.bincount(regions.ravel())[1:].min() >= 30


def test_the_least_size_is_one_of_the_training_pictures():
    least = LeastSize(400, (640, 640))
    assert least.in_map(256, 8) == np.ceil(SPOT * 64 + OUTLINED * 64)
    assert "fewer than 400 pixels do not count, in pictures of 640 x 640" in least.in_words


@pytest.mark.parametrize("pixels", [0, -1, float("nan"), float("inf"), 410])
def test_a_size_that_cannot_be_is_refused(pixels):
    with pytest.raises(ValueError, match="more than 0, and at most 10 % of a picture of 64 x 64"):
        LeastSize(pixels, (64, 64))


# ---------------------------------------------------------------- detectors


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


@METHODS
def test_the_map_stays_and_score_calibration_and_outlines_change(make_detector, method):
    plain, least = make_detector(method), make_detector(method, least_size=40)
    one, two = plain.predict(noise(7)), least.predict(noise(7))
    assert (one.anomaly_map == two.anomaly_map).all() and (two.counted_map <= two.anomaly_map).all()
    assert two.image_score == two.counted_map.max() and one.counted_map is one.anomaly_map
    assert not torch.equal(plain.calibration.image_scores, least.calibration.image_scores)
    assert torch.equal(least.calibration.image_scores, least.calibration.map_maxima)
    assert (one.image_score, one.threshold) != (two.image_score, two.threshold)


def test_what_is_called_defective_is_outlined(make_detector):
    """The score is the highest value of the counted map, so verdict and outlines agree at every rate."""
    detector = make_detector(SimpleNet, least_size=40)
    for seed in range(12):
        for rate in (0.2, 0.5, 0.8):
            found = detector.decide(detector.predict(noise(seed)), rate)
            assert found.is_anomalous == found.mask.any() == found.at_most(32).mask.any()


def test_a_false_alarm_is_taken_back_by_the_counted_map(make_detector):
    detector = make_detector(SimpleNet, least_size=40)
    found = max(map(detector.predict, map(noise, range(7, 20))), key=lambda prediction: prediction.image_score)
    detector.calibration.take_back(found)
    assert detector.calibration.map_maxima[-1] == found.image_score < found.anomaly_map.max()
    detector.calibration.undo(found)
    assert len(detector.calibration.map_maxima) == 5


def test_it_is_saved_and_loaded_with_the_model(make_detector, tmp_path):
    detector = make_detector(SimpleNet, least_size=90, picture_size=(96, 80))
    detector.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["least_size"], config["picture_size"]) == (90, [96, 80])
    loaded = load(tmp_path)
    assert loaded.least_size == detector.least_size
    assert loaded.predict(noise(4)).image_score == detector.predict(noise(4)).image_score
    card = str(detector.generate_model_card())
    assert "regions of fewer than 90 pixels do not count, in pictures of 96 x 80 pixels" in card


def test_without_one_the_config_does_not_mention_it(make_detector):
    assert {"least_size", "picture_size"}.isdisjoint(make_detector(SimpleNet).config)


@pytest.mark.parametrize("change", [{"least_size": -3}, {"least_size": "3"}, {"picture_size": "big"}])
def test_a_config_that_cannot_be_does_not_load(make_detector, tmp_path, change):
    make_detector(SimpleNet, least_size=40).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=r"contains values that build no model"):
        load(tmp_path)


def test_it_works_with_a_region(make_detector):
    inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    inside[8:56, 8:56] = True
    detector = make_detector(SimpleNet, calibrated=False, region=True, least_size=40)
    detector.front_end.region.set(inside)
    detector.calibrate([Image.fromarray(noise(seed)) for seed in range(5)], 0.2)
    found, other = noise(7), noise(8)
    other[8:56, 8:56] = found[8:56, 8:56]
    one, two = detector.predict(found), detector.predict(other)
    assert one.image_score == two.image_score and (one.counted_map == two.counted_map).all()
    assert not one.mask[~inside.numpy()].any()


def test_onnx_refuses_it_with_the_remedy(make_detector, tmp_path):
    with pytest.raises(ExportError, match=r"has a least size .* trained without --least-size"):
        export([make_detector(SimpleNet, least_size=40)], tmp_path / "a.onnx", [Image.fromarray(noise())])
    assert not list(tmp_path.iterdir())
