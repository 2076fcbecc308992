"""The stand-in for the Hub is faithful as far as the real client can tell.

Scripts run in processes of their own, as the client reads its environment when it is imported. Each prints one JSON.
"""

import hashlib
import socket

import pytest
from hub_client import client
from hub_server import Fault, LoopbackHub, answer, cut_download, cut_upload, delay, tamper, truncate

LARGE = bytes(range(256)) * 2000  # half a megabyte
CARD = "---\nlibrary_name: hubmodels\ntags: [anomaly-detection]\nlicense: apache-2.0\n---\n# A card\n"
PRELUDE = """
import json, os, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, SpaceCard
from huggingface_hub import get_session, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.utils import build_hf_headers

api = HfApi()

def error(call, *args, **kwargs):
    "Class of the exception, with the answer's status where there is one; None where nothing is raised."
    try:
        call(*args, **kwargs)
    except Exception as raised:
        status = getattr(getattr(raised, "response", None), "status_code", None)
        return [type(raised).__name__, status]

def show(**found):
    print(json.dumps(found, default=str))
"""


@pytest.fixture
def hub(tmp_path):
    with LoopbackHub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    """Runs a script with the names of PRELUDE in a folder of the test's own, with one cache for all its scripts."""

    def run(script, **settings):
        return client(hub, PRELUDE + script, home=tmp_path / "home", cwd=tmp_path, **settings)

    return run


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "widget"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(LARGE)
    return folder


def seed(hub, repo_id="acme/widget", model=b"weights", **settings):
    return hub.create(repo_id, {"README.md": CARD.encode(), "model.safetensors": model}, **settings)


def requests(hub, *methods):
    """Method and last part of the path of all requests since the last call."""
    seen, hub.requests = hub.requests, []
    return [(r.method, r.path.rsplit("/", 1)[1]) for r in seen if not methods or r.method in methods]


def test_publishing_a_folder_and_the_same_again(hub, run, folder):
    """What is there already is sent neither as bytes nor as a commit; a large file travels once, whatever its name."""
    published = """
url = api.create_repo("acme/widget", exist_ok=True)
commit = api.upload_folder(repo_id="acme/widget", folder_path="widget", commit_message="First")
show(url=url, repo_id=url.repo_id, oid=commit.oid, commit_url=str(commit), who=api.whoami()["orgs"][0]["name"])
"""
    first = run(published)
    assert first["url"] == f"{hub.endpoint}/acme/widget" and first["repo_id"] == "acme/widget"
    assert first["who"] == "factory" and first["commit_url"].endswith(f"acme/widget/commit/{first['oid']}")
    files = hub.files("acme/widget")
    assert files.pop(".gitattributes") and files == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert [(commit.title, commit.author) for commit in hub.commits("acme/widget")] == [
        ("First", "acme"),
        ("initial commit", "acme"),
    ]
    assert [r.bytes_in for r in hub.requests if r.method == "PUT"] == [len(LARGE)]

    requests(hub)
    assert run(published)["oid"] == first["oid"]
    assert requests(hub, "PUT") == [] and not any(path == "commit" for _, path in requests(hub))

    (folder / "copy.safetensors").write_bytes(LARGE)
    assert run(published)["oid"] != first["oid"]
    assert requests(hub, "PUT") == [] and hub.files("acme/widget")["copy.safetensors"] == LARGE


