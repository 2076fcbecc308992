"""Benchmarks start, and their result rows contain what is needed to repeat them."""

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import (
    compact_backbone,
    download_time,
    gpu,
    hybrid_trials,
    inference,
    measuring,
    outline,
    peers_ours,
    peers_timing,
    real_data,
    square_sizes,
    teach_time,
    timing,
    training_step,
)
from hubmodels.backbone import load_backbone
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.hub.catalog import BUNDLED_MODELS
from hubmodels.least_size import OUTLINED, SPOT
from hubmodels.methods import METHODS
from hubmodels.prediction import AnomalyPrediction, SizedMap
from hubmodels.samples import Sample
from training.damage import KINDS
from training.objectives import PAPER_BACKBONE, PAPER_IMAGE_SIZE
from training.parts.dataset import parts_categories
from training.study.plan import Study

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHARED = {"measuring", "timing"}  # imported by the others
WORKERS = {"peers_timing", "peers_ours", "peers_anomalib"}  # of `peers`
NAMES = sorted(path.stem for path in BENCHMARKS.glob("[a-z]*.py"))


# --------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", sorted({*NAMES} - SHARED - WORKERS))
def test_each_benchmark_can_be_started(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"benchmarks.{name}").main()
    assert "usage" in capsys.readouterr().out


def test_the_list_of_benchmarks_is_complete():
    text = (BENCHMARKS / "README.md").read_text()
    assert {name for name in NAMES if f"| `{name}` |" in text} == {*NAMES} - SHARED - WORKERS


@pytest.mark.parametrize("name", sorted({path.stem for path in BENCHMARKS.glob("results/*.json")}))
def test_results_contain_their_command_and_machine(name):
    content = json.loads((BENCHMARKS / f"results/{name}.json").read_text())
    for row in content if isinstance(content, list) else [content]:
        assert {"machine", "command"} <= row.keys()


# --------------------------------------------------------------------------------------------------- real pictures


def report(**changes):
    training = {"noise_std": 1.0, "feature_rms": 2.0, "fit": 9, "held_out": 1, "train_seconds": 60.0}
    training |= {"hypothesis": "manifold", "foreground": "full picture (as asked)", "textures": None}
    parts = {"training": training, "metrics": {"image_auroc": 0.5}, "settings": {"image_size": 64, "stabilise": []}}
    parts |= {"backbone": {"name": "tiny.in1k"}, "seed": 0, "epochs": 1, "versions": {"torch": "2"}}
    names = ("method", "dataset", "category", "protocol", "machine", "command")
    return dict.fromkeys(names, "some") | parts | changes


def test_a_collected_row_names_the_versions_and_the_commit():
    row = real_data.row_of(report())
    assert (row["versions"], row["commit"]) == ({"torch": "2"}, None)
    assert real_data.row_of(report(commit="abc"))["commit"] == "abc"


def test_rows_are_added_and_the_same_command_replaces_its_row(tmp_path):
    for folder, changes in {"a": {"seed": 0}, "b": {"seed": 1, "command": "other"}}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metrics.json").write_text(json.dumps(report(**changes)))
    for _ in range(2):
        real_data.collect(tmp_path / "results.json", [tmp_path / "a", tmp_path / "b"])
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["seed"] for row in rows] == [0, 1]
    assert len(real_data.group(rows)) == 1  # they differ in the seed alone


@pytest.mark.parametrize(("image_size", "shown"), [(64, "64 px"), ([640, 256], "640 x 256 px")])
def test_a_row_names_the_input(image_size, shown):
    row = real_data.row_of(report(settings={"image_size": image_size, "stabilise": []}))
    assert real_data.line_of([row])["input"] == shown


def test_seeds_become_a_mean_and_a_standard_deviation():
    assert real_data.cell([0.5]) == "50.0"
    assert real_data.cell([0.5, 0.7]) == "60.0 ± 14.1"
    assert real_data.cell([0.5, None]) is None


