"""The tab Teach: pictures of good parts in, a part that can be inspected out; known defects check it."""

import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import gradio as gr
from gradio.events import Dependency
from huggingface_hub import constants
from markupsafe import Markup

from hubmodels import BackboneError, ModelError, PictureError
from hubmodels.least_size import PATCHES
from hubmodels.methods import METHODS
from hubmodels.pictures import read_picture
from webapp import defect_check
from webapp.compare_tab import ENLARGE
from webapp.defect_check import DefectCheck
from webapp.hosting import checked_path, fresh_path, hide_folders
from webapp.inspection import choices, folder_button, inspect_picture
from webapp.inspection_report import describe_guarantee, describe_least_size
from webapp.least_size import checked_least_size, save_least_size, saved_least_size
from webapp.own_models import PushError, pack, push
from webapp.own_parts import (
    BAD,
    FEWEST,
    LARGEST,
    MOST,
    TAKEN_BACK,
    Findings,
    OwnParts,
    left_out,
    unreadable_in,
    uploads_in,
)
from webapp.part_changes import PartChanges
from webapp.part_pictures import PartPictures
from webapp.regions import MOST as MOST_SHAPES
from webapp.regions import (
    MOST_POINTS,
    checked_shapes,
    draw_mask,
    exceeded,
    save_region,
    saved_shapes,
    share_that_counts,
)
from webapp.teaching import (
    DONE,
    FAILED,
    FAULTS,
    STOPPED,
    WAITING,
    Lesson,
    Teacher,
    estimate,
    expected_promise,
    missing_packages,
    teachable,
)
from webapp.texts import (
    data_url,
    explain_fault,
    label,
    language_of,
    percent,
    read_static,
    render,
    translate,
    translate_plainly,
)
from webapp.visitors import Everybody, Visitors

TEACH = {"concurrency_id": "teach", "concurrency_limit": 8}  # visitors who watch a lesson
FILE_TYPES = ["image", ".zip", ".pgm", ".ppm", ".heic"]
OUTPUTS = 9  # of the events that show a lesson
EVERY = 0.5  # seconds between updates of the page
NAMED = 3  # names in a finding
DRAWN = 900  # pixels of the picture to draw on
START_DOWNLOAD = "() => document.querySelector('#teach-file').click()"
# on a phone it is below the form; a refusal is within the form
# The form above it can still grow, so this looks again for some seconds, as long as the visitor does not scroll.
SHOW_STATUS = """() => {
    const looks = Array.from({ length: 16 }, (_, i) => setTimeout(() => {
        const status = document.querySelector("#teach-status");
        const isBelow = status?.getBoundingClientRect().top > innerHeight / 2;
        if (isBelow && !document.querySelector("#teach-unused .failed")) status.scrollIntoView();
    }, 500 * (i + 1)));
    const stop = () => looks.forEach(clearTimeout);
    ["wheel", "touchmove", "keydown", "pointerdown"].forEach((act) => addEventListener(act, stop, { once: true }));
}"""
INSTALL = '.venv/bin/python -m pip install -e ".[train]"'
STAGES = {
    "checking pictures": "reading",
    "reading pictures": "reading",
    "frozen features": "features",
    "damaged pictures": "damage",
    "folds": "folds",
    "discriminator": "learning",
    "test pictures": "checking",
}


