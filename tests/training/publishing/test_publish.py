"""Publishing: the real client against a Hub of our own, and every way in which it can be interrupted; the bundle."""

import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_client import client, client_env
from hub_server import Account, Fault, answer, cut_upload, delay
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from small_pictures import picture
from small_report import describe

from hubmodels import GLASS, SimpleNet, load
from hubmodels.hub.catalog import Catalog
from hubmodels.methods import METHODS
from training.publishing.__main__ import main
from training.publishing.publish import Publication, bundle, check_login, is_edited, publish, stamp

ROOT = Path(__file__).parents[3]
NAMES = ("glass-mvtec-bottle", "simplenet-mvtec-bottle")
PANELS = (
    *("good_lowest", "good_median", "good_highest", "defective_lowest", "defective_median", "defective_highest"),
    "missed_01",
)
MODEL = "acme/glass-mvtec-bottle"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Everybody tries again, but nobody waits before."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def make_run(make_detector, tmp_path):
    """Factory of a folder as training leaves it, with finished models of these names."""

    def make(*names, run=tmp_path / "runs", **changes):
        for name in names:
            method, dataset, category = name.split("-", 2)
            identity = {"method": method, "dataset": dataset, "category": category}
            detector = make_detector(METHODS[method].detector, dataset=dataset, category=category)
            detector.save_pretrained(run / name)
            describe(run / name, **identity, **changes)
            pq.write_table(
                pa.Table.from_pylist([{"name": "test/good/0.png", "image_score": 0.5}]), run / name / "scores.parquet"
            )
            (run / name / "panels").mkdir()
            for i, panel in enumerate(PANELS):
                Image.new("RGB", (9, 9), (i, 0, 0)).save(run / name / "panels" / f"{panel}.png")
            (run / name / "training_log.jsonl").write_text("{}")
        return run

    return make


@pytest.fixture
def run(make_run):
    return make_run(*NAMES)


def folders(run):
    return sorted(path for path in run.iterdir() if path.is_dir())


def sent(hub):
    """Requests that bring something to the Hub, since the last call."""
    log = [r for r in hub.requests if r.method in ("PUT", "POST") and not r.path.startswith("/api/validate-yaml")]
    hub.requests.clear()
    return [f"{r.method} {r.path}" for r in log]


def edit_report(folder, **changes):
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---------------------------------------------------------------- what is there afterwards


def test_a_repository_per_model_in_one_commit_with_all_that_a_reader_needs(hub, run):
    assert publish(folders(run), Publication("acme")) == {}
    for name in NAMES:
        files = hub.files(f"acme/{name}")
        assert set(files) - {".gitattributes"} == {
            *("config.json", "model.safetensors", "README.md", "metrics.json", "scores.parquet"),
            *("panels/defective_median.png", "panels/good_highest.png", "panels/defective_lowest.png"),
        }
        assert files["model.safetensors"] == (run / name / "model.safetensors").read_bytes()
        assert [commit.title for commit in hub.commits(f"acme/{name}")] == [f"Publish {name}", "initial commit"]
    assert pq.read_table(pa.BufferReader(files["scores.parquet"])).column_names == ["name", "image_score"]


def test_what_is_published_loads_by_the_lines_on_its_card(hub, run, tmp_path, monkeypatch, capsys):
    publish(folders(run), Publication("acme"))
    monkeypatch.chdir(tmp_path)
    picture(0).save("photo.png")
    card = hub.files(MODEL)["README.md"].decode()
    assert f'load("{MODEL}")' in card
    names = {}
    for snippet in card.split("```python")[1:]:
        exec(snippet.split("```")[0], names)
    assert capsys.readouterr().out.split()[0] in ("True", "False")
    assert [type(d) for d in Catalog.from_namespace("acme").load("mvtec / bottle").values()] == [SimpleNet, GLASS]


