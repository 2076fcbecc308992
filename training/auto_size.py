"""`--image-size auto`: a model input for each category, as large as a time budget allows if there is one."""

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from hubmodels import BackboneError
from hubmodels.sizes import Size, in_words
from training.evaluation import machine, write_json
from training.input_shape import AUTO, affordable_size, fitting_size
from training.jobs import Job, build_detector
from training.objectives import objective_of
from training.publishing.latency import measure_latency

logger = logging.getLogger("training")

SIZES_FILE = "image_sizes.json"  # in the output folder: what was measured, so that the same command finds it again
REPEATS = 7  # of a measurement


def shaped(jobs: list[Job], accelerator: Accelerator) -> list[Job]:
    """The jobs with a size for `auto`, one for each category, which the main process decides for all.

    Raises:
        ValueError: no size keeps the budget.
    """
    if not jobs or jobs[0].config.image_size != AUTO:
        return jobs
    outcome: list = [None]
    if accelerator.is_main_process:
        try:
            outcome = [choose_sizes(jobs, accelerator.device)]
        except (ValueError, OSError, BackboneError) as error:  # the other processes wait for it
            outcome = [str(error)]
    [sizes] = broadcast_object_list(outcome)
    if isinstance(sizes, str):
        raise ValueError(sizes)
    return [_at_size(job, sizes[job.category.name]) for job in jobs]


def choose_sizes(jobs: list[Job], device: torch.device) -> dict[str, Size]:
    """A model input for each category. What was measured is kept in the output folder, for the next start."""
    config, file = jobs[0].config, Path(jobs[0].config.output) / SIZES_FILE
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    chosen = {}
    for name in dict.fromkeys(job.category.name for job in jobs):
        models = [job for job in jobs if job.category.name == name]
        sizes = models[0].sanity.sizes
        if config.budget_ms is None:
            chosen[name] = fitting_size(sizes, config.backbone)
            continue
        decided_for = _circumstances(models)
        if kept.get(name, {}).get("decided_for") != decided_for:
            logger.info("%s: the largest input for a verdict within %g ms", name, config.budget_ms)
            size = affordable_size(sizes, config.backbone, config.budget_ms, partial(verdict_ms, models, device))
            kept[name] = {"image_size": size, "decided_for": decided_for}
            write_json(file, kept)
        chosen[name] = kept[name]["image_size"]
    return chosen


def _circumstances(models: list[Job]) -> dict:
    """What the choice for a category depends on."""
    config, sanity = models[0].config, models[0].sanity
    return {
        **{"budget_ms": config.budget_ms, "machine": machine(), "backbone": config.backbone},
        **{"methods": [job.method for job in models], "train_sha256": sanity.train_sha256},
    }


def verdict_ms(models: list[Job], device: torch.device, image_size: Size) -> float:
    """Milliseconds from a decoded picture to verdict and map, by the slowest of a category's untrained models."""
    times = []
    for job in models:
        detector = build_detector(_at_size(job, image_size)).to(device).eval()
        objective_of(job.method).grow(detector)
        times.append(measure_latency(detector, job.category.train[0].read(), REPEATS)["median_ms"])
    logger.info("  %s pixels: %.3g ms", in_words(image_size), max(times))
    return max(times)


def _at_size(job: Job, image_size: Size) -> Job:
    return replace(job, config=replace(job.config, image_size=image_size))
