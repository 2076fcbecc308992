"""Loading from the Hub: the real client against a Hub of our own, and every way in which it can go wrong."""

import errno
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_client import client_env
from hub_server import Fault, answer, cut_download, delay, tamper, truncate
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import XetDownloadError
from huggingface_hub.utils import get_session, httpx
from read_only import obeyed

from hubmodels import GLASS, BackboneError, ModelError, SimpleNet, load
from hubmodels.backbone import load_backbone
from hubmodels.hub.catalog import Catalog
from hubmodels.hub.files import FINISHED_FILES, WEIGHTS_FILE, limit_waiting, put_in_place

BACKBONE = "resnet18.tv_in1k"
REPOSITORY = "acme/glass-toy-widget"
PICTURE = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)


@pytest.fixture
def impatient(monkeypatch):
    """The client tries again, but does not wait before."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def published(hub, make_detector):
    """A GLASS model on the Hub, pushed by its own method."""
    make_detector(GLASS).push_to_hub(REPOSITORY)
    hub.requests.clear()
    return make_detector(GLASS)


def downloads(hub):
    return [r.path.rsplit("/", 1)[-1] for r in hub.requests if r.method == "GET" and "/resolve/" in r.path]


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def unless_cached(download, commit):
    """The client's download on a full disk."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return lambda *args, revision, **kwargs: (
        raising(full)()
        if getattr(revision, "resolved", revision) == commit
        else download(*args, revision=revision, **kwargs)
    )


def kept():
    """Names of the files in the cache that are meant to be whole."""
    return {path.name for path in Path(constants.HF_HUB_CACHE).glob("*/snapshots/*/*")}


# ---------------------------------------------------------------- what users of transformers and timm expect


def test_what_is_pushed_is_the_head_alone_and_comes_back_the_same(hub, published):
    assert set(hub.files(REPOSITORY)) >= {"config.json", "model.safetensors", "README.md"}
    assert len(hub.files(REPOSITORY)["model.safetensors"]) < 50_000  # the backbone alone has 11 MB
    for loader in (GLASS.from_pretrained, load):
        found = loader(REPOSITORY)
        assert type(found) is GLASS and not found.training
        assert found.predict(PICTURE).image_score == published.predict(PICTURE).image_score


def test_the_wrong_class_says_which_is_right(published):
    with pytest.raises(ModelError, match=r"acme/glass-toy-widget is a glass model: load it by hubmodels\.load"):
        SimpleNet.from_pretrained(REPOSITORY)


def test_a_warm_cache_costs_one_question_and_a_pinned_commit_none(hub, published):
    GLASS.from_pretrained(REPOSITORY)
    assert downloads(hub) == ["config.json", "model.safetensors"]
    hub.requests.clear()
    GLASS.from_pretrained(REPOSITORY)
    assert [(r.method, r.path) for r in hub.requests] == [("GET", f"/api/models/{REPOSITORY}")]
    hub.requests.clear()
    GLASS.from_pretrained(REPOSITORY, revision=hub.commits(REPOSITORY)[0].oid)
    assert hub.requests == []


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, published, make_detector):
    first = hub.commits(REPOSITORY)[0].oid
    HfApi().create_tag(REPOSITORY, tag="v1")
    HfApi().create_branch(REPOSITORY, branch="trial")
    make_detector(GLASS, category="lid").push_to_hub(REPOSITORY, branch="trial")
    found = {r: GLASS.from_pretrained(REPOSITORY, revision=r).category for r in (None, "v1", "trial", first)}
    assert found == {None: "widget", "v1": "widget", "trial": "lid", first: "widget"}
    with pytest.raises(ModelError, match="no such revision: check the branch, tag or commit"):
        GLASS.from_pretrained(REPOSITORY, revision="v2")


def test_config_and_weights_are_of_one_commit_even_if_somebody_pushes_in_between(hub, published, make_detector):
    """Each file by the branch's name, they would be of two models here."""
    api_answer = hub.commits(REPOSITORY)[0].oid

    async def push_before(app, scope, receive, send):
        files = hub.repo(REPOSITORY).resolve(api_answer).files
        hub.repo(REPOSITORY).commit("main", files | {"model.safetensors": hub.store("model.safetensors", b"new")}, "x")
        await app(scope, receive, send)

    hub.faults.append(Fault("HEAD", "model.safetensors", 1, push_before))
    assert GLASS.from_pretrained(REPOSITORY).predict(PICTURE).image_score == published.predict(PICTURE).image_score
    assert hub.files(REPOSITORY)["model.safetensors"] == b"new"


