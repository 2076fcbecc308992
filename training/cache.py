"""Frozen features of un-augmented pictures, computed once: all that SimpleNet trains on, GLASS's normal branch.

Stored before upsampling (5 MB a picture for wide_resnet50_2 at 288 px in fp32), in memory where they fit and in
memory-mapped files where not. Plain float32 bytes, no pickle; the files live as long as the job.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from torch import Tensor
from tqdm import tqdm

from hubmodels.detector import AnomalyDetector
from hubmodels.front_end import align, to_image
from hubmodels.samples import Sample

MEMORY_SHARE = 0.5  # of the memory available; the rest is for the data loader, the page cache and the user
AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


class FeatureCache:
    """Aggregated feature maps of n pictures, one tensor (n, D/L, h, w) per layer, and the pictures as uint8.

    Attributes:
        images: (n, 3, S, S) uint8, what the backbone saw.
        in_memory: False where the features lie in memory-mapped files.
    """

    def __init__(self, images: Tensor, layers: list[Tensor], in_memory: bool) -> None:
        self.images, self.layers, self.in_memory = images, layers, in_memory

    def __len__(self) -> int:
        return len(self.images)

    def features(self, indices: Tensor, device: torch.device) -> Tensor:
        """Patch features (B, D, h, w) of the pictures chosen, on the device."""
        return align([layer[indices].to(device, non_blocking=True) for layer in self.layers])

    def batches(self, batch_size: int, device: torch.device) -> Iterator[Tensor]:
        """All patch features once, in order."""
        for chunk in torch.arange(len(self)).split(batch_size):
            yield self.features(chunk, device)

    def mean(self, device: torch.device) -> Tensor:
        """Mean patch feature per grid position, (D, h, w)."""
        return align([layer.mean(0, keepdim=True).to(device) for layer in self.layers])[0]

    def rms(self) -> float:
        """Root mean square of the patch features over all pictures, positions and dimensions."""
        squares = [features.square().mean().item() for features in self.batches(16, torch.device("cpu"))]
        sizes = [len(chunk) for chunk in torch.arange(len(self)).split(16)]
        return (sum(s * n for s, n in zip(squares, sizes, strict=True)) / len(self)) ** 0.5


def load_images(samples: list[Sample], image_size: int, resize: int) -> Tensor:
    """Pictures -> (n, 3, S, S) uint8 model inputs."""
    images = torch.empty(len(samples), 3, image_size, image_size, dtype=torch.uint8)
    for i, sample in enumerate(tqdm(samples, desc="reading pictures", leave=False, disable=None)):
        images[i] = (to_image(sample.read(), image_size, resize) * 255).round().to(torch.uint8)
    return images


def build_cache(
    detector: AnomalyDetector, images: Tensor, folder: Path, mixed_precision: str | None = None
) -> FeatureCache:
    """Runs the frozen front end over all pictures once; `folder` takes the files that memory cannot."""
    layers, in_memory = None, True
    progress = tqdm(total=len(images), desc="frozen features", unit="picture", leave=False, disable=None)
    for start in range(0, len(images), 16):
        chunk = extract(detector, images[start : start + 16], mixed_precision)
        if layers is None:
            in_memory = 4 * len(images) * sum(c[0].numel() for c in chunk) < memory_budget()
            layers = [
                _allocate(len(images), c.shape[1:], None if in_memory else folder, i) for i, c in enumerate(chunk)
            ]
        for layer, values in zip(layers, chunk, strict=True):
            layer[start : start + len(values)] = values.cpu()
        progress.update(len(chunk[0]))
    progress.close()
    return FeatureCache(images, layers, in_memory)


def extract(detector: AnomalyDetector, images: Tensor, mixed_precision: str | None = None) -> list[Tensor]:
    """uint8 images (B, 3, S, S) -> aggregated feature maps in fp32; only the backbone runs in mixed precision."""
    device, dtype = detector.device, AUTOCAST.get(mixed_precision)
    with torch.no_grad():
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            feature_maps = detector.front_end.feature_maps(images.to(device).float() / 255)
        return detector.front_end.patch_features(feature_maps)


def memory_budget() -> float:
    """Bytes that the features may take; every process on this machine holds its own."""
    return MEMORY_SHARE * available_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def available_memory() -> int:
    """Bytes that can be taken without swapping."""
    return psutil.virtual_memory().available


def _allocate(n: int, shape: torch.Size, folder: Path | None, index: int) -> Tensor:
    if folder is None:
        return torch.empty(n, *shape)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"features{index}.bin"
    return torch.from_file(str(path), shared=True, size=n * shape.numel(), dtype=torch.float32).view(n, *shape)
