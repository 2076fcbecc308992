"""The catalog finds models by what they are, and one damaged model never hides the others."""

import shutil
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hub_server import Fault, answer, delay
from huggingface_hub import HfApi, constants
from read_only import obeyed
from small_models import change_config, push

from hubmodels import GLASS, AnomalyDetector, ModelError, SimpleNet
from hubmodels.hub.catalog import KEPT_CATEGORIES, Catalog, Listing, ModelEntry, list_namespace
from hubmodels.hub.model_info import read_model_info
from hubmodels.methods import METHODS, Method

LABEL = "toy / widget"


# ---------------------------------------------------------------- a folder


def test_a_folder_gives_both_methods_simplenet_first(model_folder):
    catalog = Catalog.from_folder(model_folder)
    assert catalog.categories() == [LABEL]
    assert [e.method for e in catalog.entries] == ["simplenet", "glass"]
    assert [type(d) for d in catalog.load(LABEL).values()] == [SimpleNet, GLASS]
    assert catalog.problems == {}


def test_loaded_models_judge_as_the_saved_ones(model_folder, make_detector):
    picture = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    for detector in Catalog.from_folder(model_folder).load(LABEL).values():
        saved, found = make_detector(type(detector)).predict(picture), detector.predict(picture)
        assert (found.image_score, found.p_value) == (pytest.approx(saved.image_score), saved.p_value)


def test_the_config_says_what_a_model_is_not_the_folder_name(model_folder):
    (model_folder / "glass-toy-widget").rename(model_folder / "my favourite")
    change_config(model_folder / "my favourite", dataset="line-3", category="lid")
    catalog = Catalog.from_folder(model_folder)
    assert catalog.categories() == ["line-3 / lid", LABEL]
    assert [type(d) for d in catalog.load("line-3 / lid").values()] == [GLASS]


def test_a_title_is_what_a_user_chooses(model_folder):
    for folder in model_folder.iterdir():
        (folder / "title.txt").write_text("  盖子 /\n 2\n", encoding="utf-8")
    catalog = Catalog.from_folder(model_folder)
    assert catalog.categories() == ["toy / 盖子 / 2"] and list(catalog.load("toy / 盖子 / 2")) == [
        "simplenet",
        "glass",
    ]
    assert [entry.name for entry in catalog.entries] == ["simplenet-toy-widget", "glass-toy-widget"]


def test_of_two_parts_with_one_title_both_are_listed(model_folder):
    shutil.copytree(model_folder / "glass-toy-widget", model_folder / "glass-toy-wodget")
    change_config(model_folder / "glass-toy-wodget", category="wodget")
    for name in ("glass-toy-widget", "glass-toy-wodget"):
        (model_folder / name / "title.txt").write_text("Lid")
    catalog = Catalog.from_folder(model_folder)
    assert {"toy / Lid", "toy / wodget"} <= set(catalog.categories())
    (problem,) = catalog.problems.values()
    assert problem == "another part has the title Lid: it is shown as wodget"


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe\xff"])
def test_without_a_readable_title_the_category_is_chosen(model_folder, content):
    for folder in model_folder.iterdir():
        (folder / "title.txt").write_bytes(content)
    assert Catalog.from_folder(model_folder).categories() == [LABEL]


def test_a_model_that_was_made_again_is_loaded_again(model_folder, make_detector):
    catalog = Catalog.from_folder(model_folder)
    before = catalog.load("toy / widget")["glass"]
    other = make_detector(GLASS)
    other.calibration.image_scores += 1
    other.save_pretrained(model_folder / "glass-toy-widget")
    assert catalog.load("toy / widget")["glass"] is before  # until the folder is listed again
    catalog.refresh()
    after = catalog.load("toy / widget")
    assert torch.equal(after["glass"].calibration.image_scores, before.calibration.image_scores + 1)
    assert after["simplenet"] is catalog.load("toy / widget")["simplenet"]


def test_a_single_model_folder_will_do(model_folder):
    catalog = Catalog.from_folder(model_folder / "glass-toy-widget")
    [entry] = catalog.entries
    folder = model_folder / "glass-toy-widget"
    assert entry == ModelEntry("glass", "toy", "widget", str(folder), written=entry.written)
    assert entry.written == (folder / "model.safetensors").stat().st_mtime_ns


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
        (lambda config: config.write_text("[" * 100_000), "damaged"),
        (lambda config: change_config(config.parent, method=["glass"]), "its method is"),
        (lambda config: change_config(config.parent, method="padim"), "padim"),
        (lambda config: change_config(config.parent, category=None), "category"),
        (lambda config: change_config(config.parent, dataset=7), "dataset"),
        (lambda config: change_config(config.parent, method="simplenet"), "same"),
    ],
)
def test_a_damaged_model_is_named_and_hides_no_other(model_folder, damage, reason):
    damage(model_folder / "glass-toy-widget" / "config.json")
    catalog = Catalog.from_folder(model_folder)
    assert [type(d) for d in catalog.load(LABEL).values()] == [SimpleNet]
    (source,) = catalog.problems
    # of two folders with the same identity the first is used
    assert source.endswith("simplenet-toy-widget" if reason == "same" else "glass-toy-widget")
    assert reason in catalog.problems[source]


