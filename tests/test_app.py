"""The page answers everything in words: verdicts, hints and failures; and it runs in a real browser."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from app_process import wait_for
from PIL import Image

import app
from hubmodels import GLASS, SimpleNet
from hubmodels.catalog import Catalog
from training.config import TrainConfig

ROOT = Path(__file__).parents[1]
LABEL = "toy / widget"
CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def catalog(model_folder):
    return Catalog.from_folder(model_folder)


@pytest.fixture
def picture(tmp_path):
    """Path of a picture that is not square."""
    path = tmp_path / "part.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)).save(path)
    return str(path)


def shown(update):
    """The heat map of an update, or None; hidden exactly where there is none."""
    assert update["visible"] == (update["value"] is not None)
    return update["value"]


def text_of(demo):
    """All that a page's components hold."""
    return json.dumps(demo.get_config_file()["components"], default=str)


# ---------------------------------------------------------------- what is said about a picture


def test_a_picture_gets_two_verdicts_and_heat_maps(catalog, picture):
    status, simplenet, simplenet_map, glass, glass_map = app.inspect(catalog, LABEL, picture)
    assert "agree" in status
    for card, heat_map, name in ((simplenet, simplenet_map, "SimpleNet"), (glass, glass_map, "GLASS")):
        assert name in card and "threshold" in card and "p = " in card and " ms" in card
        assert "held-out normal pictures" in card
        assert shown(heat_map).size == (80, 48)


def test_the_cards_give_the_numbers_of_the_detectors(catalog, picture):
    cards = app.inspect(catalog, LABEL, picture)[1::2]
    for detector, card in zip(catalog.load(LABEL), cards, strict=True):
        prediction = detector.predict(picture)
        assert f"{prediction.image_score:.3g} (threshold {prediction.threshold:.3g})" in card
        assert (">Defective<" if prediction.is_anomalous else ">Good<") in card


def test_a_large_heat_map_is_shown_smaller(catalog, tmp_path):
    Image.new("RGB", (app.SHOWN_SIDE + 200, 100), "grey").save(tmp_path / "wide.png")
    for heat_map in app.inspect(catalog, LABEL, str(tmp_path / "wide.png"))[2::2]:
        assert shown(heat_map).width == app.SHOWN_SIDE


def test_no_picture_gives_a_hint(catalog):
    status, *rest = app.inspect(catalog, LABEL, None)
    assert app.HINT in status
    assert [shown(part) if isinstance(part, dict) else part for part in rest] == ["", None, "", None]


def test_a_corrupt_file_is_a_message_not_a_trace(catalog, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    status, *rest = app.inspect(catalog, LABEL, str(tmp_path / "broken.png"))
    assert "Not inspected" in status and "broken.png" in status
    assert str(tmp_path) not in status
    assert rest[0::2] == ["", ""] and [shown(update) for update in rest[1::2]] == [None, None]


@pytest.mark.parametrize("label", ["toy / lid", None])
def test_an_unknown_category_is_a_message(catalog, picture, label):
    status = app.inspect(catalog, label, picture)[0]
    assert "Not inspected" in status and "choose one of" in status


def test_a_method_without_a_model_says_so(model_folder, picture):
    catalog = Catalog.from_folder(model_folder / "simplenet-toy-widget")
    status, simplenet, simplenet_map, glass, glass_map = app.inspect(catalog, LABEL, picture)
    assert "Only one method" in status and "verdict" in simplenet and shown(simplenet_map)
    assert "GLASS has no model for this category" in glass and shown(glass_map) is None


def test_a_model_that_does_not_load_says_why(model_folder, picture):
    (model_folder / "glass-toy-widget" / "model.safetensors").write_bytes(b"<b>")
    glass = app.inspect(Catalog.from_folder(model_folder), LABEL, picture)[3]
    assert "GLASS could not be loaded" in glass and "truncated" in glass


def test_without_calibration_there_is_no_verdict(make_detector, tmp_path, picture):
    make_detector(GLASS, calibrated=False).save_pretrained(tmp_path / "models" / "glass-toy-widget")
    make_detector(SimpleNet).save_pretrained(tmp_path / "models" / "simplenet-toy-widget")
    catalog = Catalog.from_folder(tmp_path / "models")
    status, _, simplenet_map, glass, glass_map = app.inspect(catalog, LABEL, picture)
    assert "No comparison" in status
    assert "No verdict (not calibrated)" in glass and "threshold" not in glass
    assert shown(glass_map) is None and shown(simplenet_map) is not None


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        ((True, True), "Both methods agree: defective"),
        ((False, False), "Both methods agree: good"),
        ((False, True), "SimpleNet says good, GLASS says defective"),
    ],
)
def test_the_status_says_whether_they_agree(verdicts, words):
    assert words in app._agreement(dict(zip(("SimpleNet", "GLASS"), verdicts, strict=True)))


