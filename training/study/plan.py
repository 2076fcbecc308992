"""What a study trains: one TOML file, or options, become the jobs of `training.train`."""

import hashlib
import json
import os
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from hubmodels.methods import METHODS
from hubmodels.samples import Category, Sample
from training.config import TrainConfig
from training.data import open_categories
from training.jobs import Job
from training.objectives import objective_of
from training.sanity import SanityReport, inspect_category

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
        return cls.of(values, {name: _made(Setting, value, f"[settings.{name}]") for name, value in settings.items()})

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

    def jobs(self, fill: Callable[[TrainConfig], TrainConfig]) -> Iterator["StudyJob"]:
        """All jobs: seed by seed, in each the settings in their order, in each the slowest method first.

        Args:
            fill: completes what options leave open.

        Raises:
            ValueError: pictures cannot be used, or an option cannot be one of a study.
        """
        known = {root: self._inspected(os.path.expandvars(root)) for root in self.data_root}
        names = {category.name for found in known.values() for category, _ in found}
        if missing := sorted({*(self.categories or ())} - names):
            raise ValueError(f"no data set of the study has {', '.join(missing)}")
        for seed in self.seeds:
            for name, setting in self.settings.items():
                if seed not in (setting.seeds or self.seeds):
                    continue
                chosen = [m for m in METHODS if m in self.methods and m in (setting.methods or self.methods)]
                for method in sorted(chosen, key=lambda m: objective_of(m).epochs, reverse=True):
                    for root, categories in known.items():
                        for category, sanity in categories:
                            if category.name in (setting.categories or [category.name]):
                                job = self._job(name, setting, method, seed, root, category, sanity)
                                yield replace(job, config=fill(job.config))

    def _inspected(self, root: str) -> list[tuple[Category, SanityReport]]:
        """The categories of a root that are wanted, without unreadable pictures."""
        wanted = set(self.categories or ())
        return [inspect_category(each) for each in open_categories(root) if not wanted or each.name in wanted]

    def _job(
        self, name: str, setting: Setting, method: str, seed: int, root: str, category: Category, sanity: SanityReport
    ) -> "StudyJob":
        options = [*shlex.split(setting.options), *shlex.split(self.options.get(method, ""))]
        if taken := [o for o in options if o.startswith(GIVEN_BY_STUDY)]:
            raise ValueError(f"{name}: {', '.join(taken)} cannot be an option, because the study gives it")
        arguments = ["--data-root", root, "--categories", category.name, "--methods", method, "--seed", str(seed)]
        config = TrainConfig.from_command_line([os.path.expandvars(each) for each in (*arguments, *options)])
        config = replace(config, output=str(Path(self.output) / name / f"seed-{seed}"))
        changed, kept = _changed(category, setting, seed), ["python", "training/train.py", *arguments, *options]
        if changed is not category:
            pictures = "\n".join(sample.name for sample in changed.train)
            digest = hashlib.sha256(f"{sanity.train_sha256}\n{pictures}".encode()).hexdigest()
            names = {sample.name for sample in changed.train}
            copies = [inside for group in sanity.copies if len(inside := [n for n in group if n in names]) > 1]
            sanity = replace(sanity, train_sha256=digest, copies=copies)
            kept = []
        return StudyJob(changed, method, config, sanity, shlex.join(kept), setting=name)


@dataclass(frozen=True)
class StudyJob(Job):
    """A job of a study."""

    setting: str = ""

    @property
    def title(self) -> str:
        """Its name, with what distinguishes it from the other jobs of that name."""
        return f"{self.name} ({self.setting}, seed {self.config.seed})"

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


def _changed(category: Category, setting: Setting, seed: int) -> Category:
    """The category with fewer or contaminated training pictures."""
    rng = np.random.default_rng(seed)
    train, test = list(category.train), list(category.test)
    if setting.pictures is not None:
        if setting.pictures > len(train):
            raise ValueError(f"{category.name} has {len(train)} good pictures, not {setting.pictures}")
        train = _some(train, setting.pictures, rng)
    if setting.contaminated:
        count = round(setting.contaminated * len(train))
        defective = [sample for sample in test if sample.label]
        if count >= len(defective):
            raise ValueError(f"{category.name} has too few defective pictures to contaminate with {count} of them")
        moved = _some(defective, count, rng)
        names = {sample.name for sample in moved}
        # for training they are good pictures: that is the mistake
        train = [*_some(train, len(train) - count, rng), *(_as_good(sample) for sample in moved)]
        test = [sample for sample in test if sample.name not in names]
    if len(train) == len(category.train) and len(test) == len(category.test):
        return category
    return replace(category, train=tuple(train), test=tuple(test))


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