def test_weights_that_do_not_load_leave_the_other_method(model_folder):
    weights = model_folder / "glass-toy-widget" / "model.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:100])
    catalog = Catalog.from_folder(model_folder)
    assert [type(d) for d in catalog.load(LABEL).values()] == [SimpleNet]
    assert "truncated" in catalog.problems[str(weights.parent)]
    weights.write_bytes(intact)  # repaired: the failure is not remembered
    assert [type(d) for d in catalog.load(LABEL).values()] == [SimpleNet, GLASS]
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
    assert both.problems == {}  # the other's twin is hidden, as by the first place of a search path
    assert [type(d) for d in both.load("toy / lid").values()] == [SimpleNet]


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
    loaded = count_loads(monkeypatch, answer=lambda source: SimpleNamespace(dataset="toy", category=f"part{source}"))
    entries = [ModelEntry("glass", "toy", f"part{i}", str(i)) for i in range(KEPT_CATEGORIES * len(METHODS) + 1)]
    catalog = Catalog(lambda: Listing(entries))
    for entry in [*entries, entries[-1], entries[0]]:
        catalog.load(entry.label)
    assert loaded == [*(e.source for e in entries), "0"]


def test_a_category_of_many_methods_stays_in_memory(monkeypatch):
    """With nine methods and room for eight detectors, each picture loaded all of them again."""
    for i in range(9):
        monkeypatch.setitem(METHODS, f"method{i}", Method(AnomalyDetector))
    loaded = count_loads(monkeypatch, answer=lambda source: SimpleNamespace(dataset="toy", category="widget"))
    catalog = Catalog(lambda: Listing([ModelEntry(f"method{i}", "toy", "widget", str(i)) for i in range(9)]))
    assert len(catalog.load(LABEL)) == len(catalog.load(LABEL)) == len(loaded) == 9


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
        return answer(source) if answer else original(cls, source, **options)

    monkeypatch.setattr(AnomalyDetector, "from_pretrained", classmethod(from_pretrained))
    return loaded


def test_a_category_whose_loading_hangs_keeps_no_other_waiting(model_folder, monkeypatch):
    going, go = threading.Event(), threading.Event()
    lid = shutil.copytree(model_folder / "glass-toy-widget", model_folder / "glass-toy-lid")
    change_config(lid, category="lid")
    original = AnomalyDetector.from_pretrained.__func__

    def from_pretrained(cls, source, **options):
        if source == str(lid):
            going.set()
            assert go.wait(30)
        return original(cls, source, **options)

    monkeypatch.setattr(AnomalyDetector, "from_pretrained", classmethod(from_pretrained))
    catalog = Catalog.from_folder(model_folder)
    slow = threading.Thread(target=catalog.load, args=["toy / lid"])
    slow.start()
    assert going.wait(30)
    assert len(catalog.load(LABEL)) == 2
    go.set()
    slow.join()


# ---------------------------------------------------------------- a namespace, on a Hub of our own


def test_a_namespace_lists_the_repositories_of_this_library(hub, make_detector):
    push(make_detector, "acme/simplenet-mvtec-metal-nut", "acme/glass-mvtec-bottle", "acme/glass-mvtec-metal-nut")
    HfApi().create_repo("acme/some-other-model")
    catalog = Catalog.from_namespace("acme")
    assert catalog.categories() == ["mvtec / bottle", "mvtec / metal-nut"]
    assert [(e.source, e.origin) for e in catalog.entries if e.category == "metal-nut"] == [
        ("acme/simplenet-mvtec-metal-nut", "Hub"),
        ("acme/glass-mvtec-metal-nut", "Hub"),
    ]
    assert [type(d) for d in catalog.load("mvtec / metal-nut").values()] == [SimpleNet, GLASS]
    assert (catalog.problems, catalog.notices) == ({}, [])


def test_a_long_namespace_is_listed_to_its_end(hub, make_detector):
    push(make_detector, *(f"acme/glass-toy-part{i}" for i in range(5)))
    hub.page_size = 2
    assert len(Catalog.from_namespace("acme").entries) == 5


