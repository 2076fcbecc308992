"""One picture, inspected by all methods of a category; and the choice of the category, the same in every tab."""

import math
import secrets
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

import gradio as gr
import numpy as np
from PIL import Image

from hubmodels import (
    AnomalyDetector,
    AnomalyPrediction,
    AppearanceCheck,
    PreparedPicture,
    check_appearance,
    compare,
    rank_categories,
)
from hubmodels.appearance import BRIGHT, DARK
from hubmodels.hub.catalog import BUNDLE, CACHE, FOLDER, HUB, Catalog
from hubmodels.methods import METHODS
from hubmodels.pictures import Picture
from hubmodels.prediction import pictures_needed
from hubmodels.setup_change import CELL, GRID, WINDOW, setup_changed
from webapp.own_parts import DATASET
from webapp.texts import LANGUAGES, LOOK, label, part_words, percent, translate, translate_plainly

# Events that use a model share one place in Gradio's queue. A batch has its own place, otherwise nobody else could
# inspect while it runs. A batch and the other events then take turns (`_turn`), one picture each.
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
UNSURE, MOST_UNSURE = 5, 0.5  # times the accepted rate: which good parts a person has to look at again; at most half
BATCH = {"concurrency_id": "batch", "concurrency_limit": 1}
_turn = threading.Lock()


@dataclass(frozen=True, eq=False)
class Inspection:
    """The results of all methods of a category for one picture.

    Attributes:
        picture: upright RGB, of the size of every anomaly map.
        appearance: whether the picture looks like the category, and whether its quality is sufficient.
        detectors, predictions: by the method's title, in the order of `METHODS`.
    """

    picture: Image.Image
    appearance: AppearanceCheck
    detectors: dict[str, AnomalyDetector]
    predictions: dict[str, AnomalyPrediction]

    def at_rate(self, false_alarm_rate: float | None) -> dict[str, AnomalyPrediction]:
        """The predictions at another false-alarm rate; None = the rate that each method was calibrated for."""
        return {name: decided(self.detectors[name], p, false_alarm_rate) for name, p in self.predictions.items()}

    def record(self, category: str, rate: float | None = None) -> dict:
        """All results as numbers, ready for JSON."""
        return {
            "category": category,
            "width": self.picture.width,
            "height": self.picture.height,
            "false_alarm_rate": rate,  # None: the rate that each model was calibrated for
            "appearance_matches": self.appearance.matches,
            "warnings": list(self.appearance.warnings),
            **_together(self.predictions),
            "methods": {name: self._numbers(name, rate) for name in self.predictions},
        }

    def _numbers(self, method: str, rate: float | None) -> dict:
        calibration, least = self.detectors[method].calibration, self.detectors[method].least_size
        guaranteed, bound = (
            (calibration.guaranteed_rate(rate), calibration.bound(rate)) if calibration.size else [None] * 2
        )
        promised = {"guaranteed_false_alarm_rate": guaranteed, "false_alarm_rate_bound": bound}
        return self.predictions[method].numbers() | promised | {"least_size": least and least.pixels}

    @property
    def agree(self) -> bool | None:
        """Whether all verdicts are the same; None if there are fewer than two."""
        return all_agree(self.predictions)


def _together(predictions: Mapping[str, AnomalyPrediction]) -> dict:
    """The verdicts of all methods as numbers."""
    verdicts = count_verdicts(predictions)
    counts = {"verdicts": verdicts.total(), "defective_verdicts": verdicts[True]}
    return {"agree": all_agree(predictions), **counts, "look_again": needs_look(predictions)}


DECIDED = ("is_anomalous", "is_unsure", "p_value", "threshold", "unsure_threshold", "score_level")  # without a map


