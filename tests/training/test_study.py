"""Studies: their files, jobs, results and tables; and `training.compare` on what they write."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats
from small_pictures import add_plates
from small_study import TESTS, write_study
from test_house import ROOT

import training.compare as training_compare
from hubmodels.metric_names import HEADLINE
from training.compare import Run, compared, overall, runs_in, sentence, table
from training.compare import main as compare
from training.pixel_curves import PixelCurves
from training.study import plots
from training.study.__main__ import main as study
from training.study.__main__ import plan_text
from training.study.plan import Study
from training.study.tables import STUDY_FILE, Results, summary_table

COMMITTED = ROOT / "benchmarks/results/study"
DRAW_ALL = plots.draw_all


@pytest.fixture(autouse=True, scope="module")
def no_plots():
    """Plots take longer than all the rest of a study; tests of them bring `DRAW_ALL` back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw_all", lambda results, folder: [])
        yield


@pytest.fixture
def file(backbone_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", str(tmp_path))
    return write_study(tmp_path, backbone_weights)


@pytest.fixture(scope="module")
def finished(backbone_weights, tmp_path_factory):
    """Folder of a finished study; tests must not change it."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA", str(place))
        assert study([str(write_study(place, backbone_weights))]) == 0
    return place


def test_a_study_runs_continues_and_can_be_recomputed(file, tmp_path, capsys, monkeypatch):
    assert study([str(file), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "5 jobs, 0 of them finished" in said and "few, Mahalanobis: 1 job, " in said
    assert study([str(file), "--methods", "mahalanobis"]) == 0
    capsys.readouterr()
    assert study([str(file), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "5 jobs, 3 of them finished" in said and "Mahalanobis" not in said
    monkeypatch.setattr(plots, "draw_all", DRAW_ALL)
    assert study([str(file)]) == 0
    results = Results(tmp_path / "results")
    rows = results.rows
    assert [(r["setting"], r["method"], r["seed"]) for r in rows] == [
        *(("small", "mahalanobis", 0), ("few", "mahalanobis", 0), ("small", "mahalanobis", 1)),
        *(("small", "patchcore", 0), ("small", "patchcore", 1)),
    ]
    assert all(row[key] is not None for row in rows for key in (*HEADLINE, "latency_ms", "model_mb", "command"))
    assert rows[0]["command"].startswith(f"python -m training.study {file} --settings small --methods mahalanobis")
    assert {row["setting"]: row["fit"] for row in rows} == {"small": 6, "few": 3}
    scores = results.table("scores.parquet")
    few = scores.filter(scores["setting"].to_numpy() == "few")
    assert few.num_rows == 4  # one defective test picture was trained on
    warning = "1 of the training pictures show defects, on purpose"
    cards = {s: (tmp_path / f"runs/{s}/seed-0/mahalanobis-toy-plate/README.md").read_text() for s in ("small", "few")}
    assert warning in cards["few"] and warning not in cards["small"]

    # the models are not needed any more
    for place in (tmp_path / "runs").iterdir():
        place.rename(place.with_name(f"moved-{place.name}"))
    assert study([str(file)]) == 0
    assert "5 jobs, 5 of them finished" in capsys.readouterr().err
    drawn = {
        path.name: path.read_bytes() for path in (tmp_path / "results").iterdir() if path.suffix in (".svg", ".md")
    }
    assert {"table.md", "roc_small.svg", "scores_small.svg", "intervals_small.svg"} <= drawn.keys()
    for name in drawn:
        (tmp_path / "results" / name).unlink()
    assert study(["--recompute", str(tmp_path / "results")]) == 0
    assert "5 models: metrics equal those of their raw scores" in capsys.readouterr().out
    assert {name: (tmp_path / "results" / name).read_bytes() for name in drawn} == drawn


def test_a_setting_that_changed_is_not_taken_for_the_old_one(file, tmp_path, capsys):
    assert study([str(file), "--methods", "mahalanobis", "--seeds", "0"]) == 0
    file.write_text(file.read_text().replace("--image-size 64", "--image-size 80"))
    assert study([str(file), "--seeds", "0"]) == 1
    assert "contain a model with image_size 64 instead of 80. Give another" in capsys.readouterr().err
    file.write_text(file.read_text().replace("--image-size 80", "--image-size 64 --false-alarm-rate 0.1"))
    assert study([str(file), "--seeds", "0"]) == 1
    assert "contain a model with other options, pictures or weights" in capsys.readouterr().err


def test_wrong_scores_are_found(file, tmp_path, capsys):
    assert study([str(file), "--methods", "mahalanobis", "--seeds", "0"]) == 0
    path = tmp_path / "results" / STUDY_FILE
    rows = pq.read_table(path).to_pylist()
    rows[0]["image_auroc"] -= 0.1
    pq.write_table(pq.read_table(path).from_pylist(rows), path)
    assert study(["--recompute", str(tmp_path / "results")]) == 1
    assert "image_auroc is 0.9000, but its raw scores give 1.0000" in capsys.readouterr().err


def test_settings_with_their_own_sizes_are_not_mixed(file, backbone_weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.input_shape.default_side", lambda backbone: 96)
    weights = f"--backbone resnet18.tv_in1k --backbone-weights {backbone_weights}"
    own = f'[settings.own]\noptions = "{weights} --image-size auto"'
    file.write_text(f"{file.read_text()}\n{own}\n")
    arguments = [str(file), "--methods", "mahalanobis", "--settings", "own", "small", "--seeds", "0"]
    assert study(arguments) == 0
    sizes = {row["setting"]: row["image_size"] for row in Results(tmp_path / "results").rows}
    assert sizes["small"] == "64" and sizes["own"] != "64"
    capsys.readouterr()
    assert study(arguments) == 0
    assert "2 jobs, 2 of them finished" in capsys.readouterr().err


def test_models_with_other_settings_do_not_get_into_the_results(file, tmp_path, capsys):
    arguments = [str(file), "--methods", "mahalanobis", "--settings", "small", "--seeds", "0"]
    assert study(arguments) == 0
    shutil.rmtree(tmp_path / "results")
    file.write_text(file.read_text().replace("--image-size 64", "--image-size 80"))
    assert study([*arguments, "--collect"]) == 0
    assert "was made with other settings: not added" in capsys.readouterr().err
    assert study(arguments) == 1
    assert Results(tmp_path / "results").rows == []


def test_a_study_without_test_pictures_trains_all_seeds(backbone_weights, tmp_path, capsys):
    add_plates(tmp_path, [])
    weights = ["--backbone", "resnet18.tv_in1k", "--backbone-weights", str(backbone_weights), "--image-size", "64"]
    arguments = ["--data-root", str(tmp_path / "toy"), "--methods", "mahalanobis", "--output", str(tmp_path / "runs")]
    assert study([*arguments, "--seeds", "0", "1", "--", *weights]) == 0
    assert [row["image_auroc"] for row in Results(tmp_path / "runs").rows] == [None, None]
    assert compare([str(tmp_path / "runs"), str(tmp_path / "runs")]) == 1
    assert "has no raw scores" in capsys.readouterr().err


def test_missing_scores_are_found(file, tmp_path, capsys):
    assert study([str(file), "--methods", "mahalanobis", "--seeds", "0", "--settings", "small"]) == 0
    for name, message in (("pixel_curves", "pixel_auroc are missing"), ("scores", "image_auroc are missing")):
        (tmp_path / f"results/{name}.parquet").unlink()
        assert study(["--recompute", str(tmp_path / "results")]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "results/study.parquet").write_bytes(b"torn")
    assert study(["--recompute", str(tmp_path / "results")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_a_study_of_options(backbone_weights, tmp_path, capsys):
    add_plates(tmp_path, TESTS)
    weights = ["--backbone", "resnet18.tv_in1k", "--backbone-weights", str(backbone_weights), "--image-size", "64"]
    arguments = ["--data-root", str(tmp_path / "toy"), "--methods", "mahalanobis", "--output", str(tmp_path / "runs")]
    assert study([*arguments, "--seeds", "3", "4", "--", *weights]) == 0
    assert [row["seed"] for row in Results(tmp_path / "runs").rows] == [3, 4]
    assert (tmp_path / "runs/default/seed-3/mahalanobis-toy-plate/model.safetensors").is_file()
    assert Results(tmp_path / "runs").rows[0]["aupro"] is None  # no masks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds = [0, 1]", "seed = 0"), "unknown key seed"),
        (('["patchcore", "mahalanobis"]', '["padim"]'), "padim cannot be trained here"),
        (("seeds = [0, 1]", "seeds = 3"), "seeds must be a list"),
        (("contaminated = 0.34", "contaminated = 0.7"), "below 0.5"),
        (("seeds = [0, 1]", 'source = "toy"'), "unknown key source"),
        (("-weights ", "-weights /none/of/"), "is not a file: give the safetensors weights"),
        (("pictures = 3", "pictures = 1"), "at least 2 pictures"),
        (("seeds = [0, 1]", 'categories = ["plate", "sheet"]'), "no data set of the study has sheet"),
        (("pictures = 3", "pictures = 30"), "plate has 6 good pictures, not 30"),
        (("--image-size 64", "--image-size 64 --seed 4"), "--seed cannot be an option"),
        (("--image-size 64", "--image-size 64 --see 4"), "--see cannot be an option"),
        (("contaminated = 0.34", "contaminated = 0.1"), "cannot be contaminated with 0 of 3"),
        (("seeds = [0]\n", 'seeds = [0]\ncategories = ["plat"]\n'), "no data set of the study has plat"),
        (("[settings.few]", '[settings."a/b"]'), "becomes a folder"),
        (("data_root", "[data_root"), "cannot be read as TOML"),
        (("methods = [\"patchcore", "# methods = [\"patchcore"), "the study has no methods"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_is_refused_before_anything_runs(file, tmp_path, capsys, change, message):
    assert change[0] in file.read_text()
    file.write_text(file.read_text().replace(*change))
    assert study([str(file)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


# --------------------------------------------------------------------------------------------------- tables


def row(category, method, seed, auroc, aupro=0.5, texture=False):
    metrics = {"image_auroc": auroc, "aupro": aupro}
    return {"category": category, "method": method, "seed": seed, "texture": texture, **metrics}


def test_means_are_over_categories_and_deviations_over_seeds():
    rows = [row("tile", "hybrid", s, 0.9 + 0.02 * s, texture=True) for s in (0, 1)]
    rows += [row(name, "hybrid", s, 0.8 - 0.02 * s) for s in (0, 1) for name in ("screw", "pill")]
    rows += [row("screw", "glass", 0, 0.7, None)]
    lines = summary_table(rows).splitlines()
    assert lines[0] == "| category | GLASS | Hybrid |"
    assert lines[3] == "| screw | 70.0 / - | 79.0 ± 1.4 / 50.0 ± 0.0 |"
    assert lines[-2:] == [
        "| mean of objects (2) | - | 79.0 ± 1.4 / 50.0 ± 0.0 |",
        "| mean of all (3) | - | 83.0 ± 0.5 / 50.0 ± 0.0 |",
    ]


# --------------------------------------------------------------------------------------------------- compare


def run(method, seed, shift, category="screw", names=60, noise=0.3, **changes):
    rng = np.random.default_rng([seed, len(method)])
    labels = np.array([i % 2 for i in range(names)])
    scores = shift * labels + noise * rng.normal(size=names)
    right = (scores > shift / 2) == labels.astype(bool)
    found = Run(
        **{"setting": "default", "method": method, "dataset": "toy", "category": category, "seed": seed},
        **{"names": [f"{i:03}" for i in range(names)], "labels": labels, "scores": scores},
        **{"right": right, "threshold": shift / 2, "curves": None},
    )
    return replace(found, **changes)


def test_a_clear_difference_is_said_and_its_size(capsys):
    ours, other = ([run(m, s, shift) for s in range(3)] for m, shift in (("hybrid", 2.0), ("simplenet", 0.2)))
    (found,) = compared(ours, other)
    words = sentence("Hybrid", "SimpleNet", found, found.image_auroc.p)
    assert words.startswith("screw: Hybrid is better than SimpleNet in image AUROC (+") and "p <0.001" in words
    (turned,) = compared(other, ours)
    assert sentence("SimpleNet", "Hybrid", turned, turned.image_auroc.p).startswith(
        "screw: Hybrid is better than SimpleNet"
    )
    assert found.verdicts < 0.01 and found.right[0] > found.right[1]
    assert "| screw | 60 | 3 / 3 |" in table([found])


def test_no_difference_is_a_bound_and_one_run_is_about_the_model():
    (found,) = compared([run("hybrid", 0, 1.0)], [run("simplenet", 1, 1.0)])
    words = sentence("Hybrid", "SimpleNet", found, 0.5)
    bound = f"{-100 * found.image_auroc.at_least:.1f}"
    assert "no significant difference" in words and f"not worse than SimpleNet by more than {bound} points" in words
    assert "about these trained models" in words


def test_perfect_methods_are_not_called_equal():
    perfect = [run(m, 0, 5.0, noise=0.1) for m in ("hybrid", "simplenet")]
    (found,) = compared(perfect[:1], perfect[1:])
    words = sentence("Hybrid", "SimpleNet", found, 1.0)
    assert "no picture tells them apart" in words and "by more than 0.0" not in words


def test_labels_must_agree_and_equal_names_in_other_data_sets_are_not_compared():
    one, other = run("hybrid", 0, 1.0), run("simplenet", 0, 1.0)
    with pytest.raises(ValueError, match="good for one and defective for the other"):
        compared([one], [replace(other, labels=1 - other.labels)])
    assert compared([one], [replace(other, dataset="other")]) == []


def test_verdicts_are_those_of_an_odd_number_of_seeds_that_both_have():
    ours, other = [run("hybrid", s, 1.0) for s in (0, 1, 2)], [run("simplenet", s, 1.0) for s in (1, 2, 5)]
    (found,) = compared(ours, other)
    assert found.right == (ours[1].right.mean(), other[0].right.mean())  # of seed 1
    (found,) = compared(ours, [run("simplenet", 7, 1.0)])
    assert found.right[0] == ours[0].right.mean()


def test_significance_is_corrected_for_the_number_of_tests(monkeypatch):
    rows = compared(*([run(m, 0, shift, c) for c in "abcdef"] for m, shift in (("hybrid", 0.5), ("simplenet", 0.1))))
    assert any(row.image_auroc.p < 0.05 for row in rows)
    words = training_compare.report("A", "B", [run("hybrid", 0, 0.5, c) for c in "abcdef"],
                                    [run("simplenet", 0, 0.1, c) for c in "abcdef"])  # fmt: skip
    corrected = training_compare.holm([row.image_auroc.p for row in rows])
    assert words.count("is better than") == sum(p < 0.05 for p in corrected)


def test_pictures_that_only_one_has_do_not_count():
    (found,) = compared([run("hybrid", 0, 1.0, names=60)], [run("simplenet", 0, 1.0, names=40)])
    assert found.pictures == 40


def test_methods_settings_models_and_all_pairs_are_compared(finished, capsys):
    results = finished / "results"
    assert compare([str(results), "--methods", "patchcore", "mahalanobis", "--settings", "small"]) == 0
    said = capsys.readouterr().out
    assert "# PatchCore and Mahalanobis" in said and "| plate | 5 | 2 / 2 | 100.0 / 100.0 |" in said
    assert compare([str(results), "--settings", "small", "few", "--methods", "mahalanobis"]) == 0
    assert "# Mahalanobis (small) and Mahalanobis (few)" in capsys.readouterr().out
    models = [str(finished / f"runs/small/seed-0/{m}-toy-plate") for m in ("patchcore", "mahalanobis")]
    assert compare(models) == 0
    assert "This is about these trained models" in capsys.readouterr().out
    assert compare([str(results), "--settings", "small"]) == 0
    assert "| PatchCore | Mahalanobis | 1 |" in capsys.readouterr().out
    assert {run.curves.names[0] for run in runs_in(results)} == {"test/good/0.png"}
    assert "| plate | square | 3 | 100.0 ± 0.0 | 100.0 ± 0.0 |" in (results / "table.md").read_text()


def test_studies_are_compared_method_by_method(finished, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(finished / "results", other)
    assert compare([str(finished / "results"), str(other), "--settings", "small"]) == 0
    said = capsys.readouterr().out
    assert said.count("# PatchCore (") == said.count("# Mahalanobis (") == 1


def test_runs_that_are_there_twice_are_not_taken_for_seeds(finished, tmp_path, capsys):
    shutil.copytree(finished / "runs/small", tmp_path / "both/small")
    shutil.copytree(finished / "runs/small/seed-0", tmp_path / "both/again")
    assert compare([str(tmp_path / "both"), str(finished / "runs/small")]) == 1
    assert "has several runs of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "glass", "patchcore"], "has no runs of glass"),
        ([], "has several settings: choose one by --settings (few, small)"),
        (["--methods", "a", "b", "c"], "at most two"),
    ],
)
def test_what_cannot_be_compared_is_said(finished, capsys, arguments, message):
    assert compare([str(finished / "results"), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_scores_is_named(tmp_path, capsys):
    assert compare([str(tmp_path)]) == 1
    assert "has no raw scores" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- what is committed


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="no results of the study are committed")
def test_committed_tables_and_plots_are_those_of_the_committed_scores(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plots, "draw_all", DRAW_ALL)
    for path in COMMITTED.glob("*.parquet"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert study(["--recompute", str(tmp_path)]) == 0
    (models,) = re.findall(r"(\d+) models: metrics equal those of their raw scores", capsys.readouterr().out)
    assert int(models) > 0
    assert (tmp_path / "table.md").read_text() == (COMMITTED / "table.md").read_text()
    assert {p.name for p in tmp_path.glob("*.svg")} == {p.name for p in COMMITTED.glob("*.svg")}


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("*.toml")), ids=lambda file: file.stem)
def test_the_committed_studies_can_be_read(file):
    planned = Study.read(file)
    assert planned.seeds[0] == 0 and all(
        setting.options.startswith("--backbone") for setting in planned.settings.values()
    )


# --------------------------------------------------------------------------------------------------- bootstrap


THRESHOLDS = np.linspace(4, -4, 60)


def simulated(rng, pictures, shift, shared, of_run=0.0):
    """Curves of pictures whose difficulty is partly the same for all methods, and partly that of a run."""
    own = shared + 0.4 * rng.normal(size=pictures)
    level = 0.5 * rng.normal(size=pictures)
    normal, found = (stats.norm.sf(THRESHOLDS - each[:, None]) for each in (level, shift + of_run + own))
    ones = np.ones(pictures)
    return PixelCurves([f"{i:05}" for i in range(pictures)], 1000 * ones, 100 * ones, ones, 1000 * normal, 100 * found,
                       found)  # fmt: skip


def test_bootstrap_intervals_of_aupro_contain_the_truth(monkeypatch):
    monkeypatch.setattr(training_compare, "SAMPLES", 200)
    rng, big, cases = np.random.default_rng(0), 20_000, 250
    shared = 0.8 * rng.normal(size=big)
    truth = np.subtract(*(simulated(rng, big, s, shared).metrics()["aupro"][0] for s in (1.5, 1.2)))
    inside = 0
    for _ in range(cases):
        shared = 0.8 * rng.normal(size=60)
        runs = [[replace(run("m", 0, 1.0), curves=simulated(rng, 60, s, shared))] for s in (1.5, 1.2)]
        _, gap = training_compare._pixels(*runs)
        inside += gap.interval[0] <= truth <= gap.interval[1]
    assert 0.91 <= inside / cases <= 0.98


# --------------------------------------------------------------------------------------------------- mistakes of users


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("pictures = 3", 'pictures = "3"'), "[settings.few]: pictures must be a whole number, not '3'"),
        (("contaminated = 0.34", 'contaminated = "34 %"'), "contaminated must be a number, not '34 %'"),
        (("seeds = [0, 1]", 'seeds = ["0"]'), "the study: seeds must be a list of whole numbers that is not empty"),
        (("[options]", "textures = []\n[options]"), "textures must be a list of texts that is not empty, not []"),
        (("patchcore = ", "patchcore = 3 # "), "options must be a table of texts"),
        (("[settings.small]\n        options", "[settings]\n        small"), "a table such as [settings.NAME]"),
        (("pictures = 3", "seeds = [5]"), "Cannot overwrite a value"),
        (("seeds = [0]\n", "seeds = [0, 5]\n"), "[settings.few]: seeds has 5, which the study does not have"),
        (('methods = ["mahalanobis"]', 'methods = ["glass"]'), "methods has glass, which the study does not have"),
        (("pictures = 3", 'categories = ["plait"]'), "no data set of the study has plait; it has plate"),
        (("$DATA", "$DATEN"), "$DATEN/toy: the environment variable DATEN is not set"),
        (("--image-size 64", "--image-sise 64"), "small: unrecognized arguments: --image-sise 64"),
        (("--image-size 64", "--image-size '64"), "cannot be split (No closing quotation)"),
    ],
)
def test_a_mistake_in_a_file_is_named(file, capsys, change, message):
    assert change[0] in file.read_text()
    file.write_text(file.read_text().replace(*change))
    assert study([str(file), "--dry-run"]) == 1
    assert message in capsys.readouterr().err


def test_paths_of_windows_and_spaces_are_options(file):
    content = file.read_text().replace('"--coreset 0.5"', """'--textures C:\\dtd\\images --revision "a b"'""")
    file.write_text(content)
    job = next(job for job in Study.read(file).jobs(lambda config: config) if job.method == "patchcore")
    assert job.config.own["glass"].textures == r"C:\dtd\images" and job.config.revision == "a b"


def test_the_file_of_the_docs_can_be_read(tmp_path):
    (content,) = re.findall(r"(?ms)^```toml\n(.*?)^```$", (ROOT / "docs/studies.md").read_text())
    (tmp_path / "study.toml").write_text(content)
    planned = Study.read(tmp_path / "study.toml")
    assert planned.settings["few"].contaminated == 0.1 and planned.options == {"simplenet": "--epochs 24"}


def test_two_data_sets_with_the_same_category_are_refused(file, tmp_path, capsys):
    shutil.copytree(tmp_path / "toy", tmp_path / "copy")
    file.write_text(file.read_text().replace('"$DATA/toy"', '"$DATA/toy", "$DATA/copy"'))
    assert study([str(file), "--dry-run"]) == 1
    assert "several data sets have the category plate" in capsys.readouterr().err


def test_categories_that_are_not_wanted_are_not_read(file, tmp_path):
    shutil.copytree(tmp_path / "toy/plate", tmp_path / "toy/other")
    (tmp_path / "toy/other/train/good/0.png").write_bytes(b"no picture")
    assert study([str(file), "--dry-run", "--categories", "plate"]) == 0


def test_a_report_comes_once_and_shows_what_cannot_be_measured(file, tmp_path, capsys):
    shutil.rmtree(tmp_path / "toy/plate/test/square")
    assert study([str(file), "--dry-run", "--settings", "small"]) == 0
    said = capsys.readouterr().err
    assert said.count("toy/plate: train 6 good; test 2 good") == 1
    assert said.count("plate: no image AUROC without good and defective test pictures") == 1


def test_defaults_are_stated_once_for_all_jobs(file, capsys):
    file.write_text(re.sub(r"--backbone resnet18.tv_in1k --backbone-weights \S+", "", file.read_text()))
    assert study([str(file), "--dry-run"]) == 0
    assert capsys.readouterr().err.count("backbone: compactnet") == 1


def test_a_study_without_test_pictures_ends_well(file, tmp_path, capsys):
    shutil.rmtree(tmp_path / "toy/plate/test")
    shutil.rmtree(tmp_path / "toy/plate/ground_truth")
    assert study([str(file), "--settings", "small", "--methods", "mahalanobis"]) == 0
    assert "| plate | - / - |" in (tmp_path / "results/table.md").read_text()
    assert compare([str(tmp_path / "results")]) == 1
    assert "has no raw scores" in capsys.readouterr().err


def test_models_that_the_results_do_not_contain_yet_count_as_finished(file, tmp_path, capsys):
    assert study([str(file), "--methods", "mahalanobis"]) == 0
    shutil.rmtree(tmp_path / "results")  # as after an interruption: they are written after each seed
    assert study([str(file), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "5 jobs, 3 of them finished" in said and not (tmp_path / "results").exists()
    assert study([str(file), "--methods", "mahalanobis"]) == 0
    assert len(Results(tmp_path / "results").rows) == 3


def test_the_remedy_of_a_broken_file_keeps_the_models(file, tmp_path, capsys):
    arguments = [str(file), "--methods", "mahalanobis", "--settings", "small", "--seeds", "0"]
    assert study(arguments) == 0
    (tmp_path / "results/scores.parquet").write_bytes(b"PAR1")
    assert study(["--recompute", str(tmp_path / "results")]) == 1
    assert "scores.parquet cannot be read" in (said := capsys.readouterr().err) and "the .parquet files" in said
    for broken in (tmp_path / "results").glob("*.parquet"):
        broken.unlink()
    assert study(arguments) == 0
    assert len(Results(tmp_path / "results").rows) == 1


def test_times_are_stated_only_where_some_are_known():
    assert plan_text([], [], [], 1) == "0 jobs, 0 of them finished"


def test_ctrl_c_is_one_line(file, tmp_path):
    (tmp_path / "accelerate.py").write_text("raise KeyboardInterrupt")  # in the middle of the imports
    command = [sys.executable, "-m", "training.study", str(file)]
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert ended.returncode in (-signal.SIGINT, 130) and ended.stderr == "stopped: the same command continues\n"


def test_tables_name_their_units_and_no_mean_twice(finished):
    text = (finished / "results/table.md").read_text()
    assert text.count("per cent: mean ± standard deviation over the seeds.") == 5
    assert "`ms`: a verdict with its map" in text
    rows = [row(name, "hybrid", 0, 0.9) for name in ("screw", "pill")]
    assert [line for line in summary_table(rows).splitlines() if "mean" in line] == [
        "| mean of all (2) | 90.0 / 50.0 |"
    ]


def test_what_a_comparison_lacks_is_named(finished, tmp_path, capsys):
    models = tmp_path / "models"
    shutil.copytree(finished / "runs/small/seed-0", models)
    assert compare([str(tmp_path / "nowhere"), str(models)]) == 1
    assert "nowhere is not a folder" in capsys.readouterr().err
    assert compare([str(models / "patchcore-toy-plate")]) == 1
    assert "has one method only" in capsys.readouterr().err
    report = json.loads((models / "patchcore-toy-plate/metrics.json").read_text())
    (models / "patchcore-toy-plate/metrics.json").write_text(json.dumps(report | {"dataset": "other"}))
    assert compare([str(models / f"{method}-toy-plate") for method in ("patchcore", "mahalanobis")]) == 1
    assert "no category in common, but plate (data set other) and plate (data set toy)" in capsys.readouterr().err


def test_few_categories_are_not_called_a_result(capsys):
    rows = [compared([run("a", 0, 2.0, name)], [run("b", 0, 0.2, name)])[0] for name in "abcdef"]
    assert "not significant, as with all that have fewer than 6 categories" in overall("A", "B", rows[:5])
    assert "The difference is significant (Wilcoxon p 0.031)" in overall("A", "B", rows)
