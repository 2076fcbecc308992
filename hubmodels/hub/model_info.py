"""What is known of a model without loading it: how well it did, its licence, its size, and where its card is.

It stands in the files beside the weights, which somebody else may have written: what is missing, too large or not what
it should be is left out.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import HfApi, constants, hf_hub_url, metadata_load, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from yaml import YAMLError

from hubmodels.backbone import WEIGHTS_FILE
from hubmodels.compactnet import COMPACT_LICENCE
from hubmodels.detector import CARD_FILE
from hubmodels.hub.files import HUB_ERRORS, LIBRARY, REPORT_FILE, in_words
from hubmodels.hub.listing import BUNDLE, CACHE, HUB, PATIENCE, ModelEntry

logger = logging.getLogger(__name__)

LARGEST_TEXT = 200_000  # bytes of a report or card; ours have a tenth
LONGEST_WORD = 80  # characters
KEPT_FACTS = 1024  # published models; a fact is a few hundred bytes

METRICS = {  # key in the report: name in print, type as the Hub calls it
    "image_auroc": ("image AUROC", "roc_auc"),
    "image_ap": ("image AP", "average_precision"),
    "image_f1_max": ("image F1-max", "f1"),
    "pixel_auroc": ("pixel AUROC", "roc_auc"),
    "pixel_ap": ("pixel AP", "average_precision"),
    "pixel_f1_max": ("pixel F1-max", "f1"),
    "aupro": ("AUPRO@0.3", "aupro"),
    "false_alarm_rate": ("false-alarm rate at the calibrated threshold", "false_alarm_rate"),
    "recall_at_threshold": ("recall at the calibrated threshold", "recall"),
    "cropped_defect_pixels": ("share of the defect pixels outside the inspected centre crop", "cropped_defect_pixels"),
}
KEYS = {name: key for key, (name, _) in METRICS.items()}


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model; None or empty = not known.

    Attributes:
        metrics: fractions in [0, 1], by their keys in `METRICS`.
        protocol: which checkpoint the metrics are of: "last", or "best-on-test".
        test_counts: number of test pictures by defect type.
        held_out: number of held-out normals that calibrated the threshold.
        licence: of the weights, as the Hub knows it or as its author named it.
        size_bytes: of the weights.
        card: web address of its page on the Hub.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    protocol: str | None = None
    seed: int | None = None
    test_counts: dict[str, int] | None = None
    held_out: int | None = None
    backbone: str | None = None
    licence: str | None = None
    size_bytes: int | None = None
    card: str | None = None


def read_model_info(entry: ModelEntry) -> ModelInfo:
    """The facts of a model, of the commit that was listed. Raises nothing.

    What the Hub told is kept; where it does not answer within a few seconds, what the local cache holds is used.
    """
    for read in (_published, _stored) if entry.origin == HUB else (_stored,):
        try:
            return read(entry)
        except HUB_ERRORS as error:
            logger.info("%s: %s", entry.source, in_words(error))
    return ModelInfo()


@lru_cache(KEPT_FACTS)
def _published(entry: ModelEntry) -> ModelInfo:
    """Fetches report and card into the local cache, where they are small; raises HUB_ERRORS where the Hub fails."""
    for name in (REPORT_FILE, CARD_FILE):
        if _in_cache(entry, name) is None and (_size_on_hub(entry, name) or LARGEST_TEXT + 1) <= LARGEST_TEXT:
            HfApi(library_name=LIBRARY).hf_hub_download(
                entry.source, name, revision=entry.revision, etag_timeout=PATIENCE
            )
    facts = _stored(entry)
    return facts if facts.size_bytes else replace(facts, size_bytes=_size_on_hub(entry, WEIGHTS_FILE))


def _size_on_hub(entry: ModelEntry, name: str) -> int | None:
    """Size of a file, bytes; None where the repository holds none of that name."""
    try:
        url = hf_hub_url(entry.source, name, revision=entry.revision)
        return HfApi(library_name=LIBRARY).get_hf_file_metadata(url=url, timeout=PATIENCE).size
    except EntryNotFoundError:
        return None


def _stored(entry: ModelEntry) -> ModelInfo:
    """What the files on this machine tell."""
    on_hub = entry.origin in (HUB, CACHE)
    find = partial(_in_cache if on_hub else _in_folder, entry)
    facts = replace(_told(find), card=f"{constants.ENDPOINT}/{quote(entry.source)}" if on_hub else None)
    return replace(facts, licence=COMPACT_LICENCE) if entry.origin == BUNDLE else facts  # its cards lie elsewhere


def _in_cache(entry: ModelEntry, name: str) -> Path | None:
    found = try_to_load_from_cache(entry.source, name, revision=entry.revision)
    return Path(found) if isinstance(found, str) else None


def _in_folder(entry: ModelEntry, name: str) -> Path | None:
    path = Path(entry.source, name)
    return path if path.is_file() else None


def _told(find: Callable[[str], Path | None]) -> ModelInfo:
    """The facts in the files that `find` finds by their names; the card's own metrics where there is no report."""
    card = _read(find(CARD_FILE), metadata_load)
    report = _read(find(REPORT_FILE), _load_json) or _report_in(card)
    weights = find(WEIGHTS_FILE)
    return ModelInfo(
        metrics=_fractions(report.get("metrics")),
        protocol=_word(report.get("protocol")),
        seed=_count(report.get("seed")),
        test_counts=_counts(_at(report, "data", "counts", "test")),
        held_out=_count(_at(report, "calibration", "held_out")),
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
    """The metrics in the `model-index` of a card, as the report would tell them."""
    try:
        told = [m for model in card["model-index"] for result in model["results"] for m in result["metrics"]]
        metrics = {KEYS[m["name"]]: m["value"] for m in told if m["name"] in KEYS}
    except (LookupError, TypeError):
        return {}
    args = told[0].get("args") if metrics else None
    return {"metrics": metrics, "protocol": _at(args, "protocol"), "seed": _at(args, "seed")}


def _at(content: object, *keys: str) -> object:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _fractions(metrics: object) -> dict[str, float]:
    told = metrics if isinstance(metrics, dict) else {}
    return {key: float(told[key]) for key in METRICS if _is_number(told.get(key)) and 0 <= told[key] <= 1}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _counts(counts: object) -> dict[str, int] | None:
    told = counts if isinstance(counts, dict) else {}
    return {str(name): number for name, value in told.items() if (number := _count(value)) is not None} or None


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def _word(value: object) -> str | None:
    return value.strip()[:LONGEST_WORD] or None if isinstance(value, str) else None