def test_what_is_listed_is_pinned(hub, make_detector):
    """A model that is pushed while the app runs changes nothing until the places are listed again."""
    push(make_detector, "acme/glass-toy-widget")
    catalog = Catalog.from_namespace("acme")
    (before,) = catalog.load(LABEL).values()
    make_detector(GLASS, calibrated=False, dataset="toy", category="widget").push_to_hub("acme/glass-toy-widget")
    catalog._read.cache_clear()
    (still,) = catalog.load(LABEL).values()
    assert still.calibration.size == before.calibration.size == 5
    catalog.refresh()
    (after,) = catalog.load(LABEL).values()
    assert after.calibration.size == 0


def test_new_categories_show_when_the_places_are_listed_again(hub, make_detector):
    push(make_detector, "acme/glass-toy-widget")
    catalog = Catalog.from_namespace("acme")
    push(make_detector, "acme/glass-toy-lid")
    catalog.refresh(older_than=60)
    assert catalog.categories() == [LABEL]
    catalog.refresh()
    assert catalog.categories() == ["toy / lid", LABEL]


def test_who_comes_while_another_lists_does_not_wait(hub, make_detector):
    push(make_detector, "acme/glass-toy-widget")
    catalog = Catalog.from_namespace("acme")
    hub.faults.append(Fault("GET", "api/models", 1, delay(4)))
    first = threading.Thread(target=catalog.refresh)
    first.start()
    begun = time.perf_counter()
    while not catalog._refreshing.locked():
        assert time.perf_counter() - begun < 3
    catalog.refresh()
    assert time.perf_counter() - begun < 3 and catalog.categories() == [LABEL]
    first.join()


def test_one_view_of_hub_folder_and_bundle(hub, make_detector, model_folder):
    push(make_detector, "acme/glass-toy-lid", "acme/glass-toy-widget")
    catalog = Catalog.from_folder(model_folder) | Catalog.from_namespace("acme") | Catalog.bundled()
    origins = {(e.label, e.method): e.origin for e in catalog.entries if e.dataset == "toy"}
    assert origins == {("toy / lid", "glass"): "Hub", (LABEL, "glass"): "folder", (LABEL, "simplenet"): "folder"}
    assert {e.origin for e in catalog.entries if e.dataset == "parts"} == {"bundled"}
    assert [e.source for e in catalog.entries if e.label == "toy / lid"] == ["acme/glass-toy-lid"]
    (lid,) = [line.split() for line in str(catalog).splitlines() if "toy / lid" in line]
    commit = hub.commits("acme/glass-toy-lid")[0].oid
    assert lid == ["toy", "/", "lid", "glass", "Hub", "acme/glass-toy-lid", commit[:12]]
    assert str(Catalog()) == ""


def test_a_repository_of_another_name_is_a_problem(hub, make_detector):
    push(make_detector, "acme/glass-mvtec-bottle", "acme/padim-mvtec-bottle")
    make_detector(GLASS).push_to_hub("acme/demo")
    catalog = Catalog.from_namespace("acme")
    assert len(catalog.entries) == 1
    assert set(catalog.problems) == {"acme/demo", "acme/padim-mvtec-bottle"}


def test_a_repository_that_holds_another_category_is_not_used_for_this_one(hub, make_detector):
    push(make_detector, "acme/simplenet-toy-lid")
    make_detector(GLASS, dataset="toy", category="widget").push_to_hub("acme/glass-toy-lid")
    catalog = Catalog.from_namespace("acme")
    assert [type(d) for d in catalog.load("toy / lid").values()] == [SimpleNet]
    assert "named after toy / lid, but contains a model of toy / widget" in catalog.problems["acme/glass-toy-lid"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda hub, name: hub.edit(name, "model.safetensors", b"short"), "truncated or not a safetensors file"),
        (lambda hub, name: hub.edit(name, "config.json", b"{"), "config.json is damaged"),
        (lambda hub, name: hub.edit(name, "model.safetensors", b"PK\x03\x04"), "pickle in disguise"),
        (lambda hub, name: setattr(hub.repo(name), "gated", "manual"), "grants access on request"),
        (lambda hub, name: setattr(hub.repo(name), "visibility", "private"), "or it is private"),
        (lambda hub, name: hub.repos.pop(("models", name)), "no such repository"),
    ],
)
def test_a_spoilt_repository_has_its_own_reason_and_spoils_no_other(hub, make_detector, monkeypatch, spoil, reason):
    push(make_detector, "acme/simplenet-toy-widget", "acme/glass-toy-widget", "acme/glass-toy-lid")
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    catalog = Catalog.from_namespace("acme")
    spoil(hub, "acme/glass-toy-widget")
    catalog.refresh(older_than=60 if reason in ("or it is private", "no such repository") else 0)
    assert [type(d) for d in catalog.load(LABEL).values()] == [SimpleNet]
    assert reason in catalog.problems["acme/glass-toy-widget"]
    assert [type(d) for d in catalog.load("toy / lid").values()] == [GLASS]


