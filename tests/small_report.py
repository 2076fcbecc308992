"""A whole `metrics.json`, as training writes it, with private folders and file names in it."""

import copy
import json

from hubmodels.compactnet import COMPACT_BACKBONE

COMMAND = (
    "python training/train.py --data-root /home/ann/secret/mvtec_ad --output=/srv/ann/runs "
    "--textures '../my own/dtd/' --hub-columns image=photo --dataset-name owner/parts --noise-std .015"
)
METRICS = {
    "image_auroc": 0.75,
    "image_ap": 0.8125,
    "image_f1_max": 0.625,
    "pixel_auroc": 0.875,
    "pixel_ap": 0.25,
    "pixel_f1_max": 0.375,
    "aupro": 0.6875,
    "false_alarm_rate": 0.25,
    "recall_at_threshold": 0.5,
    "outline_iou": 0.4375,
}
REPORT = {
    **{"method": "simplenet", "dataset": "toy", "category": "widget", "protocol": "last", "seed": 7, "epochs": 3},
    "metrics": METRICS,
    "calibration": {
        **{"false_alarm_rate": 0.01, "guaranteed_rate": 0.2, "bound": 0.527, "pictures": 4, "folds": 0},
        "in_words": "flags 20 % of good parts on average, hardly ever more than 53 % (95 % confidence); calibrated on "
        "4 normal pictures",
    },
    "known_defects": {
        **{"found": 3, "total": 6, "rate": 0.2, "all_from": 0.4, "low": 0.188, "high": 0.812},
        "missed": ["test/bent/ann.png", "test/torn/ann1.png", "test/torn/ann2.png"],
        "in_words": "finds 3 of 6 defects (of all such defects 19 % to 81 %) at 20 % false alarms; all of them from "
        "40 % on",
    },
    "training": {"fit": 9, "held_out": 4, "train_seconds": 61.0, "cache_seconds": 2.0, "noise_std": 0.1},
    "settings": {
        **{"batch_size": 8, "stabilise": ["statistics"], "mixed_precision": "no", "hub_columns": None},
        "textures": "/home/ann/secret/dtd",
    },
    "backbone": {"name": "resnet18.tv_in1k", "sha256": "b" * 64},
    "data": {
        "counts": {"train": {"good": 13}, "test": {"good": 4, "bent": 2, "torn": 4}},
        "sizes": [{"height": 72, "width": 96, "count": 12}, {"height": 64, "width": 64, "count": 1}],
        "unreadable": {"train/good/ann.png": "/home/ann/secret/widget/train/good/ann.png is torn"},
        "copies": [["train/good/ann1.png", "train/good/ann2.png"]],
        "leaks": [],
        "missing_masks": [],
        "bad_masks": {},
        "train_sha256": "d" * 64,
        "unused": [],
        "revision": None,
    },
    **{"command": COMMAND, "commit": "c" * 40, "machine": "CPU", "versions": {"torch": "2"}},
}
COMPACT = {"name": COMPACT_BACKBONE, "sha256": "b" * 64}


def report(**changes):
    """The report with these entries instead."""
    return copy.deepcopy(REPORT) | changes


def describe(folder, **changes):
    """Puts the report into a model folder, which it returns."""
    (folder / "metrics.json").write_text(json.dumps(report(**changes)))
    return folder
