"""MobileNetV2 of half width for small images: Sandler et al., CVPR 2018."""

from functools import partial
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from tekapctl.models.network import Maps, Network, batch_norms, conv, init_spatial_fan_out, pool, stack
from tekapctl.models.zoo import NETWORKS, Entry

# Expansion, channels, blocks and stride of each stage, at half of the paper's width.
STAGES = (
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)
EMBEDDING = 1280
FEATURE_MAP_STAGES = (1, 2, 4, 6)
"""The stages whose output is a feature map."""


class InvertedResidual(nn.Module):
    """A depthwise convolution between two 1x1 convolutions, with a shortcut where the shape allows it."""

    def __init__(self, expansion: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.has_shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            conv(inputs, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(True),
            conv(width, width, 3, stride, groups=width),
            nn.BatchNorm2d(width),
            nn.ReLU(True),
            conv(width, outputs, 1),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch _o _h _w"]:
        """No ReLU follows the last convolution."""
        out: Tensor = self.conv(x)
        return out + x if self.has_shortcut else out


class MobileNetV2(Network):
    """Seven stages of inverted residuals."""

    runs_layers_once = True

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.conv1 = nn.Sequential(conv(in_channels, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(True))
        widths = [16, *(stage[1] for stage in STAGES)]
        self.blocks = nn.ModuleList(
            stack(partial(InvertedResidual, expansion), inputs, outputs, blocks, stride)
            for (inputs, outputs), (expansion, _, blocks, stride) in zip(pairwise(widths), STAGES, strict=True)
        )
        self.conv2 = nn.Sequential(conv(widths[-1], EMBEDDING, 1), nn.BatchNorm2d(EMBEDDING), nn.ReLU(True))
        self.classifier = nn.Sequential(nn.Linear(EMBEDDING, num_classes))
        init_spatial_fan_out(self, linear_std=0.01)

    def norms_before_relu(self) -> tuple[nn.BatchNorm2d, ...]:
        return batch_norms(self.blocks[number][-1].conv[-1] for number in FEATURE_MAP_STAGES)  # type: ignore[index]

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        x = self.conv1(images)
        maps.keep(x, x)
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            if number in FEATURE_MAP_STAGES:
                maps.keep(x, x)
        return pool(self.conv2(x))


# The published learning rate is 0.01.
NETWORKS.register("MobileNetV2")(Entry(MobileNetV2, learning_rate=0.01))