def test_a_model_with_a_region_is_published_with_it(hub, run, make_detector):
    detector = make_detector(GLASS, calibrated=False, region=True, dataset="mvtec", category="bottle")
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[16:48, 8:40] = True
    detector.front_end.region.set(inside)
    detector.calibrate([picture(i, (64, 64)) for i in range(5)], 0.2)
    folder = run / "glass-mvtec-bottle"
    detector.save_pretrained(folder)
    assert publish([folder], Publication("acme")) == {}
    pixels, other = (np.asarray(picture(i, (64, 64))).copy() for i in (2, 3))
    other[inside.numpy()] = pixels[inside.numpy()]
    found, same = (load(MODEL).predict(Image.fromarray(each)) for each in (pixels, other))
    assert found.image_score == same.image_score == detector.predict(Image.fromarray(pixels)).image_score
    assert np.array_equal(found.counts, inside.numpy())


def test_the_hub_reads_the_card(hub, run):
    publish(folders(run), Publication("acme"))
    (model,) = HfApi().list_models(author="acme", search="glass", expand=["tags", "cardData"])
    assert {"hubmodels", "anomaly-detection", "glass", "mvtec-ad"} <= set(model.tags)
    assert model.card_data.license == "cc-by-nc-sa-4.0"
    assert {r.metric_name for r in ModelCard.load(MODEL).data.eval_results} >= {"image AUROC", "AUPRO@0.3"}


