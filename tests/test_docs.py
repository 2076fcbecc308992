"""README and docs: short, plain, executable, and with the numbers of the results."""

import re
from pathlib import Path

import numpy as np
import pytest
from readability import reading_ease, sentences, syllables, words
from snippets import run_snippets, snippets

from benchmarks import (
    changes,
    colours,
    compact_backbone,
    conditions,
    download_time,
    drift,
    epochs,
    first_verdict,
    hybrid_trials,
    inference,
    large_pictures,
    least_size,
    load,
    methods_time,
    official,
    outline,
    peers,
    photo_time,
    position,
    position_training,
    promises,
    real_data,
    scratch_width,
    square_sizes,
    teach_time,
    training_memory,
    two_scales,
)
from hubmodels import REPOSITORY
from hubmodels.prediction import HeldOut

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "NOTICE.md", "benchmarks/README.md")]
MOST_LINES = 175
LEAST_EASE = 55
FORBIDDEN = (
    *(r"\.\./shared", r"this machine", r"\bissues?\b", r"aims? of (this|the) stage", r"\bPyPI\b"),
    *(
        r"\banew\b",
        r"\bafresh\b",
        r"\bbef[ae]ll",
        r"\bin vain\b",
        r"\bdear(er|est)?\b",
        r"\bbeside\b",
        r"\bto be had\b",
    ),
    *(r"\bof (its|one's) own\b", r"\bwhatever\b", r"\btold\b", r"\bstands? in\b"),
)
TABLES = {  # without the folder of the environment
    **{f"python -m benchmarks.real_data {name}": printed for name, printed in real_data.PRINTED.items()},
    "python -m benchmarks.conditions table": conditions.results_table,
    "python -m benchmarks.conditions verdicts": lambda: conditions.results_table(conditions.VERDICTS),
    "python -m benchmarks.changes --table": changes.results_table,
    "python -m benchmarks.epochs table": epochs.results_table,
    "python -m benchmarks.promises table": promises.results_table,
    "python -m benchmarks.drift table": drift.results_table,
    "python -m benchmarks.load table": load.results_table,
    "python -m benchmarks.teach_time --table": teach_time.results_table,
    "python -m benchmarks.official table": official.results_table,
    "python -m benchmarks.real_data table": lambda: real_data.full_table(real_data.read("real_data")),
    "python -m benchmarks.real_data table ablation": lambda: real_data.full_table(real_data.read("ablation")),
    "python -m benchmarks.compact_backbone table auroc": compact_backbone.results_table,
    "python -m benchmarks.compact_backbone table missed": compact_backbone.missed_table,
    "python -m benchmarks.compact_backbone table pictures": compact_backbone.pictures_table,
    "python -m benchmarks.hybrid_trials table": lambda: hybrid_trials.trials_table(hybrid_trials.results()),
    "python -m benchmarks.hybrid_trials table few": lambda: hybrid_trials.trials_table(
        hybrid_trials.results(), few=True
    ),
    "python -m benchmarks.hybrid_trials table left-out": lambda: hybrid_trials.left_out_table(hybrid_trials.results()),
    "python -m benchmarks.two_scales --table": two_scales.results_table,
    "python -m benchmarks.scratch_width --table": scratch_width.results_table,
    "python -m benchmarks.download_time --table": download_time.results_table,
    "python -m benchmarks.first_verdict --table": first_verdict.results_table,
    "python -m benchmarks.photo_time --table": photo_time.results_table,
    "python -m benchmarks.training_memory --table": training_memory.results_table,
    "python -m benchmarks.outline --table": lambda: outline.outline_table(outline.results()),
    "python -m benchmarks.methods_time --table": methods_time.results_table,
    "python -m benchmarks.inference --table": inference.results_table,
    "python -m benchmarks.large_pictures --table": large_pictures.results_table,
    "python -m benchmarks.least_size --table": least_size.results_table,
    "python -m benchmarks.square_sizes --table": square_sizes.results_table,
    "python -m benchmarks.peers --table": peers.results_table,
    "python -m benchmarks.colours --table": colours.results_table,
    "python -m benchmarks.position --table tolerance": lambda: position.tolerance_table(position.results()),
    "python -m benchmarks.position_training --table": position_training.results_table,
    "python -m benchmarks.position --table rule": lambda: position.rule_table(position.results()),
}