def test_the_bundled_models_are_listed_in_the_order_of_the_registry():
    lines = [line.split(" | ")[:2] for line in real_data.bundled_table().splitlines()[2:]]
    bundled = [method for method in METHODS if list(BUNDLED_MODELS.glob(f"{method}-*"))]
    assert [line[1] for line in lines[: len(bundled)]] == bundled


# --------------------------------------------------------------------------------------------------- compact backbone


class Given(torch.nn.Module):
    """A backbone with given maps of layers 2 and 3."""

    def __init__(self, *maps):
        super().__init__()
        self.maps = maps

    def forward(self, images):
        return [m[: len(images)] for m in self.maps]


def test_the_share_of_the_variance_that_is_missed(tmp_path):
    noise = torch.Generator().manual_seed(0)
    teacher = Given(*(10 * torch.randn(3, c, 16, 16, generator=noise) + 5 for c in (4, 8)))
    same, mean, half = (
        Given(*(f(m) for m in teacher.maps)) for f in (torch.clone, lambda m: 0 * m + 5, lambda m: (m + 5) / 2)
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    samples = [Sample("a", tmp_path / "a.png", "good", 0)] * 3
    shares = [compact_backbone.missed(backbone, teacher, samples) for backbone in (same, mean, half)]
    assert np.allclose(shares, [[0, 0], [1, 1], [0.25, 0.25]], atol=0.01)


def test_a_picture_counts_by_its_patch_that_is_farthest_from_the_bank():
    train = torch.randn(6, 20, 4)
    near, far = torch.zeros(20, 4), torch.zeros(20, 4)
    far[7] = 50
    test = torch.stack([near, far, near, far])
    assert compact_backbone.neighbour_auroc(train, test, [0, 1, 0, 1], seed=0) == 100
    assert compact_backbone.neighbour_auroc(train, test, [1, 0, 1, 0], seed=0) == 0


def test_how_different_pictures_are():
    noise = torch.randn(4000, 12, generator=torch.Generator().manual_seed(0))
    noise[:, 3:] = 0
    assert compact_backbone.spread_of(noise)["directions"] == pytest.approx(3, abs=0.1)
    twins = torch.cat([noise, noise])
    assert (
        compact_backbone.spread_of(twins)["nearest_median"] == 0 < compact_backbone.spread_of(noise)["nearest_median"]
    )


def test_the_bundled_compact_backbone_is_the_one_that_was_measured():
    rows = json.loads(compact_backbone.RESULT.read_text())
    measured = {
        row.get("sha256") for row in rows if (row["backbone"], row["method"]) == ("compactnet", "nearest neighbour")
    }
    assert measured == {load_backbone(COMPACT_BACKBONE).fingerprint}


# --------------------------------------------------------------------------------------------------- speed


def test_peers_are_measured_on_the_papers_setup():
    assert (peers_timing.PAPER_BACKBONE, peers_timing.PAPER_IMAGE_SIZE) == (PAPER_BACKBONE, PAPER_IMAGE_SIZE)


def test_speed_rows_say_what_was_measured_where():
    columns = {"case", "method", "image_size", "batch", "median_ms", "p95_ms", "versions"}
    for row in json.loads((BENCHMARKS / "results/inference.json").read_text()):
        assert columns <= row.keys()
        assert row["case"].startswith("part") or {"peak_mb", "ratio_to_explicit"} <= row.keys()


@pytest.mark.parametrize("case", ["explicit", "fast", "explicit, file to result", "file to result"])
def test_each_case_of_inference_runs(case, tmp_path):
    call = inference.builders(1)[case]("compactnet.distilled_in1k", 64, 1, "both", tmp_path)
    assert call() is not None or "file" in case


def test_training_steps_run(monkeypatch):
    """With the compact backbone and small pictures, which have no other code path."""
    for name, value in {"PAPER_BACKBONE": "compactnet.distilled_in1k", "PAPER_IMAGE_SIZE": 64, "GRID": (8, 8)}.items():
        monkeypatch.setattr(training_step, name, value)
    rows = training_step.step_rows(batch_size=2, rounds=2)
    methods = ("simplenet", "glass manifold", "glass hypersphere")
    assert {(row["case"], row["method"]) for row in rows} == {(c, m) for c in ("explicit", "ours") for m in methods}


def test_one_of_our_models_is_measured_like_the_peers(tmp_path):
    subject = peers_ours.MODELS["both-compact"](None)
    anomaly_map, score = subject.predict(subject.pictures(1, 3, PAPER_IMAGE_SIZE, PAPER_IMAGE_SIZE))
    peers_timing.require_complete(anomaly_map, score)
    assert 0 < peers_timing.sizes(subject)["head_mb"] < peers_timing.sizes(subject)["size_mb"]


def test_a_case_is_measured_after_its_warm_up_and_in_turns():
    calls, now = [], iter(range(1000))
    cases = {name: lambda name=name: calls.append(name) for name in ("one", "other")}
    times = timing.time_in_turns(cases, rounds=3, clock=lambda: next(now))
    assert calls == ["one", "other"] * (timing.WARM_UP + 3)
    assert times == {"one": [1000.0] * 3, "other": [1000.0] * 3}


def test_the_memory_of_another_process_is_its_own():
    """Not that of the process that started it, and without its libraries."""
    held = bytearray(200 * 2**20)
    memory = timing.memory_mb(bytearray, 100 * 2**20)
    assert 95 < memory["peak_mb"] < 130
    del held


def test_numbers_are_aligned_to_the_right():
    rows = [{"name": "a", "value": "1.0 ± 0.1"}, {"name": "2", "value": None}]
    assert measuring.table(rows, ["name", "value"]).splitlines()[1] == "| --- | --: |"


# --------------------------------------------------------------------------------------------------- GPU


def test_pictures_are_copied_smaller_and_masks_as_they_are(tmp_path):
    for place in ("test/bad", "ground_truth/bad"):
        (tmp_path / "from" / place).mkdir(parents=True)
        Image.new("L", (100, 50), 255).save(tmp_path / "from" / place / "0.png")
    gpu.copy_smaller(tmp_path / "from", tmp_path / "to", 40)
    with (
        Image.open(tmp_path / "to/test/bad/0.webp") as picture,
        Image.open(tmp_path / "to/ground_truth/bad/0.png") as m,
    ):
        assert picture.size == (40, 20) and m.size == (100, 50)


def test_all_steps_run_before_a_failure_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUT", str(tmp_path))
    write = "from pathlib import Path; Path({!r}).touch()"
    failing = [["-c", "raise SystemExit(3)"], ["-c", write.format(str(tmp_path / "a"))]]
    chosen = [
        gpu.Step("one", failing, 60, parallel=2),
        gpu.Step("two", [["-c", write.format(str(tmp_path / "b"))]], 60),
    ]
    assert gpu.run_all(chosen) == ["status 3: -c raise SystemExit(3)"]
    assert {"a", "b", "results.tgz", "state.tgz"} == {path.name for path in tmp_path.iterdir()}
    assert "== two: " in capsys.readouterr().out


def test_a_step_that_takes_too_long_is_stopped_and_the_next_one_runs():
    slow, quick = (
        gpu.Step(n, [["-c", f"import time; time.sleep({s})"]], 5.2) for n, s in (("slow", 60), ("quick", 0))
    )
    assert [fault.split(":")[0] for fault in gpu.run_all([slow, quick])] == ["out of time"]
    assert gpu.run_all([quick], 3)[0].startswith("no time for")


def test_every_training_of_the_gpu_study_is_one_of_the_steps(monkeypatch):
    monkeypatch.setenv("DATA", "data")
    planned = Study.read(Path("benchmarks/gpu.toml"))
    shares = {(c[4], c[6]) for step in gpu.steps(False) if step.name == "study" for c in step.commands}
    assert shares == {(method, category) for method in planned.methods for category in planned.categories}


# --------------------------------------------------------------------------------------------------- trials


@pytest.fixture(scope="module")
def given():
    """Correlated good features, test pictures of which every second has four moved patches, and a bank."""
    torch.manual_seed(0)
    mixing = torch.randn(16, 16)
    test = torch.randn(8, 64, 16) @ mixing
    test[1::2, :4] += 9
    masks = torch.zeros(8, hybrid_trials.SIZE, hybrid_trials.SIZE, dtype=torch.uint8)
    masks[1::2, :32, :128] = 1
    moves = {kind: torch.randn(300, 16) + 9 for kind in KINDS}
    bank = {kind: (torch.randn(300, 16) @ mixing + move, move) for kind, move in moves.items()}
    good = torch.randn(3000, 16) @ mixing
    return hybrid_trials.Given(9, good, test.flatten(0, 1), [0, 1] * 4, masks, bank, torch.randn(300, 16) @ mixing)


@pytest.mark.parametrize("trial", hybrid_trials.TRIALS)
def test_every_trial_finds_moved_patches(given, trial, monkeypatch):
    if isinstance(hybrid_trials.TRIALS[trial], hybrid_trials.Head):
        monkeypatch.setitem(hybrid_trials.TRIALS, trial, replace(hybrid_trials.TRIALS[trial], steps=60))
    found = hybrid_trials.measure(trial, given, 0)
    assert found["image_auroc_top"] > 80 and found["pixel_auroc"] > 80 and found["fit_seconds"] >= 0


def test_a_sum_weighs_scores_in_units_of_their_deviation(given):
    scorer, _ = given.fitted("H0 + 2 memory", 0)
    parts = [given.fitted(name, 0)[0] for name in ("H0", "memory")]
    with torch.no_grad():
        head, memory = (part(given.test) / part(given.good).std() for part in parts)
        scores = scorer(given.test)
    assert torch.allclose(scores, head + 2 * memory, rtol=0.02, atol=0.05)


def test_rows_of_trials_replace_their_like_and_become_a_table(monkeypatch, tmp_path):
    monkeypatch.setattr(hybrid_trials, "RESULT", tmp_path / "trials.json")
    for value, seed, pictures, name in ((1.0, 0, 250, "screw"), (90.0, 0, 250, "screw"), (92.0, 1, 250, "screw")):
        row = {"set": name, "trial": "H0", "seed": seed, "pictures": pictures, "image_auroc_top": value}
        hybrid_trials.add_row(row | {"aupro": 50.0})
    for name in ("screw", "elpv"):
        row = {"set": name, "trial": "H0", "seed": 0, "pictures": 5, "image_auroc_top": 70.0}
        hybrid_trials.add_row(row if name == "elpv" else row | {"aupro": 40.0})
    for trial in ("N0", "H0"):
        hybrid_trials.add_row({"set": "elpv", "trial": trial, "seed": 0, "pictures": 9, "image_auroc_top": 60.0})
    rows = json.loads((tmp_path / "trials.json").read_text())
    full, few = (hybrid_trials.trials_table(rows, which).splitlines()[2:] for which in (False, True))
    assert full == ["| all | H0 | 91.0 ± 1.4 / 50.0 ± 0.0 | 60.0 / - | 75.5 / 50.0 |"]
    assert few == ["| 5 | H0 | 70.0 / 40.0 | 70.0 / - | 70.0 / 40.0 |"]


# -------------------------------------------------------------------------------------------------------- outlines


def test_outlines_are_compared_with_the_masks_at_each_share():
    [category] = parts_categories(["brushed_metal"])
    few = replace(category, test=tuple(s for s in category.test if s.label)[:3])
    row = outline.measure(BUNDLED_MODELS / "hybrid-parts-brushed_metal", few)
    assert (row["pictures"], row["input"], row["category"]) == (3, 256, "brushed_metal")
    areas = list(row["area"].values())
    assert areas == sorted(areas, reverse=True) and areas[0] > 2 * areas[-1]
    assert row["iou"]["0.7"] > row["iou"]["0.0"]
    rows = [row, row | {"category": "cloth", "iou": {key: 0.5 for key in row["iou"]}}]
    assert outline.outline_table(rows).splitlines()[-1].startswith("| rendered | mean of 2 | hybrid | - |")


# ------------------------------------------------------------------------------------------------------- the page


def test_downloads_are_timed_as_a_visitor_clicks(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setattr(download_time, "RESULT", tmp_path / "result.json")
    with Image.open(download_time.PART) as part:
        part.convert("RGB").resize((300, 200)).save(tmp_path / "photo.jpg")
    rows = download_time.measure(tmp_path / "photo.jpg", 2)
    by_case = {(row["file"], row["methods"]): row for row in rows}
    assert list(by_case) == list(download_time.CASES) and all(row["median_ms"] > 0 for row in rows)
    assert by_case["zip", 3]["megabytes"] > by_case["zip", 2]["megabytes"] > by_case["zip", 1]["megabytes"]
    assert not [*(tmp_path / "uploads").rglob("*.zip")]
    origin = {"machine": "CPU", "versions": {}, "command": "python -m benchmarks.download_time"}
    (tmp_path / "result.json").write_text(json.dumps([row | origin for row in rows]))
    assert "| zip | 3 |" in download_time.results_table()


@pytest.mark.parametrize("folds", [0, 5])
def test_lessons_are_timed_with_and_without_cross_fitting(tmp_path, monkeypatch, folds):
    started = []

    def train(teacher, lesson):
        started.append((teacher.command(lesson)[-2:], lesson.pictures))
        return "done", ""

    monkeypatch.setattr(teach_time.Teacher, "train", train)
    sources = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(sources):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(path)
    row = teach_time.measure(sources, folds)
    assert started == [(["--folds", str(folds)], 3)]
    assert (row["pictures"], row["folds"], row["state"]) == (3, folds, "done") and row["seconds"] > 0


# ------------------------------------------------------------------------------------------------------- squares


class Blocks:
    """A stand-in for a detector: its map has blocks (rows, columns, height) of a picture that is twice as large."""

    front_end = SimpleNamespace(stride=8)

    def __init__(self, *blocks):
        self.map = np.zeros((64, 64), np.float32)
        for rows, columns, height in blocks:
            self.map[slice(*rows), slice(*columns)] = height

    def predict(self, picture):
        return AnomalyPrediction(1.0, SizedMap(picture.shape[:2], 64, lambda size: self.map))


def test_the_outline_of_a_square_is_measured_at_70_percent_of_its_height():
    picture, place = square_sizes.with_square(np.full((128, 128, 3), 100, np.uint8), 16, 60, seed=0)
    assert (picture[place] == 160).all() and (picture != 100).any(2).sum() == 256
    around = ((20, 40), (20, 40), 0.69), ((22, 38), (22, 34), 0.71), ((30, 31), (30, 31), 1.0)
    assert square_sizes.outlined(Blocks(*around), picture, place) == 16 * 12
    assert square_sizes.outlined(Blocks(*around, ((2, 4), (2, 4), 1.1)), picture, place) is None  # not the square


def test_the_two_numbers_of_the_least_size_follow_from_the_outlines(tmp_path, monkeypatch):
    """Outlines of bright squares: 430 + 0.6 x square; of dark ones 400 + 1.2 x square."""
    rows = [
        {"contrast": contrast, "square": square, "patch": 64, "outlines": [start + slope * square, None]}
        for square in (0.0, 100.0, 200.0)
        for contrast, start, slope in ((-60, 400, 1.2), (60, 430, 0.6))
    ]
    rows[1]["outlines"] = [430.0, 319.0]  # one that the rule would leave out
    monkeypatch.setattr(square_sizes, "RESULT", tmp_path / "rows.json")
    square_sizes.RESULT.write_text(json.dumps(rows))
    printed = square_sizes.results_table()
    assert "| 0.0 | 3 of 4 | 319.0 | 400 | 430.0 | 33 % |" in printed
    assert "| 100.0 | 2 of 4 | 490.0 | 505 | 520.0 | 0 % |" in printed
    assert "Dark squares: outline = 400 + 1.20 x square." in printed and "more than 5.1 patches" in printed


def test_the_two_numbers_of_the_least_size_are_those_of_the_results():
    printed = square_sizes.results_table()
    patches = re.search(r"more than ([\d.]+) patches", printed)[1]
    assert round(float(patches)) == SPOT
    assert round(min(float(slope) for slope in re.findall(r"\+ ([\d.]+) x", printed)), 1) == OUTLINED
