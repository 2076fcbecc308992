"""Labelled pictures are found in every layout, and the results of the methods are counted exactly."""

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve
from small_pictures import add_category, add_pictures, mask, save

from hubmodels.folders import find_labelled, find_shown
from hubmodels.hub.catalog import ModelEntry
from hubmodels.prediction import AnomalyPrediction
from hubmodels.samples import Category, Sample
from webapp.labelled_results import LabelledResults, MethodResults, Outcome, by_category


def labelled(tmp_path, label, name="000.png"):
    defect_type = "crack" if label else "good"
    return Sample(f"test/{defect_type}/{name}", tmp_path / name, defect_type, label)


def outcome(tmp_path, label, level, category="toy / widget"):
    return Outcome(labelled(tmp_path, label), category, 10 * level, level, level > 1)


@pytest.fixture
def tally(tmp_path):
    """Factory of a tally from labels and levels."""

    def make(labels, levels):
        return MethodResults(
            tuple(outcome(tmp_path, label, level) for label, level in zip(labels, levels, strict=True))
        )

    return make


def prediction(score, threshold=1.0):
    return AnomalyPrediction(score, np.zeros((4, 4)), 0.5, threshold, 1.0, 0.0, 0.0)


def uncalibrated(score):
    return AnomalyPrediction(score, np.zeros((4, 4)))


# ---------------------------------------------------------------- labelled pictures


def test_a_root_in_mvtec_layout(tmp_path):
    add_category(tmp_path)
    (found,) = find_labelled(tmp_path / "mvtec_ad")
    assert (found.dataset, found.name) == (None, "metal_nut")
    assert [(s.name, s.label, s.mask and s.mask.name) for s in found.test] == [
        ("test/bent/000.png", 1, "000_mask.png"),
        ("test/crack/000.png", 1, "000_mask.png"),
        ("test/crack/001.png", 1, "001.png"),
        ("test/good/000.png", 0, None),
        ("test/good/001.png", 0, None),
    ]


def test_a_single_category_folder(tmp_path, monkeypatch):
    folder = add_category(tmp_path)
    assert find_labelled(folder) == find_labelled(folder.parent)
    monkeypatch.chdir(folder)
    assert [category.name for category in find_labelled(".")] == ["metal_nut"]


def test_examples_are_named_after_what_they_show(tmp_path):
    add_pictures(tmp_path / "parts" / "cloth", "good.png", "good_2.png", "knot.png")
    (tmp_path / "parts" / "cloth" / "notes.txt").write_text("no picture")
    (found,) = find_shown(tmp_path)
    assert (found.dataset, found.name) == ("parts", "cloth")
    assert [(s.name, s.defect_type, s.label) for s in found.test] == [
        ("good.png", "good", 0),
        ("good_2.png", "good_2", 0),
        ("knot.png", "knot", 1),
    ]


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert find_labelled(tmp_path) == find_shown(tmp_path) == find_labelled(tmp_path / "missing") == []


def test_pictures_meet_the_models_of_their_category(tmp_path):
    entries = [ModelEntry("glass", dataset, category, "") for dataset, category in (("a", "lid"), ("b", "lid"))]
    one, two, three = (labelled(tmp_path, 0, name) for name in "123")
    anywhere, of_b = Category(None, "lid", test=(one,)), Category("b", "lid", test=(two,))
    unknown = Category(None, "pill", test=(three,))
    assert by_category([anywhere, of_b, unknown], entries) == {"a / lid": [one], "b / lid": [one, two]}
    assert by_category([unknown], entries) == {}


def test_masks_come_at_the_pictures_size(tmp_path):
    place = save(mask((20, 24)), tmp_path / "mask.png")
    shown = Sample("test/crack/000.png", tmp_path / "000.png", "crack", 1, place)
    assert shown.read_mask((20, 24)).sum() == 10 * 6
    assert shown.read_mask((40, 48)).sum() == 20 * 12
    with pytest.raises(ValueError, match="20 x 24"):
        shown.read_mask((40, 30))
    save(mask((20, 24), grey=127), place)
    with pytest.raises(ValueError, match="empty"):  # not above one half
        shown.read_mask((20, 24))
    assert labelled(tmp_path, 1).read_mask((2, 2)) is None
    assert not labelled(tmp_path, 0).read_mask((2, 2)).any()
    place.write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        shown.read_mask((20, 24))


# ---------------------------------------------------------------- counts and curves


@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_roc_are_those_of_scikit_learn_with_ties(tally, seed):
    rng = np.random.default_rng(seed)
    labels, levels = rng.integers(0, 2, 40), rng.integers(0, 8, 40) / 4
    result = tally(labels, levels)
    assert result.auroc() == pytest.approx(roc_auc_score(labels, levels), abs=1e-12)
    fpr, tpr, _ = roc_curve(labels, levels, drop_intermediate=False)
    assert np.allclose(result.roc(), np.column_stack([fpr, tpr]))


