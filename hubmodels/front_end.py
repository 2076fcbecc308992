"""The front end that detectors share: picture -> model input -> backbone -> aggregated maps.

Detectors with equal front ends (`FrontEnd.key`) share one backbone pass.

Aggregation: the codes of SimpleNet and GLASS (inherited from PatchCore, arXiv 2106.08265, section 3.1) unfold 3x3
neighbourhoods of every layer, upsample the C*9 planes to the first layer's grid, average-pool each flattened
neighbourhood to `embed_dim`, stack the layers and average-pool again to `embed_dim`. Pooling acts on (channel, row,
column of the neighbourhood), upsampling acts on the grid position, so the two linear maps commute. The two poolings
become one grouped convolution per layer on its own coarse grid, and only `embed_dim` planes are upsampled.
"""

import math
import os
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from hubmodels.backbone import Backbone, feature_channels, feature_strides, load_backbone
from hubmodels.pictures import fit
from hubmodels.region import Region
from hubmodels.scoring import SinglePrecision
from hubmodels.sizes import Size, as_image_size, as_pair, crop_margins, crop_start
from hubmodels.tiles import in_tiles, is_large

_imported_by = os.getpid()


def survive_fork() -> None:
    """Lets a process work that was forked from the one that imported this module; elsewhere it does nothing.

    OpenMP's threads do not exist in the copy, and its next parallel loop would wait for them for ever. With one thread
    there is no such loop. torch's own DataLoader does the same in its workers.
    """
    global _imported_by
    if os.getpid() == _imported_by:
        return
    _imported_by = os.getpid()
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        warnings.warn(
            "this process was forked from one that uses torch, so it predicts with one thread; for more, start "
            'processes with multiprocessing.get_context("spawn")',
            RuntimeWarning,
            stacklevel=2,
        )


