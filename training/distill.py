"""Makes the weights of the compact backbone: a CompactNet learns to give the feature maps of ResNet-18 and ResNet-50.

    python -m training.distill --data DIR --output runs/distill
    cp runs/distill/*.safetensors hubmodels/weights/     # then `make bundle`, because heads need their own backbone

DIR is a folder of real pictures and weights, see `docs/data.md`.

The loss is that of EfficientAD's patch description network (Batzner et al., WACV 2024, section 3.1, arXiv 2303.14535):
squared error of the teacher's features, normalised per channel, so that every channel counts. Differences:

- The student starts from those blocks of the teacher that it has kept.
- It learns the teacher's maps themselves, not the normalised ones. So both backbones have the same geometry.
- ResNet-50 has other channels. The student follows it through one linear map for each layer, which is not saved, and
  only in every fourth step, because such a step takes twice the time.
- EfficientAD's hard-feature mining and its penalty on natural pictures are left out. They stop a student from
  imitating its teacher on anomalies. A backbone must describe anomalies like everything else.
"""

import argparse
import json
import logging
import math
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import v2
from tqdm import tqdm

from hubmodels.backbone import load_backbone, normalisation
from hubmodels.compactnet import COMPACT_BACKBONE, CompactNet
from hubmodels.folders import find_pictures
from hubmodels.pictures import read_picture

logger = logging.getLogger("training.distill")

SHARES = {"natural": 0.5, "textures": 0.3, "parts": 0.2}  # of the crops: what parts in general need, not these ones
LAYERS = (2, 3)
CROP, BATCH = 160, 16  # pixels, crops
STUDENT_LR, READER_LR = 3e-4, 1e-3  # peaks; the student starts from the teacher's blocks, the readers from noise
WARM_UP = 0.05  # share of the steps
SECOND_TEACHER_EVERY = 4  # steps
MOMENTS_BATCHES = 16  # from which the channels' means and deviations are taken
VALIDATION = 64  # pictures per kind, never trained on

augment = v2.Compose(
    [
        v2.RandomApply([v2.RandomRotation(30, v2.InterpolationMode.BILINEAR)], 0.3),
        v2.RandomResizedCrop(CROP, scale=(0.15, 1.0), ratio=(0.8, 1.25), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(0.2),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.05)], 0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.5))], 0.15),
    ]
)


class Teacher(nn.Module):
    """A frozen backbone whose features are compared channel by channel, each in units of its own deviation.

    Args:
        images: normalised images (B, 3, S, S) from which mean and deviation of each channel are taken.
    """

    def __init__(self, name: str, weights: Path, images: Tensor) -> None:
        super().__init__()
        self.backbone = load_backbone(name, LAYERS, weights=weights, device=images.device)
        with torch.no_grad():
            maps = [torch.cat(m) for m in zip(*(self.backbone(part) for part in images.split(BATCH)), strict=True)]
        self.moments = [(m.mean((0, 2, 3))[:, None, None], m.std((0, 2, 3))[:, None, None]) for m in maps]

    def error(self, maps: list[Tensor], images: Tensor) -> Tensor:
        """Share of the teacher's variance that `maps` miss, per layer: (L,), 0 = imitated, 1 = the mean alone."""
        with torch.no_grad():
            targets = self.backbone(images)
        pairs = zip(maps, targets, self.moments, strict=True)
        return torch.stack([((m - t) / std.clamp(min=1e-3)).square().mean() for m, t, (_, std) in pairs])


