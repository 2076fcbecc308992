"""The list of an own part's pictures in the tab Teach: what each one is, and a button that takes it out of the part.

A removed picture is moved to a folder of its own and can be put back. The list is stateless: each event of the browser
contains what it shows. Thumbnails are kept as long as the visitor's parts.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

import gradio as gr
from PIL import Image, ImageOps, UnidentifiedImageError

from hubmodels import PictureError
from hubmodels.pictures import MAX_PIXELS, read_picture
from webapp.corrections import LessonRunsError
from webapp.own_parts import KINDS, REMEMBERED, Kept, OwnParts
from webapp.texts import data_url, explain_fault, label, language_of, read_static, render
from webapp.visitors import Everybody, Visitors

PAGE = 24  # pictures that are shown at once; only these are decoded
SIDE = 160  # pixels of a thumbnail
ALL = "all"  # kinds


class PartPictures:
    """The events of the list."""

    def __init__(self, visitors: Everybody | Visitors) -> None:
        self._visitors = visitors
        self._thumbnails: WeakKeyDictionary[OwnParts, Callable] = WeakKeyDictionary()  # forgotten with the parts

    def build(self, part: gr.Dropdown) -> None:
        """Adds the list inside the current column."""
        with gr.Accordion(label("pictures_title"), open=False, visible=False, elem_id="teach-pictures") as self.box:
            self.list = gr.HTML(js_on_load=read_static("pictures.js"), apply_default_css=False)
        quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private", "preprocess": False}
        self.box.expand(self.open, part, self.list, **quick)
        each = quick | {"trigger_mode": "multiple"}  # a click counts, also before the answer to the last one
        self.list.input(self.show, part, self.list, **each)
        self.changed = self.list.apply(self.change, part, self.list, **each)
        part.change(self.offer, part, [self.box, self.list], **quick)

    def offer(self, part: str | None, request: gr.Request) -> tuple[dict, str]:
        """Another part was chosen: the list is closed, and there is none for a part without pictures."""
        parts = self._visitors.of(request).teacher.parts
        kept = parts.kept(parts.part(part))
        return gr.update(visible=bool(kept), open=False), ""

    def open(self, part: str | None, request: gr.Request) -> str:
        """The first pictures of all."""
        return self._list(part, {}, request)

    def show(self, part: str | None, event: gr.EventData, request: gr.Request) -> str:
        """The pictures that the visitor asks for: of a kind, with some characters in their names, on a page."""
        return self._list(part, _wishes(event), request)

    def change(self, part: str | None, event: gr.EventData, request: gr.Request) -> str:
        """A click removes a picture or puts it back -> the list after it, or why nothing happened."""
        language, place = language_of(request), self._visitors.of(request)
        name = place.teacher.parts.part(part)
        try:
            if place.teacher.current(name):
                raise LessonRunsError(name)
            move = place.teacher.parts.put_back if getattr(event, "back", None) else place.teacher.parts.remove
            move(name, str(getattr(event, "picture", None)))
        except (PictureError, OSError) as error:
            return self._list(part, _wishes(event), request, explain_fault(error, language, place.catalog))
        return self._list(part, _wishes(event), request)

    def _list(self, part: str | None, wishes: dict, request: gr.Request, refused: str = "") -> str:
        parts = self._visitors.of(request).teacher.parts
        kept = parts.kept(parts.part(part))
        kind, find, number = wishes.get("kind", ALL), wishes.get("find", ""), wishes.get("page", 0)
        found = [one for one in kept if kind in (ALL, one.kind) and find.lower() in one.name.lower()]
        first = PAGE * min(number, max(0, len(found) - 1) // PAGE)
        counts = {ALL: len(kept)} | {each: sum(one.kind == each for one in kept) for each in KINDS}
        small = self._thumbnails.setdefault(parts, lru_cache(REMEMBERED)(thumbnail))
        shown = [(one, _of_file(small, one.path)) for one in sorted(found, key=_natural)[first : first + PAGE]]
        values = {"kind": kind, "find": find, "counts": counts, "shown": shown, "first": first, "count": len(found)}
        return str(render("pictures.html", language_of(request), **values, page=first // PAGE, refused=refused))


def _wishes(event: gr.EventData) -> dict:
    """What the browser shows or asks for, as far as it can be."""
    kind, find, page = (getattr(event, name, None) for name in ("kind", "find", "page"))
    found = {"kind": kind if kind in KINDS else ALL, "find": find if isinstance(find, str) else ""}
    return found | {"page": page if isinstance(page, int) and page > 0 else 0}


def _of_file(small: Callable, path: Path) -> str:
    """A small picture as a data URL; empty if the file cannot be read."""
    try:
        return small(path, path.stat().st_mtime_ns)
    except (OSError, PictureError, Image.DecompressionBombError):
        return ""


def thumbnail(path: Path, written: int) -> str:
    """A small picture as a data URL; it is made again if the file was written again."""
    small = _reduced(path)
    small.thumbnail((SIDE, SIDE))
    return data_url(small, "JPEG", quality=80)


def _reduced(path: Path) -> Image.Image:
    """A JPEG, decoded at a fraction of its size because that is much quicker; other pictures in full."""
    with suppress(UnidentifiedImageError), Image.open(path, formats=["JPEG"]) as image:
        if image.width * image.height <= MAX_PIXELS:
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            return ImageOps.exif_transpose(image).convert("RGB")
    return read_picture(path)


def _natural(kept: Kept) -> list:
    """Sorts IMG_2 before IMG_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", kept.name.lower())]
