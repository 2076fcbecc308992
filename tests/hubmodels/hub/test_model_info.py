"""What is known of a model without loading it; nothing that somebody wrote next to the weights can break it."""

import json
import time
from dataclasses import replace

import pytest
from hub_server import Fault, answer, delay
from huggingface_hub import constants, metadata_load
from small_report import METRICS, describe, report

from hubmodels import GLASS
from hubmodels.hub import model_info
from hubmodels.hub.catalog import CACHE, HUB, Catalog, ModelEntry
from hubmodels.hub.model_info import LARGEST_TEXT, ModelInfo, read_model_info
from training.publishing.card import TEMPLATES, write_card
from training.publishing.publish import stage

NAME = "simplenet-toy-widget"
REPO = f"acme/{NAME}"
TEST_COUNTS = {"good": 4, "bent": 2, "torn": 4}


@pytest.fixture(autouse=True)
def nothing_kept():
    model_info._download.cache_clear()


@pytest.fixture
def folder(model_folder):
    """A trained model's folder: weights, report and card."""
    describe(model_folder / NAME)
    write_card(model_folder / NAME)
    return model_folder / NAME


@pytest.fixture
def published(hub, folder, tmp_path):
    """The same on the Hub, as it was listed."""
    (tmp_path / "staged").mkdir()
    staged = stage(folder, REPO, tmp_path / "staged")
    hub.create(REPO, {path.name: path.read_bytes() for path in staged.iterdir() if path.is_file()})
    return entry_of(hub)


def entry_of(hub):
    hub.requests.clear()
    return ModelEntry("simplenet", "toy", "widget", REPO, HUB, hub.commits(REPO)[0].oid)


def in_folder(folder):
    return read_model_info(ModelEntry("simplenet", "toy", "widget", str(folder)))


# ---------------------------------------------------------------- on this machine


@pytest.mark.parametrize("entry", Catalog.bundled().entries, ids=lambda entry: entry.name)
def test_a_bundled_model_has_the_licence_of_its_card_and_the_numbers_of_its_report(entry):
    card, known = metadata_load(TEMPLATES / entry.name / "README.md"), read_model_info(entry)
    assert known.licence == card["license"] == "apache-2.0"
    shown = {m["name"]: m["value"] for m in card["model-index"][0]["results"][0]["metrics"]}
    assert {model_info.METRICS[key].name: value for key, value in known.metrics.items()} == shown
    assert (known.protocol, known.seed, known.calibrated_on, known.card) == ("last", 0, 100, None)
    assert known.smallest_defect == 8  # a patch of 256 pixels that stand for 256
    assert sum(known.test_counts.values()) == 60 and 0.5e6 < known.size_bytes < 2e6


def test_a_folder_tells_what_training_wrote(folder):
    size = (folder / "model.safetensors").stat().st_size
    reported = {
        "protocol": "last",
        "seed": 7,
        "test_counts": TEST_COUNTS,
        "calibrated_on": 4,
        "backbone": "resnet18.tv_in1k",
    }
    licence = metadata_load(folder / "README.md")["license_name"]
    assert in_folder(folder) == ModelInfo(METRICS, **reported, licence=licence, size_bytes=size)


def test_a_licence_that_the_hub_knows_needs_no_other_name(folder):
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\n---\n")
    assert in_folder(folder).licence == "cc-by-nc-sa-4.0"


def test_without_a_report_the_card_tells_the_numbers(folder):
    (folder / "metrics.json").unlink()
    known = in_folder(folder)
    assert (known.metrics, known.protocol, known.seed) == (METRICS, "last", 7)
    assert known.test_counts is None


def test_a_measured_nothing_is_not_replaced_by_what_a_card_tells(folder):
    describe(folder, metrics={})
    assert in_folder(folder).metrics == {}


def test_weights_alone_tell_their_size(folder):
    size = (folder / "model.safetensors").stat().st_size
    for name in ("metrics.json", "README.md"):
        (folder / name).unlink()
    assert in_folder(folder) == ModelInfo(size_bytes=size)


def test_a_folder_that_is_gone_is_not_known(tmp_path):
    assert in_folder(tmp_path / "gone") == ModelInfo()


def test_a_model_that_is_trained_again_is_read_again(folder):
    in_folder(folder)
    describe(folder, seed=8)
    assert in_folder(folder).seed == 8


@pytest.mark.parametrize("value", ["0.9", True, None, [], {}, float("nan"), float("inf"), -0.1, 1.5, 10**400])
def test_a_metric_that_is_no_fraction_is_left_out(folder, value):
    (folder / "README.md").unlink()
    describe(folder, metrics=METRICS | {"aupro": value})
    known = in_folder(folder).metrics
    assert "aupro" not in known and known["image_auroc"] == METRICS["image_auroc"]


def test_metrics_of_other_names_are_left_out(folder):
    describe(folder, metrics={"<script>": 0.5, "image_auroc": 1})
    assert in_folder(folder).metrics == {"image_auroc": 1.0}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"protocol": ["last"]}, "protocol"),
        ({"protocol": " "}, "protocol"),
        ({"seed": True}, "seed"),
        ({"seed": -1}, "seed"),
        ({"data": "none"}, "test_counts"),
        ({"input": {"smallest_defect": "8"}}, "smallest_defect"),
        ({"data": {"counts": {"test": ["good"]}}}, "test_counts"),
        ({"data": {"counts": {"test": {"good": "4", "bent": -1}}}}, "test_counts"),
        ({"calibration": {"pictures": 4.5}}, "calibrated_on"),
        ({"backbone": {"name": 7}}, "backbone"),
    ],
)
def test_what_is_not_what_it_should_be_is_not_known(folder, changes, name):
    describe(folder, **changes)
    known = in_folder(folder)
    assert getattr(known, name) is None and known.metrics == METRICS