class TeachTab:
    """The events of the tab."""

    def __init__(self, visitors: Everybody | Visitors) -> None:
        self._visitors = visitors
        self._hint = "teach_hint_space" if visitors.private else "teach_hint"
        self._pictures, self._changes = PartPictures(visitors), PartChanges(visitors)
        self._watched: dict[str | None, list[Lesson]] = {}  # by window
        self._lock = threading.Lock()

    def build(
        self, tab: gr.Tab, tabs: gr.Tabs, category: gr.Dropdown, wanted: gr.State, compared: gr.HTML
    ) -> Dependency:
        """Adds components and events inside the current gr.Tab.

        Args:
            tabs, category: where a taught part can be inspected at once.
            wanted: the part to choose when the tab is opened the next time.
            compared: the list of parts in the tab Compare; a click leads here and checks one.

        Returns:
            The event that leads there.
        """
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                part = gr.Dropdown(
                    [],  # filled when the tab is opened, for each visitor
                    value=None,
                    label=label("teach_part"),
                    info=label("teach_part_info"),
                    allow_custom_value=True,
                    elem_id="teach-part",
                )
                files = {"file_count": "multiple", "file_types": FILE_TYPES, "height": 180}
                good = gr.File(label=label("teach_pictures"), elem_id="teach-good", **files)
                folder_button(good, "teach-folder", with_folders=True)
                waiting = gr.HTML(elem_id="teach-waiting", elem_classes="note")
                self._pictures.build(part)
                self._changes.build(part)
                bad = gr.File(label=label("teach_bad"), elem_id="teach-bad", **files)
                unused = gr.HTML(elem_id="teach-unused", apply_default_css=False)
                judge = gr.Button(label("teach_judge"), size="sm", elem_id="teach-judge")
                with gr.Accordion(label("region_title"), open=False, elem_id="teach-region"):
                    gr.Markdown(label("region_how"), elem_classes="note")
                    draw = gr.Button(label("region_start"), size="sm")
                    region = gr.HTML(
                        html_template=read_static("region.html").partition("-#}")[2],
                        js_on_load=read_static("region.js"),
                        apply_default_css=False,
                        elem_id="region",
                    )
                    share = gr.HTML(elem_id="region-share", elem_classes="note")
                    least = gr.Number(
                        label=label("teach_least_size"),
                        info=label("teach_least_size_info"),
                        minimum=1,
                        precision=0,
                        value=None,
                        elem_id="teach-least-size",
                    )
                methods = gr.CheckboxGroup(
                    _priced(None),
                    value=teachable()[:1],
                    label=label("teach_methods"),
                    info=label("teach_methods_info"),
                    elem_id="teach-methods",
                )
                with gr.Row():
                    start = gr.Button(label("teach_start"), variant="primary", min_width=120)
                    stop = gr.Button(label("teach_stop"), interactive=False, min_width=80)
            with gr.Column(scale=3, min_width=320):
                shown = {"js_on_load": ENLARGE, "apply_default_css": False}
                status = gr.HTML(label(self._hint), elem_id="teach-status", **shown)
                lessons = gr.HTML(elem_id="teach-lessons", **shown)
                inspect = gr.Button(label("teach_inspect"), visible=False, variant="primary", elem_id="teach-inspect")
                keep = self._build_keep(part)
        running, taught, shapes, size, to_check = (gr.State() for _ in range(5))
        self.taught = taught  # the category of the part that was taught last
        private = {"api_visibility": "private", "show_progress": "hidden"}
        quick = {"queue": False, **private}
        checked = {"inputs": [part, good], "outputs": [status, methods, least], "preprocess": False}
        for event, check in ((part.input, self.check), (good.change, self.check_uploads)):
            event(check, **checked, trigger_mode="always_last", **private, **TEACH)
        judged = judge.click(self.judge, [part, bad], [status, unused, bad], preprocess=False, **private, **TEACH)
        for event in (judge.click, judged.then):  # before the result, the page can be too short to scroll that far
            event(None, js=SHOW_STATUS, api_visibility="private")
        draw.click(self.picture_to_draw, [part, good], [region, share, size], preprocess=False, **quick)
        # each shape counts, also drawn quickly; one after the other, because the last one replaces the others
        drawn = {"trigger_mode": "multiple", "preprocess": False, "concurrency_id": "drawn", "concurrency_limit": 1}
        region.input(self.drawn, [part, size, shapes], [shapes, share], **drawn, **private)
        # first, because Gradio runs the events of one click one after the other, and those of a lesson take long
        arrived = tab.select(self.arrive, [wanted, least], [part, least, wanted], preprocess=False, **quick)
        arrived.then(self.judge_wanted, to_check, [status, unused, to_check], **private, **TEACH)
        watched = {"outputs": [status, lessons, stop, inspect, running, taught, part, good, bad], **private, **TEACH}
        given = {"inputs": [part, good, bad, methods, shapes, least], "preprocess": False}
        watches = (
            start.click(self.teach, **given, **watched, trigger_mode="multiple"),  # another part can wait meanwhile
            tab.select(self.resume, part, preprocess=False, **watched),
        )
        part.change(self.kept_least_size, part, least, preprocess=False, **quick)
        part.change(self.forget_drawing, [part, shapes], [shapes, region, share], preprocess=False, **quick)
        for watch in watches:
            watch.then(self.offer, taught, category, **quick)
        for event in (*(watch.then for watch in watches), part.change):
            event(self.offer_to_keep, part, keep, preprocess=False, **quick)
            event(self.known, [part, good], [waiting, methods], preprocess=False, **quick)
        both = {"inputs": [part, good, bad], "outputs": unused, "preprocess": False}
        gr.on([bad.change, good.change, part.change], self.check_defects, **both, **private, **TEACH)
        removed = self._pictures.changed
        removed.then(self.known, [part, good], [waiting, methods], preprocess=False, **quick)
        removed.then(self.check, **checked, trigger_mode="always_last", **private, **TEACH)
        for watch in watches:
            watch.then(self._pictures.offer, part, [self._pictures.box, self._pictures.list], **quick)
            watch.then(self._changes.offer, part, self._changes.fields, **quick)
        deleted = self._changes.connect(part, category, taught, inspect, status, lessons)
        deleted.then(None, js=SHOW_STATUS, api_visibility="private")
        stop.click(self.stop, running, None, **quick)
        led = compared.select(self.lead_to_check, None, [tabs, wanted, to_check], **quick)
        led.then(None, js=SHOW_STATUS, api_visibility="private")
        return inspect.click(lambda chosen: (gr.Tabs(selected="inspect"), chosen), taught, [tabs, category], **quick)

    def _build_keep(self, part: gr.Dropdown) -> gr.Column:
        """Adds what keeps the models of a part; the login only on a Space, where it can work."""
        file = gr.DownloadButton(visible="hidden", elem_id="teach-file")  # inside, it would appear with the column
        with gr.Column(visible=False, elem_id="teach-keep") as keep:
            download = gr.Button(label("teach_download"), size="sm")
            download.click(self.pack, part, file, preprocess=False, api_visibility="private", **TEACH).success(
                fn=None, js=START_DOWNLOAD, api_visibility="private"
            )
            if self._visitors.private and login_available():
                gr.Markdown(label("teach_push_note"), elem_classes="note")
                with gr.Row():
                    gr.LoginButton(size="sm", min_width=140)
                    push = gr.Button(label("teach_push"), size="sm", min_width=140)
                pushed = gr.HTML(elem_id="teach-pushed", apply_default_css=False)
                push.click(self.push, part, pushed, preprocess=False, api_visibility="private", **TEACH)
        return keep

    def arrive(self, wanted: str | None, least_size: float | None, request: gr.Request) -> tuple[dict, object, None]:
        """The tab is opened: the parts of the visitor, and an empty least size, which Gradio shows as 0 at first.

        Args:
            wanted: the part to choose; None = the choice stays.
        """
        chosen = {"value": wanted} if wanted else {}
        parts = gr.update(choices=self._visitors.of(request).teacher.parts.choices(), **chosen)
        return parts, gr.skip() if least_size else None, None

    def known(self, part: str | None, good: list | None, request: gr.Request) -> tuple[str, dict]:
        """Which pictures changed since the last lesson; and how long the next one takes, as long as none are added."""
        language, parts = language_of(request), self._visitors.of(request).teacher.parts
        name = parts.part(part)
        (new, gone), pictures = parts.since_lesson(name), len(parts.pictures(name))
        notes = {"teach_not_learned": new, "teach_learned_removed": gone}
        said = Markup(" ").join(translate(key, language, count=count) for key, count in notes.items() if count)
        offered = _offered(parts, name, pictures, language) if pictures and not good else gr.skip()
        return str(said), offered

    def check(self, part: str | None, good: list | None, request: gr.Request) -> Iterator[tuple[str, dict, dict]]:
        """What is odd about the pictures, how long the methods take, and which least sizes change little.

        Yields how far it is, and then the findings.
        """
        language, place = language_of(request), self._visitors.of(request)
        name = place.teacher.parts.part(part)
        if not good and not place.teacher.parts.pictures(name):
            unpriced = gr.update(choices=_priced(None), info=label("teach_methods_info"))
            nothing = unpriced, gr.update(info=label("teach_least_size_info"))
            yield _said(language, hint=translate(self._hint, language)), *nothing
            return
        if known := place.teacher.parts.namesake(part or ""):
            yield _said(language, refused=[translate("teach_namesake", language, name=known)]), gr.skip(), gr.skip()
            return
        findings, shown = Findings(), time.monotonic()
        try:
            findings.left_out = left_out(_paths(good))
            for done, count in place.teacher.parts.checking(name, uploads_in(_paths(good)), findings):
                if time.monotonic() - shown >= EVERY:
                    shown = time.monotonic()
                    far = translate("teach_checked", language, done=done, count=count)
                    yield _said(language, headline=far), gr.skip(), gr.skip()
        except (PictureError, OSError) as error:
            yield _said(language, refused=[explain_fault(error, language, place.catalog)]), gr.skip(), gr.skip()
            return
        offered = _offered(place.teacher.parts, name, findings.pictures, language)
        said, known = _findings(findings, language), len(place.teacher.parts.pictures(name, BAD))
        if known:
            said["lines"].append(translate("teach_known", language, count=known))
        yield _said(language, **said), offered, _least_size_hint(findings, language)

    def check_uploads(
        self, part: str | None, good: list | None, request: gr.Request
    ) -> Iterator[tuple[str, dict, dict]]:
        """As `check`, unless the pictures of a taught part were taken away: after a lesson its result stays."""
        parts = self._visitors.of(request).teacher.parts
        emptied = not good and parts.pictures(parts.part(part))
        yield from [(gr.skip(),) * 3] if emptied else self.check(part, good, request)

    def check_defects(self, part: str | None, good: list | None, bad: list | None, request: gr.Request) -> str:
        """How many known defects are given, which cannot be used, and which are good ones, too."""
        language, place = language_of(request), self._visitors.of(request)
        parts = place.teacher.parts
        name = parts.part(part)
        try:
            warnings = [*_unused(bad, language), *_contradictions(parts, name, good, bad, language)]
            count = parts.count_with("", uploads_in(_paths(bad)))
            lines = [translate("teach_given", language, count=count)] if bad else []
            return _said(language, lines=lines, warnings=warnings) if lines or warnings else ""
        except (PictureError, OSError) as error:
            return _said(language, refused=[explain_fault(error, language, place.catalog)])

    def teach(
        self,
        part: str | None,
        good: list | None,
        bad: list | None,
        methods: list | None,
        drawing: dict | None,
        least_size: float | None,
        request: gr.Request,
    ) -> Iterator[tuple]:
        """Keeps the pictures and what counts in them, and teaches the part; yields updates until it is over.

        Args:
            drawing: what was drawn; None = nothing was changed.
            least_size: pixels of the smallest defect that counts; None = every size counts.
        """
        language, teacher = language_of(request), self._visitors.of(request).teacher
        name = teacher.parts.part(part)
        yield self._status(_said(language, headline=translate("teach_checking", language)))
        try:
            refused = _refused(teacher, part or "", good, bad, methods, drawing, language)
            if not refused:
                teacher.parts.name(name, part)
                teacher.parts.add(name, uploads_in(_paths(good)))
                teacher.parts.add(name, uploads_in(_paths(bad)), BAD)
                keep_region(teacher, name, drawing)
                save_least_size(teacher.parts.folder / name, checked_least_size(least_size))
                # said again at the end, when the list of files is empty
                unused = [*_unused(bad, language), *_contradictions(teacher.parts, name, None, None, language)]
        except (PictureError, OSError) as error:
            refused = [explain_fault(error, language, teacher.catalog)]
        if refused:
            yield self._status(_said(language, refused=refused))
            return
        lesson = teacher.start(name, [method for method in METHODS if method in methods])
        lesson.notes = tuple(unused)
        kept = gr.update(choices=teacher.parts.choices(), value=name)
        yield "", *(gr.skip(),) * (OUTPUTS - 4), kept, None, None  # the files are kept, so that others can be chosen
        yield from self._watch(teacher, [lesson], request)

    def resume(self, part: str | None, request: gr.Request) -> Iterator[tuple]:
        """The tab is opened: shows the visitor's lessons that go on, unless this window does already.

        After a reload the page has forgotten them, and the name of the part. Then they replace the introduction.
        """
        teacher = self._visitors.of(request).teacher
        yield (gr.skip(),) * OUTPUTS  # without any update Gradio empties the outputs
        if lessons := teacher.lessons():
            named = gr.skip() if part else gr.update(choices=teacher.parts.choices(), value=lessons[0].part)
            yield gr.skip() if part else "", *(gr.skip(),) * (OUTPUTS - 4), named, gr.skip(), gr.skip()
            yield from self._watch(teacher, lessons, request)

    def _watch(self, teacher: Teacher, lessons: Sequence[Lesson], request: gr.Request) -> Iterator[tuple]:
        """Updates until these lessons are over, then the results; each window has one watch, which takes in others."""
        window, language, results = request.session_hash, language_of(request), {}
        with self._lock:
            shown = self._watched.setdefault(window, [])
            is_first = not shown
            shown += [lesson for lesson in lessons if lesson not in shown]
        while is_first:
            over = [lesson for lesson in shown if lesson.is_over and lesson not in results]
            results |= {lesson: _result(lesson, language) for lesson in over}
            yield self._page(teacher, shown, results, language)
            with self._lock:
                if len(results) == len(shown):
                    del self._watched[window]
                    return
            time.sleep(EVERY)

    def judge(self, part: str | None, bad: list | None, request: gr.Request) -> Iterator[tuple]:
        """Keeps known defects of a part that exists, and checks its models with all of them, without a lesson."""
        language, teacher = language_of(request), self._visitors.of(request).teacher
        name = teacher.parts.part(part)
        yield gr.skip(), "", gr.skip()
        try:
            refused = _refused_defects(teacher, name, bad, language)
            if not refused:
                unused = [*_unused(bad, language), *_contradictions(teacher.parts, name, None, None, language)]
                teacher.parts.add(name, uploads_in(_paths(bad)), BAD)
                yield from _judged(teacher, name, unused, language)
        except (PictureError, ModelError, BackboneError, OSError) as error:
            refused = [explain_fault(error, language, teacher.catalog)]
        if refused:
            yield gr.skip(), _said(language, refused=refused), gr.skip()

    def lead_to_check(self, event: gr.EventData, request: gr.Request) -> tuple[gr.Tabs, str | None, str | None]:
        """A click on a part in Compare -> this tab, the part to choose, and the part to check."""
        part, parts = getattr(event, "part", None), self._visitors.of(request).teacher.parts
        known = part if part in parts.names() else None
        return gr.Tabs(selected="teach"), known, known

    def judge_wanted(self, part: str | None, request: gr.Request) -> Iterator[tuple]:
        """The tab is opened: checks the part that was chosen in Compare, if one was."""
        yield gr.skip(), gr.skip(), None
        for status, unused, _ in self.judge(part, None, request) if part else ():  # files that were added stay
            yield status, unused, None

    def picture_to_draw(self, part: str | None, good: list | None, request: gr.Request) -> tuple[object, str, object]:
        """The first picture, to draw on, with what was drawn for the part before; and its size."""
        language, parts = language_of(request), self._visitors.of(request).teacher.parts
        name = parts.part(part)
        kept = parts.pictures(name)
        try:
            first = next((upload.read() for upload in uploads_in(_paths(good))), None)
            if first is None and not kept:
                return gr.skip(), str(translate("region_none", language)), gr.skip()
            picture = read_picture(first or kept[0])
        except (PictureError, OSError) as error:
            return gr.skip(), str(explain_fault(error, language, self._visitors.of(request).catalog)), gr.skip()
        size = picture.size
        picture.thumbnail((DRAWN, DRAWN))
        keys = ("tools", "rectangle", "polygon", "brush", "ignore", "count", "undo", "clear", "canvas")
        words = {key: translate_plainly(f"region_{key}", language) for key in keys}
        drawn = saved_shapes(parts.folder / name) if name else []
        return {"picture": data_url(picture, "JPEG", quality=85), "shapes": drawn, "words": words}, "", size

    def drawn(
        self,
        part: str | None,
        size: Sequence[int] | None,
        event: gr.EventData,
        request: gr.Request,
        before: dict | None = None,
    ) -> tuple:
        """What the visitor drew, for which part and on a picture of which size; and how much of the picture counts.

        Args:
            before: the answer to an earlier event, or to a later one that came first.
        """
        language, sent, number = language_of(request), getattr(event, "shapes", None), getattr(event, "number", 0)
        if not isinstance(number, int) or (before and before["number"] > number):
            return gr.skip(), gr.skip()
        drawing = {"part": self._visitors.of(request).teacher.parts.part(part), "size": tuple(size or (DRAWN, DRAWN))}
        drawing |= {"shapes": checked_shapes(sent), "exceeded": exceeded(sent), "number": number}
        if wrong := _refused_drawing(drawing, language):
            return drawing, str(wrong)
        share = share_that_counts(draw_mask(drawing["shapes"], drawing["size"]))
        return drawing, str(translate("region_share", language, share=percent(share, language)))

    def forget_drawing(self, part: str | None, drawing: dict | None, request: gr.Request) -> tuple:
        """Another part was chosen: what was drawn for the part before is not for this one."""
        if drawing and drawing["part"] not in ("", self._visitors.of(request).teacher.parts.part(part)):
            return None, None, ""
        return (gr.skip(),) * 3

    def kept_least_size(self, part: str | None, request: gr.Request) -> object:
        """The smallest defect that counts, as the part was taught with; of a new part, what is in the field."""
        parts = self._visitors.of(request).teacher.parts
        name = parts.part(part)
        return saved_least_size(parts.folder / name) if name in parts.names() else gr.skip()

    def offer(self, taught: str | None, request: gr.Request) -> dict:
        """A taught part is in the list of categories at once."""
        catalog = self._visitors.of(request).catalog
        return gr.update(choices=choices(catalog, language_of(request))) if taught else gr.skip()

    def offer_to_keep(self, part: str | None, request: gr.Request) -> dict:
        """A part with models can be downloaded and pushed."""
        return gr.update(visible=bool(self._models(part, request)))

    def pack(self, part: str | None, request: gr.Request) -> str:
        """A click on the download -> a ZIP file with the part's models."""
        if not (folders := self._models(part, request)):
            raise gr.Error(translate_plainly("teach_nothing_to_keep", language_of(request)), print_exception=False)
        name = self._visitors.of(request).teacher.parts.part(part)
        return str(pack(folders, fresh_path(f"{name}.zip")))

    def push(
        self,
        part: str | None,
        profile: gr.OAuthProfile | None,
        token: gr.OAuthToken | None,
        request: gr.Request,
    ) -> Iterator[str]:
        """A click on the push -> what is happening, then where the models are."""
        language, folders = language_of(request), self._models(part, request)
        refusal = "teach_nothing_to_keep" if not folders else "teach_no_login" if not (profile and token) else None
        if refusal:
            yield _said(language, refused=[translate(refusal, language)])
            return
        yield _said(language, headline=translate("teach_pushing", language))
        try:
            push(folders, profile.username, token.token)
        except (PushError, OSError) as error:
            reason = hide_folders(str(error), self._visitors.of(request).catalog)
            yield _said(language, refused=[translate("teach_push_failed", language, reason=reason)])
            return
        links = [_link(f"{constants.ENDPOINT}/{profile.username}/{folder.name}") for folder in folders]
        yield _said(language, headline=translate("teach_pushed", language), tone="good", lines=links)

    def _models(self, part: str | None, request: gr.Request) -> list[Path]:
        """The folders of the models of one of the visitor's parts."""
        teacher = self._visitors.of(request).teacher
        return [Path(entry.source) for entry in teacher.entries(teacher.parts.part(part))]

    def stop(self, running: str | None, request: gr.Request) -> None:
        """Ends the visitor's lesson."""
        teacher = self._visitors.of(request).teacher
        if lesson := teacher.current(running or ""):
            teacher.stop(lesson)

    def _status(self, status: str) -> tuple:
        """The outputs of the event, of which only the first one changes."""
        return status, *(gr.skip(),) * (OUTPUTS - 1)

    def _page(
        self, teacher: Teacher, lessons: Sequence[Lesson], results: Mapping[Lesson, str], language: str
    ) -> tuple:
        """The outputs of the event, in their order. The form stays as it is: a person may fill it in meanwhile."""
        current = [lesson for lesson in lessons if lesson not in results]
        done = [lesson for lesson in results if lesson.state == DONE]
        return (
            gr.skip(),
            "".join([*(_progress(lesson, language) for lesson in current), *reversed(results.values())]),
            gr.update(interactive=bool(current)),
            gr.update(visible=bool(done)),
            current[0].part if current else None,
            done[-1].label if done else None,
            gr.update(choices=teacher.parts.choices()),
            gr.skip(),
            gr.skip(),
        )


