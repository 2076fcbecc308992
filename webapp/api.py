"""The endpoints for programs: one picture, several, and the list of categories; MCP tools where `mcp` is installed.

Production hides the texts of exceptions, which tell paths of the server. What a caller can mend is answered as data:
`{"error": {"kind": ..., "message": ...}}`, the kind for programs, the message for people.
"""

import base64
from importlib.util import find_spec

import gradio as gr  # noqa: TID251

from hubmodels import BackboneError, ModelError, PictureError
from hubmodels.hub.catalog import Catalog
from webapp.inspection import BATCH, MODEL, Inspection, judge
from webapp.records import shown_overlay
from webapp.uploads import uploaded_path

MAX_PICTURES = 32  # of one call; the page takes more, and shows how far it is


def add(catalog: Catalog) -> None:
    """Adds the endpoints to the current gr.Blocks."""
    endpoints = _Endpoints(catalog)
    gr.api(endpoints.categories, api_name="categories", queue=False)
    gr.api(endpoints.inspect, api_name="inspect", **MODEL)
    gr.api(endpoints.inspect_batch, api_name="inspect_batch", **BATCH)


def mcp_available() -> bool:
    """Whether `launch(mcp_server=...)` can be switched on: the extra `mcp` is installed."""
    return find_spec("mcp") is not None


class _Endpoints:
    """Names, signatures and docstrings of the methods are what API and MCP callers see."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def categories(self) -> list[str]:
        """Lists the kinds of parts that can be inspected.

        Returns:
            Labels such as "parts / washer", to be given as `category` to the other endpoints.
        """
        return self._catalog.categories()

    def inspect(
        self, picture: gr.FileData, category: str, false_alarm_rate: float | None = None, overlays: bool = False
    ) -> dict:
        """Says whether a picture shows a defective part, by each method that has a model of its category.

        Args:
            picture: the picture of one part: uploaded, or as a data URL.
            category: a label that `categories` lists.
            false_alarm_rate: share of good parts that may be flagged, in (0, 1); the calibrated one if not given.
            overlays: whether to add each method's heat map over the picture, as a PNG in a data URL.

        Returns:
            Verdict, p-value, scores and number of defects of each method, and whether they agree; or an error.
        """
        return self._wrong(category, false_alarm_rate) or self._judge(picture, category, false_alarm_rate, overlays)

    def inspect_batch(self, pictures: list[gr.FileData], category: str, false_alarm_rate: float | None = None) -> dict:
        """Says of each of up to 32 pictures whether it shows a defective part; one bad picture does not stop the rest.

        Args:
            pictures: the pictures, all of the same category: uploaded, or as data URLs.
            category: a label that `categories` lists.
            false_alarm_rate: share of good parts that may be flagged, in (0, 1); the calibrated one if not given.

        Returns:
            As `results` what `inspect` says of each picture, in their order; or an error.
        """
        if not isinstance(pictures, list) or not 0 < len(pictures) <= MAX_PICTURES:
            return _error("count", f"give a list of 1 to {MAX_PICTURES} pictures")
        if wrong := self._wrong(category, false_alarm_rate):
            return wrong
        return {"results": [self._judge(picture, category, false_alarm_rate) for picture in pictures]}

    def _wrong(self, category: object, rate: object) -> dict | None:
        """What is wrong with a call, whatever its pictures."""
        if category not in (labels := self._catalog.categories()):
            return _error("unknown_category", f"there is no such category; choose one of: {', '.join(labels)}")
        if rate is not None and not (isinstance(rate, int | float) and 0 < rate < 1):
            return _error("false_alarm_rate", "the false-alarm rate has to be a number between 0 and 1, or null")

    def _judge(self, upload: object, category: str, rate: float | None, overlays: bool = False) -> dict:
        picture = _read_data_url(upload) if isinstance(upload, str) else uploaded_path(upload)
        if picture is None:
            return _error("not_uploaded", "upload the picture and give the path that is answered, or give a data URL")
        try:
            inspection = judge(self._catalog, category, picture, rate)
        except PictureError as error:
            return _error(error.fault, str(error))
        except (ModelError, BackboneError):  # the reason names places of the server
            return _error("model", f"no model of {category} can be loaded at present; the page has the reason")
        return _with_overlays(inspection, inspection.record(category, rate), overlays)


def _read_data_url(text: str) -> bytes | None:
    """The picture in a data URL; None for other texts. Gradio leaves those in lists, which MCP sends, as they are."""
    head, _, encoded = text.partition(";base64,")
    if not head.startswith("data:image/"):
        return None
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        return None


def _with_overlays(inspection: Inspection, record: dict, overlays: bool) -> dict:
    for name, prediction in inspection.predictions.items():
        if overlays is True and prediction.is_anomalous is not None:
            png = base64.b64encode(shown_overlay(inspection.picture, prediction)).decode()
            record["methods"][name]["overlay"] = f"data:image/png;base64,{png}"
    return record


def _error(kind: str, message: str) -> dict:
    return {"error": {"kind": kind, "message": message}}
