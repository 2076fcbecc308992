"""Results as files: overlay, mask, map and JSON of one picture; CSV and ZIP of a batch.

File names come from strangers. They are not trusted in a path, and a spreadsheet must not run them as formulas.
Spreadsheets read numbers as their country writes them, so the visitor's language decides on the marks of the CSV.
"""

import csv
import json
import re
import secrets
import shutil
import zipfile
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO, StringIO
from pathlib import Path
from typing import Self

import numpy as np
from babel.numbers import get_decimal_symbol
from PIL import Image

from hubmodels import AnomalyDetector, AnomalyPrediction
from hubmodels.heatmap import overlay
from hubmodels.hub.catalog import Catalog
from hubmodels.inspection import Inspection, judged_again, method_titles
from hubmodels.line.log import without_formula
from webapp.batch_rows import result_in_words
from webapp.hosting import fresh_path
from webapp.texts import LANGUAGES, number, translate_plainly

FILES = {"overlay": "{method}_overlay.png", "mask": "{method}_mask.png", "map": "{method}_map.npy"}  # of one picture
OVERLAY_SIDE = 1024  # pixels; enough to see a defect, and a thousand of them stay below the next limit
MAX_OVERLAY_BYTES = 200_000_000  # of one ZIP; further pictures have numbers only
LONGEST_NAME = 120  # characters of a file name
OVERLAYS = "overlays/"  # in the ZIP
# The columns of the CSV, for every batch of the same methods. Rarely used ones are at the end.
COLUMNS = (
    *("result", "number", "file", "error", "agree", "verdicts", "defective_verdicts", "category", "width", "height"),
    *("false_alarm_rate", "appearance_matches", "warnings", "look_again"),
)
METHOD_COLUMNS = (
    *("is_anomalous", "is_unsure", "p_value", "image_score", "threshold", "unsure_threshold", "score_level"),
    *("defects", "defect_share", "latency_ms", "guaranteed_false_alarm_rate", "false_alarm_rate_bound"),
    *("least_size", "model"),
)
LAST_COLUMNS = ("correction", "earlier_regions")
DIGITS = 6  # significant ones in the CSV


def models_of(catalog: Catalog, category: str, shown: Collection[str]) -> dict[str, dict]:
    """The category's models of the shown methods, by title: name, origin, commit; no folder of the server."""
    titles = method_titles()
    return {
        titles[entry.method]: {"name": entry.name, "origin": entry.origin, "revision": entry.revision}
        for entry in catalog.entries
        if entry.label == category and titles[entry.method] in shown
    }


def overlay_png(picture: Image.Image, prediction: AnomalyPrediction, side: int | None = None) -> bytes:
    """PNG of the picture under its heat map, with at most so many pixels per side; needs a calibrated prediction."""
    return _png(overlay(picture, prediction) if side is None else small_overlay(picture, prediction, side))


def small_overlay(picture: Image.Image, prediction: AnomalyPrediction, side: int) -> Image.Image:
    """The same with at most so many pixels per side."""
    prediction = prediction.at_most(side)
    height, width = prediction.anomaly_map.shape
    drawn = overlay(picture.resize((width, height), reducing_gap=3), prediction)
    drawn.thumbnail((side, side))  # a map with more details than that is drawn first, so that none vanishes
    return drawn


def _png(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, "PNG", compress_level=1)  # much faster than the default, and a little larger
    return stream.getvalue()


def _as_json(results: dict) -> str:
    return json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)


# ---------------------------------------------------------------- one picture


def write_download(inspection: Inspection, what: str, method: str | None, record: dict) -> Path:
    """One file of an inspection, at the picture's own size.

    Args:
        what: "overlay", "mask" or "map" of a method, or "json" or "zip" of all methods.

    Raises:
        ValueError: there is no such file: an unknown name, or a method without a model or calibration.
    """
    names = _names(inspection)
    if what == "json":
        return _write(fresh_path("result.json"), _as_json(record).encode())
    if what == "zip":
        return _write_zip(inspection, names, record)
    if (what, method) not in names:
        raise ValueError(f"there is no {what} of {method}")
    return _write(fresh_path(names[what, method]), _content(inspection, what, method))