def _priced(pictures: int | None) -> list[tuple[str, str]]:
    """The methods, with how long they take if the number of pictures is known."""
    times = {m: f": {_about(estimate(m, pictures))}" if pictures else "" for m in teachable()}
    return [(f"{METHODS[method].title}{time}", method) for method, time in times.items()]


def _offered(parts: OwnParts, name: str, pictures: int, language: str) -> dict:
    """The methods with how long a lesson with so many good pictures takes, and what they can promise after it."""
    pictures, corrected = max(pictures, FEWEST), len(parts.pictures(name, TAKEN_BACK))
    words = "\n".join(_promises(max(pictures - corrected, 2), language))
    return gr.update(choices=_priced(pictures), info=words)


def _promises(pictures: int, language: str) -> Iterator[str]:
    """How many false alarms the methods can promise with so many good pictures, as lines of text."""
    yield translate_plainly("teach_promises", language, count=pictures)
    alike = {}
    for method in teachable():
        alike.setdefault(expected_promise(method, pictures).size, []).append(method)
    for size, methods in alike.items():
        promise = expected_promise(methods[0], pictures)
        values = {"rate": percent(promise.guaranteed_rate(), language), "bound": percent(promise.bound(), language)}
        key = "teach_promise_all" if size == pictures else "teach_promise_some"
        titles = ", ".join(METHODS[method].title for method in methods)
        yield "• " + translate_plainly(key, language, methods=titles, count=size, **values)


