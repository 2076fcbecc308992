"""What a study trains: one TOML file, or options, become the jobs of `training.train`."""

import hashlib
import io
import json
import logging
import os
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

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
TYPES = {str: ("a text", "texts"), int: ("a whole number", "whole numbers"), float: ("a number", "numbers")}
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
        source: the file that it was read from; not one of its keys.
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
        if "source" in values:
            raise ValueError("the study has the unknown key source: data_root names the data")
        settings = values.pop("settings", {"default": {}})
        if not isinstance(settings, dict) or not all(isinstance(each, dict) for each in settings.values()):
            raise ValueError(f"{file}: each setting is a table such as [settings.NAME], with its options below")
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
            for key in ("methods", "seeds"):
                if other := [value for value in getattr(setting, key) or () if value not in getattr(study, key)]:
                    raise ValueError(f"[settings.{name}]: {key} has {_listed(other)}, which the study does not have")
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
        for seed in dict.fromkeys(self.seeds):
            for name, setting in self.settings.items():
                if seed in (setting.seeds or self.seeds):
                    jobs += self._jobs_of(name, setting, seed, fill, opened)
        named = {*(self.categories or ()), *(c for s in self.settings.values() for c in s.categories or ())}
        if missing := sorted(named - opened.names):
            raise ValueError(
                f"no data set of the study has {_listed(missing)}; it has {_listed(sorted(opened.names))}"
            )
        places = {(job.category.name, job.config.data_root) for job in jobs}
        if twice := [name for name, count in Counter(name for name, _ in places).items() if count > 1]:
            raise ValueError(f"several data sets have the category {_listed(twice)}: use one study for each of them")
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
                config = _config(name, [_expanded(each) for each in given])
                config = fill(replace(config, output=str(Path(self.output) / name / f"seed-{seed}")))
                for category, sanity in opened.categories(config, (self.categories, setting.categories)):
                    job = StudyJob(category, method, config, sanity, setting=name)
                    jobs.append(_changed(replace(job, command=self._command(job, root, options)), setting))
        return jobs

    def _options(self, name: str, setting: "Setting", method: str) -> list[str]:
        """Options of `training/train.py` for a method of a setting."""
        options = [*_words(name, setting.options), *_words(method, self.options.get(method, ""))]
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
    """Data sets, opened once for all jobs that read them in the same way, and their categories, inspected once."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._known: dict[tuple, list[Category]] = {}
        self._inspected: dict[tuple, tuple[Category, SanityReport]] = {}

    def categories(
        self, config: TrainConfig, wanted: Sequence[Collection[str] | None]
    ) -> list[tuple[Category, SanityReport]]:
        """Categories of a data set that all of `wanted` name, without unreadable pictures, and what was found."""
        key = tuple(str(getattr(config, name)) for name in READ_BY)
        if key not in self._known:
            self._known[key] = open_data(config)
        self.names |= {category.name for category in self._known[key]}
        chosen = [c for c in self._known[key] if all(c.name in (names or [c.name]) for names in wanted)]
        return [self._inspect((*key, category.name), category, config.skip_bad) for category in chosen]

    def _inspect(self, key: tuple, category: Category, skip_bad: bool) -> tuple[Category, SanityReport]:
        if key not in self._inspected:
            category, sanity = self._inspected[key] = inspect_category(category, skip_bad)
            logger.info("%s", "\n".join(sanity.lines()))
            if {sample.label for sample in category.test} != {0, 1}:
                logger.warning("%s: no image AUROC without good and defective test pictures", category.name)
        return self._inspected[key]


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
    train, test, defective = _some_good(category, setting.pictures, rng), list(category.test), 0
    if setting.contaminated:
        train, test, defective = _contaminated(category, train, setting.contaminated, rng)
    category = replace(category, train=tuple(train), test=tuple(test))
    names = {sample.name for sample in train}
    copies = [inside for group in job.sanity.copies if len(inside := [n for n in group if n in names]) > 1]
    counts = {"train": {"good": len(train)}, "test": dict(Counter(sample.defect_type for sample in test))}
    digest = hashlib.sha256("\n".join([job.sanity.train_sha256, *(sample.name for sample in train)]).encode())
    changes = {"copies": copies, "counts": counts, "contaminated": defective}
    sanity = replace(job.sanity, train_sha256=digest.hexdigest(), **changes)
    return replace(job, category=category, sanity=sanity)


def _some_good(category: Category, count: int | None, rng: np.random.Generator) -> list[Sample]:
    """So many good training pictures, or all."""
    if count is not None and count > len(category.train):
        raise ValueError(f"{category.name} has {len(category.train)} good pictures, not {count}")
    return _some(category.train, len(category.train) if count is None else count, rng)


def _contaminated(
    category: Category, train: Sequence[Sample], share: float, rng: np.random.Generator
) -> tuple[list[Sample], list[Sample], int]:
    """Training pictures of which a share shows defects, the test pictures that are left, and how many were moved."""
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
    return [*kept, *map(_as_good, moved)], [sample for sample in category.test if sample.name not in names], count


def _some(samples: Sequence[Sample], count: int, rng: np.random.Generator) -> list[Sample]:
    return [samples[i] for i in sorted(rng.permutation(len(samples))[:count])]


def _as_good(sample: Sample) -> Sample:
    return replace(sample, defect_type="good", label=0, mask=None)


def _words(where: str, options: str) -> list[str]:
    """Words as a shell splits them, but a backslash is a character: paths of Windows have it."""
    lexer = shlex.shlex(options, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    try:
        return list(lexer)
    except ValueError as error:
        raise ValueError(f"{where}: the options {options!r} cannot be split ({error})") from error


def _expanded(text: str) -> str:
    """With environment variables. Raises ValueError for one that is not set."""
    expanded = os.path.expandvars(text)
    if (unset := re.search(r"\$\{?(\w+)", expanded)) and not Path(expanded).exists():
        raise ValueError(f"{text}: the environment variable {unset[1]} is not set")
    return expanded


def _config(where: str, arguments: list[str]) -> TrainConfig:
    """Of the options of a setting. Raises ValueError for what `training/train.py` refuses."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return TrainConfig.from_command_line(arguments)
    except SystemExit as error:
        raise ValueError(f"{where}: {said.getvalue().rstrip().partition('error: ')[2]}") from error