def _names(inspection: Inspection) -> dict[tuple[str, str], str]:
    """File names by (what, method); without a calibration there is only the map."""
    return {
        (what, method): name.format(method=method.lower())
        for method, prediction in inspection.predictions.items()
        for what, name in FILES.items()
        if what == "map" or prediction.is_anomalous is not None
    }


def _content(inspection: Inspection, what: str, method: str) -> bytes:
    prediction = inspection.predictions[method]
    if what == "overlay":
        return overlay_png(inspection.picture, prediction)
    if what == "mask":
        return _png(Image.fromarray(prediction.mask))  # one bit per pixel
    stream = BytesIO()
    np.save(stream, prediction.anomaly_map)
    return stream.getvalue()


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _write_zip(inspection: Inspection, names: dict[tuple[str, str], str], record: dict) -> Path:
    target = fresh_path("inspection.zip")
    with zipfile.ZipFile(target, "w") as archive, ThreadPoolExecutor(2) as pool:
        archive.writestr("result.json", _as_json(record))  # compressing saves little, and takes longer than all else
        contents = pool.map(lambda key: _content(inspection, *key), names)
        for name, content in zip(names.values(), contents, strict=True):
            archive.writestr(name, content)
    return target


# ---------------------------------------------------------------- a batch


def printable(name: str) -> str:
    """A stranger's file name for display: one line of limited length, no control characters, no folders."""
    last = re.split(r"[/\\]", name)[-1] or "?"
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in last)
    return clean if len(clean) <= LONGEST_NAME else clean[: LONGEST_NAME - 1] + "…"


class BatchResults:
    """The results of a batch, written picture by picture, so that a stopped batch loses nothing.

    Overlays are written to the ZIP at once, so that memory contains only numbers. Without `finish` the folder is
    deleted on exit.

    Args:
        folder: of this batch alone; created here.
        head: common to all pictures: category, rate, models.

    Attributes:
        head: as given.
        rows: one per picture, including failures, in the order of the pictures; as `revise` decided them.
        corrections: by number of a row, a person's word: "good" or "defective".
        csv_path, zip_path: complete after `finish`.
    """

    def __init__(self, folder: Path, head: dict, language: str = LANGUAGES[0]) -> None:
        folder.mkdir(parents=True)
        self.corrections: dict[int, str] = {}
        self._language, self._inspected, self._detectors = language, [], None
        self.csv_path, self.zip_path = folder / "inspection.csv", folder / "inspection.zip"
        self.rows: list[dict] = []
        self.head, self._folder, self._overlay_bytes, self._left_out = head, folder, 0, 0
        self._zip = zipfile.ZipFile(self.zip_path, "w")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip.fp is not None:  # the visitor left
            self._zip.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, file: str, inspection: Inspection) -> dict:
        """Adds the results of a picture; overlays only if at least one method calls it defective."""
        row = self._row(file, None) | inspection.record(self.head["category"], self.head["false_alarm_rate"])
        decided = {name: p for name, p in inspection.predictions.items() if p.is_anomalous is not None}
        if row["defective_verdicts"]:
            paths = [self._add_overlay(row, name, inspection.picture, p) for name, p in decided.items()]
            row["overlays"] = [path for path in paths if path]
        return self._keep(row)

    def add_failure(self, file: str, reason: str) -> dict:
        """Adds a picture that could not be inspected."""
        return self._keep(self._row(file, reason))

    def revise(self, detectors: Mapping[str, AnomalyDetector] | None) -> None:
        """Decides all rows again, and later ones, by the present thresholds, and marks the corrected ones.

        Args:
            detectors: by title, those that gave the scores; None = no threshold has changed.
        """
        self._detectors = detectors or self._detectors
        self.rows = list(map(self._revised, self._inspected))

    def finish(self) -> None:
        """Completes the CSV and the ZIP."""
        with self._zip:
            self._write_numbers(self._zip)

    def rewrite(self) -> None:
        """Writes both files again after a correction, in a new folder, so that no browser shows the former ones."""
        before = self.csv_path, self.zip_path
        if not self.zip_path.is_file():  # results are deleted after an hour
            return
        place = self._folder / secrets.token_hex(4)
        place.mkdir()
        self.csv_path, self.zip_path = place / self.csv_path.name, place / self.zip_path.name
        with zipfile.ZipFile(before[1]) as old, zipfile.ZipFile(self.zip_path, "w") as new:
            for name in (name for name in old.namelist() if name.startswith(OVERLAYS)):
                new.writestr(name, old.read(name))
            self._write_numbers(new)
        for path in before:
            with suppress(OSError):  # somebody downloads it
                path.unlink()

    def _write_numbers(self, archive: zipfile.ZipFile) -> None:
        text = table(self.rows, self.head, self._language)
        self.csv_path.write_text(text, encoding="utf-8-sig", newline="")  # BOM: for Excel
        results = {**self.head, "overlays_left_out": self._left_out, "pictures": self.rows}
        archive.write(self.csv_path, self.csv_path.name, zipfile.ZIP_DEFLATED)
        archive.writestr("results.json", _as_json(results), zipfile.ZIP_DEFLATED)

    def _keep(self, row: dict) -> dict:
        self._inspected.append(row)
        self.rows.append(self._revised(row))
        return self.rows[-1]

    def _revised(self, row: dict) -> dict:
        if self._detectors and row["error"] is None:
            row = judged_again(row, self._detectors)
        correction = self.corrections.get(row["number"])
        return row | ({"correction": correction} if correction else {})

    def _row(self, file: str, reason: str | None) -> dict:
        """A row without results."""
        first = {"number": len(self.rows) + 1, "file": printable(file), "error": reason}
        return first | {"agree": None, "verdicts": 0, "defective_verdicts": 0, "methods": {}, "overlays": []}

    def _add_overlay(self, row: dict, method: str, picture: Image.Image, prediction: AnomalyPrediction) -> str | None:
        png = overlay_png(picture, prediction, OVERLAY_SIDE)
        if self._overlay_bytes + len(png) > MAX_OVERLAY_BYTES:
            self._left_out += 1
            return None
        stem = re.sub(r"[^\w-]+", "_", Path(row["file"]).stem)  # no dots or slashes: no path to another folder
        path = f"{OVERLAYS}{row['number']:04d}-{stem}-{method.lower()}.png"  # the number separates equal names
        self._zip.writestr(path, png)
        self._overlay_bytes += len(png)
        return path


