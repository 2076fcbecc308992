"""The training loop: epochs over cached features, steadied and resumable, with the losses checked and logged."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from hubmodels.front_end import align, flatten
from training.batches import BatchPlan, LocalSynthesis, TrainingItems, make_loader, seed_of
from training.cache import FeatureCache, extract
from training.jobs import Job, TrainingError
from training.objectives import add_noise
from training.state import TrainingState
from training.tracking import JobLog

DECAY_AT, DECAY_FACTOR = (0.8, 0.9), 0.4  # SuperSimpleNet's schedule
AVERAGED_SHARE = 0.1  # the averaged weights look back over this share of all steps
SAVE_EVERY_S = 20.0


class Fitting:
    """One job's training, from where an earlier run stopped to the last epoch.

    Args:
        synthesis: GLASS's local anomaly synthesis; None for SimpleNet.
        names: of the pictures in the cache, to say which batch went wrong.
        sharing: whether all processes share this job's batches.
    """

    def __init__(
        self,
        job: Job,
        objective: nn.Module,
        cache: FeatureCache,
        synthesis: LocalSynthesis | None,
        names: list[str],
        accelerator: Accelerator,
        sharing: bool,
    ) -> None:
        self.job, self.objective, self.cache, self.names = job, objective, cache, names
        self.accelerator, self.sharing = accelerator, sharing
        self.saves = accelerator.is_main_process or not sharing
        self.rank, processes = (accelerator.process_index, accelerator.num_processes) if sharing else (0, 1)
        self.optimizers = objective.optimizers()
        self.rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        config, epochs = job.config, job.config.epochs_of(job.method)
        plan = BatchPlan(len(cache), config.batch_size, epochs, config.seed, rank=self.rank, processes=processes)
        self.head = nn.ModuleList([objective.detector.adaptor, objective.detector.discriminator])
        self.average = (
            make_average(self.head, plan.steps_per_epoch * epochs) if "average" in config.stabilise else None
        )
        settings = job.settings | {"processes": processes, "backbone_sha256": objective.detector.backbone_sha256}
        self.state = TrainingState(self.head, self.optimizers, self.average, settings)
        self.state.load(self.state_path)
        self.plan = replace(plan, first_epoch=self.state.epoch)
        workers = loader_workers(synthesis, accelerator)
        self.batches = iter(make_loader(TrainingItems(synthesis), self.plan, workers))
        self.mean_features = cache.mean(accelerator.device) if synthesis else None
        self.log = JobLog(job, self.state.epoch, writes=self.saves)

    @property
    def state_path(self) -> Path:
        """Where the job's state lies until it is finished."""
        return self.job.workplace / "state.safetensors"

    def run(self) -> float:
        """Trains; returns the seconds it took, those of earlier runs included.

        Raises:
            TrainingError: a loss or a weight is not finite; the state of the last good epoch is kept. Processes that
                share the job raise it together.
        """
        self.objective.train()
        model = self.accelerator.prepare_model(self.objective) if self.sharing else self.objective
        saved_at = time.perf_counter()
        with progress_bar(self.job, self.plan, self.accelerator) as progress:
            for epoch in range(self.state.epoch, self.plan.epochs):
                self.log.write(self.run_epoch(model, epoch, progress))
                due = time.perf_counter() - saved_at > SAVE_EVERY_S or self.state.epoch == self.plan.epochs
                if self.saves and due:
                    self.state.save(self.state_path)
                    saved_at = time.perf_counter()
        self.log.close()
        if self.average is not None:
            self.head.load_state_dict(self.average.module.state_dict())
        return self.state.seconds

    def run_epoch(self, model: nn.Module, epoch: int, progress: tqdm) -> dict[str, float]:
        """One pass over the pictures; returns the record of mean losses."""
        started = time.perf_counter()
        torch.manual_seed(seed_of(self.job.config.seed, epoch, self.rank))
        factor = self.set_learning_rates(epoch / self.plan.epochs)
        if self.mean_features is not None:
            self.objective.update_center(self.mean_features)
        history = []
        for _ in range(self.plan.steps_per_epoch):
            losses = model(self.next_batch())
            losses["loss"].backward()
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            if self.average is not None:
                self.average.update_parameters(self.head)
            history.append(torch.stack([value.detach() for value in losses.values()]))
            progress.update()
        means = self.require_finite(torch.stack(history), epoch).mean(0).tolist()
        seconds = time.perf_counter() - started
        self.state.keep(epoch + 1, self.state.seconds + seconds)
        record = dict(zip(losses, means, strict=True))
        return {"epoch": epoch + 1, **record, "learning_rate_factor": factor, "seconds": seconds}

    def next_batch(self) -> dict[str, Tensor]:
        """Cached normal features and, for GLASS, the features of freshly synthesised defects."""
        items, device = next(self.batches), self.accelerator.device
        batch = {"features": self.cache.features(items["index"], device)}
        if "augmented" in items:
            augmented = extract(self.objective.detector, items["augmented"], self.job.config.mixed_precision)
            batch |= {"augmented_features": align(augmented), "patch_label": items["patch_label"].to(device)}
        return batch

    def require_finite(self, history: Tensor, epoch: int) -> Tensor:
        """The epoch's losses (steps, parts) on the CPU; looked at once per epoch so that a GPU never waits for it.

        With several processes their steps follow one another, so that all see the same and none goes on alone.
        """
        sound = torch.stack([value.isfinite().all() for value in self.head.state_dict().values()]).all()
        history, sound = self.of_all(history).cpu(), self.of_all(sound[None].int()).cpu()
        bad = (~history.isfinite()).any(1).view(-1, self.plan.steps_per_epoch).T.nonzero()  # (step, process)
        if len(bad):
            step, rank = bad[0].tolist()
            names = ", ".join(self.names[index] for index in replace(self.plan, rank=rank).batch(epoch, step))
            self.give_up(f"the loss is not finite in epoch {epoch + 1}, step {step + 1}, batch [{names}]")
        if not sound.all():
            self.give_up(f"the weights are not finite after epoch {epoch + 1}")
        return history

    def of_all(self, values: Tensor) -> Tensor:
        """The values of all processes that share the job, one after the other along the first axis."""
        return self.accelerator.gather(values) if self.sharing else values

    def give_up(self, reason: str) -> NoReturn:
        """Writes the last good state, where there is one, and raises."""
        kept = "No epoch was good, so there is no state to go on from"
        if self.state.epoch:
            kept = f"The last good state, of epoch {self.state.epoch}, is kept in {self.job.workplace}"
            if self.saves:
                self.state.save(self.state_path)
        raise TrainingError(f"{self.job.name}: {reason}. {kept}; look at the pictures, or try another --noise-std.")

    def set_learning_rates(self, progress: float) -> float:
        """Step decay, where asked for, as a function of progress in [0, 1); returns the factor."""
        drops = sum(progress >= at for at in DECAY_AT) if "decay" in self.job.config.stabilise else 0
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * DECAY_FACTOR**drops
        return DECAY_FACTOR**drops


def make_average(head: nn.Module, steps: int) -> AveragedModel:
    """Exponential moving average of the weights over about the last tenth of training."""
    decay = 1 - 1 / max(1.0, AVERAGED_SHARE * steps)
    return AveragedModel(head, multi_avg_fn=get_ema_multi_avg_fn(decay))


@torch.no_grad()
def recompute_statistics(objective: nn.Module, cache: FeatureCache, batch_size: int, device: torch.device) -> None:
    """Sets BatchNorm's statistics to mean and unbiased variance over all normal features and their noisy twins."""
    detector, rows, total, squares = objective.detector, 0, 0.0, 0.0
    linear, norm = detector.discriminator[0], detector.discriminator[1]
    for features in cache.batches(batch_size, device):
        normal = detector.embed(flatten(features))
        hidden = linear(torch.cat([normal, add_noise(normal, objective.noise_std)]))
        var, mean = (moment.cpu().double() for moment in torch.var_mean(hidden, 0, correction=0))
        rows, total = rows + len(hidden), total + len(hidden) * mean  # sums, because the last batch is smaller
        squares = squares + len(hidden) * (var + mean.square())
    norm.running_mean.copy_(total / rows)
    norm.running_var.copy_((squares - total.square() / rows) / (rows - 1))


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
