"""What a batch leaves behind: a CSV table, and a ZIP with overlays and a JSON file.

File names come from strangers: nothing of them is trusted in a path, and a spreadsheet must not run them as formulas.
"""

import csv
import json
import re
import shutil
import zipfile
from io import BytesIO, StringIO
from pathlib import Path
from typing import Self

from PIL import Image

from hubmodels import AnomalyPrediction
from hubmodels.heatmap import overlay
from hubmodels.hub.catalog import Catalog
from hubmodels.hub.listing import METHODS
from hubmodels.layers import shrink
from webapp.inspection import Inspection

OVERLAY_SIDE = 1024  # pixels; enough to see a defect, and a thousand of them fit the limit below
MAX_OVERLAY_BYTES = 200_000_000  # of one ZIP; what comes later has numbers only
LONGEST_NAME = 120  # characters of a file name that are kept
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute such a cell


def models_of(catalog: Catalog, category: str) -> dict[str, dict]:
    """Which models answer for a category, by method: name, where from, commit. No folder of the server is told."""
    return {
        METHODS[entry.method].__name__: {"name": entry.name, "origin": entry.origin, "revision": entry.revision}
        for entry in catalog.entries
        if entry.label == category
    }


def shown_overlay(picture: Image.Image, prediction: AnomalyPrediction) -> bytes:
    """PNG of the picture under its heat map, of limited size; the prediction has to be calibrated."""
    smaller, stream = shrink(prediction, OVERLAY_SIDE), BytesIO()
    height, width = smaller.anomaly_map.shape
    overlay(picture.resize((width, height), reducing_gap=3), smaller).save(stream, "PNG")
    return stream.getvalue()


def printable(name: str) -> str:
    """A stranger's file name for display: one line of bounded length, no control characters, no folders."""
    last = re.split(r"[/\\]", name)[-1] or "?"
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in last)
    return clean if len(clean) <= LONGEST_NAME else clean[: LONGEST_NAME - 1] + "…"


class Records:
    """The results of a batch, written while they come: what is done is kept, however the batch ends.

    Overlays go to the ZIP at once, so that memory holds numbers only. Left without `finish`, the folder is deleted.

    Args:
        folder: of this batch alone; made here.
        head: what holds for all pictures: category, rate, models.

    Attributes:
        head: as given.
        rows: one for each picture, failures too, in the order of their coming.
        csv_path, zip_path: complete after `finish`.
    """

    def __init__(self, folder: Path, head: dict) -> None:
        folder.mkdir(parents=True)
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
        """Writes what was found in a picture; its overlays only where a method calls it defective."""
        row = self._row(file, None) | inspection.record(self.head["category"], self.head["false_alarm_rate"])
        verdicts = {name: p for name, p in inspection.predictions.items() if p.is_anomalous is not None}
        if any(prediction.is_anomalous for prediction in verdicts.values()):
            shown = {name: self._add_overlay(row, name, inspection.picture, p) for name, p in verdicts.items()}
            row["overlays"] = [path for path in shown.values() if path]
        self.rows.append(row)
        return row

    def add_failure(self, file: str, reason: str) -> dict:
        """Writes that a picture could not be inspected."""
        self.rows.append(self._row(file, reason))
        return self.rows[-1]

    def finish(self) -> None:
        """Completes the CSV and the ZIP."""
        self.csv_path.write_text(table(self.rows, self.head), encoding="utf-8-sig", newline="")  # BOM: for Excel
        results = {**self.head, "overlays_left_out": self._left_out, "pictures": self.rows}
        with self._zip:
            self._zip.write(self.csv_path, self.csv_path.name, zipfile.ZIP_DEFLATED)
            text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
            self._zip.writestr("results.json", text, zipfile.ZIP_DEFLATED)

    def _row(self, file: str, reason: str | None) -> dict:
        number = len(self.rows) + 1
        return {
            "number": number,
            "file": printable(file),
            "error": reason,
            "agree": None,
            "methods": {},
            "overlays": [],
        }

    def _add_overlay(self, row: dict, method: str, picture: Image.Image, prediction: AnomalyPrediction) -> str | None:
        png = shown_overlay(picture, prediction)
        if self._overlay_bytes + len(png) > MAX_OVERLAY_BYTES:
            self._left_out += 1
            return None
        stem = re.sub(r"[^\w-]+", "_", Path(row["file"]).stem)  # no dots, no slashes: nothing that leads elsewhere
        path = f"overlays/{row['number']:04d}-{stem}-{method.lower()}.png"  # the number keeps equal names apart
        self._zip.writestr(path, png)
        self._overlay_bytes += len(png)
        return path


def table(rows: list[dict], head: dict) -> str:
    """The rows as CSV, one for each picture, with all numbers of all methods."""
    flat = [_flattened(row, head) for row in rows]
    columns = dict.fromkeys(column for row in sorted(flat, key=len, reverse=True) for column in row)
    stream = StringIO()
    writer = csv.DictWriter(stream, columns)
    writer.writeheader()
    writer.writerows({column: _cell(value) for column, value in row.items()} for row in flat)
    return stream.getvalue()


def _flattened(row: dict, head: dict) -> dict:
    plain = {key: value for key, value in row.items() if key not in ("methods", "overlays")}
    for method, numbers in row["methods"].items():
        plain |= {f"{method.lower()}_{key}": value for key, value in numbers.items()}
        plain[f"{method.lower()}_model"] = "@".join(filter(None, _model(head, method)))
    return plain


def _model(head: dict, method: str) -> tuple[str, str | None]:
    model = head["models"].get(method, {})
    return model.get("name", ""), model.get("revision")


def _cell(value: object) -> object:
    value = "; ".join(map(str, value)) if isinstance(value, list) else value
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
