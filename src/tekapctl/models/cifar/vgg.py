"""VGG with batch norm and one linear layer: Simonyan and Zisserman, ICLR 2015, as CIFAR experiments use it."""

from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.models.network import Maps, Network, batch_norms, init_spatial_fan_out, pool
from tekapctl.models.zoo import NETWORKS, Entry

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
LARGE_IMAGE = 64
"""Images of at least this size are pooled before the fourth stage too, as in the published code."""


class VGG(Network):
    """Five stages of convolutions with pooling between.

    Args:
        convolutions: Number of convolutions of each stage.
    """

    runs_layers_once = True

    def __init__(self, convolutions: tuple[int, ...], num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        inputs = (in_channels, *WIDTHS)
        for number, (width, count) in enumerate(zip(WIDTHS, convolutions, strict=True)):
            self.add_module(f"block{number}", _stage(inputs[number], width, count))
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        init_spatial_fan_out(self, linear_std=0.01)

    def norms_before_relu(self) -> tuple[nn.BatchNorm2d, ...]:
        feature_maps = (self.get_submodule(f"block{number}") for number in range(1, len(WIDTHS)))
        return batch_norms(stage[-1] for stage in feature_maps)  # type: ignore[index]

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        is_large = min(images.shape[2:]) >= LARGE_IMAGE
        x = F.relu(self.get_submodule("block0")(images), inplace=True)
        maps.keep(x, x)
        for number in range(1, len(WIDTHS)):
            if number < 4 or is_large:
                x = F.max_pool2d(x, 2)
            x = maps.activate(self.get_submodule(f"block{number}")(x))
        return pool(x)


def _stage(inputs: int, width: int, count: int) -> nn.Sequential:
    """Convolutions with batch norm and ReLU, without the last ReLU."""
    layers: list[nn.Module] = []
    for place in range(count):
        layers += [
            nn.Conv2d(inputs if place == 0 else width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(True),
        ]
    return nn.Sequential(*layers[:-1])


for _name, _convolutions in CONVOLUTIONS.items():
    NETWORKS.register(_name)(Entry(partial(VGG, _convolutions)))