def test_private_models_are_listed_for_those_who_may_see_them(hub, make_detector, monkeypatch):
    push(make_detector, "acme/glass-toy-widget")
    hub.repo("acme/glass-toy-widget").visibility = "private"
    assert Catalog.from_namespace("acme").categories() == [LABEL]
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(ModelError, match="'acme' has no models of this library on the Hub that this login may see"):
        Catalog.from_namespace("acme")


def test_a_namespace_without_models_says_so(hub):
    with pytest.raises(ModelError, match=r"'nobody' has no models .*check the name"):
        Catalog.from_namespace("nobody")


def test_without_a_hub_the_cache_is_listed_and_says_so(hub, make_detector):
    push(make_detector, "acme/simplenet-toy-widget", "acme/glass-toy-widget", "acme/glass-toy-lid")
    Catalog.from_namespace("acme").load(LABEL)
    hub.stop()
    catalog = Catalog.from_namespace("acme")
    assert catalog.categories() == [LABEL]
    assert {e.origin for e in catalog.entries} == {"Hub cache"}
    assert len(catalog.load(LABEL)) == 2
    (notice,) = catalog.notices
    assert "could not be listed: the connection to the Hub failed (ConnectError)" in notice
    assert "these are the 2 in the local cache" in notice


def test_half_a_model_in_the_cache_is_not_listed(hub, make_detector):
    push(make_detector, "acme/simplenet-toy-widget", "acme/glass-toy-widget")
    Catalog.from_namespace("acme").load(LABEL)
    make_detector(GLASS, calibrated=False, dataset="toy", category="widget").push_to_hub("acme/glass-toy-widget")
    HfApi().hf_hub_download("acme/glass-toy-widget", "config.json")  # the newer commit, and then the line breaks
    hub.stop()
    glass = Catalog.from_namespace("acme").load(LABEL)["glass"]
    assert glass.calibration.size == 5  # of the older commit, which is whole


@pytest.mark.parametrize(
    ("fault", "words"),
    [(answer(503), r"trouble at the moment \(503\)"), (answer(429), "too many requests"), (None, "failed")],
)
def test_an_unreachable_hub_says_what_to_do(hub, monkeypatch, fault, words):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.faults.append(Fault("GET", "api/models", 99, fault)) if fault else hub.stop()
    with pytest.raises(ModelError, match=rf"could not be listed: .*{words}.*check the name, the login and"):
        Catalog.from_namespace("acme")


def test_a_hub_that_comes_back_is_found_and_one_that_goes_keeps_its_models(hub, make_detector):
    push(make_detector, "acme/glass-toy-widget")
    hub.stop()
    catalog = Catalog(partial(list_namespace, "acme"))
    assert catalog.entries == [] and "could not be listed" in catalog.notices[0]
    hub.start()
    catalog.refresh()
    assert (catalog.categories(), catalog.notices) == ([LABEL], [])
    hub.stop()
    catalog.refresh()
    assert catalog.categories() == [LABEL] and "could not be listed" in catalog.notices[0]


def test_offline_the_cache_is_listed(hub, make_detector, monkeypatch):
    push(make_detector, "acme/glass-toy-widget")
    Catalog.from_namespace("acme").load(LABEL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    catalog = Catalog.from_namespace("acme")
    assert len(catalog.load(LABEL)) == 1 and "HF_HUB_OFFLINE is set" in catalog.notices[0]
    assert hub.requests == []
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        Catalog.from_namespace("nobody")


def test_a_read_only_cache_uses_the_older_commit_for_the_model_and_its_information(hub, make_detector, caplog):
    make_detector(GLASS).push_to_hub("acme/glass-toy-widget")
    Catalog.from_namespace("acme").load("toy / widget")
    newest = hub.edit("acme/glass-toy-widget", "notes.txt", b"newer").oid
    catalog = Catalog.from_namespace("acme")
    assert [entry.revision for entry in catalog.entries] == [newest]
    with obeyed(Path(constants.HF_HUB_CACHE)):
        assert list(catalog.load("toy / widget")) == ["glass"]
        info = read_model_info(catalog.entries[0])
    assert "of the local cache is used, because of PermissionError" in caplog.text
    assert catalog.problems == {} and info.size_bytes


def test_folders_that_may_not_be_read_are_named(model_folder):
    """They ended the demo's start with a bare PermissionError."""
    (model_folder / "private").mkdir(mode=0)
    with obeyed():
        catalog = Catalog.from_folder(model_folder)
        assert len(catalog.entries) == 2
        assert "Permission denied" in catalog.problems[str(model_folder / "private")]
        with pytest.raises(ModelError, match=r"private/below cannot be read \(Permission denied\)"):
            Catalog.from_folder(model_folder / "private" / "below")
