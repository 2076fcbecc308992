"""What a study trains: one TOML file, or options, become the jobs of `training.train`."""

import hashlib
import json
import logging
import os
import shlex
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from hubmodels.methods import METHODS
from hubmodels.samples import Category, Sample
from training.config import TrainConfig
from training.jobs import Job, open_backbone
from training.objectives import objective_of
from training.sanity import SanityReport, inspect_category
from training.train import open_data

logger = logging.getLogger("training")

READ_BY = ("data_root", "dataset_name", "normal_folder", "hub_columns", "revision", "skip_bad")
GIVEN_BY_STUDY = ("--data-root", "--categor", "--method", "--seed", "--output", "--parallel", "--push", "--tracker")


@dataclass(frozen=True)
class Setting:
    """One way to train, under a name.

    Attributes:
        options: further options of `training/train.py`, such as "--image-size 368".
        methods, categories, seeds: only these of the study's; by default all.
        pictures: how many good pictures there are, chosen at random by the seed; by default all.
        contaminated: share of the training pictures that are replaced by defective test pictures, which then are no
            longer tested.
    """

    options: str = ""
    methods: list[str] | None = None
    categories: list[str] | None = None
    seeds: list[int] | None = None
    pictures: int | None = None
    contaminated: float = 0.0


@dataclass(frozen=True)
class Study:
    """All jobs of a study.

    Attributes:
        data_root: folders or Hub data sets, as `--data-root` of `training/train.py`. Here, and in options, `$NAME` is
            replaced by the environment variable NAME.
        categories, methods, seeds: what is combined; all categories by default.
        settings: by name.
        options: options of `training/train.py` for one method, by its name, such as "--epochs 24".
        textures: categories that count as textures in the means, besides those of MVTec AD.
        output: where the model folders go: OUTPUT/SETTING/seed-N/MODEL.
        results: where scores, tables and plots go; by default to `output`.
        source: the file that it was read from.
    """

    data_root: list[str]
    methods: list[str]
    categories: list[str] | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    settings: dict[str, Setting] = field(default_factory=lambda: {"default": Setting()})
    options: dict[str, str] = field(default_factory=dict)
    textures: list[str] = field(default_factory=list)
    output: str = "runs/study"
    results: str | None = None
    source: str = ""

    @classmethod
    def read(cls, file: Path) -> Self:
        """From a TOML file whose keys are the attributes.

        Raises:
            ValueError: an unknown key, a missing one, or a value that cannot be.
        """
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"{file} cannot be read as TOML ({error})") from error
        settings = values.pop("settings", {"default": {}})
        return cls.of(
            values | {"source": file.as_posix()},
            {name: _made(Setting, value, f"[settings.{name}]") for name, value in settings.items()},
        )

    @classmethod
    def of(cls, values: dict[str, Any], settings: dict[str, Setting]) -> Self:
        """From plain values; raises ValueError for what cannot be."""
        if not settings:
            raise ValueError("a study needs at least one setting")
        study = _made(cls, values | {"settings": settings}, "the study")
        for method in {*study.methods, *study.options, *(m for s in settings.values() for m in s.methods or ())}:
            objective_of(method)
        for name, setting in settings.items():
            if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
                raise ValueError(f"the setting {name!r} becomes a folder: use letters, digits, '-', '_' and '.'")
            if not 0 <= setting.contaminated < 0.5:
                raise ValueError(f"{name}: contaminated is a share below 0.5, not {setting.contaminated}")
            if setting.pictures is not None and setting.pictures < 2:
                raise ValueError(f"{name}: at least 2 pictures are needed, one to train on and one to hold out")
        return study

    def only(self, settings: Sequence[str]) -> Self:
        """The study with some of its settings. Raises ValueError for an unknown one."""
        if unknown := sorted(set(settings) - self.settings.keys()):
            raise ValueError(f"no setting {', '.join(unknown)}; there are: {', '.join(self.settings)}")
        return replace(self, settings={name: self.settings[name] for name in self.settings if name in settings})

    @property
    def results_folder(self) -> Path:
        """Where scores, tables and plots go."""
        return Path(self.results or self.output)

    def jobs(self, fill: Callable[[TrainConfig], TrainConfig]) -> list["StudyJob"]:
        """All jobs: seed by seed, in each the settings in their order, in each the slowest method first.

        Args:
            fill: completes what options leave open.

        Raises:
            ValueError: pictures cannot be used, a category is nowhere, or an option cannot be one of a study.
        """
        opened, jobs = _Opened(), []
        for seed in self.seeds:
            for name, setting in self.settings.items():
                if seed in (setting.seeds or self.seeds):
                    jobs += self._jobs_of(name, setting, seed, fill, opened)
        named = {*(self.categories or ()), *(c for s in self.settings.values() for c in s.categories or ())}
        if missing := sorted(named - opened.names):
            raise ValueError(f"no data set of the study has {', '.join(missing)}")
        return jobs

    def _jobs_of(
        self, name: str, setting: "Setting", seed: int, fill: Callable, opened: "_Opened"
    ) -> list["StudyJob"]:
        """The jobs of one setting and seed."""
        jobs = []
        chosen = [m for m in METHODS if m in self.methods and m in (setting.methods or self.methods)]
        for method in sorted(chosen, key=lambda m: objective_of(m).epochs, reverse=True):
            for root in self.data_root:
                options = self._options(name, setting, method)
                given = ["--data-root", root, "--methods", method, "--seed", str(seed), *options]
                config = TrainConfig.from_command_line([os.path.expandvars(each) for each in given])
                config = fill(replace(config, output=str(Path(self.output) / name / f"seed-{seed}")))
                for category, sanity in opened.categories(config):
                    if all(
                        category.name in (some or [category.name]) for some in (self.categories, setting.categories)
                    ):
                        job = StudyJob(category, method, config, sanity, setting=name)
                        jobs.append(_changed(replace(job, command=self._command(job, root, options)), setting))
        return jobs

    def _options(self, name: str, setting: "Setting", method: str) -> list[str]:
        """Options of `training/train.py` for a method of a setting."""
        options = [*shlex.split(setting.options), *shlex.split(self.options.get(method, ""))]
        flags = [option.partition("=")[0] for option in options if option.startswith("--")]
        if taken := [f for f in flags if any(each.startswith(f) or f.startswith(each) for each in GIVEN_BY_STUDY)]:
            raise ValueError(f"{name}: {', '.join(taken)} cannot be an option, because the study gives it")
        return options

    def _command(self, job: "StudyJob", root: str, options: list[str]) -> str:
        """What trains a job again."""
        named = ["--methods", job.method, "--categories", job.category.name, "--seeds", str(job.config.seed)]
        if self.source:
            return shlex.join(["python", "-m", "training.study", self.source, "--settings", job.setting, *named])
        return shlex.join(["python", "-m", "training.study", "--data-root", root, *named, "--", *options])


