"""ShuffleNet with three groups, for small images: Zhang et al., CVPR 2018."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.models.network import Maps, Network, conv, pool
from tekapctl.models.zoo import NETWORKS, Entry

GROUPS = 3
WIDTHS = (24, 240, 480, 960)
BLOCKS = (4, 8, 4)


class ShuffleUnit(nn.Module):
    """Grouped convolutions with a shuffle between; gives the sum, or at a stride the concatenation, before its ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        added = outputs - inputs if stride == 2 else outputs
        width = added // 4
        # The first layer's few channels are not grouped.
        self.groups = 1 if inputs == WIDTHS[0] else GROUPS
        self.conv1 = conv(inputs, width, 1, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride, groups=width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, added, 1, groups=GROUPS)
        self.bn3 = nn.BatchNorm2d(added)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch _o _h _w"]:
        """The result before its ReLU."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        if self.groups > 1:
            out = F.channel_shuffle(out, self.groups)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
        return out + x


class ShuffleNetV1(Network):
    """Three stages of shuffle units.

    Args:
        num_classes: Number of classes.
        in_channels: Number of channels of its images.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.conv1 = conv(in_channels, WIDTHS[0], 1)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        for number, ((inputs, outputs), blocks) in enumerate(zip(pairwise(WIDTHS), BLOCKS, strict=True), start=1):
            rest = (ShuffleUnit(outputs, outputs, 1) for _ in range(blocks - 1))
            self.add_module(f"layer{number}", nn.Sequential(ShuffleUnit(inputs, outputs, 2), *rest))
        self.linear = nn.Linear(WIDTHS[-1], num_classes)

    @property
    def classifier_layer(self) -> nn.Module:
        """The layer from embedding to logits."""
        return self.linear

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        """The pooled last stage."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        maps.keep(x, x)
        for number in range(1, len(BLOCKS) + 1):
            *units, last = self.get_submodule(f"layer{number}").children()
            for unit in units:
                x = F.relu(unit(x), inplace=True)
            x = maps.activate(last(x))
        return pool(x)


# Trained with 0.01 in the published protocol.
NETWORKS.register("ShuffleV1")(Entry(ShuffleNetV1, learning_rate=0.01))
