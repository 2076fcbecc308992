"""The detectors of a category as one ONNX file that needs no torch to run, checked on real pictures.

    hubmodels export runs/simplenet-mvtec-bottle runs/glass-mvtec-bottle \\
        --pictures mvtec/bottle/test --output bottle.onnx

The file takes pictures of any size and does everything that `predict` does. `hubmodels.onnx.runtime` runs it. It is
written only if it agrees with torch on every picture given; the measured differences are in bottle.parity.json.
With `--without-resizing` the file takes pictures of the model's input size, which is faster for large ones.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from hubmodels import LIBRARY
from hubmodels.comparison import compare
from hubmodels.detector import AnomalyDetector
from hubmodels.front_end import FrontEnd
from hubmodels.onnx.graph import ExportGraph
from hubmodels.onnx.runtime import (
    INPUT,
    ExportedModel,
    ExportError,
    import_extra,
    metadata,
    output_names,
    region_to_lists,
)
from hubmodels.pictures import Picture, read_picture
from hubmodels.prediction import SMALLEST_SPAN, AnomalyPrediction

OPSET = 18
EXTRA = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # largest relative difference of scores and maps
TRACED_SIZE = (2, 90, 70, 3)  # any size with different sides, so that the tracer confuses none


def export(
    detectors: Iterable[AnomalyDetector], path: str | Path, pictures: Iterable[Picture], resizes: bool = True
) -> dict:
    """Writes the detectors as one ONNX file, if it agrees with them on all pictures, and a report.

    Scores and maps may differ by 1e-4. For scores this is relative to the score, or to the span from `normal_score` to
    `threshold` if that is larger, because scores may be near zero. For maps it is relative to the largest value, or to
    the span from `normal_level` to `pixel_threshold`. No verdict may change.

    Args:
        detectors: of one category, calibrated, with equal front ends, each of another method.
        path: the file to write; the report has the same name, but ends in `.parity.json`.
        pictures: at least one; better some normal and some anomalous ones, at the sizes that will be inspected.
        resizes: whether the file takes pictures of any size. If not, it takes those of the model's input size and
            gives maps of that size; `ExportedModel` resizes both.

    Returns:
        the report.

    Raises:
        ExportError: the detectors do not fit together, one has a least size, torch and ONNX Runtime disagree, or the
            file cannot be written. A file that was there before is kept.
        PictureError: one of the pictures cannot be inspected.
        ModelError: a detector gives scores that are not finite.
    """
    detectors, path, pictures = list(detectors), Path(path), list(pictures)
    _require_fitting(detectors)
    if not pictures:
        raise ExportError("there are no pictures to check the exported file with: give at least one")
    for place in (path, report_path(path)):
        if place.is_dir():
            raise ExportError(f"{place} is a folder: give the name of a file")
    for name in EXTRA:
        import_extra(name)
    try:
        with TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
            return _write_checked(detectors, path, pictures, Path(folder), resizes)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror or error}") from error


def report_path(path: str | Path) -> Path:
    """The path of the report of an exported file."""
    return Path(path).with_suffix(".parity.json")


def _require_fitting(detectors: Sequence[AnomalyDetector]) -> None:
    methods = [detector.method for detector in detectors]
    if not methods or len(set(methods)) < len(methods):
        raise ExportError(f"one detector of each method can be exported, at least one; not {methods}")
    if len({(detector.dataset, detector.category) for detector in detectors}) > 1:
        raise ExportError("the detectors are of different categories: export each category on its own")
    if len({detector.front_end.key for detector in detectors}) > 1:
        raise ExportError(
            "the detectors have different front ends (backbone, layers, sizes or normalisation): export each alone"
        )
    for detector in detectors:
        if detector.least_size is not None:
            raise ExportError(
                f"the {detector.method} detector has a least size ({detector.least_size.in_words}), which ONNX cannot "
                "compute: its scores and p-values would be wrong. Export a model that was trained without --least-size"
            )
        if detector.training or detector.calibration.size == 0:
            lack = (
                "is in training mode: call .eval()"
                if detector.training
                else "is not calibrated: no p-value, no verdict"
            )
            raise ExportError(f"the {detector.method} detector {lack}")


def _write_checked(
    detectors: Sequence[AnomalyDetector], path: Path, pictures: list[Picture], folder: Path, resizes: bool
) -> dict:
    """Writes both files into a temporary folder, then moves them: a failure leaves nothing incomplete."""
    draft, report_draft = folder / "model.onnx", folder / "report.json"
    _write_graph(detectors, draft, resizes)
    model = ExportedModel(draft)
    methods = _measure(detectors, model, pictures)
    _require_parity(methods, len(pictures))
    content = draft.read_bytes()
    report = {"pictures": len(pictures), "tolerance": TOLERANCE, "methods": methods, "opset": OPSET}
    report |= {"versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime")}}
    report |= {"inputs": {port.name: port.shape for port in model.session.get_inputs()}}
    report |= {"outputs": {port.name: port.shape for port in model.session.get_outputs()}}
    report |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    report_draft.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, path)
    os.replace(report_draft, report_path(path))
    return report


def _write_graph(detectors: Sequence[AnomalyDetector], path: Path, resizes: bool) -> None:
    graph, device, front_end = ExportGraph(detectors, resizes).eval(), detectors[0].device, detectors[0].front_end
    size = TRACED_SIZE if resizes else (2, *front_end.image_size, 3)
    example = torch.zeros(size, dtype=torch.uint8, device=device)
    with torch.no_grad():
        graph(example)  # values that are computed once and kept must not become steps of the trace
    names = output_names([detector.method for detector in detectors])
    free = ("batch", "height", "width") if resizes else ("batch",)
    sides = {i: torch.export.Dim(name) for i, name in enumerate(free)}
    shared = dict(dynamo=True, opset_version=OPSET, dynamic_shapes=(sides,), verbose=False)
    try:
        program = torch.onnx.export(graph, (example,), input_names=[INPUT], output_names=names, **shared)
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"the backbone {detectors[0].front_end.backbone_name} has no ONNX form: {error}") from error
    program.model.metadata_props[LIBRARY] = metadata(
        detectors[0].dataset,
        detectors[0].category,
        {d.method: _held_out(d) for d in detectors},
        None if resizes else {"image_size": front_end.image_size, "resize": front_end.resize},
        _region(front_end),
    )
    program.save(path, external_data=False)


def _region(front_end: FrontEnd) -> dict[str, list[int]] | None:
    if front_end.region is None:
        return None
    return region_to_lists(front_end.region.mask.cpu().numpy(), front_end.resize)


def _held_out(detector: AnomalyDetector) -> dict[str, list | float]:
    return {name: values.tolist() for name, values in detector.calibration.state_dict().items()}


def _measure(detectors: Sequence[AnomalyDetector], model: ExportedModel, pictures: list[Picture]) -> dict[str, dict]:
    """By method the worst relative differences between torch and ONNX Runtime, and how many verdicts they change."""
    worst = {d.method: {"score_difference": 0.0, "map_difference": 0.0, "verdicts_flipped": 0} for d in detectors}
    for upright in map(read_picture, pictures):
        found = model.compare(upright)
        for method, expected in compare({d.method: d for d in detectors}, upright).items():
            _count(worst[method], expected, found[method])
    return worst


def _count(worst: dict, expected: AnomalyPrediction, found: AnomalyPrediction) -> None:
    span = expected.threshold - expected.normal_score
    scores = _relative(expected.image_score, found.image_score, span)
    maps = _relative(expected.anomaly_map, found.anomaly_map, expected.pixel_threshold - expected.normal_level)
    # unlike max, np.maximum keeps NaN
    worst["score_difference"] = float(np.maximum(worst["score_difference"], scores))
    worst["map_difference"] = float(np.maximum(worst["map_difference"], maps))
    worst["verdicts_flipped"] += expected.is_anomalous != found.is_anomalous


def _relative(expected: float | np.ndarray, found: float | np.ndarray, span: float) -> float:
    scale = max(np.abs(expected).max(), span, SMALLEST_SPAN)
    return float(np.abs(np.subtract(found, expected)).max() / scale)


def _require_parity(methods: dict[str, dict], pictures: int) -> None:
    for method, worst in methods.items():
        score, pixel, flipped = worst["score_difference"], worst["map_difference"], worst["verdicts_flipped"]
        if flipped or not (score <= TOLERANCE and pixel <= TOLERANCE):  # NaN is no agreement
            raise ExportError(
                f"{method}: ONNX Runtime disagrees with torch on {pictures} pictures, so no file was written: scores "
                f"differ by {score:.2g} and maps by {pixel:.2g} (allowed {TOLERANCE}), {flipped} verdicts change"
            )


def describe(path: Path, report: dict) -> str:
    """The report as a few lines of text."""
    head = f"{path}: {report['bytes'] / 1e6:.1f} MB, opset {report['opset']}"
    return "\n".join([head, f"report: {report_path(path)}", *differences(report)])


def differences(report: dict) -> list[str]:
    """A line for each method: how much the file differs from torch."""
    return [
        f"{method}: on {report['pictures']} pictures scores differ by {worst['score_difference']:.1e}, "
        f"maps by {worst['map_difference']:.1e} (allowed {report['tolerance']:.0e}), no verdict changes"
        for method, worst in report["methods"].items()
    ]