def _least_size_hint(findings: Findings, language: str) -> dict:
    """Which smallest defects change little: those of fewer pixels than a few patches."""
    if not findings.smallest:
        return gr.skip()
    area = PATCHES * findings.smallest**2
    return gr.update(info=translate_plainly("teach_least_size_from", language, area=area, side=math.isqrt(area)))


def keep_region(teacher: Teacher, name: str, drawing: dict | None) -> None:
    """Saves what was drawn for a part; None = nothing was changed."""
    pictures = teacher.parts.pictures(name)
    if drawing is not None and pictures:
        save_region(teacher.parts.folder / name, checked_shapes(drawing["shapes"]), read_picture(pictures[0]).size)


def _refused(
    teacher: Teacher,
    text: str,
    good: list | None,
    bad: list | None,
    methods: list | None,
    drawing: dict | None,
    language: str,
) -> list[Markup]:
    """Why this cannot be taught; empty if it can."""
    if missing_packages():
        return [translate("teach_packages", language, command=INSTALL)]
    if not (name := teacher.parts.part(text)):
        return [translate("teach_no_name", language)]
    if teacher.current(name):
        return [translate("teach_runs", language)]
    if known := teacher.parts.namesake(text):
        return [translate("teach_namesake", language, name=known)]
    if not isinstance(methods, list) or not set(methods) & set(teachable()):
        return [translate("teach_no_methods", language)]
    count = teacher.parts.check(name, uploads_in(_paths(good))).pictures
    if count < FEWEST:
        return [translate("teach_too_few", language, count=count, missing=FEWEST - count)]
    if count > MOST:
        return [translate("teach_too_many", language, count=count, limit=MOST)]
    if drawing and (wrong := _refused_drawing(drawing, language)):
        return [wrong]
    if contradictions := _new_contradictions(teacher.parts, name, good, bad, language):
        return contradictions
    if too_many := _too_many_defects(teacher, name, bad, language):
        return [too_many]
    return []


