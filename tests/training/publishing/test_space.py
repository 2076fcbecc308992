"""The Space's folder: what its front matter promises is true, and its app runs from it with its requirements alone."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from app_process import wait_for
from gradio_client import Client, handle_file
from hub_environment import free_port
from hub_server import is_large
from huggingface_hub import HfApi, ModelCard, SpaceCard, SpaceVariable
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from test_house import ROOT, imported, sources

import app
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.hub.catalog import Catalog
from hubmodels.methods import METHODS
from training.publishing.licences import IMAGENET
from training.publishing.space import (
    CONTENT,
    FOLDERS,
    ID_FILE,
    NAMESPACE_VARIABLE,
    assemble_space,
    push_space,
    set_namespace,
)

WRN = "wide_resnet50_2.tv_in1k"
MODELS = ["acme/simplenet-mvtec-bottle", "acme/glass-mvtec-bottle"]
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}  # those that the Hub knows
OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
OUTSIDE |= {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # the latter so that the folder stays as assembled


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return assemble_space(tmp_path_factory.mktemp("space") / "new")


@pytest.fixture(scope="module")
def front_matter(space):
    return SpaceCard.load(space / "README.md").data.to_dict()


def requirements() -> dict[str, SpecifierSet]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in required}


# ---------------------------------------------------------------- the folder


def test_the_folder_holds_what_the_app_needs_and_nothing_else(space):
    assert {path.name for path in space.iterdir()} == {*CONTENT, "README.md"}
    for room in FOLDERS:
        here, there = ({str(p.relative_to(top)) for p in (top / room).rglob("*")} for top in (ROOT, space))
        assert there == {name for name in here if "__pycache__" not in name}
    assert not [path for path in space.rglob("*") if path.is_symlink()]  # the Hub would store them as text


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="is not empty"):
        assemble_space(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_builder_can_read_the_front_matter(space, front_matter):
    assert front_matter["sdk"] == "gradio" and (space / front_matter["app_file"]).is_file()
    assert {front_matter["colorFrom"], front_matter["colorTo"]} <= COLOURS
    assert len(front_matter["short_description"]) <= 60
    assert isinstance(front_matter["python_version"], str)  # 3.12 without quotes would be a number
    assert "models" not in front_matter and "preload_from_hub" not in front_matter  # all is in the folder


def test_the_versions_of_the_front_matter_suit_the_package(front_matter):
    assert front_matter["sdk_version"] == version("gradio")
    assert front_matter["sdk_version"] in requirements()["gradio"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert front_matter["python_version"] in SpecifierSet(project["requires-python"])


def test_the_licence_is_that_of_all_the_space_contains(space, front_matter):
    models = Catalog.from_folder(space / "hubmodels" / "weights" / "models").entries
    cards = [ModelCard.load(ROOT / "model_cards" / entry.name / "README.md").data for entry in models]
    assert {front_matter["license"], *(card.license for card in cards)} == {"apache-2.0"} and len(cards) == 15
    assert IMAGENET in (space / "README.md").read_text()


def test_models_of_the_hub_have_their_own_licences(tmp_path):
    """The folder contains none of them, so its licence is the same; the text refers to their cards."""
    assemble_space(tmp_path, namespace="acme", models=MODELS)
    card = SpaceCard.load(tmp_path / "README.md")
    assert card.data.license == "apache-2.0" and not list(tmp_path.rglob("*mvtec*"))
    assert "It is on the model's card, and it can forbid commercial use." in card.text


def test_models_of_the_hub_and_their_backbone_are_fetched_at_build_time(tmp_path):
    assemble_space(tmp_path, namespace="acme", models=MODELS, backbones=[COMPACT_BACKBONE, WRN])
    card = SpaceCard.load(tmp_path / "README.md")
    assert card.data.models == MODELS
    fetched = dict(line.split(" ") for line in card.data.to_dict()["preload_from_hub"])
    files = "config.json,model.safetensors"
    assert fetched == {f"timm/{WRN}": "model.safetensors", MODELS[0]: files, MODELS[1]: files}
    assert all(f"https://huggingface.co/{model})" in card.text for model in MODELS)


def test_a_duplicate_is_recognised_by_the_id_in_the_folder(tmp_path):
    folder = assemble_space(tmp_path / "space", repo_id="acme/demo")
    assert folder / ID_FILE == folder / app.PUBLISHED_AS.name
    assert [app.is_duplicate(space, folder / ID_FILE) for space in ("acme/demo", "ACME/Demo", "ann/demo")] == [
        False,
        False,
        True,
    ]
    assert not app.is_duplicate("ann/demo", tmp_path / ID_FILE)


def test_a_visitors_login_may_only_make_repositories(front_matter):
    assert front_matter["hf_oauth"] is True and front_matter["hf_oauth_scopes"] == ["contribute-repos"]


def test_the_app_reads_the_variable_that_the_space_sets(monkeypatch):
    monkeypatch.setenv(NAMESPACE_VARIABLE, "acme")
    monkeypatch.setattr(sys, "argv", ["app.py"])
    assert app.read_arguments().namespace == "acme"


def test_all_that_is_imported_is_required():
    files = [file for room in ("app.py", "webapp", "hubmodels", "training") for file in sources(room)]
    files = [file for file in files if file.name != "free_pictures.py"]  # no part of teaching
    files = [file for file in files if file.parent.name != "line"]  # a Space has no cameras
    names = {name.split(".")[0] for file in files for name in imported(file.read_text(), "hubmodels")}
    foreign = names - set(sys.stdlib_module_names) - {"hubmodels", "webapp", "training"}
    distributions = packages_distributions()
    wanted = {canonicalize_name(name) for module in foreign for name in distributions[module]}
    assert {"torch", "gradio"} <= wanted  # the search finds something
    assert wanted <= set(requirements())


# ---------------------------------------------------------------- built and started


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A fresh environment that sees the packages installed here, but not the repository.

    A path in a .pth file is one more place to import from; .pth files there, such as that of the editable install, are
    not read.
    """
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    here = next(Path(path) for path in sys.path if Path(path).name == "site-packages")
    next(environment.glob("lib/python*/site-packages")).joinpath("installed.pth").write_text(f"{here}\n")
    return environment / "bin" / "python"