def test_nothing_private_is_published(hub, run, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        publish(folders(run), Publication("acme"))
    everything = b"\n".join(hub.files(MODEL).values())
    for secret in (b"/home", b"/srv", b"secret", b"my own", b"ann.png", b"hf_write"):
        assert secret not in everything
    shown = capfd.readouterr()
    assert not any("hf_write" in text for text in (caplog.text, shown.out, shown.err))


def test_pictures_are_shown_only_where_the_terms_of_the_data_allow_it(hub, make_run):
    run = make_run("glass-widgets-lid")
    publish(folders(run), Publication("acme"))
    files = hub.files("acme/glass-widgets-lid")
    assert not any(name.startswith("panels/") for name in files) and b"panels/" not in files["README.md"]
    assert pq.read_table(pa.BufferReader(files["scores.parquet"])).column_names == ["image_score"]  # nor their names
    publish(folders(run), Publication("acme", show_pictures=True))
    files = hub.files("acme/glass-widgets-lid")
    assert sum(name.startswith("panels/") for name in files) == 3 and b"panels/good_highest.png" in files["README.md"]
    publish(folders(run), Publication("acme"))
    assert not any(name.startswith("panels/") for name in hub.files("acme/glass-widgets-lid"))


def test_a_licence_without_a_name_on_the_hub_comes_as_a_file(hub, make_run):
    publish(folders(make_run("glass-widgets-lid")), Publication("acme"))
    files = hub.files("acme/glass-widgets-lid")
    assert b"terms of the training pictures" in files[ModelCard(files["README.md"].decode()).data.license_link]


def test_private_repositories(hub, run, monkeypatch):
    publish(folders(run), Publication("acme", private=True))
    assert hub.repo(MODEL).visibility == "private"
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    assert list(HfApi().list_models(author="acme")) == []


def test_a_public_repository_is_not_mistaken_for_a_private_one(hub, run):
    publish(folders(run), Publication("acme"))
    failures = publish(folders(run), Publication("acme", private=True))
    assert set(failures) == {f"acme/{name}" for name in NAMES}
    assert all("is public, and --private makes only new ones private" in reason for reason in failures.values())


def test_a_collection_lists_the_whole_set_once(hub, run, make_run):
    publish(folders(run), Publication("acme"))
    make_run("glass-mvtec-cable")
    publish(folders(run), Publication("acme"))
    (collection,) = HfApi().list_collections(owner="acme")
    collection = HfApi().get_collection(collection.slug)
    assert collection.title == "Anomaly detection: mvtec"
    assert sorted(item.item_id for item in collection.items) == sorted(f"acme/{f.name}" for f in folders(run))


def test_a_branch_of_its_own(hub, run):
    publish(folders(run), Publication("acme"))
    edit_report(run / NAMES[0], epochs=4)
    publish(folders(run), Publication("acme", revision="longer"))
    assert json.loads(hub.files(MODEL, "longer")["metrics.json"])["epochs"] == 4
    assert json.loads(hub.files(MODEL)["metrics.json"])["epochs"] == 3
    publish(folders(run), Publication("acme", revision="longer"))
    assert [c.title for c in hub.commits(MODEL, "longer")][:2] == [f"Update {NAMES[0]}", f"Publish {NAMES[0]}"]


def test_a_branch_is_made_even_where_it_equals_main(hub, run, capsys):
    publish(folders(run), Publication("acme"))
    assert main(["models", str(run), "acme", "--revision", "v1", "--dry-run"]) == 0
    assert f"{MODEL}: new branch v1\n" in capsys.readouterr().out and hub.repo(MODEL).branches.keys() == {"main"}
    publish(folders(run), Publication("acme", revision="v1"))
    assert GLASS.from_pretrained(MODEL, revision="v1").category == "bottle"
    assert hub.repo(MODEL).branches["v1"] == hub.repo(MODEL).branches["main"]


def test_the_first_publication_may_go_to_a_branch(hub, run):
    publish(folders(run), Publication("acme", revision="trial"))
    assert "config.json" in hub.files(MODEL, "trial") and "config.json" not in hub.files(MODEL)


# ---------------------------------------------------------------- again


def test_what_is_there_is_not_sent_again(hub, run):
    publish(folders(run), Publication("acme"))
    sent(hub)
    publish(folders(run), Publication("acme"))
    assert sent(hub) == ["POST /api/collections"]  # asks for the one that exists
    edit_report(run / NAMES[0], epochs=4)
    publish(folders(run), Publication("acme"))
    requests = sent(hub)
    assert f"POST /api/models/{MODEL}/commit/main" in requests and not any("PUT" in request for request in requests)
    assert json.loads(hub.files(MODEL)["metrics.json"])["epochs"] == 4


def test_a_card_that_a_person_edited_is_kept_until_asked(hub, run, caplog):
    publish(folders(run), Publication("acme"))
    written = hub.files(MODEL)["README.md"]
    edited = written.replace(b"# GLASS for", b"# Our GLASS for")
    hub.edit(MODEL, "README.md", edited)
    edit_report(run / NAMES[0], epochs=4)
    with caplog.at_level(logging.INFO):
        publish(folders(run), Publication("acme"))
    assert hub.files(MODEL)["README.md"] == edited and "was edited on the Hub and is kept" in caplog.text
    assert json.loads(hub.files(MODEL)["metrics.json"])["epochs"] == 4  # the rest is new
    publish(folders(run), Publication("acme", overwrite_cards=True))
    assert b"# GLASS for" in hub.files(MODEL)["README.md"]
    edit_report(run / NAMES[0], epochs=5)
    publish(folders(run), Publication("acme"))  # ours again: may be renewed
    assert b"| 5, 8, 7 |" in hub.files(MODEL)["README.md"]


@pytest.mark.parametrize("card", [b"", b"# by hand\n", b"\xff\xfe not UTF-8"])
def test_a_card_that_was_never_ours_is_kept(hub, run, card):
    HfApi().create_repo(MODEL)
    hub.edit(MODEL, "README.md", card)
    assert publish(folders(run), Publication("acme")) == {}
    assert hub.files(MODEL)["README.md"] == card and "config.json" in hub.files(MODEL)


def test_a_model_that_is_replaced_is_named_with_its_numbers(hub, run, make_detector, capsys):
    """A short run, pushed by mistake, would else silently take a good model's place."""
    publish(folders(run), Publication("acme"))
    other = make_detector(GLASS, calibrated=False, dataset="mvtec", category="bottle")
    other.save_pretrained(run / NAMES[0])
    edit_report(run / NAMES[0], epochs=1, metrics={})
    main(["models", str(run), "acme", "--dry-run"])
    assert "replaces 3 epochs, image AUROC 75.0 % by 1 epochs, image AUROC not measured" in capsys.readouterr().out


def test_files_of_a_person_stay(hub, run):
    publish(folders(run), Publication("acme"))
    hub.edit(MODEL, "notes.txt", b"mine")
    hub.edit(MODEL, "panels/mine.png", b"mine")
    edit_report(run / NAMES[0], epochs=4)
    publish(folders(run), Publication("acme"))
    assert hub.files(MODEL)["notes.txt"] == hub.files(MODEL)["panels/mine.png"] == b"mine"


def test_a_dry_run_tells_and_sends_nothing(hub, run, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")  # no login is needed for it
    assert main(["models", str(run), "acme", "--dry-run"]) == 0
    logged = capsys.readouterr().out
    assert sent(hub) == [] and hub.repos == {}
    assert f"{MODEL}: new repository; 8 files (0.0 MB): README.md, config.json," in logged
    assert "Collection 'Anomaly detection: mvtec': would list 2 models" in logged
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    publish(folders(run), Publication("acme"))
    (run / NAMES[0] / "panels" / "good_highest.png").unlink()
    sent(hub)
    capsys.readouterr()
    main(["models", str(run), "acme", "--dry-run"])
    logged = capsys.readouterr().out
    assert f"{MODEL}: 1 files (0.0 MB): README.md; deletes panels/good_highest.png" in logged
    assert "acme/simplenet-mvtec-bottle: up to date" in logged and sent(hub) == []


# ---------------------------------------------------------------- interrupted, refused, broken


@pytest.mark.parametrize(
    "place", ["PUT .*lfs", "POST .*/preupload/", "POST .*/commit/", "POST .*/info/lfs", "GET .*/tree/"]
)
@pytest.mark.parametrize("fault", [cut_upload(0), cut_upload(4000), answer(503), answer(500)])
def test_a_moment_of_trouble_passes(hub, run, place, fault):
    method, path = place.split(" ", 1)
    hub.faults.append(Fault(method, path, 2, fault))
    assert publish(folders(run), Publication("acme")) == {}
    assert not hub.faults or hub.faults[0].times <= 0 or place.startswith("GET")
    for name in NAMES:  # one commit each, none twice
        assert [c.title for c in hub.commits(f"acme/{name}")] == [f"Publish {name}", "initial commit"]
    assert len(Catalog.from_namespace("acme").load("mvtec / bottle")) == 2


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub, run):
    async def lose_the_answer(app, scope, receive, send):
        async def swallow(message):
            scope["hang_up"]()

        await app(scope, receive, swallow)

    hub.faults.append(Fault("POST", "/commit/", 1, lose_the_answer))
    assert publish(folders(run), Publication("acme")) == {}
    assert [c.title for c in hub.commits(MODEL)] == [f"Publish {NAMES[0]}", "initial commit"]


def test_an_interrupted_publication_goes_on(hub, run):
    hub.faults.append(Fault("PUT", ".", 1000, answer(500)))
    failures = publish(folders(run), Publication("acme"))
    assert set(failures) == {f"acme/{name}" for name in NAMES}
    assert all("trouble at the moment (500): try again later" in reason for reason in failures.values())
    assert all("config.json" not in hub.files(f"acme/{name}") for name in NAMES)  # nothing half-written
    hub.faults[:] = [Fault("PUT", ".*", 1, answer(403))]
    assert set(publish(folders(run), Publication("acme"))) == {MODEL}  # one fails, the other is done
    sent(hub)
    assert publish(folders(run), Publication("acme")) == {}
    assert not any("simplenet" in request for request in sent(hub) if "/commit/" in request)
    assert len(Catalog.from_namespace("acme").load("mvtec / bottle")) == 2


def test_a_killed_publication_goes_on(hub, run, tmp_path):
    """Killed in a commit: the first model is there, the second not at all, and the same command brings it."""
    hub.faults.append(Fault("POST", "simplenet-mvtec-bottle/commit/", 1, delay(60)))
    command = [sys.executable, "-m", "training.publishing", "models", str(run), "acme"]
    process = subprocess.Popen(command, cwd=ROOT, env=client_env(hub, tmp_path / "home"), stdout=subprocess.DEVNULL)
    for _ in range(3000):
        if not hub.faults:  # the second commit has come, and hangs
            break
        threading.Event().wait(0.1)  # nobody sleeps in these tests
    process.kill()
    assert process.wait() == -signal.SIGKILL and "config.json" in hub.files(MODEL)
    assert "config.json" not in hub.files("acme/simplenet-mvtec-bottle")
    sent(hub)
    assert publish(folders(run), Publication("acme")) == {}
    assert [r for r in sent(hub) if "/commit/" in r] == ["POST /api/models/acme/simplenet-mvtec-bottle/commit/main"]


def test_an_interrupt_by_hand_says_how_to_go_on(hub, run, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(HfApi, "create_commit", interrupt)
    assert main(["models", str(run), "acme"]) == 1
    assert "interrupted: the same command continues" in capsys.readouterr().out


def test_somebody_elses_commit_is_not_trampled_on(hub, run):
    """It comes between our check and our commit: the Hub refuses, and the second check keeps what the person wrote."""
    publish(folders(run), Publication("acme"))
    edit_report(run / NAMES[0], epochs=4)

    async def edit_first(app, scope, receive, send):
        hub.edit(MODEL, "README.md", b"written in between")
        await app(scope, receive, send)

    hub.faults.append(Fault("POST", f"{MODEL}/commit/", 1, edit_first))
    assert publish(folders(run), Publication("acme")) == {}
    assert hub.files(MODEL)["README.md"] == b"written in between"
    assert json.loads(hub.files(MODEL)["metrics.json"])["epochs"] == 4


def cut_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def exchange_weights(folder):
    shutil.copy(folder.parent / NAMES[1] / "model.safetensors", folder)


def without(*keys):
    def spoil(folder):
        report = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps({k: v for k, v in report.items() if k not in keys}))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut_weights, "contains no complete model"),
        (lambda folder: (folder / "model.safetensors").unlink(), "contains no complete model"),
        (lambda folder: (folder / "config.json").write_text("{"), "contains no complete model"),
        (exchange_weights, "is not the file that its config.json names"),
        (lambda folder: (folder / "metrics.json").write_text("{"), "metrics.json cannot be read"),
        (without("data"), "is damaged"),
        (without("versions"), "is damaged"),
        (without("method", "category"), "is damaged"),
        (lambda folder: edit_report(folder, category="screw"), "describes glass-mvtec-screw: use one name"),
    ],
)
def test_a_damaged_model_is_not_published_and_stops_no_other(hub, run, spoil, words):
    spoil(run / NAMES[0])
    failures = publish(folders(run), Publication("acme"))
    assert set(failures) == {MODEL} and words in failures[MODEL]
    assert ("models", MODEL) not in hub.repos and "config.json" in hub.files("acme/simplenet-mvtec-bottle")