def test_commits_branches_tags_and_the_lock(hub, run):
    found = run("""
api.create_repo("factory/screw")
api.update_repo_settings("factory/screw", private=True, gated="manual")
again = error(api.create_repo, "factory/screw")
head = api.model_info("factory/screw").sha
add = lambda path, text: CommitOperationAdd(path, text.encode())
one = api.create_commit("factory/screw", [add("a/b.txt", "1"), add("a/c.txt", "2"), add("d.txt", "3")],
                        commit_message="One", commit_description="Why", parent_commit=head)
conflict = error(api.create_commit, "factory/screw", [add("e.txt", "")], commit_message="Two", parent_commit=head)
api.create_branch("factory/screw", branch="seed/1", revision=one.oid)
branch_again = error(api.create_branch, "factory/screw", branch="seed/1")
api.create_branch("factory/screw", branch="seed/1", exist_ok=True)
api.create_tag("factory/screw", tag="v1", tag_message="first")
api.create_tag("factory/screw", tag="v1", exist_ok=True)
delete = [CommitOperationDelete("a/"), CommitOperationDelete("d.txt")]
two = api.create_commit("factory/screw", delete, commit_message="Two", revision="seed/1")
refs = api.list_repo_refs("factory/screw")
on_branch = api.list_repo_files("factory/screw", revision="seed/1")
history = [(c.title, c.message, c.authors) for c in api.list_repo_commits("factory/screw")]
shown = [type(entry).__name__ + ":" + entry.path for entry in api.list_repo_tree("factory/screw")]
below = [entry.path for entry in api.list_repo_tree("factory/screw", "a", recursive=True, expand=True)]
last = api.get_paths_info("factory/screw", ["d.txt", "nowhere"], expand=True)
show(again=again, conflict=conflict, branch_again=branch_again, on_branch=on_branch, history=history, shown=shown,
     below=below, one=one.oid, last=[(entry.path, entry.last_commit.title) for entry in last],
     branches={ref.name: ref.target_commit for ref in refs.branches}, tags=[(t.name, t.ref) for t in refs.tags],
     at_tag=api.model_info("factory/screw", revision="v1").sha, two=two.oid,
     no_branch=error(api.upload_file, path_or_fileobj=b"x", path_in_repo="x", repo_id="factory/screw", revision="no"),
     no_file=error(api.delete_file, "nowhere.txt", "factory/screw"),
     deleted=error(api.delete_branch, "factory/screw", branch="seed/1"),
     left=len(api.list_repo_refs("factory/screw").branches), untagged=error(api.delete_tag, "factory/screw", tag="v1"),
     settings=[api.model_info("factory/screw").private, api.model_info("factory/screw").gated],
     gone=error(api.delete_repo, "factory/screw"), twice=error(api.delete_repo, "factory/screw"),
     missing_ok=error(api.delete_repo, "factory/screw", missing_ok=True))
""")
    assert found["again"] == ["HfHubHTTPError", 409] == found["branch_again"]
    assert found["conflict"] == ["HfHubHTTPError", 412]
    assert found["history"] == [["One", "Why", ["acme"]], ["initial commit", "", ["acme"]]]
    assert found["shown"] == ["RepoFile:.gitattributes", "RepoFolder:a", "RepoFile:d.txt"]
    assert found["below"] == ["a/b.txt", "a/c.txt"] and found["last"] == [["d.txt", "One"]]
    assert found["on_branch"] == [".gitattributes"]
    assert found["branches"] == {"main": found["one"], "seed/1": found["two"]}
    assert found["tags"] == [["v1", "refs/tags/v1"]] and found["at_tag"] == found["one"]
    assert found["no_branch"] == ["RevisionNotFoundError", 404] and found["no_file"] == [
        "RemoteEntryNotFoundError",
        404,
    ]
    assert found["deleted"] is found["untagged"] is None and found["left"] == 1
    assert found["settings"] == [True, "manual"]
    assert found["gone"] is None and found["twice"] == ["RepositoryNotFoundError", 404] and not found["missing_ok"]


def test_downloads_and_their_requests(hub, run):
    """A branch costs one HEAD when nothing changed, a commit that was seen nothing at all, offline neither."""
    head = seed(hub, model=LARGE).resolve("main").oid
    script = """
path = hf_hub_download("acme/widget", "model.safetensors", revision={!r})
blob = os.path.basename(os.path.realpath(path))
show(size=os.path.getsize(path), blob=blob, commit=Path(path).parent.name)
"""
    expected = {"size": len(LARGE), "blob": hashlib.sha256(LARGE).hexdigest(), "commit": head}
    assert run(script.format("main")) == expected
    assert requests(hub) == [("HEAD", "model.safetensors"), ("GET", "model.safetensors")]
    assert run(script.format("main")) == expected and requests(hub) == [("HEAD", "model.safetensors")]
    assert run(script.format(head)) == expected and requests(hub) == []
    assert run(script.format("main"), offline=True) == expected and requests(hub) == []

    edited = hub.edit("acme/widget", "README.md", b"---\ntags: [mine]\n---\n")
    found = run(f"""
folder = snapshot_download("acme/widget", revision={edited.oid!r})
url = hf_hub_url("acme/widget", "model.safetensors")
get = lambda span: get_session().get(url, headers={{"Range": "bytes=" + span}})
part, beyond, info = get("256-259"), get("999999-"), api.model_info("acme/widget", files_metadata=True)
show(card=Path(folder, "README.md").read_text(), part=[part.status_code, part.content.hex()],
     range=part.headers["Content-Range"], beyond=beyond.status_code,
     siblings={{s.rfilename: [s.size, s.lfs and s.lfs.sha256] for s in info.siblings}},
     tags=ModelCard.load("acme/widget").data.tags)
""")
    assert found["card"] == "---\ntags: [mine]\n---\n" and found["tags"] == ["mine"]
    assert found["part"] == [206, "00010203"] and found["range"] == f"bytes 256-259/{len(LARGE)}"
    assert found["beyond"] == 416
    assert found["siblings"]["model.safetensors"] == [len(LARGE), expected["blob"]]
    assert found["siblings"]["README.md"] == [21, None]


