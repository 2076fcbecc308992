"""The tab Models shows what is known, but no folder of the server and no markup of strangers."""

import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import gradio as gr
import pytest
from batch_page import served
from browser import photograph, visit
from hub_server import Fault, delay
from huggingface_hub import constants
from PIL import Image
from small_models import change_config, push
from small_report import METRICS, describe

from hubmodels.hub import model_info
from hubmodels.hub.catalog import CACHE, FOLDER, HUB, Catalog, Listing, ModelEntry
from hubmodels.hub.errors import ModelError
from hubmodels.hub.model_info import ModelInfo
from webapp import models_tab
from webapp import texts as words
from webapp.models_tab import hide_folders, render_models

SCRIPT = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a browser would make of the tab: elements with their attributes, rows of cells, and all text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.rows, self.open, self.text = [], [], [], ""
        self.feed(str(html))
        assert self.open == []  # every element is closed

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("br", "hr", "img", "input", "wbr"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(autouse=True)
def nothing_kept():
    model_info._download.cache_clear()


@pytest.fixture
def described(model_folder):
    """The folder of SimpleNet as training leaves it; of GLASS the weights alone."""
    describe(model_folder / "simplenet-toy-widget", input={"smallest_defect": 20})
    card = "---\nlicense: other\nlicense_name: terms-of-the-training-pictures\n---\n# SimpleNet\n"
    (model_folder / "simplenet-toy-widget" / "README.md").write_text(card)
    return model_folder


def shown(catalog, language="en"):
    return Page(render_models(catalog, language))


def listing(*entries, problems=None, notices=()):
    return Catalog(lambda: Listing(list(entries), problems or {}, list(notices)))


def entry(source, origin=FOLDER, **changes):
    return ModelEntry(
        **{"method": "glass", "dataset": "toy", "category": "widget"} | changes, source=source, origin=origin
    )


# ---------------------------------------------------------------- what is known


def test_a_row_holds_all_that_is_known(described):
    page = shown(Catalog.from_folder(described))
    head, simplenet, glass = page.rows
    assert head[:6] == ["Category", "Method", "I-AUROC", "P-AUROC", "AUPRO@0.3", "Protocol"]
    assert head[6:] == ["Test pictures", "Smallest defect", "Weights", "Licence", "Source"]
    size = f"{(described / 'simplenet-toy-widget/model.safetensors').stat().st_size / 1e6:.1f} MB"
    numbers = ["75.0", "87.5", "68.8", "last", "10", "20 px", size, "terms-of-the-training-pictures"]
    assert simplenet == ["toy / widget", "SimpleNet", *numbers, "simplenet-toy-widget"]
    assert glass == ["GLASS", *["–"] * 6, size, "–", "glass-toy-widget"]  # noqa: RUF001


def test_a_column_without_a_value_is_left_out_of_its_table(model_folder):
    page = shown(Catalog.from_folder(model_folder) | Catalog.bundled())
    assert page.rows[0] == ["Category", "Method", "Weights", "Source"] and [len(r) for r in page.rows[:3]] == [4, 4, 3]
    (bundled,) = (row for row in page.rows[1:] if row[0] == "Category")
    assert bundled[-1] == "Licence" and "AUPRO@0.3" in bundled


def test_german_has_its_words_and_commas(described):
    page = shown(Catalog.from_folder(described), "de")
    assert page.rows[0][:2] == ["Kategorie", "Verfahren"]
    assert page.rows[1][2:6] == ["75,0", "87,5", "68,8", "letzter"]
    assert "Aus dem Ordner models (2)" in page.text and "Folder" not in page.text


def test_tables_have_captions_and_headings_with_a_scope(described):
    page = shown(Catalog.from_folder(described) | Catalog.bundled())
    assert len(page.of("table")) == len(page.of("caption")) == 2
    assert {attributes.get("scope") for attributes in page.of("th")} == {"col", "row", "rowgroup"}
    regions = [a for a in page.of("div") if a.get("role") == "region"]
    assert [a["aria-label"] for a in regions] == ["From the folder models", "Bundled with the demo"]
    assert all(a["tabindex"] == "0" for a in regions)  # or the keyboard could not scroll them


def test_the_bundle_needs_no_column_of_sources():
    page = shown(Catalog.bundled())
    assert page.rows[0][-1] == "Licence"
    assert {len(row) for row in page.rows} == {10, 9} and len(page.rows) == 16
    assert "glass-parts-cloth" not in page.text
    assert {row[-1] for row in page.rows[1:]} == {"apache-2.0"}


def test_the_note_on_the_compact_backbone_is_shown_with_models_that_need_it(described):
    note = words.TEXTS["models_compact"]
    assert note["en"] in shown(Catalog.bundled()).text and note["de"] in shown(Catalog.bundled(), "de").text
    assert note["en"] not in shown(Catalog.from_folder(described)).text  # it is on ResNet-18


def test_a_published_model_is_linked_to_its_card_and_named_with_its_commit(hub, make_detector):
    push(make_detector, "acme/glass-toy-widget")
    page = shown(Catalog.from_namespace("acme"))
    assert page.of("a") == [
        {
            "href": f"{constants.ENDPOINT}/acme/glass-toy-widget",
            **{"target": "_blank", "rel": "noopener noreferrer"},
        }
    ]
    assert page.rows[1][-1] == "acme/glass-toy-widget" + hub.commits("acme/glass-toy-widget")[0].oid[:12]
    assert "From acme on the Hub (1)" in page.text


def test_a_cached_model_says_so():
    assert "from the local Hub cache" in shown(listing(entry("acme/glass-toy-widget", CACHE))).text


@pytest.mark.parametrize("card", ["javascript:alert(1)", "data:text/html,x", "//evil", None])
def test_only_web_addresses_become_links(monkeypatch, card):
    monkeypatch.setattr(models_tab, "read_model_info", lambda entry: ModelInfo(card=card))
    page = shown(listing(entry("acme/glass-toy-widget", HUB)))
    assert page.of("a") == [] and "acme/glass-toy-widget" in page.text


def test_the_page_asks_for_nothing_by_itself(described):
    page = shown(Catalog.from_folder(described) | Catalog.bundled())
    loads = {"src", "srcset", "style", "background"}
    assert not [name for name, attributes in page.elements if loads & attributes.keys()]
    assert {name for name, _ in page.elements}.isdisjoint({"img", "script", "link", "iframe", "style"})


def test_a_protocol_that_is_not_ours_is_shown_as_it_is(described):
    describe(described / "simplenet-toy-widget", protocol="best-on-test")
    describe(described / "glass-toy-widget", method="glass", protocol="mean & more")
    assert [row[-5] for row in shown(Catalog.from_folder(described)).rows[1:]] == ["best on test", "mean & more"]


def test_no_model_at_all_is_said_in_words():
    page = shown(Catalog())
    assert "There is no model yet" in page.text and page.of("table") == page.of("input") == []
    assert "Es gibt noch kein Modell" in shown(Catalog(), "de").text


# ---------------------------------------------------------------- what cannot be used


def test_a_model_that_cannot_be_used_has_its_reason_and_no_row(described):
    (described / "glass-toy-widget/model.safetensors").write_bytes(b"short")
    catalog = Catalog.from_folder(described)
    assert "cannot be used" not in shown(catalog).text
    catalog.load("toy / widget")
    page = shown(catalog)
    assert "Models that cannot be used (1)" in page.text
    assert "glass-toy-widget: model.safetensors is truncated" in page.text
    assert [row[1] for row in page.rows] == ["Method", "SimpleNet"]
    assert "Nicht verwendbare Modelle (1)" in shown(catalog, "de").text


def test_a_damaged_config_and_a_failed_place_are_told(described):
    (described / "glass-toy-widget/config.json").write_text("{")

    def unreachable():
        raise ModelError("the Hub <gone>")

    page = shown(Catalog.from_folder(described) | Catalog(unreachable))
    assert "config.json is damaged" in page.text
    assert "Please note" in page.text and "the Hub <gone>" in page.text


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_folders_of_the_server_are_not_shown(described, tmp_path, language):
    private = tmp_path / "srv" / "ann's secret place" / "runs"
    shutil.copytree(described, private)
    shutil.copytree(private / "glass-toy-widget", private / "copy")  # the same again names both
    change_config(private / "copy", backbone_sha256="0" * 64)
    (private / "simplenet-toy-widget/model.safetensors").unlink()
    (private / "simplenet-toy-widget/weights.pt").write_bytes(b"PK")
    catalog = Catalog.from_folder(private, backbone_weights=private.parent / "gone.safetensors")
    with pytest.raises(ModelError):
        catalog.load("toy / widget")
    assert str(private) in str(catalog.problems)
    text = shown(catalog, language).text
    assert len(catalog.problems) == 3
    assert all(words in text for words in ("copy is the same", "weights.pt", "gone.safetensors"))
    assert not re.search(r"secret|srv|ann's", text) and "/tmp" not in text


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/srv/ann/runs is not a folder: give one", "runs is not a folder: give one"),
        ("it is not in (/var/cache/hub by default)", "it is not in (hub by default)"),
        ("[Errno 13] denied: '/srv/ann/config.json'", "[Errno 13] denied: 'config.json'"),
        ("~/runs/x and ../secret/runs/y", "x and y"),
        (r"C:\Users\ann\runs is not a folder", "runs is not a folder"),
        (r"[WinError 5] denied: 'C:\\Users\\ann\\config.json'", "[WinError 5] denied: 'config.json'"),
        (r"..\secret\runs and \\server\ann\lid", "runs and lid"),
        ("ask https://huggingface.co/acme/demo", "ask https://huggingface.co/acme/demo"),
        ("acme/glass-toy-lid of toy / lid", "acme/glass-toy-lid of toy / lid"),
        pytest.param(f"not in {constants.HF_HUB_CACHE}, so", "not in hub, so", id="the cache of this process"),
    ],
)
def test_of_a_path_only_the_name_is_left(text, short):
    assert hide_folders(text, Catalog()) == short


