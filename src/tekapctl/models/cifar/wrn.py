"""Wide residual networks: Zagoruyko and Komodakis, BMVC 2016."""

from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.models.network import Maps, Network, conv, init_spatial_fan_out, pool
from tekapctl.models.zoo import NETWORKS, Entry


class WideBlock(nn.Module):
    """Two convolutions, each after a batch norm and ReLU, with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        # The published checkpoints' name.
        self.convShortcut = None if inputs == outputs else conv(inputs, outputs, 1, stride)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch _o _h _w"]:
        """The sum, which the next block normalises."""
        active = F.relu(self.bn1(x), inplace=True)
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True)) + shortcut


class WideStage(nn.Module):
    """Blocks of one width."""

    def __init__(self, inputs: int, outputs: int, blocks: int, stride: int) -> None:
        super().__init__()
        rest = (WideBlock(outputs, outputs, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(WideBlock(inputs, outputs, stride), *rest)

    @property
    def first(self) -> WideBlock:
        """The first block."""
        block = self.layer[0]
        assert isinstance(block, WideBlock)
        return block

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch _o _h _w"]:
        """All blocks in turn."""
        return self.layer(x)


class WideResNet(Network):
    """Three stages of pre-activation blocks.

    Args:
        depth: Number of layers, 6n + 4.
        widening: Factor of the stages' channels.
        num_classes: Number of classes.
        in_channels: Number of image channels.
    """

    def __init__(self, depth: int, widening: int, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        blocks = (depth - 4) // 6
        widths = [16, 16 * widening, 32 * widening, 64 * widening]
        self.conv1 = conv(in_channels, widths[0], 3)
        self.block1 = WideStage(widths[0], widths[1], blocks, 1)
        self.block2 = WideStage(widths[1], widths[2], blocks, 2)
        self.block3 = WideStage(widths[2], widths[3], blocks, 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        init_spatial_fan_out(self)

    @property
    def classifier_layer(self) -> nn.Module:
        """The layer from embedding to logits."""
        return self.fc

    def modules_after_feature_maps(self) -> tuple[nn.Module, ...]:
        """The last batch norm belongs to it, as in RepDistiller."""
        return self.bn1, self.fc

    def norms_before_relu(self) -> tuple[nn.BatchNorm2d, ...]:
        """Those that follow each stage."""
        return self.block2.first.bn1, self.block3.first.bn1, self.bn1

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        """The pooled last stage after its batch norm and ReLU."""
        x = self.conv1(images)
        maps.keep(x, x)
        for stage, following in ((self.block1, self.block2), (self.block2, self.block3)):
            x = stage(x)
            # The pre-activation of a stage is the output of the first batch norm of the next stage.
            maps.keep(x, following.first.bn1(x) if maps.wants_preactivations else x)
        x = self.block3(x)
        normal = self.bn1(x)
        maps.keep(x, normal)
        return pool(F.relu(normal, inplace=not maps.wants_preactivations))


for _depth, _widening in ((16, 1), (16, 2), (40, 1), (40, 2)):
    NETWORKS.register(f"wrn_{_depth}_{_widening}")(Entry(partial(WideResNet, _depth, _widening)))
