"""The results of a study: raw scores, one row for each trained model, and tables for people.

`study.parquet` has one row for each model: `setting`, `method`, `dataset`, `category`, `seed`; `texture`, whether the
category counts as one in the means; the metrics, fractions;
`fit` and `held_out`, numbers of pictures, and `folds` that calibrated (0 or empty: the held-out pictures did);
`epochs`, `noise_std`; `train_seconds`, `cache_seconds` (features),
`evaluation_seconds`; `latency_ms` and its `device`; `model_mb`; `command`, `commit`, `machine`, `versions`; and
`fingerprint`, of all settings, pictures and weights.

`scores.parquet` has one row for each model and test picture: the same first five columns, and those of this file in
the folder of a model: `name`, `defect_type`, `label`, `image_score`, `p_value`, `threshold`, `is_anomalous` and
`map_max`.

`pixel_curves.parquet` has the counts of `training.pixel_curves` for each of them.
"""

import json
import logging
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from hubmodels.hub.files import WEIGHTS_FILE
from hubmodels.methods import METHODS
from hubmodels.metric_names import HEADLINE
from training.evaluation import SCORES_FILE, TEXTURES, read_report
from training.jobs import TrainingError
from training.metrics import image_metrics
from training.pixel_curves import CURVES_FILE, PixelCurves
from training.study.plan import StudyJob, fingerprint

logger = logging.getLogger("training")

STUDY_FILE = "study.parquet"
TABLE_FILE = "table.md"
REMEDY = "restore it, or delete the .parquet files next to it: then the models in --output are added again"
KEY = ("setting", "method", "dataset", "category", "seed")
METRICS = (*HEADLINE, "false_alarm_rate", "recall_at_threshold")
FROM_MAPS = ("pixel_ap", "pixel_f1_max")
CLOSE = {"pixel_auroc": 2e-3, "aupro": 2e-3}  # what curves of few thresholds can differ from the exact metrics


@dataclass(frozen=True)
class Content:
    """What the results contain of one model: its row, and its raw scores and curves if it has them."""

    row: dict
    scores: pa.Table | None
    curves: pa.Table | None

    @classmethod
    def of(cls, job: StudyJob, textures: Sequence[str]) -> Self | None:
        """From a finished model folder; None, with a warning, if it was made with other settings than the job has.

        Args:
            textures: categories that count as such.
        """
        row = _row_of(job, (*TEXTURES, *textures))
        if row["fingerprint"] != job.fingerprint:
            logger.warning("%s was made with other settings: not added to the results", job.folder)
            return None
        files = (job.folder / name for name in (SCORES_FILE, CURVES_FILE))
        return cls(row, *(_keyed(pq.read_table(file), job.key) if file.is_file() else None for file in files))


def _row_of(job: StudyJob, textures: Sequence[str]) -> dict:
    """The row of a finished model."""
    report = read_report(job.folder)
    training, settings = report["training"], report["settings"]
    latency = next(iter(report["latency"].values()), {})
    return {
        **job.key,
        **{"texture": job.category.name in textures},
        **{key: report["metrics"].get(key) for key in METRICS},
        **{"backbone": report["backbone"]["name"], "image_size": json.dumps(settings["image_size"])},
        **{"epochs": report["epochs"], "fit": training["fit"], "held_out": training["held_out"]},
        **{"folds": training.get("folds")},
        **{"noise_std": training.get("noise_std"), "hypothesis": training.get("hypothesis")},
        **{key: training.get(key) for key in ("train_seconds", "cache_seconds", "evaluation_seconds")},
        **{"latency_ms": latency.get("median_ms"), "device": latency.get("device")},
        **{"model_mb": (job.folder / WEIGHTS_FILE).stat().st_size / 1e6},
        **{"command": job.command, "commit": report["commit"], "machine": report["machine"]},
        **{"versions": json.dumps(report["versions"]), "fingerprint": fingerprint_of(report)},
    }


def fingerprint_of(report: dict) -> str:
    """Of the settings that a finished model was made with."""
    return fingerprint(report["settings"] | {"backbone_sha256": report["backbone"]["sha256"]})


