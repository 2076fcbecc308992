"""The page with one, two, three and four methods: nothing crashes, no method is lost, and counts replace "both"."""

import base64
import csv
import io
import json
import re
import shutil
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from dummy_methods import Gaussian
from PIL import Image
from small_pictures import add_pictures
from small_report import describe

from hubmodels import GLASS, AppearanceCheck, SimpleNet
from hubmodels.hub.catalog import Catalog
from hubmodels.methods import METHODS, Method
from webapp import api, inspection_report
from webapp.batch_rows import DISAGREEMENT, inspected_row
from webapp.batch_tab import _Batches
from webapp.compare_tab import TEST, Comparing
from webapp.inspect_tab import InspectTab
from webapp.inspection import (
    FirstChoice,
    fit_methods,
    inspect_picture,
    load_methods,
    method_choice,
    wish_methods,
)
from webapp.models_tab import render_models
from webapp.page_log import PageLog
from webapp.results import BatchResults
from webapp.texts import LANGUAGES

LABEL = "toy / widget"
LANGUAGE_HEADERS = {"en": "en-GB", "de": "de-DE"}


class Quadratic(Gaussian):
    """The fourth method."""

    method = "quadratic"


DETECTORS = (SimpleNet, GLASS, Gaussian, Quadratic)
TITLES = [detector.__name__ for detector in DETECTORS]
STYLES = {"gaussian": Method(Gaussian, None, (0, 120, 60), "2 4", "▲")}


def visitor(language="en"):
    return gr.Request(headers={"accept-language": LANGUAGE_HEADERS[language]}, session_hash="me")


@pytest.fixture(autouse=True)
def only_these(request):
    """The registry contains `registered` methods, or all; afterwards it is as it was, in the same order."""
    registered = request.getfixturevalue("registered") if "registered" in request.fixturenames else len(DETECTORS)
    before = dict(METHODS)
    METHODS.clear()
    METHODS.update({d.method: STYLES.get(d.method, Method(d)) for d in DETECTORS[:registered]})
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.fixture(scope="module")
def all_models(make_detector, tmp_path_factory):
    """Folder of one category with a model of each method, and with recorded metrics."""
    root = tmp_path_factory.mktemp("models")
    for detector in DETECTORS:
        make_detector(detector).save_pretrained(root / f"{detector.method}-toy-widget")
        describe(root / f"{detector.method}-toy-widget", method=detector.method)
    return root


@pytest.fixture
def catalog(registered, all_models, tmp_path):
    """One category, with a model of each registered method."""
    return catalog_of(DETECTORS[:registered], all_models, tmp_path / "models")


def catalog_of(detectors, source, folder):
    for detector in detectors:
        shutil.copytree(source / f"{detector.method}-toy-widget", folder / f"{detector.method}-toy-widget")
    return Catalog.from_folder(folder)


