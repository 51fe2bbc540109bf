"""Where networks are found by name."""

from collections.abc import Callable
from dataclasses import dataclass

from tekapctl.models.network import Network
from tekapctl.registry import Registry


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes:
        factory: Makes it for a number of classes and of input channels.
        learning_rate: The published protocol's first learning rate for it.
    """

    factory: Callable[[int, int], Network]
    learning_rate: float = 0.05


NETWORKS: Registry[Entry] = Registry("network", "tekapctl.models")


def build(name: str, num_classes: int = 100, in_channels: int = 3) -> Network:
    """A new network.

    Args:
        name: Its name in the zoo.
        num_classes: Number of classes.
        in_channels: Number of channels of its images.

    Raises:
        UsageError: There is no network of this name; the message has the nearest.
    """
    return NETWORKS[name].factory(num_classes, in_channels)


def names() -> list[str]:
    """The names of all networks."""
    return NETWORKS.names()


def learning_rate(name: str) -> float:
    """The published protocol's first learning rate for a network."""
    return NETWORKS[name].learning_rate