class Distillation(nn.Module):
    """Student, teachers, and the linear maps that read ResNet-50's channels from the student's; where `images` are."""

    def __init__(self, weights: Path, images: Tensor) -> None:
        super().__init__()
        self.device = images.device
        resnet18 = weights / "resnet18_tv_in1k_layer3.safetensors"
        resnet50 = weights / "resnet50_msra_in1k_layer3.safetensors"
        self.first = Teacher("resnet18.tv_in1k", resnet18, images)
        self.second = Teacher("resnet50.tv_in1k", resnet50, images)
        self.student = CompactNet(LAYERS).to(memory_format=torch.channels_last)
        copy_blocks(self.first.backbone.network, self.student)
        channels = zip(self.first.backbone.channels, self.second.backbone.channels, strict=True)
        self.readers = nn.ModuleList(nn.Conv2d(own, other, 1) for own, other in channels)
        self.to(self.device)

    def forward(self, images: Tensor, second: bool) -> Tensor:
        """Errors of layers 2 and 3 against ResNet-18, then, where asked for, against ResNet-50: (2,) or (4,)."""
        images = images.to(self.device, memory_format=torch.channels_last)
        maps = self.student(images)
        errors = self.first.error(maps, images)
        if not second:
            return errors
        readers = zip(self.readers, maps, self.second.moments, strict=True)
        read = [reader(m) * std + mean for reader, m, (mean, std) in readers]  # in ResNet-50's channels
        return torch.cat([errors, self.second.error(read, images)])

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over the student and the readers."""
        groups = [(self.student, STUDENT_LR), (self.readers, READER_LR)]
        return torch.optim.AdamW([{"params": m.parameters(), "lr": lr} for m, lr in groups], weight_decay=1e-4)


def copy_blocks(teacher: nn.Module, student: nn.Module) -> None:
    """A folded ResNet-18's stem and blocks into the student's of the same name."""
    source, target = teacher.state_dict(), student.state_dict()
    for name in target:
        target[name] = source[name.replace("stem.0", "conv1").replace("downsample", "downsample.0")]
    student.load_state_dict(target)


class Pictures:
    """Crops of three kinds of pictures, held in memory as (3, h, w) uint8 with a short side of 256 pixels."""

    def __init__(self, data: Path, seed: int) -> None:
        folders = {
            "natural": [data / "natural"],
            "textures": [data / "dtd"],
            "parts": sorted(data.glob("*/*/train/good")),
        }
        order = np.random.default_rng(seed)
        held = {kind: order.permutation(read_all(places)) for kind, places in folders.items()}
        validation = [picture for kind in held.values() for picture in kind[:VALIDATION]]
        self.validation = torch.stack([v2.functional.center_crop(picture, 256) for picture in validation])
        self.training = {kind: pictures[VALIDATION:] for kind, pictures in held.items()}

    def batch(self, step: int, seed: int) -> Tensor:
        """Augmented crops (B, 3, S, S) uint8, a function of the seed and the step."""
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(int(rng.integers(2**31)))
        kinds = rng.choice(list(SHARES), BATCH, p=list(SHARES.values()))
        chosen = [self.training[kind][rng.integers(len(self.training[kind]))] for kind in kinds]
        return torch.stack([augment(picture) for picture in chosen])


def read_all(folders: list[Path]) -> np.ndarray:
    """All pictures below the folders, an object array of (3, h, w) uint8 tensors."""
    paths = find_pictures(folders)
    if len(paths) <= VALIDATION:
        raise SystemExit(f"{len(paths)} pictures below {', '.join(map(str, folders))}: more than {VALIDATION} needed")
    pictures = np.empty(len(paths), dtype=object)
    for i, path in enumerate(tqdm(paths, desc="reading pictures", leave=False, disable=None)):
        pictures[i] = v2.functional.resize(v2.functional.pil_to_tensor(read_picture(path)), 256, antialias=True)
    return pictures


def normalise(images: Tensor) -> Tensor:
    """uint8 images (B, 3, S, S) -> float32, normalised as all three networks expect."""
    return v2.functional.normalize(images.float() / 255, *normalisation(COMPACT_BACKBONE))


def rate(step: int, steps: int) -> float:
    """Factor of the peak learning rate: linear warm-up, then half a cosine."""
    warm_up = max(1, int(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


@torch.no_grad()
def validate(model: Distillation, images: Tensor) -> dict[str, list[float]]:
    """Errors on pictures never trained on, per kind: layers 2, 3 of ResNet-18, then of ResNet-50."""
    kinds = dict(zip(SHARES, images.split(VALIDATION), strict=True))
    results = {}
    for kind, part in kinds.items():
        errors = torch.stack([model(normalise(chunk), second=True) for chunk in part.split(BATCH)]).mean(0)
        results[kind] = [round(e, 4) for e in errors.tolist()]
    return results


def save(model: Distillation, folder: Path) -> None:
    """The student alone, as fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().cpu().contiguous() for name, tensor in model.student.state_dict().items()}
    save_file(tensors, folder / f"{COMPACT_BACKBONE}.safetensors")


def train(model: Distillation, pictures: Pictures, steps: int, seed: int, folder: Path) -> list[dict]:
    """Runs all steps; returns the log. A loss that is not finite ends the run; the weights saved last remain."""
    optimizer, log, started = model.optimizer(), [], time.perf_counter()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(rate, steps=steps))
    for step in tqdm(range(steps), desc="distilling", disable=None):
        loss = model(normalise(pictures.batch(step, seed)), second=step % SECOND_TEACHER_EVERY == 0).sum()
        if not loss.isfinite():
            raise SystemExit(f"the loss of step {step} is {loss.item()}: the last saved weights are in {folder}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 500 == 0 or step + 1 == steps:
            seconds = round(time.perf_counter() - started)
            log.append({"step": step + 1, "seconds": seconds, **validate(model, pictures.validation)})
            logger.info("%s", json.dumps(log[-1]))
            save(model, folder)
    return log


def main(arguments: list[str] | None = None) -> None:
    """Reads the pictures, distils, and writes the weights and the log of the run."""
    parser = argparse.ArgumentParser(description="Distil the compact backbone from ResNet-18 and ResNet-50.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with data/ and weights/")
    parser.add_argument("--steps", type=int, default=3000, help=f"of {BATCH} crops of {CROP} px")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/distill"), help="folder for weights and log")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("timm").setLevel(logging.ERROR)  # it lists the layers that we cut off
    torch.manual_seed(args.seed)
    pictures = Pictures(args.data / "data", args.seed)
    sample = torch.cat([pictures.batch(i, args.seed + 1) for i in range(MOMENTS_BATCHES)])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Distillation(args.data / "weights", normalise(sample).to(device))
    log = train(model, pictures, args.steps, args.seed, args.output)
    (args.output / "distill.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
