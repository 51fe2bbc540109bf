"""The interface of all networks, and what they are built from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tekapctl.errors import UsageError
from tekapctl.models.knowledge import Knowledge
from tekapctl.models.normalization import Normalization
from tekapctl.models.together import layers_together

SMALLEST_IMAGE = 8


@dataclass
class Maps:
    """Collects the requested feature maps of a forward pass, and the same maps before their ReLU."""

    wants_feature_maps: bool
    wants_preactivations: bool
    feature_maps: list[Tensor] = field(default_factory=list)
    preactivations: list[Tensor] = field(default_factory=list)

    def keep(self, stage: Tensor, preactivation: Tensor) -> None:
        """Collect a feature map and its pre-activation."""
        if self.wants_feature_maps:
            self.feature_maps.append(stage)
        if self.wants_preactivations:
            self.preactivations.append(preactivation)

    def activate(self, preactivation: Tensor) -> Tensor:
        """Apply the ReLU at the end of a stage, and collect the map before and after it."""
        stage = F.relu(preactivation, inplace=not self.wants_preactivations)
        self.keep(stage, preactivation)
        return stage

    def residual_stage(self, x: Tensor, blocks: nn.Module) -> Tensor:
        """Run blocks with a ReLU after each, and collect the map before and after the last one."""
        *inner, last = cast("Iterable[Residual]", blocks.children())
        for block in inner:
            x = block.activated(x)
        if self.wants_preactivations:
            return self.activate(last(x))
        x = last.activated(x)
        self.keep(x, x)
        return x


class Residual(nn.Module):
    """A block that returns a sum before its ReLU."""

    def activated(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch _o _h _w"]:
        """The sum after its ReLU."""
        found: Tensor = self(x)
        return F.relu(found, inplace=True)

    def merge_biases(self) -> None:
        """Add the bias of the shortcut's convolution to that of the other summand, where both have one."""


class Network(nn.Module, ABC):
    """An image classifier that returns the knowledge that distillation losses read.

    Subclasses name their last layer with `classifier_name`, or override `classifier_layer`.
    """

    normalization: Normalization | None
    """The normalisation it was trained with; None if it is not known yet."""
    classifier_name: str = "classifier"
    """Name of the module from embedding to logits."""
    runs_layers_once: bool = False
    """Whether each of its layers runs once in each forward pass, in the precision that the caller has set."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.normalization = None

    def normalize(self, pixels: Shaped[Tensor, "batch c h w"]) -> Float[Tensor, "batch c _h _w"]:
        """Normalise pixels from 0 to 255; without a normalisation, images are returned unchanged."""
        return pixels if self.normalization is None else self.normalization(pixels)

    def recipe(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The name and arguments with which `models.build` builds it again, from those it was first built with."""
        return name, dict(arguments)

    @abstractmethod
    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        """Compute the input of the classifier, and collect feature maps in `maps`."""

    @property
    def classifier_layer(self) -> nn.Module:
        """The layer from embedding to logits."""
        return self.get_submodule(self.classifier_name)

    def modules_after_feature_maps(self) -> tuple[nn.Module, ...]:
        """The modules after the last feature map, which a method's init stage does not train."""
        return (self.classifier_layer,)

    def norms_before_relu(self) -> tuple[nn.BatchNorm2d, ...]:
        """The last batch norm before the ReLU of each feature map except the first; empty if unknown."""
        return ()

    def knowledge(
        self, images: Float[Tensor, "batch c h w"], *, feature_maps: bool = True, preactivations: bool = False
    ) -> Knowledge:
        """Compute logits, embedding and the requested feature maps, after and before their ReLU, of normalised images.

        Raises:
            UsageError: The images are too small or have another number of channels.
        """
        _, channels, height, width = images.shape
        if channels != self.in_channels:
            raise UsageError(
                f"The network takes images with {self.in_channels} channels, but got {channels}.",
                "Build it with in_channels, or convert the images.",
            )
        if min(height, width) < SMALLEST_IMAGE:
            raise UsageError(f"Images of {height}x{width} pixels are too small.", "Use images of at least 8x8 pixels.")
        maps = Maps(feature_maps, preactivations)
        together = self.training and self.runs_layers_once and images.is_cuda and not torch.compiler.is_compiling()
        with layers_together(self.modules()) if together else nullcontext():
            embedding = self.embed(images, maps)
            logits = self.classifier_layer(embedding)
        return Knowledge(
            logits=logits,
            embedding=embedding,
            feature_maps=tuple(maps.feature_maps),
            preactivations=tuple(maps.preactivations),
        )

    def forward(self, images: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch classes"]:
        """Compute the logits."""
        return self.knowledge(images, feature_maps=False).logits


def batch_norms(modules: Iterable[object]) -> tuple[nn.BatchNorm2d, ...]:
    """The batch norms among some modules, in order."""
    return tuple(module for module in modules if isinstance(module, nn.BatchNorm2d))


def pool(maps: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c"]:
    """Global average pooling."""
    return F.adaptive_avg_pool2d(maps, 1).flatten(1)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias; with stride 1 it keeps the size."""
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)


def stack(
    block: Callable[[int, int, int], nn.Module], inputs: int, outputs: int, blocks: int, stride: int
) -> nn.Sequential:
    """Blocks of one width, each built from inputs, outputs and stride; the first one changes the number of channels."""
    first = block(inputs, outputs, stride)
    return nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(blocks - 1)))


def init_fan_out(network: nn.Module) -> None:
    """He initialisation with fan-out: He et al., ICCV 2015, equation 10, backward case."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def init_spatial_fan_out(network: nn.Module, *, linear_std: float | None = None) -> None:
    """Initialise convolutions from a normal distribution with variance 2 / (kernel area * outputs), and biases with 0.

    With `linear_std`, the weights of linear layers get that standard deviation.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            area = module.kernel_size[0] * module.kernel_size[1]
            nn.init.normal_(module.weight, 0.0, (2.0 / (area * module.out_channels)) ** 0.5)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0.0, linear_std)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)


def parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def macs(network: Network, image_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of (channels, height, width)."""
    was_training, parameter = network.training, next(network.parameters())
    try:
        with FlopCounterMode(display=False) as counter:
            network.eval()(torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        network.train(was_training)
    # How attention is computed, and so what is counted of it, depends on the device.
    counts, aten = counter.get_flop_counts()["Global"], torch.ops.aten
    return sum(counts.get(operator, 0) for operator in (aten.convolution, aten.mm, aten.addmm)) // 2
