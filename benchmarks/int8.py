"""Accuracy and time of int8: `python -m benchmarks.int8`.

The bundled models of each sample part are exported to one file. ONNX Runtime quantises its convolutions (static, per
channel, ranges from 32 good training pictures); the rest stays in fp32. Compares both files on the same test
pictures: image and pixel AUROC, verdicts that change, and the time of a picture, in turns. Writes
`results/int8.json`. int8 is not an option of `hubmodels export`, because its files change no verdict.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static

from benchmarks.measuring import provenance, report
from benchmarks.timing import THREADS, spread, time_in_turns
from hubmodels.hub.catalog import Catalog
from hubmodels.onnx.export import export
from hubmodels.onnx.runtime import INPUT, ExportedModel
from hubmodels.samples import Category
from training.data import open_categories
from training.metrics import PixelMetrics, image_metrics

LEARNED_FROM, ROUNDS = 32, 30
COLUMNS = ("category", "method", "case", "image_auroc", "pixel_auroc", "verdicts_changed")
COLUMNS += ("median_ms", "p95_ms", "size_mb")


class GoodPictures(CalibrationDataReader):
    """Training pictures; ONNX Runtime gets the ranges of the activations from them."""

    def __init__(self, category: Category) -> None:
        self.pictures = iter(np.asarray(sample.read())[None] for sample in category.train[:LEARNED_FROM])

    def get_next(self) -> dict[str, np.ndarray] | None:
        picture = next(self.pictures, None)
        return None if picture is None else {INPUT: picture}


def quantise(path: Path, category: Category) -> Path:
    """Writes the exported file with convolutions in int8 next to it, with the same metadata."""
    prepared, target = path.with_suffix(".prepared.onnx"), path.with_suffix(".int8.onnx")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(prepared, target, GoodPictures(category), op_types_to_quantize=["Conv"], **kinds)
    return target


def test(model: ExportedModel, category: Category) -> dict[str, dict]:
    """By method: image AUROC, pixel AUROC and verdicts on all test pictures."""
    labels = [sample.label for sample in category.test]
    predictions = {method: [] for method in model.held_out}
    pixels = {method: PixelMetrics() for method in model.held_out}
    for sample in category.test:
        picture = sample.read()
        for method, prediction in model.compare(picture).items():
            predictions[method].append((prediction.image_score, prediction.is_anomalous))
            pixels[method].update(prediction.anomaly_map, sample.read_mask((picture.height, picture.width)))
    found = {}
    for method, pairs in predictions.items():
        scores, verdicts = zip(*pairs, strict=True)
        values = {
            "image_auroc": image_metrics(scores, labels)["image_auroc"],
            "pixel_auroc": pixels[method].compute()["pixel_auroc"],
        }
        found[method] = {name: round(100 * value, 2) for name, value in values.items()} | {"verdicts": verdicts}
    return found


def measure(category: Category, folder: Path) -> list[dict]:
    """Two rows for each method: fp32 and int8."""
    detectors = Catalog.bundled().load(f"{category.dataset} / {category.name}")
    path = folder / f"{category.name}.onnx"
    export(list(detectors.values()), path, [sample.read() for sample in category.test[:4]])
    files = {"fp32": path, "int8": quantise(path, category)}
    models = {case: ExportedModel(file, THREADS) for case, file in files.items()}
    picture = category.test[0].read()
    times = time_in_turns({case: lambda m=model: m.compare(picture) for case, model in models.items()}, ROUNDS)
    tested = {case: test(model, category) for case, model in models.items()}
    rows = []
    for method in models["fp32"].calibrations:
        exact = tested["fp32"][method]["verdicts"]
        for case, file in files.items():
            found = dict(tested[case][method])
            changed = sum(a != b for a, b in zip(found.pop("verdicts"), exact, strict=True))
            row = {"category": category.name, "method": method, "case": case} | found | {"verdicts_changed": changed}
            rows.append(row | spread(times[case]) | {"size_mb": round(file.stat().st_size / 2**20, 1)})
    return rows


def main() -> None:
    """Prints and writes the rows of all sample parts."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for category in open_categories("parts:"):
            rows += measure(category, Path(folder))
    report("int8", [row | provenance("python -m benchmarks.int8", "onnxruntime") for row in rows], COLUMNS)


if __name__ == "__main__":
    main()