def each(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


def without_code(text):
    return re.sub(r"(?ms)^```.*?^```", "", text)


def anchors(page):
    """GitHub's anchors of the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.*)$", without_code(page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --------------------------------------------------------------------------------------------------- easy to read


def test_readability_is_measured_on_prose_alone():
    text = (
        "# Heading\n\nOne two. Three `a.b.c`!\n\n- item\n- [link](x.md) next\n\n```\ncode here\n```\n| table | row |\n"
    )
    assert sentences(text) == ["One two.", "Three code!", "- item", "- link next"]
    assert words("It's 3 well-known words") == ["It's", "well-known", "words"]
    assert [syllables(w) for w in ("the", "picture", "measured", "table", "category")] == [1, 2, 2, 2, 4]
    assert (
        reading_ease("The cat sat. It ran.") > 100 > 30 > reading_ease("Sophisticated regularisation methodologies.")
    )


def test_the_readme_fits_on_a_few_screens():
    assert len(README.read_text().splitlines()) <= MOST_LINES


@each([*PAGES, *OTHERS])
def test_pages_are_plain_english(page):
    assert reading_ease(page.read_text()) > LEAST_EASE


@each([*PAGES, *OTHERS])
def test_pages_avoid_words_that_a_stranger_stumbles_over(page):
    found = [match[0] for word in FORBIDDEN for match in re.finditer(word, page.read_text(), re.IGNORECASE)]
    assert found == []


# --------------------------------------------------------------------------------------------------- nothing dangles


@each([*PAGES, *OTHERS])
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", without_code(page.read_text())):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@each([*PAGES, *OTHERS])
def test_named_scripts_exist(page):
    scripts = re.findall(r"(?<![\w/])(?:app|(?:training|tests)/[\w/]+)\.py\b", page.read_text())
    assert [script for script in scripts if "NAME" not in script and not (ROOT / script).is_file()] == []


def test_the_figure_in_the_readme_is_the_tree():
    figure = next(block for block in README.read_text().split("```") if block.startswith("text\napp.py"))
    room = ROOT
    for line in figure.strip().splitlines()[1:]:
        indent, name = re.match(r"( *)(\S+)", line).groups()
        if not indent:
            room = ROOT / name
        place = room if not indent else room / name
        assert place.exists(), name


def test_the_public_address_is_that_of_the_library():
    text = "".join(page.read_text() for page in [*PAGES, *OTHERS])
    assert set(re.findall(r'git\+([^\s"`]+)', text)) == {REPOSITORY}


# --------------------------------------------------------------------------------------------------- code that runs


@each([page for page in PAGES if snippets(page) and page.stem != "onnx"])  # see test_onnx.py
def test_snippets_run(page, tmp_path, monkeypatch):
    run_snippets(page, tmp_path, monkeypatch)


# --------------------------------------------------------------------------------------------------- the same numbers


@each([*PAGES, *OTHERS])
def test_tables_are_those_of_the_results(page):
    marked = re.findall(
        r"(?s)<!-- .venv/bin/(python -m benchmarks\.[^>]*?) -->\n(.*?)\n<!-- end -->", page.read_text()
    )
    for command, table in marked:
        assert table == TABLES[command](), command


def test_the_plot_is_that_of_the_results():
    assert (ROOT / "docs/scratch_width.svg").read_text() == scratch_width.plot()


def test_each_table_is_printed_once():
    text = "".join(page.read_text() for page in [*PAGES, *OTHERS])
    assert {command: text.count(f"<!-- .venv/bin/{command} -->") for command in TABLES} == dict.fromkeys(TABLES, 1)


def test_the_readme_states_the_rates_that_so_many_pictures_allow():
    rows = re.findall(r"(?m)^\| (\d+) \| ([\d.]+) % \| ([\d.]+) % \|", README.read_text())
    assert len(rows) == 4
    for pictures, *rates in rows:
        scores = np.arange(float(pictures), dtype=np.float32)
        calibration = HeldOut(scores, scores, 0.0, 0.01)
        assert rates == [f"{100 * rate:.2g}" for rate in (calibration.guaranteed_rate(), calibration.bound())]