class FrontEnd(nn.Module):
    """Everything that patch features depend on. The frozen backbone is shared and not part of the weights.

    Args:
        backbone: timm id with weights tag.
        layers: timm feature indices used, finest first; (2, 3) = layer2 and layer3 of a ResNet.
        backbone_sha256: fingerprint of the backbone weights; checked when they load.
        mean, std: normalisation of RGB in [0, 1] before the backbone.
        image_size: (height, width) of the model input, pixels; one number for a square.
        resize: what a picture is resized to before the centre crop to `image_size`; by default it is not cropped.
        patch_size: side of the neighbourhood aggregated around each position.
        embed_dim: width D of a patch feature; default: the backbone's channels added up.
        region: whether only a part of the picture counts. At first it is the whole picture.

    Raises:
        ValueError: a size or a normalisation that cannot work.
        BackboneError: no such backbone.
    """

    def __init__(
        self,
        *,
        backbone: str,
        layers: tuple[int, ...],
        backbone_sha256: str | None,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: Size,
        resize: Size | None,
        patch_size: int,
        embed_dim: int | None,
        region: bool = False,
    ) -> None:
        super().__init__()
        self.backbone_name, self.layers, self.backbone_sha256 = backbone, tuple(layers), backbone_sha256
        self.mean, self.std, self.patch_size = tuple(mean), tuple(std), patch_size
        self.image_size = as_image_size(image_size)
        self.resize = self.image_size if resize is None else as_image_size(resize)
        self._require_possible()
        channels = feature_channels(backbone, self.layers)
        self.embed_dim = embed_dim or sum(channels)
        self.patch_features = PatchFeatures(channels, self.embed_dim, patch_size)
        self.stride = feature_strides(backbone, self.layers)[0]  # pixels of the input from one patch to the next
        self.region = Region(self.image_size, self.stride, self.mean) if region else None
        self._backbone: tuple[Backbone, ...] = ()  # in a tuple, or torch would make it part of the model
        self._weights: str | Path | None = None  # file of the backbone's weights, where the user named one

    def _require_possible(self) -> None:
        """Raises ValueError or TypeError for what would only fail with the first picture: strangers write configs."""
        crop_start(self.resize, self.image_size)
        are_finite = all(map(math.isfinite, self.mean + self.std))
        if not (are_finite and len(self.mean) == len(self.std) == 3 and min(self.std) > 0):
            raise ValueError(f"mean {self.mean} and std {self.std} are not three numbers each, and std positive")
        if list(self.layers) != sorted(self.layers):
            raise ValueError(f"layers {self.layers} are not in the order of the network, finest first")
        if not isinstance(self.backbone_sha256, str | None):
            raise TypeError(f"backbone_sha256 {self.backbone_sha256!r} is no text")

    @property
    def device(self) -> torch.device:
        """Where aggregation runs; pictures and the shared backbone follow it."""
        return self.patch_features.kernel0.device

    @property
    def backbone(self) -> Backbone:
        """The process-wide frozen network, verified against the recorded fingerprint.

        Raises:
            BackboneError: its weights are missing, or not those that the head was trained on.
        """
        if not self._backbone or self._backbone[0].device != self.device:
            self.load_backbone()
        return self._backbone[0]

    def load_backbone(self, weights: str | Path | None = None) -> None:
        """Loads the backbone now; a file that is given is also used later. Raises as `backbone` does."""
        survive_fork()
        self._weights = weights or self._weights
        given = dict(weights=self._weights, sha256=self.backbone_sha256, device=self.device)
        self._backbone = (load_backbone(self.backbone_name, self.layers, **given),)

    @property
    def key(self) -> tuple:
        """All that patch features depend on, for comparing front ends."""
        size = (self.image_size, self.resize, self.mean, self.std)
        region = None if self.region is None else self.region.mask.cpu().numpy().tobytes()
        network = (self.backbone_name, self.layers, self.backbone_sha256 or self._weights, self.device)
        return (*network, *size, self.patch_size, self.embed_dim, region)

    def prepare(self, pictures: list[Image.Image]) -> Tensor:
        """PIL RGB pictures -> images (B, 3, H, W) in [0, 1] on the front end's device, covered outside the region."""
        survive_fork()
        images = torch.stack([to_image(p, self.image_size, self.resize) for p in pictures]).to(self.device)
        return images if self.region is None else self.region.cover(images)

    def enlargement(self, picture: Image.Image) -> float:
        """How many pixels of the resized picture there are for one of its own, along the axis where there are more."""
        return max(scales((picture.height, picture.width), self.resize))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [0, 1] -> the backbone's maps (B, C, h, w) in float32, one per layer, no gradient."""
        survive_fork()
        with torch.no_grad():
            settings = dict(device=images.device, dtype=torch.float32)
            mean, std = (torch.tensor(v, **settings)[:, None, None] for v in (self.mean, self.std))
            return [feature_map.float() for feature_map in self.backbone((images - mean) / std)]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [0, 1] -> aggregated maps (B, D/L, h_l, w_l), one per layer, without gradient.

        Large images go through in overlapping tiles, which give the same maps in less memory. Networks whose maps
        depend on the whole image, such as transformers and those with squeeze-excitation, get them in one piece.
        """
        fields = self.backbone.fields if is_large(images) else None
        if fields is None:
            return self._aggregated(images)
        return in_tiles(self._aggregated, images, fields, self.patch_size // 2)

    def _aggregated(self, images: Tensor) -> list[Tensor]:
        return self.patch_features(self.feature_maps(images))

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_backbone": ()}  # copies and other processes find the shared one again


class PatchFeatures(SinglePrecision):
    """Neighbourhood aggregation of the papers as one grouped convolution per layer, always in float32.

    Args:
        channels: channels of each layer's feature map, first layer = finest grid.
        embed_dim: width D of a patch feature; must be a multiple of the number of layers, so that each dimension
            comes from one layer (1536 for wide_resnet50_2: 768 from layer2, then 768 from layer3).
        patch_size: odd side of the neighbourhood, 3 in both papers.
    """

    def __init__(self, channels: tuple[int, ...], embed_dim: int, patch_size: int = 3) -> None:
        super().__init__()
        if embed_dim % len(channels):
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of the {len(channels)} layers")
        if patch_size % 2 == 0:
            raise ValueError(f"patch_size {patch_size} is even: a neighbourhood needs a centre")
        self.padding, self.groups = patch_size // 2, []
        for i, width in enumerate(channels):
            kernel, groups = _aggregation_kernel(width, embed_dim, len(channels), patch_size)
            self.groups.append(groups)
            self.register_buffer(f"kernel{i}", kernel, persistent=False)  # derived from the config, not learned

    def forward(self, feature_maps: list[Tensor]) -> list[Tensor]:
        """Feature maps (B, C, h, w) -> per layer the aggregated map (B, D/L, h, w) on its own grid."""
        return [
            F.conv2d(feature_map, getattr(self, f"kernel{i}"), padding=self.padding, groups=self.groups[i])
            for i, feature_map in enumerate(feature_maps)
        ]


def align(aggregated: list[Tensor]) -> Tensor:
    """Aggregated maps (B, D/L, h_l, w_l) -> patch features (B, D, h, w) on the first layer's grid (bilinear)."""
    first, *coarser = aggregated
    upsampled = [F.interpolate(a, first.shape[-2:], mode="bilinear", align_corners=False) for a in coarser]
    return torch.cat([first, *upsampled], dim=1)


