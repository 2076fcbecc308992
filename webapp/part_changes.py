"""The fold "Rename or delete" of an own part in the tab Teach.

A part that is renamed keeps its folder, and the names of its models. What is deleted is gone.
"""

from collections.abc import Callable

import gradio as gr
from gradio.events import Dependency
from markupsafe import Markup

from hubmodels import PictureError
from webapp.inspection import choices
from webapp.own_parts import DATASET, LONGEST, part_name
from webapp.teaching import Teacher
from webapp.texts import explain_fault, label, language_of, render, translate
from webapp.visitors import Everybody, Visitors, Workplace

QUICK = {"queue": False, "show_progress": "hidden", "api_visibility": "private", "preprocess": False}


class PartChanges:
    """The events of the fold."""

    def __init__(self, visitors: Everybody | Visitors) -> None:
        self._visitors = visitors

    def build(self, part: gr.Dropdown) -> None:
        """Adds the fold inside the current column."""
        with gr.Accordion(label("change_title"), open=False, visible=False, elem_id="teach-change") as box:
            self._name = gr.Textbox(label=label("change_name"), max_length=LONGEST, elem_id="teach-new-name")
            self._rename = gr.Button(label("change_rename"), size="sm")
            delete = gr.Button(label("change_delete"), size="sm")
            with gr.Column(visible=False, elem_id="teach-sure") as sure:
                question = gr.HTML(apply_default_css=False)
                with gr.Row():
                    self._delete = gr.Button(label("change_sure"), size="sm", variant="stop", min_width=120)
                    keep = gr.Button(label("change_keep"), size="sm", min_width=120)
            self._said = gr.HTML(elem_id="teach-changed", apply_default_css=False)
        self._sure, self.fields = sure, [box, self._name, sure, self._said]
        part.change(self.offer, part, self.fields, **QUICK)
        delete.click(self.ask, part, [sure, question], **QUICK)
        keep.click(lambda: gr.update(visible=False), None, sure, **QUICK)

    def connect(
        self,
        part: gr.Dropdown,
        category: gr.Dropdown,
        taught: gr.State,
        inspect: gr.Button,
        status: gr.HTML,
        lessons: gr.HTML,
    ) -> Dependency:
        """Adds the events that change a part, and with it what the tabs show.

        Args:
            category: the one that is chosen in Inspect.
            taught: the one that the button `inspect` leads to.
            status, lessons: what the tab says.

        Returns:
            The event that deletes a part.
        """
        shown = [part, category, taught, inspect]
        for event in (self._rename.click, self._name.submit):
            event(self.rename, [self._name, *shown[:3]], [self._said, *shown], **QUICK)
        said = [self._said, self._sure, status, lessons]
        return self._delete.click(self.delete, shown[:3], [*said, *shown], **QUICK)

    def offer(self, part: str | None, request: gr.Request) -> tuple[dict, str, dict, str]:
        """A part was chosen: the fold is closed and has its name; there is none for a part that is not there yet."""
        teacher = self._visitors.of(request).teacher
        name = teacher.parts.part(part)
        box = gr.update(visible=teacher.has(name), open=False)
        return box, teacher.parts.written(name) if name else "", gr.update(visible=False), ""

    def ask(self, part: str | None, request: gr.Request) -> tuple[dict, str]:
        """Shows what would be deleted, and the button that does it."""
        language, teacher = language_of(request), self._visitors.of(request).teacher
        name = teacher.parts.part(part)
        counts = {"pictures": len(teacher.parts.kept(name)), "models": len(teacher.entries(name))}
        question = translate("change_question", language, name=teacher.parts.written(name), **counts)
        return gr.update(visible=True), str(question)

    def rename(
        self, text: str | None, part: str | None, category: str | None, taught: str | None, request: gr.Request
    ) -> tuple:
        """A click gives the part another name -> what is said, and the outputs of `connect`."""
        language, place = language_of(request), self._visitors.of(request)
        name = place.teacher.parts.part(part)
        before = _labels(place.teacher, name)
        wrong = _refused_name(place.teacher, name, text or "", language)
        wrong = wrong or _changed(place, name, lambda: place.teacher.rename(name, text), language)
        if wrong:
            return _said(wrong, language, refused=True), *(gr.skip(),) * 4
        written = place.teacher.parts.written(name)
        labels = dict.fromkeys(before, f"{DATASET} / {written}")
        said = _said(translate("change_renamed", language, name=written), language)
        return said, *_followed(place, name, labels, category, taught, language)

    def delete(self, part: str | None, category: str | None, taught: str | None, request: gr.Request) -> tuple:
        """The second click deletes the part -> what is said, and the outputs of `connect`."""
        language, place = language_of(request), self._visitors.of(request)
        name = place.teacher.parts.part(part)
        before, written = _labels(place.teacher, name), place.teacher.parts.written(name)
        hidden = gr.update(visible=False)
        if wrong := _changed(place, name, lambda: _delete(place, name), language):
            return _said(wrong, language, refused=True), hidden, *(gr.skip(),) * 6
        words = _said(translate("change_deleted", language, name=written), language)
        results = gr.skip() if place.teacher.lessons() else ""  # one of them can be that of the part
        return "", hidden, words, results, *_followed(place, None, dict.fromkeys(before), category, taught, language)


def _delete(place: Workplace, name: str) -> None:
    place.teacher.delete(name)
    place.corrections.forget(name)


def _changed(place: Workplace, name: str, change: Callable[[], None], language: str) -> Markup | None:
    """Changes a part; returns why that was not possible."""
    if not place.teacher.has(name):  # another window has deleted it
        return translate("change_gone", language)
    try:
        with place.corrections.rest(name):
            change()
    except (PictureError, OSError) as error:
        return explain_fault(error, language, place.catalog)
    return None


def _refused_name(teacher: Teacher, name: str, text: str, language: str) -> Markup | None:
    """Why a part cannot have this name; None if it can."""
    if not part_name(text):
        return translate("teach_no_name", language)
    other = teacher.parts.part(text)
    if other != name and teacher.has(other):
        return translate("change_taken", language, name=teacher.parts.written(other))
    return None


def _labels(teacher: Teacher, name: str) -> set[str]:
    """The categories that show a part: one, unless a person changed files of its models."""
    return {entry.label for entry in teacher.entries(name)}


def _said(words: Markup, language: str, refused: bool = False) -> str:
    return str(render("changed.html", language, words=words, refused=refused))


def _followed(
    place: Workplace,
    name: str | None,
    labels: dict[str, str | None],
    category: str | None,
    taught: str | None,
    language: str,
) -> tuple:
    """The part, the category, the taught one and its button, after the label of a part changed."""
    taught = labels.get(taught, taught)
    return (
        gr.update(choices=place.teacher.parts.choices(), value=name),
        gr.update(choices=choices(place.catalog, language), value=labels.get(category, category)),
        taught,
        gr.skip() if taught else gr.update(visible=False),
    )
