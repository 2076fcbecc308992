"""Time of one epoch before and after caching the frozen features, each method, in one run.

    python benchmarks/epoch_time.py --data-root ../shared/data/mvtec_ad --categories screw \\
        --backbone resnet18.tv_in1k --backbone-weights ../shared/weights/resnet18_tv_in1k_layer3.safetensors \\
        --image-size 256 --textures ../shared/data/dtd/images --methods simplenet glass

Takes the options of `training/train.py`. "Before" is what the official codes do: SimpleNet runs the backbone over
every normal picture in every epoch; GLASS also does, and makes one more pass for the centre. A few steps of each kind
are timed, alternating, and scaled to the steps of an epoch.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from hubmodels.front_end import align, flatten
from training.batches import BatchPlan, TrainingItems, make_loader
from training.cache import build_cache, extract, load_images
from training.config import TrainConfig
from training.evaluation import write_json
from training.provenance import machine, versions
from training.train import build_detector, build_objective, plan_jobs, settle, start

STEPS = 7
RESULT = Path(__file__).parent / "results" / "epoch_time.json"


def time_method(job, accelerator) -> dict[str, float]:
    """Median seconds per step: drawing the items, the step with cached and with fresh features, the centre pass."""
    detector, precision = build_detector(job), job.config.mixed_precision
    samples = job.category.train[: STEPS * job.config.batch_size]
    images = load_images(samples, detector.image_size, detector.resize)
    cache = build_cache(detector, images, Path(tempfile.mkdtemp()), precision)
    objective, synthesis, _ = build_objective(job, detector, cache, samples)
    objective.train()
    if synthesis is not None:
        objective.update_center(cache.mean(accelerator.device))
    optimizers, plan = objective.optimizers(), BatchPlan(len(cache), job.config.batch_size, 1, job.config.seed)
    loader, seconds = iter(make_loader(TrainingItems(synthesis), plan, 0)), []
    for _ in range(plan.steps_per_epoch):
        started = time.perf_counter()
        items = next(loader)
        drawn = time.perf_counter()
        step(objective, optimizers, cache.features(items["index"], accelerator.device), items, precision)
        cached = time.perf_counter()
        step(objective, optimizers, front_end(detector, images, items, precision), items, precision)
        fresh = time.perf_counter()
        detector.embed(flatten(front_end(detector, images, items, precision)))
        centre = time.perf_counter()
        seconds.append((drawn - started, cached - drawn, fresh - cached, centre - fresh))
    return dict(
        zip(("draw", "cached", "fresh", "centre"), map(statistics.median, zip(*seconds, strict=True)), strict=True)
    )


def step(objective, optimizers, features, items, precision) -> None:
    """One optimiser step on normal features (B, D, h, w) and what was synthesised."""
    batch = {"features": features}
    if "augmented" in items:
        augmented = extract(objective.detector, items["augmented"], precision)
        batch |= {"augmented_features": align(augmented), "patch_label": items["patch_label"]}
    objective(batch)["loss"].backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def front_end(detector, images, items, precision) -> torch.Tensor:
    """Patch features (B, D, h, w) computed anew from the pictures."""
    return align(extract(detector, images[items["index"]], precision))


def epoch_seconds(method: str, seconds: dict[str, float], steps: int) -> dict[str, float]:
    """Seconds of an epoch as the official codes go about it, and ours."""
    before = seconds["draw"] + seconds["fresh"]
    if method == "glass":  # the centre pass draws, and throws away, another set of synthesised defects
        before += seconds["draw"] + seconds["centre"]
    after = seconds["draw"] + seconds["cached"]
    return {"epoch_before_s": steps * before, "epoch_after_s": steps * after, "ratio": before / after}


def main() -> None:
    """Times both methods, prints a line for each, writes the result."""
    config = replace(TrainConfig.from_command_line(), epochs=1)
    accelerator, rows = start(config), []
    config = settle(config, accelerator)
    for job in plan_jobs(config)[0]:
        pictures = len(job.category.train)
        seconds = time_method(job, accelerator)
        row = {"case": "epoch", "method": job.method, "category": job.category.name, "pictures": pictures}
        row |= {"backbone": config.backbone, "image_size": config.image_size, "step_seconds": seconds}
        row |= epoch_seconds(job.method, seconds, -(-pictures // config.batch_size))
        row |= {"machine": machine(), "versions": versions(), "steps_timed": STEPS}
        rows.append(row | {"command": " ".join(["python", "benchmarks/epoch_time.py", *sys.argv[1:]])})
        print(f"{job.name}: {row['epoch_before_s']:.1f} s -> {row['epoch_after_s']:.1f} s an epoch")
    write_json(RESULT, rows)


if __name__ == "__main__":
    main()
