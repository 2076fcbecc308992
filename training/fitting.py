"""The training loop: epochs over cached features, steadied and resumable, with the losses checked and logged."""

import os
import sys
import time
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from hubmodels.detector import AnomalyDetector
from hubmodels.features import align, flatten
from training.batches import BatchPlan, LocalSynthesis, TrainingItems, make_loader, seed_of
from training.cache import FeatureCache, extract
from training.jobs import Job, TrainingError
from training.objectives import add_noise
from training.state import TrainingState
from training.tracking import JobLog

DECAY_AT, DECAY_FACTOR = (0.8, 0.9), 0.4  # SuperSimpleNet's schedule
AVERAGED_SHARE = 0.1  # the averaged weights look back over this share of all steps
SAVE_EVERY_S = 20.0


def fit(
    job: Job,
    objective: nn.Module,
    cache: FeatureCache,
    synthesis: LocalSynthesis | None,
    names: list[str],
    accelerator: Accelerator,
    sharing: bool,
) -> float:
    """Trains to the last epoch, from where an earlier run stopped; returns seconds, those of earlier runs included."""
    config, head = job.config, nn.ModuleList([objective.detector.adaptor, objective.detector.discriminator])
    epochs = config.epochs_of(job.method)
    optimizers = objective.optimizers()
    rank, world = (accelerator.process_index, accelerator.num_processes) if sharing else (0, 1)
    plan = BatchPlan(len(cache), config.batch_size, epochs, config.seed, rank=rank, processes=world)
    average = make_average(head, plan.steps_per_epoch * epochs) if "average" in config.stabilise else None
    state = TrainingState(head, optimizers, average, job.settings | {"processes": world})
    state.load(job.workplace / "state.safetensors")
    plan = replace(plan, first_epoch=state.epoch)
    model = accelerator.prepare_model(objective) if sharing else objective
    objective.train()
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in objective.optimizers()]
    loader = iter(make_loader(TrainingItems(synthesis), plan, loader_workers(synthesis, accelerator)))
    log = JobLog(job.name, job.workplace, config.tracker, state.epoch)
    mean_features = cache.mean(accelerator.device) if synthesis is not None else None
    progress = progress_bar(job, plan, accelerator)
    saved_at = time.perf_counter()
    for epoch in range(state.epoch, epochs):
        epoch_started = time.perf_counter()
        torch.manual_seed(seed_of(config.seed, epoch, rank))
        factor = set_learning_rates(optimizers, base_rates, epoch / epochs if "decay" in config.stabilise else 0.0)
        if mean_features is not None:
            objective.update_center(mean_features)
        history = []
        for _ in range(plan.steps_per_epoch):
            losses = model(assemble(next(loader), cache, objective.detector, accelerator))
            accelerator.backward(losses["loss"]) if sharing else losses["loss"].backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            if average is not None:
                average.update_parameters(head)
            history.append(torch.stack([value.detach() for value in losses.values()]))
            progress.update()
        values = require_finite(torch.stack(history), job, plan, epoch, names)
        state.epoch, elapsed = epoch + 1, time.perf_counter() - epoch_started
        state.seconds += elapsed
        record = dict(zip(losses, values.mean(0).tolist(), strict=True))
        log.write({"epoch": state.epoch, **record, "learning_rate_factor": factor, "seconds": elapsed})
        if accelerator.is_main_process or not sharing:
            if time.perf_counter() - saved_at > SAVE_EVERY_S or state.epoch == epochs:
                state.save(job.workplace / "state.safetensors")
                saved_at = time.perf_counter()
    progress.close()
    log.close()
    if average is not None:
        head.load_state_dict(average.module.state_dict())
    return state.seconds


def assemble(items: dict, cache: FeatureCache, detector: AnomalyDetector, accelerator: Accelerator) -> dict[str, Tensor]:
    """A step's batch: cached normal features and, for GLASS, the features of freshly synthesised defects."""
    batch = {"features": cache.features(items["index"], accelerator.device)}
    if "augmented" in items:
        batch["augmented_features"] = align(extract(detector, items["augmented"], accelerator))
        batch["patch_label"] = items["patch_label"].to(accelerator.device)
    return batch


def require_finite(history: Tensor, job: Job, plan: BatchPlan, epoch: int, names: list[str]) -> Tensor:
    """The epoch's losses (steps, parts) on the CPU; checked once per epoch so that a GPU never waits for them.

    Raises:
        TrainingError: a loss is NaN or infinite; names the batch.
    """
    history = history.cpu()
    bad = (~history.isfinite()).any(1).nonzero()
    if len(bad):
        step = int(bad[0])
        batch = ", ".join(names[index] for index in plan.batch(epoch, step))
        raise TrainingError(
            f"{job.name}: the loss is not finite in epoch {epoch + 1}, step {step + 1}, batch [{batch}]. The state of the "
            f"last good epoch is kept in {job.workplace}; look at these pictures, or try another --noise-std or --seed."
        )
    return history


def set_learning_rates(optimizers: list, base_rates: list[list[float]], progress: float) -> float:
    """Step decay as a function of progress in [0, 1); returns the factor."""
    factor = DECAY_FACTOR ** sum(progress >= at for at in DECAY_AT)
    for optimizer, rates in zip(optimizers, base_rates, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
    return factor


def make_average(head: nn.Module, steps: int) -> AveragedModel:
    """Exponential moving average of the weights over about the last tenth of training."""
    decay = 1 - 1 / max(1.0, AVERAGED_SHARE * steps)
    return AveragedModel(head, multi_avg_fn=get_ema_multi_avg_fn(decay))


@torch.no_grad()
def recompute_statistics(objective: nn.Module, cache: FeatureCache, batch_size: int, device: torch.device) -> None:
    """BatchNorm statistics over all normal features and their noisy twins, instead of those of the last few batches."""
    detector, norm = objective.detector, objective.detector.discriminator[1]
    momentum, norm.momentum = norm.momentum, None  # None = plain mean over all batches
    norm.reset_running_stats()
    detector.train()
    for features in cache.batches(batch_size, device):
        normal = detector.embed(flatten(features))
        detector.discriminate(torch.cat([normal, add_noise(normal, objective.noise_std)]))
    norm.momentum = momentum


def loader_workers(synthesis: LocalSynthesis | None, accelerator: Accelerator) -> int:
    """Processes that synthesise defects while a GPU trains; on CPU they would only take its cores."""
    if synthesis is None or accelerator.device.type == "cpu":
        return 0
    return max(1, min(8, (os.cpu_count() or 1) // accelerator.num_processes))


def progress_bar(job: Job, plan: BatchPlan, accelerator: Accelerator) -> tqdm:
    """Steps with time left, one line per process; seldom redrawn where the output is a file."""
    total = plan.steps_per_epoch * plan.epochs
    interval = 0.5 if sys.stderr.isatty() else 30.0
    initial = plan.steps_per_epoch * plan.first_epoch
    position = accelerator.process_index if sys.stderr.isatty() else 0
    return tqdm(total=total, initial=initial, desc=job.name, unit="step", mininterval=interval, position=position)
