"""The networks, one file a family."""

from tekapctl.models.network import Network
from tekapctl.models.zoo import NETWORKS, build, learning_rate, names

__all__ = ["NETWORKS", "Network", "build", "learning_rate", "names"]
