"""The categories that can be inspected, from several places in one view; loads by category.

catalog = Catalog.from_namespace("acme") | Catalog.from_folder("runs") | Catalog.bundled()
detectors = catalog.load("mvtec / bottle")  # by method name
"""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Self

from hubmodels.backbone import BackboneError
from hubmodels.comparison import CategoryAppearance
from hubmodels.detector import AnomalyDetector
from hubmodels.hub.errors import ModelError
from hubmodels.hub.listing import Listing, ModelEntry, list_bundle, list_folder, list_namespace
from hubmodels.methods import METHODS

KEPT_CATEGORIES = 4  # with all their methods; a head is 16 MB, the backbone is shared

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
        by_name = {entry.name: entry for listing in reversed(listings) for entry in listing.entries}
        order = list(METHODS)
        self.entries = sorted(by_name.values(), key=lambda e: (e.label, order.index(e.method)))

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
            reasons = "; ".join(dict.fromkeys(self._unloadable[entry] for entry in entries))
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
    detector = METHODS[entry.method].detector.from_pretrained(
        entry.source, revision=entry.revision, backbone_weights=entry.backbone_weights
    )
    if (detector.dataset, detector.category) != (entry.dataset, entry.category):
        raise ModelError(
            f"{entry.source} is named after {entry.label}, but contains a model of {detector.dataset} / "
            f"{detector.category}: its scores would mean nothing"
        )
    return detector
