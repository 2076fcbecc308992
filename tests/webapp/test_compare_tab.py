"""The tab Compare: recorded metrics, and the methods on labelled pictures, counted and drawn."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from small_pictures import add_pictures, mask, save

from hubmodels import GLASS, SimpleNet
from hubmodels.hub.catalog import Catalog, ModelEntry
from hubmodels.hub.model_info import ModelInfo
from hubmodels.methods import METHODS
from hubmodels.samples import Sample
from webapp import compare_tab
from webapp.compare_report import recorded_table
from webapp.compare_tab import EXAMPLES, TEST, Comparing
from webapp.labelled_results import LabelledResults

ROOT = Path(__file__).parents[2]
LABEL, HOSTILE = "toy / widget", "<img src=x onerror=alert(1)>"
ENGLISH, GERMAN = (SimpleNamespace(headers={"accept-language": code}) for code in ("en-GB,en", "de-DE,de;q=0.9"))


@pytest.fixture(scope="module")
def catalog(saved_models):
    return Catalog.from_folder(saved_models)


@pytest.fixture
def labelled_folder(tmp_path):
    """MVTec AD layout: two good and two defective pictures, one of them with a mask."""
    folder = tmp_path / "data" / "widget"
    add_pictures(folder / "test" / "good", "000.png", "001.png")
    add_pictures(folder / "test" / "crack", "000.png", "001.png")
    save(mask(), folder / "ground_truth" / "crack" / "000_mask.png")
    return folder.parent


@pytest.fixture(scope="module")
def bundled():
    return Comparing(Catalog.bundled(), {EXAMPLES: ROOT / "examples"})


@pytest.fixture(scope="module")
def inspected_examples(bundled):
    """What is shown after a run over all examples."""
    return list(bundled.run(f"{EXAMPLES}:", ENGLISH))


def on_test(catalog, folder):
    return Comparing(catalog, {TEST: folder})


def shown(outputs):
    """Status and report, as one text."""
    return " ".join(part for part in outputs[:2] if isinstance(part, str))


class Outline(HTMLParser):
    """Tags that were not closed, and all attributes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(str(html))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# ---------------------------------------------------------------- measured after training


def facts(auroc, test_counts=None, protocol="last"):
    counts = {"good": 20, "crack": 40} if test_counts is None else test_counts
    return ModelInfo({"image_auroc": auroc, "false_alarm_rate": 1 - auroc}, protocol, 0, counts)


def recorded(one, other, language="en", category="pill"):
    methods = ("simplenet", "glass")
    entries = [ModelEntry(method, "parts", category, method) for method in methods]
    return recorded_table(dict(zip(entries, (one, other), strict=True)), language)


def test_the_recorded_table_holds_what_stands_beside_the_bundled_models():
    table = Comparing(Catalog.bundled(), {}).arrive(ENGLISH)[0]
    told = json.loads((ROOT / "hubmodels/weights/models/simplenet-parts-pill/metrics.json").read_text())["metrics"]
    for key in ("image_auroc", "pixel_auroc", "aupro", "recall_at_threshold", "false_alarm_rate"):
        assert f"{100 * told[key]:.1f}" in table
    assert (
        table.count("60 (20 good)") == 5
        and "<code>last</code>" in table
        and table.count('<td class="first">1</td>') == 5
    )
    assert Outline(table).open == []


@pytest.mark.parametrize(
    ("language", "value", "word", "interval", "note"),
    [
        ("en", "90.0", "best", "86.1 to 92.9", "Its interval is above"),
        ("de", "90,0", "am besten", "86,1 bis 92,9", "Sein Intervall liegt über"),
    ],
)
def test_the_better_one_is_marked_by_a_sign_and_a_word(language, value, word, interval, note):
    table = recorded(*(facts(auroc, {"good": 100, "crack": 200}) for auroc in (0.9, 0.7)), language)
    marked = f'<b><span aria-hidden="true">▲</span> {value}</b><span class="compare-hidden">{word}</span>'
    assert f"{marked}<small>{interval}</small>" in table and table.count("▲</span>") == 1
    assert note in table and "Hanley" in table


def test_a_difference_within_the_intervals_has_no_mark():
    """The same values with fewer pictures, and an interval that one of five methods reaches."""
    table = recorded(facts(0.9), facts(0.8))
    assert "▲</span>" not in table and table.count("<small>") == 2


def five(*aurocs):
    counts = {"good": 50, "crack": 50, "dent": 50}
    entries = [ModelEntry(method, "parts", "pill", method) for method in METHODS]
    return recorded_table(dict(zip(entries, (facts(a, counts) for a in aurocs), strict=True)), "en")


