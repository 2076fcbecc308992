"""CompactNet: our own small backbone, bundled with this package, so that everything runs offline and in real time.

A ResNet-18 cut after layer3 with one block instead of two in layer1 and layer2 and no BatchNorm: 2.4 M parameters,
strides and channels of ResNet-18 (layers 2+3: 128 at stride 8, 256 at stride 16), a tenth of the papers' time.
`training/distill.py` makes its weights from the features of ResNet-18. Importing this module registers the network
with timm, so it is built, loaded and fingerprinted like any other.
"""

from pathlib import Path

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

COMPACT_BACKBONE, COMPACT_IMAGE_SIZE = "compactnet.distilled_in1k", 256
BUNDLED_WEIGHTS = Path(__file__).parent / "weights"

default_cfgs = generate_default_cfgs(
    {
        COMPACT_BACKBONE: {
            "file": str(BUNDLED_WEIGHTS / f"{COMPACT_BACKBONE}.safetensors"),
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "input_size": (3, COMPACT_IMAGE_SIZE, COMPACT_IMAGE_SIZE),
            "num_classes": 0,
            "first_conv": "stem.0",
            "classifier": None,
            "license": "apache-2.0",
        }
    }
)


class Block(nn.Module):
    """Residual block of two 3x3 convolutions (He et al., CVPR 2016, section 3.3); (B, C, H, W) -> (B, D, h, w)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.downsample = nn.Conv2d(channels, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x).relu_()) + self.downsample(x)).relu_()


class CompactNet(nn.Module):
    """Normalised images (B, 3, S, S) -> map of the last stage (B, 256, S/16, S/16)."""

    def __init__(self, **_timm_arguments) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        self.layer1 = nn.Sequential(Block(64, 64, 1))
        self.layer2 = nn.Sequential(Block(64, 128, 2))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        stages = (("stem", 64, 4), ("layer1", 64, 4), ("layer2", 128, 8), ("layer3", 256, 16))
        self.feature_info = [dict(module=m, num_chs=c, reduction=r) for m, c, r in stages]

    def forward(self, images: Tensor) -> Tensor:
        return self.layer3(self.layer2(self.layer1(self.stem(images))))


@register_model
def compactnet(pretrained: bool = False, **timm_arguments) -> CompactNet:
    """timm's entry point, `timm.create_model("compactnet.distilled_in1k")`; weights are given by file."""
    return build_model_with_cfg(CompactNet, "compactnet", pretrained, **timm_arguments)
