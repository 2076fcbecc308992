"""Colours mean the same in every picture: anchored at the calibration, silent on good parts, readable without hue."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from hubmodels.heatmap import (
    UNSURE_COLOUR,
    colour_level,
    colourise,
    contour,
    missed_overlay,
    outline,
    overlay,
    panel,
    ring_layer,
)
from hubmodels.prediction import AnomalyPrediction

NORMAL, THRESHOLD = 2.0, 4.0  # in map units: level 0 and level 1
SIZE = (60, 90)


def predicted(anomaly_map, **changed) -> AnomalyPrediction:
    calibrated = {"p_value": 0.25, "threshold": 3.0, "pixel_threshold": THRESHOLD, "normal_level": NORMAL}
    anomaly_map = np.asarray(anomaly_map, np.float32)
    return AnomalyPrediction(float(anomaly_map.max()), anomaly_map, **calibrated | changed)


def blob_map(peak: float) -> np.ndarray:
    """Normal everywhere but in a square of 20 x 20 that is at `peak`."""
    anomaly_map = np.full(SIZE, NORMAL, np.float32)
    anomaly_map[20:40, 30:50] = peak
    return anomaly_map


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def lightness(rgb: np.ndarray) -> np.ndarray:
    """Relative luminance (ITU-R BT.709) of sRGB bytes (..., 3), in [0, 1]."""
    return (rgb / 255.0) ** 2.2 @ np.array([0.2126, 0.7152, 0.0722])


def test_levels_are_anchored_at_the_calibration():
    level = colour_level(predicted([[NORMAL, THRESHOLD, 6.0, 0.0]]))
    assert level.dtype == np.float32
    assert level.tolist() == [[0.0, 1.0, 2.0, -1.0]]


def test_colours_are_ordered_by_lightness_with_a_clear_step_at_the_threshold():
    levels = np.linspace(0, 2, 201, dtype=np.float32)
    light = lightness(colourise(levels))
    assert (np.diff(light) >= 0).all()
    just_below, at = colourise(np.array([0.98, 1.0], np.float32)).astype(int)
    assert np.abs(at - just_below).max() > 100
    assert just_below[2] > just_below[0]  # blue while normal
    assert at[0] > 200 > at[1] > at[2]  # amber from the threshold on


def test_colours_stop_at_the_ends_of_the_scale():
    ends, beyond = colourise(np.array([[0, 2], [-50, 1e9]], np.float32))
    assert np.array_equal(ends, beyond)
    assert not np.array_equal(ends[0], ends[1])


def test_the_same_value_has_the_same_colour_whatever_else_is_in_the_picture():
    calm, wild = blob_map(5.0), blob_map(5.0)
    wild[0, :] = 1000.0
    wild[1, :] = -1000.0
    first, second = (colourise(colour_level(predicted(m))) for m in (calm, wild))
    assert np.array_equal(first[2:], second[2:])
    assert not np.array_equal(first[:2], second[:2])


def test_a_good_part_looks_like_itself(picture):
    nearly_half = NORMAL + 0.49 * (THRESHOLD - NORMAL)
    for peak in (NORMAL, nearly_half):
        assert np.array_equal(np.asarray(overlay(picture, predicted(blob_map(peak)))), np.asarray(picture))


def test_heat_covers_the_defect_only_and_grows_with_the_level(picture):
    before = np.asarray(picture).astype(int)
    change = []
    for peak in (3.4, 3.9, 6.0):
        after = np.asarray(overlay(picture, predicted(blob_map(peak)))).astype(int)
        difference = np.abs(after - before).max(axis=-1)
        assert difference[:18].max() == difference[:, :28].max() == 0
        change.append(np.abs(after - before)[24:36, 34:46].mean())
    assert change == sorted(change)
    assert change[0] > 0


def test_full_opacity_shows_the_heat_map_itself(picture):
    prediction = predicted(blob_map(6.0))
    inside = np.s_[24:36, 34:46]
    shown = np.asarray(overlay(picture, prediction, opacity=1.0))[inside]
    assert np.array_equal(shown, colourise(colour_level(prediction))[inside])


@pytest.mark.parametrize("background", [0, 255])
def test_the_mask_is_outlined_on_any_background(background):
    plain = Image.new("RGB", SIZE[::-1], (background,) * 3)
    drawn = np.asarray(overlay(plain, predicted(blob_map(4.1)), opacity=0.0))
    assert (drawn[20, 30:50] == 255).all()  # white on the mask's own rim
    assert (drawn[19, 29:51] == 0).all()  # black around it


def ring_colours(pixels: np.ndarray) -> np.ndarray:
    return (pixels == UNSURE_COLOUR).all(axis=-1)


def test_an_unsure_picture_with_nothing_outlined_has_a_ring_around_the_highest_place(picture):
    faint = blob_map(2.8)
    faint[30, 70] = 2.9
    prediction = predicted(faint, unsure_threshold=2.5)
    assert prediction.is_unsure and not prediction.mask.any()
    ringed = ring_colours(np.asarray(overlay(picture, prediction)))
    rows, columns = np.nonzero(ringed)
    assert (rows.mean(), columns.mean()) == pytest.approx((30, 70), abs=0.5) and not ringed[30, 70]
    assert np.array_equal(np.asarray(ring_layer(prediction)) == 2, ringed)


@pytest.mark.parametrize("changed", [{}, {"unsure_threshold": 2.5, "pixel_threshold": 2.7}])
def test_no_ring_on_other_verdicts_or_where_a_region_is_outlined(picture, changed):
    """The colours of ordinary verdicts stay as they are."""
    assert not ring_colours(np.asarray(overlay(picture, predicted(blob_map(2.9), **changed)))).any()


@pytest.mark.parametrize("peak", [NORMAL + 0.1, 2.9])
def test_a_missed_defect_is_shown_on_the_scale_of_its_picture(picture, peak):
    shown = np.asarray(missed_overlay(picture, predicted(blob_map(peak)))).astype(int)
    change = np.abs(shown - np.asarray(picture)).max(axis=-1)
    assert change[34:40, 40:50].mean() > 20 and not change[50:, 60:].any() and ring_colours(shown).any()
    outlined = predicted(blob_map(6.0))
    assert np.array_equal(np.asarray(missed_overlay(picture, outlined)), np.asarray(overlay(picture, outlined)))


def left_half(size: tuple[int, int]) -> np.ndarray:
    """A region: the left half of a picture (height, width) counts."""
    return np.broadcast_to(np.arange(size[1]) < size[1] // 2, size)


@pytest.mark.parametrize("peak", [NORMAL, 9.0])
def test_overlay_stripes_what_does_not_count_and_only_that(picture, peak):
    plain, limited = (np.asarray(overlay(picture, predicted(blob_map(peak), **given))) for given in REGIONS)
    changed = (plain != limited).any(2)
    assert not changed[:, :45].any() and 0.2 < changed[:, 52:].mean() < 0.6


@pytest.mark.parametrize("grey", [0, 90, 255])
def test_stripes_show_on_any_picture(grey):
    plain = Image.new("RGB", (240, 240), (grey,) * 3)
    level = np.full((240, 240), NORMAL, np.float32)
    shown = np.asarray(overlay(plain, predicted(level, counts_at=left_half)), int)
    assert (shown[:, :120] == grey).all() and 0.15 < (np.abs(shown[:, 120:, 0] - grey) > 30).mean() < 0.45


def test_a_panel_stripes_the_column_of_the_method(picture):
    given = [{"GLASS": predicted(blob_map(3.0), **each)} for each in REGIONS]
    plain, limited = (np.asarray(panel(picture, None, predictions), int) for predictions in given)
    changed = np.flatnonzero((np.abs(plain - limited) > 30).any(2).any(0))
    assert len(changed) and changed[0] > plain.shape[1] * 0.7


REGIONS = ({}, {"counts_at": left_half})


def test_overlay_leaves_the_picture_handed_in_alone(picture):
    before = np.asarray(picture).copy()
    overlay(picture, predicted(blob_map(6.0)))
    assert np.array_equal(np.asarray(picture), before)


@pytest.mark.parametrize("thickness", [1, 2, 3])
def test_contour_of_a_square(thickness):
    mask = np.zeros((20, 24), bool)
    mask[5:15, 6:18] = True
    expected = mask.copy()
    expected[5 + thickness : 15 - thickness, 6 + thickness : 18 - thickness] = False
    assert np.array_equal(contour(mask, thickness), expected)


def test_contour_follows_the_edge_of_the_picture():
    """A mask that fills the picture is framed: an outline that vanished would look like a good part."""
    framed = contour(np.ones((6, 7), bool), 1)
    assert framed.sum() == 6 * 7 - 4 * 5
    assert not framed[1:-1, 1:-1].any()
    assert not contour(np.zeros((6, 7), bool), 2).any()


@pytest.mark.parametrize(
    "place", [np.s_[0:9, 0:5], np.s_[90:110, 690:700], np.s_[599:, :], np.s_[:0, :0], np.s_[:, :]]
)
def test_an_outline_is_that_of_the_whole_picture(place):
    """It is computed around the mask only."""
    mask = np.zeros((600, 700), bool)
    mask[place] = True
    line, rim = outline(mask)
    assert np.array_equal(line, contour(mask, 3))
    assert np.array_equal(rim, ndimage.maximum_filter(mask, 7, mode="constant") & ~mask)


def test_outlines_are_thicker_on_larger_pictures():
    def white(scale: int) -> int:
        large = np.kron(blob_map(4.1), np.ones((scale, scale)))
        black = Image.new("RGB", large.shape[::-1])
        drawn = np.asarray(overlay(black, predicted(large), opacity=0.0))
        return int((drawn[30 * scale] == 255).all(axis=-1).sum()) // 2  # two sides of the square

    assert white(1) == 1
    assert white(20) == 6


def test_panel_has_a_column_each_and_pictures_of_the_height_asked_for(picture):
    prediction = predicted(blob_map(6.0))
    gt_mask = blob_map(6.0) > 5
    two = panel(picture, None, {"SimpleNet": prediction}, height=300)
    three = panel(picture, gt_mask, {"SimpleNet": prediction}, height=300)
    four = panel(picture, gt_mask, {"SimpleNet": prediction, "GLASS": prediction}, height=300)
    assert two.mode == "RGB"
    assert two.height == three.height == four.height
    assert three.width - two.width == four.width - three.width  # no column but the one added
    assert three.width - two.width >= 450  # 300 high at the picture's own aspect
    assert 300 < two.height < 400


def test_panel_shows_the_input_the_truth_and_the_overlay(picture):
    """At the picture's own height the columns are the very pixels of the single views."""
    prediction, gt_mask = predicted(blob_map(6.0)), blob_map(6.0) > 5
    sheet = np.asarray(panel(picture, gt_mask, {"GLASS": prediction}, height=SIZE[0]))

    def found(pixels: np.ndarray) -> bool:
        windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], pixels.shape[:2])
        return bool((windows == pixels[..., 0]).all(axis=(-2, -1)).any())

    assert found(np.asarray(picture))
    assert found(np.asarray(overlay(picture, prediction)))
    assert not found(colourise(colour_level(prediction)))


