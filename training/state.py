"""What a killed run continues from: weights, optimisers, average as safetensors. No pickle, no half-written file."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from training.jobs import differences

OPTIMIZER, AVERAGE = "optimizer", "average"


class TrainingState:
    """Everything that changes while a job trains; what is random is a function of the epoch and needs no state.

    `keep` copies it in memory, and `save` writes that copy: what befalls the weights later never reaches the disk.

    Args:
        head: adaptor and discriminator.
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
        """Makes the present the last good state: that after `epoch` epochs, which took `seconds`."""
        self.epoch, self.seconds = epoch, seconds
        self._kept = {k: v.detach().clone() for k, v in self.tensors().items()}

    def save(self, path: Path) -> None:
        """Writes what was kept next to `path` and renames, so that a kill leaves the old state or the new one.

        Raises:
            OSError: the disk is full or not writable; the state saved before stays.
        """
        progress = {"epoch": self.epoch, "seconds": self.seconds, "settings": self.settings}
        partial = path.with_suffix(".partial")
        try:
            plain = {k: v.cpu().contiguous() for k, v in self._kept.items()}
            save_file(plain, partial, {"json": json.dumps(progress)})
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"cannot write {path} ({error}): free some disk space and give the same command again, it continues "
                "from the last saved epoch."
            ) from error

    def load(self, path: Path) -> None:
        """Continues from `path` where it exists.

        Raises:
            ValueError: the state was saved under other settings.
        """
        if not path.is_file():
            return
        with safe_open(path, "pt") as file:
            progress = json.loads(file.metadata()["json"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        self._require_same(progress["settings"], path)
        self.head.load_state_dict(_below(tensors, "head"))
        for i, optimizer in enumerate(self.optimizers):
            _load_optimizer(optimizer, _below(tensors, f"{OPTIMIZER}.{i}"))
        if self.average is not None:
            self.average.load_state_dict(_below(tensors, AVERAGE))
        self.keep(progress["epoch"], progress["seconds"])

    def _require_same(self, saved: dict, path: Path) -> None:
        if changed := differences(saved, self.settings):
            raise ValueError(
                f"{path.parent} holds an unfinished job with other settings ({changed}): continue it with the same "
                "command, or delete that folder, or give another --output."
            )


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix + "."): value for key, value in tensors.items() if key.startswith(prefix + ".")}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
