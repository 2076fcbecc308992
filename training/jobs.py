"""What a run consists of: one job per (category, method), where it lies, and whether it is done."""

from dataclasses import dataclass
from pathlib import Path

from hubmodels import GLASS
from hubmodels.hub.files import REPORT_FILE
from hubmodels.hub.listing import model_name
from training.config import TrainConfig
from training.evaluation import read_report
from training.samples import Category
from training.sanity import SanityReport

# settings that may differ when a run is repeated: where things lie, and how the work is spread or watched
FREE_SETTINGS = (
    *("output", "parallel", "tracker", "categories", "methods"),
    *("data_root", "backbone_weights", "skip_bad", "push_to_hub", "private"),
)
GLASS_SETTINGS = ("hypothesis", "foreground", "textures")  # SimpleNet never looks at them
IN_WORDS = {"train_sha256": "training pictures", "backbone_sha256": "backbone weights"}


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
        return model_name(self.method, self.category.dataset, self.category.name)

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
        """What must be equal for a rerun to continue or keep this job: the pictures, and all but where things lie."""
        free = FREE_SETTINGS + (GLASS_SETTINGS if self.method != GLASS.method else ())
        plain = {k: v for k, v in self.config.as_dict().items() if k not in free}
        return plain | {"train_sha256": self.sanity.train_sha256}


def is_finished(job: Job, backbone_sha256: str) -> bool:
    """Whether the job's model folder is there, made with the same settings, training pictures and backbone weights.

    Raises:
        ValueError: a model made with others lies there.
    """
    if not (job.folder / REPORT_FILE).is_file():
        return False
    report, wanted = read_report(job.folder), job.settings | {"backbone_sha256": backbone_sha256}
    made_with = report["settings"] | {"backbone_sha256": report["backbone"]["sha256"]}
    if changed := differences({k: made_with.get(k) for k in wanted}, wanted):
        raise ValueError(
            f"{job.folder} holds a finished model with other settings ({changed}): delete it, or give another "
            "--output."
        )
    return True


def differences(saved: dict, wanted: dict) -> str:
    """The settings that are not equal, for a message; empty where all are."""
    changed = sorted(k for k in saved.keys() | wanted.keys() if saved.get(k) != wanted.get(k))
    return ", ".join(IN_WORDS.get(k, k) for k in changed)
