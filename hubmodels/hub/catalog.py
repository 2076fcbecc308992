"""The models of several places in one view: listed without loading them, loaded by category.

A place is a folder with one folder per model, identified by its `config.json`; or a namespace on the Hub with one
repository per model, named `{method}-{dataset}-{category}`; or the local Hub cache. One unusable model never hides
the others.

catalog = Catalog.from_namespace("acme") | Catalog.from_folder("runs") | Catalog.bundled()
detectors = catalog.load("mvtec / bottle")  # by method name
"""

import json
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Self

from huggingface_hub import HfApi, constants
from huggingface_hub.utils import get_session

from hubmodels import LIBRARY
from hubmodels.backbone import BackboneError
from hubmodels.compactnet import BUNDLED_WEIGHTS
from hubmodels.comparison import CategoryAppearance
from hubmodels.detector import AnomalyDetector
from hubmodels.hub.errors import CLIENT_ERRORS, ModelError, in_words
from hubmodels.hub.files import (
    CONFIG_FILE,
    TITLE_FILE,
    WEIGHTS_FILE,
    cached_models,
    fetch_model,
    model_files,
    older_commit,
)
from hubmodels.methods import METHODS

BUNDLED_MODELS = BUNDLED_WEIGHTS / "models"  # all methods for the sample parts
PATIENCE = 5  # seconds until a Hub that does not answer counts as unreachable
BUNDLE, FOLDER, HUB, CACHE = "bundled", "folder", "Hub", "Hub cache"
LONGEST_TITLE = 200  # characters
KEPT_CATEGORIES = 4  # with all their methods; a head is 16 MB, the backbone is shared


@dataclass(frozen=True)
class ModelEntry:
    """One model that can be loaded.

    Attributes:
        source: its folder or repository id.
        origin: where that is: "bundled", "folder", "Hub" or "Hub cache".
        revision: the commit that was listed and will be loaded, on the Hub; None in a folder.
        title: what people call the category, from a file in its folder; the category itself if there is none.
        written: when the weights in a folder were, so that a model that was trained again is loaded again.
        backbone_weights: file with the backbone's weights; None = bundled, local cache, Hub.
    """

    method: str
    dataset: str
    category: str
    source: str
    origin: str = FOLDER
    revision: str | None = None
    backbone_weights: str | Path | None = None
    written: int | None = None
    title: str | None = None

    @property
    def label(self) -> str:
        """What a user chooses: all methods of a category share it."""
        return f"{self.dataset} / {self.title or self.category}"

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


Place = Callable[[], Listing]


