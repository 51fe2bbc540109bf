"""What an exported file computes besides the network: resizing, cropping, normalisation and softmax."""

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from tekapctl.models.normalization import Normalization


class Resize(nn.Module):
    """Take the centre crop with the wanted aspect ratio and resize it, as `decode` does with an image file.

    Two matrix products with Pillow's weights for antialiased bilinear resizing, each rounded to whole levels as Pillow
    does. Runtimes differ in their own resizing; they agree on a matrix product.

    Args:
        size: Height and width in pixels.
        crop_fraction: Side of the centre crop as a fraction of the largest one.
    """

    def __init__(self, size: tuple[int, int], crop_fraction: float) -> None:
        super().__init__()
        self.size, self.crop_fraction = size, crop_fraction

    def forward(self, pixels: Float[Tensor, "batch c down across"]) -> Float[Tensor, "batch c h w"]:
        """Resize images of any height and width, with values from 0 to 255."""
        (height, width), (down, across) = self.size, pixels.shape[2:]
        # As tensors, so that a traced network computes them for the images that it gets.
        high, wide = (torch.scalar_tensor(length, dtype=torch.float32) for length in (down, across))
        scale = torch.minimum(high / height, wide / width) * self.crop_fraction
        by_row = (pixels @ _weights(across, wide, width, scale).T + 0.5).floor()
        return (_weights(down, high, height, scale) @ by_row + 0.5).floor()


def _weights(count: int, length: Tensor, size: int, scale: Tensor) -> Float[Tensor, "size _count"]:
    """The weight of each input pixel in each output pixel along one side: a triangle around its centre.

    There are `count` input pixels (`length` is the same as a tensor), `size` output pixels, and `scale` of the former
    per one of the latter.
    """
    centers = length / 2 + (torch.arange(size, dtype=torch.float32) + (0.5 - size / 2)) * scale
    places = torch.arange(count, dtype=torch.float32) + 0.5
    near = (1 - (places - centers.unsqueeze(1)).abs() / scale.clamp(min=1)).clamp(min=0)
    return near / near.sum(1, keepdim=True)


class Classifier(nn.Module):
    """From pixels at the size of the training images to probabilities.

    Args:
        network: From normalised images to logits.
        normalization: Of the network.
        channels: Number of image channels; one channel is repeated if the network takes more.
        size: Height and width of the training images.
    """

    scale: Tensor
    shift: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, network: nn.Module, normalization: Normalization, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.repeats = normalization.scale.shape[1] // channels
        self.register_buffer("scale", normalization.scale.clone())
        self.register_buffer("shift", normalization.shift.clone())
        # A network may take larger images than the dataset has; these levels are not rounded.
        self.target = None if normalization.size in (None, size) else normalization.size
        for name, length, target in zip(("rows", "columns"), size, self.target or size, strict=True):
            scale = torch.tensor(length / target)
            self.register_buffer(name, _weights(length, torch.tensor(float(length)), target, scale), persistent=True)

    def forward(self, pixels: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch classes"]:
        """Probabilities of pixels from 0 to 255."""
        if self.target is not None:
            pixels = self.rows @ (pixels @ self.columns.T)
        if self.repeats > 1:
            pixels = pixels.repeat(1, self.repeats, 1, 1)
        return self.network(pixels * self.scale + self.shift).softmax(1)


class Deployed(nn.Module):
    """From images of any size to probabilities."""

    def __init__(self, resize: Resize, classifier: Classifier) -> None:
        super().__init__()
        self.resize, self.classifier = resize, classifier

    def forward(self, images: UInt8[Tensor, "batch down across c"]) -> Float[Tensor, "batch classes"]:
        """Probabilities of images as image libraries return them."""
        return self.classifier(self.resize(images.permute(0, 3, 1, 2).float()))


class Half(nn.Module):
    """A network, converted to float16, between inputs and outputs in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, images: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        return self.network(images.half()).float()