# ---------------------------------------------------------------- strangers


def test_markup_of_strangers_stays_text(described):
    for folder, method in ((described / f"{m}-toy-widget", m) for m in ("simplenet", "glass")):
        change_config(folder, dataset=SCRIPT, category='"><img src=x onerror=alert(1)>')
        describe(folder, method=method, protocol=SCRIPT, metrics=METRICS | {"aupro": SCRIPT})
        (folder / "README.md").write_text(f"---\nlicense: '{SCRIPT}'\n---\n")
    (described / "glass-toy-widget").rename(described / "<b>bold")
    (described / "<i>").mkdir()
    (described / "<i>" / "config.json").write_text(json.dumps({"method": SCRIPT}))
    page = shown(Catalog.from_folder(described))
    assert {name for name, _ in page.elements}.isdisjoint({"script", "img", "b", "i"})
    assert page.text.count("<script>") == 6  # category, two protocols, two licences, a reason
    assert "<b>bold" in page.text and "<i>" in page.text


def test_a_namespace_with_markup_stays_text():
    page = shown(listing(entry("<u>/glass-toy-x", HUB, revision="<s>"), problems={"<b>": "<i>"}, notices=["<em>"]))
    assert {name for name, _ in page.elements}.isdisjoint({"u", "s", "b", "i", "em"})
    assert all(text in page.text for text in ("From <u> on the Hub", "<u>/glass-toy-x<s>", "<b><i>", "<em>"))


