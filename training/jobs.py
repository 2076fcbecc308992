"""The jobs of a run, one per (category, method): their folders, their settings, and whether they are finished."""

import hashlib
import os
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from hubmodels.backbone import Backbone, load_backbone, normalisation
from hubmodels.detector import AnomalyDetector
from hubmodels.folders import JUNK
from hubmodels.hub.catalog import model_name
from hubmodels.hub.files import missing_files
from hubmodels.methods import METHODS
from hubmodels.region import read_region
from hubmodels.samples import Category
from training.config import TrainConfig
from training.evaluation import read_report
from training.input_shape import area_in_pixels, resolution_of
from training.objectives import objective_of
from training.sanity import SanityReport

# settings that may differ when a run is repeated: places, how the work is distributed or logged, and the time budget,
# because the size that was chosen for it counts
FREE_SETTINGS = (
    *("output", "replace", "parallel", "tracker", "categories", "methods"),
    *("data_root", "backbone_weights", "skip_bad", "push_to_hub", "private", "budget_ms", "title"),
)
NAMES = {"train_sha256": "training pictures", "backbone_sha256": "backbone weights"}


class TrainingError(RuntimeError):
    """A job cannot continue; the message gives the reason and what is kept."""


@dataclass(frozen=True)
class Job:
    """One model to train.

    Attributes:
        command: what trains it again, for its report; empty for the command that runs.
    """

    category: Category
    method: str
    config: TrainConfig
    sanity: SanityReport
    command: str = ""

    @property
    def title(self) -> str:
        """What messages call it; unique in a run."""
        return self.name

    @property
    def name(self) -> str:
        """Name of the model's folder and Hub repository."""
        return model_name(self.method, self.category.dataset, self.category.name)

    @property
    def folder(self) -> Path:
        """Folder of the finished model, laid out as its Hub repository."""
        return Path(self.config.output) / self.name

    @property
    def workplace(self) -> Path:
        """Folder of the unfinished job's state."""
        return Path(self.config.output) / ".unfinished" / self.name

    @property
    def resolution(self) -> dict:
        """What the model input shows of the training pictures."""
        resize = self.config.resize_of(self.method, self.category.name)
        return resolution_of(self.sanity.sizes, resize, self.config.backbone)

    @property
    def epochs(self) -> int:
        """Passes over the training pictures; 0 = fitted at once."""
        return self.config.epochs_of(self.method)

    @property
    def folds(self) -> int:
        """How many folds cross-fit the calibration; 0 = pictures are held out."""
        return self.config.folds_of(self.method)

    @property
    def head_settings(self) -> dict:
        """Arguments of the head, if they are not its defaults."""
        given = self.config.hidden_dim and "hidden_dim" not in objective_of(self.method).unused
        return {"hidden_dim": self.config.hidden_dim} if given else {}

    @property
    def least_size(self) -> dict:
        """Arguments of the detector for regions that are too small to count; empty if all count."""
        config, sizes = self.config, self.sanity.sizes
        if config.least_size is None:
            return {}
        pixels = area_in_pixels(config.least_size, config.pixel_size)
        return {"least_size": pixels, "picture_size": max(sizes, key=sizes.get)}

    @property
    def settings(self) -> dict:
        """What must be equal for a rerun to continue or keep this job: the pictures, and all options the method reads.

        Options for places, and for how the work is distributed, may differ.
        """
        without = {"own", *FREE_SETTINGS, *objective_of(self.method).unused}
        shared = {k: v for k, v in asdict(self.config).items() if k not in without}
        own = asdict(self.config.own_settings(self.method))
        split = {"folds": self.folds, "holdout": None} if self.folds else {"folds": None}
        region = {"region": self.config.region and hashlib.sha256(Path(self.config.region).read_bytes()).hexdigest()}
        return shared | own | split | region | {"train_sha256": self.sanity.train_sha256}


def is_whole(job: Job) -> bool:
    """Whether the model folder is there with all its files; False where the job can write it.

    Raises:
        ValueError: something else is in its place, which a finished job could not replace.
    """
    missing = missing_files(job.folder)
    if missing and os.path.lexists(job.folder) and not _is_empty(job.folder):
        raise ValueError(
            f"{job.folder} is in the way: it is not empty, but no finished model ({', '.join(missing)} missing). "
            "Move it away or delete it, or use another --output."
        )
    return not missing


def _is_empty(folder: Path) -> bool:
    """Whether it is a folder with nothing in it but files that operating systems leave, such as `.DS_Store`."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    left = (path.name.startswith("._") or path.name.lower() in (".ds_store", *JUNK) for path in folder.iterdir())
    return all(left)


def is_finished(job: Job, backbone_sha256: str) -> bool:
    """Whether the model folder is whole, made with the same settings, training pictures and backbone weights.

    Raises:
        ValueError: the folder contains a model made with others, or something else.
    """
    if not is_whole(job):
        return False
    report, wanted = read_report(job.folder), job.settings | {"backbone_sha256": backbone_sha256}
    made_with = report["settings"] | {"backbone_sha256": report["backbone"]["sha256"]}
    changed = differences({k: made_with.get(k) for k in wanted}, wanted)
    if changed and not job.config.replace:
        raise ValueError(
            f"{job.folder} contains a finished model with other settings ({changed}): give --replace, delete it, or "
            "use another --output."
        )
    return not changed


def differences(saved: dict, wanted: dict) -> str:
    """Names of the settings that differ, for a message; empty if none does."""
    changed = sorted(k for k in saved.keys() | wanted.keys() if saved.get(k) != wanted.get(k))
    return ", ".join(NAMES.get(k, k) for k in changed)


@lru_cache(1)
def open_backbone(name: str, weights: str | None) -> Backbone:
    """The frozen network of a run, kept in memory because all jobs use it."""
    return load_backbone(name, weights=weights)


def build_detector(job: Job) -> AnomalyDetector:
    """The untrained head on its verified backbone."""
    config = job.config
    backbone = open_backbone(config.backbone, config.backbone_weights)
    mean, std = normalisation(config.backbone)
    detector = METHODS[job.method].detector(
        backbone=config.backbone,
        backbone_sha256=backbone.fingerprint,
        mean=mean,
        std=std,
        image_size=config.image_size,
        resize=config.resize_of(job.method, job.category.name),
        dataset=job.category.dataset,
        category=job.category.name,
        region=config.region is not None,
        **job.least_size,
        **job.head_settings,
    )
    if detector.front_end.region is not None:
        front_end = detector.front_end
        front_end.region.set(read_region(config.region, front_end.image_size, front_end.resize))
    return detector
