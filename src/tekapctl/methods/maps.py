"""Which feature maps of student and teacher belong together."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tekapctl.errors import UsageError

Map = Float[Tensor, "batch _c _h _w"]


@dataclass(frozen=True)
class MapPair:
    """A student's feature map and the teacher's that it learns from."""

    student: Map
    teacher: Map


def pair_maps(student: Sequence[Map], teacher: Sequence[Map], *, first: int = 0, pooled: bool = True) -> list[MapPair]:
    """Maps of both networks, the last with the last.

    The published codes pair them by number, for networks of as many stages; where one has more, its first ones are left
    out. Of two maps of different sizes the larger is average-pooled to the smaller's, as attention transfer does,
    unless the method brings them to one size by itself.

    Args:
        student: The student's maps, first to last.
        teacher: The teacher's.
        first: How many of the first stages to leave out, in each network.
        pooled: Whether to bring both to the smaller size.

    Raises:
        UsageError: One network tells no such maps, or not enough of them.
    """
    fewest = min(len(student), len(teacher))
    if not fewest:
        raise no_maps("one of the networks")
    count = fewest - first
    if count <= 0:
        raise UsageError(
            f"The method reads feature maps behind the first {first}, and one of the networks has {fewest} in all.",
            "Choose another method, or write the network as a tekapctl.models.Network that tells more of them.",
        )
    pairs = zip(student[len(student) - count :], teacher[len(teacher) - count :], strict=True)
    return [MapPair(*(of_one_size(ours, theirs) if pooled else (ours, theirs))) for ours, theirs in pairs]


def no_maps(network: str) -> UsageError:
    """The error for a network that does not tell the maps that a method reads, as some from elsewhere."""
    return UsageError(
        f"The method reads feature maps that {network} does not tell, such as those before a ReLU.",
        "Choose another method, or write the network as a tekapctl.models.Network.",
    )


def of_one_size(one: Map, other: Map) -> tuple[Map, Map]:
    """Two maps, the larger average-pooled to the smaller's size."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    pooled = [x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size) for x in (one, other)]
    return pooled[0], pooled[1]


def require_equal_channels(method: str, pairs: Sequence[MapPair]) -> None:
    """Refuse a pair of networks whose maps have different numbers of channels.

    Raises:
        UsageError: They have; the message says which.
    """
    for number, pair in enumerate(pairs):
        ours, theirs = pair.student.shape[1], pair.teacher.shape[1]
        if ours != theirs:
            raise UsageError(
                f"The method {method} compares feature maps channel by channel, and map {number + 1} has {ours} "
                f"channels in the student and {theirs} in the teacher.",
                "Use networks of one width, such as resnet56 and resnet20, or another method.",
            )