def test_who_may_see_and_write_what(hub, run):
    """A private repository looks missing; gating hides the files alone; a wrong token opens nothing, public or not."""
    seed(hub, "acme/open")
    seed(hub, "factory/secret", visibility="private")
    seed(hub, "factory/gated", gated="auto")
    script = """
get = lambda repo, file="README.md", **where: error(hf_hub_download, repo, file, cache_dir=TOKEN, **where)
upload = lambda repo: error(api.upload_file, path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=repo)
show(open=get("acme/open"), secret=get("factory/secret"), gated=get("factory/gated"), missing=get("acme/none"),
     entry=get("acme/open", file="none.txt"), revision=get("acme/open", revision="none"),
     secret_info=error(api.model_info, "factory/secret"), gated_info=error(api.model_info, "factory/gated"),
     secret_exists=TOKEN != "hf_wrong" and api.repo_exists("factory/secret"),
     check=error(api.auth_check, "factory/gated"),
     list=TOKEN != "hf_wrong" and sorted(m.id for m in api.list_models()),
     whoami=error(api.whoami), upload=upload("acme/open"), create=error(api.create_repo, "acme/new"))
"""
    script = "TOKEN = os.environ.get('HF_TOKEN', 'nobody')\n" + script
    public = ["acme/open", "factory/gated"]
    not_found, forbidden, wrong = ["RepositoryNotFoundError", 404], ["HfHubHTTPError", 403], ["HfHubHTTPError", 401]
    entry, revision = ["RemoteEntryNotFoundError", 404], ["RevisionNotFoundError", 404]
    nobody = run(script, token=None)
    hidden = ["RepositoryNotFoundError", 401]
    assert (nobody["open"], nobody["entry"], nobody["revision"]) == (None, entry, revision)
    assert nobody["secret"] == nobody["missing"] == nobody["secret_info"] == hidden
    assert nobody["secret_exists"] is False
    assert nobody["gated"] == nobody["check"] == ["GatedRepoError", 401] and nobody["gated_info"] is None
    assert nobody["list"] == public and nobody["whoami"] == ["LocalTokenNotFoundError", None]
    assert nobody["upload"] == nobody["create"] == wrong

    stranger = run(script, token="hf_stranger")
    assert stranger["secret"] == stranger["missing"] == not_found and stranger["gated"] == ["GatedRepoError", 403]
    assert stranger["list"] == public and stranger["upload"] == stranger["create"] == forbidden
    reader = run(script, token="hf_read")
    assert reader["secret"] == reader["gated"] == reader["check"] == reader["whoami"] is None
    assert reader["list"] == ["acme/open", "factory/gated", "factory/secret"]
    assert reader["upload"] == reader["create"] == forbidden
    refused = run(script, token="hf_wrong")
    assert refused["open"] == refused["secret_info"] == refused["whoami"] == refused["upload"] == wrong


