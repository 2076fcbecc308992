"""What a run consists of: one job per (category, method), where it lies, and whether it is done."""

import json
from dataclasses import dataclass
from pathlib import Path

from training.config import TrainConfig
from training.samples import Category
from training.sanity import SanityReport

# settings that may differ when a run is repeated: where things lie, and how the work is spread or watched
FREE_SETTINGS = (
    *("output", "parallel", "tracker", "categories", "methods"),
    *("data_root", "backbone_weights", "skip_bad"),
)


class TrainingError(RuntimeError):
    """A job cannot go on; the message says why and what is kept."""


@dataclass(frozen=True)
class Job:
    """One model to train."""

    category: Category
    method: str
    config: TrainConfig
    sanity: SanityReport

    @property
    def name(self) -> str:
        """Name of the model's folder and Hub repository."""
        return f"{self.method}-{self.category.dataset}-{self.category.name}"

    @property
    def folder(self) -> Path:
        """Where the finished model lies, laid out as its Hub repository."""
        return Path(self.config.output) / self.name

    @property
    def workplace(self) -> Path:
        """Where the unfinished job keeps its state."""
        return Path(self.config.output) / ".unfinished" / self.name

    @property
    def settings(self) -> dict:
        """What must be equal for a rerun to continue or keep this job: all but where things lie."""
        return {k: v for k, v in self.config.as_dict().items() if k not in FREE_SETTINGS}


def is_finished(job: Job) -> bool:
    """Whether the job's model folder is there, made with the same settings.

    Raises:
        ValueError: a model made with other settings lies there.
    """
    path = job.folder / "metrics.json"
    if not path.is_file():
        return False
    made_with = json.loads(path.read_text())["settings"]
    changed = sorted(k for k in job.settings if made_with.get(k) != job.settings[k])
    if changed:
        raise ValueError(
            f"{job.folder} holds a finished model with other settings ({', '.join(changed)}): delete it, or give "
            "another --output."
        )
    return True
