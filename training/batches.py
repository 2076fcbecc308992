"""What a training step is fed with: cached features of the training pictures, and defects synthesised for them.

The frozen features are computed once for all epochs, and stored before upsampling: 5 MB a picture for wide_resnet50_2
at 288 px in float32. They are kept in memory if they fit, else in memory-mapped files, which are deleted with the job.
Plain float32 bytes, no pickle.

The pictures of each step, and their defects, are a function of (seed, epoch, picture). No random number comes from a
running stream. So a resumed run, another number of loader workers or another order of jobs gives the same batches.
"""

import copy
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from hubmodels.detector import AnomalyDetector
from hubmodels.front_end import align, to_image
from hubmodels.samples import Sample
from hubmodels.sizes import Size, as_pair
from training.progress import tqdm
from training.synthesis import TextureSource, synthesise

MEMORY_SHARE = 0.5  # of the available memory; the rest is for the data loader, the page cache and the user
PASS_PIXELS = 2**22  # of the images that are worked on together: 50 with 288 px
STEP_PATCHES = 4096  # of a picture in a step; those of a square of 512 px with a finest stride of 8
AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}

# --- cached features ---


class FeatureCache:
    """Aggregated feature maps of n pictures, one tensor (n, D/L, h, w) per layer, and the pictures as uint8.

    Attributes:
        images: (N, 3, H, W) uint8, the backbone's input, of the whole cache.
        in_memory: False if the features are in memory-mapped files.
        folds: the fold of each of the N pictures, if heads are fitted without some; else empty.
        numbers: (n,) of the pictures among the N.
        counting: (K,) numbers of the patches of a picture that count; None for all.
    """

    def __init__(
        self,
        images: Tensor,
        layers: list[Tensor],
        in_memory: bool,
        folds: Sequence[int] = (),
        counting: Tensor | None = None,
    ) -> None:
        self.images, self.layers, self.in_memory, self.folds = images, layers, in_memory, tuple(folds)
        self.numbers, self.counting = torch.arange(len(images)), counting

    def __len__(self) -> int:
        return len(self.numbers)

    def without(self, fold: int) -> "FeatureCache":
        """A cache without the pictures of a fold; nothing is copied."""
        part = copy.copy(self)
        part.numbers = (torch.tensor(self.folds) != fold).nonzero()[:, 0]
        return part

    @property
    def patches(self) -> int:
        """Patches of a picture that count."""
        return self.layers[0][0, 0].numel() if self.counting is None else len(self.counting)

    def features(self, indices: Tensor, device: torch.device, places: Tensor | None = None) -> Tensor:
        """Patch features (B, D, h, w) of the pictures chosen, on the device; with places as `align_at` has them.

        Where some patches do not count, the places are by default all others.
        """
        rows = self.numbers[indices]
        if places is None and self.counting is not None:
            places = self.counting.to(device).expand(len(rows), -1)
        return align_at([layer[rows].to(device, non_blocking=True) for layer in self.layers], places)

    def batches(self, batch_size: int, device: torch.device) -> Iterator[Tensor]:
        """All patch features once, in order, of at most `batch_size` pictures at a time."""
        for chunk in torch.arange(len(self)).split(together(self.images, batch_size)):
            yield self.features(chunk, device)

    def sample(self, count: int, project: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """At most `count` patch features (N, D), equally many of each picture at random places; on the CPU.

        Args:
            project: applied to the patch features (n, D) of some pictures at a time, before they are put together; the
                result has its width, and is where it puts it.
        """
        each = min(self.patches, -(-count // len(self)))
        rows = []
        for features in self.batches(16, torch.device("cpu")):
            places = torch.stack([torch.randperm(self.patches)[:each] for _ in features])
            patches = features.flatten(2).transpose(1, 2)
            chosen = patches.gather(1, places[..., None].expand(-1, -1, patches.shape[-1])).flatten(0, 1)
            rows.append(project(chosen) if project else chosen)
        return torch.cat(rows)

    def mean(self, device: torch.device) -> Tensor:
        """Mean patch feature per grid position, (D, h, w)."""
        layers = self.layers if len(self) == len(self.images) else [layer[self.numbers] for layer in self.layers]
        return align([layer.mean(0, keepdim=True).to(device) for layer in layers])[0]

    def rms(self) -> float:
        """Root mean square of the patch features over all pictures, positions and dimensions."""
        batches = self.batches(16, torch.device("cpu"))
        total = sum(len(features) * features.square().mean().item() for features in batches)
        return (total / len(self)) ** 0.5


def align_at(layers: list[Tensor], places: Tensor | None) -> Tensor:
    """Aggregated maps (B, D/L, h_l, w_l) -> patch features (B, D, h, w) on the first layer's grid.

    Args:
        places: (B, K) numbers of the patches wanted of each picture; the result is (B, D, K, 1) then, and no more than
            one picture's patches are made at a time.
    """
    if places is None:
        return align(layers)
    maps = (align(one)[0].flatten(1) for one in zip(*(layer.split(1) for layer in layers), strict=True))
    return torch.stack([each[:, chosen] for each, chosen in zip(maps, places, strict=True)])[..., None]


def together(images: Tensor, most: int) -> int:
    """How many of the images (n, 3, H, W) are worked on at a time: fewer large ones, so that memory stays bounded."""
    return max(1, min(most, PASS_PIXELS // images[0, 0].numel()))


def load_images(samples: list[Sample], image_size: Size, resize: Size) -> Tensor:
    """Pictures -> (n, 3, H, W) uint8 model inputs."""
    images = torch.empty(len(samples), 3, *as_pair(image_size), dtype=torch.uint8)
    for i, sample in enumerate(tqdm(samples, desc="reading pictures")):
        images[i] = (to_image(sample.read(), image_size, resize) * 255).round().to(torch.uint8)
    return images


def build_cache(
    detector: AnomalyDetector,
    images: Tensor,
    folder: Path,
    mixed_precision: str | None = None,
    folds: Sequence[int] = (),
) -> FeatureCache:
    """Runs the frozen front end over all pictures once; `folder` is for files if memory is too small."""
    layers, in_memory = None, True
    progress = tqdm(total=len(images), desc="frozen features", unit="picture")
    at_once = together(images, 16)
    for start in range(0, len(images), at_once):
        chunk = extract(detector, images[start : start + at_once], mixed_precision)
        if layers is None:
            in_memory = 4 * len(images) * sum(c[0].numel() for c in chunk) < memory_budget()
            layers = [
                _allocate(len(images), c.shape[1:], None if in_memory else folder, i) for i, c in enumerate(chunk)
            ]
        for layer, values in zip(layers, chunk, strict=True):
            layer[start : start + len(values)] = values.cpu()
        progress.update(len(chunk[0]))
    progress.close()
    region = detector.front_end.region
    return FeatureCache(images, layers, in_memory, folds, None if region is None else region.numbers.cpu())


def extract(detector: AnomalyDetector, images: Tensor, mixed_precision: str | None = None) -> list[Tensor]:
    """uint8 images (B, 3, H, W) -> aggregated feature maps in fp32; only the backbone runs in mixed precision.

    Large images go through the network few at a time, so that its memory does not grow with them.
    """
    device, dtype = detector.device, AUTOCAST.get(mixed_precision)
    passes = []
    with torch.no_grad():
        for some in images.split(together(images, len(images))):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                feature_maps = detector.front_end.feature_maps(some.to(device).float() / 255)
            passes.append(detector.front_end.patch_features(feature_maps))
    return [torch.cat(layer) for layer in zip(*passes, strict=True)] if len(passes) > 1 else passes[0]


def memory_budget() -> float:
    """Bytes that the features may take; every process on this computer has its own cache."""
    return MEMORY_SHARE * available_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def available_memory() -> int:
    """Bytes that can be taken without swapping."""
    return psutil.virtual_memory().available


def _allocate(n: int, shape: torch.Size, folder: Path | None, index: int) -> Tensor:
    if folder is None:
        return torch.empty(n, *shape)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"features{index}.bin"
    _reserve(path, 4 * n * shape.numel())
    return torch.from_file(str(path), shared=True, size=n * shape.numel(), dtype=torch.float32).view(n, *shape)


def _reserve(path: Path, size: int) -> None:
    """Takes the room on the disk at once: a mapped file that outgrows the disk would kill the process later.

    Raises:
        OSError: there is no room for so many bytes.
    """
    free = shutil.disk_usage(path.parent).free
    try:
        if size > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:  # macOS and Windows
                file.truncate(size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(
            f"the features need {size / 1e9:.2g} GB in {path.parent}, where {free / 1e9:.2g} GB are free "
            f"({error.strerror}): free some, give an --output on another disk, or use fewer or smaller pictures"
        ) from error


# --- batches ---


def seed_of(*parts: int) -> int:
    """One well-mixed seed from several small numbers (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@dataclass(frozen=True)
class BatchPlan(Sampler):
    """Batches of (epoch, picture index) for the epochs from `first_epoch` on; each epoch shuffles all pictures.

    With several processes each takes its own share of every step. The last step wraps around, so that none is idle.
    """

    pictures: int
    batch_size: int
    epochs: int
    seed: int
    first_epoch: int = 0
    rank: int = 0
    processes: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass."""
        return -(-self.pictures // (self.batch_size * self.processes))

    def __len__(self) -> int:
        return self.steps_per_epoch * (self.epochs - self.first_epoch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.first_epoch, self.epochs):
            for step in range(self.steps_per_epoch):
                yield [(epoch, index) for index in self.batch(epoch, step)]

    def batch(self, epoch: int, step: int) -> list[int]:
        """Picture indices of one step on this process."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.pictures)
        if self.processes > 1:
            order = np.resize(order, self.steps_per_epoch * self.processes * self.batch_size)
        share = order[step * self.batch_size * self.processes :][: self.batch_size * self.processes]
        return share[self.rank :: self.processes].tolist()


@dataclass(frozen=True)
class Synthesis:
    """The good pictures of one job, and what synthetic defects in them depend on.

    Attributes:
        images: (n, 3, H, W) uint8 model inputs.
        foregrounds: one (H, W) bool mask each, or None for the full picture.
        grid: (h, w) of the patches.
    """

    images: Tensor
    textures: TextureSource
    foregrounds: list[np.ndarray] | None
    grid: tuple[int, int]
    seed: int

    def pixels(self, index: int) -> np.ndarray:
        """A good picture, (S, S, 3) float32 in [0, 1]."""
        return self.images[index].permute(1, 2, 0).numpy().astype(np.float32) / 255

    def foreground(self, index: int) -> np.ndarray | None:
        """Where its part is, (S, S) bool; None for the full picture."""
        return self.foregrounds[index] if self.foregrounds else None


def as_image(pixels: np.ndarray) -> Tensor:
    """(S, S, 3) float32 in [0, 1] -> model input (3, S, S) uint8."""
    return torch.from_numpy(pixels).permute(2, 0, 1).mul(255).round().to(torch.uint8)


class LocalSynthesis(Synthesis):
    """Local anomaly synthesis for the pictures of one job."""

    def __call__(self, epoch: int, index: int) -> dict[str, Tensor]:
        """`augmented` (3, H, W) uint8 and `patch_label` (h, w) bool."""
        rng = np.random.default_rng([self.seed, epoch, index])
        augmented, label = synthesise(self.pixels(index), self.textures, self.grid, rng, self.foreground(index))
        return {"augmented": as_image(augmented), "patch_label": torch.from_numpy(label)}


class TrainingItems(Dataset):
    """Map from (epoch, picture index) to everything that a step needs besides the cached features.

    Of pictures with more than STEP_PATCHES patches each step takes so many, other ones in each epoch: `places`. They
    are also named where some patches do not count.

    Args:
        patches: of each picture, if all count; else the numbers (K,) of those that do.

    Attributes:
        chosen: patches of each picture that a step takes.
    """

    def __init__(
        self, synthesis: Callable[[int, int], dict[str, Tensor]] | None, patches: int | Tensor, seed: int
    ) -> None:
        self.synthesis, self.seed = synthesis, seed
        self.places = np.asarray(patches) if isinstance(patches, Tensor) else np.arange(patches)
        self.names_places = isinstance(patches, Tensor) or patches > STEP_PATCHES
        self.chosen = min(len(self.places), STEP_PATCHES)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        items = {"index": index} | (self.synthesis(epoch, index) if self.synthesis else {})
        if self.names_places:
            rng = np.random.default_rng([self.seed, epoch, index, 1])  # not the stream of the synthesis
            chosen = rng.permutation(len(self.places))[: self.chosen]
            items["places"] = torch.from_numpy(self.places[np.sort(chosen)])
        return items


def loader_workers(device: torch.device) -> int:
    """Processes that synthesise defects while a GPU works; on a CPU they would only take its cores."""
    if device.type == "cpu":
        return 0
    return max(1, min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def make_loader(items: TrainingItems, plan: BatchPlan, workers: int) -> DataLoader:
    """One loader for all epochs, so that workers and their texture caches live as long as the job."""
    generator = torch.Generator()  # its own: the loader must not draw from the stream that the noise comes from
    pinned = torch.cuda.is_available()
    return DataLoader(items, batch_sampler=plan, num_workers=workers, pin_memory=pinned, generator=generator)
