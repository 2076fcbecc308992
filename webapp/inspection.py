"""Inspecting a picture, one visitor after the other; and the choice of methods and category, the same in every tab."""

import math
import secrets
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

import gradio as gr
from gradio.events import Dependency

from hubmodels import AnomalyDetector, AnomalyPrediction, PreparedPicture, rank_categories
from hubmodels.hub.catalog import BUNDLE, CACHE, FOLDER, HUB, Catalog
from hubmodels.inspection import Inspection, inspect, method_titles
from hubmodels.methods import METHODS
from hubmodels.pictures import Picture
from hubmodels.prediction import pictures_needed
from webapp.own_parts import DATASET
from webapp.texts import LANGUAGES, LOOK, label, part_words, percent, translate, translate_plainly

# Events that use a model share one place in Gradio's queue. A batch has its own place, otherwise nobody else could
# inspect while it runs. A batch and the other events then take turns (`_turn`), one picture each.
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
BATCH = {"concurrency_id": "batch", "concurrency_limit": 1}
_turn = threading.Lock()


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
        return inspect(loaded, prepared, rate)


@dataclass(frozen=True)
class VouchedRates:
    """The false-alarm rates that the calibrations of some detectors can vouch for.

    Attributes:
        own: what the first one was calibrated for; None if none is calibrated.
        least: the lowest rate, not below their own, that the best calibrated one allows; None if none is calibrated.
            Each method that needs a higher one uses it, and its promise says so.
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
        least = min((math.ceil(1e4 * c.guaranteed_rate() - 1e-6) / 1e4 for c in known), default=None)  # not below
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
    loaded = catalog.load(category)
    shown = _shown_methods(category, list(loaded), methods)
    return {name: detector for name, detector in loaded.items() if name in shown}


class FirstChoice(list):
    """The chosen methods until a visitor changes the ticks. An own part then shows all methods that learned it."""


def _shown_methods(category: object, offered: list[str], choice: object) -> list[str]:
    """The methods of a category that a choice shows; all, if none of them is chosen."""
    if isinstance(choice, FirstChoice) and str(category).startswith(f"{DATASET} / "):
        return [name for name in offered if not METHODS[name].baseline] or offered
    return [name for name in offered if name in chosen_methods(choice)] or offered


def chosen_methods(choice: object) -> list[str]:
    """The methods of a visitor's choice; all, if it is no list or names none."""
    if isinstance(choice, FirstChoice):
        return choice
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


def verdict_of(prediction: AnomalyPrediction) -> bool | str | None:
    """True = defective, LOOK = a person should look again, False = good, None = not calibrated."""
    return LOOK if prediction.is_unsure else prediction.is_anomalous


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
    return chosen, gr.State(FirstChoice(first))


# scripts of page.js; a visitor can change the ticks before the answer to an earlier change is there
TICKED = "(now) => {{ Object.assign(ticksOf({0}), {{ now, asked: ticksOf({0}).asked + 1 }}); }}"
SENT = "(...inputs) => {{ ticksOf({0}).sent = ticksOf({0}).asked; return inputs; }}"
ANSWERED = "() => {{ ticksOf({0}).answered = ticksOf({0}).sent; }}"
KEEP_TICKS = "(shown) => [ticksOf({0}).asked === ticksOf({0}).answered ? shown : ticksOf({0}).now]"


def on_ticks(
    methods: gr.CheckboxGroup, answer: Callable, inputs: list, outputs: object, **settings: object
) -> Dependency:
    """Adds the event of other ticks. While one waits, the last one is sent after it."""
    quiet, name = {"api_visibility": "private"}, methods._id
    methods.input(None, methods, js=TICKED.format(name), **quiet)
    ticked = methods.input(answer, inputs, outputs, js=SENT.format(name), trigger_mode="always_last", **settings)
    for event in (ticked.then, ticked.failure):
        event(None, js=ANSWERED.format(name), **quiet)
    return ticked


def keep_ticks(methods: gr.CheckboxGroup, *fitted: Dependency) -> None:
    """Late answers of events that set the ticks leave what the visitor has ticked in the meantime."""
    for event in fitted:
        event.then(None, methods, methods, js=KEEP_TICKS.format(methods._id), api_visibility="private")


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
    ticked = _shown_methods(category, list(offered.values()), wished) if wished else []  # as in `load_methods`
    info = words if absent else label("methods_info")
    return gr.update(choices=list(offered.items()), value=ticked, info=info)


def wish_methods(catalog: Catalog, category: object, ticked: object, wished: list) -> list[str]:
    """The visitor's choice after the ticks of a category were changed; methods that it lacks stay chosen."""
    offered, ticks = offered_methods(catalog, category).values(), ticked if isinstance(ticked, list) else []
    return [name for name in METHODS if name in (ticks if name in offered else wished)]


SOURCES = {FOLDER: "source_folder", HUB: "source_hub", CACHE: "source_hub_cache", BUNDLE: "source_bundled"}
# without a category after its part was deleted
REMEMBER = """(category) => {
    const address = new URL(location);
    if (category) {
        localStorage.setItem("hubmodels-category", category);
        address.searchParams.set("category", category);
    } else {
        localStorage.removeItem("hubmodels-category");
        address.searchParams.delete("category");
    }
    history.replaceState(null, "", address);
}"""
RECALL = """() => [localStorage.getItem("hubmodels-category"), sessionStorage.getItem("hubmodels-visitor")]"""
# a visitor can choose a category before the answer to the arrival is there
ARRIVED = """(remembered, key, chosen) => {
    if (key) sessionStorage.setItem("hubmodels-visitor", key);
    return chosen || remembered || null;
}"""


def dropdown(catalog: Catalog) -> gr.Dropdown:
    """A list of the categories without a choice."""
    return gr.Dropdown(
        choices(catalog, LANGUAGES[0]),
        value=None,
        label=label("category"),
        info=label("category_info"),
        interactive=True,
    )


# without the hidden files of file managers; page.js keeps the paths
JOIN_FOLDER = """(folder, pictures) => {
    const hidden = /(^|[/])([.][^/]*|Thumbs[.]db|desktop[.]ini)$/;
    const files = folder ?? [], paths = window.chosenPaths ?? [];
    const known = WITH_FOLDERS && files.every((file, i) => paths[i]?.endsWith(`/${file.orig_name}`));
    const named = known ? files.map((file, i) => ({ ...file, orig_name: paths[i] })) : files;
    return [[...(pictures ?? []), ...named.filter((file) => !hidden.test(file.orig_name))]];
}"""


def folder_button(files: gr.File, elem_id: str, with_folders: bool = False) -> gr.UploadButton:
    """Adds a button that adds the files of a folder to those that are there.

    Args:
        with_folders: the names of the files begin with their folders.
    """
    folder = gr.UploadButton(label("batch_folder"), file_count="directory", size="sm", elem_id=elem_id)
    join = JOIN_FOLDER.replace("WITH_FOLDERS", str(with_folders).lower())
    folder.upload(None, [folder, files], files, js=join, api_visibility="private")
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
