"""What is measured where pictures or masks are bad, the summary, the panels; for the metrics see test_metrics.py."""

from dataclasses import replace

import pytest
import torch
from small_pictures import add_category, mask, only, save

from hubmodels import SimpleNet
from training import evaluation
from training.data import open_categories
from training.evaluation import (
    HEADLINE,
    OBJECTS,
    TEXTURES,
    _chosen,
    _missed,
    evaluate,
    judge_defects,
    suiting_methods,
    summarise,
    summary_table,
)

PIXEL_METRICS = {"pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"}


@pytest.fixture
def category_folder(tmp_path):
    return add_category(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda path: path.write_bytes(b"no picture"), "known format"),
        (lambda path: save(mask((48, 48)), path), "48 x 48 but the picture is 40 x 48"),
        (lambda path: save(mask(grey=1), path), "empty"),
    ],
)
def test_a_bad_mask_costs_the_pixel_metrics_only(spoil, cause, make_detector, category_folder, tmp_path, caplog):
    """It used to end the job after hours of training, and every rerun again."""
    spoil(category_folder / "ground_truth/bent/000_mask.png")
    detector, category = make_detector(SimpleNet), only(open_categories(category_folder))
    metrics = evaluate(detector, category, tmp_path)
    assert {"image_auroc", "recall_at_threshold"} <= metrics.keys() and PIXEL_METRICS.isdisjoint(metrics)
    (warning,) = caplog.messages
    assert "test/bent/000.png" in warning and cause in warning and "no pixel metrics" in warning
    over_others = evaluate(detector, category, tmp_path, skip_bad=True)
    others = replace(category, test=tuple(s for s in category.test if s.defect_type != "bent"))
    expected = evaluate(detector, others, tmp_path)
    assert {k: over_others[k] for k in PIXEL_METRICS} == {k: expected[k] for k in PIXEL_METRICS}
    assert over_others["image_auroc"] == metrics["image_auroc"]


def test_without_one_good_mask_there_are_image_metrics(make_detector, category_folder, tmp_path, caplog):
    for path in (category_folder / "ground_truth").rglob("*.png"):
        save(mask(grey=1), path)
    metrics = evaluate(make_detector(SimpleNet), only(open_categories(category_folder)), tmp_path, skip_bad=True)
    assert "image_auroc" in metrics and PIXEL_METRICS.isdisjoint(metrics)
    assert "3 unusable masks" in caplog.text and "no pixel metrics" in caplog.text


def test_without_one_readable_test_picture_there_are_no_metrics(make_detector, category_folder, tmp_path, caplog):
    for path in (category_folder / "test").rglob("*.png"):
        path.write_bytes(b"torn")
    category = only(open_categories(category_folder))
    assert evaluate(make_detector(SimpleNet), category, tmp_path, skip_bad=True) == {}
    assert "no test picture" in caplog.text


def test_the_outline_is_compared_with_the_mask_of_each_defective_picture(make_detector, category_folder, tmp_path):
    detector, category = make_detector(SimpleNet), only(open_categories(category_folder))
    detector.calibrate([sample.read() for sample in category.train], 0.5)
    overlaps = []
    for sample in (sample for sample in category.test if sample.label):
        found, truth = detector.predict(sample.read()).mask, sample.read_mask((40, 48)) > 0
        overlaps.append((found & truth).sum() / (found | truth).sum())
    measured = evaluate(detector, category, tmp_path, skip_bad=True)["outline_iou"]
    assert measured == pytest.approx(sum(overlaps) / len(overlaps)) and 0 <= measured <= 1


def test_defect_pixels_outside_the_crop_are_counted(make_detector, category_folder, tmp_path):
    """Crop 80 -> 64 of 40 x 48: rows 4-35, columns 5-42; of the mask's 20 x 12 pixels 16 x 7 are inspected."""
    category = only(open_categories(category_folder))
    cropped = evaluate(make_detector(SimpleNet, resize=80), category, tmp_path)
    assert cropped["cropped_defect_pixels"] == pytest.approx(1 - 16 * 7 / (20 * 12))
    assert "cropped_defect_pixels" not in evaluate(make_detector(SimpleNet), category, tmp_path)


def test_a_crop_of_one_side_counts_too(make_detector, category_folder, tmp_path):
    """Crop 80 -> 64 of 48 columns: columns 5-42; of the mask's 12 columns 7 are inspected."""
    category = only(open_categories(category_folder))
    metrics = evaluate(make_detector(SimpleNet, image_size=(64, 64), resize=(64, 80)), category, tmp_path)
    assert metrics["cropped_defect_pixels"] == pytest.approx(1 - 7 / 12)


def report_of(category, value, dataset="mvtec", method="glass", **missing):
    report = {"method": method, "dataset": dataset, "category": category, "protocol": "last", "seed": 0}
    report["metrics"] = {key: value for key in HEADLINE if key not in missing}
    return report


def test_means_over_textures_objects_and_all():
    """carpet .9, grid .7, bottle .5: textures .8, objects .5, all .7."""
    reports = [report_of(c, v) for c, v in (("carpet", 0.9), ("grid", 0.7), ("bottle", 0.5))]
    means = {row["category"]: row["image_auroc"] for row in summarise(reports)[3:]}
    assert means == {
        "mean (3)": pytest.approx(0.7),
        "mean of textures (2)": pytest.approx(0.8),
        "mean of objects (1)": pytest.approx(0.5),
    }