def test_cache_dir_and_local_files_only(hub, published, tmp_path):
    with pytest.raises(ModelError, match=r"not in the local cache .*the Hub is not used .*local_files_only"):
        GLASS.from_pretrained(REPOSITORY, local_files_only=True)
    GLASS.from_pretrained(REPOSITORY, cache_dir=tmp_path / "cache")
    assert not kept()
    hub.requests.clear()
    found = GLASS.from_pretrained(REPOSITORY, cache_dir=tmp_path / "cache", local_files_only=True)
    assert (found.category, hub.requests) == ("widget", [])


def test_force_download_fetches_again(hub, published):
    GLASS.from_pretrained(REPOSITORY)
    hub.requests.clear()
    GLASS.from_pretrained(REPOSITORY, force_download=True)
    assert downloads(hub) == ["config.json", "model.safetensors"]


def test_force_download_without_a_hub_says_why_it_cannot(hub, published, impatient):
    GLASS.from_pretrained(REPOSITORY)
    with pytest.raises(ModelError, match="Cannot pass 'force_download=True' and 'local_files_only=True'"):
        GLASS.from_pretrained(REPOSITORY, force_download=True, local_files_only=True)
    hub.stop()
    with pytest.raises(ModelError, match=r"the connection to the Hub failed \(ConnectError\)"):
        GLASS.from_pretrained(REPOSITORY, force_download=True)


def test_a_card_that_is_there_is_kept_by_push_to_hub(hub, published):
    hub.edit(REPOSITORY, "README.md", b"written by a person")
    published.push_to_hub(REPOSITORY, ignore_patterns="*.txt")
    assert hub.files(REPOSITORY)["README.md"] == b"written by a person"


def test_the_short_card_contains_what_is_known(hub, published):
    card = hub.files(REPOSITORY)["README.md"].decode()
    assert "# GLASS for toy / widget" in card and "not measured" in card and "- anomaly-detection" in card
    assert "library_name: hubmodels" in card


# ---------------------------------------------------------------- who may read


def test_a_private_repository_needs_a_token(hub, published, monkeypatch):
    hub.repo(REPOSITORY).visibility = "private"
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ModelError, match=r"no such repository, or it is private: .*hf auth login.*HF_TOKEN"):
        GLASS.from_pretrained(REPOSITORY)
    with pytest.raises(ModelError, match="or it is private"):
        GLASS.from_pretrained(REPOSITORY, token="hf_stranger")
    assert GLASS.from_pretrained(REPOSITORY, token="hf_read").category == "widget"


def test_a_gated_repository_says_where_to_ask(hub, published, monkeypatch):
    hub.repo(REPOSITORY).gated = "manual"
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(ModelError, match="its owner grants access on request"):
        GLASS.from_pretrained(REPOSITORY)


def test_a_token_that_the_hub_does_not_know_is_named(hub, published):
    with pytest.raises(ModelError, match=r"refused the token \(401\): log in") as refused:
        GLASS.from_pretrained(REPOSITORY, token="hf_expired")
    assert "hf_expired" not in str(refused.value)


TYPED_WRONG = {
    "acme/nothing": "there is no such local folder, and the Hub has no such repository",
    "nothing": "there is no such local folder, and it is not the id of a Hub repository",
    "a/b/c": "there is no such local folder, and it is not the id",
    "white space/x": "there is no such local folder, and it is not the id",
    "./x": "there is no such local folder, and it is not the id",
    "runs/glas-own-washer": r"folder \(is it runs/glass-own-washer\?\), and the Hub has no such repository",
    "runs\\glass-own-washer": r"no such local folder \(is it runs/glass-own-washer\?\), and it is not the id",
    "runs/glass-own-washer/": None,
    "~/glass-own-washer": r"no such local folder \(is it .*/runs/glass-own-washer\?\)",
    "C:\\models\\glass": "there is no such local folder, and it is not the id",
    "https://huggingface.co/acme/x": r"it is a web address \(give the last two parts alone\)",
    "runs/notes.txt": r"it is a file \(give its folder, runs\), and the Hub has no such repository",
    "x" * 300: r"the folder cannot be read \(File name too long\)",
    "a\0b": "there is no such local folder, and it is not the id",
}


