"""Which (method, dataset, category) models exist: bundled, in a local folder, in a Hub namespace; loads by category.

A folder holds one model folder per model and names its identity in `config.json`; a namespace holds one repository per
model and names it `{method}-{dataset}-{category}`. One unusable model never hides the others: see `Catalog.problems`.
"""

import json
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Self

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx

from hubmodels.backbone import BUNDLED_WEIGHTS, BackboneError
from hubmodels.detector import CONFIG_FILE, WEIGHTS_FILE, AnomalyDetector, ModelError
from hubmodels.glass import GLASS
from hubmodels.simplenet import SimpleNet

METHODS: dict[str, type[AnomalyDetector]] = {c.method: c for c in (SimpleNet, GLASS)}  # in the order of all listings
KEPT_DETECTORS = 8  # four categories; a head is 16 MB, the backbone is shared
BUNDLED_MODELS = BUNDLED_WEIGHTS / "models"  # both methods for the sample parts
HUB_TAG = "hubmodels"  # the library name in a published model's card


@dataclass(frozen=True)
class ModelEntry:
    """One model that can be loaded; `source` is its folder or repository id, `backbone_weights` as in loading it."""

    method: str
    dataset: str
    category: str
    source: str
    backbone_weights: str | Path | None = None

    @property
    def label(self) -> str:
        """What a user chooses: all methods of a category share it."""
        return f"{self.dataset} / {self.category}"


class Catalog:
    """Models by category, each loaded when first asked for; catalogs add up by `|`.

    Make one by `bundled`, `from_folder` or `from_namespace`.

    Attributes:
        entries: by dataset, category and method.
        problems: why a model cannot be used, by its source; loading may add to it.
    """

    def __init__(
        self, entries: list[ModelEntry], problems: dict[str, str], backbone_weights: str | Path | None = None
    ) -> None:
        order = list(METHODS)
        entries = [replace(e, backbone_weights=e.backbone_weights or backbone_weights) for e in entries]
        self.entries = sorted(entries, key=lambda e: (e.label, order.index(e.method), e.source))
        self.problems = problems
        self._read = lru_cache(KEPT_DETECTORS)(self._read)  # of this catalog; failures are not kept
        self._lock = threading.Lock()

    def __or__(self, other: "Catalog") -> "Catalog":
        """The models of both; of two for the same method and category this catalog's is used, the other named."""
        own = {(e.method, e.label): e for e in self.entries}
        twins = [(e, own[e.method, e.label]) for e in other.entries if (e.method, e.label) in own]
        doubled = {e.source: _doubled(used) for e, used in twins}
        added = [e for e in other.entries if e.source not in doubled]
        return Catalog([*self.entries, *added], {**self.problems, **other.problems, **doubled})

    @classmethod
    def bundled(cls) -> Self:
        """The models that come with this package: the sample parts of `training/parts.py`, on the compact backbone."""
        return cls.from_folder(BUNDLED_MODELS)

    @classmethod
    def from_folder(cls, path: str | Path, backbone_weights: str | Path | None = None) -> Self:
        """The models in a folder of model folders; a single model folder will do.

        Raises:
            ModelError: no such folder, or no usable model in it; the message says what to do.
        """
        root = Path(path)
        if not root.is_dir():
            raise ModelError(f"{root} is not a folder: give the folder that training wrote to, such as runs")
        folders = [root] if _is_model(root) else sorted(filter(_is_model, root.iterdir()))
        entries, problems = _sorted_out((str(folder), _folder_identity) for folder in folders)
        if not entries:
            reasons = "".join(f"\n  {source}: {reason}" for source, reason in problems.items())
            raise ModelError(f"{root} holds no usable model folder: train one, or give another folder{reasons}")
        return cls(entries, problems, backbone_weights)

    @classmethod
    def from_namespace(cls, namespace: str, backbone_weights: str | Path | None = None) -> Self:
        """The models that a user or organisation published on the Hub.

        Raises:
            ModelError: the Hub cannot be asked, or lists no model there; the message says what to do.
        """
        try:
            repositories = [model.id for model in HfApi().list_models(author=namespace, filter=HUB_TAG)]
        except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
            raise ModelError(
                f"the models of {namespace!r} on the Hub could not be listed ({type(error).__name__}): check the name "
                "and the connection, or give a local folder of models"
            ) from error
        entries, problems = _sorted_out((repository, _repository_identity) for repository in sorted(repositories))
        if not entries:
            raise ModelError(
                f"{namespace!r} has no models of this library on the Hub: check the name, or give a local folder"
            )
        return cls(entries, problems, backbone_weights)

    def categories(self) -> list[str]:
        """Labels of all categories, such as "mvtec / screw"."""
        return list(dict.fromkeys(entry.label for entry in self.entries))

    def load(self, label: str) -> list[AnomalyDetector]:
        """The category's detectors, SimpleNet before GLASS; one that cannot be loaded is left out.

        Raises:
            ModelError: no such category, or none of its models can be loaded.
        """
        entries = [entry for entry in self.entries if entry.label == label]
        if not entries:
            raise ModelError(f"there is no category {label!r}; choose one of: {', '.join(self.categories())}")
        with self._lock:
            detectors = [detector for entry in entries if (detector := self._try(entry)) is not None]
        if not detectors:
            reasons = "; ".join(dict.fromkeys(self.problems[entry.source] for entry in entries))
            raise ModelError(f"no model of {label} can be loaded: {reasons}")
        return detectors

    def _try(self, entry: ModelEntry) -> AnomalyDetector | None:
        try:
            detector = self._read(entry)
        except (ModelError, BackboneError) as error:
            self.problems[entry.source] = str(error)
            return None
        self.problems.pop(entry.source, None)
        return detector

    def _read(self, entry: ModelEntry) -> AnomalyDetector:
        return METHODS[entry.method].from_pretrained(entry.source, backbone_weights=entry.backbone_weights)