def test_the_best_of_five_is_above_each_of_the_others():
    assert "▲</span> 99.0" in five(0.7, 0.8, 0.99, 0.75, 0.85)
    assert "▲</span>" not in five(0.7, 0.8, 0.99, 0.75, 0.95)
    assert "▲</span>" not in five(1.0, 0.99, 0.95, 0.9, 0.97)


def test_metrics_without_an_interval_have_no_mark():
    infos = [
        ModelInfo({"pixel_auroc": value, "false_alarm_rate": value}, "last", 0, {"good": 900, "crack": 900})
        for value in (0.9, 0.1)
    ]
    assert "▲</span>" not in recorded(*infos) and "<small>" not in recorded(*infos)


@pytest.mark.parametrize("counts", [{}, {"good": 0, "crack": 9}, {"good": 9}, {"crack": 9}])
def test_without_the_pictures_of_both_classes_there_is_no_interval(counts):
    table = recorded(facts(0.9, counts), facts(0.1, counts))
    assert "<small>" not in table and "▲</span>" not in table and "90.0" in table


@pytest.mark.parametrize("other", [{"test_counts": {"good": 100, "crack": 201}}, {"protocol": "best-on-test"}])
def test_nothing_is_better_than_what_was_measured_otherwise(other):
    counts = {"good": 100, "crack": 200}
    table = recorded(facts(0.9, counts), facts(0.7, **{"test_counts": counts} | other))
    assert "▲</span>" not in table and " / " in table


def test_a_checkpoint_chosen_on_the_test_is_called_so():
    assert "too high" in recorded(facts(0.9, protocol="best-on-test"), facts(0.8, protocol="best-on-test"))
    assert "too high" not in recorded(facts(0.9), facts(0.8))


def test_a_single_method_and_unknown_facts_leave_dashes():
    table = recorded(ModelInfo({"image_auroc": 0.9}), ModelInfo())
    assert "90.0" in table and "\N{EN DASH}" in table and "▲</span>" not in table


def test_without_metrics_the_table_says_where_they_come_from(catalog):
    table, introduction, choice, _ = on_test(catalog, None).arrive(ENGLISH)
    assert "metrics.json" in table and "--test-folder" in introduction
    assert choice["choices"] == [] and "value" not in choice  # what a visitor chose before stays


def test_recorded_facts_are_escaped():
    table = recorded(facts(0.9, protocol=HOSTILE), facts(0.8, protocol=HOSTILE), category=HOSTILE)
    assert HOSTILE not in table and table.count("&lt;img") == 2


# ---------------------------------------------------------------- here and now


def test_what_can_be_run(catalog, labelled_folder):
    examples = Comparing(Catalog.bundled(), {TEST: None, EXAMPLES: ROOT / "examples"})
    assert [value for _, value in examples.choices("en")][:2] == ["examples:", "examples:parts / brushed_metal"]
    assert "all examples (20 pictures)" in [words for words, _ in examples.choices("en")]
    assert on_test(catalog, labelled_folder).choices("de") == [
        ("toy / widget (Testordner, 4 Bilder)", "test:toy / widget"),  # nothing to add up
    ]
    assert on_test(catalog, labelled_folder / "widget").choices("en")[0][1] == "test:toy / widget"


def test_the_page_says_what_of_the_test_folder_is_not_used(catalog, labelled_folder):
    add_pictures(labelled_folder / "widget" / "validation" / "<b>", "000.png", "001.png")
    request = SimpleNamespace(headers={"accept-language": "de"})
    _, introduction, *_ = on_test(catalog, labelled_folder).arrive(request)
    assert "widget: nicht verwendet in validation: 2 (nur train, test und ground_truth" in introduction


def test_a_test_folder_with_other_names(catalog, labelled_folder):
    (labelled_folder / "widget" / "test" / "good").rename(labelled_folder / "widget" / "test" / "fine")
    with pytest.raises(ValueError, match="two ways"):
        on_test(catalog, labelled_folder)
    found = Comparing(catalog, {TEST: labelled_folder}, "fine").pictures[TEST][0].test
    assert {sample.defect_type: sample.label for sample in found} == {"good": 0, "crack": 1}


@pytest.mark.parametrize("choice", [None, "", "test:toy / lid", "elsewhere:", HOSTILE])
def test_what_cannot_be_run_is_told(catalog, labelled_folder, choice):
    (outputs,) = on_test(catalog, labelled_folder).run(choice, ENGLISH)
    assert "Choose labelled pictures" in shown(outputs) and HOSTILE not in shown(outputs)


