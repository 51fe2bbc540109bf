"""Networks, their outputs, and networks of other libraries."""

from tekapctl.models.network import Network
from tekapctl.models.zoo import NETWORKS, build, check, is_known, learning_rate, names

__all__ = ["NETWORKS", "Network", "build", "check", "is_known", "learning_rate", "names"]
