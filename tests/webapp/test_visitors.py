"""Visitors of a Space: each sees the own parts only, for an hour; the models can be downloaded and pushed."""

import gc
import io
import os
import sys
import time
import weakref
import zipfile
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import numpy as np
import pytest
from browser import launched, photograph, visit
from hub_environment import free_port
from hub_server import Account, Fault, answer
from PIL import Image
from quick_training import quick
from small_report import describe

import app
from hubmodels import GLASS, ModelError, PreparedPicture, SimpleNet
from hubmodels.hub.catalog import Catalog
from training.publishing.__main__ import main as publish
from webapp import batch_tab, own_models, teach_tab, teaching, visitors
from webapp.compare_tab import Comparing
from webapp.inspect_tab import InspectTab
from webapp.inspection import choices, suggest_category
from webapp.models_tab import render_models
from webapp.own_models import PushError, pack, push
from webapp.own_parts import Upload
from webapp.page import build_page, launch_settings
from webapp.part_changes import PartChanges
from webapp.part_pictures import PartPictures
from webapp.plain_requests import open_server
from webapp.teach_tab import TeachTab
from webapp.teaching import RUNNING, STOPPED, WAITING, Teacher
from webapp.visitors import AWAY, GONE, Everybody, Visitors

LABEL = "own / lid"
FOREVER = [sys.executable, "-c", "import time; time.sleep(600)"]
TEXTURE = np.random.default_rng(99).integers(0, 80, (64, 64, 3))