def judged_again(record: dict, detectors: Mapping[str, AnomalyDetector]) -> dict:
    """A record with the verdicts of the detectors' present thresholds; only its scores are needed.

    Regions cannot be counted again without the map. Where a threshold differs, `earlier_regions` says so.

    Args:
        detectors: by title, those that gave the scores.
    """
    rate, before = record["false_alarm_rate"], record["methods"]
    scored = {n: AnomalyPrediction(numbers["image_score"], np.zeros((1, 1))) for n, numbers in before.items()}
    now = {name: decided(detectors[name], p, rate) for name, p in scored.items()}
    methods = {n: before[n] | {key: p.numbers()[key] for key in DECIDED} for n, p in now.items()}
    is_moved = any(methods[name]["threshold"] != before[name]["threshold"] for name in methods)
    earlier = {"earlier_regions": True} if is_moved else {}
    return record | _together(now) | {"methods": methods} | earlier


class SetupWatch:
    """Notices over the pictures of a batch that camera, light or position may have changed; keeps small maps only.

    Args:
        rate: the false-alarm rate of the inspections; None = the calibrated ones.

    Attributes:
        changed: whether any row of pictures so far suggested it, for any method.
    """

    def __init__(self, rate: float | None) -> None:
        self.changed = False
        self._rate, self._last = rate, defaultdict(lambda: deque(maxlen=WINDOW))

    def add(self, inspection: Inspection) -> None:
        """Takes the next picture into account, unless it shows something else in the usual light."""
        if inspection.appearance.matches is False and not {DARK, BRIGHT} & set(inspection.appearance.warnings):
            return
        for method, prediction in inspection.predictions.items():
            last, calibration = self._last[method], inspection.detectors[method].calibration
            last.append(prediction.at_most(CELL * GRID))
            self.changed = self.changed or setup_changed(list(last), calibration, self._rate)


def inspect_picture(
    catalog: Catalog,
    category: str | None,
    picture: Picture | PreparedPicture,
    rate: float | None = None,
    methods: list | None = None,
) -> Inspection:
    """Inspects a picture with these methods, at this false-alarm rate or at the calibrated ones.

    Args:
        methods: as `load_methods`.

    Raises:
        PictureError, ModelError, BackboneError: the message contains the remedy.
        ValueError: the rate is not in (0, 1).
    """
    prepared = picture if isinstance(picture, PreparedPicture) else PreparedPicture(picture)
    loaded = load_methods(catalog, category, methods)
    with _turn:
        predictions, appearance = compare(loaded, prepared), check_appearance(loaded, prepared)
    titles = method_titles()
    detectors = {titles[name]: detector for name, detector in loaded.items()}
    verdicts = {titles[name]: decided(loaded[name], p, rate) for name, p in predictions.items()}
    return Inspection(prepared.picture, appearance, detectors, verdicts)


def decided(detector: AnomalyDetector, prediction: AnomalyPrediction, rate: float | None) -> AnomalyPrediction:
    """The prediction at a false-alarm rate, None = the calibrated one, and unsure up to UNSURE times that rate."""
    if not detector.calibration.size:
        return prediction
    unsure = min(MOST_UNSURE, UNSURE * detector.calibration.guaranteed_rate(rate))
    return detector.decide(prediction, rate, unsure)


@dataclass(frozen=True)
class VouchedRates:
    """The false-alarm rates that the calibrations of some detectors can vouch for.

    Attributes:
        own: what the first one was calibrated for; None if none is calibrated.
        least: the lowest rate, not below their own, that all of them allow; None if none is calibrated.
        lowest: none of them allows a lower one.
    """

    own: float | None
    least: float | None
    lowest: float

    @classmethod
    def of(cls, detectors: Iterable[AnomalyDetector]) -> Self:
        """The rates of these detectors."""
        known = [detector.calibration for detector in detectors if detector.calibration.size]
        own = next((round(c.false_alarm_rate.item(), 6) for c in known), None)
        least = max((math.ceil(1e4 * c.guaranteed_rate() - 1e-6) / 1e4 for c in known), default=None)  # not below
        return cls(own, least, min((1 / (c.size + 1) for c in known), default=0.0))

    def is_beyond(self, rate: float) -> bool:
        """Whether a rate is too low for all of them."""
        return rate < self.lowest - 1e-4

    def in_words(self, rate: float, language: str) -> str:
        """A rate; one that is too low names the good pictures that it needs."""
        shown = percent(rate, language)
        if not self.is_beyond(rate):
            return shown
        return translate("rate_beyond", language, rate=shown, needed=pictures_needed(rate))


