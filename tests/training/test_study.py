"""Studies: their files, jobs, results and tables; and `training.compare` on what they write."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats
from small_pictures import add_plates, mask, save
from test_house import ROOT

import training.compare as training_compare
from hubmodels.metric_names import HEADLINE
from training.compare import Run, compared, runs_in, sentence, table
from training.compare import main as compare
from training.pixel_curves import PixelCurves
from training.study.__main__ import main as study
from training.study.plan import Study
from training.study.tables import STUDY_FILE, Results, summary_table

TESTS = ["test/good/0", "test/good/1", "test/square/0", "test/square/1", "test/square/2"]
COMMITTED = ROOT / "benchmarks/results/study"


@pytest.fixture
def file(backbone_weights, tmp_path, monkeypatch):
    """A study of two methods, two seeds and two settings."""
    add_plates(tmp_path, TESTS)
    for i in range(3):
        save(mask((72, 72)), tmp_path / f"toy/plate/ground_truth/square/{i}_mask.png")
    monkeypatch.setenv("DATA", str(tmp_path))
    monkeypatch.setenv("WEIGHTS", str(backbone_weights))
    path = tmp_path / "study.toml"
    path.write_text(f"""
        data_root = ["$DATA/toy"]
        methods = ["patchcore", "mahalanobis"]
        seeds = [0, 1]
        output = "{tmp_path / "runs"}"
        results = "{tmp_path / "results"}"
        [options]
        patchcore = "--coreset 0.5"
        [settings.small]
        options = "--backbone resnet18.tv_in1k --backbone-weights $WEIGHTS --image-size 64"
        [settings.few]
        options = "--backbone resnet18.tv_in1k --backbone-weights $WEIGHTS --image-size 64"
        methods = ["mahalanobis"]
        seeds = [0]
        pictures = 3
        contaminated = 0.34
    """)
    return path


def test_a_study_runs_continues_and_can_be_recomputed(file, tmp_path, capsys):
    assert study([str(file), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "5 jobs, 0 of them finished" in said and "few, Mahalanobis: 1 jobs, time unknown" in said
    assert study([str(file), "--methods", "mahalanobis"]) == 0
    capsys.readouterr()
    assert study([str(file), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "5 jobs, 3 of them finished" in said and "Mahalanobis" not in said
    assert study([str(file)]) == 0
    results = Results(tmp_path / "results")
    rows = results.rows
    assert [(r["setting"], r["method"], r["seed"]) for r in rows] == [
        *(("small", "mahalanobis", 0), ("few", "mahalanobis", 0), ("small", "mahalanobis", 1)),
        *(("small", "patchcore", 0), ("small", "patchcore", 1)),
    ]
    assert all(row[key] is not None for row in rows for key in (*HEADLINE, "latency_ms", "model_mb", "command"))
    assert rows[0]["command"].startswith("python training/train.py --data-root '$DATA/toy' --categories plate")
    assert {row["setting"]: row["fit"] for row in rows} == {"small": 5, "few": 2}
    few = results.table("scores.parquet").filter(results.table("scores.parquet")["setting"].to_numpy() == "few")
    assert few.num_rows == 4  # one defective test picture was trained on

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
    assert "contain a model with other settings" in capsys.readouterr().err


def test_wrong_scores_are_found(file, tmp_path, capsys):
    assert study([str(file), "--methods", "mahalanobis", "--seeds", "0"]) == 0
    path = tmp_path / "results" / STUDY_FILE
    rows = pq.read_table(path).to_pylist()
    rows[0]["image_auroc"] -= 0.1
    pq.write_table(pq.read_table(path).from_pylist(rows), path)
    assert study(["--recompute", str(tmp_path / "results")]) == 1
    assert "image_auroc is 0.9000, but its raw scores give 1.0000" in capsys.readouterr().err


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
        (("pictures = 3", "pictures = 1"), "at least 2 pictures"),
        (("seeds = [0, 1]", 'categories = ["plate", "sheet"]'), "no data set of the study has sheet"),
        (("pictures = 3", "pictures = 30"), "plate has 6 good pictures, not 30"),
        (("--image-size 64", "--image-size 64 --seed 4"), "--seed cannot be an option"),
        (("[settings.few]", '[settings."a/b"]'), "becomes a folder"),
        (("data_root", "[data_root"), "cannot be read as TOML"),
        (("methods = [\"patchcore", "# methods = [\"patchcore"), "missing 1 required positional argument: 'methods'"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_is_refused_before_anything_runs(file, tmp_path, capsys, change, message):
    assert change[0] in file.read_text()
    file.write_text(file.read_text().replace(*change))
    assert study([str(file)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_two_processes_share_the_jobs(file, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["-m", "training.study", str(file), "--seeds", "0"]
    environment = {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert len(Results(tmp_path / "results").rows) == 3


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


def run(method, seed, shift, category="screw", names=60, noise=0.3):
    rng = np.random.default_rng([seed, len(method)])
    labels = np.array([i % 2 for i in range(names)])
    scores = shift * labels + noise * rng.normal(size=names)
    right = (scores > shift / 2) == labels.astype(bool)
    return Run(
        "default", method, category, seed, [f"{i:03}" for i in range(names)], labels, scores, right, shift / 2, None
    )


def test_a_clear_difference_is_said_and_its_size(capsys):
    ours, other = ([run(m, s, shift) for s in range(3)] for m, shift in (("hybrid", 2.0), ("simplenet", 0.2)))
    (found,) = compared(ours, other)
    words = sentence("Hybrid", "SimpleNet", found)
    assert words.startswith("screw: Hybrid is better than SimpleNet in image AUROC (+") and "p <0.001" in words
    assert sentence("SimpleNet", "Hybrid", compared(other, ours)[0]).startswith(
        "screw: Hybrid is better than SimpleNet"
    )
    assert found.verdicts < 0.01 and found.right[0] > found.right[1]
    assert "| screw | 60 | 3 / 3 |" in table([found])


def test_no_difference_is_a_bound_and_one_run_is_about_the_model():
    (found,) = compared([run("hybrid", 0, 1.0)], [run("simplenet", 1, 1.0)])
    words = sentence("Hybrid", "SimpleNet", found)
    bound = f"{-100 * found.image_auroc.at_least:.1f}"
    assert "no significant difference" in words and f"not worse than SimpleNet by more than {bound} points" in words
    assert "about these trained models" in words


def test_pictures_that_only_one_has_do_not_count():
    (found,) = compared([run("hybrid", 0, 1.0, names=60)], [run("simplenet", 0, 1.0, names=40)])
    assert found.pictures == 40


@pytest.fixture
def results(file, tmp_path):
    assert study([str(file)]) == 0
    return tmp_path / "results"


def test_methods_settings_models_and_all_pairs_are_compared(results, tmp_path, capsys):
    capsys.readouterr()
    assert compare([str(results), "--methods", "patchcore", "mahalanobis", "--settings", "small"]) == 0
    said = capsys.readouterr().out
    assert "# PatchCore and Mahalanobis" in said and "| plate | 5 | 2 / 2 | 100.0 / 100.0 |" in said
    assert compare([str(results), "--settings", "small", "few", "--methods", "mahalanobis"]) == 0
    assert "# Mahalanobis, small and Mahalanobis, few" in capsys.readouterr().out
    models = [str(tmp_path / f"runs/small/seed-0/{m}-toy-plate") for m in ("patchcore", "mahalanobis")]
    assert compare(models) == 0
    assert "This is about these trained models" in capsys.readouterr().out
    assert compare([str(results), "--settings", "small"]) == 0
    assert "| PatchCore | Mahalanobis | 1 |" in capsys.readouterr().out
    assert {run.curves.names[0] for run in runs_in(results)} == {"test/good/0.png"}
    assert "| plate | square | 3 | 100.0 ± 0.0 | 100.0 ± 0.0 |" in (results / "table.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "glass", "patchcore"], "no runs of glass"),
        ([], "several settings: choose one by --settings"),
        (["--methods", "a", "b", "c"], "at most two"),
    ],
)
def test_what_cannot_be_compared_is_said(results, capsys, arguments, message):
    assert compare([str(results), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_scores_is_named(tmp_path, capsys):
    assert compare([str(tmp_path)]) == 1
    assert "has no raw scores" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- what is committed


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="no results of the study are committed")
def test_committed_tables_and_plots_are_those_of_the_committed_scores(tmp_path):
    assert Results(COMMITTED).check() > 0
    for path in COMMITTED.glob("*.parquet"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert study(["--recompute", str(tmp_path)]) == 0
    assert (tmp_path / "table.md").read_text() == (COMMITTED / "table.md").read_text()
    assert {p.name for p in tmp_path.glob("*.svg")} == {p.name for p in COMMITTED.glob("*.svg")}


def test_the_committed_study_can_be_read():
    planned = Study.read(ROOT / "benchmarks/study.toml")
    assert set(planned.methods) >= {"simplenet", "glass", "hybrid", "patchcore", "mahalanobis"}
    assert json.dumps(planned.seeds) == "[0, 1, 2]"


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
