"""Networks from elsewhere by name: `torchvision:NAME`, `timm:NAME`, or a user's factory, `package.module:factory`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tekapctl.errors import UsageError
from tekapctl.models.adapted import Adapted
from tekapctl.models.network import Network
from tekapctl.registry import imported, unknown_name

LIBRARIES = ("torchvision", "timm")
_FORMS = "Write it as torchvision:NAME, timm:NAME or package.module:factory, importable from this folder."

Argument = str | int | float | bool | list[int] | list[float]
"""What `--model-arg` can give."""
Arguments = Mapping[str, Argument]


def is_foreign(name: str) -> bool:
    """Whether a name is of a network from elsewhere."""
    return ":" in name


def build(name: str, num_classes: int, in_channels: int, arguments: Arguments) -> Network:
    """A new network from elsewhere.

    Pretrained weights of a library are asked for by its own argument (`weights=DEFAULT`, `pretrained=true`); where they
    are of another number of classes, the last layer is new.

    Args:
        name: `torchvision:NAME`, `timm:NAME` or `package.module:factory`.
        num_classes: Number of classes.
        in_channels: Number of channels of its images.
        arguments: Given to the library's or the user's factory.

    Raises:
        UsageError: There is no such network, it does not take the arguments, or it does not tell what is needed.
    """
    source, _, model = name.partition(":")
    made = _make(name, source, model, num_classes, in_channels, arguments)
    if isinstance(made, Network):
        network: Network = made
    else:
        if source == "torchvision" and in_channels != 3:
            _take_channels(made, in_channels, name)
        adapted = Adapted(made, name, in_channels)
        if adapted.num_classes != num_classes:
            _replace_classifier(adapted, num_classes)
            adapted = Adapted(made, name, in_channels)
        network = adapted
    if (network.num_classes, network.in_channels) != (num_classes, in_channels):
        raise UsageError(
            f"{name} made a network of {network.num_classes} classes and {network.in_channels} channels.",
            f"Let it make one of {num_classes} classes and {in_channels} channels, as it is asked.",
        )
    return network


def pretrained(name: str, arguments: Arguments) -> Network:
    """A library's network with its own pretrained weights and classes, downloaded by the library if need be.

    Raises:
        UsageError: It has none, or they cannot be had.
    """
    source, _, model = name.partition(":")
    own: Arguments = {"weights": "DEFAULT"} if source == "torchvision" else {"pretrained": True}
    made = _make(name, source, model, None, None, {**own, **arguments})
    return Adapted(made, name, 3)


def _make(
    name: str, source: str, model: str, classes: int | None, channels: int | None, arguments: Arguments
) -> nn.Module:
    try:
        if source == "torchvision":
            return _of_torchvision(model, classes, arguments)
        if source == "timm":
            return _of_timm(model, classes, channels, arguments)
        made = imported("network", name, _FORMS)(num_classes=classes, in_channels=channels, **arguments)
    except UsageError:
        raise
    except Exception as error:  # a factory may raise anything
        raise UsageError(
            f"The network {name} cannot be made: {type(error).__name__}: {error}.",
            "Connect this machine for weights that a library fetches, or give other arguments with "
            "--model-arg KEY=VALUE."
            if isinstance(error, OSError)
            else "Give it other arguments with --model-arg KEY=VALUE.",
        ) from None
    if not isinstance(made, nn.Module):
        raise UsageError(f"{name} made {type(made).__name__} and no network.", "Let it return a torch.nn.Module.")
    return made


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
    try:
        import timm
    except ImportError:
        raise UsageError("timm is not installed.", 'Install it with `pip install "tekapctl[timm]"`.') from None
    if not timm.is_model(model.split(".")[0]):
        raise unknown_name("timm network", model, timm.list_models())
    given: dict[str, Any] = dict(arguments)
    if classes is not None:
        given |= {"num_classes": classes, "in_chans": channels}
    made: nn.Module = timm.create_model(model, **given)
    return made


def _take_channels(network: nn.Module, channels: int, name: str) -> None:
    """Let the first convolution take images of other channels; pretrained kernels are summed for grey ones."""
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            new = nn.Conv2d(
                channels,
                module.out_channels,
                (module.kernel_size[0], module.kernel_size[1]),
                stride=(module.stride[0], module.stride[1]),
                padding=module.padding if isinstance(module.padding, str) else (module.padding[0], module.padding[1]),
                bias=module.bias is not None,
            )
            with torch.no_grad():
                if channels == 1:
                    new.weight.copy_(module.weight.sum(1, keepdim=True))
                if new.bias is not None and module.bias is not None:
                    new.bias.copy_(module.bias)
            network.set_submodule(path, new)
            return
    raise UsageError(f"{name} has no convolution that could take {channels} channels.", "Use colour images.")


def _replace_classifier(adapted: Adapted, classes: int) -> None:
    old = adapted.classifier_layer
    assert isinstance(old, nn.Linear)
    adapted.network.set_submodule(
        adapted.classifier_name, nn.Linear(old.in_features, classes, bias=old.bias is not None)
    )