def test_panel_says_the_verdict_without_colour(picture):
    """Same map, other threshold: the captions differ, and still do in grey."""
    flagged, passed = (
        panel(picture, None, {"GLASS": predicted(blob_map(3.5), threshold=threshold)}) for threshold in (3.0, 9.0)
    )
    grey = [np.asarray(sheet.convert("L")).astype(int) for sheet in (flagged, passed)]
    assert flagged.size == passed.size
    assert np.abs(grey[0] - grey[1]).max() > 128
    assert np.abs(grey[0] - grey[1])[-256:].max() == 0  # only the strip above the pictures


def test_a_caption_is_never_cut_off():
    narrow = Image.new("RGB", (10, 100))
    prediction = predicted(np.full((100, 10), NORMAL))
    short, long = (panel(narrow, None, {name: prediction}) for name in ("GLASS", "GLASS, trained for twenty epochs"))
    assert long.width > short.width + 100


def test_uncalibrated_predictions_are_refused(picture):
    prediction = AnomalyPrediction(1.0, blob_map(3.0))
    for draw in (
        lambda: colour_level(prediction),
        lambda: overlay(picture, prediction),
        lambda: panel(picture, None, {"GLASS": prediction}),
    ):
        with pytest.raises(ValueError, match="calibrate"):
            draw()


def test_a_map_or_mask_of_another_size_is_refused(picture):
    with pytest.raises(ValueError, match=r"\(60, 80\).*\(60, 90\)"):
        overlay(picture, predicted(blob_map(3.0)[:, :80]))
    with pytest.raises(ValueError, match="ground-truth mask"):
        panel(picture, np.zeros((90, 60), bool), {})


def test_an_opacity_out_of_range_is_refused(picture):
    with pytest.raises(ValueError, match=r"between 0 and 1, not 60"):
        overlay(picture, predicted(blob_map(3.0)), opacity=60)


@pytest.mark.parametrize("pixel_threshold", [NORMAL, NORMAL - 0.5])
def test_degenerate_calibration_still_colours(pixel_threshold):
    """Held-out maps that are all alike leave no span: above the threshold is the top of the scale, nothing is NaN."""
    prediction = predicted([[0.0, pixel_threshold, 9.0]], pixel_threshold=pixel_threshold)
    level = colour_level(prediction)
    assert np.isfinite(level).all()
    assert (level > 1).tolist() == prediction.mask.tolist() == [[False, False, True]]
    assert level[0, 1] == 0
