"""What a Hub repository shows of a model folder: nothing private, a card that names the repository, and its stamp."""

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
from huggingface_hub.utils import validate_repo_id
from jinja2 import TemplateError
from safetensors import SafetensorError
from safetensors.torch import load

from hubmodels.backbone import WEIGHTS_FILE
from hubmodels.detector import CARD_FILE
from hubmodels.hub.files import CONFIG_FILE, REPORT_FILE
from training.evaluation import PANELS, SCORES_FILE, read_report, write_json
from training.publishing.card import find_panels, name_of, public_report, write_card
from training.publishing.licences import terms_of

STAMP = "<!-- Written by training.publishing. It will be kept as it is once a person has edited it. sha256: {} -->\n"


def stage(folder: Path, repo_id: str, place: Path, show_pictures: bool = False) -> Path:
    """Fills `place` with what a repository shows of a model folder: nothing private, a card that names the repository.

    Raises:
        ValueError: the folder holds no whole model, or another one than its name says.
    """
    validate_repo_id(repo_id)
    try:
        config = _stage_model(folder, place)
        report = public_report(read_report(folder))
        if not folder.name == name_of(report) == name_of(config):
            raise ValueError(
                f"{folder} holds {name_of(config)}, of which {REPORT_FILE} tells {name_of(report)}: give all one name"
            )
        write_json(place / REPORT_FILE, report)
        _stage_evaluation(folder, place, show_pictures or terms_of(report["dataset"]).may_be_shown)
        write_card(place, repo_id=repo_id)
    except (LookupError, TypeError, AttributeError, TemplateError) as error:
        raise ValueError(
            f"{folder / REPORT_FILE} is damaged or of an older version ({error!r}): train again"
        ) from error
    stamp(place / CARD_FILE)
    return place


def _stage_model(folder: Path, place: Path) -> dict:
    """Config and weights; the former with the latter's hash, which older runs lack."""
    try:
        config, weights = json.loads((folder / CONFIG_FILE).read_text()), (folder / WEIGHTS_FILE).read_bytes()
        load(weights)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no whole model ({error}): train it again") from error
    weights_sha256 = hashlib.sha256(weights).hexdigest()
    if config.setdefault("weights_sha256", weights_sha256) != weights_sha256:
        raise ValueError(f"{folder / WEIGHTS_FILE} is not the file that its {CONFIG_FILE} names: train it again")
    (place / CONFIG_FILE).write_text(json.dumps(config, sort_keys=True, indent=2))
    shutil.copy(folder / WEIGHTS_FILE, place)
    return config


def _stage_evaluation(folder: Path, place: Path, pictures_may_be_shown: bool) -> None:
    """Raw scores and panels; of pictures that may be confidential neither the names nor the pictures."""
    if (folder / SCORES_FILE).is_file():
        scores = pq.read_table(folder / SCORES_FILE)
        pq.write_table(scores if pictures_may_be_shown else scores.drop_columns("name"), place / SCORES_FILE)
    if pictures_may_be_shown:
        (place / PANELS).mkdir()
        for panel in find_panels(folder):
            shutil.copy(folder / panel, place / panel)


def stamp(card: Path) -> None:
    """Ends a card with the hash of its text, by which an edited card is known."""
    text = card.read_text(encoding="utf-8").rstrip("\n") + "\n\n"
    card.write_text(text + STAMP.format(hashlib.sha256(text.encode()).hexdigest()), encoding="utf-8")


def is_edited(card: bytes) -> bool:
    """Whether a card is no longer, or never was, as `stamp` left it."""
    text = card.decode(errors="replace")
    body, start, _ = text.rpartition(STAMP.split("{}")[0])
    return not start or text != body + STAMP.format(hashlib.sha256(body.encode()).hexdigest())