@pytest.mark.parametrize("name", TYPED_WRONG)
@pytest.mark.parametrize("loader", [GLASS.from_pretrained, load])
def test_a_typing_error_in_a_folder_is_named_and_so_is_the_hub(hub, tmp_path, monkeypatch, loader, name):
    """Only the Hub was named, as if nobody could mean a folder."""
    (tmp_path / "runs" / "glass-own-washer").mkdir(parents=True)
    (tmp_path / "runs" / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "runs"))
    with pytest.raises(ModelError, match=TYPED_WRONG[name] or "glass-own-washer contains no config.json"):
        loader(name)


def test_a_repository_that_exists_is_not_taken_for_a_folder(hub, published):
    with pytest.raises(ModelError, match="has no such revision") as refused:
        GLASS.from_pretrained(REPOSITORY, revision="v9")
    assert "folder" not in str(refused.value)


def test_a_folder_that_may_not_be_read_says_so(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model").chmod(0)
    with obeyed(), pytest.raises(ModelError, match=r"model: the folder cannot be read \(Permission denied\)"):
        GLASS.from_pretrained(tmp_path / "model")


# ---------------------------------------------------------------- wrong files


def test_missing_files_are_named(hub, published):
    commit = hub.repo(REPOSITORY).resolve("main")
    files = {name: blob for name, blob in commit.files.items() if name != "model.safetensors"}
    hub.repo(REPOSITORY).commit("main", files, "lost the weights")
    with pytest.raises(ModelError, match="lacks a file of a model"):
        GLASS.from_pretrained(REPOSITORY)


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_a_pickle_in_place_of_safetensors_is_refused_unread(hub, published, place, tmp_path):
    content = {name: c for name, c in hub.files(REPOSITORY).items() if name != "model.safetensors"}
    for name, text in (content | {"pytorch_model.bin": b"\x80\x02boom"}).items():
        (tmp_path / name).write_bytes(text)
    source = str(tmp_path)
    if place == "hub":
        repo = hub.repo(REPOSITORY)
        files = {name: hub.store(name, (tmp_path / name).read_bytes()) for name in (*content, "pytorch_model.bin")}
        repo.commit("main", files, "pickled")
        source = REPOSITORY
    with pytest.raises(ModelError, match=r"its weights are a pickle \(pytorch_model.bin\).*refused"):
        GLASS.from_pretrained(source)
    assert "pytorch_model.bin" not in downloads(hub)


def test_a_pickle_in_disguise_is_refused_unread(hub, published, tmp_path):
    torch.save({"adaptor.weight": torch.zeros(1)}, tmp_path / "x")
    for content in ((tmp_path / "x").read_bytes(), b"\x80\x04\x95boom"):
        hub.edit(REPOSITORY, "model.safetensors", content)
        with pytest.raises(ModelError, match="pickle in disguise"):
            GLASS.from_pretrained(REPOSITORY)


def test_a_clone_without_git_lfs_is_named(model_folder):
    folder = next(model_folder.iterdir())
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ModelError, match=r"is a pointer of Git LFS, not the weights: run `git lfs pull`"):
        load(folder)
    with pytest.raises(BackboneError, match="is a pointer of Git LFS"):
        load_backbone(BACKBONE, weights=folder / "model.safetensors")


def test_a_config_that_an_editor_of_windows_wrote_is_read(model_folder):
    """With the mark that Windows puts at the start of UTF-8 files."""
    folder = next(model_folder.iterdir())
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + config)
    assert load(folder).category == "widget"
    assert len(Catalog.from_folder(model_folder).entries) == 2


