"""Lists the models of a place, without loading them: a folder, a namespace on the Hub, or the local Hub cache.

A folder contains one folder per model, identified by its `config.json`. A namespace contains one repository per model,
named `{method}-{dataset}-{category}`. One unusable model never hides the others.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.utils import get_session

from hubmodels import LIBRARY
from hubmodels.compactnet import BUNDLED_WEIGHTS
from hubmodels.hub.errors import CLIENT_ERRORS, ModelError, in_words
from hubmodels.hub.files import CONFIG_FILE, WEIGHTS_FILE, cached_models
from hubmodels.methods import METHODS

BUNDLED_MODELS = BUNDLED_WEIGHTS / "models"  # all methods for the sample parts
PATIENCE = 5  # seconds until a Hub that does not answer counts as unreachable
BUNDLE, FOLDER, HUB, CACHE = "bundled", "folder", "Hub", "Hub cache"


@dataclass(frozen=True)
class ModelEntry:
    """One model that can be loaded.

    Attributes:
        source: its folder or repository id.
        origin: where that is: "bundled", "folder", "Hub" or "Hub cache".
        revision: the commit that was listed and will be loaded, on the Hub; None in a folder.
        backbone_weights: file with the backbone's weights; None = bundled, local cache, Hub.
    """

    method: str
    dataset: str
    category: str
    source: str
    origin: str = FOLDER
    revision: str | None = None
    backbone_weights: str | Path | None = None

    @property
    def label(self) -> str:
        """What a user chooses: all methods of a category share it."""
        return f"{self.dataset} / {self.category}"

    @property
    def name(self) -> str:
        """As its folder or repository is called."""
        return model_name(self.method, self.dataset, self.category)


@dataclass
class Listing:
    """The models of one place, why others cannot be used (by source), and notices about the place itself."""

    entries: list[ModelEntry] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def model_name(method: str, dataset: str, category: str) -> str:
    """The name of a model's folder and repository; only a category may contain dashes."""
    return f"{method}-{dataset}-{category}"


def list_bundle() -> Listing:
    """The models that come with this package: the sample parts of `training/parts`, on the compact backbone."""
    return _read_listing(_model_folders(BUNDLED_MODELS), _folder_identity, origin=BUNDLE)


def list_folder(path: str | Path, backbone_weights: str | Path | None = None) -> Listing:
    """The models in a folder of model folders; a single model folder will do.

    Raises:
        ModelError: no such folder, or no usable model in it; the message has a remedy.
    """
    root = Path(path)
    if not root.is_dir():
        raise ModelError(f"{root} is not a folder: give the folder that training wrote to, such as runs")
    listing = _read_listing(_model_folders(root), _folder_identity, backbone_weights=backbone_weights)
    if not listing.entries:
        reasons = "".join(f"\n  {source}: {reason}" for source, reason in listing.problems.items())
        raise ModelError(f"{root} contains no usable model folder: train one, or give another folder{reasons}")
    return listing


def list_namespace(namespace: str, backbone_weights: str | Path | None = None) -> Listing:
    """The models that a user or organisation published on the Hub, each pinned to its present commit.

    Where the Hub cannot be reached, the models of the namespace in the local cache, with a notice.

    Raises:
        ModelError: there are none; the message has a remedy.
    """
    origin, notices = HUB, []
    try:
        get_session().head(
            constants.ENDPOINT, timeout=PATIENCE
        )  # otherwise the client tries for 23 s before it gives up
        models = HfApi(library_name=LIBRARY).list_models(author=namespace, filter=LIBRARY, expand=["sha"])
        repositories = {model.id: model.sha for model in models}
    except CLIENT_ERRORS as error:
        origin, cached = CACHE, cached_models()
        repositories = {name: commit for name, commit in cached.items() if name.startswith(f"{namespace}/")}
        notices = [f"the models of {namespace!r} on the Hub could not be listed: {in_words(error)}"]
        if repositories:
            notices = [f"{notices[0]}; these are the {len(repositories)} in the local cache"]
    listing = _read_listing(
        sorted(repositories), _repository_identity, repositories, origin=origin, backbone_weights=backbone_weights
    )
    listing.notices = notices
    if not listing.entries:
        reason = "".join(notices) or f"{namespace!r} has no models of this library on the Hub that this login may see"
        raise ModelError(f"{reason}: check the name, the login and the connection, or give a local folder of models")
    return listing


def _model_folders(root: Path) -> list[str]:
    folders = [root] if _is_model(root) else sorted(filter(_is_model, root.iterdir()))
    return [str(folder) for folder in folders]


def _is_model(path: Path) -> bool:
    """Either file makes a model folder: a folder without the other one is damaged and must be reported."""
    return (path / CONFIG_FILE).is_file() or (path / WEIGHTS_FILE).is_file()


def _read_listing(
    sources: Iterable[str], read_identity: Callable, revisions: dict[str, str] | None = None, **common
) -> Listing:
    """Sources, and what reads (method, dataset, category) of one -> the usable models, and the problems."""
    entries, problems = {}, {}
    for source in sources:
        try:
            identity = read_identity(source)
        except (ValueError, OSError) as error:
            problems[source] = str(error)
            continue
        if identity in entries:
            problems[source] = f"{entries[identity].source} is the same {entries[identity].name}, and is used"
        else:
            entries[identity] = ModelEntry(*identity, source, revision=(revisions or {}).get(source), **common)
    return Listing(list(entries.values()), problems)


def _folder_identity(folder: str) -> tuple[str, str, str]:
    try:
        config = json.loads((Path(folder) / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{CONFIG_FILE} is missing") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{CONFIG_FILE} is damaged ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG_FILE} is damaged (not a JSON object)")
    return _checked(*(config.get(key) for key in ("method", "dataset", "category")))


def _repository_identity(repository: str) -> tuple[str, str, str]:
    parts = repository.split("/")[-1].split("-", 2)  # a category may contain dashes
    if len(parts) < 3:
        raise ValueError("the repository's name is not {method}-{dataset}-{category}")
    return _checked(*parts)


def _checked(method, dataset, category) -> tuple[str, str, str]:
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"its method is {method!r}, not one of this library ({', '.join(METHODS)})")
    if not (isinstance(dataset, str) and dataset and isinstance(category, str) and category):
        raise ValueError(f"its {CONFIG_FILE} or name contains no dataset and category, so nobody could choose it")
    return method, dataset, category
