"""Evaluates the saved detector on the test pictures, once, after training: metrics, raw scores, panels, summary.

Protocol `last`: the last checkpoint, raw scores, maps and masks at the pictures' own sizes, mask pixel = grey > 127.
Every result records where it comes from: machine, commit and package versions.
"""

import json
import logging
import os
import platform
import subprocess
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from hubmodels.detector import AnomalyDetector
from hubmodels.front_end import inspected_part
from hubmodels.heatmap import panel
from hubmodels.hub.files import REPORT_FILE
from hubmodels.known_defects import KnownDefects, best_method
from hubmodels.metric_names import HEADLINE, METRICS
from hubmodels.pictures import PictureError, PictureWarning
from hubmodels.prediction import AnomalyPrediction
from hubmodels.samples import Category, Sample, shorten
from training.metrics import PixelMetrics, false_alarm_rate, image_metrics, recall_at_threshold
from training.pixel_curves import CURVES_FILE, CurveCollector
from training.progress import tqdm

logger = logging.getLogger(__name__)

SCORES_FILE, PANELS = "scores.parquet", "panels"  # in the model's folder
PROTOCOL = "last"
MOST_MISSED = 50  # panels of missed defects
PANEL_HEIGHT = 256
BATCH_SIZE = 8
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")  # of MVTec AD; its other ten categories are objects
OBJECTS = (
    *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
    *("pill", "screw", "toothbrush", "transistor", "zipper"),
)


def evaluate(detector: AnomalyDetector, category: Category, folder: Path, skip_bad: bool = False) -> dict[str, float]:
    """Metrics over the category's test pictures; writes raw scores and panels into the folder.

    They are `scores.parquet`, `pixel_curves.parquet` and `panels/*.png`. Pixel metrics need a mask for every anomalous
    picture, with `skip_bad` for some of them. Image metrics need both kinds of picture. Metrics that cannot be
    computed are left out.

    Raises:
        ValueError: a test picture cannot be read, unless `skip_bad`.
    """
    if not category.test:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PictureWarning)  # test pictures are what they are
        return _evaluate(detector, category, folder, skip_bad)


def _evaluate(detector: AnomalyDetector, category: Category, folder: Path, skip_bad: bool) -> dict[str, float]:
    rows, pixels = [], PixelEvaluation(detector) if category.has_masks else None
    for sample, prediction in _predict_all(detector, category.test, skip_bad):
        rows.append(_row(sample, prediction))
        if pixels is not None:
            pixels.update(sample, prediction)
    if not rows:
        logger.warning("%s: no test picture can be read, so there are no metrics", category.name)
        return {}
    pq.write_table(pa.Table.from_pylist(rows), folder / SCORES_FILE)
    _draw_panels(detector, category, rows, folder / PANELS)
    metrics = pixels.compute(skip_bad) if pixels is not None else {}
    if metrics:
        pq.write_table(pixels.curves.table(), folder / CURVES_FILE, compression="zstd")
    return _image_metrics(rows) | metrics


class PixelEvaluation:
    """Pixel metrics of a detector's maps against the masks; unusable masks do not affect the image metrics.

    `outline_iou`, of a calibrated detector, is the mean over the defective pictures of an intersection over its union,
    that of the outlined defects and the mask. With a centre crop or a region, `cropped_defect_pixels` is the share of
    the defect pixels outside of it.

    Attributes:
        curves: counts of each picture, from which the metrics can be computed again.
    """

    def __init__(self, detector: AnomalyDetector) -> None:
        self._metrics, self._faults, self.curves = PixelMetrics(), [], CurveCollector()
        self._crop = detector.front_end.image_size, detector.front_end.resize
        self._region = detector.front_end.region
        self._defects = self._inspected = 0  # pixels
        self._overlaps: list[float] = []

    def update(self, sample: Sample, prediction: AnomalyPrediction) -> None:
        """Adds a picture's map, or records the fault of its mask."""
        anomaly_map = prediction.anomaly_map
        try:
            mask = sample.read_mask(anomaly_map.shape)
        except ValueError as error:
            self._faults.append(str(error))
            return
        self._metrics.update(anomaly_map, mask)
        self.curves.update(sample.name, anomaly_map, mask)
        if sample.label and prediction.mask is not None:
            both, either = (np.count_nonzero(f(mask > 0, prediction.mask)) for f in (np.logical_and, np.logical_or))
            self._overlaps.append(both / either)
        self._defects += int(mask.sum())
        seen = mask if self._region is None else mask * self._region.of_picture(mask.shape, self._crop[1])
        self._inspected += int(seen[inspected_part(mask.shape, *self._crop)].sum())

    def compute(self, skip_bad: bool) -> dict[str, float]:
        """The metrics; empty, with a warning, if masks are bad (unless `skip_bad`) or a class of pixels is missing."""
        if self._faults:
            fate = "left out of the pixel metrics" if skip_bad else "so there are no pixel metrics"
            logger.warning("%d unusable masks, %s: %s", len(self._faults), fate, shorten(self._faults))
            if not skip_bad:
                return {}
        try:
            metrics = self._metrics.compute()
        except ValueError as error:  # nothing but defects, or with `skip_bad` none left
            logger.warning("no pixel metrics: %s", error)
            return {}
        metrics |= {"outline_iou": float(np.mean(self._overlaps))} if self._overlaps else {}
        cropped = {"cropped_defect_pixels": (self._defects - self._inspected) / self._defects}
        return metrics | (cropped if self._crop[1] != self._crop[0] or self._region is not None else {})


