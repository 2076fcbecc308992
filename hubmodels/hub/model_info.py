"""Information about a model without loading it: metrics, licence, size, address of its card.

It comes from the files next to the weights, which a stranger may have written. Values that are missing, too large or
of the wrong type are left out.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import HfApi, constants, hf_hub_url, metadata_load, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from yaml import YAMLError

from hubmodels import LIBRARY
from hubmodels.hub.catalog import BUNDLE, CACHE, HUB, PATIENCE, ModelEntry
from hubmodels.hub.errors import CLIENT_ERRORS, in_words
from hubmodels.hub.files import CARD_FILE, REPORT_FILE, WEIGHTS_FILE, older_commit
from hubmodels.metric_names import METRICS

logger = logging.getLogger(__name__)

LARGEST_TEXT = 200_000  # bytes of a report or card; ours have a tenth
LONGEST_WORD = 80  # characters
KEPT = 1024  # models whose files were downloaded already

KEYS = {metric.name: key for key, metric in METRICS.items()}


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model; None or empty = not known.

    Attributes:
        metrics: fractions in [0, 1], by their keys in `METRICS`.
        protocol: which checkpoint the metrics are of: "last", or "best-on-test".
        test_counts: number of test pictures by defect type.
        calibrated_on: number of normal pictures that set the threshold.
        smallest_defect: about how many pixels of a picture a defect needs, along the side that is shrunk most.
        licence: of the weights, as the Hub or its author names it.
        size_bytes: of the weights.
        card: web address of its page on the Hub.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    protocol: str | None = None
    seed: int | None = None
    test_counts: dict[str, int] | None = None
    calibrated_on: int | None = None
    smallest_defect: int | None = None
    backbone: str | None = None
    licence: str | None = None
    size_bytes: int | None = None
    card: str | None = None


def read_model_info(entry: ModelEntry) -> ModelInfo:
    """The information about a model, of the commit that was listed. Raises nothing.

    Answers of the Hub are kept. If the Hub does not answer within a few seconds, the local cache is used.
    """
    size_bytes = None
    if entry.origin == HUB:
        try:
            size_bytes = _download(entry)
        except CLIENT_ERRORS as error:
            logger.info("%s: %s", entry.source, in_words(error))
            if _in_cache(entry, WEIGHTS_FILE) is None:  # then the catalog loads this one
                entry = replace(entry, revision=older_commit(entry.source, error) or entry.revision)
    info = _stored(entry)
    return info if info.size_bytes else replace(info, size_bytes=size_bytes)


@lru_cache(KEPT)
def _download(entry: ModelEntry) -> int | None:
    """Downloads report and card into the local cache, where they are small; returns the size of the weights, bytes.

    Raises CLIENT_ERRORS where the Hub fails.
    """
    for name in (REPORT_FILE, CARD_FILE):
        if _in_cache(entry, name) is None and (_size_on_hub(entry, name) or LARGEST_TEXT + 1) <= LARGEST_TEXT:
            HfApi(library_name=LIBRARY).hf_hub_download(
                entry.source, name, revision=entry.revision, etag_timeout=PATIENCE
            )
    return None if _in_cache(entry, WEIGHTS_FILE) else _size_on_hub(entry, WEIGHTS_FILE)


def _size_on_hub(entry: ModelEntry, name: str) -> int | None:
    """Size of a file, bytes; None where the repository has no such file."""
    try:
        url = hf_hub_url(entry.source, name, revision=entry.revision)
        return HfApi(library_name=LIBRARY).get_hf_file_metadata(url=url, timeout=PATIENCE).size
    except EntryNotFoundError:
        return None


def _stored(entry: ModelEntry) -> ModelInfo:
    """The information in local files."""
    on_hub = entry.origin in (HUB, CACHE)
    find = partial(_in_cache if on_hub else _in_folder, entry)
    info = replace(_read_files(find), card=f"{constants.ENDPOINT}/{quote(entry.source)}" if on_hub else None)
    return replace(info, licence="apache-2.0") if entry.origin == BUNDLE else info  # its cards are elsewhere


def _in_cache(entry: ModelEntry, name: str) -> Path | None:
    try:
        found = try_to_load_from_cache(entry.source, name, revision=entry.revision)
    except HFValidationError:  # an id that no repository can have is in no cache
        return None
    return Path(found) if isinstance(found, str) else None


def _in_folder(entry: ModelEntry, name: str) -> Path | None:
    path = Path(entry.source, name)
    return path if path.is_file() else None


def _read_files(find: Callable[[str], Path | None]) -> ModelInfo:
    """The information in the files that `find` returns by name; the card's own metrics where there is no report."""
    card = _read(find(CARD_FILE), metadata_load)
    report = _read(find(REPORT_FILE), _load_json) or _report_in(card)
    weights = find(WEIGHTS_FILE)
    return ModelInfo(
        metrics=_fractions(report.get("metrics")),
        protocol=_word(report.get("protocol")),
        seed=_count(report.get("seed")),
        test_counts=_counts(_at(report, "data", "counts", "test")),
        calibrated_on=_count(_at(report, "calibration", "pictures")),
        smallest_defect=_count(_at(report, "input", "smallest_defect")),
        backbone=_word(_at(report, "backbone", "name")),
        licence=_word(card.get("license_name")) or _word(card.get("license")),
        size_bytes=weights.stat().st_size if weights else None,
    )


def _read(path: Path | None, load: Callable[[Path], object]) -> dict:
    try:
        content = load(path) if path and path.stat().st_size <= LARGEST_TEXT else None
    except (OSError, ValueError, RecursionError, YAMLError):
        content = None
    return content if isinstance(content, dict) else {}


def _load_json(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def _report_in(card: dict) -> dict:
    """The metrics in the `model-index` of a card, in the form of a report."""
    try:
        metrics_in_card = [
            m for model in card["model-index"] for result in model["results"] for m in result["metrics"]
        ]
        metrics = {KEYS[m["name"]]: m["value"] for m in metrics_in_card if m["name"] in KEYS}
    except (LookupError, TypeError):
        return {}
    args = metrics_in_card[0].get("args") if metrics else None
    return {"metrics": metrics, "protocol": _at(args, "protocol"), "seed": _at(args, "seed")}


def _at(content: object, *keys: str) -> object:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _fractions(metrics: object) -> dict[str, float]:
    given = metrics if isinstance(metrics, dict) else {}
    return {key: float(given[key]) for key in METRICS if _is_number(given.get(key)) and 0 <= given[key] <= 1}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _counts(counts: object) -> dict[str, int] | None:
    given = counts if isinstance(counts, dict) else {}
    return {str(name): number for name, value in given.items() if (number := _count(value)) is not None} or None


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def _word(value: object) -> str | None:
    return value.strip()[:LONGEST_WORD] or None if isinstance(value, str) else None
