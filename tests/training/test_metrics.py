"""Pixel metrics against scikit-learn, grids worked by hand, and a slow AUPRO over all thresholds; image metrics."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from training import metrics
from training.metrics import PixelMetrics, false_alarm_rate, image_metrics, recall_at_threshold

EXACT = dict(rel=0, abs=1e-9)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """A chunk for large test sets would reserve half a gigabyte for each test."""
    monkeypatch.setattr(metrics, "CHUNK_SIZE", 2**12)


def sklearn_metrics(scores, labels):
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return [roc_auc_score(labels, scores), average_precision_score(labels, scores), f1.max()]


def slow_aupro(maps, masks, fpr_limit):
    """The PRO curve at every distinct score, interpolated at the limit, integrated with the trapezoid rule."""
    scores = np.concatenate([m.ravel() for m in maps])
    normal = np.concatenate([m[g == 0] for m, g in zip(maps, masks, strict=True)])
    regions = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        components, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [anomaly_map[components == i] for i in range(1, count + 1)]
    fpr, pro = [0.0], [0.0]
    for threshold in np.unique(scores)[::-1]:
        fpr.append((normal >= threshold).mean())
        pro.append(np.mean([(region >= threshold).mean() for region in regions]))
    fpr, pro = np.array(fpr), np.array(pro)
    inside = fpr <= fpr_limit
    fpr_cut, pro_cut = fpr[inside], pro[inside]
    if not inside.all():
        after = np.argmin(inside)  # first point beyond the limit
        slope = (pro[after] - pro[after - 1]) / (fpr[after] - fpr[after - 1])
        fpr_cut = np.append(fpr_cut, fpr_limit)
        pro_cut = np.append(pro_cut, pro[after - 1] + slope * (fpr_limit - fpr[after - 1]))
    return np.trapezoid(pro_cut, fpr_cut) / fpr_limit


def random_pictures(seed, levels=None, count=4):
    """Maps weakly related to their masks, of different sizes, the first one good; `levels` quantises the scores."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(count):
        shape = rng.integers(6, 14, 2)
        mask = (rng.random(shape) < 0.2) & (i > 0)
        scores = rng.random(shape) + 0.5 * mask
        maps.append((np.floor(scores * levels) if levels else scores).astype(np.float32))
        masks.append(mask)
    return maps, masks


def streamed(maps, masks):
    pixels = PixelMetrics()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        pixels.update(anomaly_map, mask)
    return pixels


def pairwise_auroc(scores, labels):
    """Share of the pairs of a normal and an anomalous image in the right order; ties count one half."""
    normal, anomalous = scores[labels == 0][:, None], scores[labels == 1]
    return ((anomalous > normal) + (anomalous == normal) / 2).mean()


def largest_f1(scores, labels):
    flagged = [(scores >= threshold, labels == 1) for threshold in scores]
    return max(2 * (found & true).sum() / (found.sum() + true.sum()) for found, true in flagged)


@pytest.mark.parametrize("levels", [None, 1000, 12, 2], ids=["distinct", "few ties", "many ties", "two values"])
@pytest.mark.parametrize("seed", range(3))
def test_image_metrics_are_what_their_definitions_say(seed, levels):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 400)
    scores = rng.normal(size=400) + labels
    scores = scores if levels is None else np.floor((scores - scores.min()) / np.ptp(scores) * (levels - 0.01))
    pixels = streamed([np.float32(np.argsort(np.argsort(scores)))[None]], [labels[None]]).compute()
    values = image_metrics(scores, labels)
    assert list(values) == ["image_auroc", "image_ap", "image_f1_max"]
    assert values["image_auroc"] == pytest.approx(pairwise_auroc(scores, labels), **EXACT)
    assert values["image_f1_max"] == pytest.approx(largest_f1(scores, labels), **EXACT)
    if levels is None:  # the streaming form counts the same
        assert values["image_ap"] == pytest.approx(pixels["pixel_ap"], **EXACT)


def test_constant_scores_are_chance():
    # One threshold: everything or nothing. ROC is the diagonal; precision 1/4 at recall 1, so F1 = 2/4 / (5/4) = 0.4.
    assert list(image_metrics([7.0] * 4, [0, 0, 0, 1]).values()) == pytest.approx([0.5, 0.25, 0.4])


def test_threshold_is_exclusive_and_compared_at_full_precision():
    scores, labels = [1.0, 2.0, 2.0, 3.0], [0, 0, 1, 1]
    assert false_alarm_rate(scores, labels, 1.0) == 0.5
    assert false_alarm_rate(scores, labels, 2.0) == 0.0
    assert recall_at_threshold(scores, labels, 1.5) == 1.0
    assert recall_at_threshold(scores, labels, 2.0) == 0.5
    assert recall_at_threshold(scores, labels, float("inf")) == 0.0
    # float32(0.1) is larger than 0.1: comparing in float32 would round the threshold up to it
    assert recall_at_threshold(np.float32([0.1]), [1], 0.1) == 1.0


