"""Gives models saved before it was learned their category's look, without training them again.

    python training/upgrade.py runs/simplenet-mvtec-screw runs/glass-mvtec-screw --data-root mvtec_ad

The same good pictures are held out as when the model was trained, and must give the same scores. Head and calibration
stay as they are; the weights gain `appearance`, the config their new fingerprint, the card likewise.
"""

import argparse
import logging
import os
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hubmodels import AnomalyDetector, BackboneError, ModelError
from hubmodels.backbone import WEIGHTS_FILE
from hubmodels.detector import CARD_FILE
from hubmodels.repository import CONFIG_FILE
from training.card import write_card
from training.data import hold_out, open_categories
from training.evaluation import read_report
from training.samples import Category
from training.sanity import inspect_category
from training.train import hub_columns

logger = logging.getLogger("training")

TOLERANCE = 1e-3  # of a score: another machine rounds otherwise, another picture differs by far more


def upgrade(folder: Path, data_root: str, backbone_weights: str | None = None) -> None:
    """Teaches the model in a folder its category's look, in place.

    Args:
        data_root: the data that it was trained on, as `train.py` takes them.

    Raises:
        ValueError: these are not the pictures that the model was trained on.
        ModelError, BackboneError: the model or its backbone cannot be loaded.
    """
    detector, report = AnomalyDetector.from_pretrained(folder, backbone_weights=backbone_weights), read_report(folder)
    settings, calibration = report["settings"], detector.calibration.state_dict()
    columns = tuple(settings["hub_columns"] or ())
    where = (data_root, report["category"], settings["dataset_name"], columns, report["data"]["revision"])
    category, train_sha256 = _opened(*where)
    if train_sha256 != settings["train_sha256"]:
        raise ValueError(f"{data_root} does not hold the good pictures that {folder.name} was trained on")
    _, held_out = hold_out(category.train, settings["holdout"], settings["seed"])
    detector.calibrate((sample.read() for sample in held_out), settings["false_alarm_rate"])
    scores, before = detector.calibration.image_scores, calibration["image_scores"]
    if scores.shape != before.shape or not torch.allclose(scores, before, rtol=TOLERANCE, atol=TOLERANCE):
        raise ValueError(f"{folder.name} scores its held-out pictures differently from when it was trained")
    detector.calibration.load_state_dict(calibration)
    _replace(folder, detector)


@cache  # for both methods of a category; pictures are read when needed
def _opened(
    data_root: str, name: str, dataset_name: str | None, columns: tuple[str, ...], revision: str | None
) -> tuple[Category, str]:
    hub = hub_columns(columns)
    (category,) = open_categories(data_root, [name], dataset_name=dataset_name, hub=hub, revision=revision)
    category, sanity = inspect_category(category, skip_bad=True)  # what was left out then shows in the fingerprint
    return category, sanity.train_sha256


def _replace(folder: Path, detector: AnomalyDetector) -> None:
    with TemporaryDirectory(dir=folder.parent) as place:
        detector.save_pretrained(place)
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            os.replace(Path(place) / name, folder / name)
    if (folder / CARD_FILE).is_file():  # the bundle's cards lie elsewhere
        write_card(folder)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (1 where a model failed)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("timm").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="MODEL_FOLDER", help="that training wrote")
    parser.add_argument("--data-root", required=True, help="the data that they were trained on, as for train.py")
    parser.add_argument("--backbone-weights", metavar="FILE", help="safetensors file of the backbone's weights")
    args, failed = parser.parse_args(arguments), 0
    for folder in args.folders:
        try:
            upgrade(folder, args.data_root, args.backbone_weights)
            logger.info("%s: done", folder)
        except (ModelError, BackboneError, ValueError, OSError) as error:
            failed = 1
            logger.error("%s failed: %s", folder, error)
    return failed


if __name__ == "__main__":
    sys.exit(main())