def test_a_run_tells_its_progress_and_gives_the_buttons_back(catalog, labelled_folder):
    comparing = on_test(catalog, labelled_folder)
    first = comparing.start(ENGLISH)
    _, *steps, last = comparing.run("test:", ENGLISH)
    assert [update["interactive"] for update in first[2:4]] == [False, True]
    assert [update["interactive"] for update in last[2:4]] == [True, False]
    progress = [step[0] for step in steps if "<progress" in step[0]]
    assert len(progress) == 4 and 'max="4" value="4"' in progress[-1] and "0 s left" in progress[-1]


def test_the_numbers_are_those_of_the_detectors(catalog, labelled_folder):
    comparing = on_test(catalog, labelled_folder)
    *_, outputs = comparing.run("test:", ENGLISH)
    found = shown(outputs)
    assert "4 pictures, 2 good and 2 defective. These are too few for a measurement." in found
    detectors = catalog.load(LABEL)
    for detector in detectors.values():
        for defect_type in ("crack", "good"):
            pictures = sorted((labelled_folder / "widget" / "test" / defect_type).iterdir())
            flagged = sum(detector.predict(path).is_anomalous for path in pictures)
            assert f"{flagged} of 2 ({50 * flagged}%)" in found
    assert found.count("<svg") == 3 and found.count('role="img" aria-label=') == 3
    assert found.count(">threshold<") == 2 and 'stroke-dasharray="6 4"' in found
    assert Outline(found).open == []


def test_the_gallery_shows_the_worst_first(inspected_examples):
    """Two methods miss the chipped housing and the speck; without mistakes there are the closest calls."""
    found = shown(inspected_examples[-1])
    simplenet, glass = found.split("SimpleNet: 3 of 3 mistakes")[1].split("GLASS: 4 of 6 mistakes")
    glass = glass.split("Hybrid:")[0]
    assert simplenet.count("<figure>") == 3 and glass.count("<figure>") == 4
    assert "speck.png" in simplenet and "chipped_housing.png" in simplenet and "discoloured.png" in glass
    levels = [float(level) for level in re.findall(r"at level (\S+) ", simplenet)]
    assert levels == sorted(levels)
    assert all("alt" in attributes for tag, attributes in Outline(found).tags if tag == "img")


def test_the_examples_are_an_anecdote_and_paired(inspected_examples):
    found = shown(inspected_examples[-1])
    assert "20 pictures, 5 good and 15 defective. These are too few" in found
    assert "SimpleNet, GLASS" in found and "Both right" in found
    assert ">Cloth<" in found and found.index("12 of 15 (80%)") < found.index("<details>") < found.index("AUROC")
    assert "Look again" in found and '<tbody class="all">' in found
    assert "96%" in found and "12 of 15 (80%)" in found


def test_without_mistakes_the_closest_calls_are_shown(bundled):
    *_, outputs = bundled.run(f"{EXAMPLES}:parts / brushed_metal", ENGLISH)
    assert shown(outputs).count("no mistakes. These decisions were the closest") == 3
    assert shown(outputs).count("correct verdict of SimpleNet") == 4


def test_a_broken_file_is_a_line_and_stops_nothing(catalog, labelled_folder):
    (labelled_folder / "widget" / "test" / "crack" / "000.png").write_bytes(b"no picture")
    *_, outputs = on_test(catalog, labelled_folder).run("test:", ENGLISH)
    found = shown(outputs)
    assert "Pictures inspected: 3." in found and "Not inspected (1)" in found
    assert "<strong>toy / widget, test/crack/000.png:</strong>" in found and str(labelled_folder) not in found


def test_nothing_but_broken_files(catalog, tmp_path):
    folder = tmp_path / "widget" / "test" / "good"
    folder.mkdir(parents=True)
    (folder / "000.png").write_bytes(b"no picture")
    *_, outputs = on_test(catalog, tmp_path).run("test:", ENGLISH)
    assert "No picture was inspected." in shown(outputs) and "Not inspected (1)" in shown(outputs)


def test_a_mask_that_does_not_fit_costs_no_result(catalog, labelled_folder):
    save(mask((99, 10)), labelled_folder / "widget" / "ground_truth" / "crack" / "000_mask.png")
    *_, outputs = on_test(catalog, labelled_folder).run("test:", ENGLISH)
    assert "Pictures inspected: 4." in shown(outputs)


def test_one_kind_of_picture_has_no_roc(catalog, labelled_folder):
    shutil.rmtree(labelled_folder / "widget" / "test" / "crack")
    *_, outputs = on_test(catalog, labelled_folder).run("test:", ENGLISH)
    found = shown(outputs)
    assert "ROC and AUROC need good and defective" in found and "polyline" not in found and found.count("<svg") == 2