@pytest.mark.parametrize("links", [True, False])
def test_tampered_weights_are_found_by_their_hash(hub, published, monkeypatch, links):
    """A byte in the middle of a tensor: shapes and header stay right, and the score would change unnoticed."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", not links)  # Windows has none
    size = len(hub.files(REPOSITORY)["model.safetensors"])
    hub.faults.append(Fault("GET", "model.safetensors", 1, tamper(size - 2)))
    with pytest.raises(ModelError, match=r"not the file that its config.json names .*force_download=True"):
        GLASS.from_pretrained(REPOSITORY)
    with pytest.raises(ModelError, match="not the file"):
        GLASS.from_pretrained(REPOSITORY)  # it lies in the cache now
    found = GLASS.from_pretrained(REPOSITORY, force_download=True)  # as the message says
    assert found.predict(PICTURE).image_score == published.predict(PICTURE).image_score


def test_another_format_is_refused(hub, published):
    config = json.loads(hub.files(REPOSITORY)["config.json"]) | {"format_version": 3}
    hub.edit(REPOSITORY, "config.json", json.dumps(config).encode())
    with pytest.raises(ModelError, match=r"has format 3, this library reads format 1: install"):
        GLASS.from_pretrained(REPOSITORY)


# ---------------------------------------------------------------- a bad line, a full disk, many readers


def test_a_connection_cut_in_the_middle_goes_on_where_it_stopped(hub, published, impatient, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what the client writes at once: 10 MB, else
    size = len(hub.files(REPOSITORY)["model.safetensors"])
    hub.faults.append(Fault("GET", "model.safetensors", 1, cut_download(5000)))
    assert GLASS.from_pretrained(REPOSITORY).category == "widget"
    parts = [r.bytes_out for r in hub.requests if r.method == "GET" and r.path.endswith("model.safetensors")]
    assert parts == [5000, size - 5000]


def test_a_line_that_stays_dead_leaves_nothing_half_written(hub, published, impatient):
    hub.faults.append(Fault("GET", "model.safetensors", 99, cut_download(0)))
    with pytest.raises(ModelError, match=r"the connection to the Hub failed|arrived incomplete"):
        GLASS.from_pretrained(REPOSITORY)
    assert kept() == {"config.json"}
    hub.faults.clear()
    assert GLASS.from_pretrained(REPOSITORY).category == "widget"


def test_a_file_that_came_short_is_not_kept(hub, published, impatient):
    hub.faults.append(Fault("GET", "model.safetensors", 99, truncate(1000)))
    with pytest.raises(ModelError, match="arrived incomplete, and was not kept: try again"):
        GLASS.from_pretrained(REPOSITORY)
    assert kept() == {"config.json"}
    hub.faults.clear()
    assert GLASS.from_pretrained(REPOSITORY).category == "widget"


@pytest.mark.parametrize("error", [XetDownloadError("reset by peer"), RuntimeError("reset by peer")])
def test_what_xet_raises_is_understood(hub, published, monkeypatch, error):
    """Our Hub serves no Xet downloads: the client's own function fails here as its compiled part would."""

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fail)
    with pytest.raises(ModelError, match=r"the transfer failed \(reset by peer\): try again, or set HF_HUB"):
        GLASS.from_pretrained(REPOSITORY)


def test_a_burst_of_server_errors_passes(hub, published, impatient):
    hub.faults.append(Fault("HEAD", "config.json", 2, answer(503)))
    hub.faults.append(Fault("HEAD", "model.safetensors", 1, answer(502)))
    assert GLASS.from_pretrained(REPOSITORY).category == "widget"
    assert sum(r.status in (502, 503) for r in hub.requests) == 3


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_in_trouble_is_named_and_a_filled_cache_serves(hub, published, impatient, status):
    hub.faults.append(Fault("GET|HEAD", ".", 99, answer(status)))
    with pytest.raises(ModelError, match=rf"not in the local cache .*trouble at the moment \({status}\)"):
        GLASS.from_pretrained(REPOSITORY)
    hub.faults.clear()
    GLASS.from_pretrained(REPOSITORY)
    hub.faults.append(Fault("GET|HEAD", ".", 99, answer(status)))
    assert GLASS.from_pretrained(REPOSITORY).category == "widget"


def test_without_a_hub_a_filled_cache_serves_and_says_so(hub, published, impatient, caplog):
    hub.stop()
    with pytest.raises(ModelError, match=r"not in the local cache .*cannot be reached \(ConnectError\): connect once"):
        GLASS.from_pretrained(REPOSITORY)
    hub.start()
    GLASS.from_pretrained(REPOSITORY)
    hub.stop()
    assert GLASS.from_pretrained(REPOSITORY).category == "widget"
    assert "Could not reach the Hub" in caplog.text


