"""The settings of a run: one frozen dataclass for what all methods share, and one for each method's own options.

The command line is made from them. Defaults are the papers'.
"""

import argparse
import math
import types
import typing
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from hubmodels.compactnet import COMPACT_BACKBONE, COMPACT_IMAGE_SIZE
from hubmodels.methods import METHODS
from hubmodels.prediction import FALSE_ALARM_RATE, HELD_OUT
from hubmodels.sizes import Size, as_pair, as_plain
from training.input_shape import AUTO, SQUARE_MM, parse_area, parse_image_size
from training.objectives import OBJECTIVES, PAPER_BACKBONE, PAPER_IMAGE_SIZE, objective_of
from training.objectives.objective import option

FOLDS = 5  # as CV+ has mostly; each head sees 80 % of the pictures
CROP_SCALE = 329 / 288  # the papers' codes resize to 329 pixels and inspect the 288 in the centre

DESCRIPTION = """\
Trains anomaly detectors on pictures of good parts only, evaluates the last checkpoint on the test pictures,
and writes one folder per (method, category), laid out as its Hub repository.

  python training/train.py --data-root my_good_pictures --category widget
  python training/train.py --data-root mvtec_ad --categories bottle cable
  accelerate launch --multi_gpu --num_processes 2 training/train.py --data-root mvtec_ad --mixed-precision bf16
"""


def _methods_help() -> str:
    known = [name for name in OBJECTIVES if not METHODS[name].baseline]
    quick = [name for name in known if not OBJECTIVES[name].epochs]
    defaults = f"{', '.join(known)} on a GPU; on a CPU {', '.join(quick)}, which takes a minute or two"
    return f"methods to train (default: {defaults})"


