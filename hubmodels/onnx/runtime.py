"""Runs an exported file in ONNX Runtime, with the same predictions as the detectors it was made from.

Needs numpy, scipy, Pillow and onnxruntime, but neither torch nor timm.

model = ExportedModel("bottle.onnx")
model.predict("photo.png")   # where it contains one method
model.compare("photo.png")   # by method
"""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from hubmodels import LIBRARY, install_command
from hubmodels.pictures import Picture, fit, mask_of_picture, read_picture
from hubmodels.prediction import AnomalyPrediction, HeldOut, SizedMap
from hubmodels.sizes import as_image_size, crop_margins, crop_start

EXPORT_VERSION = 2  # of the file's metadata under `LIBRARY`
INPUT = "pictures"
OUTPUTS = ("image_score", "anomaly_map", "p_value")
ONLY_ERRORS = 3  # ONNX Runtime's severity level


class ExportError(RuntimeError):
    """A model cannot be exported, or an exported file cannot be run; the message names the cause."""


class ExportedModel:
    """An ONNX file written by `hubmodels.onnx.export.export`, on the CPU.

    Args:
        path: the file.
        threads: how many ONNX Runtime uses; by default one per core.

    Attributes:
        dataset, category: what its methods were trained on.
        held_out: the scores that each method was calibrated with, by method.
        model_input: `image_size` and `resize` of a file that does not resize, as of `fit`; None for one that does.
        counts_at: as of `AnomalyPrediction`.
        session: ONNX Runtime's, for batches: `session.run(None, {"pictures": array})`, (B, H, W, 3) uint8 RGB.

    Raises:
        ExportError: no such file, not an ONNX file of this library, or ONNX Runtime is not installed.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self.session = _open(Path(path), threads)
        name = Path(path).name
        known = _read_metadata(self.session, name)
        try:
            self.dataset, self.category = known["dataset"], known["category"]
            self.held_out = {method: HeldOut.from_lists(values) for method, values in known["methods"].items()}
            _require_sound(self.held_out, self.session)
            self.model_input = _input_of(known["model_input"], self.session)
            self.counts_at = _region_of(known["region"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ExportError(f"{name} is damaged: its metadata do not fit its graph ({error})") from error

    def predict(self, picture: Picture) -> AnomalyPrediction:
        """The prediction of the only method, as `AnomalyDetector.predict`, but without its warnings.

        The file contains no appearance. So nothing is checked: brightness, colours (arrays are RGB, OpenCV gives BGR),
        or whether the picture shows such a part. `warnings` of the result is empty.

        Raises:
            PictureError: the picture cannot be inspected; the message names the cause.
            ExportError: the file contains several methods.
        """
        if len(self.held_out) > 1:
            raise ExportError(f"the file contains {' and '.join(self.held_out)}: use `compare`")
        return next(iter(self.compare(picture).values()))

    def compare(self, picture: Picture) -> dict[str, AnomalyPrediction]:
        """The prediction of each method. The methods run together: `latency_ms` is that of all of them.

        Raises:
            PictureError: the picture cannot be inspected; the message names the cause.
            ExportError: a score is not finite; it would pass for good, because no threshold is below it.
        """
        upright = read_picture(picture)
        start = time.perf_counter()
        fitted = fit(upright, **self.model_input) if self.model_input else upright
        outputs = self.session.run(None, {INPUT: np.asarray(fitted)[None]})
        if not all(np.isfinite(output).all() for output in outputs):
            raise ExportError("the model gives scores that are not finite: its weights are damaged")
        found = zip(self.held_out.items(), outputs[::3], outputs[1::3], strict=True)
        size = (upright.height, upright.width)
        decided = {
            method: held_out.decide(score[0].item(), self._sized(maps[0], size))
            for (method, held_out), score, maps in found
        }
        latency_ms = 1000 * (time.perf_counter() - start)
        shared = {"latency_ms": latency_ms, "counts_at": self.counts_at}
        return {method: replace(prediction, **shared) for method, prediction in decided.items()}

    def _sized(self, values: np.ndarray, size: tuple[int, int]) -> np.ndarray | SizedMap:
        """A map of the file at the picture's size."""
        if self.model_input is None:
            return values
        resize = self.model_input["resize"]
        return SizedMap(size, max(resize), partial(enlarge, values, resize))