class Results:
    """The files of a study's results in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def rows(self) -> list[dict]:
        """The rows of all models, in the order in which they were added; empty before the first."""
        table = self.table(STUDY_FILE)
        return table.to_pylist() if table else []

    def table(self, name: str) -> pa.Table | None:
        """All rows of one of the three files; None if it is not there.

        Raises:
            ValueError: it cannot be read.
        """
        file = self.folder / name
        try:
            return pq.read_table(file) if file.is_file() else None
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{file} cannot be read ({error}): {REMEDY}") from error

    def add(self, contents: Sequence[Content]) -> None:
        """Adds models, and replaces those of the same setting, method, category and seed.

        The row of a model is written last: a model whose scores are missing is not finished.
        """
        if not contents:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            keys = [{name: content.row[name] for name in KEY} for content in contents]
            for name, new in (
                (SCORES_FILE, [content.scores for content in contents]),
                (CURVES_FILE, [content.curves for content in contents]),
                (STUDY_FILE, [pa.Table.from_pylist([content.row for content in contents])]),
            ):
                self._replace(name, keys, [table for table in new if table is not None])

    def _replace(self, name: str, keys: Sequence[dict], new: list[pa.Table]) -> None:
        """Writes a file again, without the rows of some models, and with new ones."""
        old = self.table(name)
        for key in keys if old is not None else ():
            old = selected(old, key, others=True)
        if tables := ([old] if old is not None else []) + new:
            partial = self.folder / f"{name}.partial"
            whole = pa.concat_tables(tables, promote_options="permissive")
            pq.write_table(whole, partial, compression="zstd", compression_level=19)
            partial.replace(self.folder / name)

    def recomputed(self) -> Iterator[tuple[dict, dict[str, float]]]:
        """Each row, and its metrics computed again from raw scores and curves."""
        scores, curves = self.table(SCORES_FILE), self.table(CURVES_FILE)
        for row in self.rows:
            key, found = {name: row[name] for name in KEY}, {}
            if scores is not None:
                found |= _from_scores(selected(scores, key))
            if curves is not None and (some := selected(curves, key)).num_rows:
                found |= {name: float(value[0]) for name, value in PixelCurves.of(some).metrics().items()}
            yield row, found

    def check(self) -> int:
        """Compares the metrics of all rows with what raw scores and curves give; returns the number of rows.

        Average precision and F1-max of pixels are not compared: they need the maps.

        Raises:
            ValueError: there are no rows, a metric differs, or its raw scores are missing.
        """
        count = 0
        for row, found in self.recomputed():
            where = ", ".join(str(row[k]) for k in KEY)
            for name in (name for name in METRICS if row[name] is not None and name not in FROM_MAPS):
                if name not in found:
                    raise ValueError(f"{where}: the raw scores of {name} are missing")
                if abs(row[name] - found[name]) > CLOSE.get(name, 1e-9):
                    raise ValueError(f"{where}: {name} is {row[name]:.4f}, but its raw scores give {found[name]:.4f}")
            count += 1
        if not count:
            raise ValueError(f"{self.folder} contains no results of a study")
        return count


def _from_scores(part: pa.Table) -> dict[str, float]:
    """Image metrics and rates of verdicts from the raw scores of one model."""
    labels, found = part["label"].to_numpy(), {}
    if len(set(labels.tolist())) == 2:
        found |= image_metrics(part["image_score"].to_numpy(), labels)
    verdicts = part["is_anomalous"].to_pylist()
    for name, label in (("false_alarm_rate", 0), ("recall_at_threshold", 1)):
        chosen = [verdict for verdict, each in zip(verdicts, labels, strict=True) if each == label]
        if chosen and None not in chosen:
            found[name] = sum(chosen) / len(chosen)
    return found


def selected(table: pa.Table, key: dict, others: bool = False) -> pa.Table:
    """The rows of one model, or the others."""
    mask = None
    for name, value in key.items():
        equal = pc.equal(table[name], pa.scalar(value, table[name].type))
        mask = equal if mask is None else pc.and_(mask, equal)
    return table.filter(pc.invert(mask) if others else mask)


def _keyed(table: pa.Table, key: dict) -> pa.Table:
    for i, (name, value) in enumerate(key.items()):
        table = table.add_column(i, name, pa.array([value] * table.num_rows))
    return table


# ---------------------------------------------------------------- tables for people


def cell(values: Sequence[float | None]) -> str:
    """Per cent: the mean, and the standard deviation of several values; a dash if the metric cannot be computed."""
    known = [100 * value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    mean = f"{statistics.mean(known):.1f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.1f}"


def grouped(rows: Iterable[dict], *names: str) -> dict[tuple, list[dict]]:
    """Rows by the values of some columns."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def full_table(rows: Sequence[dict]) -> str:
    """A line for each setting, category and method: mean and standard deviation over the seeds, in per cent."""
    titles = {"image_auroc": "I-AUROC", "pixel_auroc": "P-AUROC", "aupro": "AUPRO@0.3"}
    header = ("setting", "category", "method", *titles.values(), "false alarms", "recall", "seeds", "minutes", "ms")
    lines = []
    for (setting, category, method), runs in grouped(_ordered(rows), "setting", "category", "method").items():
        metrics = [cell([run[key] for run in runs]) for key in titles]
        at_threshold = [cell([run[key] for run in runs]) for key in ("false_alarm_rate", "recall_at_threshold")]
        minutes = statistics.mean(run["train_seconds"] + run["cache_seconds"] for run in runs) / 60
        times = [len(runs), f"{minutes:.1f}", _median([run["latency_ms"] for run in runs])]
        lines.append([setting, category, METHODS[method].title, *metrics, *at_threshold, *times])
    return markdown(header, lines)


