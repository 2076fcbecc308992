"""The command line of the demo: which models are offered, and what keeps it from starting."""

import json
import shutil
import socket
import sys
from functools import partial

import pytest
from small_pictures import add_pictures

import app
from hubmodels import GLASS
from hubmodels.hub.catalog import Catalog, list_bundle, list_folder
from training.config import TrainConfig
from webapp import page
from webapp.page import arrive
from webapp.texts import LANGUAGES, TEXTS

LABEL = "toy / widget"


@pytest.fixture
def catalog(model_folder):
    return Catalog.from_folder(model_folder)


def labels(update):
    return [label for _, label in update["choices"]]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_commands_for_own_parts_are_real(language):
    command = next(line for line in TEXTS["own_parts_how"][language].splitlines() if "train.py" in line)
    assert TrainConfig.from_command_line(command.split("train.py")[1].split()).categories == ["widget"]


def test_what_was_trained_here_appears_beside_the_bundle(model_folder, tmp_path, monkeypatch, backbone_weights):
    monkeypatch.setattr(sys, "argv", ["app.py", "--backbone-weights", str(backbone_weights)])
    monkeypatch.setattr(app, "OWN_MODELS", tmp_path / "runs")
    bundled = app.open_catalog(app.read_arguments()).categories()
    assert bundled == Catalog.bundled().categories()
    shutil.copytree(model_folder, tmp_path / "runs")
    catalog = app.open_catalog(app.read_arguments())
    assert catalog.categories() == [*bundled, LABEL]
    assert (len(catalog.load(LABEL)), len(catalog.load(bundled[0]))) == (2, 3)  # each on its own backbone
    assert catalog.problems == {}


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
    assert "contains no usable model folder" in notice and "config.json is damaged" in notice
    assert "config.json is damaged" in arrive(catalog, None, None, "en")[-1]["value"]


@pytest.mark.parametrize(
    "arguments", [["--models", "nowhere"], ["--examples", "nowhere"], ["--test-folder", "nowhere"]]
)
def test_a_wrong_command_line_ends_with_a_message(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["app.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code != 0


def test_a_test_folder_without_labelled_pictures_is_refused(monkeypatch, tmp_path, capsys):
    """It was ignored without a word."""
    add_pictures(tmp_path, "000.png", "001.png")
    monkeypatch.setattr(sys, "argv", ["app.py", "--test-folder", str(tmp_path)])
    with pytest.raises(SystemExit):
        app.read_arguments()
    assert "contains no labelled pictures: expected CATEGORY/test/good" in capsys.readouterr().err


def test_a_test_folder_with_other_names(monkeypatch, tmp_path, capsys):
    add_pictures(tmp_path / "test" / "fine", "000.png")
    add_pictures(tmp_path / "test" / "scratch", "000.png")
    add_pictures(tmp_path / "old", "000.png")
    monkeypatch.setattr(sys, "argv", ["app.py", "--test-folder", str(tmp_path)])
    with pytest.raises(SystemExit):
        app.read_arguments()
    assert "can be read in two ways" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["app.py", "--test-folder", str(tmp_path), "--normal-folder", "fine"])
    app.read_arguments()
    assert f"{tmp_path.name}: not used: 1 file in old (only train, test" in capsys.readouterr().err


def test_a_port_in_use_is_named_and_so_is_a_folder_without_models(monkeypatch, tmp_path, capsys):
    for process_wide in ("limit_waiting", "return_freed_memory", "refuse_web_addresses", "keep_deleting"):
        monkeypatch.setattr(app, process_wide, lambda *_: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        monkeypatch.setattr(sys, "argv", ["app.py", "--port", port, "--models", str(tmp_path)])
        with pytest.raises(SystemExit, match=f"cannot start on port {port}: stop the other program"):
            app.main()
    assert f"{tmp_path} contains no model folder yet" in capsys.readouterr().err


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
    assert list(catalog.load("toy / lid")) == ["glass"]


def test_a_hub_that_is_down_leaves_the_bundle_and_is_told(hub, monkeypatch, tmp_path):
    hub.stop()
    monkeypatch.chdir(tmp_path)  # the clone can have own parts in `runs`
    monkeypatch.setattr(sys, "argv", ["app.py", "--namespace", "acme"])
    catalog = app.open_catalog(app.read_arguments())
    assert catalog.categories() == Catalog.bundled().categories()
    assert "could not be listed" in arrive(catalog, None, None, "en")[-1]["value"]


def test_a_visitor_finds_what_was_published_since_the_start(hub, make_detector, monkeypatch):
    make_detector(GLASS).push_to_hub("acme/glass-toy-widget")
    catalog = Catalog.from_namespace("acme")
    make_detector(GLASS, category="lid").push_to_hub("acme/glass-toy-lid")
    assert labels(arrive(catalog, None, None, "en")[0]) == [LABEL]  # listed a moment ago
    monkeypatch.setattr(page, "LISTED_FOR", 0)
    assert labels(arrive(catalog, None, None, "en")[0]) == ["toy / lid", LABEL]
    hub.stop()
    categories, _, notices = arrive(catalog, None, None, "en")
    assert labels(categories) == ["toy / lid", LABEL]
    assert notices["visible"] and "could not be listed" in notices["value"]


def test_the_linked_category_is_chosen_before_the_remembered_one(catalog):
    both = catalog | Catalog.bundled()
    assert arrive(both, "parts/pill", LABEL, "en")[1] == "parts / pill"
    _, unknown, notices = arrive(both, "<b>no such", LABEL, "de")
    assert unknown is None and "keine Kategorie &lt;b&gt;no such" in notices["value"]
    assert arrive(both, None, "gone since", "en")[1] is None


def test_notices_name_no_folder_of_the_server(tmp_path):
    (tmp_path / "secret place").mkdir()
    catalog = Catalog(partial(list_folder, tmp_path / "secret place"), list_bundle)
    notices = arrive(catalog, None, None, "en")[-1]
    assert "contains no usable model folder" in notices["value"] and str(tmp_path) not in notices["value"]


def test_a_part_that_was_trained_meanwhile_is_offered_to_the_next_visitor(saved_models, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LISTED_HERE_FOR", 0)
    monkeypatch.setattr(sys, "argv", ["app.py", "--models", str(tmp_path)])
    catalog = app.open_catalog(app.read_arguments())
    assert not catalog.notices  # an empty folder is no fault
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    assert arrive(catalog, None, None, "en")[-1]["visible"]
    shutil.copytree(saved_models / "simplenet-toy-widget", tmp_path / "simplenet-toy-widget")
    categories, _, notices = arrive(catalog, None, None, "en")  # not only after ten minutes
    assert LABEL in labels(categories) and not notices["visible"]
    shutil.copytree(saved_models / "simplenet-toy-widget", tmp_path / "simplenet-toy-lid")
    config = tmp_path / "simplenet-toy-lid" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"category": "lid"}))
    assert "toy / lid" in labels(arrive(catalog, None, None, "en")[0])
