"""Pairs of the student's and the teacher's feature maps, and connectors between them."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.errors import UsageError
from tekapctl.models.network import Knowledge

Map = Float[Tensor, "batch _c _h _w"]


@dataclass(frozen=True)
class MapPair:
    """A feature map of the student and the teacher's map that it learns from."""

    student: Map
    teacher: Map


@dataclass(frozen=True)
class Pairing:
    """Which feature maps a method compares; see `pair_maps`.

    Attributes:
        preactivations: Whether it compares the maps before their ReLU.
        first: Number of first maps to leave out.
        pooled: Whether the larger map of a pair is pooled to the smaller one's size.
        equal_channels: Whether both maps of a pair must have the same number of channels.
    """

    preactivations: bool = False
    first: int = 0
    pooled: bool = True
    equal_channels: bool = False

    def __call__(self, student: Knowledge, teacher: Knowledge) -> list[MapPair]:
        """The pairs of both networks' maps.

        Raises:
            UsageError: A network has no such maps, or not enough of them.
        """
        maps = (k.preactivations if self.preactivations else k.feature_maps for k in (student, teacher))
        return pair_maps(*maps, first=self.first, pooled=self.pooled)

    def check(self, method: str, student: Knowledge, teacher: Knowledge) -> None:
        """Refuse networks that the method cannot compare.

        Raises:
            UsageError: Maps are missing, or differ in channels where they must not.
        """
        pairs = self(student, teacher)
        if self.equal_channels:
            require_equal_channels(method, pairs)


def pair_maps(student: Sequence[Map], teacher: Sequence[Map], *, first: int = 0, pooled: bool = True) -> list[MapPair]:
    """Pair the maps of both networks, the last with the last.

    The published codes pair them by number, in networks of equally many stages; if one has more, its first maps are
    left out. The larger map of a pair is average-pooled to the smaller one's size, as in attention transfer, unless the
    method resizes maps itself.

    Args:
        student: The student's maps, first to last.
        teacher: The teacher's maps.
        first: Number of first maps to leave out in each network.
        pooled: Whether to pool both to the smaller size.

    Raises:
        UsageError: A network has no such maps, or not enough of them.
    """
    fewest = min(len(student), len(teacher))
    if not fewest:
        raise no_maps("one of the networks")
    count = fewest - first
    if count <= 0:
        raise UsageError(
            f"The method reads feature maps after the first {first}, and one of the networks has only {fewest}.",
            "Choose another method, or write the network as a tekapctl.models.Network with more feature maps.",
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
    """Two maps, the larger one average-pooled to the smaller one's size."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    pooled = [x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size) for x in (one, other)]
    return pooled[0], pooled[1]


def require_equal_channels(method: str, pairs: Sequence[MapPair]) -> None:
    """Refuse networks whose maps differ in their number of channels.

    Raises:
        UsageError: Those of a pair differ.
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
"""Pixels per side; a kernel for the maps of larger images would have more weights than both networks."""


class Connector(nn.Module):
    """A convolution with batch norm from the student's channels and size to the teacher's.

    The convolution is 1x1 for a map of the same size, 3x3 with stride 2 for one of twice the size, and a transposed 4x4
    with stride 2 for one of half the size. Any other larger map gets the kernel that fits without padding. All other
    maps, for which nothing is published, and those that need a kernel of more than 16 pixels, are pooled to the
    teacher's size before a 1x1 convolution.

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
    """A connector without ReLU; the identity if both maps have the same shape."""
    if pair.student.shape[1:] == pair.teacher.shape[1:]:
        return nn.Identity()
    return Connector(pair, relu=False)
