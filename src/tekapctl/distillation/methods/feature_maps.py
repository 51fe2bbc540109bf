"""Methods of feature maps: pairs of the student's and the teacher's maps, and connectors between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.distillation.methods import Batch, Knowledge, Pair
from tekapctl.distillation.methods.method import TwoSidedMethod, no_maps
from tekapctl.distillation.tekap import AugmentedTeachers
from tekapctl.errors import UsageError

Map = Float[Tensor, "batch _c _h _w"]


class MapPair(NamedTuple):
    """A feature map of the student and the teacher's map that it learns from."""

    student: Map
    teacher: Map


@dataclass(frozen=True)
class Pairing:
    """Which feature maps a method compares: those of both networks, the last with the last.

    The published codes pair maps by number, in networks of equally many stages; if one has more, its first maps are
    left out.

    Attributes:
        preactivations: Whether it compares the maps before their ReLU.
        first: Number of first maps to leave out.
        pooled: Whether to average-pool the larger map of a pair to the smaller one's size, as in attention transfer.
        equal_channels: Whether both maps of a pair must have the same number of channels.
    """

    preactivations: bool = False
    first: int = 0
    pooled: bool = True
    equal_channels: bool = False

    def __call__(self, student: Sequence[Map], teacher: Sequence[Map]) -> list[MapPair]:
        """The pairs of both networks' maps, first to last.

        Raises:
            UsageError: A network has no maps, or not enough of them.
        """
        fewest = min(len(student), len(teacher))
        if not fewest:
            raise no_maps("one of the networks")
        if fewest <= self.first:
            raise UsageError(
                f"The method reads feature maps after the first {self.first}, and one of the networks has only "
                f"{fewest}.",
                "Choose another method, or write the network as a tekapctl.models.Network with more feature maps.",
            )
        count = fewest - self.first
        pairs = map(MapPair, student[-count:], teacher[-count:])
        return [of_one_size(*pair) for pair in pairs] if self.pooled else list(pairs)


def of_one_size(student: Map, teacher: Map) -> MapPair:
    """Two maps, the larger one average-pooled to the smaller one's size."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return MapPair(*(x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size) for x in (student, teacher)))


class FeatureMapMethod(TwoSidedMethod):
    """A loss of pairs of feature maps, which `pairing` declares; by default the sum of `pair_loss` over the pairs.

    Raises:
        UsageError: A network has too few maps, or the channels of a pair differ where they must not.
    """

    pairing: ClassVar[Pairing] = Pairing()
    couples_samples = False

    def __init__(self, spec: Any, pair: Pair) -> None:
        super().__init__(spec)
        for number, (student, teacher) in enumerate(self.pairs(pair.student, pair.teacher)):
            ours, theirs = student.shape[1], teacher.shape[1]
            if self.pairing.equal_channels and ours != theirs:
                raise UsageError(
                    f"The method {spec.name} compares feature maps channel by channel, and map {number + 1} has {ours} "
                    f"channels in the student and {theirs} in the teacher.",
                    "Use networks of one width, such as resnet56 and resnet20, or another method.",
                )

    def pairs(self, student: Knowledge, teacher: Knowledge) -> list[MapPair]:
        """The feature maps that belong together."""
        if self.pairing.preactivations:
            return self.pairing(student.preactivations, teacher.preactivations)
        return self.pairing(student.feature_maps, teacher.feature_maps)

    def student_side(self, student: Knowledge, teacher: Knowledge) -> Any:
        """The student's maps, each connected to the teacher's; and the student, for the pairs."""
        pairs = self.pairs(student, teacher)
        return student, [self.connect(number, pair.student) for number, pair in enumerate(pairs)]

    def compare(self, ours: Any, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The sum over the pairs."""
        return torch.stack(self.pair_losses(ours, teacher, batch)).sum()

    def pair_losses(self, ours: Any, teacher: Knowledge, batch: Batch) -> list[Float[Tensor, ""]]:
        """The loss of each pair."""
        student, connected = ours
        pairs = enumerate(zip(connected, self.pairs(student, teacher), strict=True))
        return [self.pair_loss(number, ours, pair.teacher, batch) for number, (ours, pair) in pairs]

    def connect(self, number: int, student: Map) -> Any:
        """What `pair_loss` compares of the student's map, numbered from 0: the map itself."""
        return student

    def pair_loss(self, number: int, ours: Any, teacher: Map, batch: Batch) -> Float[Tensor, ""]:
        """The loss of one pair, of what `connect` returned; for methods that do not override `compare`."""
        raise NotImplementedError


class InitFeatureMapMethod(FeatureMapMethod):
    """A loss of pairs of feature maps in the init stage, and none after it."""

    init_only = True

    def init_loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        return super().loss(student, teacher, batch)

    def augmented_init_loss(
        self, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers, batch: Batch
    ) -> Float[Tensor, ""]:
        return super().augmented_loss(student, teacher, augmented, batch)

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        return student.logits.new_zeros(())

    def augmented_loss(
        self, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers, batch: Batch
    ) -> Float[Tensor, ""]:
        return student.logits.new_zeros(())


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
        fits = min(kernel) >= 1 and max(kernel) <= _LARGEST_KERNEL and max(wanted) > 1
        self.resizes = False
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if size == [2 * each for each in wanted]:
            self.conv = nn.Conv2d(ours, theirs, 3, stride=2, padding=1)
        elif [2 * each for each in size] == wanted:
            self.conv = nn.ConvTranspose2d(ours, theirs, 4, stride=2, padding=1)
        else:
            self.conv = nn.Conv2d(ours, theirs, kernel if fits else 1)
            self.resizes = not fits and size != wanted
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