@dataclass(frozen=True)
class Asked:
    """The false-alarm rate at which a row of a batch was opened; `opening` differs each time."""

    rate: float
    opening: str = field(default_factory=lambda: secrets.token_hex(4))


def load_methods(catalog: Catalog, category: str | None, methods: list | None = None) -> dict[str, AnomalyDetector]:
    """The category's detectors of the chosen methods by name; all that it has, if none of them has a model.

    Raises:
        ModelError: as `Catalog.load`.
    """
    loaded, chosen = catalog.load(category), chosen_methods(methods)
    return {name: detector for name, detector in loaded.items() if name in chosen} or loaded


def chosen_methods(choice: object) -> list[str]:
    """The methods of a visitor's choice; all, if it is no list or names none."""
    return [name for name in METHODS if isinstance(choice, list) and name in choice] or list(METHODS)


def expected_methods(choice: object) -> list[str]:
    """The chosen methods that should have a result: baselines only if they are named."""
    named = choice if isinstance(choice, list) else []
    return [name for name in chosen_methods(choice) if name in named or not METHODS[name].baseline]


def suggest_category(catalog: Catalog, prepared: PreparedPicture) -> str | None:
    """The category that a picture resembles most; None if it resembles none."""
    candidates = catalog.appearances()
    with _turn:
        ranked = rank_categories(candidates, prepared)
    return ranked[0][0] if ranked and ranked[0][1].matches else None


def count_verdicts(predictions: Mapping[str, AnomalyPrediction]) -> Counter[bool]:
    """The number of methods by verdict, True = defective; methods without a calibration do not count."""
    return Counter(p.is_anomalous for p in predictions.values() if p.is_anomalous is not None)


def verdict_of(prediction: AnomalyPrediction) -> bool | str | None:
    """True = defective, LOOK = a person should look again, False = good, None = not calibrated."""
    return LOOK if prediction.is_unsure else prediction.is_anomalous


def needs_look(predictions: Mapping[str, AnomalyPrediction]) -> bool:
    """Whether a person should look again: a method is unsure, and none calls the part defective."""
    return any(p.is_unsure for p in predictions.values()) and not count_verdicts(predictions)[True]


def all_agree(predictions: Mapping[str, AnomalyPrediction]) -> bool | None:
    """Whether all verdicts are the same; None if there are fewer than two."""
    counts = count_verdicts(predictions)
    return None if counts.total() < 2 else len(counts) == 1


def method_titles() -> dict[str, str]:
    """The printed names of all methods, by method, in the order of display."""
    return {name: method.title for name, method in METHODS.items()}


# ---------------------------------------------------------------- the choices of methods and of a category


CHOSEN_AT_FIRST = 2  # methods; two heat maps fit on a screen


def method_choice(catalog: Catalog) -> tuple[gr.CheckboxGroup, gr.State]:
    """A list of all methods, the first ones chosen; baselines only if there is a model of them.

    Returns:
        The list, which `fit_methods` fits to a category; and the visitor's choice, which it leaves as it is.
    """
    offered = offered_methods(catalog, None)
    first = list(offered.values())[:CHOSEN_AT_FIRST]
    chosen = gr.CheckboxGroup(
        list(offered.items()), value=first, label=label("methods"), info=label("methods_info"), elem_classes="methods"
    )
    return chosen, gr.State(first)


def offered_methods(catalog: Catalog, category: object) -> dict[str, str]:
    """Name by title of the methods with a model of a category; all methods if it has none, or is none."""
    of_category = {entry.method for entry in catalog.entries if entry.label == category}
    known = {entry.method for entry in catalog.entries}
    offered = of_category or {name for name, method in METHODS.items() if name in known or not method.baseline}
    return {title: name for name, title in method_titles().items() if name in offered}


