"""Which feature maps of student and teacher belong together."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
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
    """The error for a network without the feature maps that a method reads, as some external ones."""
    return UsageError(
        f"The method reads feature maps that {network} does not return, such as those before a ReLU.",
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


_LARGEST_KERNEL = 16
"""Pixels a side; that of larger images' maps would have more weights than both networks."""


class Connector(nn.Module):
    """A convolution with batch norm from the student's channels and size to the teacher's.

    A map of equal size goes through a 1x1 convolution, one of twice the size through a 3x3 convolution of stride 2, one
    of half the size through a transposed 4x4 convolution of stride 2, any other larger one through a convolution
    without padding whose kernel is as large as that takes. All other maps, for which nothing is published, and those
    that would take a kernel of more than 16 pixels, are pooled to the teacher's size before a 1x1 convolution.

    Args:
        pair: Maps of both networks.
        relu: Whether a ReLU follows.
    """

    def __init__(self, pair: MapPair, *, relu: bool) -> None:
        super().__init__()
        (ours, *size), (theirs, *wanted) = pair.student.shape[1:], pair.teacher.shape[1:]
        kernel = (size[0] + 1 - wanted[0], size[1] + 1 - wanted[1])
        self.resizes = False
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if size == wanted:
            self.conv = nn.Conv2d(ours, theirs, 1)
        elif size == [2 * each for each in wanted]:
            self.conv = nn.Conv2d(ours, theirs, 3, stride=2, padding=1)
        elif [2 * each for each in size] == wanted:
            self.conv = nn.ConvTranspose2d(ours, theirs, 4, stride=2, padding=1)
        elif min(kernel) >= 1 and max(kernel) <= _LARGEST_KERNEL and max(wanted) > 1:
            self.conv = nn.Conv2d(ours, theirs, kernel)
        else:
            self.resizes = True
            self.conv = nn.Conv2d(ours, theirs, 1)
        self.bn = nn.BatchNorm2d(theirs)
        self.wanted = (wanted[0], wanted[1])
        self.relu = relu

    def forward(self, maps: Map) -> Map:
        """The student's map in the shape of the teacher's."""
        if self.resizes:
            maps = F.adaptive_avg_pool2d(maps, self.wanted)
        found: Float[Tensor, "batch _c _h _w"] = self.bn(self.conv(maps))
        return F.relu(found) if self.relu else found


def connector_or_identity(pair: MapPair) -> nn.Module:
    """A connector without ReLU, or nothing where both maps have one shape."""
    if pair.student.shape[1:] == pair.teacher.shape[1:]:
        return nn.Identity()
    return Connector(pair, relu=False)