def run_as_a_space(space, python, folder) -> tuple[dict, set[Path]]:
    """The answer for one example, and all files that Python loaded code from, as it says itself."""
    variables = {"SYSTEM": "spaces", "SPACE_ID": "acme/demo", "GRADIO_SERVER_PORT": str(port := free_port())}
    variables |= {"GRADIO_TEMP_DIR": str(folder / "uploads")}
    log = folder / "log.txt"
    with log.open("w") as out:
        command = [python, "-v", "app.py"]
        process = subprocess.Popen(command, cwd=space, env=OUTSIDE | variables, stdout=out, stderr=out)
        try:
            answer = inspected(wait_for(f"http://127.0.0.1:{port}", process, log), space)
        finally:
            process.terminate()
            process.wait(30)
    return answer, {Path(name) for name in re.findall(r"code object from '?([^'\n]+)", log.read_text())}


def inspected(url, space) -> dict:
    picture = handle_file(space / "examples" / "parts" / "washer" / "scratch.png")
    client = Client(url, verbose=False, download_files=False)
    return client.predict(picture, "parts / washer", api_name="/inspect")


def test_the_requirements_can_be_installed_together_with_the_sdk(space, python, front_matter):
    sdk = f"gradio=={front_matter['sdk_version']}"
    command = [python, "-m", "pip", "install", "--no-index", "-r", "requirements.txt", sdk]
    result = subprocess.run(command, cwd=space, env=OUTSIDE, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Would install" not in result.stdout and "Successfully installed" not in result.stdout


def test_the_environment_lacks_the_repository(python, tmp_path):
    """Or the next test would pass however little the Space's folder held."""
    command = [python, "-c", "import gradio_client, hubmodels"]
    result = subprocess.run(command, cwd=tmp_path, env=OUTSIDE, capture_output=True, text=True)
    assert "No module named 'hubmodels'" in result.stderr


def test_the_app_answers_from_its_own_folder(space, python, tmp_path):
    answer, loaded = run_as_a_space(space, python, tmp_path)
    assert [said["is_anomalous"] for said in answer["methods"].values()] == [True] * sum(
        not method.baseline for method in METHODS.values()
    )
    assert {space / "hubmodels" / "hub" / "catalog.py", space / "webapp" / "page.py"} <= loaded
    rooms = [ROOT / room for room in ("hubmodels", "webapp", "training", "tests")]
    assert not [path for path in loaded if any(path.is_relative_to(room) for room in rooms)]


HELP = """
import runpy, sys

for run, *program in (runpy.run_path, "training/train.py"), (runpy.run_module, "training.publishing", "models"):
    sys.argv = [*program, "--help"]
    try:
        run(program[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code
"""


def test_the_programs_that_the_page_starts_run_in_its_own_folder(space, python):
    variables = OUTSIDE | {"PYTHONPATH": str(space)}
    result = subprocess.run([python, "-c", HELP], cwd=space, env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert re.findall(r"usage: (.*?) \[", result.stdout) == ["train.py", "python -m training.publishing models"]


# ---------------------------------------------------------------- pushed

SPACE = "acme/demo"


@pytest.fixture
def root(tmp_path):
    """What the Space is made of, the test's own; small, because only the transfer matters."""
    folder = tmp_path / "repository"
    texts = ("webapp/page.py", "hubmodels/catalog.py", "training/train.py", "model_cards/card.md")
    for name in (*texts, "hubmodels/weights/a.safetensors", "examples/parts/washer/good.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for name in ("app.py", "requirements.txt", "LICENSE", "NOTICE.md"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def hub(hub):
    """A Hub on which acme has published two models."""
    for model, backbone in {"glass-mvtec-bottle": WRN, "simplenet-mvtec-bottle": COMPACT_BACKBONE}.items():
        HfApi().create_repo(f"acme/{model}")
        config = json.dumps({"backbone": backbone})
        for name, content in {"README.md": "---\nlibrary_name: hubmodels\n---\n", "config.json": config}.items():
            HfApi().upload_file(path_or_fileobj=content.encode(), path_in_repo=name, repo_id=f"acme/{model}")
    return hub


@pytest.fixture
def push(root, monkeypatch):
    monkeypatch.setattr("training.publishing.space.ROOT", root)
    return lambda: push_space(SPACE, namespace="acme")


def test_a_public_space_tells_of_no_private_model(hub, push):
    hub.repo("acme/glass-mvtec-bottle").visibility = "private"
    push()
    assert b"glass-mvtec-bottle" not in hub.files(SPACE, repo_type="space")["README.md"]


def test_the_space_equals_the_folder_after_each_push(hub, root, push):
    addresses = [push(), push()]
    assert addresses == [f"{hub.endpoint}/spaces/{SPACE}"] * 2
    space, files = hub.repo(SPACE, "space"), hub.files(SPACE, repo_type="space")
    here = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert (space.sdk, set(files)) == (
        "gradio",
        here | {"README.md", ID_FILE, ".gitattributes"},
    )  # the last is the Hub's own
    assert files[ID_FILE].decode().strip() == SPACE
    assert space.variables[NAMESPACE_VARIABLE]["value"] == "acme"
    card = SpaceCard(files["README.md"].decode()).data.to_dict()
    assert card["models"] == MODELS
    assert [line.split()[0] for line in card["preload_from_hub"]] == [f"timm/{WRN}", *MODELS]

    writes = [f"{request.method} {request.path.split('?')[0]}" for request in hub.requests]  # the second sent nothing
    assert [commit.title for commit in hub.commits(SPACE, repo_type="space")] == ["Update the demo", "initial commit"]
    assert sum(write.startswith("PUT ") for write in writes) == sum(is_large(path, 1) for path in here) == 2
    assert writes.count(f"POST /api/spaces/{SPACE}/variables") == 1  # each would restart the Space

    hub.edit(SPACE, "packages.txt", b"ffmpeg", repo_type="space")
    space.variables["MINE"] = {"value": "kept"}
    (root / "hubmodels" / "catalog.py").unlink()
    push()
    assert set(hub.files(SPACE, repo_type="space")) == {*files, "packages.txt"} - {"hubmodels/catalog.py"}
    assert set(space.variables) == {"MINE", NAMESPACE_VARIABLE}


def test_a_space_without_namespace_forgets_the_one_it_had():
    api = create_autospec(HfApi, instance=True)
    api.get_space_variables.return_value = {}
    set_namespace(api, SPACE, None)
    assert not api.add_space_variable.called and not api.delete_space_variable.called
    api.get_space_variables.return_value = {NAMESPACE_VARIABLE: SpaceVariable(NAMESPACE_VARIABLE, {"value": "acme"})}
    set_namespace(api, SPACE, None)
    api.delete_space_variable.assert_called_once_with(SPACE, NAMESPACE_VARIABLE)
