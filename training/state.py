"""What a job writes while it trains: its state, from which a killed run continues, and its log.

The state is one safetensors file with weights, optimisers and average. It is replaced in one step, so that no file is
ever half-written. The log has one JSON line per epoch, and goes to an accelerate tracker if one is chosen.
"""

import json
import os
from pathlib import Path

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from training.jobs import Job, differences

LOG_FILE = "training_log.jsonl"
OPTIMIZER, AVERAGE = "optimizer", "average"


class TrainingState:
    """Everything that changes while a job trains; what is random is a function of the epoch and needs no state.

    `keep` copies it in memory, and `save` writes that copy: later changes, for example NaNs, are never written.

    Args:
        head: what is trained.
        average: averaged weights, or None.
        settings: JSON-plain settings that must be the same for a run to be continued.
    """

    def __init__(
        self, head: nn.Module, optimizers: list[torch.optim.Optimizer], average: nn.Module | None, settings: dict
    ) -> None:
        self.head, self.optimizers, self.average, self.settings = head, optimizers, average, settings
        self.keep(0, 0.0)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors as they are now, not copied."""
        tensors = {f"head.{k}": v for k, v in self.head.state_dict().items()}
        for i, optimizer in enumerate(self.optimizers):
            for index, values in optimizer.state_dict()["state"].items():
                tensors |= {f"{OPTIMIZER}.{i}.{index}.{name}": value for name, value in values.items()}
        if self.average is not None:
            tensors |= {f"{AVERAGE}.{k}": v for k, v in self.average.state_dict().items()}
        return tensors

    def keep(self, epoch: int, seconds: float) -> None:
        """Makes the present state the last good one: after `epoch` epochs, which took `seconds`."""
        self.epoch, self.seconds = epoch, seconds
        self._kept = {k: v.detach().clone() for k, v in self.tensors().items()}

    def save(self, path: Path) -> None:
        """Writes what was kept next to `path` and renames, so that a kill leaves the old state or the new one.

        Raises:
            OSError: the disk is full or not writable; the state saved before remains.
        """
        progress = {"epoch": self.epoch, "seconds": self.seconds, "settings": self.settings}
        partial = path.with_suffix(".partial")
        try:
            plain = {k: v.cpu().contiguous() for k, v in self._kept.items()}
            save_file(plain, partial, {"json": json.dumps(progress)})
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"cannot write {path} ({error}): free some disk space and repeat the command. It continues "
                "from the last saved epoch."
            ) from error

    def load(self, path: Path, replace: bool = False) -> None:
        """Continues from `path` if it exists.

        Args:
            replace: begin anew where the state was saved under other settings.

        Raises:
            ValueError: the state was saved under other settings.
        """
        if not path.is_file():
            return
        with safe_open(path, "pt") as file:
            progress = json.loads(file.metadata()["json"])
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # Windows replaces no mapped file
        if changed := differences(progress["settings"], self.settings):
            if replace:
                return
            raise ValueError(
                f"{path.parent} contains an unfinished job with other settings ({changed}): continue it with the same "
                "command, give --replace, or use another --output."
            )
        self.head.load_state_dict(_below(tensors, "head"))
        for i, optimizer in enumerate(self.optimizers):
            _load_optimizer(optimizer, _below(tensors, f"{OPTIMIZER}.{i}"))
        if self.average is not None:
            self.average.load_state_dict(_below(tensors, AVERAGE))
        self.keep(progress["epoch"], progress["seconds"])


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix + "."): value for key, value in tensors.items() if key.startswith(prefix + ".")}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


class JobLog:
    """Writes records of plain numbers, each with its `epoch`; a resumed job drops the epochs that it repeats.

    Args:
        first_epoch: records up to this epoch are kept.
        writes: False on processes that share the job with the one that writes.

    Raises:
        ValueError: no such tracker, or its package is not installed.
    """

    def __init__(self, job: Job, first_epoch: int, writes: bool = True) -> None:
        path, name = job.workplace / LOG_FILE, job.config.tracker
        kept = path.read_text(encoding="utf-8").splitlines()[:first_epoch] if path.is_file() else []
        self._file = path.open("w", encoding="utf-8") if writes else None
        self._tracker = make_tracker(name, job.name, Path(job.config.output)) if name and writes else None
        if self._file:
            self._file.writelines(line + "\n" for line in kept)

    def write(self, record: dict[str, float]) -> None:
        """Appends one epoch's record."""
        if self._file:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        if self._tracker:
            self._tracker.log({k: v for k, v in record.items() if k != "epoch"}, step=record["epoch"])

    def close(self) -> None:
        """Ends the file and the tracker's run."""
        if self._file:
            self._file.close()
        if self._tracker:
            self._tracker.finish()


def make_tracker(name: str, run_name: str, folder: Path) -> GeneralTracker:
    """Starts the accelerate tracker of that name on this process."""
    tracker_class = find_tracker(name)
    tracker_class.main_process_only = False  # jobs run on every process
    options = {"logging_dir": folder} if tracker_class.requires_logging_directory else {}
    try:
        tracker = tracker_class(run_name, **options)
        tracker.start()
    except ImportError as error:
        raise ValueError(f"the tracker {name} needs a package that is not installed: pip install {name}") from error
    return tracker


def find_tracker(name: str) -> type[GeneralTracker]:
    """The class of the accelerate tracker of that name; ValueError if there is none."""
    if name not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"unknown tracker {name!r}: choose one of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    return LOGGER_TYPE_TO_CLASS[name]