def png(seed):
    """Pictures that are alike: one texture, and a little noise."""
    noise, stream = np.random.default_rng(seed).integers(0, 12, (64, 64, 3)), io.BytesIO()
    Image.fromarray((80 + TEXTURE + noise).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def request(session, language="en"):
    return gr.Request(headers={"accept-language": language}, session_hash=session)


ANN, BOB = request("ann"), request("bob")


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too late"
        time.sleep(0.05)


def last(updates):
    *_, update = updates
    return update


@pytest.fixture
def shared(model_folder):
    return Catalog.from_folder(model_folder)


@pytest.fixture
def space(shared, tmp_path):
    return Visitors(shared, tmp_path / "visitors")


@pytest.fixture
def give(make_detector):
    """Factory of a part that a visitor has taught: three pictures, and a model for each method."""

    def make(place, part="lid", methods=(SimpleNet, GLASS)):
        place.teacher.parts.add(part, [Upload(f"{seed}.png", lambda seed=seed: png(seed)) for seed in range(3)])
        for method in methods:
            detector = make_detector(method, dataset="own", category=part)
            folder = place.teacher.models / f"{detector.method}-own-{part}"
            detector.save_pretrained(folder)
            describe(folder, method=detector.method, dataset="own", category=part)
        place.catalog.refresh()
        return place

    return make


@pytest.fixture
def upload(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads/lid.png").write_bytes(png(7))
    return {"path": str(tmp_path / "uploads/lid.png"), "orig_name": "lid.png"}


def age(folder, seconds):
    """Makes all in a folder older."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


@pytest.fixture
def later(monkeypatch):
    """Moves the clock of the visitors forward."""
    return lambda seconds: monkeypatch.setattr(
        visitors, "time", SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + seconds)
    )


# ---------------------------------------------------------------- who sees what


def test_two_visitors_do_not_see_each_others_parts(space, give, upload, shared):
    ann, bob = give(space.of(ANN)), space.of(BOB)
    assert ann.catalog.categories() == [LABEL, "toy / widget"] and bob.catalog.categories() == ["toy / widget"]
    assert shared.categories() == ["toy / widget"] == space.of(request(None)).catalog.categories()  # for programs
    assert [name for _, name in choices(bob.catalog, "en")] == ["toy / widget"]
    assert ">lid<" in render_models(ann.catalog, "en") and "lid" not in render_models(bob.catalog, "en")
    recorded = [Comparing(shared, {}, None, space).arrive(who)[0] for who in (ANN, BOB)]
    assert [">lid<" in table for table in recorded] == [True, False]
    prepared = PreparedPicture(png(7))
    assert LABEL in ann.catalog.appearances() and LABEL not in bob.catalog.appearances()
    assert suggest_category(bob.catalog, prepared) != LABEL
    with pytest.raises(ModelError, match="there is no category"):
        bob.catalog.load(LABEL)


def test_no_event_uses_another_visitors_part(space, give, upload, shared, tmp_path):
    give(space.of(ANN))
    inspect, batches, teach = InspectTab(shared, [], space), batch_tab._Batches(shared, space), TeachTab(space)
    assert "verdict" in inspect.inspect(LABEL, upload, None, ANN)[0]
    assert "there is no category" in inspect.inspect(LABEL, upload, None, BOB)[0]
    good = SimpleNamespace(good=True, what="json", method=None, rate=None)
    for event in (inspect.correct, inspect.download):
        with pytest.raises(gr.Error):
            event(LABEL, upload, None, good, BOB)
    assert len(list(batches.run(LABEL, [upload], 1, None, BOB))) == 1  # the refusal
    assert len(list(batches.run(LABEL, [upload], 1, None, ANN))) == 2
    assert [teach.arrive(None, None, who)[0]["choices"] for who in (ANN, BOB)] == [[("lid", "lid")], []]
    assert [teach.offer_to_keep("lid", who)["visible"] for who in (ANN, BOB)] == [True, False]
    with pytest.raises(gr.Error, match="has no models"):
        teach.pack("lid", BOB)
    assert "has no models" in [*teach.push("lid", None, None, BOB)][-1]
    assert "has no models" in [*teach.judge("lid", [upload], BOB)][-1][1]
    assert teach.picture_to_draw("lid", None, BOB)[1] == "Add pictures first."
    changes = PartChanges(space)
    assert [changes.offer("lid", who)[0]["visible"] for who in (ANN, BOB)] == [True, False]
    assert "no longer there" in changes.rename("Cap", "lid", LABEL, None, BOB)[0]
    assert "no longer there" in changes.delete("lid", LABEL, None, BOB)[0]
    assert not space.of(BOB).teacher.models.exists() and space.of(ANN).catalog.load(LABEL)


def test_programs_see_the_shared_models_only(space, give, shared):
    give(space.of(ANN))
    page = build_page(shared, visitors=space)
    endpoints = {fn.api_name: fn.fn for fn in page.fns.values() if fn.api_visibility == "public"}
    assert set(endpoints) == {"categories", "inspect", "inspect_batch"}
    assert endpoints["categories"]() == ["toy / widget"]
    assert endpoints["inspect"]("data:image/png;base64,", LABEL)["error"]["kind"] == "unknown_category"


def test_an_own_part_hides_a_shared_one_and_shared_models_are_loaded_once(space, give, shared, model_folder):
    ann, bob = space.of(ANN), space.of(BOB)
    assert ann.catalog.load("toy / widget")["glass"] is bob.catalog.load("toy / widget")["glass"]
    give(Everybody(shared, Teacher(shared, model_folder, model_folder / "pictures")).of(None))
    assert LABEL in bob.catalog.categories()  # what is published under this name
    give(ann, methods=[SimpleNet])
    assert list(ann.catalog.load(LABEL)) == ["simplenet"] and list(bob.catalog.load(LABEL)) == ["simplenet", "glass"]
    bob.teacher.parts.add("lid", [Upload("a.png", lambda: png(1))])  # his own pictures, but not his models
    assert bob.teacher.entries("lid") == []


def test_lessons_of_different_visitors_never_run_at_once(space, monkeypatch):
    monkeypatch.setattr(Teacher, "command", lambda *_: FOREVER)
    first, second = (space.of(who).teacher.start("lid", ["hybrid"]) for who in (ANN, BOB))
    assert first is not second  # though the parts have the same name
    wait_for(lambda: first.state == RUNNING)
    time.sleep(0.5)
    assert second.state == WAITING and space.of(BOB).teacher.ahead(second) == 1
    assert space.of(BOB).teacher.current("lid") is second
    TeachTab(space).stop("lid", request("stranger"))
    assert len(list(TeachTab(space).resume(None, request("stranger")))) == 1  # without a lesson
    space.arrive(request("ann again"), space.arrive(ANN, None))  # a reload
    assert space.of(request("ann again")).teacher is first.teacher
    *_, page = islice(TeachTab(space).resume(None, request("ann again")), 3)
    assert "lid" in page[1] and page[2]["interactive"]
    assert not first.asked_to_stop.is_set() and not second.asked_to_stop.is_set()
    space.of(ANN).teacher.stop_all()
    wait_for(lambda: second.state == RUNNING)
    assert first.state == STOPPED
    space.of(BOB).teacher.stop_all()
    wait_for(lambda: second.is_over)


# ---------------------------------------------------------------- an hour later


def test_pictures_and_models_are_deleted_after_an_hour_also_from_memory(space, give, tmp_path):
    ann, bob = give(space.of(ANN)), give(space.of(BOB))
    detector = weakref.ref(ann.catalog.load(LABEL)["glass"])
    pictures = PartPictures(space)
    assert "data:image/jpeg" in pictures.open("lid", ANN) and len(pictures._thumbnails) == 1
    [mine] = {ann.teacher.models.parent}
    space.delete_old(3600)
    assert mine.is_dir()
    age(mine, 3601)
    space.delete_old(3600)
    assert not mine.exists() and bob.teacher.models.is_dir()
    assert space.of(ANN).catalog.categories() == ["toy / widget"] and space.of(ANN).teacher.parts.names() == []
    ann = None
    gc.collect()
    assert detector() is None and not pictures._thumbnails


def test_who_leaves_can_come_back_for_a_while(space, give, later):
    key = space.arrive(ANN, None)
    ann = give(space.of(ANN))
    assert space.arrive(request("second tab"), key) == key
    space.leave(ANN)
    space.delete_old(3600)
    assert space.of(request("second tab")) is ann
    space.leave(request("second tab"))
    assert space.arrive(request("after the login"), key) == key
    assert space.of(request("after the login")) is ann and space.of(BOB) is not ann
    space.leave(request("after the login"))
    later(AWAY + 1)
    space.delete_old(3600)
    assert not ann.teacher.models.exists() and space.arrive(ANN, key) != key
    assert space._keys.keys() == {"ann", "bob"} and len(space._guests) == 2  # nobody else is remembered


def test_an_event_before_the_arrival_changes_nothing(space):
    ann = space.of(ANN)
    key = space.arrive(ANN, None)
    assert space.of(ANN) is ann and len(space._guests) == 1
    early = space.of(request("reloaded"))
    assert space.arrive(request("reloaded"), key) == key and space.of(request("reloaded")) is ann is not early
    for who in ("ann", "reloaded"):
        space.leave(request(who))
    assert not any(guest.sessions for guest in space._guests.values())


def test_nobody_enters_with_a_guessed_key(space):
    assert space.arrive(ANN, "guess") != "guess"
    assert space.of(BOB) is not space.of(ANN)
    space.leave(request("stranger"))


def test_a_lesson_that_runs_keeps_its_files_and_ends_soon_after_its_visitor_left(space, give, monkeypatch, later):
    monkeypatch.setattr(Teacher, "command", lambda *_: FOREVER)
    ann = give(space.of(ANN))
    lesson = ann.teacher.start("lid", ["hybrid"])
    wait_for(lambda: lesson.state == RUNNING)
    age(ann.teacher.models.parent, 4000)
    space.delete_old(3600)
    assert len(ann.teacher.parts.pictures("lid")) == 3
    space.leave(ANN)
    space.delete_old(3600)
    assert not lesson.asked_to_stop.is_set()  # the connection may have broken for a moment
    later(GONE + 1)
    space.delete_old(3600)
    wait_for(lambda: lesson.is_over)
    assert lesson.state == STOPPED
    space.delete_old(3600)
    assert not ann.teacher.models.exists()


# ---------------------------------------------------------------- who may teach


@pytest.mark.parametrize(
    ("variables", "published", "kind", "teaches"),
    [
        ({}, None, Everybody, True),
        ({"SPACE_ID": "acme/demo"}, "acme/demo", Everybody, False),
        ({"SPACE_ID": "acme/demo"}, None, Everybody, False),
        ({"SPACE_ID": "ann/demo"}, "acme/demo", Visitors, True),
        ({"SPACE_ID": "acme/demo", "HUBMODELS_TEACH": "1"}, "acme/demo", Visitors, True),
    ],
)
def test_a_space_teaches_if_it_is_duplicated_or_told_to(
    variables, published, kind, teaches, monkeypatch, tmp_path, shared
):
    for name in ("SPACE_ID", "HUBMODELS_TEACH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "space_id.txt"
    if published:
        file.write_text(f"{published}\n")
    monkeypatch.setattr(app.is_duplicate, "__defaults__", (file,))
    found = app.open_teacher(SimpleNamespace(models=str(tmp_path), log=None), shared)
    assert (type(found), found.teaches, found.private) == (kind, teaches, kind is Visitors)


def test_the_page_promises_what_is_true_and_offers_a_login_only_on_a_space(space, shared, tmp_path, monkeypatch):
    monkeypatch.setattr(teach_tab, "find_spec", lambda name: name)
    monkeypatch.setattr("gradio.routes.attach_oauth", lambda app: None)  # needs Gradio's extra `oauth`
    own = Everybody(shared, Teacher(shared, tmp_path, tmp_path / "pictures"))
    assert "Everything stays" in last(TeachTab(own).check("lid", None, ANN))[0]
    assert "Only you see the pictures" in last(TeachTab(space).check("lid", None, ANN))[0]
    assert "nach einer Stunde" in last(TeachTab(space).check("lid", None, request("ann", "de")))[0]

    def has_login(who):
        return any(isinstance(block, gr.LoginButton) for block in build_page(shared, visitors=who).blocks.values())

    assert not has_login(space)  # a Space without `hf_oauth` would not start
    monkeypatch.setenv("OAUTH_CLIENT_ID", "id")
    assert has_login(space) and not has_login(own) and not has_login(None)


# ---------------------------------------------------------------- keeping a part


def test_a_part_is_downloaded_as_its_model_folders(space, give, upload):
    give(space.of(ANN))
    give(space.of(ANN), "other")
    path = Path(TeachTab(space).pack("Lid", ANN))
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        archive.extractall(path.parent / "there")
    files = ("config.json", "model.safetensors", "metrics.json")
    assert names >= {f"{method}-own-lid/{file}" for method in ("simplenet", "glass") for file in files}
    assert not [name for name in names if "other" in name or name.endswith(".png")]
    assert path.is_relative_to(Path(os.environ["GRADIO_TEMP_DIR"]))  # where it is deleted after an hour
    assert list(Catalog.from_folder(path.parent / "there").load(LABEL)) == ["simplenet", "glass"]


def logged_in(name="visitor", token="hf_visitor"):
    return SimpleNamespace(username=name), SimpleNamespace(token=token)


def push_in_this_process(monkeypatch):
    """The command of a push starts no process of its own, which takes longer than the push."""

    def run(command, token, log):
        monkeypatch.setenv("HF_TOKEN", token)
        with log.open("w") as output, redirect_stdout(output):
            return publish(command[3:])

    monkeypatch.setattr(own_models, "_run", run)


def test_a_part_is_pushed_to_the_visitors_account(hub, space, give, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_write")  # the Space's own, which must not be used
    hub.tokens["hf_visitor"] = Account("visitor")
    give(space.of(ANN))
    give(space.of(ANN), "other")
    *_, pushing, pushed = TeachTab(space).push("lid", *logged_in(), ANN)
    assert "Pushing" in pushing and "Only you can see the models" in pushed
    assert {name for _, name in hub.repos} == {"visitor/simplenet-own-lid", "visitor/glass-own-lid"}
    for _, name in hub.repos:
        assert f"{hub.endpoint}/{name}" in pushed and hub.repo(name).visibility == "private"
        assert not [file for file in hub.files(name) if file.endswith((".png", ".jpg"))]
    assert hub.collections == {}
    push_in_this_process(monkeypatch)
    assert "Pushed" in [*TeachTab(space).push("lid", *logged_in(), ANN)][-1]  # again, nothing new


@pytest.mark.parametrize(
    ("login", "reason"),
    [
        (logged_in(token="hf_nobody"), "models cannot be pushed to visitor"),
        (logged_in(name="acme", token="hf_read"), "may only read"),
        (logged_in(name="acme", token="hf_stranger"), "may not write to acme"),
        ((None, None), "Sign in with Hugging Face first"),
    ],
)
def test_a_push_that_fails_is_explained(hub, space, give, login, reason, monkeypatch):
    push_in_this_process(monkeypatch)
    give(space.of(ANN), methods=[GLASS])
    said = [*TeachTab(space).push("lid", *login, ANN)][-1]
    assert reason in said and "Traceback" not in said and not hub.repos


def test_a_hub_that_is_down_and_one_that_is_slow_are_explained(hub, space, give, monkeypatch):
    folders = [Path(entry.source) for entry in give(space.of(ANN), methods=[GLASS]).teacher.entries("lid")]
    hub.faults.append(Fault("POST", "/api/repos/create", 9, answer(403)))
    with monkeypatch.context() as patch, pytest.raises(PushError, match="Fault 403"):
        push_in_this_process(patch)
        push(folders, "acme", "hf_write")
    monkeypatch.setattr(own_models, "PUSHED_IN", 0.2)
    with pytest.raises(PushError, match="did not finish within"):
        push(folders, "acme", "hf_write")


def test_a_zip_has_no_file_of_another_part(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "panels").mkdir(parents=True)
        (tmp_path / name / "panels" / "a.txt").write_text(name)
    with zipfile.ZipFile(pack([tmp_path / "two"], tmp_path / "two.zip")) as archive:
        assert archive.namelist() == ["two/panels/a.txt"]


# ---------------------------------------------------------------- in two browsers


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Address of the page as a Space serves it, with a quick training."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "up"))
    monkeypatch.setattr(gr.utils, "get_heartbeat_rate", lambda: 0.5)
    command = Teacher.command
    small = ("--image-size", "64", "--folds", "0")
    monkeypatch.setattr(Teacher, "command", lambda self, lesson: quick(command(self, lesson), *small))
    space = Visitors(Catalog.bundled(), tmp_path / "visitors")
    page = build_page(space.of(None).catalog, visitors=space)
    settings = {"server_name": "127.0.0.1", "server_port": free_port(), "quiet": True, "prevent_thread_lock": True}
    page.launch(**settings, **launch_settings(server=open_server(space.of(None).catalog)))
    yield page.local_url.rstrip("/"), space
    page.close()


def listed(page, tab):
    """The categories that a tab offers."""
    page.get_by_role("tab", name=tab).click()
    page.get_by_label("Category").first.click()
    page.get_by_role("option", name="washer").first.wait_for()
    names = page.get_by_role("option").all_text_contents()
    page.keyboard.press("Escape")
    return [name for name in names if "(own part)" in name]


@pytest.mark.browser
@pytest.mark.skipif(bool(teaching.missing_packages()), reason="the extra `train` is not installed")
def test_two_browsers_do_not_see_each_others_parts(served, tmp_path, later):
    url, space = served
    files = []
    for seed in range(12):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
        files.append(str(tmp_path / f"{seed}.png"))
    with launched(), visit(url) as ann, visit(url) as bob:
        ann.get_by_role("tab", name="Teach").click()
        ann.get_by_text("Only you see the pictures and the part").wait_for()
        ann.locator("#teach-part input").fill("Lid")
        ann.keyboard.press("Enter")
        ann.locator("#teach-good input[type=file]").set_input_files(files)
        ann.get_by_text("Pictures that can be used: 12.").wait_for()
        ann.get_by_role("button", name="Teach", exact=True).click()
        ann.get_by_text("Lid is taught").wait_for(timeout=180_000)
        with ann.expect_download() as download:
            ann.get_by_role("button", name="Download the part").click()
        assert download.value.suggested_filename == "lid.zip"
        photograph(ann, "teach_on_a_space")
        assert len(listed(ann, "Inspect")) == 1

        bob.reload()
        assert listed(bob, "Inspect") == []
        of_programs = httpx.get(f"{url}/categories").text
        assert "washer" in of_programs and "own /" not in of_programs
        bob.get_by_role("tab", name="Models").click()
        bob.get_by_role("cell", name="apache-2.0").first.wait_for()
        assert bob.get_by_role("rowheader", name="Lid", exact=True).count() == 0
        bob.get_by_role("tab", name="Teach").click()
        bob.locator("#teach-part input").fill("Lid")
        bob.keyboard.press("Enter")
        bob.wait_for_timeout(1000)
        assert not bob.get_by_role("button", name="Download the part").is_visible()

        ann.reload()  # a login does the same
        assert len(listed(ann, "Inspect")) == 1
        ann.get_by_role("tab", name="Teach").click()
        ann.locator("#teach-part input").click()
        ann.get_by_role("option", name="lid").click()
        ann.get_by_role("button", name="Download the part").wait_for()
    wait_for(lambda: not [guest for guest in space._guests.values() if guest.sessions], 30)
    later(AWAY + 1)
    space.delete_old(3600)
    assert list((tmp_path / "visitors").iterdir()) == []