def fit_methods(catalog: Catalog, category: object, wished: list, language: str) -> dict:
    """The Gradio update of the list for a category: its methods, and ticks at those that are shown.

    Args:
        wished: the visitor's choice, which can contain methods that the category lacks.
    """
    offered, expected = offered_methods(catalog, category), offered_methods(catalog, None)
    absent = [title for title, name in expected.items() if title not in offered and not METHODS[name].baseline]
    words = translate_plainly("methods_absent", language, methods=", ".join(absent))
    ticked = [name for name in offered.values() if name in wished]
    if not ticked and wished:  # as in `load_methods`
        ticked = list(offered.values())
    info = words if absent else label("methods_info")
    return gr.update(choices=list(offered.items()), value=ticked, info=info)


def wish_methods(catalog: Catalog, category: object, ticked: object, wished: list) -> list[str]:
    """The visitor's choice after the ticks of a category were changed; methods that it lacks stay chosen."""
    offered, ticks = offered_methods(catalog, category).values(), ticked if isinstance(ticked, list) else []
    return [name for name in METHODS if name in (ticks if name in offered else wished)]


SOURCES = {FOLDER: "source_folder", HUB: "source_hub", CACHE: "source_hub_cache", BUNDLE: "source_bundled"}
REMEMBER = """(category) => {
    if (!category) return;
    localStorage.setItem("hubmodels-category", category);
    const address = new URL(location);
    address.searchParams.set("category", category);
    history.replaceState(null, "", address);
}"""
RECALL = """() => [localStorage.getItem("hubmodels-category"), sessionStorage.getItem("hubmodels-visitor")]"""
KEEP_KEY = """(key) => { if (key) sessionStorage.setItem("hubmodels-visitor", key); }"""


def dropdown(catalog: Catalog) -> gr.Dropdown:
    """A list of the categories without a choice."""
    return gr.Dropdown(
        choices(catalog, LANGUAGES[0]),
        value=None,
        label=label("category"),
        info=label("category_info"),
        interactive=True,
    )


# without the hidden files of file managers
JOIN_FOLDER = """(folder, pictures) => {
    const hidden = /^([.]|Thumbs[.]db$|desktop[.]ini$)/;
    return [[...(pictures ?? []), ...(folder ?? []).filter((file) => !hidden.test(file.orig_name))]];
}"""


def folder_button(files: gr.File, elem_id: str) -> gr.UploadButton:
    """Adds a button that adds the files of a folder to those that are there."""
    folder = gr.UploadButton(label("batch_folder"), file_count="directory", size="sm", elem_id=elem_id)
    folder.upload(None, [folder, files], files, js=JOIN_FOLDER, api_visibility="private")
    return folder


def choices(catalog: Catalog, language: str) -> list[tuple[str, str]]:
    """(shown text, label) of each category, grouped by the source of its models, local models first."""
    origins = {}
    for entry in catalog.entries:
        origins.setdefault(entry.label, entry.origin)
    order = list(SOURCES)
    grouped = sorted(origins.items(), key=lambda item: (order.index(item[1]), item[0]))
    own = f"{DATASET} / "
    sources = {name: "source_own" if name.startswith(own) else SOURCES[origin] for name, origin in grouped}
    shown = {name: translate_plainly(source, language) for name, source in sources.items()}
    return [(f"{part_words(name, language)} ({source})", name) for name, source in shown.items()]


def find_category(wanted: str | None, catalog: Catalog) -> str | None:
    """The category of a link or of the browser's memory, by its label, with or without spaces, or by its last part."""
    if not wanted:
        return None
    squeezed = _squeezed(wanted)
    labels = catalog.categories()
    named = [name for name in labels if _squeezed(name) == squeezed]
    shorter = [name for name in labels if _squeezed(name.split(" / ")[-1]) == squeezed]
    return next(iter(named or (shorter if len(shorter) == 1 else [])), None)


def _squeezed(name: str) -> str:
    return "".join(name.lower().split())
