"""ResNets for small images: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2."""

from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.models.network import Maps, Network, batch_norms, conv, init_fan_out, pool
from tekapctl.models.zoo import NETWORKS, Entry

Widths = tuple[int, int, int, int]


class BasicBlock(nn.Module):
    """Two convolutions with a shortcut; returns their sum before the ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch _o _h _w"]:
        """The sum before its ReLU."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.bn2(self.conv2(out)) + shortcut


class ResNet(Network):
    """Three stages of basic blocks.

    Args:
        depth: Number of layers, 6n + 2.
        widths: Channels of the first layer and of the stages.
        num_classes: Number of classes.
        in_channels: Number of image channels.
    """

    def __init__(self, depth: int, widths: Widths, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        blocks = (depth - 2) // 6
        self.conv1 = conv(in_channels, widths[0], 3)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[1], blocks, 1)
        self.layer2 = _stage(widths[1], widths[2], blocks, 2)
        self.layer3 = _stage(widths[2], widths[3], blocks, 2)
        self.fc = nn.Linear(widths[3], num_classes)
        init_fan_out(self)

    @property
    def classifier_layer(self) -> nn.Module:
        """The layer from embedding to logits."""
        return self.fc

    def norms_before_relu(self) -> tuple[nn.BatchNorm2d, ...]:
        """The last one of each stage."""
        return batch_norms(stage[-1].bn2 for stage in (self.layer1, self.layer2, self.layer3))

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        """The pooled last stage."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        maps.keep(x, x)
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage[:-1]:
                x = F.relu(block(x), inplace=True)
            x = maps.activate(stage[-1](x))
        return pool(x)


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


for _depth in (8, 14, 20, 32, 44, 56, 110):
    NETWORKS.register(f"resnet{_depth}")(Entry(partial(ResNet, _depth, (16, 16, 32, 64))))
for _depth in (8, 32):
    NETWORKS.register(f"resnet{_depth}x4")(Entry(partial(ResNet, _depth, (32, 64, 128, 256))))


EXPANSION = 4


class Bottleneck(nn.Module):
    """A narrow convolution between two 1x1 convolutions, with a shortcut; returns their sum before the ReLU."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch _o _h _w"]:
        """The sum before its ReLU."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return self.bn3(self.conv3(out)) + self.shortcut(x)


class ResNet50(Network):
    """Four stages of bottlenecks.

    Args:
        num_classes: Number of classes.
        in_channels: Number of image channels.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.conv1 = conv(in_channels, 64, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _bottlenecks(64, 64, 3, 1)
        self.layer2 = _bottlenecks(256, 128, 4, 2)
        self.layer3 = _bottlenecks(512, 256, 6, 2)
        self.layer4 = _bottlenecks(1024, 512, 3, 2)
        self.linear = nn.Linear(512 * EXPANSION, num_classes)
        init_fan_out(self)

    @property
    def classifier_layer(self) -> nn.Module:
        """The layer from embedding to logits."""
        return self.linear

    def norms_before_relu(self) -> tuple[nn.BatchNorm2d, ...]:
        """The last one of each stage."""
        return batch_norms(stage[-1].bn3 for stage in (self.layer1, self.layer2, self.layer3, self.layer4))

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        """The pooled last stage."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        maps.keep(x, x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage[:-1]:
                x = F.relu(block(x), inplace=True)
            x = maps.activate(stage[-1](x))
        return pool(x)


def _bottlenecks(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Bottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(inputs, width, stride), *rest)


NETWORKS.register("ResNet50")(Entry(ResNet50))
