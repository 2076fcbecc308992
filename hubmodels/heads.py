"""The same numbers with fewer operations: what is affine at inference is multiplied out once, before any picture.

BatchNorm in eval mode is affine, and so are convolution, adaptor and the discriminator's first layer. Chains of them
become one convolution in the backbone and one matrix in the head. Training changes the factors, adds noise between
adaptor and discriminator, and its BatchNorm follows the batch: so folded copies are made from a trained model and are
never saved.
"""

import logging

import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental import optimization

logger = logging.getLogger(__name__)


class FoldedHead(nn.Module):
    """Adaptor, first discriminator layer and BatchNorm as one matrix, split by the layers that features come from.

    A matrix commutes with bilinear upsampling, which acts on positions: each layer's part is applied on its own grid,
    so the coarser layer costs a quarter, and the hidden values are upsampled instead of the features (equal results).

    Args:
        adaptor: Linear D -> D.
        discriminator: Linear D -> H, BatchNorm, LeakyReLU, Linear H -> 1, as `AnomalyDetector` has it.
        layers: number L of feature maps; a patch feature has D/L values of each, the finest first.
    """

    def __init__(self, adaptor: nn.Linear, discriminator: nn.Sequential, layers: int) -> None:
        super().__init__()
        first, norm, activation, last = discriminator
        gain = (norm.weight / (norm.running_var + norm.eps).sqrt()).double()
        # in double: the product of two matrices is rounded once
        weight = gain[:, None] * (first.weight.double() @ adaptor.weight.double())
        inner = first.weight.double() @ adaptor.bias.double() + first.bias.double()
        bias = gain * (inner - norm.running_mean.double()) + norm.bias.double()
        parts = weight.detach().chunk(layers, dim=1)
        for i, part in enumerate(parts):
            self.register_buffer(f"weight{i}", part.T.contiguous().to(first.weight))
        self.register_buffer("bias", bias.detach().to(first.weight))
        self.register_buffer("last", last.weight.detach().T.clone())
        self.slope = activation.negative_slope

    def forward(self, aggregated: list[Tensor]) -> Tensor:
        """Aggregated maps (B, D/L, h_l, w_l), finest first -> logits (B, h, w) on the finest grid."""
        first, *coarser = aggregated
        grid = first.shape[-2:]
        total = first.movedim(1, -1) @ self.weight0 + self.bias
        for i, coarse in enumerate(coarser, start=1):
            part = (coarse.movedim(1, -1) @ getattr(self, f"weight{i}")).movedim(-1, 1)
            total += F.interpolate(part, grid, mode="bilinear", align_corners=False).movedim(1, -1)
        hidden = F.leaky_relu_(total, self.slope)  # in place: H values a patch are most of the head's memory
        return (hidden @ self.last)[..., 0]  # a matrix of one column, because OpenVINO takes no vector here


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A frozen network with every BatchNorm multiplied into the convolution before it, where its graph can be traced.

    Args:
        network: in eval mode; left unchanged, but parts of it are shared.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    try:
        return optimization.fuse(network, inplace=True)  # no copy of the weights: it replaces modules, changing none
    except Exception as error:  # its operations depend on the picture: slower, not wrong
        logger.info("BatchNorm stays apart, because the network cannot be traced: %s", error)
        return network
