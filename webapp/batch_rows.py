"""The rows of a batch: the words of their results, their cells, and the keys by which the table is sorted."""

from collections.abc import Sequence

from PIL import Image

from hubmodels.appearance import UNLIKE
from webapp.texts import LOOK, SIGNS, TONES, VERDICT_KEYS, data_url, number, translate_plainly

THUMBNAIL_SIDE = 64  # pixels
VERDICT_ORDER = {True: 0, LOOK: 1, False: 2, None: 3}
COLUMNS = ("batch_verdict", "batch_level", "batch_defects")  # of each method
# the order of the table, and the texts of one row and of several
DISAGREEMENT, DEFECTIVE_OR_ELSE, SOMETHING_ELSE, DEFECTIVE, AGAIN, UNREAD, NO_VERDICT, GOOD = range(8)
RANKS = (
    ("batch_disagree", "batch_disagree"),
    ("defective_or_else", "batch_defective_or_else_many"),
    ("batch_unlike", "batch_unlike_many"),
    ("defective", "defective"),
    ("look_again", "look_again"),
    ("batch_unread", "batch_unread"),
    ("no_verdict", "no_verdict"),
    ("good", "good"),
)
UNLIKE_WORDS = {DEFECTIVE_OR_ELSE: "defective_or_else", SOMETHING_ELSE: "unsure"}


def inspected_row(record: dict, thumbnail: str, titles: Sequence[str], language: str) -> dict:
    """A record as a row of the table: its cells, for each column the key to sort by, and a person's correction."""
    cells, keys = [result_cell(record, language)], [record["file"], rank_of(record)]
    for title in titles:
        for cell, key in _method_cells(record["methods"].get(title), language):
            cells.append(cell)
            keys.append(key)
    note = ", ".join(translate_plainly(f"batch_{code}", language) for code in record["warnings"])
    shown = {"thumbnail": thumbnail, "alt": translate_plainly("batch_alt", language), "note": note}
    correction = record.get("correction")
    shown["correction"] = correction and translate_plainly(f"batch_corrected_{correction}", language)
    return {"number": record["number"], "file": record["file"], **shown, "cells": cells, "keys": keys, "revision": 0}


def unread_row(record: dict, reason: str, titles: Sequence[str], language: str) -> dict:
    """The row of a picture that could not be inspected."""
    text, further = f"{translate_plainly('batch_unread', language)}: {reason}", len(COLUMNS) * len(titles)
    cells = [{"text": text, "sign": "!", "tone": "failed", "span": 1 + further}]
    keys = [record["file"], UNREAD, *[None] * further]
    shown = {"number": record["number"], "file": record["file"], "thumbnail": None}
    return shown | {"cells": cells, "keys": keys, "revision": 0}


def rank_of(record: dict) -> int:
    """The place of a record in the order of the table: by the verdicts, not by what a person said of the picture."""
    if record["error"] is not None:
        return UNREAD
    if UNLIKE in record["warnings"]:
        return DEFECTIVE_OR_ELSE if record["defective_verdicts"] else SOMETHING_ELSE
    if record["agree"] is False:
        return DISAGREEMENT
    if record["defective_verdicts"]:
        return DEFECTIVE
    if record["look_again"]:
        return AGAIN
    return NO_VERDICT if record["verdicts"] < len(record["methods"]) else GOOD


def count_in_words(rank: int, count: int, language: str) -> str:
    """What so many rows of a rank are; the text follows the number."""
    one, many = RANKS[rank]
    return translate_plainly(one if count == 1 else many, language)


def result_in_words(record: dict, language: str) -> str:
    """The result of a record, as the table on the page shows it."""
    if rank_of(record) == UNREAD:
        return translate_plainly("batch_unread", language)
    return result_cell(record, language)["text"]


def result_cell(record: dict, language: str) -> dict:
    """The result of a record: its words, sign and tone."""
    rank = rank_of(record)
    if rank == DISAGREEMENT:
        count, total = record["defective_verdicts"], len(record["methods"])
        key = "batch_disagree" if total == 2 else "batch_disagree_count"
        return {"text": translate_plainly(key, language, count=count, total=total), "sign": "≠", "tone": "disagree"}
    if rank in UNLIKE_WORDS:
        return {"text": translate_plainly(UNLIKE_WORDS[rank], language), "sign": SIGNS[None], "tone": TONES[None]}
    return _verdict({DEFECTIVE: True, AGAIN: LOOK, GOOD: False, NO_VERDICT: None}[rank], language)


def _verdict(verdict: bool | str | None, language: str) -> dict:
    words = translate_plainly(VERDICT_KEYS[verdict], language)
    return {"text": words, "sign": SIGNS[verdict], "tone": TONES[verdict]}


def _method_cells(numbers: dict | None, language: str) -> list[tuple[dict, float | None]]:
    """Verdict, level and number of defects of one method, each with its key to sort by."""
    if numbers is None:  # no model of this method
        return [({"text": "-"}, None)] * len(COLUMNS)
    verdict = LOOK if numbers["is_unsure"] else numbers["is_anomalous"]
    cells = [(_verdict(verdict, language), VERDICT_ORDER[verdict])]
    for key, digits in (("score_level", 3), ("defects", 6)):
        value = numbers[key]
        text = "-" if value is None else number(value, language, digits)
        cells.append(({"text": text, "tone": "number"}, value))
    return cells


def thumbnail(picture: Image.Image) -> str:
    """The picture as a tiny JPEG in a data URL."""
    scale = THUMBNAIL_SIDE / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return data_url(picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2), "JPEG", quality=70)