def flatten(features: Tensor) -> Tensor:
    """Patch features (B, D, h, w) -> (B*h*w, D), pictures outermost, then rows."""
    return features.movedim(1, -1).flatten(0, 2)


def to_image(picture: Image.Image, image_size: Size, resize: Size | None = None) -> Tensor:
    """RGB picture -> model input (3, H, W), float32 in [0, 1], not yet normalised.

    The whole picture is resized to `resize`, bilinear and antialiased, then the centre is cropped to `image_size`. A
    picture of another shape is squashed, so that no part escapes inspection; for the square MVTec AD pictures and a
    square input this equals `Resize` and `CenterCrop` of both reference codes.

    Args:
        picture: what `read_picture` returns.
        image_size: (height, width) of the result, or the side of a square.
        resize: the same before the crop, at least as large; by default there is no crop.

    Raises:
        ValueError: resize is smaller than image_size.
    """
    fitted = fit(picture, image_size, resize)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).contiguous().float().div_(255)


def to_picture_size(anomaly_map: Tensor, size: tuple[int, int], resize: Size | None = None) -> np.ndarray:
    """Anomaly map of the model input (H, W) -> map of the picture (height, width), float32; inverts `to_image`.

    Bilinear (align_corners=False), antialiased where it shrinks. Values are never rescaled and stay within the range
    of the map. Where there was a crop, it is first put back in its place; the border outside the crop was not
    inspected and gets the map's minimum.

    Args:
        anomaly_map: higher = more anomalous, on any device.
        size: (height, width) of the picture.
        resize: the one given to `to_image`.
    """
    survive_fork()
    values = anomaly_map.detach().float().cpu()  # the small map travels, not the large one
    low, high = values.min(), values.max()
    if resize is not None and as_pair(resize) != values.shape:
        values = F.pad(values, crop_margins(resize, values.shape), value=low.item())
    # where both sides grow, antialias costs 5 times as much for nothing
    shrinks = any(own < given for own, given in zip(size, values.shape, strict=True))
    resized = F.interpolate(values[None, None], size=size, mode="bilinear", align_corners=False, antialias=shrinks)
    return resized[0, 0].clamp_(low, high).contiguous().numpy()  # the filter's weights sum to 1 only up to rounding


def inspected_part(size: tuple[int, int], image_size: Size, resize: Size) -> tuple[slice, slice]:
    """Rows and columns of a picture (height, width) whose pixel centres are in the crop that `to_image` takes."""
    rows, columns = zip(size, crop_start(resize, image_size), as_pair(image_size), as_pair(resize), strict=True)
    return _inspected(*rows), _inspected(*columns)


def _inspected(side: int, start: int, length: int, whole: int) -> slice:
    """Pixels of one axis, which has `side` of them, for a crop of some of `whole` pixels."""
    return slice(*(math.ceil(edge * side / whole - 0.5) for edge in (start, start + length)))


def scales(size: tuple[int, int], resize: Size) -> tuple[float, float]:
    """Pixels of the resized picture for one of its own, for a picture (height, width): along the height, the width."""
    (height, width), (rows, columns) = as_pair(resize), size
    return height / rows, width / columns


def _aggregation_kernel(channels: int, embed_dim: int, layers: int, patch_size: int) -> tuple[Tensor, int]:
    """Kernel (D/L, channels/groups, p, p) and groups of the two adaptive average poolings of one layer.

    Bin j of `adaptive_avg_pool1d` spans [floor(j n/m), ceil((j+1) n/m)), which repeats with period n/groups for
    every common divisor: it is enough to pool the unit vectors of one group.
    """
    groups = math.gcd(channels, embed_dim // layers)
    width = channels // groups
    # one unit vector per (channel, row, column) of a neighbourhood
    units = torch.eye(width * patch_size**2, dtype=torch.float64)[:, None]
    to_embed_dim = F.adaptive_avg_pool1d(units, embed_dim // groups)
    across_layers = F.avg_pool1d(to_embed_dim, layers)  # (L * D) -> D: bins of L, none of which mixes two layers
    kernel = across_layers[:, 0].T.reshape(-1, width, patch_size, patch_size).float()
    return kernel.repeat(groups, 1, 1, 1), groups