def test_what_the_catalog_fetched_loads_by_its_name_without_a_hub(hub, published, impatient, caplog):
    """The catalog asks for commits, so that the cache knows of no branch."""
    Catalog.from_namespace("acme").load("toy / widget")
    hub.stop()
    assert GLASS.from_pretrained(REPOSITORY).category == "widget"
    assert "of the local cache is used, because of RevisionResolutionError" in caplog.text
    assert GLASS.from_pretrained(REPOSITORY, local_files_only=True).category == "widget"
    with pytest.raises(ModelError, match="not in the local cache"):
        GLASS.from_pretrained(REPOSITORY, revision="v1")


@pytest.mark.parametrize("line", ["read-only cache", "full disk", "cut", "proxy"])
def test_an_older_commit_serves_where_the_newest_cannot_be_loaded(
    hub, published, impatient, monkeypatch, caplog, line
):
    """A read-only cache, for example of a container, once raised a bare PermissionError when the author pushed."""
    GLASS.from_pretrained(REPOSITORY)
    first, newest = hub.commits(REPOSITORY)[0].oid, hub.edit(REPOSITORY, "README.md", b"newer").oid
    if line == "cut":
        hub.faults.append(Fault("GET|HEAD", "/resolve/", 99, answer(503)))
    if line == "proxy":
        monkeypatch.setattr(HfApi, "resolve_revision", raising(httpx.ProxyError("proxy down")))
    if line == "full disk":
        monkeypatch.setattr(HfApi, "hf_hub_download", unless_cached(HfApi.hf_hub_download, newest))
    with obeyed(*([Path(constants.HF_HUB_CACHE)] if line == "read-only cache" else [])):
        assert GLASS.from_pretrained(REPOSITORY).category == "widget"
        assert re.search(rf"commit {first[:12]} of the local cache is used, because of \w+Err", caplog.text)
        with pytest.raises(ModelError):
            GLASS.from_pretrained(REPOSITORY, revision=newest)  # a named revision is never replaced
        with pytest.raises(ModelError):
            GLASS.from_pretrained(REPOSITORY, force_download=True)


def test_a_newer_commit_without_weights_is_not_replaced(hub, published):
    GLASS.from_pretrained(REPOSITORY)
    commit = hub.repo(REPOSITORY).resolve("main")
    files = {name: blob for name, blob in commit.files.items() if name != "model.safetensors"}
    hub.repo(REPOSITORY).commit("main", files, "lost the weights")
    with pytest.raises(ModelError, match="lacks a file of a model"):
        GLASS.from_pretrained(REPOSITORY)


def test_a_cache_that_cannot_be_written_says_what_to_set(hub, published, tmp_path):
    with obeyed(tmp_path), pytest.raises(ModelError, match=r"cannot be written \(Permission denied\): set HF_HOME"):
        GLASS.from_pretrained(REPOSITORY, cache_dir=tmp_path / "cache")


PROXIES = {"HTTP_PROXY": "ftp://proxy.company:21", "ALL_PROXY": "socks5://127.0.0.1:9", "HTTPS_PROXY": "http://[::1"}


@pytest.mark.parametrize("variable", PROXIES)
def test_a_proxy_that_the_client_cannot_use_is_named(hub, published, monkeypatch, variable):
    """httpx raises a ValueError, an ImportError or an InvalidURL for these."""
    monkeypatch.setenv(variable, PROXIES[variable])
    monkeypatch.setattr("huggingface_hub.utils._http._GLOBAL_CLIENT", None)
    with pytest.raises(ModelError, match=r"the proxy in the environment .* cannot be used \("):
        GLASS.from_pretrained(REPOSITORY)
    with pytest.raises(ModelError, match=r"the proxy in the environment .* cannot be used \("):
        Catalog.from_namespace("acme")


def test_a_proxy_that_the_client_cannot_use_is_no_matter_without_the_hub(monkeypatch, caplog):
    """Training with local pictures ended with an ImportError."""
    monkeypatch.setenv("ALL_PROXY", PROXIES["ALL_PROXY"])
    monkeypatch.setattr("huggingface_hub.utils._http._GLOBAL_CLIENT", None)
    limit_waiting(10)
    assert "the Hub cannot be used: the proxy in the environment" in caplog.text


