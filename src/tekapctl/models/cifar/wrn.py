"""Wide residual networks: Zagoruyko and Komodakis, BMVC 2016."""

from collections import OrderedDict
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.models.fusing import conv_relu
from tekapctl.models.network import Maps, Network, batch_norms, conv, init_spatial_fan_out, pool, stack
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
        return self.conv2(conv_relu(self.conv1, self.bn2, active)) + shortcut


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    # The published checkpoints' name.
    return nn.Sequential(OrderedDict(layer=stack(WideBlock, inputs, outputs, blocks, stride)))


class WideResNet(Network):
    """Three stages of pre-activation blocks.

    Args:
        depth: Number of layers, 6n + 4.
        widening: Factor of the stages' channels.
    """

    classifier_name = "fc"
    runs_layers_once = True

    def __init__(self, depth: int, widening: int, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        blocks = (depth - 4) // 6
        widths = [16, 16 * widening, 32 * widening, 64 * widening]
        self.conv1 = conv(in_channels, widths[0], 3)
        self.block1 = _stage(widths[0], widths[1], blocks, 1)
        self.block2 = _stage(widths[1], widths[2], blocks, 2)
        self.block3 = _stage(widths[2], widths[3], blocks, 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        init_spatial_fan_out(self)

    def modules_after_feature_maps(self) -> tuple[nn.Module, ...]:
        """The last batch norm belongs to it, as in RepDistiller."""
        return self.bn1, self.fc

    def norms_before_relu(self) -> tuple[nn.BatchNorm2d, ...]:
        """Those that follow each stage."""
        return batch_norms(map(self.get_submodule, ("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1")))

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        """The pooled last stage after its batch norm and ReLU."""
        x = self.conv1(images)
        maps.keep(x, x)
        normal = x
        # The pre-activation of a stage is the output of the batch norm that follows it.
        for stage, norm in zip((self.block1, self.block2, self.block3), self.norms_before_relu(), strict=True):
            x = stage(x)
            if maps.wants_preactivations or norm is self.bn1:
                normal = norm(x)
            maps.keep(x, normal)
        return pool(F.relu(normal, inplace=not maps.wants_preactivations))


for _depth, _widening in ((16, 1), (16, 2), (40, 1), (40, 2)):
    NETWORKS.register(f"wrn_{_depth}_{_widening}")(Entry(partial(WideResNet, _depth, _widening)))