def _refused_drawing(drawing: dict, language: str) -> Markup | None:
    """Why a part cannot be taught with what was drawn; None if it can."""
    if limit := drawing["exceeded"]:
        return translate(f"region_many_{limit}", language, shapes=MOST_SHAPES, points=MOST_POINTS)
    share = share_that_counts(draw_mask(checked_shapes(drawing["shapes"]), drawing["size"]))
    return None if share else translate("region_nothing", language)


def _refused_defects(teacher: Teacher, name: str, bad: list | None, language: str) -> list[Markup]:
    """Why known defects cannot be checked; empty if they can."""
    count, limits = teacher.parts.count_with(name, uploads_in(_paths(bad))), (defect_check.FEWEST, defect_check.MOST)
    if not count:
        return [translate("teach_no_defects", language, fewest=limits[0], most=limits[1])]
    if not teacher.entries(name):
        return [translate("teach_nothing_to_keep", language)]
    if teacher.lessons():
        return [translate("teach_busy", language)]
    if count < limits[0]:
        return [translate("teach_bad_count", language, count=count, fewest=limits[0], most=limits[1])]
    if contradictions := _new_contradictions(teacher.parts, name, None, bad, language):
        return contradictions
    too_many = _too_many_defects(teacher, name, bad, language)
    return [too_many] if too_many else []