class Catalog:
    """Models by category, each loaded when first asked for; catalogs add up by `|`.

    Where two places have a model for the same method and category, the first place's is used. A place that cannot be
    listed becomes a notice; `refresh` tries it again.

    Args:
        places: functions that list the models of a place; made by `bundled`, `from_folder` and `from_namespace`.

    Attributes:
        entries: by dataset, category and method.
        notices: what concerns a whole place: it could not be listed, or only from the cache.
    """

    def __init__(self, *places: Place) -> None:
        self._listings: dict[Place, Listing] = dict.fromkeys(places, Listing())
        self._unloadable: dict[ModelEntry, str] = {}
        self._appearances: dict[ModelEntry, CategoryAppearance] = {}
        self._refreshing, self._learning = threading.Lock(), threading.Lock()
        self._locks = defaultdict(threading.Lock)
        self._listed_at = -math.inf
        self._read = lru_cache(KEPT_CATEGORIES * len(METHODS))(_read)  # of this catalog; failures are not kept
        self.refresh()

    def __or__(self, other: "Catalog") -> "Catalog":
        """The models of both; of two for the same method and category this catalog's is used."""
        both = Catalog()
        both._listings = self._listings | other._listings
        both._join()
        return both

    @classmethod
    def bundled(cls) -> Self:
        """The models that come with this package: the sample parts of `training/parts`, on the compact backbone."""
        return cls(list_bundle)

    @classmethod
    def from_folder(cls, path: str | Path, backbone_weights: str | Path | None = None) -> Self:
        """The models in a folder of model folders; a single model folder will do.

        Raises:
            ModelError: no such folder, or no usable model in it; the message has a remedy.
        """
        return cls._not_empty(partial(list_folder, path, backbone_weights))

    @classmethod
    def from_namespace(cls, namespace: str, backbone_weights: str | Path | None = None) -> Self:
        """The models that a user or organisation published on the Hub; those in the cache where it cannot be asked.

        Raises:
            ModelError: there are none; the message has a remedy.
        """
        return cls._not_empty(partial(list_namespace, namespace, backbone_weights))

    @classmethod
    def from_repository(cls, repository: str, backbone_weights: str | Path | None = None) -> Self:
        """One model on the Hub, at its present commit; it is downloaded.

        Raises:
            ModelError: it cannot be loaded; the message has a remedy.
        """
        return cls._not_empty(partial(list_repository, repository, backbone_weights))

    @classmethod
    def _not_empty(cls, place: Place) -> Self:
        catalog = cls(place)
        if not catalog.entries:
            raise ModelError("; ".join(catalog.notices))
        return catalog

    @property
    def problems(self) -> dict[str, str]:
        """Why a model cannot be used, by its source; loading adds to it."""
        listed = {s: reason for listing in self._listings.values() for s, reason in listing.problems.items()}
        return listed | {e.source: self._unloadable[e] for e in self.entries if e in self._unloadable}

    @property
    def is_local(self) -> bool:
        """Whether all places are on this computer, so that listing them is fast."""
        return not any(getattr(place, "func", place) in (list_namespace, list_repository) for place in self._listings)

    def categories(self) -> list[str]:
        """Labels of all categories, such as "mvtec / screw"."""
        return list(dict.fromkeys(entry.label for entry in self.entries))

    def __str__(self) -> str:
        """One line per model: category, method, where it is, commit."""
        rows = [(e.label, e.method, e.origin, e.source, (e.revision or "")[:12]) for e in self.entries]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, *self.notices, *(f"{source}: {reason}" for source, reason in self.problems.items())])

    def refresh(self, older_than: float = 0) -> None:
        """Lists all places again, where that was longer ago than so many seconds.

        A place that fails this time keeps its models and becomes a notice. A call while another one is listing returns
        at once.
        """
        if time.monotonic() - self._listed_at < older_than or not self._refreshing.acquire(blocking=False):
            return
        try:
            for place, before in self._listings.items():
                try:
                    self._listings[place] = place()
                except ModelError as error:
                    self._listings[place] = Listing(before.entries, before.problems, [str(error)])
            self._listed_at = time.monotonic()
            self._join()
        finally:
            self._refreshing.release()

    def _join(self) -> None:
        listings = list(self._listings.values())
        self.notices = [notice for listing in listings for notice in listing.notices]
        first = {(e.label, e.method): e for listing in reversed(listings) for e in listing.entries}
        order = list(METHODS)
        self.entries = sorted(first.values(), key=lambda e: (e.label, order.index(e.method)))

    def load(self, label: str) -> dict[str, AnomalyDetector]:
        """The category's detectors by method name, in the order of `METHODS`; one that fails to load is left out.

        Raises:
            ModelError: no such category, or none of its models can be loaded.
        """
        entries = [entry for entry in self.entries if entry.label == label]
        if not entries:
            raise ModelError(f"there is no category {label!r}; choose one of: {', '.join(self.categories())}")
        with self._locks[label]:  # visitors of one category load it once, and wait for no other category
            loaded = {entry.method: self._try(entry) for entry in entries}
        detectors = {method: detector for method, detector in loaded.items() if detector is not None}
        if not detectors:
            known = [self._unloadable[e] for e in entries if e in self._unloadable]  # unless it loads by now
            reasons = "; ".join(dict.fromkeys(known)) or "try again"
            raise ModelError(f"no model of {label} can be loaded: {reasons}")
        return detectors

    def appearances(self) -> dict[str, CategoryAppearance]:
        """The appearance of each category by its label, for `rank_categories`: so small that all are kept.

        The first call loads a model of every category; categories without a model that loads are left out.
        """
        with self._learning:
            self._appearances = {e: known for e, known in self._appearances.items() if e in self.entries}
            for entry in self.entries:
                is_known = entry.label in {other.label for other in self._appearances}
                if not is_known and entry not in self._unloadable and (detector := self._try(entry)) is not None:
                    self._appearances[entry] = CategoryAppearance(detector.front_end, detector.appearance)
            return {entry.label: known for entry, known in self._appearances.items()}

    def _try(self, entry: ModelEntry) -> AnomalyDetector | None:
        try:
            detector = self._read(entry)
        except (ModelError, BackboneError) as error:
            self._unloadable[entry] = str(error)
            return None
        self._unloadable.pop(entry, None)
        return detector


def _read(entry: ModelEntry) -> AnomalyDetector:
    from_pretrained = partial(
        METHODS[entry.method].detector.from_pretrained, entry.source, backbone_weights=entry.backbone_weights
    )
    try:
        detector = from_pretrained(revision=entry.revision)
    except ModelError as error:
        older = older_commit(entry.source, error.__cause__) if entry.origin == HUB else None
        if older is None:
            raise
        detector = from_pretrained(revision=older)
    if (detector.dataset, detector.category) != (entry.dataset, entry.category):
        raise ModelError(
            f"{entry.source} is named after {entry.label}, but contains a model of {detector.dataset} / "
            f"{detector.category}: its scores would mean nothing"
        )
    return detector


def find_models(name: str | Path, category: str | None = None) -> tuple[Catalog, str]:
    """The models that a person means, and the label of their category.

    Args:
        name: a folder of models, a bundled category such as "parts / washer", or `user/name` on the Hub.
        category: of a folder with models of several categories.

    Raises:
        ModelError: there are no such models, or of several categories; the message has a remedy.
    """
    if Path(name).is_dir():
        catalog = Catalog.from_folder(name)
    elif find_category(str(name), (bundled := Catalog.bundled()).categories()):
        catalog, category = bundled, str(name)
    else:
        catalog = Catalog.from_repository(str(name))
    labels = catalog.categories()
    label = find_category(category, labels) if category else (labels[0] if len(labels) == 1 else None)
    if label is None:
        missing = f"has no category {category!r}" if category else "has models of several categories"
        raise ModelError(f"{name} {missing}; choose one of: {', '.join(labels)}")
    return catalog, label