# ---------------------------------------------------------------- the Hub's time, and the page


def test_a_hub_that_hangs_keeps_nobody_waiting(hub, make_detector, monkeypatch):
    push(make_detector, "acme/glass-toy-widget", "acme/glass-toy-lid")
    catalog = Catalog.from_namespace("acme")
    hub.faults.append(Fault("HEAD", "resolve", 99, delay(4)))
    monkeypatch.setattr(models_tab, "PATIENCE", 0.2)
    begun = time.perf_counter()
    page = shown(catalog)
    assert time.perf_counter() - begun < 3
    assert "Some data from the Hub is still missing" in page.text and len(page.rows) == 3
    assert page.rows[1][-1].startswith("acme/glass-toy-lid")
    hub.faults.clear()
    monkeypatch.setattr(models_tab, "PATIENCE", 20)
    assert "Some data from the Hub is still missing" not in shown(catalog).text


def test_selecting_the_tab_fills_it_in_the_visitors_language(described):
    catalog = Catalog.from_folder(described)
    with gr.Blocks(analytics_enabled=False) as demo, gr.Tab("Models") as tab:
        page = models_tab.add(catalog, tab)
    event, chosen = demo.fns.values()
    assert event.outputs[0] == page and (event.targets[0][1], event.api_visibility) == ("select", "private")
    german = gr.Request(headers={"accept-language": "de-AT,de;q=0.9"})
    found, choice = event.fn(german)
    assert found == render_models(catalog, "de")
    assert "toy / widget, SimpleNet" in choice["choices"] and choice["visible"]
    assert "<h3>SimpleNet</h3>" in chosen.fn("toy / widget, SimpleNet", german)
    assert [chosen.fn(absurd, german) for absurd in ("../x", None, ["a"], {})] == [""] * 4
    assert "widget" not in str(page.value)  # nothing is read before


def test_the_script_and_style_know_the_names_of_the_page(described):
    """A class that is renamed in one place alone breaks the filter or the style unnoticed."""
    html = render_models(Catalog.from_folder(described), "en")
    html += render_models(listing(problems={"a": "b"}, notices=["c"]), "en")
    used = {name for value in re.findall(r'class="([^"]*)"', html) for name in value.split()}
    static = Path(models_tab.__file__).parent / "static"
    styled = set(re.findall(r"\.(models[\w-]*|number)\b", (static / "models.css").read_text()))
    asked = set(re.findall(r"\.(models-[\w-]+)", (static / "models.js").read_text()))
    used |= {"models-card"}  # a component of its own
    assert asked <= used and styled == used - {"models-count"}


# ---------------------------------------------------------------- cards that lie on this machine