def test_the_roc_ends_in_its_corners_and_holds_the_operating_point(tally):
    result = tally([0, 0, 0, 1, 1], [0.1, 0.9, 1.2, 0.8, 3])
    assert (result.roc()[0], result.roc()[-1]) == ((0, 0), (1, 1))
    assert (result.recall, result.false_alarm_rate) == (1 / 2, 1 / 3)
    assert any(np.allclose(point, (1 / 3, 1 / 2)) for point in result.roc())
    assert [(result.count(label), result.flagged(label)) for label in (0, 1)] == [(3, 1), (2, 1)]


def test_separated_and_reversed_scores(tally):
    assert tally([0, 1], [0, 2]).auroc() == 1
    assert tally([0, 1], [2, 0]).auroc() == 0
    assert tally([0, 1], [1, 1]).auroc() == 0.5


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_has_its_own_rate_and_no_curve(tally, label):
    result = tally([label, label], [0, 2])
    assert (result.auroc(), result.roc()) == (None, [])
    rates = (result.false_alarm_rate, result.recall)
    assert rates[label] == 1 / 2 and rates[1 - label] is None


def test_a_score_at_the_threshold_is_drawn_on_its_good_side(tally):
    result = tally([0, 0, 0, 0], [-9, 1, 1.1, 9])
    assert result.histogram(0, np.array([-1, 0, 1, 2])) == [1, 1, 2]
    assert result.flagged(0) == 2


def test_the_worst_mistakes_come_first(tally):
    result = tally([1, 1, 1, 0, 0, 0, 1], [0.5, -0.2, 0.9, 1.5, 4, 0.3, 2])
    assert [o.level for o in result.worst(2)] == [-0.2, 0.5, 4, 1.5]  # missed, then false alarms
    assert [o.level for o in result.worst(9)] == [-0.2, 0.5, 0.9, 4, 1.5]
    assert len(result.mistakes) == 5
    assert [o.level for o in result.closest(5)] == [0.3, 2]


def test_results_keep_numbers_and_count_pairs(tmp_path):
    results = LabelledResults()
    for label, one, other in ((0, 0.2, 0.3), (0, 2, 0.1), (1, 2, 0.5), (1, 3, 4), (1, 0.1, 0.1)):
        results.add(labelled(tmp_path, label), "toy / widget", {"One": prediction(one), "Other": prediction(other)})
    results.add(labelled(tmp_path, 1), "toy / lid", {"One": prediction(5)})
    assert results.pair("One", "Other").verdicts() == {
        (True, True): 2,
        (False, True): 1,
        (True, False): 1,
        (False, False): 1,
    }
    assert results.categories == ["toy / widget", "toy / lid"]
    assert (results.of("One").count(1), results.of("Other").count(1), results.of("One", "toy / lid").count(1)) == (
        4,
        3,
        1,
    )
    assert results.of("nobody").outcomes == ()


def test_categories_are_pooled_on_the_level_and_not_on_raw_scores(tmp_path):
    """Raw scores of a model with a large threshold would outrank the defects of another."""
    results = LabelledResults()
    results.add(labelled(tmp_path, 0), "a", {"One": prediction(50, threshold=100)})
    results.add(labelled(tmp_path, 1), "b", {"One": prediction(2, threshold=1)})
    assert results.of("One").auroc() == 1


def test_without_calibration_there_is_an_auroc_but_no_rate(tmp_path):
    results = LabelledResults()
    for label, score in ((0, 0.2), (1, 0.7)):
        results.add(labelled(tmp_path, label), "a", {"One": uncalibrated(score), "Other": prediction(score)})
    one = results.of("One")
    assert (one.auroc(), one.recall, one.false_alarm_rate, one.worst(3), one.closest(3)) == (1, None, None, [], [])
    assert not one.is_calibrated and results.pair("One", "Other").verdicts() == {}
    results.add(labelled(tmp_path, 0), "b", {"One": uncalibrated(0.1)})
    assert results.of("One").auroc() is None  # raw scores of two models cannot be ordered


def test_pictures_of_any_mode_serve_as_masks(tmp_path):
    place = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 255], [128, 127]] * 8, np.uint8).repeat(8, axis=1)).convert("RGBA").save(place)
    shown = Sample("test/crack/000.png", tmp_path / "000.png", "crack", 1, place)
    assert shown.read_mask((16, 16)).sum() == 16 * 16 // 2


def test_pictures_to_look_at_again_are_counted(tmp_path):
    unsure = Outcome(labelled(tmp_path, 0), "toy / widget", 9.0, 0.9, False, is_unsure=True)
    results = MethodResults((unsure, outcome(tmp_path, 0, 0.5), outcome(tmp_path, 1, 2)))
    assert results.unsure() == 1 and results.flagged(0) == 0
