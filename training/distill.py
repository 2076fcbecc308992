"""Makes the weights of the compact backbone: a CompactNet learns to give the feature maps of ResNet-18.

    python -m training.free_pictures DIR                                   # once: the pictures
    python -m training.distill --pictures DIR --teacher FILE --output runs/distill
    cp runs/distill/*.safetensors hubmodels/weights/     # then `make bundle`, because heads need their own backbone

FILE has ResNet-18's weights (`resnet18.tv_in1k`). A run that was stopped goes on where it last saved.

The student starts as its teacher with fewer channels inside the blocks (`prune`), and without layer1's second block.
The loss is that of EfficientAD's patch description network (Batzner et al., WACV 2024, section 3.1, arXiv 2303.14535):
squared error of the teacher's features, in units of each channel's deviation. Differences:

- The student learns the teacher's maps themselves, not the normalised ones. So both backbones have the same geometry.
- The error of a picture counts in relation to how much its own features vary. So plain surfaces count, too.
- EfficientAD's hard-feature mining and its penalty on natural pictures are left out. They stop a student from
  imitating its teacher on anomalies. A backbone must describe anomalies like everything else.
"""

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from tqdm import tqdm

from hubmodels.backbone import load_backbone, normalisation
from hubmodels.compactnet import COMPACT_BACKBONE, Block, CompactNet
from training.parts.dataset import DEFECTS, render

logger = logging.getLogger("training.distill")

TEACHER, LAYERS = "resnet18.tv_in1k", (2, 3)
SHARES = {"photographs": 0.3, "objects": 0.25, "surfaces": 0.35, "parts": 0.1}  # of the crops
SIDE = 400  # of a square with as many pixels as a picture in memory has, at most
CROP, CHUNK = 128, 16  # pixels; pictures that a network sees at once where nothing is learned
PEAK_LR, WARM_UP = 1e-3, 0.05  # share of the steps
PLAIN = 0.25  # of a channel's variance: pictures that vary less count as if they varied that much more
MOMENTS_BATCHES = 8  # of crops, from which the channels' means and deviations are taken
VALIDATION = 32  # pictures of each kind, never trained on
SAVED_EVERY = 250  # steps
PARTS, PARTS_SEED = 40, 700_000  # pictures for each kind of part and of defect; seeds used nowhere else

augment = v2.Compose(
    [
        v2.RandomApply([v2.RandomRotation(30, v2.InterpolationMode.BILINEAR)], 0.25),
        v2.RandomResizedCrop(CROP, scale=(0.08, 1.0), ratio=(0.75, 1.33), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, (0.2, 1.4), 0.4, 0.05)], 0.7),
        v2.RandomApply([v2.ColorJitter(hue=0.5)], 0.15),
        v2.RandomGrayscale(0.25),
        v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.5))], 0.15),
    ]
)