def _predict_all(
    detector: AnomalyDetector, samples: tuple[Sample, ...], skip_bad: bool
) -> Iterable[tuple[Sample, AnomalyPrediction]]:
    progress = tqdm(total=len(samples), desc="test pictures", unit="picture")
    for start in range(0, len(samples), BATCH_SIZE):
        batch = samples[start : start + BATCH_SIZE]
        read = [(sample, picture) for sample in batch if (picture := _read(sample, skip_bad)) is not None]
        progress.update(len(batch))
        if read:
            readable, pictures = zip(*read, strict=True)
            yield from zip(readable, detector.predict_batch(pictures), strict=True)
    progress.close()


def _read(sample: Sample, skip_bad: bool) -> Image.Image | None:
    try:
        return sample.read()
    except PictureError as error:
        if skip_bad:
            logger.warning("left out of the test: %s (%s)", sample.name, error)
            return None
        raise ValueError(
            f"the test picture {sample.name} cannot be read ({error}): repair it, or add --skip-bad. The training is "
            "kept: the same command continues with the test."
        ) from error


def _row(sample: Sample, prediction: AnomalyPrediction) -> dict:
    return {
        "name": sample.name,
        "defect_type": sample.defect_type,
        "label": sample.label,
        "image_score": prediction.image_score,
        "p_value": prediction.p_value,
        "threshold": prediction.threshold,
        "is_anomalous": prediction.is_anomalous,
        "map_max": float(prediction.counted_map.max()),
    }


def _image_metrics(rows: list[dict]) -> dict[str, float]:
    scores, labels = [row["image_score"] for row in rows], [row["label"] for row in rows]
    metrics, threshold = {}, rows[0]["threshold"]
    if len(set(labels)) == 2:
        metrics |= image_metrics(scores, labels)
    if threshold is not None and 0 in labels:
        metrics["false_alarm_rate"] = false_alarm_rate(scores, labels, threshold)
    if threshold is not None and 1 in labels:
        metrics["recall_at_threshold"] = recall_at_threshold(scores, labels, threshold)
    return metrics


def _draw_panels(detector: AnomalyDetector, category: Category, rows: list[dict], folder: Path) -> None:
    """Draws the most typical and the most misleading pictures, for the card, and the missed defects."""
    folder.mkdir(exist_ok=True)
    samples = {sample.name: sample for sample in category.test}
    for title, row in (_chosen(rows) | _missed(rows)).items():
        sample = samples[row["name"]]
        picture = sample.read()
        try:
            mask = sample.read_mask((picture.height, picture.width))
        except ValueError:  # the pixel metrics have logged it
            mask = None
        predictions = {detector.method: detector.predict(picture)}
        panel(picture, mask, predictions, PANEL_HEIGHT).save(folder / f"{title}.png")