def test_lists_with_filters_and_pages(hub, run):
    for number in range(5):
        seed(hub, f"acme/widget-{number}")
    seed(hub, "stranger/widget")
    seed(hub, "acme/other").commit("main", {}, "No card")
    hub.edit("acme/other", "README.md", b"---\ntags: [broken\n---\n")  # past all checks, as by git
    hub.edit("stranger/widget", "README.md", b"---\ntags: one\ndate: 2026-01-01\n---\n")
    hub.page_size = 2
    found = run("""
by = {"author": "acme", "filter": ["hubmodels", "license:apache-2.0"], "search": "WIDGET"}
plain, rich = list(api.list_models(**by)), list(api.list_models(**by, expand=["sha", "cardData"]))
show(ids=[m.id for m in plain], plain=[plain[0].sha, plain[0].tags], limited=len(list(api.list_models(limit=3))),
     all=[m.id for m in api.list_models(expand=["cardData"])], full=list(api.list_models(full=True))[0].sha,
     rich=[rich[0].sha, rich[0].card_data.library_name, rich[0].tags])
""")
    head = hub.commits("acme/widget-0")[0].oid
    assert found["ids"] == [f"acme/widget-{number}" for number in range(5)]
    assert found["plain"] == [None, ["hubmodels", "anomaly-detection", "license:apache-2.0"]]  # no commit unasked
    assert (
        len(found["all"]) == 7
        and found["full"] == head
        and found["rich"] == [head, "hubmodels", None]
        and found["limited"] == 3
    )


def test_spaces_collections_and_cards(hub, run):
    seed(hub)
    found = run(f"""
variables = [{{"key": "A", "value": "1"}}]
url = api.create_repo("acme/demo", repo_type="space", space_sdk="gradio", space_variables=variables)
api.upload_file(path_or_fileobj=b"print()", path_in_repo="app.py", repo_id="acme/demo", repo_type="space")
api.add_space_variable("acme/demo", "MODELS", "acme/widget", description="which")
first = api.create_collection("Anomaly detection", description="All parts", namespace="factory")
again = api.create_collection("Anomaly detection", namespace="factory", exists_ok=True)
add = lambda **more: api.add_collection_item(first.slug, "acme/widget", "model", note="the first", **more)
add()
twice, items = error(add), add(exists_ok=True).items
no_item = error(api.add_collection_item, first.slug, "acme/none", "model")
show(url=url, variables={{k: v.value for k, v in api.get_space_variables("acme/demo").items()}},
     info=[api.space_info("acme/demo").sdk, [s.id for s in api.list_spaces(author="acme")]],
     app=Path(hf_hub_download("acme/demo", "app.py", repo_type="space")).read_text(), no_item=no_item,
     same=first.slug == again.slug, collection=error(api.create_collection, "Anomaly detection", namespace="factory"),
     twice=twice, items=[[item.item_id, item.item_type, item.note] for item in items],
     owned=[c.title for c in api.list_collections(owner="factory")], none=list(api.list_collections(owner="acme")),
     private=error(api.create_collection, "Mine", namespace="stranger"),
     valid=error(ModelCard({CARD!r}).validate),
     colour=error(SpaceCard("---\\nsdk: gradio\\ncolorFrom: teal\\n---\\n").validate),
     upload=error(api.upload_file, path_or_fileobj=b"---\\ntags: [\\n---\\n", path_in_repo="README.md",
                  repo_id="acme/widget"))
""")
    assert found["url"] == f"{hub.endpoint}/spaces/acme/demo" and found["app"] == "print()"
    assert set(hub.files("acme/demo", repo_type="space")) == {".gitattributes", "README.md", "app.py"}
    assert found["variables"] == {"A": "1", "MODELS": "acme/widget"} and found["info"] == ["gradio", ["acme/demo"]]
    assert found["same"] and found["collection"] == found["twice"] == ["HfHubHTTPError", 409]
    assert found["items"] == [["acme/widget", "model", "the first"]] and found["no_item"][1] == 404
    assert found["owned"] == ["Anomaly detection"] and found["none"] == [] and found["private"][1] == 403
    assert found["valid"] is None and found["colour"] == found["upload"] == ["ValueError", None]


def test_uploads_through_xet(hub, run, folder):
    """The bytes go to the local store of the client's own library, and the commit finds them there."""
    script = """
api.create_repo("acme/widget", exist_ok=True)
commit = api.upload_folder(repo_id="acme/widget", folder_path="widget")
show(oid=commit.oid, size=len(Path(hf_hub_download("acme/widget", "model.safetensors")).read_bytes()))
"""
    first = run(script, xet=True)
    assert first["size"] == len(LARGE) and hub.files("acme/widget")["model.safetensors"] == LARGE
    assert requests(hub, "PUT") == []
    assert run(script, xet=True)["oid"] == first["oid"]


