"""The catalog finds models by what they are, and one damaged model never hides the others."""

import json
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import httpx

from hubmodels import GLASS, AnomalyDetector, ModelError, SimpleNet
from hubmodels.catalog import KEPT_DETECTORS, Catalog, ModelEntry

LABEL = "toy / widget"


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def publish(monkeypatch, *names):
    """Lets the Hub list these repositories for whoever asks; returns the questions asked."""
    asked = []

    def list_models(self, **question):
        asked.append(question)
        return (SimpleNamespace(id=name) for name in names)

    monkeypatch.setattr(HfApi, "list_models", list_models)
    return asked


# ---------------------------------------------------------------- a folder


def test_a_folder_gives_both_methods_simplenet_first(model_folder):
    catalog = Catalog.from_folder(model_folder)
    assert catalog.categories() == [LABEL]
    assert [e.method for e in catalog.entries] == ["simplenet", "glass"]
    assert [type(d) for d in catalog.load(LABEL)] == [SimpleNet, GLASS]
    assert catalog.problems == {}


def test_loaded_models_judge_as_the_saved_ones(model_folder, make_detector):
    picture = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    for detector in Catalog.from_folder(model_folder).load(LABEL):
        saved, found = make_detector(type(detector)).predict(picture), detector.predict(picture)
        assert (found.image_score, found.p_value) == (pytest.approx(saved.image_score), saved.p_value)


def test_the_config_says_what_a_model_is_not_the_folder_name(model_folder):
    (model_folder / "glass-toy-widget").rename(model_folder / "my favourite")
    change_config(model_folder / "my favourite", dataset="line-3", category="lid")
    catalog = Catalog.from_folder(model_folder)
    assert catalog.categories() == ["line-3 / lid", LABEL]
    assert [type(d) for d in catalog.load("line-3 / lid")] == [GLASS]


def test_a_single_model_folder_will_do(model_folder):
    catalog = Catalog.from_folder(model_folder / "glass-toy-widget")
    assert catalog.entries == [ModelEntry("glass", "toy", "widget", str(model_folder / "glass-toy-widget"))]


def test_other_things_in_the_folder_are_no_models(model_folder):
    (model_folder / ".unfinished").mkdir()
    (model_folder / "panels").mkdir()
    (model_folder / "summary.json").write_text("{}")
    catalog = Catalog.from_folder(model_folder)
    assert len(catalog.entries) == 2 and catalog.problems == {}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda config: config.unlink(), "config.json is missing"),
        (lambda config: config.write_text("{"), "damaged"),
        (lambda config: config.write_bytes(b"\xff\xfe\x00"), "damaged"),
        (lambda config: config.write_text("[]"), "damaged"),
        (lambda config: change_config(config.parent, method="patchcore"), "patchcore"),
        (lambda config: change_config(config.parent, category=None), "category"),
        (lambda config: change_config(config.parent, dataset=7), "dataset"),
        (lambda config: change_config(config.parent, method="simplenet"), "same"),
    ],
)
def test_a_damaged_model_is_named_and_hides_no_other(model_folder, damage, reason):
    damage(model_folder / "glass-toy-widget" / "config.json")
    catalog = Catalog.from_folder(model_folder)
    assert [type(d) for d in catalog.load(LABEL)] == [SimpleNet]
    (source,) = catalog.problems
    # of two folders with the same identity the first is used
    assert source.endswith("simplenet-toy-widget" if reason == "same" else "glass-toy-widget")
    assert reason in catalog.problems[source]


def test_weights_that_do_not_load_leave_the_other_method(model_folder):
    weights = model_folder / "glass-toy-widget" / "model.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:100])
    catalog = Catalog.from_folder(model_folder)
    assert [type(d) for d in catalog.load(LABEL)] == [SimpleNet]
    assert "truncated" in catalog.problems[str(weights.parent)]
    weights.write_bytes(intact)  # repaired: the failure is not remembered
    assert [type(d) for d in catalog.load(LABEL)] == [SimpleNet, GLASS]
    assert catalog.problems == {}


def test_a_category_that_does_not_load_leaves_the_other_categories(model_folder):
    for method in ("simplenet", "glass"):
        broken = shutil.copytree(model_folder / f"{method}-toy-widget", model_folder / f"{method}-toy-lid")
        change_config(broken, category="lid", backbone_sha256="0" * 64)
    catalog = Catalog.from_folder(model_folder, backbone_weights=model_folder / "gone.safetensors")
    with pytest.raises(ModelError, match=r"toy / lid.*gone\.safetensors"):
        catalog.load("toy / lid")
    assert len(catalog.load(LABEL)) == 2


