"""Result rows hold what is needed to repeat them."""

import json
import runpy
from collections import defaultdict
from pathlib import Path

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