def test_large_files_are_checked_before_they_are_committed(hub, run):
    found = run("""
api.create_repo("acme/widget")
post = lambda path, **body: get_session().post(f"{api.endpoint}/{path}", headers=build_hf_headers(), **body)
oid = "0" * 64
unannounced = get_session().put(f"{api.endpoint}/lfs/{oid}", content=b"x").status_code
batch = post("acme/widget.git/info/lfs/objects/batch", json={"objects": [{"oid": oid, "size": 1}]})
actions = batch.json()["objects"][0]["actions"]
wrong = get_session().put(actions["upload"]["href"], content=b"x").status_code
verify = post(actions["verify"]["href"].removeprefix(api.endpoint + "/"), json={"oid": oid, "size": 1}).status_code
lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "lfsFile", "value": {"path": "x", "oid": oid}}]
commit = post("api/models/acme/widget/commit/main", content="\\n".join(map(json.dumps, lines))).status_code
show(unannounced=unannounced, wrong=wrong, verify=verify, commit=commit)
""")
    assert found == {"unannounced": 403, "wrong": 400, "verify": 400, "commit": 400}
    assert len(hub.commits("acme/widget")) == 1


def test_faults_of_a_download(hub, run):
    size = len(LARGE) * 24
    seed(hub, model=LARGE * 24)
    script = """
error = error(hf_hub_download, "acme/widget", "model.safetensors", force_download=True)
show(error=error, size=sum(path.stat().st_size for path in Path(os.environ["HF_HOME"]).rglob("blobs/*")))
"""

    def after(action):
        """What the download raised, what statuses and how many bytes were sent, and the bytes it left in the cache."""
        hub.requests, hub.faults = [], [Fault("GET", "/resolve/", 1, action)]
        found = run(script)
        gets = [r for r in hub.requests if r.method == "GET"]
        return found["error"], [r.status for r in gets], sum(r.bytes_out for r in gets), found["size"]

    assert after(truncate(1000)) == (["OSError", None], [200], 1000, 0)
    assert after(answer(503))[:2] == (["HfHubHTTPError", 503], [503])  # downloads do not try again
    assert after(answer(429, retry_after=0))[:2] == (None, [429, 200])
    assert after(delay(0.1)) == (None, [200], size, size)
    # Cut, it goes on: behind the last whole 10 MB, which is as much as it takes into its memory before it writes.
    assert after(cut_download(1_000_000)) == (None, [200, 200], 1_000_000 + size, size)
    chunk = 10 * 1024**2
    assert after(cut_download(11_000_000)) == (None, [200, 206], 11_000_000 + size - chunk, size)


def test_tampered_bytes_pass_the_client(hub, run):
    """It compares sizes and never hashes: whoever loads weights has to look at them."""
    seed(hub, model=LARGE)
    hub.faults = [Fault("GET", "/resolve/", 1, tamper(70_000))]
    found = run("show(byte=Path(hf_hub_download('acme/widget', 'model.safetensors')).read_bytes()[70_000])")
    assert found["byte"] == 0xFF ^ LARGE[70_000]


def test_faults_of_an_upload(hub, run, folder):
    """The client sends again what was cut off; a commit that failed is not repeated and leaves nothing."""
    seed(hub)
    hub.faults = [Fault("PUT", "^/lfs/", 1, cut_upload(10_000)), Fault("POST", "/commit/", 1, answer(500))]
    found = run("""
upload = lambda: api.upload_folder(repo_id="acme/widget", folder_path="widget")
show(first=error(upload), second=error(upload))
""")
    assert found == {"first": ["HfHubHTTPError", 500], "second": None} and not hub.faults
    cut, whole = [r for r in hub.requests if r.method == "PUT"]
    assert cut.status == 0 and cut.bytes_in < len(LARGE) and (whole.status, whole.bytes_in) == (200, len(LARGE))
    assert hub.files("acme/widget")["model.safetensors"] == LARGE and len(hub.commits("acme/widget")) == 2


def test_stopped_it_refuses_and_started_again_it_remembers(hub):
    seed(hub)
    address = ("127.0.0.1", int(hub.endpoint.rsplit(":", 1)[1]))
    hub.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
    hub.start()
    socket.create_connection(address, timeout=5).close()
    assert hub.files("acme/widget")["README.md"] == CARD.encode()


def test_no_token_is_noted(hub, run):
    run("api.whoami()\nshow()")
    assert "hf_write" not in str(hub.requests)
