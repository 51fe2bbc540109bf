"""Networks that are not the zoo's, made to tell what they know: where to look is found in one trial pass."""

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tekapctl.errors import TekapctlError, UsageError, described, lacking_memory
from tekapctl.models.network import Knowledge, Maps, Network

_SIZES = (64, 224, 32, 28, 299, 384)
"""Pixels a side of the images of the trial, until one is taken."""
_WRITE_ONE = "Write a factory that returns a tekapctl.models.Network, and name it as package.module:factory."


@dataclass(frozen=True)
class Place:
    """Where a tensor passes: a module's name, and which of its calls in one pass."""

    module: str
    call: int


@dataclass
class Look:
    """What is looked at in each pass, and what was seen in the last.

    Attributes:
        outputs: Places whose output is wanted.
        inputs: Places whose input is wanted.
        seen: The tensors; `("output", place)` and `("input", place)` name them.
    """

    outputs: frozenset[Place]
    inputs: frozenset[Place]
    seen: dict[tuple[str, Place], Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def begin(self) -> None:
        """Forget the last pass."""
        self.seen.clear()
        self.calls.clear()


@dataclass
class Watch:
    """A hook on one module; an object, so that a copy of the network has copies of its own."""

    look: Look
    name: str

    def __call__(self, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        """Keep what is wanted of a call."""
        place = Place(self.name, self.look.calls[self.name])
        self.look.calls[self.name] += 1
        if place in self.look.outputs and isinstance(output, Tensor):
            self.look.seen["output", place] = output
        if place in self.look.inputs and inputs and isinstance(inputs[0], Tensor):
            self.look.seen["input", place] = inputs[0]


@dataclass(frozen=True)
class _Call:
    place: Place
    source: Tensor | None
    output: Tensor
    is_activation: bool


class Adapted(Network):
    """Any classifier with a last linear layer.

    The embedding is that layer's input. The stages are the last feature maps of each size. The same before their ReLU
    are what a ReLU module took that gave them, or the maps themselves where they have negative values, as those of
    blocks that end without one.

    Args:
        network: The classifier; its activations are made to leave their input as it is.
        name: What the user calls it.
        in_channels: Number of channels of its images.

    Raises:
        UsageError: It takes no images of these channels, or has no last linear layer.
    """

    def __init__(self, network: nn.Module, name: str, in_channels: int) -> None:
        super().__init__(0, in_channels)
        self.name = name
        for module in network.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # type: ignore[assignment]
        self.network = network
        calls, logits = self._trial()
        classifiers = [
            call
            for call in calls
            if isinstance(network.get_submodule(call.place.module), nn.Linear) and torch.equal(call.output, logits)
        ]
        if logits.dim() != 2 or not classifiers or classifiers[-1].source is None or classifiers[-1].source.dim() != 2:
            raise UsageError(f"{name} has no linear layer at its end whose input is an embedding.", _WRITE_ONE)
        self.num_classes = logits.shape[1]
        self._classifier = classifiers[-1].place
        feature_maps = _stages(calls, self.trial_size)
        self._stages = [stage.place for stage in feature_maps]
        before = [found for stage in feature_maps if (found := _before_activation(stage, calls)) is not None]
        self._before = before if len(before) == len(feature_maps) else []
        inputs = {self._classifier, *(place for kind, place in self._before if kind == "input")}
        outputs = set(self._stages)
        self._taken: torch.Size | None = None
        self._look = Look(frozenset(outputs), frozenset(inputs))
        for watched in sorted({place.module for place in inputs | outputs}):
            network.get_submodule(watched).register_forward_hook(Watch(self._look, watched))

    @property
    def classifier_layer(self) -> nn.Module:
        """The layer from embedding to logits."""
        return self.network.get_submodule(self._classifier.module)

    @property
    def classifier_name(self) -> str:
        """That layer's name in `network`."""
        return self._classifier.module

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        """The classifier's input; the whole network is passed to find it."""
        return self._pass(images, maps)[1]

    def knowledge(
        self, images: Float[Tensor, "batch c h w"], *, feature_maps: bool = True, preactivations: bool = False
    ) -> Knowledge:
        """What the network says of a batch; no maps before their ReLU where it does not tell them.

        Raises:
            UsageError: The images have another number of channels, or a size that the network does not take.
        """
        maps = Maps(feature_maps, preactivations and bool(self._before))
        try:
            logits, embedding = self._pass(images, maps)
        except TekapctlError:
            raise
        except Exception as error:
            # Of a size that it has taken before, images are not to blame.
            if images.shape[1:] == self._taken or lacking_memory(error) is not None:
                raise
            size = "x".join(str(side) for side in images.shape[1:])
            raise UsageError(
                f"{self.name} does not take images of {size}: {described(error)}.",
                "Use images of the size that it is made for.",
            ) from error
        if images.shape[1:] != self._taken:
            self._taken = images.shape[1:]
        return Knowledge(logits, embedding, tuple(maps.feature_maps), tuple(maps.preactivations))

    def _pass(self, images: Tensor, maps: Maps) -> tuple[Tensor, Tensor]:
        self._look.begin()
        logits = _logits(self.network(images))
        if logits.shape[1:] != (self.num_classes,):
            found = list(logits.shape)
            raise TekapctlError(
                f"{self.name} gave logits of shape {found}; at first they were of {self.num_classes} classes.",
                _WRITE_ONE,
            )
        seen = dict(self._look.seen)
        self._look.begin()
        try:
            for number, stage in enumerate(self._stages):
                output = seen["output", stage]
                maps.keep(output, seen[self._before[number]] if self._before else output)
            return logits, seen["input", self._classifier]
        except KeyError as error:
            (_, place), *_ = error.args
            raise TekapctlError(
                f"{self.name} did not call its layer {place.module} as often as in its first pass: what the layer "
                "computes there is what is distilled.",
                _WRITE_ONE,
            ) from None

    @torch.no_grad()
    def _trial(self) -> tuple[list[_Call], Tensor]:
        """All calls of modules in one pass, in the order in which they end, and the logits."""
        calls: list[_Call] = []
        count: dict[str, int] = defaultdict(int)

        def note(name: str) -> object:
            def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
                place = Place(name, count[name])
                count[name] += 1
                if isinstance(output, Tensor):
                    source = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
                    calls.append(_Call(place, source, output, isinstance(module, _ACTIVATIONS)))

            return hook

        hooks = [m.register_forward_hook(note(name)) for name, m in self.network.named_modules() if name]
        was_training, problem = self.network.training, ""
        self.network.eval()
        try:
            for size in _SIZES:
                calls.clear()
                count.clear()
                try:
                    self.trial_size = size
                    return calls, _logits(self.network(torch.full((2, self.in_channels, size, size), 0.5)))
                except TekapctlError:
                    raise
                except Exception as error:
                    if lacking_memory(error) is not None:
                        raise
                    problem = problem or described(error)
        finally:
            self.network.train(was_training)
            for hook in hooks:
                hook.remove()
        raise UsageError(f"{self.name} takes no square images of {self.in_channels} channels: {problem}.", _WRITE_ONE)


_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.ELU, nn.Mish, nn.PReLU)


def _logits(output: object) -> Tensor:
    """The logits; networks with further heads give them first while they are trained."""
    found = output[0] if isinstance(output, tuple) else output
    if not isinstance(found, Tensor):
        raise UsageError(f"The network gives {type(found).__name__} and no logits.", _WRITE_ONE)
    return found


def _stages(calls: list[_Call], size: int) -> list[_Call]:
    """The last feature map of each size, from the largest to the smallest.

    What a block makes of its input before it halves it is none: an inverted bottleneck widens it first.
    """
    halving = {
        (call.place.module, side)
        for call in calls
        if (side := _side(call.source, size)) and (_side(call.output, size) or 1) < side
    }
    last: dict[int, _Call] = {}
    for call in calls:
        side, parts = _side(call.output, size), call.place.module.split(".")
        enclosing = [".".join(parts[:depth]) for depth in range(1, len(parts))]
        grows = side is not None and side > min(last, default=side)  # as before a classifier of fixed size
        if side is not None and not grows and not any((name, side) in halving for name in enclosing):
            last[side] = call
    return [last[side] for side in sorted(last, reverse=True)]


def _side(tensor: Tensor | None, size: int) -> int | None:
    """The side of a square feature map, above 1, of images of `size`; None of what is no such map.

    Attention and maps with their channels last have four dimensions too, and are no even share of the image.
    """
    if tensor is None or tensor.dim() != 4 or tensor.shape[2] != tensor.shape[3]:
        return None
    side = tensor.shape[2]
    return side if side > 1 and abs(size / round(size / side) - side) <= 1 else None


def _before_activation(stage: _Call, calls: list[_Call]) -> tuple[str, Place] | None:
    """Where a stage is before its ReLU; None where that is not to be seen."""
    for call in reversed(calls):
        if call.is_activation and call.output is stage.output and call.source is not None:
            return "input", call.place
    return ("output", stage.place) if bool((stage.output < 0).any()) else None