@pytest.mark.parametrize(("p", "percent"), [(1.0, "100 %"), (0.0303, "3 %"), (0.004, "0.4 %")])
def test_p_values_in_words(p, percent):
    assert percent in app._p_value(p)


HOSTILE = "<img src=x onerror=alert(1)>"


def test_names_from_outside_are_escaped(catalog, tmp_path):
    (tmp_path / f"{HOSTILE}.png").write_bytes(b"no picture")
    for category, path in ((LABEL, str(tmp_path / f"{HOSTILE}.png")), (HOSTILE, None)):
        assert HOSTILE not in app.inspect(catalog, category, path)[0]
    assert "&lt;img" in app.inspect(catalog, LABEL, str(tmp_path / f"{HOSTILE}.png"))[0]


def test_hostile_categories_and_problems_are_escaped(model_folder, picture):
    config = model_folder / "glass-toy-widget" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"category": HOSTILE}))
    damaged = model_folder / "simplenet-toy-widget" / "config.json"
    damaged.write_text(json.dumps({"method": HOSTILE}))
    catalog = Catalog.from_folder(model_folder)
    assert not any(
        HOSTILE in part for part in app.inspect(catalog, f"toy / {HOSTILE}", picture) if isinstance(part, str)
    )
    *_, problems = app.arrive(catalog)
    assert HOSTILE not in problems and "&lt;img" in problems
    (config.parent / "model.safetensors").write_bytes(b"")
    assert HOSTILE not in app.inspect(catalog, f"toy / {HOSTILE}", picture)[0]


# ---------------------------------------------------------------- the page


def test_the_page_says_how_to_train_on_own_parts(catalog):
    assert "training/train.py --data-root my_good_pictures" in text_of(app.build_demo(catalog))
    command = next(line for line in app.OWN_PARTS.splitlines() if "train.py" in line)
    assert TrainConfig.from_command_line(command.split("train.py")[1].split()).categories == ["widget"]


def test_the_page_offers_the_categories_and_their_examples(catalog, picture, tmp_path):
    for category in ("widget", "lid"):
        folder = tmp_path / "examples" / "toy" / category
        folder.mkdir(parents=True)
        shutil.copy(picture, folder / "small_crack.png")
    examples = app.find_examples(tmp_path / "examples", catalog)  # nobody could judge a lid
    assert examples == [[str(tmp_path / "examples/toy/widget/small_crack.png"), LABEL, "small crack"]]
    page = text_of(app.build_demo(catalog, examples))
    assert LABEL in page and "small_crack.png" in page


def test_every_bundled_category_has_examples():
    catalog = Catalog.bundled()
    shown = {label for _, label, _ in app.find_examples(app.EXAMPLES, catalog)}
    assert shown == set(catalog.categories())


def test_what_was_trained_here_appears_beside_the_bundle(model_folder, tmp_path, monkeypatch, backbone_weights):
    monkeypatch.setattr(sys, "argv", ["app.py", "--backbone-weights", str(backbone_weights)])
    monkeypatch.setattr(app, "OWN_MODELS", tmp_path / "runs")
    bundled = app.open_catalog(app.read_arguments()).categories()
    assert bundled == Catalog.bundled().categories()
    shutil.copytree(model_folder, tmp_path / "runs")
    catalog = app.open_catalog(app.read_arguments())
    assert catalog.categories() == [*bundled, LABEL]
    assert len(catalog.load(LABEL)) == len(catalog.load(bundled[0])) == 2  # each on its own backbone
    assert catalog.problems == {}


