"""The settings of a run: one frozen dataclass; the command line is made from it. Defaults are the papers'."""

import argparse
import types
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Literal, Self, get_args, get_origin, get_type_hints

from hubmodels.compactnet import COMPACT_BACKBONE, COMPACT_IMAGE_SIZE

EPOCHS = {"simplenet": 160, "glass": 640}  # SimpleNet: 40 meta-epochs of 4; GLASS: 640 (the codes' run scripts)
PAPER_BACKBONE, PAPER_IMAGE_SIZE = "wide_resnet50_2.tv_in1k", 288

DESCRIPTION = """\
Trains SimpleNet and GLASS on pictures of good parts only, evaluates the last checkpoint on the test pictures,
and writes one folder per (method, category), laid out as its Hub repository.

  accelerate launch training/train.py --data-root my_good_pictures --category widget
  accelerate launch training/train.py --data-root mvtec_ad --categories bottle cable --methods simplenet glass
  accelerate launch --multi_gpu --num_processes 2 training/train.py --data-root mvtec_ad --mixed-precision bf16
"""


def _option(default, help: str, group: str, **extra):
    metadata = {"help": help, "group": group, **extra}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """Every knob of a run; `--help` shows them in these groups."""

    data_root: str = _option(
        MISSING,
        "MVTec AD layout, a folder of good pictures, a Hub data set id (owner/name), or parts: for drawn sample parts",
        "data",
        metavar="DIR",
    )
    categories: list[str] | None = _option(
        None, "categories to train (default: all found)", "data", metavar="NAME", aliases=("--category",)
    )
    dataset_name: str | None = _option(None, "data set's name in the models' names (default: its folder)", "data")
    skip_bad: bool = _option(False, "drop unreadable pictures instead of stopping", "data")
    hub_columns: list[str] | None = _option(
        None,
        "columns of a Hub data set: image=NAME label=NAME mask=NAME category=NAME, splits train=NAME test=NAME",
        "data",
        metavar="ROLE=NAME",
    )
    revision: str | None = _option(None, "pinned revision of a Hub data set", "data", metavar="SHA")

    methods: list[Literal["simplenet", "glass"]] | None = _option(
        None,
        "methods to train (default: both on a GPU, simplenet on a CPU, where glass takes many times as long)",
        "model",
    )
    backbone: str | None = _option(
        None,
        f"timm network with its weights tag (default: {PAPER_BACKBONE} on a GPU, the bundled {COMPACT_BACKBONE} on a "
        "CPU)",
        "model",
        metavar="NAME",
    )
    backbone_weights: str | None = _option(
        None, "its weights as safetensors (default: bundled, local cache, Hub)", "model", metavar="FILE"
    )
    image_size: int | None = _option(
        None,
        f"side of the square model input, pixels (default: {PAPER_IMAGE_SIZE}, on the compact backbone "
        f"{COMPACT_IMAGE_SIZE})",
        "model",
        metavar="PX",
    )
    crop: Literal["none", "papers"] = _option(
        "none",
        "none: the whole picture is inspected; papers: the codes' centre crop 329 -> 288 (SimpleNet: all categories, "
        "GLASS: toothbrush and wood)",
        "model",
    )

    epochs: int | None = _option(
        None, "passes over the training pictures (default: simplenet 160, glass 640)", "training", metavar="N"
    )
    batch_size: int = _option(8, "pictures per step and process", "training", metavar="N")
    seed: int = _option(0, "seed of everything random", "training", metavar="S")
    noise_std: float | None = _option(
        None,
        f"standard deviation of the feature noise (default: the papers' 0.015 on {PAPER_BACKBONE}, on others "
        "relative to the features' RMS)",
        "training",
        metavar="STD",
    )
    stabilise: list[Literal["none", "statistics", "average", "decay"]] = _option(
        ["statistics"],
        "what steadies the last checkpoint without test data: BatchNorm statistics recomputed over all training "
        "features, averaged weights, learning rate x0.4 at 80 and 90 %%",
        "training",
    )
    hypothesis: Literal["table", "auto", "manifold", "hypersphere"] = _option(
        "table", "GLASS: the paper's table where it has the category, else decided from the mean picture", "training"
    )
    foreground: Literal["auto", "none"] = _option("auto", "GLASS: keep synthesised defects on the part", "training")
    textures: str | None = _option(
        None, "GLASS: folder of textures such as DTD (default: procedural)", "training", metavar="DIR"
    )
    holdout: float = _option(0.1, "share of good pictures held out to calibrate the verdict", "training", metavar="P")
    false_alarm_rate: float = _option(0.01, "share of good parts that may be flagged", "training", metavar="P")

    output: str = _option("runs", "where the model folders go", "run", metavar="DIR")
    parallel: Literal["auto", "jobs", "data"] = _option(
        "auto",
        "several processes: each takes its own jobs, or all share each job's batches (auto: jobs where they suffice)",
        "run",
    )
    mixed_precision: Literal["no", "fp16", "bf16"] | None = _option(
        None, "precision of the frozen backbone (default: what `accelerate launch` was told, else no)", "run"
    )
    tracker: str | None = _option(
        None, "also log to an accelerate tracker: tensorboard, wandb, mlflow, trackio ...", "run", metavar="NAME"
    )
    push_to_hub: str | None = _option(
        None, "publish the finished models there on the Hub (more options: publish.py)", "run", metavar="NAMESPACE"
    )
    private: bool = _option(False, "make new Hub repositories private", "run")

    def epochs_of(self, method: str) -> int:
        """Passes over the training pictures for a method."""
        return self.epochs or EPOCHS[method]

    def resize_of(self, method: str, category: str) -> int:
        """Side that pictures are resized to before the centre crop, pixels."""
        cropped = method == "simplenet" or category in ("toothbrush", "wood")
        return round(self.image_size * 329 / 288) if self.crop == "papers" and cropped else self.image_size

    def as_dict(self) -> dict:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_command_line(cls, arguments: list[str] | None = None) -> Self:
        """Parses `sys.argv`, or the arguments given; exits with usage on a mistake."""
        parser = argparse.ArgumentParser(
            prog="train.py", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        groups, hints = {}, get_type_hints(cls)
        for option in fields(cls):
            name = option.metadata["group"]
            group = groups.get(name) or groups.setdefault(name, parser.add_argument_group(name))
            flags = ["--" + option.name.replace("_", "-"), *option.metadata.get("aliases", ())]
            group.add_argument(*flags, **_argument(option, hints[option.name]))
        return cls(**vars(parser.parse_args(arguments)))._checked(parser)

    def _checked(self, parser: argparse.ArgumentParser) -> Self:
        """Ends with a usage message where a value cannot work, before any hour is spent."""
        for name in ("epochs", "batch_size", "image_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                parser.error(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        for name in ("holdout", "false_alarm_rate"):
            if not 0 < getattr(self, name) < 1:
                parser.error(f"--{name.replace('_', '-')} must lie between 0 and 1, not {getattr(self, name)}")
        if self.seed < 0:
            parser.error(f"--seed must not be negative: {self.seed}")
        if "none" in self.stabilise and len(self.stabilise) > 1:
            parser.error(f"--stabilise none stands alone, not with {' '.join(self.stabilise)}")
        if self.noise_std is not None and self.noise_std <= 0:
            parser.error(f"--noise-std must be positive, not {self.noise_std}")
        return self


def _argument(option, hint) -> dict:
    """Keyword arguments of `add_argument` for one field."""
    if hint is bool:
        return {"action": "store_true", "help": option.metadata["help"]}
    kind = _without_none(hint)
    many = get_origin(kind) is list
    element = get_args(kind)[0] if many else kind
    keywords = {"help": option.metadata["help"], "nargs": "+"} if many else {"help": option.metadata["help"]}
    if get_origin(element) is Literal:
        keywords["choices"] = get_args(element)
    else:
        keywords |= {"type": element, "metavar": option.metadata.get("metavar", option.name.upper())}
    return keywords | _default_of(option)


def _default_of(option) -> dict:
    if option.default_factory is not MISSING:
        return {"default": option.default_factory()}
    return {"required": True} if option.default is MISSING else {"default": option.default}


def _without_none(hint):
    if get_origin(hint) in (types.UnionType, typing.Union):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint
