"""Normalisation of images: each network has its own mean, standard deviation and, if necessary, input size."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.errors import UsageError


class Normalization(nn.Module):
    """`(pixels / 255 - mean) / std` per channel, after resizing if the network has a fixed input size.

    Args:
        mean: Mean of each channel, in [0, 1].
        std: Standard deviation of each channel, in the same units.
        size: Height and width of the network's input. Default: images are not resized.
        train_size: Another height and width that is left as it is: the network was trained on smaller images.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        size: tuple[int, int] | None = None,
        train_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        check_normalization(mean, std)
        self.mean, self.std, self.size, self.train_size = tuple(mean), tuple(std), size, train_size
        means, deviations = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (mean, std))
        self.register_buffer("scale", 1 / (255 * deviations), persistent=False)
        self.register_buffer("shift", -means / deviations, persistent=False)

    def extra_repr(self) -> str:
        """Its constants, which are also part of the identity of cached teacher outputs."""
        trained = "" if self.train_size is None else f", train_size={self.train_size}"
        return f"mean={self.mean}, std={self.std}, size={self.size}{trained}"

    def forward(self, pixels: Shaped[Tensor, "batch c h w"]) -> Float[Tensor, "batch c _h _w"]:
        """Normalised images of pixels from 0 to 255, in channels-last order; floating-point ones get gradients."""
        if self.size is not None and pixels.shape[2:] not in (self.size, self.train_size):
            pixels = F.interpolate(pixels.float(), self.size, mode="bilinear", align_corners=False, antialias=True)
        if pixels.requires_grad:
            return torch.addcmul(self.shift, pixels, self.scale).contiguous(memory_format=torch.channels_last)
        channels = torch.broadcast_shapes(pixels.shape, self.scale.shape)
        dtype = torch.promote_types(pixels.dtype, self.scale.dtype)
        found = torch.empty(channels, dtype=dtype, device=pixels.device, memory_format=torch.channels_last)
        return torch.addcmul(self.shift, pixels, self.scale, out=found)


def check_normalization(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse invalid constants.

    Raises:
        UsageError: A value is not finite, a standard deviation is not positive, or their numbers differ.
    """
    problem = ""
    if len(mean) != len(std):
        problem = f"There are {len(mean)} means and {len(std)} standard deviations."
    elif not all(math.isfinite(value) and abs(value) < 1e6 for value in (*mean, *std)):
        problem = f"The means {list(mean)} or standard deviations {list(std)} are not finite."
    elif not all(value > 1e-6 for value in std):
        problem = f"The standard deviations {list(std)} are not all positive."
    if problem:
        raise UsageError(problem, "Give one finite mean and one positive standard deviation per channel.")
