"""The summary over categories and the choice of panels; the metrics themselves are in test_metrics.py."""

import json

import pytest

from training.evaluation import HEADLINE, OBJECTS, TEXTURES, _chosen, summarise, summary_table


def write_report(folder, category, value, dataset="mvtec", method="glass", **missing):
    report = {"method": method, "dataset": dataset, "category": category, "protocol": "last", "seed": 0}
    report["metrics"] = {key: value for key in HEADLINE if key not in missing}
    path = folder / f"{method}-{dataset}-{category}"
    path.mkdir()
    (path / "metrics.json").write_text(json.dumps(report))
    return path


def test_means_over_textures_objects_and_all(tmp_path):
    """carpet .9, grid .7, bottle .5: textures .8, objects .5, all .7."""
    folders = [write_report(tmp_path, c, v) for c, v in (("carpet", 0.9), ("grid", 0.7), ("bottle", 0.5))]
    means = {row["category"]: row["image_auroc"] for row in summarise(folders)[3:]}
    assert means == {
        "mean (3)": pytest.approx(0.7),
        "mean of textures (2)": pytest.approx(0.8),
        "mean of objects (1)": pytest.approx(0.5),
    }


def test_other_data_sets_and_methods_are_not_mixed(tmp_path):
    folders = [write_report(tmp_path, c, 0.5, "tiles", m) for c in ("a", "b") for m in ("glass", "simplenet")]
    rows = summarise(folders)
    assert [row["category"] for row in rows[4:]] == ["mean (2)", "mean (2)"]
    assert {row["method"] for row in rows[4:]} == {"glass", "simplenet"}


def test_what_was_not_measured_is_a_dash_and_spoils_no_mean(tmp_path):
    folders = [write_report(tmp_path, "a", 0.5, "x"), write_report(tmp_path, "b", 0.5, "x", aupro=None)]
    rows = summarise(folders)
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
