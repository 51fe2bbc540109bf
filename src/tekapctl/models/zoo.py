"""Where networks are found by name."""

from collections.abc import Callable
from dataclasses import dataclass

from tekapctl.errors import UsageError
from tekapctl.models import external, reused
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


NETWORKS: Registry[Entry] = Registry("network", "tekapctl.models.cifar")


def build(
    name: str, num_classes: int = 100, in_channels: int = 3, arguments: external.Arguments | None = None
) -> Network:
    """A new network.

    Args:
        name: Its name in the zoo, `torchvision:NAME`, `timm:NAME`, or a factory, `package.module:factory`.
        num_classes: Number of classes.
        in_channels: Number of channels of its images.
        arguments: Further arguments of a network from elsewhere.

    Raises:
        UsageError: There is no network of this name (the message has the nearest), or it does not take the arguments.
    """
    if name == reused.NAME:
        student, of_student, projection = reused.parted(arguments or {})
        return reused.ReusedClassifier(build(student, num_classes, in_channels, of_student), projection)
    if external.is_foreign(name):
        return external.build(name, num_classes, in_channels, arguments or {})
    if arguments:
        raise UsageError(f"The network {name} takes no arguments.", "Leave out --model-arg.")
    return NETWORKS[name].factory(num_classes, in_channels)


def names() -> list[str]:
    """The names of all networks."""
    return NETWORKS.names()


def learning_rate(name: str) -> float:
    """The published protocol's first learning rate for a network; the usual one for a network from elsewhere."""
    return Entry.learning_rate if external.is_foreign(name) else NETWORKS[name].learning_rate


def is_known(name: str) -> bool:
    """Whether a name is of a network of the zoo, or has the form of one from elsewhere."""
    return external.is_foreign(name) or name in NETWORKS


def check(name: str) -> None:
    """Refuse a name that is no network's.

    Raises:
        UsageError: There is none in the zoo; those from elsewhere are looked for when they are built.
    """
    if not external.is_foreign(name):
        NETWORKS[name]