@pytest.fixture
def upload(tmp_path, monkeypatch):
    """An uploaded picture like those that the toy models were calibrated on."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    path = tmp_path / "uploads" / "0a1b" / "part.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    return {"path": str(path), "orig_name": "part.png"}


every_number = pytest.mark.parametrize("registered", [1, 2, 3, 4])


# ---------------------------------------------------------------- Inspect


@every_number
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_report_has_a_column_for_each_method(catalog, upload, registered, language):
    report = InspectTab(catalog, []).inspect(LABEL, upload, None, visitor(language))[0]
    assert re.findall(r'class="method" aria-label="(\w+)"', report) == TITLES[:registered]
    assert ('class="agreement"' in report) == (registered > 1)
    assert ("both" in report.lower() or "beide" in report.lower()) == (registered == 2)
    assert report.count('<img src="data:image/png;base64,') >= {1: 0, 2: 3}.get(registered, registered)


@every_number
def test_the_legend_counts_from_three_methods_on(catalog, upload, registered):
    report = InspectTab(catalog, []).inspect(LABEL, upload, None, visitor())[0]
    legend = re.findall(r'height="24"> ([^<]*)</li>', report)
    counted = [f"outlined by {count} of {registered}" for count in range(registered, 0, -1)]
    assert legend == {1: [], 2: ["both", "SimpleNet alone", "GLASS alone"]}.get(registered, counted)


@pytest.mark.parametrize(
    ("verdicts", "tone", "words"),
    [
        ((True,), "defective", "✕ Defective"),
        ((None,), "unsure", "? No verdict"),
        ((False, False), "good", "Both methods agree: Good"),
        ((True, False), "unsure", "The methods disagree. SimpleNet: Defective, GLASS: Good. Please"),
        ((True, None), "unsure", "A comparison needs two verdicts. SimpleNet: Defective, GLASS: No verdict."),
        ((True, True, True), "defective", "3 of 3 methods agree: Defective"),
        ((False, None, False), "good", "2 of 3 methods agree: Good"),
        ((False, True, False), "unsure", "The methods disagree. Defective for 1 of 3: GLASS. Please"),
        ((True, None, False, True), "unsure", "The methods disagree. Defective for 2 of 4: SimpleNet, Quadratic."),
        ((None, None, None), "unsure", "A comparison needs two verdicts"),
    ],
)
def test_the_headline_counts_verdicts(verdicts, tone, words):
    predictions = dict(
        zip(TITLES, (SimpleNamespace(is_anomalous=verdict, is_unsure=False) for verdict in verdicts), strict=False)
    )
    inspection = SimpleNamespace(appearance=AppearanceCheck(1.0, ()), at_rate=lambda rate: predictions)
    found, sentence = inspection_report._headline(inspection, None, "en")
    assert found == tone and sentence.startswith(words)


@pytest.mark.parametrize(("masked", "words"), [((0, 1), "Both outline"), ((0, 1, 2), "0.0"), ((), "No method")])
def test_the_agreement_is_said_in_words(masked, words):
    masks = {title: np.zeros((10, 10), bool) for title in TITLES[: max(2, len(masked))]}
    for index in masked:
        masks[TITLES[index]][: index + 2] = True
    sentence = inspection_report._agreement_words(masks, "en")
    if len(masks) == 3:
        words = "Outlined share of the picture: 20% by 3 of 3 methods, 10% by 2 of 3 methods, 10% by 1 of 3 methods."
    assert sentence.startswith(words)


@every_number
def test_the_downloads_contain_every_method(catalog, upload, registered):
    event = gr.EventData(None, {"what": "zip", "rate": 0.2})
    with zipfile.ZipFile(InspectTab(catalog, []).download(LABEL, upload, None, event, visitor())) as archive:
        record = json.loads(archive.read("result.json"))
        assert len(archive.namelist()) == 1 + 3 * registered
    assert list(record["methods"]) == list(record["models"]) == TITLES[:registered]
    assert record["verdicts"] == registered and record["defective_verdicts"] <= registered


def test_methods_without_a_model_are_a_note(all_models, upload, tmp_path):
    catalog = catalog_of(DETECTORS[:2], all_models, tmp_path / "models")
    report = InspectTab(catalog, []).inspect(LABEL, upload, None, visitor())[0]
    assert report.count('class="method"') == 2 and "outlined by" not in report
    assert all(f"{title} has no model for this category yet" in report for title in TITLES[2:])


# ---------------------------------------------------------------- the choice of methods


@every_number
def test_two_methods_are_chosen_at_first_and_all_are_offered(catalog, registered):
    choice, wished = method_choice(catalog)
    assert [title for title, _ in choice.choices] == TITLES[:registered]
    assert choice.value == wished.value == [detector.method for detector in DETECTORS[: min(registered, 2)]]


@pytest.mark.parametrize("registered", [4])
@pytest.mark.parametrize(
    "chosen", [["glass"], ["quadratic", "simplenet"], list(METHODS), [], None, "glass", 7, {"glass": 1}, [{}, 3]]
)
def test_only_the_chosen_methods_are_shown_and_downloaded(catalog, upload, registered, chosen):
    named = chosen if isinstance(chosen, list) else []
    wanted = [d.__name__ for d in DETECTORS if d.method in named] or TITLES
    report = InspectTab(catalog, []).inspect(LABEL, upload, chosen, visitor())[0]
    assert re.findall(r'class="method" aria-label="(\w+)"', report) == wanted
    assert "no model for this category" not in report
    event = gr.EventData(None, {"what": "json", "rate": 0.2})
    record = json.loads(open(InspectTab(catalog, []).download(LABEL, upload, chosen, event, visitor())).read())
    assert list(record["methods"]) == list(record["models"]) == wanted
    *_, (_, table, _, _, _, zip_file) = _Batches(catalog).run(LABEL, [upload], 20, chosen, visitor())
    assert [column.get("group") for column in table["columns"][2::3]] == wanted
    with zipfile.ZipFile(zip_file["value"]) as archive:
        results = json.loads(archive.read("results.json"))
    assert list(results["models"]) == list(results["pictures"][0]["methods"]) == wanted


def test_the_only_method_of_a_category_is_shown_without_being_chosen(all_models, upload, tmp_path):
    catalog = catalog_of([Quadratic], all_models, tmp_path / "models")
    wished = method_choice(catalog)[1].value
    report = InspectTab(catalog, []).inspect(LABEL, upload, wished, visitor())[0]
    assert re.findall(r'class="method" aria-label="(\w+)"', report) == ["Quadratic"]
    assert "has no model for this category" not in report  # those that are shown replace the others
    *_, (_, table, *_) = _Batches(catalog).run(LABEL, [upload], 20, wished, visitor())
    assert [column.get("group") for column in table["columns"][2::3]] == ["Quadratic"]


def with_a_lid(*methods):
    """A catalog of a widget with all methods and of a lid with these."""
    widgets = [SimpleNamespace(label=LABEL, method=method) for method in METHODS]
    return SimpleNamespace(entries=[*widgets, *(SimpleNamespace(label="own / lid", method=m) for m in methods)])


@pytest.mark.parametrize("tab", ["inspect", "batch"])
def test_the_ticks_are_the_methods_that_are_shown_and_the_choice_comes_back(tab):
    """They used to stay at methods without a model, such as those of a part that was taught with another one."""
    catalog, wished = with_a_lid("quadratic"), ["simplenet", "glass"]
    catalog.load = {"own / lid": {}, LABEL: {}}.get
    fit = InspectTab(catalog, []).fit if tab == "inspect" else _fitted_by(_Batches(catalog))
    lid = fit("own / lid", wished, visitor())
    assert lid["choices"] == [("Quadratic", "quadratic")] and lid["value"] == ["quadratic"]
    assert lid["info"] == "No model for this category: SimpleNet, GLASS, Gaussian."
    back = fit(LABEL, wished, visitor())
    assert back["value"] == wished and [name for _, name in back["choices"]] == list(METHODS)
    assert "methods_info" in repr(back["info"])


@pytest.mark.parametrize("tab", ["inspect", "batch"])
def test_an_own_part_shows_all_methods_that_learned_it_until_a_visitor_chooses(tab):
    """It used to show the first one alone, which can promise far less than the others."""
    catalog, first = with_a_lid("simplenet", "quadratic"), FirstChoice(["simplenet", "glass"])
    catalog.load = {"own / lid": dict.fromkeys(["simplenet", "quadratic"]), LABEL: dict.fromkeys(METHODS)}.get
    assert list(load_methods(catalog, "own / lid", first)) == ["simplenet", "quadratic"]
    assert list(load_methods(catalog, LABEL, first)) == ["simplenet", "glass"]
    catalog.load = {"own / lid": {}, LABEL: {}}.get
    fit = InspectTab(catalog, []).fit if tab == "inspect" else _fitted_by(_Batches(catalog))
    assert fit("own / lid", first, visitor())["value"] == ["simplenet", "quadratic"]
    chosen = wish_methods(catalog, "own / lid", ["simplenet"], first)
    assert chosen == ["simplenet", "glass"] and fit("own / lid", chosen, visitor())["value"] == ["simplenet"]


def _fitted_by(batches):
    return lambda category, wished, request: batches.offer(category, wished, None, request)[0]


def test_other_ticks_are_another_choice_and_are_inspected(all_models, upload, tmp_path):
    tab = InspectTab(catalog_of(DETECTORS, all_models, tmp_path / "models"), [])
    *report, wished = tab.choose(LABEL, upload, ["simplenet"], None, ["glass", "quadratic"], visitor())
    assert re.findall(r'class="method" aria-label="(\w+)"', report[0]) == ["GLASS", "Quadratic"]
    assert wished == ["glass", "quadratic"] and len(report) == 4


def test_ticks_of_one_category_leave_the_choice_for_others():
    catalog, lid = with_a_lid("quadratic", "simplenet"), "own / lid"
    assert wish_methods(catalog, lid, ["quadratic"], ["simplenet", "glass"]) == ["glass", "quadratic"]
    assert wish_methods(catalog, lid, [], ["simplenet", "glass"]) == ["glass"]  # it is not offered here
    assert wish_methods(catalog, None, ["glass"], ["simplenet"]) == ["glass"]
    for absurd in ("glass", 7, None, [{}, [3]]):
        assert wish_methods(catalog, None, absurd, ["glass"]) == []
    assert fit_methods(catalog, lid, [], "en")["value"] == []  # without a choice all are shown


# ---------------------------------------------------------------- Batch


@every_number
def test_the_batch_has_columns_for_each_method(catalog, upload, registered):
    broken = upload | {"path": "elsewhere"}
    *_, (_, table, _, _, csv_file, zip_file) = _Batches(catalog).run(LABEL, [upload, broken], 20, None, visitor())
    assert [column.get("group") for column in table["columns"][2::3]] == TITLES[:registered]
    done, failed = table["rows"]
    assert len(done["keys"]) == len(failed["keys"]) == len(table["columns"]) == 2 + 3 * registered
    assert failed["cells"][0]["span"] == 1 + 3 * registered
    with open(csv_file["value"], encoding="utf-8-sig") as file:
        row = next(csv.DictReader(file))
    assert all(row[f"{title.lower()}_p_value"] for title in TITLES[:registered])
    with zipfile.ZipFile(zip_file["value"]) as archive:
        pictures = json.loads(archive.read("results.json"))["pictures"]
    assert list(pictures[0]["methods"]) == TITLES[:registered] and pictures[1]["verdicts"] == 0


@pytest.mark.parametrize("registered", [2, 3, 4])
def test_a_disagreement_in_a_batch_is_counted(catalog, upload, registered, tmp_path):
    inspection = inspect_picture(catalog, LABEL, upload["path"], 0.2)
    decided = {
        name: replace(p, threshold=p.image_score + (1 if index else -1))
        for index, (name, p) in enumerate(inspection.predictions.items())
    }
    head = {"category": LABEL, "false_alarm_rate": 0.2, "models": {}}
    with BatchResults(tmp_path / "batch", head) as results:
        record = results.add("a", replace(inspection, predictions=decided, appearance=AppearanceCheck(1.0, ())))
    row = inspected_row(record, "", list(record["methods"]), "en")
    counted = f"1 of {registered} defective"
    assert row["keys"][1] == DISAGREEMENT
    assert row["cells"][0]["text"] == ("Methods disagree" if registered == 2 else counted)
    assert len(record["overlays"]) == registered


# ---------------------------------------------------------------- Compare, Models, API


@every_number
def test_the_comparison_shows_each_method_and_each_pair(catalog, registered, tmp_path):
    add_pictures(tmp_path / "data" / "widget" / "test" / "good", "000.png")
    add_pictures(tmp_path / "data" / "widget" / "test" / "crack", "000.png")
    comparing = Comparing(catalog, {TEST: tmp_path / "data"})
    *_, (_, found, *_) = comparing.run("test:", visitor())
    assert re.findall(r'<td class="word">(\w+)</td>', found) == 2 * TITLES[:registered]  # also in the fold
    assert found.count('class="curve"') == 2 * registered  # in the drawing and in its legend
    assert found.count("Score levels of") == 2 * registered  # as a heading and for screen readers
    pairs = [(one, other) for i, one in enumerate(TITLES[:registered]) for other in TITLES[i + 1 : registered]]
    assert re.findall(r'<th scope="row">(\w+), (\w+)</th>', found) == pairs
    assert [f"<h3>{title}" in found for title in TITLES] == [True] * registered + [False] * (4 - registered)
    if registered > 2:
        assert "rgb(0, 120, 60)" in found and 'stroke-dasharray="2 4"' in found and ">▲</text>" in found


@every_number
def test_recorded_metrics_and_models_list_each_method(catalog, registered):
    recorded = Comparing(catalog, {}).arrive(visitor())[0]
    assert re.findall(r'scope="col">(\w+)</th>', recorded)[-5 * registered :] == 5 * TITLES[:registered]
    assert recorded.count(f'colspan="{registered}"') == 5
    models = render_models(catalog, "en")
    assert re.findall(r'<th scope="row">(\w+)</th>', models) == TITLES[:registered]
    assert f'rowspan="{registered}"' in models


@every_number
def test_the_api_answers_for_each_method(catalog, registered, upload):
    encoded = base64.b64encode(io.FileIO(upload["path"]).readall()).decode()
    result = api._Endpoints(catalog, PageLog()).inspect(f"data:image/png;base64,{encoded}", LABEL, overlays=True)
    assert list(result["methods"]) == TITLES[:registered]
    assert (result["agree"] is None) == (registered == 1) and result["verdicts"] == registered
    assert all(numbers["overlay"].startswith("data:image/png") for numbers in result["methods"].values())