def test_the_page_names_models_that_cannot_be_used(model_folder):
    (model_folder / "glass-toy-widget" / "config.json").unlink()
    page = text_of(app.build_demo(Catalog.from_folder(model_folder)))
    assert "Models that cannot be used (1)" in page and "config.json is missing" in page


def test_what_else_lies_in_runs_does_not_keep_the_bundle_from_showing(tmp_path, monkeypatch):
    """A distilled backbone and a damaged model once kept the demo from starting."""
    monkeypatch.setattr(sys, "argv", ["app.py"])
    monkeypatch.setattr(app, "OWN_MODELS", tmp_path / "runs")
    (tmp_path / "runs" / "distill").mkdir(parents=True)
    (tmp_path / "runs" / "distill" / "compactnet.safetensors").write_bytes(b"")
    assert app.open_catalog(app.read_arguments()).problems == {}
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "config.json").write_text("{")
    catalog = app.open_catalog(app.read_arguments())
    assert catalog.categories() == Catalog.bundled().categories()
    (notice,) = catalog.notices
    assert "holds no usable model folder" in notice and "config.json is damaged" in notice
    assert "config.json is damaged" in text_of(app.build_demo(catalog))


@pytest.mark.parametrize("arguments", [["--models", "nowhere"], ["--examples", "nowhere"]])
def test_a_wrong_command_line_ends_with_a_message(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["app.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code != 0


def test_a_space_names_its_models_in_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HUBMODELS_MODELS", str(tmp_path))
    monkeypatch.setenv("HUBMODELS_NAMESPACE", "acme")
    monkeypatch.setattr(sys, "argv", ["app.py"])
    assert (app.read_arguments().models, app.read_arguments().namespace) == (str(tmp_path), "acme")
    monkeypatch.setattr(sys, "argv", ["app.py", "--namespace", "mine"])  # the command line wins
    assert (app.read_arguments().models, app.read_arguments().namespace) == (None, "mine")


def test_models_of_the_hub_a_folder_and_the_bundle_are_offered_together(
    hub, make_detector, model_folder, monkeypatch, backbone_weights
):
    make_detector(GLASS, category="lid").push_to_hub("acme/glass-toy-lid")
    arguments = ["--models", str(model_folder), "--namespace", "acme", "--backbone-weights", str(backbone_weights)]
    monkeypatch.setattr(sys, "argv", ["app.py", *arguments])
    catalog = app.open_catalog(app.read_arguments())
    assert catalog.categories() == [*Catalog.bundled().categories(), "toy / lid", LABEL]
    assert [type(detector) for detector in catalog.load("toy / lid")] == [GLASS]


def test_a_hub_that_is_down_leaves_the_bundle_and_is_told(hub, monkeypatch):
    hub.stop()
    monkeypatch.setattr(sys, "argv", ["app.py", "--namespace", "acme"])
    catalog = app.open_catalog(app.read_arguments())
    assert catalog.categories() == Catalog.bundled().categories()
    assert "could not be listed" in text_of(app.build_demo(catalog))


def test_a_visitor_finds_what_was_published_since_the_start(hub, make_detector, monkeypatch):
    make_detector(GLASS).push_to_hub("acme/glass-toy-widget")
    catalog = Catalog.from_namespace("acme")
    make_detector(GLASS, category="lid").push_to_hub("acme/glass-toy-lid")
    assert app.arrive(catalog)[0]["choices"] == [LABEL]  # listed a moment ago
    monkeypatch.setattr(app, "LISTED_FOR", 0)
    assert app.arrive(catalog)[0]["choices"] == ["toy / lid", LABEL]
    hub.stop()
    choices, notices, *_ = app.arrive(catalog)
    assert choices["choices"] == ["toy / lid", LABEL]
    assert notices["visible"] and "could not be listed" in notices["value"]


# ---------------------------------------------------------------- the running app


@contextmanager
def running(folder, *arguments):
    """Address of the app, started as a user starts it from an empty folder, without network."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, environment = folder / "log.txt", os.environ | {"HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder / "up")}
    command = [sys.executable, str(ROOT / "app.py"), *map(str, arguments), "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
        try:
            yield wait_for(f"http://127.0.0.1:{port}", process, log)
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def served(saved_models, backbone_weights, tmp_path_factory):
    """The app with the toy models."""
    arguments = ("--models", saved_models, "--backbone-weights", backbone_weights)
    with running(tmp_path_factory.mktemp("app"), *arguments) as url:
        yield url


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """The app as `make demo` starts it on a fresh machine."""
    with running(tmp_path_factory.mktemp("bundled")) as url:
        yield url


@contextmanager
def visit(url):
    """A page of a real browser; ends with the check that nothing went wrong in it and nobody else was asked."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"no browser at {CHROMIUM}")
    errors, foreign = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda message: message.type == "error" and errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request", lambda request: request.url.startswith((url, "data:", "blob:")) or foreign.append(request.url)
        )
        page.goto(url)
        yield page
        browser.close()
    assert (errors, foreign) == ([], [])


def call(url, *data):
    """What the page's API answers."""
    body, headers = json.dumps({"data": data}).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/gradio_api/call/inspect", body, headers)
    event = json.load(urllib.request.urlopen(request, timeout=60))["event_id"]
    return urllib.request.urlopen(f"{url}/gradio_api/call/inspect/{event}", timeout=60).read().decode()


def test_only_uploads_are_read(monkeypatch, tmp_path, picture):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    inside = str(tmp_path / "uploads" / "0a1b" / "part.png")
    assert app.uploaded_path({"path": inside, "orig_name": "part.png"}) == inside
    assert app.uploaded_path({"path": picture}) is None
    assert app.uploaded_path({"path": f"{tmp_path}/uploads/../part.png"}) is None
    assert app.uploaded_path({"path": None, "url": "http://127.0.0.1/"}) is None
    assert app.uploaded_path(None) is None


@pytest.mark.parametrize("mark", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_files_of_the_server_are_out_of_reach(served, picture, mark):
    """Gradio 6.31 lets any path pass that the caller does not mark as a file."""
    answer = call(served, LABEL, {"path": picture, **mark})
    assert "verdict" not in answer and "Not inspected" not in answer
    assert app.HINT in answer or "event: error" in answer


@pytest.mark.browser
def test_a_visitor_gets_two_verdicts(served, picture, tmp_path):
    with visit(served) as page:
        page.get_by_text(app.HINT).wait_for()
        page.set_input_files("input[type=file]", picture)
        page.locator(".card .verdict").nth(1).wait_for()
        assert page.locator(".card h3").all_text_contents() == ["SimpleNet", "GLASS"]
        page.get_by_text("heat map").nth(1).wait_for()
        page.get_by_label("Remove Image").click()
        page.get_by_text(app.HINT).wait_for()
        assert page.locator(".card .verdict").count() == 0
        (tmp_path / "broken.png").write_bytes(b"no picture")
        page.set_input_files("input[type=file]", tmp_path / "broken.png")
        page.get_by_text("'broken.png' is not a picture").wait_for()


@pytest.mark.browser
def test_a_newcomer_clicks_an_example_and_both_methods_see_the_defect(bundled):
    """A fresh machine without network: the example brings its category along, and no file is uploaded."""
    with visit(bundled) as page:
        page.locator("tr", has_text="hole").click()
        page.locator(".card .verdict").nth(1).wait_for()
        assert page.locator(".card .verdict").all_text_contents() == ["Defective", "Defective"]
        assert page.get_by_label("Category").input_value() == "parts / cloth"
        assert page.evaluate("document.querySelector('.card').getBoundingClientRect().top >= 0")  # it came into view
        page.locator("tr", has_text="parts / cloth").filter(has_text="good").click()
        page.get_by_text("Both methods agree: good").wait_for()