def _epochs_help() -> str:
    defaults = [f"{name} {objective.epochs}" for name, objective in OBJECTIVES.items() if objective.epochs]
    return f"passes over the training pictures (default: {', '.join(defaults)})"


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a run; `--help` shows them in these groups.

    Attributes:
        own: each method's own options, an instance of its objective's `Settings`.
    """

    data_root: str = option(
        MISSING,
        "MVTec AD layout, a folder of good pictures, a Hub data set id (owner/name), or parts: for rendered sample "
        "parts",
        "data",
        metavar="DIR",
    )
    categories: list[str] | None = option(
        None, "categories to train (default: all found)", "data", metavar="NAME", aliases=("--category",)
    )
    dataset_name: str | None = option(None, "data set's name in the models' names (default: its folder)", "data")
    title: str | None = option(
        None, "what people call the category, if its folder has a short name (default: the folder's name)", "data"
    )
    normal_folder: str | None = option(
        None, "name of the folders of good parts (default: good, ok, normal and the like)", "data", metavar="NAME"
    )
    skip_bad: bool = option(False, "drop unreadable pictures instead of stopping", "data")
    hub_columns: list[str] | None = option(
        None,
        "columns of a Hub data set: image=NAME label=NAME mask=NAME category=NAME, splits train=NAME test=NAME, "
        "label of good parts normal=NAME",
        "data",
        metavar="ROLE=NAME",
    )
    revision: str | None = option(None, "pinned revision of a Hub data set", "data", metavar="SHA")

    methods: list[str] | None = option(None, _methods_help, "model", choices=lambda: list(METHODS))
    backbone: str | None = option(
        None,
        f"timm network with its weights tag (default: {PAPER_BACKBONE} on a GPU, the bundled {COMPACT_BACKBONE} on a "
        "CPU)",
        "model",
        metavar="NAME",
    )
    backbone_weights: str | None = option(
        None, "its weights as safetensors (default: bundled, local cache, Hub)", "model", metavar="FILE"
    )
    image_size: int | list[int] | str | None = option(
        None,
        "model input in pixels: the side of a square (512), height x width (640x256), or auto: as oblong as the "
        f"pictures (default: {PAPER_IMAGE_SIZE}, on the compact backbone {COMPACT_IMAGE_SIZE})",
        "model",
        metavar="SIZE",
        parse=parse_image_size,
    )
    budget_ms: float | None = option(
        None,
        "with --image-size auto: the largest input whose verdict takes at most so many milliseconds, measured on this "
        "machine before training (default: the area of the default square)",
        "model",
        metavar="MS",
    )
    crop: Literal["none", "papers"] = option(
        "none",
        "none: inspect the whole picture; papers: the centre crop 329 -> 288 where a method's official code has it",
        "model",
    )

    region: str | None = option(
        None,
        "picture of what counts: bright pixels do, dark ones are ignored in training and in use (default: the whole "
        "picture)",
        "model",
        metavar="FILE",
    )
    least_size: str | None = option(
        None,
        f"regions of fewer pixels of the training pictures do not count for the verdict: 40, or 2{SQUARE_MM} with "
        "--pixel-size (default: every size counts)",
        "model",
        metavar="AREA",
        parse=parse_area,
    )
    pixel_size: float | None = option(
        None, f"with --least-size in {SQUARE_MM}: side of a pixel on the part, millimetres", "model", metavar="MM"
    )
    hidden_dim: int | None = option(
        None,
        "units of the discriminator's hidden layer (default: two thirds of the features' width; the official run "
        "scripts have 1024)",
        "model",
        metavar="N",
    )

    epochs: int | None = option(None, _epochs_help, "training", metavar="N")
    batch_size: int = option(8, "pictures per step and process", "training", metavar="N")
    seed: int = option(0, "seed of all random numbers", "training", metavar="S")
    noise_std: float | None = option(
        None,
        f"standard deviation of the feature noise (default: the papers' 0.015 on {PAPER_BACKBONE}, on others "
        "relative to the features' RMS)",
        "training",
        metavar="STD",
    )
    stabilise: list[Literal["none", "statistics", "average", "decay"]] = option(
        ["statistics"],
        "stabilise the last checkpoint without test data: BatchNorm statistics recomputed over all training "
        "features, averaged weights, learning rate x0.4 at 80 and 90 %%",
        "training",
    )
    position_tolerance: list[float] | None = option(
        None,
        "also train on good pictures moved by up to SHIFT %% of their sides and turned by up to TURN degrees, and "
        "calibrate on such (default: as they are); takes four times as long",
        "training",
        metavar=("SHIFT", "TURN"),
    )
    folds: int | None = option(
        None,
        "calibrate the verdict with all good pictures: fit so many further heads, each without its part of them; 0 "
        "holds some out instead (default: 5 for methods without epochs, else 0)",
        "training",
        metavar="K",
    )
    holdout: float = option(
        HELD_OUT, "without folds: share of good pictures held out to calibrate the verdict", "training", metavar="P"
    )
    false_alarm_rate: float = option(
        FALSE_ALARM_RATE, "share of good parts that may be flagged", "training", metavar="P"
    )

    output: str = option("runs", "where the model folders go", "run", metavar="DIR")
    replace: bool = option(
        False, "train again where a model was made with other pictures or settings; it stays until then", "run"
    )
    parallel: Literal["auto", "jobs", "data"] = option(
        "auto",
        "several processes: each takes its own jobs, or all share each job's batches (auto: jobs if there are enough)",
        "run",
    )
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(
        None, "precision of the frozen backbone (default: the setting of `accelerate launch`, else no)", "run"
    )
    tracker: str | None = option(
        None, "also log to an accelerate tracker: tensorboard, wandb, mlflow, trackio ...", "run", metavar="NAME"
    )
    push_to_hub: str | None = option(
        None,
        "publish the finished models there on the Hub (more options: python -m training.publishing)",
        "run",
        metavar="NAMESPACE",
    )
    private: bool = option(False, "make new Hub repositories private", "run")
    own: dict[str, Any] = field(default_factory=dict)

    def own_settings(self, method: str) -> Any:
        """A method's own options."""
        return self.own.get(method) or objective_of(method).Settings()

    def epochs_of(self, method: str) -> int:
        """Passes over the training pictures for a method; 0 = fitted at once."""
        default = objective_of(method).epochs
        return self.epochs or default if default else 0

    def folds_of(self, method: str) -> int:
        """Folds that cross-fit the calibration of a method; 0 = pictures are held out."""
        if "folds" in objective_of(method).unused:
            return 0
        return FOLDS if self.folds is None else self.folds

    def resize_of(self, method: str, category: str) -> Size:
        """What pictures are resized to before the centre crop."""
        cropped = self.crop == "papers" and objective_of(method).crops(category)
        return as_plain([round(s * CROP_SCALE) for s in as_pair(self.image_size)]) if cropped else self.image_size

    @classmethod
    def from_command_line(cls, arguments: list[str] | None = None) -> Self:
        """Parses `sys.argv`, or the arguments given; exits with usage on a mistake."""
        parser = argparse.ArgumentParser(
            prog="train.py", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        add_options(parser, cls)
        for method, objective in OBJECTIVES.items():
            add_options(parser, objective.Settings, f"{METHODS[method].title} only")
        parsed = parser.parse_args(arguments)
        own = {name: o.Settings(**collect(o.Settings, parsed)) for name, o in OBJECTIVES.items()}
        return cls(**collect(cls, parsed), own=own)._checked(parser)

    def _checked(self, parser: argparse.ArgumentParser) -> Self:
        """Ends with a usage message for a value that cannot work, before any time is spent."""
        for name in ("epochs", "batch_size", "hidden_dim"):
            if (value := getattr(self, name)) is not None and value < 1:
                parser.error(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        if self.folds is not None and self.folds != 0 and self.folds < 2:
            parser.error(f"--folds must be 0, or at least 2, not {self.folds}")
        for name in ("holdout", "false_alarm_rate"):
            if not 0 < getattr(self, name) < 1:
                parser.error(f"--{name.replace('_', '-')} must be between 0 and 1, not {getattr(self, name)}")
        tolerance = self.position_tolerance or [0, 0]
        if len(tolerance) != 2 or not all(0 <= t <= most for t, most in zip(tolerance, (25, 45), strict=True)):
            parser.error("--position-tolerance takes a shift from 0 to 25 % and a turn from 0 to 45 degrees")
        if self.budget_ms is not None and self.image_size != AUTO:
            parser.error("--budget-ms chooses a size: it needs --image-size auto")
        if self.budget_ms is not None and not self.budget_ms > 0:
            parser.error(f"--budget-ms must be positive, not {self.budget_ms}")
        if (self.least_size or "").endswith(SQUARE_MM) != (self.pixel_size is not None):
            parser.error(f"--least-size in {SQUARE_MM} and --pixel-size need each other")
        if self.pixel_size is not None and not 0 < self.pixel_size < math.inf:
            parser.error(f"--pixel-size must be positive, not {self.pixel_size}")
        if self.seed < 0:
            parser.error(f"--seed must not be negative: {self.seed}")
        if "none" in self.stabilise and len(self.stabilise) > 1:
            parser.error(f"--stabilise none cannot be combined with {' '.join(self.stabilise)}")
        if self.noise_std is not None and self.noise_std <= 0:
            parser.error(f"--noise-std must be positive, not {self.noise_std}")
        for method in self.methods or ():
            try:
                objective_of(method)
            except ValueError as error:
                parser.error(f"--methods: {error}")
        return self


def add_options(parser: argparse.ArgumentParser, settings: type, heading: str = "") -> None:
    """Adds the options of a dataclass to the parser, under their groups or under the given heading."""
    groups, hints = {}, get_type_hints(settings)
    for each in fields(settings):
        if "help" not in each.metadata:
            continue
        name = heading or each.metadata["group"]
        group = groups.get(name) or groups.setdefault(name, parser.add_argument_group(name))
        flags = ["--" + each.name.replace("_", "-"), *each.metadata.get("aliases", ())]
        group.add_argument(*flags, **_argument(each, hints[each.name]))


def collect(settings: type, parsed: argparse.Namespace) -> dict[str, Any]:
    """The parsed values of a dataclass's options, by field name."""
    return {each.name: getattr(parsed, each.name) for each in fields(settings) if "help" in each.metadata}


def _argument(each, hint) -> dict:
    """Keyword arguments of `add_argument` for one field."""
    text = each.metadata["help"]
    help = text() if callable(text) else text  # some texts list the methods, which are known only at call time
    if hint is bool:
        return {"action": "store_true", "help": help}
    if each.default not in (MISSING, None) and "default" not in help:
        help += f" (default: {each.default})"
    default = each.default if each.default_factory is MISSING else each.default_factory()
    keywords = {"help": help} | ({"required": True} if default is MISSING else {"default": default})
    if get_origin(hint) in (types.UnionType, typing.Union):
        hint = get_args(hint)[0]  # the other is None
    if get_origin(hint) is list:
        keywords["nargs"], hint = "+", get_args(hint)[0]
    if get_origin(hint) is Literal:
        return keywords | {"choices": get_args(hint)}
    if choices := each.metadata.get("choices"):
        return keywords | {"choices": choices()}
    metavar, parse = each.metadata.get("metavar", each.name.upper()), each.metadata.get("parse", hint)
    return keywords | {"type": parse, "metavar": metavar}
