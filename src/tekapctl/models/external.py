"""External models: `torchvision:NAME`, `timm:NAME`, or a user's factory, `package.module:factory`."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from tekapctl.errors import UsageError, require
from tekapctl.models.hooks import ExternalNetwork
from tekapctl.models.network import Network
from tekapctl.models.normalization import Normalization
from tekapctl.registry import load_code, unknown_name
from tekapctl.store.run import WEIGHTS

LIBRARIES = ("torchvision", "timm")
_FORMS = "Write it as torchvision:NAME, timm:NAME or package.module:factory, importable from this folder."

Argument = str | int | float | bool | list[int] | list[float]
"""Values of model arguments."""
Arguments = Mapping[str, Argument]
MAX_ARGUMENT = 65_536
"""Upper limit for widths, depths and sizes of networks."""
_FILE_ARGUMENTS = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Arguments of timm that would read other files or URLs than the requested weights."""


def is_external(name: str) -> bool:
    """Whether a name denotes an external model; `RUN:best` and `RUN:raw` are weights of a run."""
    return ":" in name and name.rpartition(":")[2] not in WEIGHTS


def in_library(name: str) -> str | None:
    """The full name of a network that torchvision, or timm if it is installed, has under a bare name; None for others.

    For messages: whoever writes `resnet18` means `torchvision:resnet18`.
    """
    from torchvision import models

    if name in models.list_models(module=models):
        return f"torchvision:{name}"
    if find_spec("timm") is not None and require("timm", "timm").is_model(name):
        return f"timm:{name}"
    return None


def build(
    name: str, num_classes: int, in_channels: int, arguments: Arguments, *, loads_weights: bool = True
) -> Network:
    """Build an external model.

    `pretrained=true` asks torchvision or timm for pretrained weights; torchvision's `weights=NAME` asks for particular
    ones. If they have another number of classes, the last layer is new.

    Args:
        name: `torchvision:NAME`, `timm:NAME` or `package.module:factory`.
        num_classes: Number of classes.
        in_channels: Number of image channels.
        arguments: Passed to the library's or the user's factory.
        loads_weights: Whether to load the pretrained weights that the arguments ask for; otherwise the same network has
            random ones.

    Raises:
        UsageError: There is no such network, it does not accept the arguments, or it cannot be adapted.
    """
    source, _, model = name.partition(":")
    arguments = _in_library_terms(source, arguments)
    given = arguments if loads_weights or source not in LIBRARIES else without_weights(arguments)
    made = _make(name, source, model, num_classes, in_channels, given)
    if source == "torchvision" and in_channels != 3:
        _take_channels(made, in_channels, name)
    network: Network = made if isinstance(made, Network) else ExternalNetwork(made, name, in_channels)
    if network is not made and network.num_classes != num_classes:
        old = network.classifier_layer
        if not isinstance(old, nn.Linear):
            raise UsageError(
                f"{name} has no classifier that could have {num_classes} classes.",
                "Use it as a teacher whose features are distilled, or write a factory that adds a classifier.",
            )
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
        network.set_submodule(network.classifier_name, new)
        network = ExternalNetwork(made, name, in_channels)
    if in_channels == 3 and source in LIBRARIES and (found := _normalization(made, source, model, arguments)):
        # Only mean and std: the student may train on images of another size.
        network.normalization = Normalization(found.mean, found.std)
    if (network.num_classes, network.in_channels) != (num_classes, in_channels):
        raise UsageError(
            f"{name} built a network with {network.num_classes} classes and {network.in_channels} channels.",
            f"It must have the {num_classes} classes and {in_channels} channels that it is called with.",
        )
    return network


def pretrained(name: str, arguments: Arguments) -> Network:
    """Build a library's network with its pretrained weights and classes; the library downloads them if necessary."""
    source, _, model = name.partition(":")
    if "weights" not in arguments:
        arguments = _in_library_terms(source, {"pretrained": True, **arguments})
    made = _make(name, source, model, None, None, arguments)
    network = ExternalNetwork(made, name, 3)
    network.normalization = _normalization(made, source, model, arguments)
    return network


def asks_for_weights(arguments: Arguments) -> bool:
    """Whether arguments ask a library for pretrained weights."""
    return bool(arguments.get("weights") or arguments.get("pretrained"))


def without_weights(arguments: Arguments) -> Arguments:
    """Arguments without those for pretrained weights."""
    return {key: value for key, value in arguments.items() if key not in ("weights", "pretrained")}


@dataclass(frozen=True)
class PretrainedWeights:
    """What a library's pretrained weights were trained for.

    Attributes:
        size: Height and width of the images in pixels.
        classes: Number of classes; 0 for a network without classifier.
    """

    size: int
    classes: int