def enlarge(values: np.ndarray, resize: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """A map of the model input (H, W) -> map of the picture (height, width), as `to_picture_size` in torch."""
    left, right, top, bottom = crop_margins(resize, values.shape)
    whole = np.pad(values, ((top, bottom), (left, right)), constant_values=values.min())
    resized = np.array(Image.fromarray(whole).resize(size[::-1], Image.Resampling.BILINEAR))
    return np.clip(resized, values.min(), values.max(), out=resized)


def output_names(methods: list[str]) -> list[str]:
    """The graph's outputs, in their order: bare with one method, with more `simplenet_image_score` and so on."""
    prefixes = [""] if len(methods) == 1 else [f"{method}_" for method in methods]
    return [prefix + name for prefix in prefixes for name in OUTPUTS]


def metadata(
    dataset: str | None,
    category: str | None,
    held_out: dict[str, dict[str, list | float]],
    model_input: dict[str, tuple[int, int]] | None = None,
    region: dict[str, list[int]] | None = None,
) -> str:
    """What a prediction needs besides the graph, as JSON.

    Args:
        held_out: by method, the fields of its `HeldOut`.
        model_input: as `ExportedModel.model_input`.
        region: as `region_to_lists` gives it.
    """
    known = {"library": LIBRARY, "format_version": EXPORT_VERSION, "dataset": dataset, "category": category}
    return json.dumps(known | {"methods": held_out, "model_input": model_input, "region": region})


def region_to_lists(mask: np.ndarray, resize: tuple[int, int]) -> dict[str, list[int]]:
    """The mask (H, W) bool of what counts in a model input, as JSON can store it.

    `edges` are the indices, row by row, where it changes; before the first one, nothing counts.
    """
    edges = np.flatnonzero(np.diff(mask.ravel(), prepend=False))
    return {"edges": edges.tolist(), "image_size": list(mask.shape), "resize": list(resize)}


def import_extra(name: str) -> ModuleType:
    """A package of the optional extra `export`.

    Raises:
        ExportError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime 1.32 reports each start to its makers
    try:
        return import_module(name)
    except ImportError as error:
        raise ExportError(f"{name} is not installed: {install_command('export')}") from error


def _open(path: Path, threads: int | None):
    onnxruntime = import_extra("onnxruntime")
    if not path.is_file():
        raise ExportError(f"{path} is not a file: give the ONNX file that `hubmodels export` wrote")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads or 0, ONLY_ERRORS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would keep cores busy
    try:
        # onnxruntime takes no path with bytes that are not UTF-8, which Python stores as surrogates
        model = path if str(path).isprintable() else path.read_bytes()
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base class
        raise ExportError(f"{path.name} is damaged or not an ONNX file: {error}") from error


def _require_sound(held_out: dict[str, HeldOut], session) -> None:
    """Raises ValueError where the metadata contain no usable calibration of each method in the graph."""
    named = [port.name for port in session.get_outputs()]
    if not held_out or output_names(list(held_out)) != named:
        raise ValueError(f"its methods are {', '.join(held_out) or 'missing'}, its outputs {', '.join(named)}")
    for calibration in held_out.values():
        calibration.require_sound()


def _input_of(known: dict | None, session) -> dict[str, tuple[int, int]] | None:
    """`model_input` as the metadata have it; raises ValueError or TypeError where it does not fit the graph."""
    taken = session.get_inputs()[0].shape
    if known is None:
        if any(isinstance(side, int) for side in taken[1:3]):
            raise ValueError(f"its input has the fixed size {taken[1:3]}")
        return None
    found = {name: as_image_size(known[name]) for name in ("image_size", "resize")}
    crop_start(found["resize"], found["image_size"])
    if list(found["image_size"]) != taken[1:3]:
        raise ValueError(f"its input is {taken}, not {found['image_size']}")
    return found


def _region_of(known: dict | None) -> Callable[[tuple[int, int]], np.ndarray] | None:
    """The opposite of `region_to_lists`; raises ValueError or TypeError where it is damaged."""
    if known is None:
        return None
    size, resize = (as_image_size(known[name]) for name in ("image_size", "resize"))
    crop_start(resize, size)
    changes = np.bincount(np.asarray(known["edges"], np.int64), minlength=math.prod(size))
    return partial(mask_of_picture, (np.cumsum(changes) % 2 == 1).reshape(size), resize)


def _read_metadata(session, name: str) -> dict:
    try:
        known = json.loads(session.get_modelmeta().custom_metadata_map[LIBRARY])
        version = known["format_version"]
    except (KeyError, ValueError, TypeError) as error:
        raise ExportError(f"{name} was not exported by this library: its calibration is missing") from error
    if version != EXPORT_VERSION:
        raise ExportError(f"{name} has format {version}, this library reads {EXPORT_VERSION}: export it again")
    return known