def _too_many_defects(teacher: Teacher, name: str, bad: list | None, language: str) -> Markup | None:
    """Why so many new known defects are refused; those that a part has do not count."""
    new = teacher.parts.count_with(name, uploads_in(_paths(bad))) - len(teacher.parts.pictures(name, BAD))
    limit = defect_check.MOST
    return translate("teach_bad_many", language, count=new, limit=limit) if new > limit else None


def _judged(teacher: Teacher, name: str, unused: Sequence[Markup], language: str) -> Iterator[tuple]:
    """Updates of the page while the known defects of a part are checked, then the result."""
    paths, check, [entry, *_] = teacher.parts.pictures(name, BAD), DefectCheck(), teacher.entries(name)
    for done, path in enumerate(paths):
        words = translate("teach_judging", language, done=done + 1, total=len(paths))
        yield _said(language, headline=words, done=done, total=len(paths)), "", gr.skip()
        inspection = inspect_picture(teacher.catalog, entry.label, path, None, list(METHODS))
        check.add(teacher.parts.given_name(name, path), inspection)
    words = translate("teach_judged", language, part=teacher.parts.written(name), count=len(paths))
    lines = [*check.lines(language), translate("teach_judged_how", language)]
    shown = {"lines": lines, "warnings": unused, "missed": check.missed(language)}
    yield _said(language, headline=words, **shown), "", None


