"""Loading a model of any method by one name."""

import os
from pathlib import Path

from hubmodels.detector import AnomalyDetector
from hubmodels.hub.catalog import Catalog, find_category
from hubmodels.hub.errors import ModelError
from hubmodels.hub.files import CONFIG_FILE, fetch_model, read_config
from hubmodels.methods import METHODS


def load(
    source: str | Path,
    *,
    backbone_weights: str | Path | None = None,
    map_location: str = "cpu",
    method: str | None = None,
    **hub: str | bool | Path | None,
) -> AnomalyDetector:
    """Loads a model of any method, in eval mode.

    Args:
        source: `user/name` on the Hub, a model folder, or a bundled category such as "parts / washer".
        backbone_weights, map_location: as `AnomalyDetector.from_pretrained`.
        method: of a bundled category; default: its first one in the order of `METHODS`. A folder or a repository
            contains one method, and another one is refused.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, as there.

    Raises:
        ModelError, BackboneError: as `AnomalyDetector.from_pretrained`.
    """
    if not os.path.isdir(source):
        source = _bundled(str(source), method) or source
    config_file, weights_file = fetch_model(str(source), **hub)
    name = str(read_config(config_file, str(source)).get("method"))
    if name not in METHODS:
        raise ModelError(f"{source}: {CONFIG_FILE} names no method of this library ({', '.join(METHODS)})")
    if method not in (None, name):
        raise ModelError(f"{source} is a {name} model, not {method}")
    return METHODS[name].detector.from_files(config_file, weights_file, str(source), backbone_weights, map_location)


def _bundled(name: str, method: str | None) -> str | None:
    """The folder of a bundled model; None if there is no such category."""
    catalog = Catalog.bundled()
    label = find_category(name, catalog.categories())
    known = {entry.method: entry.source for entry in catalog.entries if entry.label == label}
    if known and method not in (None, *known):
        raise ModelError(f"{label} has no model of {method}; it has: {', '.join(known)}")
    return known.get(method, next(iter(known.values()), None))
