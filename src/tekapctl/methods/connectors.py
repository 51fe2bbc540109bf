"""What brings a student's feature map to the shape of the teacher's, as in RepDistiller."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.methods.maps import Map, MapPair

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