def _title(lesson: Lesson) -> str:
    return lesson.title or lesson.part


def _of(lesson: Lesson, words: Markup) -> Markup:
    """What is said of a lesson, with its part: the page shows several lessons."""
    return Markup("{}: {}").format(_title(lesson), words)


def _progress(lesson: Lesson, language: str) -> str:
    if lesson.state == WAITING:
        count = lesson.teacher.ahead(lesson)
        key = "teach_waiting" if count else "teach_starting"
        return _said(language, headline=translate(key, language, part=_title(lesson), count=count))
    left = lesson.countdown()
    words = {"part": _title(lesson), "stage": _stage(lesson.bars, language), "time": _about(left)}
    running = translate("teach_running", language, **words)
    return _said(language, headline=running, done=f"{lesson.seconds:.1f}", total=f"{lesson.seconds + left:.1f}")


def _stage(bars: Sequence[dict], language: str) -> Markup:
    """The stage of a training, by its progress bars; that of the folds says which one."""
    bar = next((bar for bar in bars if bar["what"] in STAGES), None)
    if bar is None:
        return translate("teach_stage_learning" if bars else "teach_stage_start", language)
    total = bar["total"] or 1
    counts = {"number": min(bar["done"] + 1, total), "total": total}
    return translate(f"teach_stage_{STAGES[bar['what']]}", language, **counts)


def _result(lesson: Lesson, language: str) -> str:
    catalog = lesson.teacher.catalog
    if lesson.state == STOPPED:
        return _said(language, headline=_of(lesson, translate("teach_stopped", language)))
    if lesson.state == FAILED:
        reason = hide_folders(lesson.reason, catalog)
        key = f"teach_{lesson.reason}" if lesson.reason in FAULTS else "teach_failed"
        return _said(language, refused=[_of(lesson, translate(key, language, reason=reason))])
    try:
        detectors = catalog.load(lesson.label)
    except (ModelError, BackboneError) as error:
        return _said(language, refused=[explain_fault(error, language, catalog)])
    promises = [
        Markup("{}: {}").format(METHODS[name].title, describe_guarantee(d.calibration, None, language))
        + describe_least_size(d, language)
        + _set_by_some(lesson, d.calibration.size, language)
        for name, d in detectors.items()
    ]
    words = translate("teach_done", language, part=_title(lesson), time=_about(lesson.seconds))
    parts = lesson.teacher.parts
    check = DefectCheck(
        (parts.given_name(lesson.part, path), inspect_picture(catalog, lesson.label, path, None, list(METHODS)))
        for path in parts.pictures(lesson.part, BAD)
    )
    lines = [*promises, *_learned_otherwise(lesson, language), *check.lines(language)]
    shown = {"lines": lines, "warnings": lesson.notes, "missed": check.missed(language)}
    return _said(language, headline=words, tone="good", **shown)


