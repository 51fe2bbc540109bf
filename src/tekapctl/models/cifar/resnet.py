"""ResNets for small images: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from tekapctl.models.fusing import conv_relu
from tekapctl.models.network import Maps, Network, Residual, batch_norms, conv, init_fan_out, pool, stack
from tekapctl.models.zoo import NETWORKS, Entry


class BasicBlock(Residual):
    """Two convolutions with a shortcut."""

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
        out, shortcut = self._summands(x)
        return self.bn2(self.conv2(out)) + shortcut

    def activated(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch _o _h _w"]:
        return conv_relu(self.conv2, self.bn2, *self._summands(x))

    def merge_biases(self) -> None:
        """Leave one bias, once batch norms have been folded into the convolutions."""
        shortcut = None if self.downsample is None else self.downsample[0]
        if isinstance(shortcut, nn.Conv2d) and shortcut.bias is not None and self.conv2.bias is not None:
            self.conv2.bias += shortcut.bias
            shortcut.bias = None

    def _summands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The last convolution's input, and the shortcut."""
        return conv_relu(self.conv1, self.bn1, x), x if self.downsample is None else self.downsample(x)


class Bottleneck(Residual):
    """A narrow convolution between two 1x1 convolutions, with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 4
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
        return self.bn3(self.conv3(self._narrow(x))) + self.shortcut(x)

    def activated(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch _o _h _w"]:
        return conv_relu(self.conv3, self.bn3, self._narrow(x), self.shortcut(x))

    def _narrow(self, x: Tensor) -> Tensor:
        """The last convolution's input."""
        return conv_relu(self.conv2, self.bn2, conv_relu(self.conv1, self.bn1, x))


class ResNet(Network):
    """Stages of residual blocks.

    Args:
        block: Builds a block from inputs, outputs and stride.
        blocks: Number of blocks of each stage.
        widths: Channels of the first layer and of the stages.
        classifier: The classifier's name in published checkpoints.
    """

    runs_layers_once = True

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int],
        classifier: str,
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__(num_classes, in_channels)
        self.conv1 = conv(in_channels, widths[0], 3)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = [f"layer{number}" for number in range(1, len(blocks) + 1)]
        for name, (inputs, outputs), count in zip(self.stages, pairwise(widths), blocks, strict=True):
            self.add_module(name, stack(block, inputs, outputs, count, stride=1 if name == "layer1" else 2))
        self.classifier_name = classifier
        self.add_module(classifier, nn.Linear(widths[-1], num_classes))
        init_fan_out(self)

    def norms_before_relu(self) -> tuple[nn.BatchNorm2d, ...]:
        """The last one of each stage, before its shortcut is added."""
        last = (list(self.get_submodule(name).children())[-1] for name in self.stages)
        return batch_norms(block.bn2 if isinstance(block, BasicBlock) else block.bn3 for block in last)

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        x = conv_relu(self.conv1, self.bn1, images)
        maps.keep(x, x)
        for name in self.stages:
            x = maps.residual_stage(x, self.get_submodule(name))
        return pool(x)


_NARROW, _WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
for _name, _depth, _widths in (
    *((f"resnet{depth}", depth, _NARROW) for depth in (8, 14, 20, 32, 44, 56, 110)),
    *((f"resnet{depth}x4", depth, _WIDE) for depth in (8, 32)),
):
    NETWORKS.register(_name)(Entry(partial(ResNet, BasicBlock, [(_depth - 2) // 6] * 3, _widths, "fc")))
NETWORKS.register("ResNet50")(Entry(partial(ResNet, Bottleneck, (3, 4, 6, 3), (64, 256, 512, 1024, 2048), "linear")))
