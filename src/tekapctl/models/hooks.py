"""Adapts networks that are not in the zoo: a trial forward pass finds the layers to hook."""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tekapctl.errors import TekapctlError, UsageError, described, lacking_memory
from tekapctl.models.knowledge import Knowledge
from tekapctl.models.network import Maps, Network

_SIZES = (64, 224, 32, 28, 299, 384)
"""Image sizes to try, in pixels, until the network accepts one."""
_REMEDY = "Write a factory that returns a tekapctl.models.Network, and name it as package.module:factory."


class HookSite(NamedTuple):
    """One call of a module in a forward pass: the module's name and the number of the call."""

    module: str
    call: int


@dataclass
class HookState:
    """Which tensors the hooks collect, and those of the last forward pass."""

    wanted: frozenset[tuple[str, HookSite]]  # as ("output", site) or ("input", site)
    seen: dict[tuple[str, HookSite], Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # of each module so far

    def begin(self) -> None:
        """Forget the last forward pass."""
        self.seen.clear()
        self.calls.clear()


@dataclass
class ForwardHook:
    """A hook on one module; an object, so that copies of the network have their own hooks."""

    state: HookState
    name: str

    def __call__(self, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        """Collect the tensors of a call."""
        place = HookSite(self.name, self.state.calls[self.name])
        self.state.calls[self.name] += 1
        for key, tensor in ((("output", place), output), (("input", place), inputs[0] if inputs else None)):
            if key in self.state.wanted and isinstance(tensor, Tensor):
                self.state.seen[key] = tensor


class _Call(NamedTuple):
    place: HookSite
    source: Tensor | None
    output: Tensor
    is_activation: bool


class ExternalNetwork(Network):
    """Adapts any classifier that ends with a linear layer, and any network that ends with an embedding.

    The embedding is the input of that layer. A network that says `num_classes = 0`, as timm's self-supervised ones do,
    has no classifier: its output is the embedding. The feature maps are the last ones of each size; the patch tokens of
    a transformer are a map, without class token and registers. Pre-activations of the maps are the inputs of the ReLU
    modules that produced them, or the maps themselves if these have negative values, as in blocks that do not end with
    a ReLU.

    Args:
        network: The network; in-place activations are made out-of-place.
        name: Its name, for messages.
        in_channels: Number of image channels.

    Raises:
        UsageError: It does not accept images with these channels, or ends with neither.
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
        self._classifier: HookSite | None = None
        if logits.dim() == 2 and getattr(network, "num_classes", None) == 0:
            self.num_classes = 0
        elif logits.dim() == 2 and classifiers and (source := classifiers[-1].source) is not None and source.dim() == 2:
            self.num_classes = logits.shape[1]
            self._classifier = classifiers[-1].place
            self.classifier_name = f"network.{self._classifier.module}"
        else:
            raise UsageError(f"{name} does not end with a linear layer, whose input is the embedding.", _REMEDY)
        feature_maps = _feature_maps(calls, self.trial_size)
        self._stages = [stage.place for stage in feature_maps]
        before = [found for stage in feature_maps if (found := _before_activation(stage, calls)) is not None]
        self._before = before if len(before) == len(feature_maps) else []
        self._taken: torch.Size | None = None
        self._state = HookState(
            frozenset({*self._before, *(("output", stage) for stage in self._stages)})
            | ({("input", self._classifier)} if self._classifier is not None else frozenset())
        )
        for watched in sorted({place.module for _, place in self._state.wanted}):
            network.get_submodule(watched).register_forward_hook(ForwardHook(self._state, watched))

    @property
    def classifier_layer(self) -> nn.Module:
        """The last layer; the identity for a network without classes."""
        return nn.Identity() if self._classifier is None else super().classifier_layer

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        """The classifier's input, from a pass through the whole network."""
        return self._pass(images, maps)[1]

    def knowledge(
        self, images: Float[Tensor, "batch c h w"], *, feature_maps: bool = True, preactivations: bool = False
    ) -> Knowledge:
        """Compute knowledge of a batch; pre-activations are empty if they cannot be hooked.

        Raises:
            UsageError: The network does not accept the channels or the size of the images.
        """
        maps = Maps(feature_maps, preactivations and bool(self._before))
        try:
            logits, embedding = self._pass(images, maps)
        except TekapctlError:
            raise
        except Exception as error:
            # The network has accepted this size before, so the images are not the cause.
            if images.shape[1:] == self._taken or lacking_memory(error) is not None:
                raise
            size = "x".join(map(str, images.shape[1:]))
            problem = f"{self.name} does not accept images of {size}: {described(error)}."
            raise UsageError(problem, "Use images of the size that it expects.") from error
        if images.shape[1:] != self._taken:
            self._taken = images.shape[1:]
        return Knowledge(logits, embedding, tuple(maps.feature_maps), tuple(maps.preactivations))

    def _pass(self, images: Tensor, maps: Maps) -> tuple[Tensor, Tensor]:
        self._state.begin()
        logits = _logits(self.network(images))
        if self._classifier is not None and logits.shape[1:] != (self.num_classes,):
            found = f"logits of shape {list(logits.shape)}, but {self.num_classes} classes in its first pass"
            raise TekapctlError(f"{self.name} returned {found}.", _REMEDY)
        seen = dict(self._state.seen)
        self._state.begin()
        try:
            for number, stage in enumerate(self._stages):
                output = _as_map(seen["output", stage])
                maps.keep(output, _as_map(seen[self._before[number]]) if self._before else output)
            if self._classifier is None:
                return logits[:, :0], logits
            return logits, seen["input", self._classifier]
        except KeyError as error:
            (_, place), *_ = error.args
            problem = f"{self.name} did not call its layer {place.module} as often as in its first pass"
            raise TekapctlError(f"{problem}, but the output of that call is needed.", _REMEDY) from None

    @torch.no_grad()
    def _trial(self) -> tuple[list[_Call], Tensor]:
        """All calls of modules in one forward pass, in the order in which they end, and the logits."""
        calls: list[_Call] = []
        count: dict[str, int] = defaultdict(int)

        def note(name: str) -> object:
            def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
                place = HookSite(name, count[name])
                count[name] += 1
                if isinstance(output, Tensor):
                    source = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
                    calls.append(_Call(place, source, output, isinstance(module, _ACTIVATIONS)))

            return hook

        hooks = [m.register_forward_hook(note(name)) for name, m in self.network.named_modules() if name]
        was_training, problem = self.network.training, ""
        self.network.eval()
        try:
            for size in dict.fromkeys((*_own_size(self.network), *_SIZES)):
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
        raise UsageError(f"{self.name} accepts no square images with {self.in_channels} channels: {problem}.", _REMEDY)


def _own_size(network: nn.Module) -> tuple[int, ...]:
    """The only image size that a transformer accepts, where it says so."""
    size = getattr(getattr(network, "patch_embed", None), "img_size", None)
    return (size[0],) if isinstance(size, tuple) and size and isinstance(size[0], int) else ()


_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.ELU, nn.Mish, nn.PReLU)


def _logits(output: object) -> Tensor:
    """The logits; networks with auxiliary heads return them first in training."""
    found = output[0] if isinstance(output, tuple) else output
    if not isinstance(found, Tensor):
        raise UsageError(f"The network returns {type(found).__name__} instead of logits.", _REMEDY)
    return found


def _feature_maps(calls: list[_Call], size: int) -> list[_Call]:
    """The last feature map of each size, from the largest to the smallest.

    Maps inside a block that halves the size are skipped: an inverted bottleneck expands its input first.
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
        grows = side is not None and side > min(last, default=side)  # upsampled, as before a classifier of fixed size
        if side is not None and not grows and not any((name, side) in halving for name in enclosing):
            last[side] = call
    return [last[side] for side in sorted(last, reverse=True)]


def _side(tensor: Tensor | None, size: int) -> int | None:
    """The size of a square feature map, if it is above 1 and an even fraction of the image size; else None.

    Attention weights and channels-last maps have four dimensions too, but no such size. Tokens have three.
    """
    if tensor is None or (tensor.dim() == 4 and tensor.shape[2] != tensor.shape[3]) or tensor.dim() not in (3, 4):
        return None
    side = tensor.shape[2] if tensor.dim() == 4 else _token_side(tensor)
    return side if side > 1 and abs(size / round(size / side) - side) <= 1 else None


_MOST_PREFIX_TOKENS = 16
"""Class tokens and registers before the patch tokens, at most."""


def _token_side(tokens: Tensor) -> int:
    """The side of the grid of patch tokens, the last of the tokens; 0 if they are no grid."""
    count = tokens.shape[1]
    side = math.isqrt(count)
    return side if count - side**2 <= _MOST_PREFIX_TOKENS else 0


def _as_map(tensor: Tensor) -> Tensor:
    """A feature map; patch tokens become one."""
    if tensor.dim() == 4:
        return tensor
    side = _token_side(tensor)
    return tensor[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side))


def _before_activation(stage: _Call, calls: list[_Call]) -> tuple[str, HookSite] | None:
    """Where the pre-activation of a feature map is; None if it cannot be hooked."""
    for call in reversed(calls):
        if call.is_activation and call.output is stage.output and call.source is not None:
            return "input", call.place
    return ("output", stage.place) if bool((stage.output < 0).any()) else None