class _Opened:
    """Data sets, opened and inspected once for all jobs that read them in the same way."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._known: dict[tuple, list[tuple[Category, SanityReport]]] = {}

    def categories(self, config: TrainConfig) -> list[tuple[Category, SanityReport]]:
        """All categories of a data set without unreadable pictures, with what was found in them."""
        key = tuple(str(getattr(config, name)) for name in READ_BY)
        if key not in self._known:
            self._known[key] = [inspect_category(each, config.skip_bad) for each in open_data(config)]
            for _, sanity in self._known[key]:
                logger.info("%s", "\n".join(sanity.lines()))
        self.names |= {category.name for category, _ in self._known[key]}
        return self._known[key]


@dataclass(frozen=True)
class StudyJob(Job):
    """A job of a study."""

    setting: str = ""

    @property
    def title(self) -> str:
        """Its name, with what distinguishes it from the other jobs of that name."""
        return f"{self.name} ({self.setting}, seed {self.config.seed})"

    @property
    def fingerprint(self) -> str:
        """Of all settings that it is made with."""
        backbone = open_backbone(self.config.backbone, self.config.backbone_weights)
        return fingerprint(self.settings | {"backbone_sha256": backbone.fingerprint})

    @property
    def key(self) -> dict[str, str | int]:
        """What identifies it in the tables of results."""
        return {
            **{"setting": self.setting, "method": self.method, "dataset": self.category.dataset},
            **{"category": self.category.name, "seed": self.config.seed},
        }


def fingerprint(settings: dict) -> str:
    """SHA-256 of all settings that a model was made with, and of its pictures and weights.

    Options that are not given do not count, so that new options change nothing.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _changed(job: StudyJob, setting: Setting) -> StudyJob:
    """The job with fewer or contaminated training pictures, if the setting says so."""
    if setting.pictures is None and not setting.contaminated:
        return job
    rng, category = np.random.default_rng(job.config.seed), job.category
    train, test = _some_good(category, setting.pictures, rng), list(category.test)
    if setting.contaminated:
        train, test = _contaminated(category, train, setting.contaminated, rng)
    category = replace(category, train=tuple(train), test=tuple(test))
    names = {sample.name for sample in train}
    copies = [inside for group in job.sanity.copies if len(inside := [n for n in group if n in names]) > 1]
    counts = {"train": {"good": len(train)}, "test": dict(Counter(sample.defect_type for sample in test))}
    digest = hashlib.sha256("\n".join([job.sanity.train_sha256, *(sample.name for sample in train)]).encode())
    sanity = replace(job.sanity, train_sha256=digest.hexdigest(), copies=copies, counts=counts)
    return replace(job, category=category, sanity=sanity)


def _some_good(category: Category, count: int | None, rng: np.random.Generator) -> list[Sample]:
    """So many good training pictures, or all."""
    if count is not None and count > len(category.train):
        raise ValueError(f"{category.name} has {len(category.train)} good pictures, not {count}")
    return _some(category.train, len(category.train) if count is None else count, rng)


def _contaminated(
    category: Category, train: Sequence[Sample], share: float, rng: np.random.Generator
) -> tuple[list[Sample], list[Sample]]:
    """Training pictures of which a share shows defects, and the test pictures that are left."""
    count, defective = round(share * len(train)), [sample for sample in category.test if sample.label]
    if not 0 < count < len(defective):
        raise ValueError(
            f"{category.name} cannot be contaminated with {count} of {len(defective)} defective test pictures: give "
            "another share, or more pictures"
        )
    moved = _some(defective, count, rng)
    names = {sample.name for sample in moved}
    kept = _some(train, len(train) - count, rng)
    # for training they are good pictures: that is the mistake
    return [*kept, *map(_as_good, moved)], [sample for sample in category.test if sample.name not in names]


def _some(samples: Sequence[Sample], count: int, rng: np.random.Generator) -> list[Sample]:
    return [samples[i] for i in sorted(rng.permutation(len(samples))[:count])]


def _as_good(sample: Sample) -> Sample:
    return replace(sample, defect_type="good", label=0, mask=None)


def _made(kind: type, values: dict[str, Any], where: str) -> Any:
    """A dataclass from plain values; raises ValueError for unknown or missing keys, or values of another type."""
    known = {each.name for each in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"{where} has the unknown key {', '.join(unknown)}; known are: {', '.join(sorted(known))}")
    for name in ("data_root", "categories", "methods", "seeds", "textures"):
        value = values.get(name)
        if value is not None and not (isinstance(value, list) and value):
            raise ValueError(f"{where}: {name} must be a list that is not empty, not {value!r}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error