@pytest.mark.parametrize("text", ["{", "[]", "null", "[" * 100_000, "\x00", "9" * 5000, " " * LARGEST_TEXT + "{}"])
def test_a_report_that_cannot_be_read_leaves_the_card(folder, text):
    (folder / "metrics.json").write_text(text)
    assert in_folder(folder).metrics == METRICS


def test_a_report_that_is_no_text_leaves_the_card(folder):
    (folder / "metrics.json").write_bytes(b"\xff\xfe\x00")
    assert in_folder(folder).metrics == METRICS


@pytest.mark.parametrize(
    "front_matter",
    [
        "license: [a, b]",
        "license: {a: b}",
        "- license",
        "license: 'open",
        "license: !!python/object/apply:os.system [ls]",
        "x: " + "[" * 5000,
        "model-index: 7",
        "model-index: [{results: [{metrics: [7]}]}]",
        "model-index: [{results: [{metrics: [{name: [AUPRO@0.3], value: 0.5}]}]}]",
        "model-index: [{results: [{metrics: [{name: AUPRO@0.3, value: '<b>'}]}]}]",
        "license: x\nfiller: " + "x" * LARGEST_TEXT,
    ],
)
def test_a_card_that_cannot_be_read_tells_nothing(folder, front_matter):
    (folder / "metrics.json").unlink()
    (folder / "README.md").write_text(f"---\n{front_matter}\n---\n")
    known = in_folder(folder)
    assert (known.licence, known.metrics) == (None, {}) and known.size_bytes > 0


def test_a_licence_is_kept_short(folder):
    (folder / "README.md").write_text(f"---\nlicense: {'x' * 1000}\n---\n")
    assert in_folder(folder).licence == "x" * model_info.LONGEST_WORD


# ---------------------------------------------------------------- on the Hub


def test_the_hub_tells_the_same_as_the_folder_and_where_the_card_is(published, folder):
    assert read_model_info(published) == replace(in_folder(folder), card=f"{constants.ENDPOINT}/{REPO}")


def test_weights_are_not_downloaded_for_their_size(hub, published):
    size = read_model_info(published).size_bytes
    asked = [request for request in hub.requests if "model.safetensors" in request.path]
    assert [request.method for request in asked] == ["HEAD"]
    assert size == len(hub.files(REPO)["model.safetensors"])


def test_the_hub_is_asked_once(hub, published):
    first = read_model_info(published)
    hub.requests.clear()
    assert read_model_info(published) == first and hub.requests == []


def test_what_was_listed_is_told_and_not_what_came_later(hub, published):
    hub.edit(REPO, "metrics.json", json.dumps(report(seed=8)).encode())
    assert read_model_info(published).seed == 7
    assert read_model_info(entry_of(hub)).seed == 8


def test_without_a_report_on_the_hub_its_card_tells_the_numbers(hub, published):
    files = hub.files(REPO)
    hub.create(REPO, {name: files[name] for name in ("README.md", "config.json", "model.safetensors")})
    known = read_model_info(entry_of(hub))
    assert (known.metrics, known.test_counts) == (METRICS, None)


def test_a_model_that_was_only_pushed_has_a_size(hub, make_detector):
    make_detector(GLASS).push_to_hub("acme/glass-toy-widget")
    (entry,) = Catalog.from_namespace("acme").entries
    known = read_model_info(entry)
    assert (known.metrics, known.licence) == ({}, None)
    assert known.size_bytes > 0 and known.card.endswith("/acme/glass-toy-widget")


def test_a_report_that_is_too_large_is_not_downloaded(hub, published):
    hub.edit(REPO, "metrics.json", json.dumps(report(filler="x" * LARGEST_TEXT)).encode())
    known = read_model_info(entry_of(hub))
    assert known.metrics == METRICS and known.test_counts is None  # from the card
    assert {r.method for r in hub.requests if "metrics.json" in r.path} == {"HEAD"}


def test_a_hub_that_is_gone_leaves_the_cache(hub, published):
    before = read_model_info(published)
    model_info._download.cache_clear()
    hub.stop()
    assert read_model_info(published) == replace(before, size_bytes=None)  # the weights were never loaded


def test_models_of_the_cache_ask_nobody(hub, published):
    before = read_model_info(published)
    Catalog.from_namespace("acme").load("toy / widget")
    hub.requests.clear()
    assert read_model_info(replace(published, origin=CACHE)) == before
    assert hub.requests == []


@pytest.mark.parametrize("fault", [answer(503), answer(403), delay(20), None])
def test_a_hub_that_fails_costs_a_moment_and_is_asked_again(hub, published, monkeypatch, fault):
    hub.faults.append(Fault("HEAD", "resolve", 1, fault)) if fault else hub.stop()
    begun = time.perf_counter()
    with monkeypatch.context() as impatient:
        impatient.setattr(model_info, "PATIENCE", 0.3)
        assert read_model_info(published) == ModelInfo(card=f"{constants.ENDPOINT}/{REPO}")
    assert time.perf_counter() - begun < 3
    if fault is None:
        hub.start()
    assert read_model_info(published).metrics == METRICS


@pytest.mark.parametrize("source", ["<u>/x", "a/b/c", "../x", ""])
def test_an_id_that_no_repository_can_have_raises_nothing(source):
    assert read_model_info(ModelEntry("glass", "toy", "x", source, HUB, "main")).metrics == {}


def test_a_private_model_is_told_to_those_who_may_see_it(hub, published, monkeypatch):
    hub.repo(REPO).visibility = "private"
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    assert read_model_info(published).metrics == {}
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    assert read_model_info(published).metrics == METRICS
