"""Layers for a viewer: laid over the picture they are the overlay, and agreement needs no colours to be seen."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hubmodels.heatmap import (
    Overlap,
    _stripes,
    agreement_layer,
    count_shares,
    heat_layer,
    ignored_layer,
    outline_layer,
    overlap,
    overlay,
)
from hubmodels.prediction import AnomalyPrediction

COLOURS = [(0, 120, 60), (90, 20, 10)]


@pytest.fixture
def prediction():
    """A map that rises from the normal level (0) to twice the pixel threshold (1)."""
    ramp = np.tile(np.linspace(0, 2, 80, dtype=np.float32), (48, 1))
    return AnomalyPrediction(1.0, ramp, 0.1, 0.5, pixel_threshold=1.0, normal_level=0.0, normal_score=0.2)


def laid_over(picture, layer, opacity=1.0):
    """What a browser shows: `source over`, the layer's alpha times the opacity."""
    pixels = np.asarray(layer.convert("RGBA"), np.float64)
    alpha = pixels[..., 3:] / 255 * opacity
    return (1 - alpha) * np.asarray(picture, np.float64) + alpha * pixels[..., :3]


@pytest.mark.parametrize("opacity", [0.0, 0.6, 1.0])
def test_heat_and_outline_over_the_picture_are_the_overlay(prediction, opacity):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))
    heated = laid_over(picture, heat_layer(prediction), opacity)
    shown = laid_over(heated, outline_layer(prediction.mask))
    expected = np.asarray(overlay(picture, prediction, opacity), np.float64)
    assert np.abs(shown - expected).max() <= 6  # of 255: levels are in hundredths


def test_the_layer_of_what_does_not_count_is_that_of_the_overlay(prediction):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))
    limited = replace(prediction, counts_at=lambda size: np.arange(size[0])[:, None] < np.full(size[1], 30))
    shown = laid_over(picture, ignored_layer(limited.counts))
    shown = laid_over(laid_over(shown, heat_layer(limited), 0.6), outline_layer(limited.mask))
    assert np.abs(shown - np.asarray(overlay(picture, limited), np.float64)).max() <= 6
    assert limited.at_most(40).counts.shape == (24, 40) and prediction.counts is None


@pytest.mark.parametrize("shape", [(48, 100), (100, 48)])
@pytest.mark.parametrize("sign", [1, -1])
def test_stripes_run_along_the_diagonals(shape, sign):
    stripes = _stripes(shape, sign)  # period 2
    row, column = np.indices(shape)
    assert np.array_equal(stripes, (row + sign * column) % 2 / 2)


def test_heat_of_a_detector_without_calibration_is_refused(prediction):
    with pytest.raises(ValueError, match="calibrate"):
        heat_layer(AnomalyPrediction(1.0, prediction.anomaly_map))


def test_an_outline_is_white_inside_black_around_and_clear_elsewhere():
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    pixels = np.asarray(outline_layer(mask).convert("RGBA"))
    assert pixels[10, 15].tolist() == [255, 255, 255, 255]
    assert pixels[9, 15].tolist() == [0, 0, 0, 255]
    assert pixels[20, 20, 3] == pixels[2, 2, 3] == 0


def test_agreement_differs_in_pattern_not_only_in_colour():
    """Both: solid. One alone: stripes, which run the other way for the other one."""
    full, none = np.ones((96, 96), bool), np.zeros((96, 96), bool)
    pairs = ((full, full), (full, none), (none, full))
    layers = [np.asarray(agreement_layer(pair, COLOURS).convert("RGBA")) for pair in pairs]
    *opaque, second = (layer[..., 3] > 0 for layer in layers)
    for colour, alone in zip(COLOURS, layers[1:], strict=True):  # the method's own
        assert (alone[alone[..., 3] > 0][:, :3] == colour).all()
    assert opaque[0].all()
    for stripes in (opaque[1], second):
        assert 0.4 < stripes.mean() < 0.6
    assert (opaque[1][:, ::-1] != opaque[1]).any() and 0.2 < (opaque[1] != second).mean()
    assert not np.asarray(agreement_layer((none, none), COLOURS).convert("RGBA"))[..., 3].any()


@pytest.mark.parametrize("total", [3, 4])
def test_of_more_than_two_masks_the_counts_are_drawn(total):
    """The more methods outline a place, the more of each stripe is filled, in a colour of its own."""
    full, none = np.ones((240, 240), bool), np.zeros((240, 240), bool)
    layers = [agreement_layer([full] * k + [none] * (total - k), COLOURS).convert("RGBA") for k in range(total + 1)]
    filled = [(np.asarray(layer)[..., 3] > 0).mean() for layer in layers]
    assert filled == pytest.approx([k / total for k in range(total + 1)], abs=0.1) and filled[-1] == 1
    assert len({tuple(np.asarray(layer)[0, 0]) for layer in layers[1:]}) == total


def test_counts_give_shares_of_the_picture():
    masks = np.zeros((3, 10, 10), bool)
    masks[0, :4], masks[1, 2:5], masks[2, 3] = True, True, True
    assert count_shares(list(masks)) == {3: 0.1, 2: 0.1, 1: 0.3}


def test_overlap_gives_shares_of_the_picture():
    first, second = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    first[:4], second[2:5] = True, True
    assert overlap(first, second) == Overlap(both=0.2, first_only=0.2, second_only=0.1)


def test_a_large_map_shrinks_to_the_side_and_a_small_one_stays(prediction):
    smaller = prediction.at_most(40)
    assert smaller.anomaly_map.shape == (24, 40) and smaller.threshold == prediction.threshold
    assert abs(smaller.mask.mean() - prediction.mask.mean()) < 0.03
    assert prediction.at_most(80) is prediction
    thin = AnomalyPrediction(1.0, np.ones((1, 5000), np.float32))
    assert thin.at_most(100).anomaly_map.shape == (1, 100)
