"""The part of the picture that counts: a mask of the model input, and what it does to images, patches and maps.

Pixels outside become one grey value before the backbone sees them, in training and in use. So no pixel outside moves a
score. Receptive fields reach across the border, and there they see grey, as they did in training. Patches that are
mostly outside have no score that counts.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubmodels.pictures import Picture, fit, mask_of_picture, read_picture
from hubmodels.scoring import smooth_map
from hubmodels.sizes import Size

LEAST_SHARE = 0.5  # of a patch's pixels: with fewer inside it does not count
SMALLEST_WEIGHT = 1e-3  # of the patches that count, in a pixel of a map
COUNTED = 127  # grey values above it count


class Region(nn.Module):
    """Where a detector looks.

    Args:
        image_size: (height, width) of the model input.
        stride: pixels of the model input from one patch to the next.
        fill: (3,) RGB in [0, 1] of what does not count.

    Attributes:
        mask: (H, W) bool, True where pixels count; a buffer that is saved with the weights.
        patches: (h, w) bool, the patches that count.
        numbers: (K,) of these patches, row by row.
    """

    def __init__(self, image_size: tuple[int, int], stride: int, fill: tuple[float, ...]) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("mask", torch.ones(image_size, dtype=torch.bool))
        levels = [round(255 * value) / 255 for value in fill]  # whole ones, because training keeps pictures as such
        self.register_buffer("fill", torch.tensor(levels)[:, None, None], persistent=False)
        for name in ("patches", "numbers"):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self.count()
        self.register_load_state_dict_post_hook(lambda module, _: module.count())

    def count(self) -> None:
        """Derives from the mask which patches count."""
        self.patches = F.avg_pool2d(self.mask[None].float(), self.stride, ceil_mode=True)[0] >= LEAST_SHARE
        self.numbers = self.patches.flatten().nonzero()[:, 0]

    @property
    def share(self) -> float:
        """Share of the picture's pixels that count."""
        return self.mask.float().mean().item()

    def set(self, mask: Tensor) -> None:
        """Sets the mask (H, W) bool.

        Raises:
            ValueError: no patch counts.
        """
        self.mask.copy_(mask)
        self.count()
        self.require_sound()

    def require_sound(self) -> None:
        """Raises ValueError where no patch counts: every picture would be good."""
        if not self.patches.any():
            raise ValueError(
                f"the region leaves no patch: each has {self.stride} x {self.stride} pixels of the model input, and "
                "at least half of them must count. Give a larger region, or a larger input"
            )

    def cover(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], with the fill outside."""
        return torch.where(self.mask, images, self.fill.to(images))

    def cover_levels(self, images: Tensor) -> Tensor:
        """The same for images (B, 3, H, W) in whole grey levels, uint8."""
        return torch.where(self.mask, images, (self.fill * 255).round().to(images.dtype)).to(images.dtype)

    def counting(self, patch_scores: Tensor) -> Tensor:
        """Patch scores (B, h, w) -> those that count (B, 1, K)."""
        return patch_scores.flatten(1)[:, None, self.numbers]

    def smooth(self, patch_scores: Tensor) -> Tensor:
        """Patch scores (B, h, w) -> anomaly maps (B, H, W) as `smooth_map`, from the patches that count.

        Near the border the weights of those are scaled to a sum of 1. Outside a map has the median of the patch
        scores, so that nothing is unusual there.
        """
        counts = self.patches.to(patch_scores)
        size = tuple(self.mask.shape)
        sums, weights = (smooth_map(values, size) for values in (patch_scores * counts, counts[None]))
        inside = self.mask & (weights[0] > SMALLEST_WEIGHT)
        middle = self.counting(patch_scores).topk(len(self.numbers) // 2 + 1).values[..., -1:]  # ONNX has no median
        return torch.where(inside, sums / weights.clamp_min(SMALLEST_WEIGHT), middle)

    def of_picture(self, size: tuple[int, int], resize: Size) -> np.ndarray:
        """The mask at the size of a picture (height, width) bool; what a crop leaves out does not count."""
        return mask_of_picture(self.mask.cpu().numpy(), resize, size)


def read_region(picture: Picture, image_size: Size, resize: Size | None = None) -> Tensor:
    """A picture of the region, of any size -> mask (H, W) bool of the model input; bright pixels count.

    It is mapped as the pictures of parts are: a picture of another size is resized.

    Raises:
        PictureError: it cannot be read.
    """
    grey = fit(read_picture(picture), image_size, resize).convert("L")
    return torch.from_numpy(np.asarray(grey) > COUNTED)
