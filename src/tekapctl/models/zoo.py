"""The registry of networks, and building them by name."""

from collections.abc import Callable
from dataclasses import dataclass

from tekapctl.errors import UsageError
from tekapctl.models import external, reused
from tekapctl.models.network import Network
from tekapctl.registry import Registry


@dataclass(frozen=True)
class Entry:
    """A network of the zoo."""

    factory: Callable[[int, int], Network]  # builds it from the numbers of classes and of input channels
    learning_rate: float = 0.05  # the published initial one


NETWORKS: Registry[Entry] = Registry("network", "tekapctl.models.cifar")


def build(
    name: str,
    num_classes: int = 100,
    in_channels: int = 3,
    arguments: external.Arguments | None = None,
    *,
    loads_weights: bool = True,
) -> Network:
    """Build a network of the zoo, `torchvision:NAME`, `timm:NAME`, or a factory, `package.module:factory`.

    With `loads_weights` false, the pretrained weights that the arguments ask a library for are not loaded.

    Raises:
        UsageError: There is no such network (the message has similar names), or it does not accept the arguments.
    """
    if name == reused.NAME:
        student, of_student, projection = reused.split_arguments(arguments or {})
        return reused.ReusedClassifier(build(student, num_classes, in_channels, of_student), projection)
    if external.is_external(name):
        return external.build(name, num_classes, in_channels, arguments or {}, loads_weights=loads_weights)
    if arguments:
        raise UsageError(f"The network {name} takes no arguments.", "Leave out the model arguments.")
    return _entry(name).factory(num_classes, in_channels)


def _entry(name: str) -> Entry:
    """The entry of a network.

    Raises:
        UsageError: There is none.
    """
    if name not in NETWORKS and (meant := external.in_library(name)) is not None:
        raise UsageError(f"There is no network named {name!r}.", f"Did you mean {meant}?")
    return NETWORKS[name]


def names() -> list[str]:
    """The names of all networks."""
    return NETWORKS.names()


def learning_rate(name: str) -> float:
    """The published initial learning rate of a network, or the usual one for an external model."""
    return Entry.learning_rate if external.is_external(name) else NETWORKS[name].learning_rate


def is_known(name: str) -> bool:
    """Whether a name is in the zoo or has the form of an external model."""
    return external.is_external(name) or name in NETWORKS


def check(name: str) -> None:
    """Refuse unknown names.

    Raises:
        UsageError: The name is not in the zoo; external models are looked up when they are built.
    """
    if not external.is_external(name):
        _entry(name)