def test_an_unknown_category_names_those_there_are(model_folder):
    with pytest.raises(ModelError, match=f"'toy / lid'.*{LABEL}"):
        Catalog.from_folder(model_folder).load("toy / lid")


def test_catalogs_add_up_and_the_first_wins(model_folder, tmp_path):
    other = shutil.copytree(model_folder, tmp_path / "other")
    change_config(other / "simplenet-toy-widget", category="lid")
    both = Catalog.from_folder(model_folder) | Catalog.from_folder(other)
    assert both.categories() == ["toy / lid", LABEL]
    assert {e.source for e in both.entries if e.label == LABEL} == {str(p) for p in model_folder.iterdir()}
    assert "is the same glass-toy-widget, and is used" in both.problems[str(other / "glass-toy-widget")]
    assert [type(d) for d in both.load("toy / lid")] == [SimpleNet]


def test_a_missing_folder_says_what_to_give(tmp_path):
    with pytest.raises(ModelError, match="is not a folder: give"):
        Catalog.from_folder(tmp_path / "nothing")


def test_a_folder_without_models_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match="train one"):
        Catalog.from_folder(tmp_path)


def test_a_folder_of_damaged_models_says_why(tmp_path):
    (tmp_path / "glass-toy-widget").mkdir()
    (tmp_path / "glass-toy-widget" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"(?s)train one.*glass-toy-widget.*damaged"):
        Catalog.from_folder(tmp_path)


# ---------------------------------------------------------------- loading


def test_models_load_once_and_only_when_asked_for(model_folder, monkeypatch):
    loaded = count_loads(monkeypatch)
    catalog = Catalog.from_folder(model_folder)
    assert loaded == []
    first, second = catalog.load(LABEL), catalog.load(LABEL)
    assert len(loaded) == 2 and all(a is b for a, b in zip(first, second, strict=True))


def test_only_a_few_models_stay_in_memory(monkeypatch):
    loaded = count_loads(monkeypatch, answer="detector")
    entries = [ModelEntry("glass", "toy", f"part{i}", f"folder{i}") for i in range(KEPT_DETECTORS + 1)]
    catalog = Catalog(entries, {})
    for entry in [*entries, entries[-1], entries[0]]:
        catalog.load(entry.label)
    assert loaded == [*(e.source for e in entries), "folder0"]


def test_visitors_at_the_same_time_load_a_model_once(model_folder, monkeypatch):
    loaded = count_loads(monkeypatch)
    catalog = Catalog.from_folder(model_folder)
    threads = [threading.Thread(target=catalog.load, args=[LABEL]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 2


def count_loads(monkeypatch, answer=None):
    """The sources given to from_pretrained from now on."""
    loaded, original = [], AnomalyDetector.from_pretrained.__func__

    def from_pretrained(cls, source, **options):
        loaded.append(source)
        return answer or original(cls, source, **options)

    monkeypatch.setattr(AnomalyDetector, "from_pretrained", classmethod(from_pretrained))
    return loaded


# ---------------------------------------------------------------- a namespace


def test_a_namespace_lists_the_repositories_of_this_library(monkeypatch):
    asked = publish(
        monkeypatch, "acme/simplenet-mvtec-metal-nut", "acme/glass-mvtec-bottle", "acme/glass-mvtec-metal-nut"
    )
    catalog = Catalog.from_namespace("acme")
    assert asked == [{"author": "acme", "filter": "hubmodels"}]
    assert catalog.categories() == ["mvtec / bottle", "mvtec / metal-nut"]
    assert [e.source for e in catalog.entries if e.category == "metal-nut"] == [
        "acme/simplenet-mvtec-metal-nut",
        "acme/glass-mvtec-metal-nut",
    ]


def test_a_repository_of_another_name_is_a_problem(monkeypatch):
    publish(monkeypatch, "acme/glass-mvtec-bottle", "acme/demo", "acme/padim-mvtec-bottle")
    catalog = Catalog.from_namespace("acme")
    assert len(catalog.entries) == 1
    assert set(catalog.problems) == {"acme/demo", "acme/padim-mvtec-bottle"}


def test_a_namespace_without_models_says_so(monkeypatch):
    publish(monkeypatch)
    with pytest.raises(ModelError, match="'acme' has no models"):
        Catalog.from_namespace("acme")


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), ConnectionError("gone")])
def test_an_unreachable_hub_says_what_to_do(monkeypatch, error):
    def list_models(self, **question):
        raise error

    monkeypatch.setattr(HfApi, "list_models", list_models)
    with pytest.raises(ModelError, match=r"could not be listed .*check the name and the connection"):
        Catalog.from_namespace("acme")


def test_offline_the_real_client_is_understood(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="OfflineMode"):
        Catalog.from_namespace("acme")