def test_a_model_that_does_not_load_costs_its_category_only(model_folder, labelled_folder):
    for folder in model_folder.iterdir():
        (folder / "model.safetensors").write_bytes(b"damaged")
    both = Catalog.from_folder(model_folder) | Catalog.bundled()
    add_pictures(labelled_folder / "washer" / "test" / "good", "000.png")
    *_, outputs = on_test(both, labelled_folder).run("test:", ENGLISH)
    found = shown(outputs)
    assert "<strong>toy / widget:</strong>" in found and "Not inspected (1)" in found  # once, not for every picture
    assert "Pictures inspected: 1." in found
    assert str(model_folder) not in found


def test_one_method_alone_is_shown_without_pairs(model_folder, labelled_folder):
    shutil.rmtree(model_folder / "glass-toy-widget")
    *_, outputs = on_test(Catalog.from_folder(model_folder), labelled_folder).run("test:", ENGLISH)
    found = shown(outputs)
    assert "Both right" not in found and "GLASS" not in found and "SimpleNet" in found


def test_without_calibration_there_are_no_verdicts(make_detector, labelled_folder, tmp_path):
    for method in (SimpleNet, GLASS):
        make_detector(method, calibrated=False).save_pretrained(tmp_path / "raw" / f"{method.method}-toy-widget")
    *_, outputs = on_test(Catalog.from_folder(tmp_path / "raw"), labelled_folder).run("test:", ENGLISH)
    found = shown(outputs)
    assert found.count("not calibrated") == 4 and found.count("no verdicts to show") == 2
    assert found.count("<svg") == 1  # the ROC needs no threshold


def test_stopping_shows_what_there_is(catalog, labelled_folder):
    comparing = on_test(catalog, labelled_folder)
    events = comparing.run("test:", ENGLISH)
    results = [next(events) for _ in range(3)][-1][-1]  # two pictures inspected
    outputs = comparing.stop(results, ENGLISH)
    assert "Stopped. Pictures inspected: 2." in shown(outputs) and "2 pictures, 0 good and 2 defective" in shown(
        outputs
    )
    assert [update["interactive"] for update in outputs[2:4]] == [True, False]
    assert "No picture was inspected" in shown(comparing.stop(None, ENGLISH))


def test_german(catalog, labelled_folder):
    comparing = on_test(catalog, labelled_folder)
    *_, outputs = comparing.run("test:", GERMAN)
    assert "Geprüfte Bilder: 4." in shown(outputs) and "zu wenige für eine Messung" in shown(outputs)
    assert "Jetzt ausführen" in comparing.arrive(GERMAN)[1]
    assert "94,6" in Comparing(Catalog.bundled(), {}).arrive(GERMAN)[0]


def test_names_of_files_and_categories_are_escaped(make_detector, tmp_path):
    make_detector(SimpleNet, category="<b>").save_pretrained(tmp_path / "models" / "simplenet-toy-x")
    folder = tmp_path / "data" / "<b>" / "test"
    add_pictures(folder / "<i>'\"", "<u>.png", "<s>.png")
    add_pictures(folder / "good", "000.png")
    (folder / "<i>'\"" / "<s>.png").write_bytes(b"no picture")
    comparing = on_test(Catalog.from_folder(tmp_path / "models"), tmp_path / "data")
    assert comparing.choices("en")[0][0].startswith("toy / <b> (")  # shown as text, not as HTML
    *_, outputs = comparing.run("test:", ENGLISH)
    for tag in ("<b>", "<i>", "<u>", "<s>"):
        assert tag not in shown(outputs)
    assert "&lt;u&gt;.png" in shown(outputs) and "&lt;s&gt;.png" in shown(outputs)


def test_a_large_comparison_has_a_small_report(catalog, tmp_path):
    """Drawings grow with their bars, not with the pictures."""
    results = LabelledResults()
    comparing = Comparing(catalog, {})
    rng = np.random.default_rng(0)
    detectors = catalog.load(LABEL)
    base = {type(d).__name__: d.predict(Image.new("RGB", (32, 32))) for d in detectors.values()}
    for _ in range(2000):
        label = int(rng.integers(0, 2))
        path = tmp_path / "gone.png"  # the gallery does without it
        results.add(Sample("gone.png", path, "crack", label), LABEL, base)
    found = shown(comparing.stop(results, ENGLISH))
    assert "One good part more or less changes the false alarms by 0.1 points" in found and len(found) < 20_000


# ---------------------------------------------------------------- the page


def test_the_events_keep_their_places(catalog):
    with gr.Blocks() as page, gr.Tabs(), gr.Tab("Compare") as tab:
        compare_tab.add(catalog, tab)
    events = {event.fn.__name__: event for event in page.fns.values() if event.fn}
    assert {event.api_visibility for event in page.fns.values()} == {"private"}
    assert events["run"].concurrency_id == "batch"
    cancelled = [event.cancels for event in page.fns.values() if event.cancels]
    assert cancelled == [[events["run"]._id]]
