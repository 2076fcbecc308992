"""The Hugging Face Space of the demo: its folder, and how it is pushed.

The builder of a Space installs `requirements.txt` only. So the library is copied into the folder, next to `app.py`.
"""

import json
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, SpaceCard, SpaceCardData

from hubmodels import LIBRARY, REPOSITORY
from hubmodels.backbone import hub_repository
from hubmodels.compactnet import BUNDLED_WEIGHTS
from hubmodels.hub.catalog import Catalog
from hubmodels.hub.files import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from hubmodels.methods import METHODS
from training.publishing.card import require_templates
from training.publishing.licences import IMAGENET
from training.publishing.publish import client_call

ROOT = Path(__file__).parents[2]
FOLDERS = ("webapp", "hubmodels", "training", "model_cards", "examples")
CONTENT = ("app.py", *FOLDERS, "requirements.txt", "LICENSE", "NOTICE.md")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*")
PYTHON = "3.12"  # the builder's default, 3.10, is too old
NAMESPACE_VARIABLE = "HUBMODELS_NAMESPACE"  # app.py reads it
ID_FILE = "space_id.txt"  # app.py reads it: in a duplicate of the Space it is another Space's id
SCOPES = ["contribute-repos"]  # of a visitor's login: to make repositories, and to write to these only
OWNED = [f"{name}/*" for name in FOLDERS]  # files deleted here are deleted from the Space, too


def assemble_space(
    target: Path,
    *,
    repo_id: str | None = None,
    namespace: str | None = None,
    models: Sequence[str] = (),
    backbones: Sequence[str] = (),
) -> Path:
    """Fills a new or empty folder with all that the Space needs; returns it.

    Args:
        repo_id: of the Space; with it a duplicate can be recognised.
        namespace: who published the models; without it the demo shows the bundled ones.
        models: their repository ids.
        backbones: names of the backbones that they need.

    Raises:
        ValueError: the folder is not empty.
    """
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise ValueError(f"{target} is not empty: use a new folder")
    for source in (ROOT / name for name in CONTENT):
        if source.is_dir():
            shutil.copytree(source, target / source.name, ignore=LEFT_OUT)
        else:
            shutil.copy(source, target)
    if repo_id:
        (target / ID_FILE).write_text(f"{repo_id}\n", encoding="utf-8")
    settings = _settings(models, backbones)
    values = {"namespace": namespace, "variable": NAMESPACE_VARIABLE, "repository": REPOSITORY}
    values |= {"methods": list(METHODS.values()), "imagenet": IMAGENET}
    SpaceCard.from_template(settings, require_templates() / "space.md", **values).save(target / CARD_FILE)
    return target


def push_space(repo_id: str, *, namespace: str | None = None, private: bool = False) -> str:
    """Creates or updates a Space that shows the models of a namespace; returns its address.

    Its variables, secrets, hardware and files of other names remain. Its README.md is written again.

    Args:
        namespace: who published the models; None: the demo shows the bundled ones.
        private: make a new Space private; only a private Space names private models.
    """
    api = HfApi(library_name=LIBRARY)
    shown = published(namespace, api, private) if namespace else {}
    url = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    set_namespace(api, repo_id, namespace)  # before the files, whose commit starts the first build
    with TemporaryDirectory() as folder:
        assemble_space(Path(folder), repo_id=repo_id, namespace=namespace, **shown)
        with client_call():
            api.upload_folder(
                repo_id=repo_id,
                repo_type="space",
                folder_path=folder,
                delete_patterns=OWNED,
                commit_message="Update the demo",
            )
    return str(url)


def published(namespace: str, api: HfApi, private: bool = False) -> dict[str, list[str]]:
    """The models that the demo will find in a namespace, and their backbones, as `assemble_space` takes them.

    Args:
        private: name private models, too. The builder cannot download them, and a public Space must not name them.

    Raises:
        ModelError: there are none, or the Hub cannot be reached; the message has the remedy.
    """
    models = [entry.source for entry in Catalog.from_namespace(namespace).entries]
    if not private:
        models = [model for model in models if not api.model_info(model, expand=["private"]).private]
    configs = (
        json.loads(Path(api.hf_hub_download(model, CONFIG_FILE)).read_text(encoding="utf-8")) for model in models
    )
    return {"models": models, "backbones": sorted({config["backbone"] for config in configs})}


def set_namespace(api: HfApi, repo_id: str, namespace: str | None) -> None:
    """Sets the variable with whose models the Space shows; only if it differs, because a change restarts the Space."""
    variable = api.get_space_variables(repo_id).get(NAMESPACE_VARIABLE)
    if namespace and (variable is None or variable.value != namespace):
        api.add_space_variable(repo_id, NAMESPACE_VARIABLE, namespace, description="whose models the demo shows")
    elif variable and not namespace:
        api.delete_space_variable(repo_id, NAMESPACE_VARIABLE)


def _settings(models: Sequence[str], backbones: Sequence[str]) -> SpaceCardData:
    """The front matter, https://huggingface.co/docs/hub/spaces-config-reference."""
    fetched = [name for name in backbones if not (BUNDLED_WEIGHTS / f"{name}.safetensors").is_file()]
    preloaded = [f"{hub_repository(name)} {WEIGHTS_FILE}" for name in fetched]
    preloaded += [f"{model} {CONFIG_FILE},{WEIGHTS_FILE}" for model in models]
    return SpaceCardData(
        title=", ".join(method.title for method in METHODS.values()) + ": anomaly detection side by side",
        emoji="🔩",
        colorFrom="green",
        colorTo="yellow",
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=PYTHON,
        app_file="app.py",
        pinned=False,
        license="apache-2.0",  # of what the Space contains; models of the Hub have their licences on their cards
        short_description="Is this part good? Anomaly detectors compared",  # 60 characters at most
        suggested_hardware="cpu-basic",
        hf_oauth=True,  # with it visitors can push the parts that they taught to their own accounts
        hf_oauth_scopes=SCOPES,
        tags=["anomaly-detection", "industrial-inspection", LIBRARY],
        models=list(models) or None,
        preload_from_hub=preloaded or None,  # into the builder's Hub cache, so that no visitor waits for it
    )