CARD = """---
license: secret
---
# GLASS for widgets

It *finds* defects, see [the paper](https://arxiv.org/abs/2407.09359) and [more](../docs/more.md).

| metric | value |
|---|--:|
| AUROC | 99.1 % |

```python
print("<b>")
```

![A median defect](panels/median.png) ![Far away](https://evil.example/pixel.png) ![Outside](../secret.png)
"""


@pytest.fixture
def card_shown(model_folder):
    """Shows a card of a model with pictures in its folder and outside of it."""
    folder = model_folder / "glass-toy-widget"
    (folder / "panels").mkdir()
    for path in (folder / "panels" / "median.png", model_folder / "secret.png"):
        Image.new("RGB", (64, 32)).save(path)

    def show(text):
        (folder / "README.md").write_text(text)
        catalog = Catalog.from_folder(model_folder)
        return Page(models_tab.read_card(models_tab.cards_of(catalog, "en")["toy / widget, GLASS"], catalog))

    return show


def test_a_card_is_rendered_and_not_shown_as_markdown(card_shown):
    page = card_shown(CARD)
    assert page.rows == [["metric", "value"], ["AUROC", "99.1 %"]] and "license" not in page.text
    assert [name for name, _ in page.elements if name.startswith("h")] == ["h3"] and "# GLASS" not in page.text
    assert page.of("em") and page.of("pre") and 'print("<b>")' in page.text
    web = {"href": "https://arxiv.org/abs/2407.09359", "target": "_blank", "rel": "noopener noreferrer"}
    assert page.of("a") == [web] and "and more." in page.text  # the page of the demo has no such address


def test_of_a_card_only_pictures_of_its_folder_are_shown(card_shown):
    page = card_shown(CARD)
    [picture] = page.of("img")
    assert picture["src"].startswith("data:image/jpeg;base64,") and picture["alt"] == "A median defect"
    assert "Far away" in page.text and "Outside" in page.text and "evil" not in str(page.elements)


@pytest.mark.parametrize(
    "hostile",
    [
        SCRIPT,
        "<img src=x onerror=alert(1)>",
        "<style>* { display: none }</style>",
        "[a](javascript:alert(1)) <javascript:alert(1)>",
        "[a](data:text/html;base64,PHNjcmlwdD4=)",
        "![a](javascript:alert(1))",
        "![a](/etc/passwd) ![b](file:///etc/passwd) ![c](README.md)",
        "[a]: https://x.example 'onmouseover=alert(1)'\n\n[a]",
        "&lt;script&gt; <iframe src=//evil.example></iframe>",
        "| a |\n|:-:|\n| <svg onload=alert(1)> |",
        "# " + SCRIPT,
        "[" * 5_000,
    ],
)
def test_nothing_of_a_strangers_card_is_executed_or_loaded(card_shown, hostile):
    page = card_shown(hostile)
    plain = {"p", "h3", "table", "thead", "tbody", "tr", "th", "td", "a"}
    assert {name for name, _ in page.elements} <= plain
    assert {key for _, attributes in page.elements for key in attributes} <= {"href", "target", "rel"}
    assert all(attributes["href"].startswith("https://x.example") for attributes in page.of("a"))


def test_a_card_hides_folders_of_the_server(card_shown, model_folder):
    page = card_shown(f"Trained in {model_folder}/data")
    assert str(model_folder.parent) not in page.text and "data" in page.text


def test_the_list_of_cards_has_those_of_local_models(described):
    catalog = Catalog.from_folder(described) | Catalog.bundled()
    titles = list(models_tab.cards_of(catalog, "de"))
    assert len(titles) == len(list(described.glob("*/README.md"))) + len(Catalog.bundled().entries)
    assert "Tablette, Hybrid" in titles and "toy / widget, SimpleNet" in titles
    assert list(models_tab.cards_of(listing(entry("acme/glass-toy-widget", HUB)), "en")) == []


def test_a_bundled_card_is_shown_with_its_panels():
    catalog = Catalog.bundled()
    for each in models_tab.cards_of(catalog, "en").values():
        page = Page(models_tab.read_card(each, catalog))
        assert len(page.of("img")) == 3 and len(page.of("table")) > 3 and "**" not in page.text


@pytest.mark.browser
def test_a_card_is_chosen_and_read_on_a_phone(tmp_path, monkeypatch):
    with served(Catalog.bundled(), tmp_path / "up", monkeypatch) as url, visit(url, width=360, height=740) as page:
        page.get_by_role("tab", name="Models").click()
        page.get_by_label("Card of a local model").click()
        page.get_by_role("option", name="Pill, Hybrid").click()
        page.get_by_role("heading", name="Hybrid for parts / pill").wait_for()
        assert (
            page.locator(".models-card img").evaluate_all("all => all.map((each) => each.naturalWidth > 0)")
            == [True] * 3
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        photograph(page, "model_card_phone")