@pytest.mark.parametrize(
    ("token", "namespace", "words"),
    [
        (None, "acme", r"nobody is logged in at the Hub: log in by `hf auth login`, or set HF_TOKEN"),
        ("hf_wrong", "acme", r"refused the token \(401\)"),
        ("hf_read", "acme", r"the token of acme may only read"),
        ("hf_write", "others", r"the login acme may not write to others: use one of acme, factory"),
    ],
)
def test_who_may_not_push_is_told_at_once(hub, run, monkeypatch, capsys, token, namespace, words):
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match=words) as refused:
        check_login(namespace)
    assert token is None or token not in str(refused.value)
    assert main(["models", str(run), namespace]) == 1
    assert str(refused.value) in capsys.readouterr().out and hub.repos == {}


@pytest.mark.parametrize("category", ["Schraube groß", "x" * 96, "widget.git"])
def test_a_name_that_the_hub_does_not_allow_is_told(hub, make_run, category):
    (reason,) = publish(folders(make_run(f"glass-toy-{category}")), Publication("acme")).values()
    assert reason.startswith("Repo") and hub.repos == {}


def test_an_organisation_of_the_login_will_do(hub, run):
    assert main(["models", str(run), "factory"]) == 0
    assert "config.json" in hub.files("factory/glass-mvtec-bottle")


