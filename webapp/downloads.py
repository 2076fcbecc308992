"""What a visitor takes home of one inspection: overlay, mask and map at the picture's own size, and numbers."""

import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from hubmodels import AnomalyPrediction
from hubmodels.heatmap import overlay
from webapp.inspection import Inspection
from webapp.uploads import fresh_path

FILES = {"overlay": "{method}_overlay.png", "mask": "{method}_mask.png", "map": "{method}_map.npy"}


def write_download(inspection: Inspection, what: str, method: str | None, record: dict) -> Path:
    """One file of an inspection.

    Args:
        what: "overlay", "mask" or "map" of a method, or "json" or "zip" of all.

    Raises:
        ValueError: there is no such file: an unknown name, or a method without a model or calibration.
    """
    names = _names(inspection)
    if what == "json":
        return _write_json(fresh_path("result.json"), record)
    if what == "zip":
        return _write_zip(inspection, names, record)
    if (what, method) not in names:
        raise ValueError(f"there is no {what} of {method}")
    path = fresh_path(names[what, method])
    _write(path, what, inspection.picture, inspection.predictions[method])
    return path


def _names(inspection: Inspection) -> dict[tuple[str, str], str]:
    """File names of what can be had, by (what, method); without a calibration that is the map alone."""
    return {
        (what, method): name.format(method=method.lower())
        for method, prediction in inspection.predictions.items()
        for what, name in FILES.items()
        if what == "map" or prediction.is_anomalous is not None
    }


def _write(path: Path, what: str, picture: Image.Image, prediction: AnomalyPrediction) -> None:
    if what == "map":
        np.save(path, prediction.anomaly_map)
    elif what == "mask":
        Image.fromarray(prediction.mask).save(path)  # one bit per pixel
    else:
        overlay(picture, prediction).save(path)


def _write_json(path: Path, record: dict) -> Path:
    path.write_text(_as_json(record), encoding="utf-8")
    return path


def _as_json(record: dict) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False)


def _write_zip(inspection: Inspection, names: dict[tuple[str, str], str], record: dict) -> Path:
    target = fresh_path("inspection.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("result.json", _as_json(record))
        for (what, method), name in names.items():
            path = target.parent / name
            _write(path, what, inspection.picture, inspection.predictions[method])
            archive.write(path, name)
            path.unlink()
    return target
