"""CompactNet: our own small backbone, bundled with this package, so that everything runs offline and in real time.

A ResNet-18 cut after layer3, with fewer channels inside its blocks, one block in layer1 and no BatchNorm: 2.0 M
parameters, strides and channels of ResNet-18 (layers 2+3: 128 at stride 8, 256 at stride 16). `training/distill.py`
makes its weights from the features of ResNet-18. It needs no timm, whose import takes seconds.
"""

from pathlib import Path

from torch import Tensor, nn

COMPACT_BACKBONE, COMPACT_IMAGE_SIZE = "compactnet.distilled_in1k", 256
BUNDLED_WEIGHTS = Path(__file__).parent / "weights"


class Block(nn.Module):
    """Residual block of two 3x3 convolutions (He et al., CVPR 2016, section 3.3); (B, C, H, W) -> (B, D, h, w).

    Args:
        inner: channels between the convolutions; in a ResNet-18 as many as at the end.
    """

    def __init__(self, channels: int, inner: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, stride, 1)
        self.conv2 = nn.Conv2d(inner, width, 3, 1, 1)
        self.downsample = nn.Conv2d(channels, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x).relu_()) + self.downsample(x)).relu_()


class CompactNet(nn.ModuleDict):
    """Normalised images (B, 3, H, W) -> the maps (B, C, h, w) of some layers; cut after the last of them.

    Args:
        layers: indices of `CHANNELS` and `STRIDES`: the stem, then layer1 to layer3.
    """

    CHANNELS = (64, 64, 128, 256)
    STRIDES = (4, 4, 8, 16)

    def __init__(self, layers: tuple[int, ...] = (2, 3)) -> None:
        c0, c1, c2, c3 = self.CHANNELS
        stages = {
            "stem": nn.Sequential(nn.Conv2d(3, c0, 7, 2, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)),
            "layer1": nn.Sequential(Block(c0, 48, c1, 1)),
            "layer2": nn.Sequential(Block(c1, 96, c2, 2), Block(c2, 96, c2, 1)),
            "layer3": nn.Sequential(Block(c2, 192, c3, 2), Block(c3, 192, c3, 1)),
        }
        super().__init__([*stages.items()][: max(layers) + 1])
        self.layers = layers

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.values():
            images = stage(images)
            maps.append(images)
        return [maps[layer] for layer in self.layers]
