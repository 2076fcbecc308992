"""Endpoints for programs: one picture, several pictures, and the list of categories; MCP tools if `mcp` is installed.

Gradio hides the texts of exceptions, because they contain paths of the server. Errors that the caller can fix are
therefore returned as data: `{"error": {"kind": ..., "message": ...}}`, the kind for programs, the message for people.
"""

import base64
from importlib.util import find_spec
from pathlib import Path

import gradio as gr

from hubmodels import BackboneError, ModelError, PictureError
from hubmodels.hub.catalog import Catalog
from hubmodels.inspection import Inspection, SetupWatch
from webapp.hosting import uploaded_path
from webapp.inspection import BATCH, MODEL, inspect_picture
from webapp.page_log import PageLog
from webapp.results import OVERLAY_SIDE, overlay_png
from webapp.texts import LANGUAGES, translate_plainly

ENDPOINTS = ("categories", "inspect", "inspect_batch")
MAX_PICTURES = 32  # of one call; the page accepts more, and shows the progress


def add(catalog: Catalog, log: PageLog | None = None) -> None:
    """Adds the endpoints to the current gr.Blocks; every result is added to the log."""
    endpoints, settings = _Endpoints(catalog, log or PageLog()), ({"queue": False}, MODEL, BATCH)
    for name, how in zip(ENDPOINTS, settings, strict=True):
        gr.api(getattr(endpoints, name), api_name=name, **how)


def mcp_available() -> bool:
    """Whether `launch(mcp_server=...)` can be used: the extra `mcp` is installed."""
    return find_spec("mcp") is not None


class _Endpoints:
    """API and MCP callers see the names, signatures and docstrings of the methods."""

    def __init__(self, catalog: Catalog, log: PageLog) -> None:
        self._catalog, self._log = catalog, log

    def categories(self) -> list[str]:
        """Lists the kinds of parts that can be inspected.

        Returns:
            Labels such as "parts / washer". Use them as `category` in the other endpoints.
        """
        return self._catalog.categories()

    def inspect(
        self, picture: gr.FileData, category: str, false_alarm_rate: float | None = None, overlays: bool = False
    ) -> dict:
        """Decides whether a picture shows a defective part, with each method that has a model of its category.

        Args:
            picture: the picture of one part, uploaded or as a data URL.
            category: a label that `categories` lists.
            false_alarm_rate: accepted share of good parts called defective, in (0, 1); default: as calibrated.
            overlays: whether to add the heat map of each method over the picture, as a PNG in a data URL.

        Returns:
            Verdict, p-value, scores and number of defects of each method, and whether they agree; or an error.
        """
        return self._refused(category, false_alarm_rate) or self._result(picture, category, false_alarm_rate, overlays)

    def inspect_batch(self, pictures: list[gr.FileData], category: str, false_alarm_rate: float | None = None) -> dict:
        """Decides for up to 32 pictures whether each shows a defective part; a bad picture does not stop the others.

        Args:
            pictures: the pictures, all of the same category, uploaded or as data URLs.
            category: a label that `categories` lists.
            false_alarm_rate: accepted share of good parts called defective, in (0, 1); default: as calibrated.

        Returns:
            `results`: the answers of `inspect` for the pictures, in their order; and `notice`: null, or that the
            camera, the light or the part's position may have changed; or an error.
        """
        if not isinstance(pictures, list) or not 0 < len(pictures) <= MAX_PICTURES:
            return _error("count", f"pass a list of 1 to {MAX_PICTURES} pictures")
        if refused := self._refused(category, false_alarm_rate):
            return refused
        watch = SetupWatch(false_alarm_rate)
        results = [self._result(picture, category, false_alarm_rate, watch=watch) for picture in pictures]
        return {"results": results, "notice": _notice() if watch.changed else None}

    def _refused(self, category: object, rate: object) -> dict | None:
        """The error of the arguments of a call, except its pictures; None if there is none."""
        if category not in (labels := self._catalog.categories()):
            return _error("unknown_category", f"there is no such category; choose one of: {', '.join(labels)}")
        if rate is not None and not (isinstance(rate, int | float) and 0 < rate < 1):
            return _error("false_alarm_rate", "the false-alarm rate must be a number between 0 and 1, or null")

    def _result(
        self,
        upload: object,
        category: str,
        rate: float | None,
        overlays: bool = False,
        watch: SetupWatch | None = None,
    ) -> dict:
        picture = read_data_url(upload) if isinstance(upload, str) else uploaded_path(upload)
        if picture is None:
            return _error("not_uploaded", "upload the picture and pass the returned path, or pass a data URL")
        try:
            inspection = inspect_picture(self._catalog, category, picture, rate)
            name, file = ("", picture) if isinstance(picture, bytes) else (Path(picture).name, Path(picture))
            self._log.inspection(name, file, category, inspection, rate, self._catalog)
        except PictureError as error:
            return _error(error.fault, str(error))
        except (ModelError, BackboneError):  # the reason contains paths of the server
            return _error("model", f"no model of {category} can be loaded at present; the page shows the reason")
        if watch is not None:
            watch.add(inspection)
        return _with_overlays(inspection, inspection.record(category, rate), overlays)


def read_data_url(text: object) -> bytes | None:
    """The picture in a data URL; None for others. In lists, which MCP sends, Gradio keeps data URLs as text."""
    head, _, encoded = text.partition(";base64,") if isinstance(text, str) else ("", "", "")
    if not head.startswith("data:image/"):
        return None
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        return None


def _with_overlays(inspection: Inspection, record: dict, overlays: bool) -> dict:
    for name, prediction in inspection.predictions.items():
        if overlays is True and prediction.is_anomalous is not None:
            png = base64.b64encode(overlay_png(inspection.picture, prediction, OVERLAY_SIDE)).decode()
            record["methods"][name]["overlay"] = f"data:image/png;base64,{png}"
    return record


def _notice() -> dict:
    words = (translate_plainly(key, LANGUAGES[0]) for key in ("setup_changed", "setup_changed_why"))
    return {"kind": "setup_changed", "message": " ".join(words)}


def _error(kind: str, message: str) -> dict:
    return {"error": {"kind": kind, "message": message}}