def table(rows: list[dict], head: dict, language: str) -> str:
    """The rows as CSV, one per picture: the result in words, then all numbers of all methods.

    The columns depend on the methods alone. Headers, numbers, words and separators are those of spreadsheets in this
    language. The English headers and codes are those in the JSON, for programs.
    """
    columns, point = _columns(rows, head), get_decimal_symbol(language)
    stream = StringIO()
    writer = csv.writer(stream, delimiter=";" if point == "," else ",")
    writer.writerow(_header(column, language) for column in columns)
    for row in (_flattened(row, head, language) for row in rows):
        writer.writerow(_cell(row.get(column), language) for column in columns)
    return stream.getvalue()


def _columns(rows: list[dict], head: dict) -> list[str | tuple[str, str]]:
    """All columns; those of a method are (method, column)."""
    found = {*head["models"], *(method for row in rows for method in row["methods"])}
    shown = [title for title in method_titles().values() if title in found]
    return [*COLUMNS, *((title, name) for title in shown for name in METHOD_COLUMNS), *LAST_COLUMNS]


def _flattened(row: dict, head: dict, language: str) -> dict:
    """By column, or by (method, column)."""
    plain = {key: value for key, value in row.items() if key not in ("methods", "overlays")}
    plain["result"] = result_in_words(row, language)
    if "correction" in row:
        plain["correction"] = translate_plainly(row["correction"], language)
    if "warnings" in row:
        plain["warnings"] = "; ".join(translate_plainly(f"csv_{code}", language) for code in row["warnings"])
    for method, numbers in row["methods"].items():
        model = head["models"].get(method, {})
        plain |= {(method, key): value for key, value in numbers.items()}
        plain[method, "model"] = "@".join(filter(None, (model.get("name"), model.get("revision"))))
    return plain


def _header(column: str | tuple[str, str], language: str) -> str:
    """The header of a column, or of a method's column (method, column)."""
    if isinstance(column, str):
        return translate_plainly(f"csv_{column}", language)
    method, name = column
    return translate_plainly("csv_of_method", language, method=method.lower(), column=_header(name, language))


def _cell(value: object, language: str) -> object:
    if isinstance(value, bool):
        return translate_plainly("csv_yes" if value else "csv_no", language)
    if isinstance(value, float):
        return number(value, language, DIGITS)
    return without_formula(value) if isinstance(value, str) else value