def summary_table(rows: Sequence[dict]) -> str:
    """A line for each category, then means over textures, objects and all; image AUROC / AUPRO of each method."""
    methods = [name for name in METHODS if any(row["method"] == name for row in rows)]
    by_category = grouped(sorted(rows, key=lambda row: row["category"]), "category")
    lines = [[category, *(_summary(_of(runs, m)) for m in methods)] for (category,), runs in by_category.items()]
    textures = [c for (c,), runs in by_category.items() if runs[0]["texture"]]
    objects = [c for (c,), runs in by_category.items() if not runs[0]["texture"]]
    groups = {"mean of textures": textures, "mean of objects": objects, "mean of all": [*textures, *objects]}
    for name, members in groups.items():
        if len(members) > 1 and (name == "mean of all" or len(members) < len(by_category)):
            means = [_summary(_means(_of(rows, m), members)) for m in methods]
            lines.append([f"{name} ({len(members)})", *means])
    return markdown(("category", *(METHODS[m].title for m in methods)), lines)


def defect_table(results: Results, setting: str) -> str:
    """A line for each category and kind of defect: image AUROC of each method, for these defects alone."""
    rows = [row for row in results.rows if row["setting"] == setting]
    methods = [name for name in METHODS if any(row["method"] == name for row in rows)]
    scores, found = results.table(SCORES_FILE), {}
    counts: dict[tuple[str, str], int] = {}
    for row in rows if scores is not None else ():
        part = selected(scores, {name: row[name] for name in KEY})
        kinds, labels, values = (part[name].to_numpy() for name in ("defect_type", "label", "image_score"))
        for kind in sorted(set(kinds[labels == 1].tolist())) if 0 in labels else ():
            chosen = (labels == 0) | (kinds == kind)
            auroc = image_metrics(values[chosen], labels[chosen])["image_auroc"]
            found.setdefault((row["category"], kind), {}).setdefault(row["method"], []).append(auroc)
            counts[row["category"], kind] = int((kinds == kind).sum())
    lines = [
        [*key, counts[key], *(cell(by_method[m]) if m in by_method else "-" for m in methods)]
        for key, by_method in sorted(found.items())
    ]
    return markdown(("category", "defect", "pictures", *(METHODS[m].title for m in methods)), lines)


def markdown(header: Sequence[str], lines: Sequence[Sequence]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def _ordered(rows: Iterable[dict]) -> list[dict]:
    order = list(METHODS)
    return sorted(rows, key=lambda row: (row["setting"], row["category"], order.index(row["method"]), row["seed"]))


def _of(rows: Iterable[dict], method: str) -> list[dict]:
    return [row for row in rows if row["method"] == method]


def _means(rows: Sequence[dict], categories: Sequence[str]) -> list[dict]:
    """A row for each seed that has all categories: their means."""
    found = []
    for runs in grouped((row for row in rows if row["category"] in categories), "seed").values():
        if {run["category"] for run in runs} == set(categories):
            found.append({k: _mean([run[k] for run in runs]) for k in ("image_auroc", "aupro")})
    return found


def _mean(values: list[float | None]) -> float | None:
    """Over the categories that have the metric, because some have no masks; None if fewer than two have it."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) > 1 else None


def _summary(rows: Sequence[dict]) -> str:
    return " / ".join(cell([row[key] for row in rows]) for key in ("image_auroc", "aupro")) if rows else "-"


def _median(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.median(known):.0f}" if known else "-"


# ---------------------------------------------------------------- time


def estimate(job: StudyJob, rows: Sequence[dict]) -> float | None:
    """Seconds that a job takes, from finished models of its method; None if there are none.

    The nearest are used: of the same setting, else of the same backbone, else none.
    """
    alike = [row for row in rows if row["method"] == job.method]
    near = [row for row in alike if row["setting"] == job.setting]
    near = near or [row for row in alike if row["backbone"] == job.config.backbone]
    if not near:
        return None
    held_out, fits = (0, 1 + job.folds) if job.folds else (job.config.holdout, 1)
    pictures, epochs = len(job.category.train) * (1 - held_out), max(1, job.epochs) * fits
    each = [
        row["train_seconds"] / (row["fit"] * max(1, row["epochs"]) * (1 + (row.get("folds") or 0))) for row in near
    ]
    cache = [row["cache_seconds"] / row["fit"] for row in near]
    test = [row["evaluation_seconds"] or 0 for row in near]
    return pictures * (epochs * statistics.median(each) + statistics.median(cache)) + statistics.median(test)


def require_same(job: StudyJob, row: dict) -> None:
    """Raises TrainingError if a row was made with other settings than the job has."""
    if row["fingerprint"] != job.fingerprint:
        raise TrainingError(
            f"{job.title}: the results contain a model with {_differences(job, row)}. Give another name to the "
            "setting, or use another folder for results."
        )


def _differences(job: StudyJob, row: dict) -> str:
    """In what a row differs from the job, as far as its columns say."""
    asked = {"backbone": job.config.backbone, "image_size": json.dumps(job.settings["image_size"])}
    asked |= {"epochs": job.epochs, "training pictures": len(job.category.train)}
    known = row | {"training pictures": row["fit"] + row["held_out"]}
    found = [f"{name} {known[name]} instead of {value}" for name, value in asked.items() if known[name] != value]
    return " and ".join(found) or "other options, pictures or weights"