def _is_model(path: Path) -> bool:
    """Either file makes a model folder: one that lost the other is damaged, and must be named, not overlooked."""
    return (path / CONFIG_FILE).is_file() or (path / WEIGHTS_FILE).is_file()


def _sorted_out(sources) -> tuple[list[ModelEntry], dict[str, str]]:
    """(source, function that reads its identity) pairs -> entries, and problems by source."""
    entries, problems = {}, {}
    for source, read_identity in sources:
        try:
            identity = read_identity(source)
        except (ValueError, OSError) as error:
            problems[source] = str(error)
            continue
        if identity in entries:
            problems[source] = _doubled(entries[identity])
        else:
            entries[identity] = ModelEntry(*identity, source)
    return list(entries.values()), problems


def _doubled(used: ModelEntry) -> str:
    return f"{used.source} is the same {used.method}-{used.dataset}-{used.category}, and is used"


def _folder_identity(folder: str) -> tuple[str, str, str]:
    try:
        config = json.loads((Path(folder) / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{CONFIG_FILE} is missing") from error
    except ValueError as error:
        raise ValueError(f"{CONFIG_FILE} is damaged ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG_FILE} is damaged (not a JSON object)")
    return _checked(*(config.get(key) for key in ("method", "dataset", "category")))


def _repository_identity(repository: str) -> tuple[str, str, str]:
    parts = repository.split("/")[-1].split("-", 2)  # a category may hold dashes
    if len(parts) < 3:
        raise ValueError("the repository's name is not {method}-{dataset}-{category}")
    return _checked(*parts)


def _checked(method, dataset, category) -> tuple[str, str, str]:
    if method not in METHODS:
        raise ValueError(f"its method is {method!r}, not one of this library ({', '.join(METHODS)})")
    if not (isinstance(dataset, str) and dataset and isinstance(category, str) and category):
        raise ValueError(f"its {CONFIG_FILE} or name tells no dataset and category, so nobody could choose it")
    return method, dataset, category