class Teacher(nn.Module):
    """A frozen backbone whose features are compared channel by channel, each in units of its own deviation.

    Args:
        images: normalised images (B, 3, S, S) from which mean and deviation of each channel are taken.
    """

    def __init__(self, weights: Path, images: Tensor) -> None:
        super().__init__()
        self.backbone = load_backbone(TEACHER, LAYERS, weights=weights, device=images.device)
        with torch.no_grad():
            maps = [torch.cat(m) for m in zip(*(self.backbone(part) for part in images.split(CHUNK)), strict=True)]
        self.moments = [(m.mean((0, 2, 3))[:, None, None], m.std((0, 2, 3))[:, None, None]) for m in maps]

    def forward(self, maps: list[Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """For each layer and picture, both (L, B), averaged over the channels, in units of the channels' variance.

        Returns:
            The squared error of `maps`, and the variance of the teacher's own features within the picture.
        """
        with torch.no_grad():
            targets = [t.contiguous() for t in self.backbone(images)]
        units = [std.clamp(min=1e-3) for _, std in self.moments]
        errors = [((m - t) / unit).square().mean((1, 2, 3)) for m, t, unit in zip(maps, targets, units, strict=True)]
        variances = [(t / unit).var((2, 3)).mean(1) for t, unit in zip(targets, units, strict=True)]
        return torch.stack(errors), torch.stack(variances)


@torch.no_grad()
def prune(teacher: nn.Module, student: CompactNet, images: Tensor) -> None:
    """Makes the student the teacher without some inner channels of its blocks, and without blocks that it lacks.

    The channels stay that contribute most to a block's output on `images` (variance times the squared weights that
    read them). What the others give on average goes into the bias.
    """
    tensors = teacher.state_dict()
    student["stem"][0].load_state_dict({name: tensors[f"conv1.{name}"] for name in ("weight", "bias")})
    features = student["stem"](images)
    for layer in ("layer1", "layer2", "layer3"):
        for number in range(2):
            source = {n.removeprefix(f"{layer}.{number}."): t for n, t in tensors.items() if f"{layer}.{number}." in n}
            block = full_block(source)
            if number < len(student[layer]):
                _prune_block(block, student[layer][number], features)
            features = block(features)


def full_block(tensors: dict[str, Tensor]) -> Block:
    """A block of a ResNet-18 without BatchNorm, from its tensors."""
    width, channels = tensors["conv1.weight"].shape[:2]
    block = Block(channels, width, width, 2 if width > channels else 1)
    block.load_state_dict({name.replace("downsample.0", "downsample"): tensor for name, tensor in tensors.items()})
    return block.eval().to(tensors["conv1.weight"].device)


def _prune_block(block: Block, smaller: Block, features: Tensor) -> None:
    inner = block.conv1(features).relu()
    contribution = inner.var((0, 2, 3)) * block.conv2.weight.square().sum((0, 2, 3))
    order = contribution.argsort(descending=True)
    kept, others = order.tensor_split([smaller.conv1.out_channels])
    smaller.conv1.load_state_dict({"weight": block.conv1.weight[kept], "bias": block.conv1.bias[kept]})
    lost = block.conv2.weight[:, others].sum((2, 3)) @ inner.mean((0, 2, 3))[others]
    smaller.conv2.load_state_dict({"weight": block.conv2.weight[:, kept], "bias": block.conv2.bias + lost})
    smaller.downsample.load_state_dict(block.downsample.state_dict())


class Crops(Dataset):
    """Batches of augmented crops (B, 3, S, S) uint8 of all kinds of pictures; seed and step decide about a batch."""

    def __init__(self, folder: Path, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        held = {kind: read_all(folder / kind) for kind in SHARES if kind != "parts"} | {"parts": render_parts()}
        order = np.random.default_rng(0)  # the same for all seeds: a student of --start never saw the validation
        held = {kind: order.permutation(pictures) for kind, pictures in held.items()}
        validation = [picture for kind in held.values() for picture in kind[:VALIDATION]]
        self.validation = torch.stack([v2.functional.center_crop(picture, 256) for picture in validation])
        self.training = {kind: pictures[VALIDATION:] for kind, pictures in held.items()}

    def __getitem__(self, step: int) -> Tensor:
        rng = np.random.default_rng([self.seed, step])
        torch.manual_seed(int(rng.integers(2**31)))
        kinds = rng.choice(list(SHARES), self.size, p=list(SHARES.values()))
        chosen = [self.training[kind][rng.integers(len(self.training[kind]))] for kind in kinds]
        return torch.stack([augment(picture) for picture in chosen])


def read_all(folder: Path) -> np.ndarray:
    """All pictures below the folder, an object array of (3, h, w) uint8 tensors."""
    paths = sorted(folder.rglob("*.jpg"))
    if len(paths) <= VALIDATION:
        raise SystemExit(
            f"{folder} has {len(paths)} pictures, not more than {VALIDATION}: run python -m training.free_pictures DIR"
        )
    with ThreadPoolExecutor() as pool:
        read = tqdm(pool.map(_read, paths), folder.name, len(paths), leave=False, disable=None)
        return as_objects(list(read))


def _read(path: Path) -> Tensor:
    with Image.open(path) as picture:
        scale = SIDE / math.sqrt(picture.width * picture.height)
        size = [max(1, round(side * min(1.0, scale))) for side in picture.size]
        return v2.functional.pil_to_tensor(picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))


def render_parts() -> np.ndarray:
    """The sample parts, good and with each defect, of seeds that are used nowhere else."""
    kinds = [(category, defect) for category, defects in DEFECTS.items() for defect in (None, *defects)]
    seeds = range(PARTS_SEED, PARTS_SEED + PARTS)
    wanted = [(category, seed, defect) for category, defect in kinds for seed in seeds]
    rendered = (render(*each)[0] for each in tqdm(wanted, "parts", leave=False, disable=None))
    return as_objects([torch.from_numpy(picture).permute(2, 0, 1) for picture in rendered])


def as_objects(pictures: Sequence[Tensor]) -> np.ndarray:
    """Tensors of different shapes as an array that numpy can shuffle."""
    array = np.empty(len(pictures), dtype=object)
    for i, picture in enumerate(pictures):  # at once, numpy would look into them
        array[i] = picture
    return array


def normalise(images: Tensor) -> Tensor:
    """uint8 images (B, 3, S, S) -> float32, normalised as both networks expect, in the memory order CPUs like."""
    images = v2.functional.normalize(images.float() / 255, *normalisation(COMPACT_BACKBONE))
    return images.contiguous(memory_format=torch.channels_last)


def rate(step: int, steps: int) -> float:
    """Factor of the peak learning rate: linear warm-up, then half a cosine."""
    warm_up = max(1, int(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


@torch.no_grad()
def validate(student: CompactNet, teacher: Teacher, images: Tensor) -> dict[str, list[float]]:
    """Share of the teacher's variance that the student misses in layers 2 and 3, for each kind of picture.

    0 is imitated, 1 is as good as the mean. The pictures were never trained on.
    """
    results = {}
    for kind, part in zip(SHARES, images.split(VALIDATION), strict=True):
        pairs = [teacher(student(chunk), chunk) for chunk in map(normalise, part.split(CHUNK))]
        errors, variances = (torch.cat(values, 1).mean(1) for values in zip(*pairs, strict=True))
        results[kind] = [round(share, 4) for share in (errors / variances).tolist()]
    return results


class Run:
    """A distillation that can be stopped and continued: student, optimizer, schedule, log, in one folder."""

    def __init__(self, student: CompactNet, steps: int, crops: Crops, folder: Path) -> None:
        self.student, self.steps, self.crops, self.folder = student, steps, crops, folder
        self.settings = [steps, crops.size, crops.seed]
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=PEAK_LR, weight_decay=1e-4)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, partial(rate, steps=steps))
        self.step, self.seconds, self.log = 0, 0.0, []
        self.folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.pt").is_file():
            self._resume(torch.load(folder / "state.pt", weights_only=True))

    def _resume(self, state: dict) -> None:
        if (found := state["settings"]) != self.settings:
            steps, size, seed = found
            raise SystemExit(
                f"{self.folder} has a run of {steps} steps of {size} crops with seed {seed}: choose another folder"
            )
        for name in ("student", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
        logger.info("goes on after step %d", self.step)

    def save(self) -> None:
        """The state, the log, and the student alone as fp16."""
        parts = {name: getattr(self, name).state_dict() for name in ("student", "optimizer", "schedule")}
        rest = {name: getattr(self, name) for name in ("step", "seconds", "log")}
        torch.save({"settings": self.settings, **parts, **rest}, self.folder / "state.partial")
        (self.folder / "state.partial").replace(self.folder / "state.pt")
        tensors = {name: tensor.half().cpu().contiguous() for name, tensor in self.student.state_dict().items()}
        save_file(tensors, self.folder / f"{COMPACT_BACKBONE}.safetensors")
        (self.folder / "distill.json").write_text(json.dumps(self.log, indent=1) + "\n", encoding="utf-8")

    def batches(self, steps: range, device: torch.device) -> DataLoader:
        """The batches of these steps, made ahead by other processes while a GPU learns; a CPU has no core to spare."""
        workers = max(1, (os.cpu_count() or 1) - 1) if device.type == "cuda" else 0
        fork = get_context("fork") if workers else None  # the pictures in memory are shared
        return DataLoader(self.crops, None, sampler=steps, num_workers=workers, multiprocessing_context=fork)

    def train(self, teacher: Teacher) -> None:
        """All steps that are left. A loss that is not finite ends the run; what was saved last remains."""
        device, started = next(self.student.parameters()).device, time.perf_counter() - self.seconds
        steps = range(self.step, self.steps)
        batches = tqdm(self.batches(steps, device), "distilling", self.steps, initial=self.step, disable=None)
        for step, batch in zip(steps, batches, strict=True):
            images = normalise(batch.to(device))
            errors, variances = teacher(self.student(images), images)
            loss = (errors / (variances + PLAIN)).mean(1).sum()
            if not loss.isfinite():
                raise SystemExit(
                    f"the loss of step {step} is {loss.item()}: the last saved weights are in {self.folder}"
                )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            self.step, self.seconds = step + 1, time.perf_counter() - started
            if self.step % SAVED_EVERY == 0 or self.step == self.steps:
                missed = validate(self.student, teacher, self.crops.validation.to(device))
                self.log.append({"step": self.step, "seconds": round(self.seconds), **missed})
                logger.info("%s", json.dumps(self.log[-1]))
                self.save()


def main(arguments: list[str] | None = None) -> None:
    """Reads the pictures, distils, and writes the weights and the log of the run."""
    parser = argparse.ArgumentParser(description="Distil the compact backbone from ResNet-18.")
    parser.add_argument(
        "--pictures", type=Path, required=True, metavar="DIR", help="as training.free_pictures made it"
    )
    parser.add_argument("--teacher", type=Path, required=True, metavar="FILE", help=f"weights of {TEACHER}")
    parser.add_argument("--steps", type=int, default=5500, help="of --batch crops each")
    parser.add_argument("--batch", type=int, default=64, help=f"crops of {CROP} px in a step")
    parser.add_argument("--start", type=Path, metavar="FILE", help="begin with these weights of the student")
    parser.add_argument("--seed", type=int, default=0, help="of the crops")
    parser.add_argument("--output", type=Path, default=Path("runs/distill"), help="folder for weights, state and log")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("timm").setLevel(logging.ERROR)  # it lists the layers that we cut off
    device = "cuda" if torch.cuda.is_available() else "cpu"
    crops = Crops(args.pictures, args.batch, args.seed)
    sample = normalise(torch.cat([crops[args.steps + i] for i in range(MOMENTS_BATCHES)]).to(device))
    teacher, student = Teacher(args.teacher, sample), CompactNet(LAYERS).to(device, memory_format=torch.channels_last)
    if args.start:
        student.load_state_dict(load_file(args.start))
    else:
        prune(teacher.backbone.network, student, sample)
    Run(student, args.steps, crops, args.output).train(teacher)


if __name__ == "__main__":
    main()
