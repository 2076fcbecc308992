"""Result rows hold what is needed to repeat them."""

import json
import runpy
from collections import defaultdict
from pathlib import Path

from benchmarks import inference, measuring, peers, peers_timing, timing
from training.config import PAPER_BACKBONE, PAPER_IMAGE_SIZE

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_a_collected_row_names_the_versions_and_the_commit():
    row = runpy.run_path(BENCHMARKS / "collect.py")["row"]
    blank = {key: defaultdict(str) for key in ("settings", "training", "metrics", "backbone")}
    report = defaultdict(str) | blank | {"versions": {"torch": "2"}}
    assert (row(report)["versions"], row(report)["commit"]) == ({"torch": "2"}, None)
    assert row(report | {"commit": "abc"})["commit"] == "abc"


def test_nearest_neighbour_rows_have_one_number_and_its_parts():
    for row in json.loads((BENCHMARKS / "results/nearest_neighbour.json").read_text()):
        assert row["image_auroc"] == row["image_auroc_by_defect"]["all"]["max"]
        assert {"machine", "command", "versions"} <= row.keys()


def test_the_readmes_speed_table_is_that_of_the_last_results():
    readme = (BENCHMARKS.parent / "README.md").read_text()
    assert inference.readme_table() in readme


def test_the_table_of_peers_is_that_of_the_last_results():
    assert peers.readme_table() in (BENCHMARKS / "README.md").read_text()


def test_peers_are_measured_on_the_papers_setup():
    assert (peers_timing.PAPER_BACKBONE, peers_timing.PAPER_IMAGE_SIZE) == (PAPER_BACKBONE, PAPER_IMAGE_SIZE)


def test_speed_rows_say_what_was_measured_where():
    columns = {"case", "method", "image_size", "batch", "median_ms", "p95_ms"}
    for row in json.loads((BENCHMARKS / "results/inference.json").read_text()):
        assert columns <= row.keys() and {"machine", "versions", "command"} <= row.keys()
        assert row["case"].startswith("part") or {"peak_mb", "ratio_to_explicit"} <= row.keys()


def test_a_case_is_measured_after_its_warm_up_and_in_turns():
    calls, now = [], iter(range(1000))
    cases = {name: lambda name=name: calls.append(name) for name in ("one", "other")}
    times = timing.time_in_turns(cases, rounds=3, clock=lambda: next(now))
    assert calls == ["one", "other"] * (timing.WARM_UP + 3)
    assert times == {"one": [1000.0] * 3, "other": [1000.0] * 3}


def test_the_memory_of_another_process_is_its_own():
    """Not that of the process that started it, and without its libraries."""
    held = bytearray(1000 * 2**20)
    memory = measuring.memory_mb(allocate, 300)
    assert 290 < memory["peak_mb"] < 350 and memory["libraries_mb"] < len(held) / 2**20


def allocate(megabytes):
    bytearray(megabytes * 2**20)