def pretrained_weights(name: str) -> PretrainedWeights | None:
    """What the pretrained weights of `torchvision:NAME` or `timm:NAME` were trained for; None if there are none."""
    source, _, model = name.partition(":")
    if source == "torchvision":
        from torchvision import models

        if model not in models.list_models(module=models):
            return None
        weights = models.get_model_weights(model)["DEFAULT"]
        return PretrainedWeights(int(weights.transforms().crop_size[0]), len(weights.meta["categories"]))
    if source == "timm":
        timm = require("timm", "timm")
        config = timm.get_pretrained_cfg(model) if timm.is_model_pretrained(model) else None
        return None if config is None else PretrainedWeights(int(config.input_size[1]), int(config.num_classes))
    return None


def _in_library_terms(source: str, arguments: Arguments) -> Arguments:
    """The arguments that a library's own factory takes: torchvision knows `weights`, not `pretrained`."""
    if source != "torchvision" or "pretrained" not in arguments:
        return arguments
    if "weights" in arguments:
        raise UsageError(
            "The model arguments have both `pretrained` and `weights`.",
            "Give `pretrained`, or torchvision's `weights`.",
        )
    own: Arguments = {key: value for key, value in arguments.items() if key != "pretrained"}
    return {**own, "weights": "DEFAULT"} if arguments["pretrained"] else own


def _make(
    name: str, source: str, model: str, classes: int | None, channels: int | None, arguments: Arguments
) -> nn.Module:
    _check_arguments(name, arguments)
    try:
        if source == "torchvision":
            return _of_torchvision(model, classes, arguments)
        if source == "timm":
            return _of_timm(model, classes, channels, arguments)
        factory = load_code("network", name, _FORMS)
        if not callable(factory):
            raise UsageError(f"{name} is not a function that builds networks.", _FORMS)
        made = factory(num_classes=classes, in_channels=channels, **arguments)
    except UsageError:
        raise
    except Exception as error:  # factories can raise anything
        raise UsageError(
            f"The network {name} cannot be built: {type(error).__name__}: {error}.",
            "The library downloads its weights, which needs a network connection. With `model_args.pretrained=false` a "
            "network to train starts from random ones."
            if isinstance(error, OSError)
            else "Give it other model arguments.",
        ) from None
    if not isinstance(made, nn.Module):
        raise UsageError(f"{name} returned {type(made).__name__}, not a network.", "It must return a torch.nn.Module.")
    return made


def _check_arguments(name: str, arguments: Arguments) -> None:
    """Refuse arguments that would read other files or build a network of absurd size."""
    for key, value in arguments.items():
        if key in _FILE_ARGUMENTS:
            raise UsageError(f"The argument {key} of {name} is not allowed.", "Use a checkpoint file instead.")
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str | int | float) for each in values):
            raise UsageError(f"The argument {key} of {name} is neither a string nor a number.", "Use plain values.")
        if any(isinstance(each, int | float) and not -MAX_ARGUMENT <= each <= MAX_ARGUMENT for each in values):
            raise UsageError(f"The argument {key} of {name} exceeds {MAX_ARGUMENT:,}.", "Use a smaller value.")


def _of_torchvision(model: str, classes: int | None, arguments: Arguments) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if model not in known:
        raise unknown_name("torchvision network", model, known)
    given: dict[str, object] = dict(arguments)
    if classes is not None and not given.get("weights"):
        given.setdefault("num_classes", classes)
    made: nn.Module = models.get_model(model, **given)
    return made


def _of_timm(model: str, classes: int | None, channels: int | None, arguments: Arguments) -> nn.Module:
    timm = require("timm", "timm")
    if not timm.is_model(model.split(".")[0]):
        raise unknown_name("timm network", model, timm.list_models())
    given: dict[str, Any] = dict(arguments)
    if classes is not None:
        given |= {"num_classes": classes, "in_chans": channels}
    made: nn.Module = timm.create_model(model, **given)
    return made


def _normalization(made: nn.Module, source: str, model: str, arguments: Arguments) -> Normalization | None:
    """The preprocessing of a library's pretrained weights; None without such weights."""
    if source == "timm":
        config = getattr(made, "pretrained_cfg", None) if arguments.get("pretrained") else None
        if not config or "mean" not in config:
            return None
        return Normalization(config["mean"], config["std"], tuple(config["input_size"][1:]))
    weights = arguments.get("weights")
    if not weights:
        return None
    from torchvision import models

    known = models.get_model_weights(model)
    prepare = known[str(weights).rpartition(".")[2]].transforms()
    size = prepare.crop_size[0]
    return Normalization(prepare.mean, prepare.std, (size, size))


def _take_channels(network: nn.Module, channels: int, name: str) -> None:
    """Change the input channels of the first convolution; pretrained kernels are summed for grayscale images."""
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise UsageError(f"{name} has no convolution whose input could have {channels} channels.", "Use colour images.")
    weight, bias = first.weight, first.bias
    first.in_channels = channels
    first.weight = nn.Parameter(torch.empty(weight.shape[0], channels, *weight.shape[2:]))
    first.bias = None if bias is None else nn.Parameter(torch.empty_like(bias))
    first.reset_parameters()
    with torch.no_grad():
        if channels == 1:
            first.weight.copy_(weight.sum(1, keepdim=True))
        if bias is not None and first.bias is not None:
            first.bias.copy_(bias)