def _listed(values: Sequence) -> str:
    return ", ".join(map(str, values))


def _made(kind: type, values: dict[str, Any], where: str) -> Any:
    """A dataclass from plain values; raises ValueError for unknown or missing keys, or values of another type."""
    hints = get_type_hints(kind)
    if unknown := sorted(values.keys() - hints.keys()):
        raise ValueError(f"{where} has the unknown key {_listed(unknown)}; known are: {_listed(sorted(hints))}")
    for name, value in values.items():
        hint = get_args(hints[name])[0] if get_origin(hints[name]) is UnionType else hints[name]
        if not _fits(value, hint):
            raise ValueError(f"{where}: {name} must be {_in_words(hint)}, not {value!r}")
    required = [each.name for each in fields(kind) if each.default is each.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{where} has no {_listed(missing)}")
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a TOML file has a type; lists must not be empty."""
    if get_origin(hint) is list:
        return isinstance(value, list) and bool(value) and all(_fits(each, get_args(hint)[0]) for each in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(each, get_args(hint)[1]) for each in value.values())
    kinds = (int, float) if hint is float else hint
    return isinstance(value, kinds) and not isinstance(value, bool)


def _in_words(hint: Any) -> str:
    if get_origin(hint) is list:
        return f"a list of {TYPES[get_args(hint)[0]][1]} that is not empty"
    return "a table of texts" if get_origin(hint) is dict else TYPES[hint][0]
