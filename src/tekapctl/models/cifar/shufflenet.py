"""ShuffleNets for small images: V1 with three groups (Zhang et al., CVPR 2018), V2 (Ma et al., ECCV 2018)."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.models.network import Maps, Network, Residual, conv, pool, stack
from tekapctl.models.zoo import NETWORKS, Entry

GROUPS = 3
WIDTHS_V1 = (24, 240, 480, 960)
WIDTHS_V2 = (24, 116, 232, 464)
EMBEDDING = 1024
UNITS = (4, 8, 4)
"""Number of units of each stage."""


class ShuffleUnit(Residual):
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
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        if self.groups > 1:
            out = F.channel_shuffle(out, self.groups)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
        return out + x


class ShuffleNet(Network):
    """A 1x1 convolution and three stages of units, each built from inputs, outputs, number of units and stride."""

    classifier_name = "linear"
    runs_layers_once = True

    def __init__(
        self,
        widths: tuple[int, ...],
        stage: Callable[[int, int, int, int], nn.Sequential],
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__(num_classes, in_channels)
        self.conv1 = conv(in_channels, widths[0], 1)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = [f"layer{number}" for number in range(1, len(UNITS) + 1)]
        for name, (inputs, outputs), units in zip(self.stages, pairwise(widths), UNITS, strict=True):
            self.add_module(name, stage(inputs, outputs, units, 2))

    def stem(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch _c h w"]:
        """The first layer, whose output is a feature map."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        maps.keep(x, x)
        return x


class ShuffleNetV1(ShuffleNet):
    """Three stages of shuffle units."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(WIDTHS_V1, partial(stack, ShuffleUnit), num_classes, in_channels)
        self.linear = nn.Linear(WIDTHS_V1[-1], num_classes)

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        x = self.stem(images, maps)
        for name in self.stages:
            x = maps.residual_stage(x, self.get_submodule(name))
        return pool(x)


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


def _stage(inputs: int, outputs: int, units: int, _: int) -> nn.Sequential:
    first = DownUnit(inputs, outputs)
    return nn.Sequential(first, *(SplitUnit(outputs) for _ in range(units - 1)))


class ShuffleNetV2(ShuffleNet):
    """Three stages of units and a last convolution."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(WIDTHS_V2, _stage, num_classes, in_channels)
        self.conv2 = conv(WIDTHS_V2[-1], EMBEDDING, 1)
        self.bn2 = nn.BatchNorm2d(EMBEDDING)
        self.linear = nn.Linear(EMBEDDING, num_classes)

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        x = self.stem(images, maps)
        for name in self.stages:
            down, *units = self.get_submodule(name).children()
            before = x = down(x)
            convolved = x
            for unit in units:
                before = x
                x, convolved = unit(x)
            maps.keep(x, torch.cat([before.chunk(2, dim=1)[0], convolved], dim=1) if maps.wants_preactivations else x)
        return pool(F.relu(self.bn2(self.conv2(x)), inplace=True))


# The published learning rate is 0.01.
for _name, _network in (("ShuffleV1", ShuffleNetV1), ("ShuffleV2", ShuffleNetV2)):
    NETWORKS.register(_name)(Entry(_network, learning_rate=0.01))