def test_a_hub_that_never_answers_is_given_up_where_a_program_says_so(hub, published, impatient):
    hooks = get_session().event_hooks["request"]
    before = len(hooks)
    limit_waiting(0.2)
    try:
        hub.faults.append(Fault("GET|HEAD", "api/models", 99, delay(5)))
        with pytest.raises(ModelError, match=r"cannot be reached \(ReadTimeout\)"):
            GLASS.from_pretrained(REPOSITORY)
        with pytest.raises(ModelError, match=r"could not be listed: the connection to the Hub failed \(ReadTimeout\)"):
            Catalog.from_namespace("acme")
    finally:
        del hooks[before:]


def test_the_offline_switch_is_obeyed(hub, published, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"the Hub is not used \(HF_HUB_OFFLINE"):
        GLASS.from_pretrained(REPOSITORY)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    GLASS.from_pretrained(REPOSITORY)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert GLASS.from_pretrained(REPOSITORY).category == "widget"
    assert hub.requests == []


LOAD = (
    "import sys, resource\nfrom hubmodels import GLASS, ModelError\n"
    "sys.argv[2:] and resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
    "try:\n    print(GLASS.from_pretrained('acme/glass-toy-widget', backbone_weights=sys.argv[1]).category)\n"
    "except ModelError as error:\n    sys.exit(str(error))\n"
)


def load_elsewhere(hub, weights, home, *arguments):
    """A process of its own that loads the model."""
    command = [sys.executable, "-c", LOAD, str(weights), *map(str, arguments)]
    return subprocess.Popen(
        command, env=client_env(hub, home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 kB, which config and weights do not fit on."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a small file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_named_and_leaves_nothing(hub, published, small_disk):
    with pytest.raises(ModelError, match=r"no room on the disk for it \(No space left on device\).*cache_dir"):
        GLASS.from_pretrained(REPOSITORY, cache_dir=small_disk)
    assert [p.name for p in small_disk.glob("*/snapshots/*/*")] in ([], ["config.json"])
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert GLASS.from_pretrained(REPOSITORY, cache_dir=small_disk).category == "widget"


def test_a_quota_is_named_and_afterwards_two_processes_pull_at_once(hub, published, backbone_weights, tmp_path):
    """A quota of a file's size here, which any user can set."""
    limited = load_elsewhere(hub, backbone_weights, tmp_path, 4096)
    assert limited.wait(120) != 0 and os.strerror(errno.EFBIG) in limited.stderr.read()
    assert [path.name for path in tmp_path.glob("hub/*/snapshots/*/*")] == ["config.json"]
    both = [load_elsewhere(hub, backbone_weights, tmp_path) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == ["widget"] * 2
    assert [path.name for path in tmp_path.glob("hub/*/blobs/*.incomplete")] == []


def test_threads_may_pull_the_same_model_at_once(hub, published):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(GLASS.from_pretrained, [REPOSITORY] * 4))
    assert {detector.predict(PICTURE).image_score for detector in found} == {published.predict(PICTURE).image_score}


def test_the_old_model_is_name_1_until_the_new_one_is_there(make_detector, tmp_path, monkeypatch):
    """Also after a failure: the only whole model is never deleted."""
    folder, older, new = (tmp_path / name for name in ("glass", "glass.1", "glass.new"))
    detector = make_detector(GLASS)
    detector.save_pretrained(folder)
    old = (folder / WEIGHTS_FILE).read_bytes()
    make_detector(GLASS, embed_dim=16).save_pretrained(new)
    for name in FINISHED_FILES:
        (folder / name).touch()
    move = os.replace

    def fail(source, target):
        if Path(source) == new:
            raise OSError("the disk is full")
        move(source, target)

    monkeypatch.setattr(os, "replace", fail)
    for _ in range(2):  # the second time there is nothing else
        with pytest.raises(OSError, match="disk is full"):
            put_in_place(new, folder)
        assert (older / WEIGHTS_FILE).read_bytes() == old and load(older).calibration.size == 5
        assert not folder.exists() and new.is_dir()
    monkeypatch.undo()
    put_in_place(new, folder)
    assert load(folder).front_end.embed_dim == 16 and not older.exists() and not new.exists()
