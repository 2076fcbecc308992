"""What an ONNX file computes, as one torch module: pictures of any size -> image scores, anomaly maps, p-values.

Neither ONNX nor torch has Pillow's resizing, which rounds to whole grey levels after each of its two passes. Here it
is a matrix product that gives the very same levels. The matrix is a narrow band, so it is applied in blocks: 32
outputs use one window of inputs.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubmodels.detector import AnomalyDetector
from hubmodels.scoring import smooth_map
from hubmodels.sizes import crop_margins, crop_start

BLOCK = 32  # with fewer the windows overlap more, with more they contain more zeros
HALF = 2**11  # Pillow's weights are whole multiples of 1 / HALF**2
WHITE = 255


class ExportGraph(nn.Module):
    """Detectors with one front end, from the pixels of pictures to everything that a prediction needs.

    Args:
        detectors: in eval mode, calibrated, with equal front ends.
        resizes: whether it takes pictures of any size; else those of the model input, and the maps have that size.
    """

    def __init__(self, detectors: Sequence[AnomalyDetector], resizes: bool = True) -> None:
        super().__init__()
        self.resizes = resizes
        first = detectors[0].front_end
        self.image_size, self.resize = first.image_size, first.resize
        self.start, self.margins = (place(self.resize, self.image_size) for place in (crop_start, crop_margins))
        self.backbone, self.patch_features, self.region = first.backbone, first.patch_features, first.region
        self.heads = nn.ModuleList(_Head(detector) for detector in detectors)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(first, name), dtype=torch.float32, device=first.device)
            self.register_buffer(name, values[:, None, None])

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Pictures (B, H, W, 3) uint8 RGB -> per detector image scores (B,), anomaly maps (B, H, W), p-values (B,)."""
        images = self.prepare(pictures)
        images = images if self.region is None else self.region.cover(images)
        feature_maps = self.backbone((images - self.mean) / self.std)
        aggregated, outputs = self.patch_features([maps.float() for maps in feature_maps]), []
        for head in self.heads:
            patch_scores = head(aggregated)
            region = self.region
            image_scores = head.image_scores(patch_scores if region is None else region.counting(patch_scores))
            anomaly_maps = smooth_map(patch_scores, self.image_size) if region is None else region.smooth(patch_scores)
            if self.resizes:
                anomaly_maps = self.at_picture_size(anomaly_maps, pictures)
            outputs += [image_scores, anomaly_maps, head.p_values(image_scores)]
        return tuple(outputs)

    def prepare(self, pictures: Tensor) -> Tensor:
        """Pictures (B, H, W, 3) uint8 -> images (B, 3, *image_size) in [0, 1], equal to those of `to_image`."""
        if not self.resizes:
            return pictures.permute(0, 3, 1, 2) / WHITE
        rows, columns = zip(self.resize, self.start, self.image_size, strict=True)
        narrow = _resize_levels(pictures.permute(2, 0, 1, 3), *columns)
        levels = _resize_levels(narrow.permute(2, 1, 3, 0), *rows)
        return levels.permute(1, 2, 0, 3) / WHITE

    def at_picture_size(self, maps: Tensor, pictures: Tensor) -> Tensor:
        """Maps (B, *image_size) -> (B, H, W), the size of the pictures (B, H, W, 3), as `to_picture_size` does."""
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        above = F.pad(maps - low, self.margins)
        rows = _resize(above.permute(1, 0, 2), pictures.shape[1])
        columns = _resize(rows.permute(2, 1, 0), pictures.shape[2])
        return (columns.permute(1, 2, 0) + low).clamp(low, high)


class _Head(nn.Module):
    """What one detector adds to the shared features: its head, and the held-out scores of its calibration."""

    def __init__(self, detector: AnomalyDetector) -> None:
        super().__init__()
        self.scores, self.image_scores = detector.head.export_form(), detector.head.image_scores
        self.register_buffer("held_out", detector.calibration.image_scores.clone())
        self.size = detector.calibration.size

    def forward(self, aggregated: list[Tensor]) -> Tensor:
        """As `Head.scores`."""
        return self.scores(aggregated)

    def p_values(self, image_scores: Tensor) -> Tensor:
        """As `Conformal.p_value`, for (B,) scores."""
        unusual = (self.held_out >= image_scores[:, None]).sum(1)
        return ((1 + unusual).float() / (1 + self.size)).clamp(max=1)


def _resize_levels(levels: Tensor, size: int, start: int, count: int) -> Tensor:
    """Grey levels (m, ...) -> outputs start to start + count of `size`, float32 but whole, as Pillow's BILINEAR.

    Pillow's weights have 22 bits. In two halves of 11 their products with grey levels add up in float32 without any
    rounding (up to a 15-fold reduction), so that ties fall as in Pillow, in every runtime.
    """
    inputs, shares = _windows(levels.shape[0], size, start, count, levels.device)
    total = shares.sum(-1, keepdim=True).clamp(min=1)  # the last block's surplus outputs may see no input
    high = shares * HALF // total
    low = (2 * (shares * HALF - high * total) * HALF + total) // (2 * total)  # rounded
    highs, lows = _blocks(levels, inputs, torch.cat([high, low]).float())[:, :count]
    return ((highs + (lows / HALF).floor() + HALF // 2) / HALF).floor().clamp(max=WHITE)


def _resize(values: Tensor, size: int) -> Tensor:
    """Values (m, ...) -> (size, ...), as torch's antialiased bilinear interpolation."""
    inputs, shares = _windows(values.shape[0], size, 0, size, values.device)
    weights = shares / shares.sum(-1, keepdim=True).clamp(min=1)
    return _blocks(values, inputs, weights)[0].narrow(0, 0, size)


def _windows(length: int, size: int, start: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which inputs each block of outputs uses, and how much of the triangle filter each output gives to them.

    Returns:
        indices (blocks, width) and shares (1, blocks, BLOCK, width), whole numbers on a scale of 2 * size.
    """
    blocks = (count + BLOCK - 1) // BLOCK
    width = (BLOCK * length) // size + length // size + 4  # no less than BLOCK - 1 steps and two supports span
    support = 2 * torch.full((), length, device=device).clamp(min=size)
    centres = length * (2 * (torch.arange(blocks * BLOCK, device=device) + start) + 1).reshape(blocks, BLOCK, 1)
    inputs = (centres[:, 0] - support + size) // (2 * size) + torch.arange(width, device=device)
    shares = (support - (size * (2 * inputs[:, None] + 1) - centres).abs()).clamp(min=0)
    inside = (inputs >= 0) & (inputs < length)
    return inputs.clamp(0, length - 1), (shares * inside[:, None])[None]


def _blocks(values: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    """Values (m, ...) and weights (k, blocks, BLOCK, width) -> weighted sums (k, blocks * BLOCK, ...)."""
    windows = values.flatten(1)[inputs].float()
    return (weights @ windows).flatten(1, 2).unflatten(2, values.shape[1:])