def test_without_a_hub_the_command_says_so(hub, run, capsys):
    hub.stop()
    assert main(["models", str(run), "acme"]) == 1
    assert "the connection to the Hub failed (ConnectError): check it" in capsys.readouterr().out


def test_a_login_lost_on_the_way_is_told_for_each_model(hub, run):
    hub.tokens["hf_write"] = Account("acme", role="read")
    failures = publish(folders(run), Publication("acme"))
    assert set(failures) == {f"acme/{name}" for name in NAMES}
    assert all("does not allow this (403" in reason for reason in failures.values())


def test_a_space_for_nobodys_models_says_so(hub, capsys):
    assert main(["space", "acme/inspection", "--namespace", "nobody"]) == 1
    assert "failed: 'nobody' has no models of this library" in capsys.readouterr().out and hub.repos == {}


def test_an_empty_run_says_what_to_do(hub, tmp_path, capsys):
    assert main(["models", str(tmp_path), "acme"]) == 1
    assert "contains no finished model: train one" in capsys.readouterr().out


def test_with_xet_once(hub, run, tmp_path):
    """The client's own local store takes the place of the servers of Xet."""
    script = (
        "import json, sys\nfrom pathlib import Path\nfrom training.publishing.publish import Publication, publish\n"
        f"folders = sorted(Path({str(run)!r}).iterdir())\n"
        "print(json.dumps(publish(folders, Publication('acme'))))"
    )
    assert client(hub, script, tmp_path / "home", xet=True) == {}
    assert any("xet-write-token" in request.path for request in hub.requests)
    assert not any(request.method == "PUT" for request in hub.requests)
    assert hub.files(MODEL)["model.safetensors"] == (run / NAMES[0] / "model.safetensors").read_bytes()
    assert len(Catalog.from_namespace("acme").load("mvtec / bottle")) == 2


