"""ShuffleNet with three groups, for small images: Zhang et al., CVPR 2018."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.models.network import Maps, Network, conv, pool
from tekapctl.models.zoo import NETWORKS, Entry

GROUPS = 3
WIDTHS_V1 = (24, 240, 480, 960)
BLOCKS_V1 = (4, 8, 4)


class ShuffleUnit(nn.Module):
    """Grouped convolutions with a channel shuffle in between; returns the sum (stride 2: concatenation) before ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        added = outputs - inputs if stride == 2 else outputs
        width = added // 4
        # The few channels of the first layer are not grouped.
        self.groups = 1 if inputs == WIDTHS_V1[0] else GROUPS
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
        in_channels: Number of image channels.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.conv1 = conv(in_channels, WIDTHS_V1[0], 1)
        self.bn1 = nn.BatchNorm2d(WIDTHS_V1[0])
        for number, ((inputs, outputs), blocks) in enumerate(zip(pairwise(WIDTHS_V1), BLOCKS_V1, strict=True), start=1):
            rest = (ShuffleUnit(outputs, outputs, 1) for _ in range(blocks - 1))
            self.add_module(f"layer{number}", nn.Sequential(ShuffleUnit(inputs, outputs, 2), *rest))
        self.linear = nn.Linear(WIDTHS_V1[-1], num_classes)

    @property
    def classifier_layer(self) -> nn.Module:
        """The layer from embedding to logits."""
        return self.linear

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        """The pooled last stage."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        maps.keep(x, x)
        for number in range(1, len(BLOCKS_V1) + 1):
            *units, last = self.get_submodule(f"layer{number}").children()
            for unit in units:
                x = F.relu(unit(x), inplace=True)
            x = maps.activate(last(x))
        return pool(x)


# The published learning rate is 0.01.
NETWORKS.register("ShuffleV1")(Entry(ShuffleNetV1, learning_rate=0.01))


WIDTHS_V2 = (24, 116, 232, 464)
BLOCKS_V2 = (3, 7, 3)
EMBEDDING = 1024


class SplitUnit(nn.Module):
    """Passes half of the channels on and convolves the other half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = conv(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv(half, half, 3, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(
        self, x: Float[Tensor, "batch c h w"]
    ) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, "batch _c h w"]]:
        """The unit's output and its convolved half before the ReLU; the passed half is the input's first."""
        passed, convolved = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(convolved)), inplace=True)
        out = self.bn3(self.conv3(self.bn2(self.conv2(out))))
        return F.channel_shuffle(torch.cat([passed, F.relu(out)], dim=1), 2), out


class DownUnit(nn.Module):
    """Convolves both halves with stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = conv(inputs, inputs, 3, 2, groups=inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = conv(inputs, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(inputs, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv(half, half, 3, 2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch _o _h _w"]:
        """Both halves, shuffled."""
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))), inplace=True)
        right = F.relu(self.bn3(self.conv3(x)), inplace=True)
        right = F.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))), inplace=True)
        return F.channel_shuffle(torch.cat([left, right], dim=1), 2)


class ShuffleNetV2(Network):
    """Three stages of units and a last convolution.

    Args:
        num_classes: Number of classes.
        in_channels: Number of image channels.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.conv1 = conv(in_channels, WIDTHS_V2[0], 1)
        self.bn1 = nn.BatchNorm2d(WIDTHS_V2[0])
        for number, ((inputs, outputs), blocks) in enumerate(zip(pairwise(WIDTHS_V2), BLOCKS_V2, strict=True), start=1):
            units = (SplitUnit(outputs) for _ in range(blocks))
            self.add_module(f"layer{number}", nn.Sequential(DownUnit(inputs, outputs), *units))
        self.conv2 = conv(WIDTHS_V2[-1], EMBEDDING, 1)
        self.bn2 = nn.BatchNorm2d(EMBEDDING)
        self.linear = nn.Linear(EMBEDDING, num_classes)

    @property
    def classifier_layer(self) -> nn.Module:
        """The layer from embedding to logits."""
        return self.linear

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        """The pooled last convolution."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        maps.keep(x, x)
        for number in range(1, len(BLOCKS_V2) + 1):
            down, *units = self.get_submodule(f"layer{number}").children()
            before = x = down(x)
            convolved = x
            for unit in units:
                before = x
                x, convolved = unit(x)
            maps.keep(x, torch.cat([before.chunk(2, dim=1)[0], convolved], dim=1) if maps.wants_preactivations else x)
        return pool(F.relu(self.bn2(self.conv2(x)), inplace=True))


# The published learning rate is 0.01.
NETWORKS.register("ShuffleV2")(Entry(ShuffleNetV2, learning_rate=0.01))