def test_threshold_metrics_need_only_their_own_class():
    assert false_alarm_rate([1.0, 2.0], [0, 0], 1.5) == 0.5
    assert recall_at_threshold([1.0, 2.0], [1, 1], 1.5) == 0.5
    with pytest.raises(ValueError, match="no normal"):
        false_alarm_rate([1.0], [1], 0.5)
    with pytest.raises(ValueError, match="no anomalous"):
        recall_at_threshold([1.0], [0], 0.5)
    with pytest.raises(ValueError, match="calibrate"):
        recall_at_threshold([1.0], [1], float("nan"))


def aupro(maps, masks, fpr_limit=0.3):
    return streamed(maps, masks).compute(fpr_limit)["aupro"]


@pytest.mark.parametrize("levels", [None, 10], ids=["distinct", "many ties"])
@pytest.mark.parametrize("seed", range(5))
def test_pixel_metrics_agree_with_sklearn(seed, levels):
    maps, masks = random_pictures(seed, levels)
    scores, labels = (np.concatenate([a.ravel() for a in arrays]) for arrays in (maps, masks))
    ours = streamed(maps, masks).compute()
    assert list(ours) == ["pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"]
    assert list(ours.values())[:3] == pytest.approx(sklearn_metrics(scores, labels), **EXACT)


def test_aupro_by_hand_over_two_pictures():
    # Normal scores 6, 4, 2, 1 and, in the good picture, 8, 0, 0, 0, 0, 0: ten of them. Regions: {9, 5} and {7}.
    # Going down: 9 at FPR 0 lifts PRO to 1/4; 8 is normal (FPR 0.1); 7 lifts it to 3/4; 6 is normal (FPR 0.2);
    # 5 lifts it to 1. Area up to 0.3: 0.1 * 1/4 + 0.1 * 3/4 + 0.1 * 1 = 0.2. Divided by 0.3: 2/3.
    maps = [np.float32([[9, 6, 7], [5, 4, 1], [2, 0, 0]]), np.float32([[8, 0], [0, 0]])]
    masks = [np.uint8([[1, 0, 1], [1, 0, 0], [0, 0, 0]]), np.zeros((2, 2), np.uint8)]
    assert aupro(maps, masks) == pytest.approx(2 / 3, **EXACT)
    # Up to 0.05 PRO stays at 1/4; over the whole range 0.025 + 0.075 + 0.8 = 0.9.
    assert aupro(maps, masks, fpr_limit=0.05) == pytest.approx(0.25, **EXACT)
    assert aupro(maps, masks, fpr_limit=1.0) == pytest.approx(0.9, **EXACT)


@pytest.mark.parametrize(
    ("fpr_limit", "expected"),
    [
        # The curve jumps to (0, 1/2), then the tie leads in a straight line to (0.4, 1), and it stays at 1.
        (0.4, 0.75),  # limit at the end of the tie: mean of 1/2 and 1
        (0.3, 0.6875),  # limit within the tie: the line is at 1/2 + 0.3 / 0.4 / 2 = 0.875 there; mean of 1/2 and 0.875
        (0.2, 0.625),  # half way: mean of 1/2 and 0.75
        (0.5, 0.8),  # (0.4 * 0.75 + 0.1 * 1) / 0.5
    ],
)
def test_aupro_by_hand_with_a_tie_across_the_limit(fpr_limit, expected):
    # One region {3, 2}; five normal pixels, two of which tie with the 2.
    assert aupro([np.float32([[3, 2, 2, 2, 1, 1, 0]])], [np.uint8([[1, 1, 0, 0, 0, 0, 0]])], fpr_limit) == (
        pytest.approx(expected, **EXACT)
    )