def test_other_data_sets_and_methods_are_not_mixed():
    reports = [report_of(c, 0.5, "tiles", m) for c in ("a", "b") for m in ("glass", "simplenet")]
    rows = summarise(reports)
    assert [row["category"] for row in rows[4:]] == ["mean (2)", "mean (2)"]
    assert {row["method"] for row in rows[4:]} == {"glass", "simplenet"}


def test_what_was_not_measured_is_a_dash_and_spoils_no_mean():
    reports = [report_of("a", 0.5, "x"), report_of("b", 0.5, "x", aupro=None)]
    rows = summarise(reports)
    assert rows[-1]["aupro"] is None and rows[-1]["image_auroc"] == 0.5
    assert summary_table(rows).splitlines()[3].endswith("| 50.0 | - |")


def test_the_fifteen_categories():
    assert (len(TEXTURES), len(OBJECTS), len({*TEXTURES, *OBJECTS})) == (5, 10, 15)


def test_panels_show_typical_and_misleading_pictures():
    rows = [
        {"name": f"{label}{score}", "label": label, "image_score": score} for label in (0, 1) for score in range(5)
    ]
    names = {title: row["name"] for title, row in _chosen(rows).items()}
    assert (names["good_highest"], names["defective_lowest"], names["good_median"]) == ("04", "10", "02")
    assert set(_chosen(rows[:5])) == {"good_lowest", "good_median", "good_highest"}


# ------------------------------------------------------------------------------------------------------ known defects


def test_known_defects_are_judged_from_the_raw_scores(make_detector, category_folder, tmp_path):
    detector, category = make_detector(SimpleNet), only(open_categories(category_folder))
    detector.calibrate([sample.read() for sample in category.train], 0.25)
    evaluate(detector, category, tmp_path, skip_bad=True)
    known = judge_defects(tmp_path, 0.25)
    verdicts = {s.name: detector.predict(s.read()) for s in category.test if s.label}
    assert known["missed"] == [name for name, p in verdicts.items() if not p.is_anomalous]
    assert (known["found"], known["total"], known["rate"]) == (3 - len(known["missed"]), 3, 0.25)
    assert known["all_from"] == pytest.approx(max(0.25, *(p.p_value for p in verdicts.values())))
    assert 0 <= known["low"] <= known["found"] / 3 <= known["high"] <= 1
    assert known["in_words"].startswith(f"finds {known['found']} of 3 defects (of all such defects ")


def test_without_defects_there_is_nothing_to_judge(make_detector, category_folder, tmp_path):
    assert judge_defects(tmp_path, 0.25) == {}
    category = only(open_categories(category_folder))
    good = replace(category, test=tuple(sample for sample in category.test if not sample.label))
    evaluate(make_detector(SimpleNet), good, tmp_path)
    assert judge_defects(tmp_path, 0.25) == {}


def test_each_missed_defect_is_drawn(make_detector, category_folder, tmp_path):
    detector, category = make_detector(SimpleNet), only(open_categories(category_folder))
    detector.calibrate([sample.read() for sample in category.test], 0.1)  # all scores are known: nothing is found
    evaluate(detector, category, tmp_path, skip_bad=True)
    assert len(judge_defects(tmp_path, 0.1)["missed"]) == 3
    drawn = {path.stem for path in (tmp_path / "panels").glob("missed_*.png")}
    assert drawn == {"missed_01", "missed_02", "missed_03"}


def test_the_panels_get_the_region_and_stripe_the_rest(make_detector, category_folder, tmp_path, monkeypatch):
    detector, category = make_detector(SimpleNet, region=True), only(open_categories(category_folder))
    detector.front_end.region.set(torch.arange(64).expand(64, 64) < 32)
    detector.calibrate([sample.read() for sample in category.train], 0.25)
    drawn, draw = [], evaluation.panel

    def record(picture, mask, predictions, height):
        drawn.extend(p.counts for p in predictions.values())
        return draw(picture, mask, predictions, height)

    monkeypatch.setattr(evaluation, "panel", record)
    evaluate(detector, category, tmp_path, skip_bad=True)
    assert drawn and all(counts.mean() == 0.5 for counts in drawn)


def test_the_panels_of_missed_defects_are_in_the_order_of_their_names_and_not_endless(monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_MISSED", 2)
    rows = [
        {"name": f"{i}", "label": label, "is_anomalous": found}
        for i, (label, found) in enumerate([(1, True), (1, False), (0, False), (1, False), (1, False)])
    ]
    assert {title: row["name"] for title, row in _missed(rows).items()} == {"missed_01": "1", "missed_02": "3"}


def judged(method, missed, total=10, rate=0.01, category="a"):
    known = {"found": total - len(missed), "total": total, "rate": rate, "missed": list(missed)}
    return {"method": method, "dataset": "toy", "category": category, "known_defects": known}


def test_the_method_that_finds_more_is_named_once_for_a_category():
    reports = [judged("glass", "abcdefgh"), judged("hybrid", "a"), judged("glass", "", category="b")]
    assert suiting_methods([*reports, judged("hybrid", "abc", category="b")]) == {"toy / a": "hybrid"}
    assert suiting_methods([*reports, {"method": "patchcore", "dataset": "toy", "category": "a"}]) != {}


def test_other_defects_or_more_false_alarms_are_not_compared():
    assert suiting_methods([judged("glass", "abcdefgh"), judged("hybrid", "", total=11)]) == {}
    assert suiting_methods([judged("glass", "abcdefgh"), judged("hybrid", "", rate=0.05)]) == {}