def _set_by_some(lesson: Lesson, count: int, language: str) -> Markup:
    """How few of the pictures set a threshold, as a sentence to add; empty if all do."""
    parts = lesson.teacher.parts
    total = len(parts.pictures(lesson.part)) - len(parts.pictures(lesson.part, TAKEN_BACK))
    if not 0 < count < total:
        return Markup("")
    return Markup(" ") + translate("teach_set_by_some", language, count=count)


def _learned_otherwise(lesson: Lesson, language: str) -> list[Markup]:
    """What the promises do not say: how many corrected pictures were learned, and how much of the picture counts."""
    parts, lines = lesson.teacher.parts, []
    if count := len(parts.pictures(lesson.part, TAKEN_BACK)):
        lines.append(translate("teach_learned_too", language, count=count))
    if shapes := saved_shapes(parts.folder / lesson.part):
        size = read_picture(parts.pictures(lesson.part)[0]).size
        share = share_that_counts(draw_mask(shapes, size))
        lines.append(translate("region_share", language, share=percent(share, language)))
    return lines


def _findings(findings: Findings, language: str) -> dict:
    """What the tab says about pictures."""
    missing, count = FEWEST - findings.pictures, findings.pictures
    key = "teach_too_few" if missing > 0 else "teach_too_many" if count > MOST else "teach_usable"
    lines = [translate(key, language, count=count, missing=missing, limit=MOST)]
    if findings.smallest:
        side = findings.smallest
        lines.append(translate("teach_smallest", language, side=side, area=side**2))
    warnings = _unusable(findings, language)
    if findings.doubled:
        warnings.append(translate("teach_doubled", language, names=_names(findings.doubled, language)))
    for code in ("unlike", "dark", "blurred"):
        if names := [name for name, codes in findings.odd.items() if code in codes]:
            warnings.append(translate(f"teach_{code}", language, names=_names(names, language)))
    if len(findings.sizes) > 1:
        sizes = [f"{width} x {height} ({n})" for (width, height), n in findings.sizes.most_common()]
        warnings.append(translate("teach_sizes", language, sizes=_names(sizes, language)))
    return {"lines": lines, "warnings": warnings}


def _unused(files: list | None, language: str) -> list[Markup]:
    """What the tab says about known defects that cannot be used."""
    unreadable = unreadable_in(uploads_in(_paths(files)))
    return _unusable(Findings(unreadable=unreadable, left_out=left_out(_paths(files))), language)


def _contradictions(parts: OwnParts, name: str, good: list | None, bad: list | None, language: str) -> list[Markup]:
    """What the tab says about pictures that are good ones and known defects at the same time."""
    kept = list(parts.in_both(name).values())
    said = [translate("teach_both_kept", language, names=_names(kept, language))] if kept else []
    return [*_new_contradictions(parts, name, good, bad, language), *said]


def _new_contradictions(
    parts: OwnParts, name: str, good: list | None, bad: list | None, language: str
) -> list[Markup]:
    """The same without those that the part has already: why it cannot be taught with these files."""
    before = parts.in_both(name)
    found = parts.in_both(name, uploads_in(_paths(good)), uploads_in(_paths(bad)))
    names = [found[each] for each in found if each not in before]
    return [translate("teach_both", language, names=_names(names, language))] if names else []


def _unusable(findings: Findings, language: str) -> list[Markup]:
    """Sentences about files that are not used at all."""
    found = {"teach_unreadable": findings.unreadable}
    found |= {f"teach_left_{reason}": names for reason, names in findings.left_out.items()}
    shown = {key: {"count": len(names), "names": _names(names, language)} for key, names in found.items() if names}
    return [translate(key, language, limit=LARGEST // 10**6, **values) for key, values in shown.items()]


def _names(names: Sequence[str], language: str) -> Markup | str:
    shown = ", ".join(names[:NAMED])
    if len(names) <= NAMED:
        return shown
    return translate("teach_and_more", language, names=shown, count=len(names) - NAMED)


def login_available() -> bool:
    """Whether this Space has a login: `hf_oauth` in its front matter, and Gradio's extra `oauth`."""
    return bool(os.environ.get("OAUTH_CLIENT_ID")) and all(map(find_spec, ("authlib", "itsdangerous")))


def _link(address: str) -> Markup:
    return Markup('<a href="{0}" target="_blank" rel="noopener">{0}</a>').format(address)


def _paths(files: list | None) -> Iterator[tuple[str, Path]]:
    """Name and path of each upload; the name of a file in a chosen folder begins with it."""
    for upload in files if isinstance(files, list) else []:
        path = Path(checked_path(upload))
        yield str(upload.get("orig_name") or path.name), path


def _said(language: str, **values: object) -> str:
    defaults = {"refused": (), "headline": "", "tone": "", "done": 0, "total": 0, "lines": (), "warnings": ()}
    return str(render("teach.html", language, **(defaults | {"missed": {}, "hint": ""} | values)))


def _about(seconds: float) -> str:
    """A duration in words that both languages have: "40 s", "3 min", "1 h 50 min"."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s" if seconds > 5 else f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