@pytest.mark.parametrize("fpr_limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("levels", [None, 20, 3, 1])
@pytest.mark.parametrize("seed", range(5))
def test_aupro_agrees_with_all_thresholds(seed, levels, fpr_limit):
    maps, masks = random_pictures(seed, levels)
    value = aupro(maps, masks, fpr_limit)
    assert value == pytest.approx(slow_aupro(maps, masks, fpr_limit), **EXACT)
    assert 0 <= value <= 1


def test_perfect_and_inverted_maps():
    _, masks = random_pictures(0)
    perfect = [mask.astype(np.float32) for mask in masks]
    assert streamed(perfect, masks).compute() == dict(pixel_auroc=1, pixel_ap=1, pixel_f1_max=1, aupro=1)
    inverted = streamed([-m for m in perfect], masks).compute()
    assert inverted["pixel_auroc"] == inverted["aupro"] == 0


def test_a_small_region_counts_as_much_as_a_big_one():
    # One region above all normal pixels, the other below: AUPRO is 1/2 whichever of the two is found.
    mask = np.zeros((20, 20), bool)
    mask[:10, :10], mask[15, 15] = True, True
    normal = np.random.default_rng(0).random((20, 20), np.float32)
    for found, missed in [((0, 0), (15, 15)), ((15, 15), (0, 0))]:
        regions = ndimage.label(mask)[0]
        scores = np.where(regions == regions[found], 2, np.where(regions == regions[missed], -1, normal))
        assert aupro([scores], [mask]) == pytest.approx(0.5, **EXACT)


def test_regions_join_over_corners_but_not_over_pictures():
    # The first three pixels touch by corners: one region of three, found to one third; alone in its picture, so 1/3.
    diagonal, scores = np.eye(3, dtype=bool), np.zeros((3, 3), np.float32)
    scores[0, 0], scores[1, 1], scores[2, 2] = 1, -1, -1
    assert aupro([scores], [diagonal]) == pytest.approx(1 / 3, **EXACT)
    # A second picture with one found pixel is a second region: (1/3 + 1) / 2.
    second = np.float32([[1, 0]])
    assert aupro([scores, second], [diagonal, second > 0]) == pytest.approx(2 / 3, **EXACT)


def test_monotone_transform_changes_nothing():
    maps, masks = random_pictures(1, levels=30)
    scaled = [np.exp2(m / 8) - 100 for m in maps]
    assert streamed(scaled, masks).compute() == streamed(maps, masks).compute()


@pytest.mark.parametrize("levels", [None, 5])
def test_chunk_and_block_sizes_change_nothing(monkeypatch, levels):
    maps, masks = random_pictures(2, levels, count=8)
    whole = streamed(maps, masks).compute()
    monkeypatch.setattr(metrics, "CHUNK_SIZE", 7)  # several chunks per picture, the last one partly filled
    monkeypatch.setattr(metrics, "BLOCK_SIZE", 3)
    assert streamed(maps, masks).compute() == pytest.approx(whole, **EXACT)


def test_compute_between_updates(monkeypatch):
    monkeypatch.setattr(metrics, "CHUNK_SIZE", 50)
    maps, masks = random_pictures(3, levels=20)
    pixels = streamed(maps[:2], masks[:2])
    assert pixels.compute() == streamed(maps[:2], masks[:2]).compute()
    for anomaly_map, mask in zip(maps[2:], masks[2:], strict=True):
        pixels.update(anomaly_map, mask)
    assert pixels.compute() == pytest.approx(streamed(maps, masks).compute(), **EXACT)
    assert pixels.compute() == pixels.compute()


def test_inputs_are_left_alone():
    maps, masks = random_pictures(4)
    before = [m.copy() for m in maps]
    streamed(maps, masks).compute()
    assert all(np.array_equal(a, b) for a, b in zip(maps, before, strict=True))


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_undefined(label):
    with pytest.raises(ValueError, match="undefined"):
        image_metrics([1.0, 2.0], [label, label])
    with pytest.raises(ValueError, match="undefined"):
        streamed([np.ones((2, 2), np.float32)], [np.full((2, 2), label)]).compute()


def test_nothing_at_all_is_undefined():
    with pytest.raises(ValueError, match="undefined"):
        image_metrics([], [])
    with pytest.raises(ValueError, match="undefined"):
        PixelMetrics().compute()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_named(bad):
    with pytest.raises(ValueError, match="score 2 is"):
        image_metrics([1.0, 2.0, bad], [0, 1, 1])
    maps, masks = random_pictures(5)
    maps[2][3, 4] = bad
    with pytest.raises(ValueError, match=r"picture 2.*row 3, column 4"):
        streamed(maps, masks)


def test_a_refused_picture_leaves_the_state_as_it_was():
    maps, masks = random_pictures(6)
    pixels = streamed(maps, masks)
    before = pixels.compute()
    with pytest.raises(ValueError):
        pixels.update(np.full((2, 2), np.nan, np.float32), np.eye(2))
    assert pixels.compute() == before


def test_bad_shapes_and_values():
    square = np.zeros((4, 4), np.float32)
    with pytest.raises(ValueError, match="one shape"):
        image_metrics([1.0, 2.0], [0, 1, 1])
    with pytest.raises(ValueError, match=r"got \[-1, 1\]"):
        image_metrics([1.0, 2.0], [-1, 1])
    with pytest.raises(ValueError, match="picture 0"):
        PixelMetrics().update(square, np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match="one shape"):
        PixelMetrics().update(square[None], square[None])
    with pytest.raises(ValueError, match="binarise"):
        PixelMetrics().update(square, np.full((4, 4), 255, np.uint8))
    for fpr_limit in (0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="fpr_limit"):
            streamed([square], [np.eye(4)]).compute(fpr_limit)
