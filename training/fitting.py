"""The training loop: epochs over cached features, stabilised and resumable, with the losses checked and logged."""

import copy
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, NoReturn

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hubmodels.heads import Head
from training.batches import BatchPlan, FeatureCache, TrainingItems, loader_workers, make_loader, seed_of
from training.jobs import Job, TrainingError
from training.objectives import DirectFit, GradientObjective, Objective
from training.progress import tqdm
from training.state import JobLog, TrainingState

logger = logging.getLogger("training")

DECAY_AT, DECAY_FACTOR = (0.8, 0.9), 0.4  # SuperSimpleNet's schedule
AVERAGED_SHARE = 0.1  # of all steps: over the last of them the weights are averaged
SAVE_EVERY_S = 20.0


class DirectFitting:
    """One job's training without epochs, by one process.

    Attributes:
        fold_heads: for each fold the head that was fitted without it.
    """

    first_epoch, saves = 0, True

    def __init__(self, job: Job, objective: DirectFit, cache: FeatureCache) -> None:
        self.job, self.objective, self.cache = job, objective, cache
        self.fold_heads: list[Head] = []
        self.record: dict = {}

    def run(self) -> float:
        """Fits the heads of the folds and then that of the detector; returns the seconds it took.

        Raises:
            TrainingError: a fitted value is not finite.
        """
        started, untrained = time.perf_counter(), copy.deepcopy(self.objective.head)
        for fold in tqdm(sorted(set(self.cache.folds)), "folds"):
            self.fit(self.cache.without(fold), fold + 1)
            self.fold_heads.append(self.objective.head.eval())
            self.objective.detector.head = copy.deepcopy(untrained)
        if self.fold_heads:
            self.record["fold_seconds"] = time.perf_counter() - started
        record = self.fit(self.cache, 0)
        seconds = time.perf_counter() - started
        log = JobLog(self.job, 0)
        log.write({"epoch": 1, **record, "seconds": seconds})
        log.close()
        return seconds

    def fit(self, cache: FeatureCache, number: int) -> dict:
        """Fits the detector's head to some pictures; returns what the log records."""
        torch.manual_seed(seed_of(self.job.config.seed, number))
        record = self.objective.fit(cache) or {}
        if not all_finite(self.objective.head):
            raise TrainingError(f"{self.job.name}: a fitted value is not finite; check the pictures.")
        return record


class Fitting:
    """One job's training in steps, from where an earlier run stopped to the last epoch.

    Args:
        names: of the pictures in the cache, to say which batch went wrong.
        sharing: whether all processes share this job's batches.

    Attributes:
        saves: whether this process saves and evaluates the model.
        record: what is written about the steps in the model's `metrics.json`.
    """

    fold_heads: ClassVar[list[Head]] = []

    def __init__(
        self,
        job: Job,
        objective: GradientObjective,
        cache: FeatureCache,
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
        config, epochs, front_end = job.config, job.epochs, objective.detector.front_end
        plan = BatchPlan(len(cache), config.batch_size, epochs, config.seed, rank=self.rank, processes=processes)
        self.head = objective.head
        self.average = (
            make_average(self.head, plan.steps_per_epoch * epochs) if "average" in config.stabilise else None
        )
        settings = job.settings | {"processes": processes, "backbone_sha256": front_end.backbone_sha256}
        self.state = TrainingState(self.head, self.optimizers, self.average, settings)
        self.state.load(self.state_path, config.replace)
        self.plan = replace(plan, first_epoch=self.state.epoch)
        counting = cache.patches if cache.counting is None else cache.counting
        items = TrainingItems(objective.synthesis, counting, config.seed)
        self.record = {}
        if items.chosen < cache.patches:
            self.record["step_patches"] = items.chosen
            logger.info(
                "%s: a step uses %s of each picture's %s patches, and different ones in each epoch",
                *(job.name, f"{items.chosen:,}", f"{cache.patches:,}"),
            )
        workers = loader_workers(accelerator.device) if objective.synthesis else 0
        self.batches = iter(make_loader(items, self.plan, workers))
        self.log = JobLog(job, self.state.epoch, writes=self.saves)

    @property
    def first_epoch(self) -> int:
        """The number of epochs that an earlier run has finished."""
        return self.plan.first_epoch

    @property
    def state_path(self) -> Path:
        """File of the job's state until it is finished."""
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
        self.objective.start_epoch()
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
        """Cached features, and what else the objective makes for each step."""
        items = next(self.batches)
        if "places" in items:
            items["places"] = items["places"].to(self.accelerator.device)
        batch = {"features": self.cache.features(items["index"], self.accelerator.device, items.get("places"))}
        return batch | self.objective.inputs(items)

    def require_finite(self, history: Tensor, epoch: int) -> Tensor:
        """The epoch's losses (steps, parts) on the CPU; checked once per epoch, so that a GPU never waits for it.

        With several processes their steps follow one another. So all have the same values and stop together.
        """
        sound = all_finite(self.head)
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
        """Writes the last good state, if there is one, and raises."""
        kept = "No epoch was good, so no state is kept"
        if self.state.epoch:
            kept = f"The last good state, of epoch {self.state.epoch}, is kept in {self.job.workplace}"
            if self.saves:
                self.state.save(self.state_path)
        raise TrainingError(f"{self.job.name}: {reason}. {kept}; check the pictures, or try another --noise-std.")

    def set_learning_rates(self, progress: float) -> float:
        """Step decay, if chosen, as a function of progress in [0, 1); returns the factor."""
        drops = sum(progress >= at for at in DECAY_AT) if "decay" in self.job.config.stabilise else 0
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * DECAY_FACTOR**drops
        return DECAY_FACTOR**drops


def make_fitting(
    job: Job, objective: Objective, cache: FeatureCache, names: list[str], accelerator: Accelerator, sharing: bool
) -> Fitting | DirectFitting:
    """The training of a job, in steps or at once, ready to run."""
    if isinstance(objective, DirectFit):
        return DirectFitting(job, objective, cache)
    return Fitting(job, objective, cache, names, accelerator, sharing)


def make_average(head: nn.Module, steps: int) -> AveragedModel:
    """Exponential moving average of the weights over about the last tenth of training."""
    decay = 1 - 1 / max(1.0, AVERAGED_SHARE * steps)
    return AveragedModel(head, multi_avg_fn=get_ema_multi_avg_fn(decay))


def all_finite(module: nn.Module) -> Tensor:
    """Whether every parameter and buffer is finite, () bool; true of a head without any."""
    checks = [value.isfinite().all() for value in module.state_dict().values()]
    return torch.stack(checks).all() if checks else torch.tensor(True)


def progress_bar(job: Job, plan: BatchPlan, accelerator: Accelerator) -> tqdm:
    """Steps with time left, one line per process; rarely redrawn if the output is a file."""
    total = plan.steps_per_epoch * plan.epochs
    interval = 0.5 if sys.stderr.isatty() else 30.0
    initial = plan.steps_per_epoch * plan.first_epoch
    position = accelerator.process_index if sys.stderr.isatty() else 0
    shown = {"mininterval": interval, "position": position, "leave": True, "disable": False}
    return tqdm(total=total, initial=initial, desc=job.name, unit="step", **shown)
