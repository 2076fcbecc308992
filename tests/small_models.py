"""Toy models with another config, and on the loopback Hub."""

import json

from hubmodels import GLASS
from hubmodels.methods import METHODS


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def push(make_detector, *names, token=None):
    """Publishes a toy model under each name; names tell method, data set and category."""
    for name in names:
        method, dataset, category = name.split("/")[1].split("-", 2)
        detector = make_detector(
            METHODS[method].detector if method in METHODS else GLASS, dataset=dataset, category=category
        )
        detector.push_to_hub(name, token=token)
