"""Benchmarks start, and their result rows contain what is needed to repeat them."""

import importlib
import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import gpu, inference, measuring, peers_timing, real_data, timing
from hubmodels.methods import METHODS
from training.objectives import PAPER_BACKBONE, PAPER_IMAGE_SIZE

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHARED = {"measuring", "timing", "peers_timing"}  # imported by the others
ELSEWHERE = {"peers_anomalib"}  # needs anomalib
NAMES = sorted(path.stem for path in BENCHMARKS.glob("[a-z]*.py"))


# --------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", sorted({*NAMES} - SHARED - ELSEWHERE))
def test_each_benchmark_can_be_started(name):
    assert callable(getattr(importlib.import_module(f"benchmarks.{name}"), "main", None)) or name == "peers_ours"


def test_the_list_of_benchmarks_is_complete():
    text = (BENCHMARKS / "README.md").read_text()
    workers = {name for name in NAMES if name.startswith("peers_")}
    assert {name for name in NAMES if f"| `{name}` |" in text} == {*NAMES} - SHARED - workers


@pytest.mark.parametrize(
    "path",
    sorted({*BENCHMARKS.glob("results/*.json")} - {BENCHMARKS / "results/distill.json"}),
    ids=lambda path: path.stem,
)
def test_results_contain_their_command_and_machine(path):
    content = json.loads(path.read_text())
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


def test_seeds_become_a_mean_and_a_standard_deviation():
    assert real_data.cell([0.5]) == "50.0"
    assert real_data.cell([0.5, 0.7]) == "60.0 ± 14.1"
    assert real_data.cell([0.5, None]) is None


def test_the_bundled_models_are_listed_in_the_order_of_the_registry():
    lines = [line.split(" | ")[:2] for line in real_data.bundled_table().splitlines()[2:]]
    assert [line[1] for line in lines[: len(METHODS)]] == list(METHODS)


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


def test_pictures_are_copied_smaller_and_masks_keep_two_values(tmp_path):
    for place in ("test/bad", "ground_truth/bad"):
        (tmp_path / "from" / place).mkdir(parents=True)
        picture = Image.new("L", (100, 50))
        picture.paste(255, (20, 10, 61, 31))
        picture.save(tmp_path / "from" / place / "0.png")
    gpu.copy_smaller(tmp_path / "from", tmp_path / "to", 40)
    with Image.open(tmp_path / "to/ground_truth/bad/0.png") as mask:
        assert mask.size == (40, 20) and {value for _, value in mask.getcolors()} == {0, 255}


def test_a_step_that_takes_too_long_is_interrupted_and_can_be_continued():
    with pytest.raises(SystemExit, match="same command again"):
        gpu.run(["-c", "import time; time.sleep(60)"], 1)
    gpu.run(["-c", "pass"], 60)