def find_category(wanted: str | None, labels: Sequence[str]) -> str | None:
    """The label that is meant: the same with or without spaces, or with this last part if only one has it."""
    squeezed = _squeezed(wanted or "")
    named = [label for label in labels if _squeezed(label) == squeezed]
    shorter = [label for label in labels if _squeezed(label.split(" / ")[-1]) == squeezed]
    return next(iter(named or (shorter if len(shorter) == 1 else [])), None)


def _squeezed(name: str) -> str:
    return "".join(name.lower().split())


def list_bundle() -> Listing:
    """The models that come with this package: the sample parts of `training/parts`, on the compact backbone."""
    return _read_listing(_model_folders(BUNDLED_MODELS), _folder_identity, origin=BUNDLE)


def list_folder(path: str | Path, backbone_weights: str | Path | None = None) -> Listing:
    """The models in a folder of model folders; a single model folder will do.

    Raises:
        ModelError: no such folder, or no usable model in it; the message has a remedy.
    """
    root = Path(path)
    try:
        if not root.is_dir():
            raise ModelError(f"{root} is not a folder: give the folder that training wrote to, such as runs")
        folders = _model_folders(root)
    except OSError as error:
        raise ModelError(f"{root} cannot be read ({error.strerror}): give a folder that you may read") from error
    listing = _read_listing(folders, _folder_identity, origin=FOLDER, backbone_weights=backbone_weights)
    if not listing.entries:
        reasons = "".join(f"\n  {source}: {reason}" for source, reason in listing.problems.items())
        raise ModelError(f"{root} contains no usable model folder: train one, or give another folder{reasons}")
    return listing


def list_own(path: str | Path, backbone_weights: str | Path | None = None) -> Listing:
    """As `list_folder`, for a folder that may be empty or not there yet."""
    root = Path(path)
    with suppress(OSError):  # `list_folder` names the cause
        if not (root.is_dir() and _model_folders(root)):
            return Listing()
    return list_folder(root, backbone_weights)


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


def list_repository(repository: str, backbone_weights: str | Path | None = None) -> Listing:
    """One model on the Hub, however its repository is called; it is downloaded, or comes from the local cache.

    Raises:
        ModelError: it cannot be loaded; the message has a remedy.
    """
    config_file, _ = fetch_model(repository)
    try:
        identity = _folder_identity(str(config_file.parent))
    except ValueError as error:
        raise ModelError(f"{repository}: {error}") from error
    revision = config_file.parent.name  # the cache has a folder for each commit
    return Listing([ModelEntry(*identity, repository, HUB, revision, backbone_weights)])


def _model_folders(root: Path) -> list[str]:
    folders = [root] if _is_model(root) else sorted(filter(_is_model, root.iterdir()))
    return [str(folder) for folder in folders]


def _is_model(path: Path) -> bool:
    """Either file makes a model folder: a folder without the other one is damaged and must be reported."""
    try:
        return (path / CONFIG_FILE).is_file() or (path / WEIGHTS_FILE).is_file()
    except PermissionError:  # must be reported, too
        return True


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
            known = {"revision": (revisions or {}).get(source), "written": _written(source, common["origin"])}
            entry = ModelEntry(*identity, source, **known, title=_title(source, common["origin"]), **common)
            if any(other.label == entry.label and other.category != entry.category for other in entries.values()):
                problems[source] = f"another part has the title {entry.title}: it is shown as {entry.category}"
                entry = replace(entry, title=None)
            entries[identity] = entry
    return Listing(list(entries.values()), problems)


def _written(source: str, origin: str) -> int | None:
    if origin != FOLDER:
        return None
    try:
        return Path(source, WEIGHTS_FILE).stat().st_mtime_ns
    except OSError:  # it is gone meanwhile
        return None


def _folder_identity(folder: str) -> tuple[str, str, str]:
    try:
        config = json.loads((Path(folder) / CONFIG_FILE).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ValueError(f"{CONFIG_FILE} is missing") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{CONFIG_FILE} is damaged ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG_FILE} is damaged (not a JSON object)")
    identity = _checked(*(config.get(key) for key in ("method", "dataset", "category")))
    try:
        model_files(Path(folder))
    except ModelError as error:
        raise ValueError(str(error)) from error
    return identity


def _title(source: str, origin: str) -> str | None:
    if origin != FOLDER:
        return None
    try:
        with (Path(source) / TITLE_FILE).open(encoding="utf-8") as file:
            return " ".join(file.read(LONGEST_TITLE).split()) or None
    except (OSError, ValueError):  # most models have none
        return None


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