# ---------------------------------------------------------------- the bundle


def test_a_bundle_holds_what_loading_needs_and_the_numbers(run, tmp_path):
    shutil.rmtree(run / NAMES[1])
    (place,) = bundle(run, tmp_path / "bundle")
    assert {path.name for path in place.iterdir()} == {"config.json", "model.safetensors", "metrics.json"}
    assert "/home" not in (place / "metrics.json").read_text()


def test_an_empty_run_is_no_bundle(tmp_path):
    with pytest.raises(ValueError, match="contains no finished model"):
        bundle(tmp_path)


def test_a_card_that_was_written_on_windows_is_not_an_edited_one(tmp_path, monkeypatch):
    """The stamp did not fit, so each later card was held back."""
    write = Path.write_text
    monkeypatch.setattr(
        Path, "write_text", lambda path, text, encoding, newline="\r\n": write(path, text, encoding, newline=newline)
    )
    card = tmp_path / "README.md"
    card.write_text("# Card\n\nText.\n", encoding="utf-8")
    stamp(card)
    assert not is_edited(card.read_bytes())


def test_the_stamp_is_what_tells_an_edited_card(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("# Card\n\nText.\n", encoding="utf-8")
    stamp(card)
    assert card.read_text().startswith("# Card\n\nText.\n\n<!-- Written by training.publishing.")