def _chosen(rows: list[dict]) -> dict[str, dict]:
    chosen = {}
    for kind, label in (("good", 0), ("defective", 1)):
        ordered = sorted((row for row in rows if row["label"] == label), key=lambda row: row["image_score"])
        if ordered:
            chosen |= {f"{kind}_lowest": ordered[0], f"{kind}_median": ordered[len(ordered) // 2]}
            chosen[f"{kind}_highest"] = ordered[-1]
    return chosen


def _missed(rows: list[dict]) -> dict[str, dict]:
    """The missed defects by the name of their panel, in the order of the report."""
    missed = [row for row in rows if row["label"] == 1 and row["is_anomalous"] is False]
    return {f"missed_{i:02d}": row for i, row in enumerate(missed[:MOST_MISSED], 1)}


def judge_defects(folder: Path, rate: float) -> dict:
    """What the raw scores of an evaluated model say of its defective test pictures; empty if there are none.

    These are counts, an interval, the lowest rate of false alarms that finds all, the names of those that are missed,
    and the same in words.

    Args:
        rate: of false alarms at which the model's verdicts were made.
    """
    path = folder / SCORES_FILE
    rows = [row for row in pq.read_table(path).to_pylist() if row["label"]] if path.is_file() else []
    if not rows:
        return {}
    known = KnownDefects.judge([row["is_anomalous"] for row in rows], [row["p_value"] for row in rows], rate)
    missed = [row["name"] for row in rows if not row["is_anomalous"]]
    counts = asdict(known) | dict(zip(("low", "high"), known.limits, strict=True))
    return counts | {"missed": missed, "in_words": known.describe()}


def suiting_methods(reports: list[dict]) -> dict[str, str]:
    """Titles of categories -> the method that finds significantly more of the category's defects, if there is one.

    Only methods that judged equally many defects are compared.
    """
    categories: dict[tuple, dict[str, dict]] = {}
    for report in reports:
        if known := report.get("known_defects"):
            key = f"{report['dataset']} / {report['category']}", known["total"]
            categories.setdefault(key, {})[report["method"]] = known
    best = {title: _best(known) for (title, _), known in categories.items()}
    return {title: method for title, method in best.items() if method}


def _best(known: dict[str, dict]) -> str | None:
    """The best method; defects that no method misses tell no methods apart."""
    missed = {method: set(its["missed"]) for method, its in known.items()}
    names = sorted(set().union(*missed.values()))
    verdicts = {method: [name not in its for name in names] for method, its in missed.items()}
    return best_method(verdicts, {method: its["rate"] for method, its in known.items()})


def write_json(path: Path, content) -> None:
    """Writes readable JSON; the file is replaced in one step."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_report(folder: Path) -> dict:
    """The report of a model folder, as training wrote it; raises ValueError, naming it, if it cannot be read."""
    try:
        return json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / REPORT_FILE} cannot be read ({error})") from error


def summarise(reports: list[dict]) -> list[dict]:
    """A row per model's report, then rows of means per (method, data set): all, and on MVTec AD textures, objects."""
    identity = ("method", "dataset", "category", "protocol", "seed")
    rows = [{k: r[k] for k in identity} | {k: r["metrics"].get(k) for k in HEADLINE} for r in reports]
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["dataset"]), []).append(row)
    return rows + [mean for group in groups.values() if len(group) > 1 for mean in _means(group)]


def _means(rows: list[dict]) -> list[dict]:
    groups = {"mean": rows}
    if rows[0]["dataset"] == "mvtec":
        groups["mean of textures"] = [row for row in rows if row["category"] in TEXTURES]
        groups["mean of objects"] = [row for row in rows if row["category"] in OBJECTS]
    return [
        group[0]
        | {"category": f"{name} ({len(group)})", "protocol": PROTOCOL}
        | {key: _mean([row[key] for row in group]) for key in HEADLINE}
        for name, group in groups.items()
        if group
    ]


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else sum(values) / len(values)


def summary_table(rows: list[dict]) -> str:
    """Markdown table of summary rows in per cent; a dash if a metric cannot be computed."""
    titles = [METRICS[key].short for key in HEADLINE]
    lines = ["| method | data set | category | " + " | ".join(titles) + " |", "|---|---|---|" + "--:|" * len(titles)]
    for row in rows:
        cells = ["-" if row[key] is None else f"{100 * row[key]:.1f}" for key in HEADLINE]
        lines.append(f"| {row['method']} | {row['dataset']} | {row['category']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> str:
    """GPU, if there is one, and processor, in words."""
    cpu = f"CPU {processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {cpu}"
    return cpu


def processor() -> str:
    """The CPU's model, or the best description that the system gives."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The git commit of this code; None outside of a clone, or without git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Versions of the packages that can change a result."""
    return {name: version(name) for name in ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow")}
