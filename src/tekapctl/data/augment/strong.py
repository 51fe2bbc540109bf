"""Strong augmentation: two random changes and a cut-out, as methods that compare two views of an image use it.

Sohn et al., "FixMatch", NeurIPS 2020, appendix D: RandAugment with magnitudes drawn anew. Images of a batch that draw
the same change share its magnitude, so that each change is one call for all of them, on their device.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as change

from tekapctl.errors import UsageError

_COUNT = 2
_LARGEST_CUT = 0.5
"""Largest side of the cut-out, in sides of the image."""
_GREY = (125, 123, 114)
"""What is left where the image is cut."""


def _shear(images: Tensor, x: float, y: float) -> Tensor:
    degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    return change.affine(images, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0.0, 0.0])


def _translate(images: Tensor, x: float, y: float) -> Tensor:
    pixels = [round(x * images.shape[3]), round(y * images.shape[2])]
    return change.affine(images, angle=0.0, translate=pixels, scale=1.0, shear=[0.0, 0.0])


CHANGES: tuple[tuple[Callable[[Tensor, float], Tensor], float, float], ...] = (
    (lambda images, _: images, 0.0, 1.0),
    (lambda images, _: change.autocontrast(images), 0.0, 1.0),
    (lambda images, _: change.equalize(images), 0.0, 1.0),
    (change.adjust_brightness, 0.05, 0.95),
    (change.adjust_saturation, 0.05, 0.95),
    (change.adjust_contrast, 0.05, 0.95),
    (change.adjust_sharpness, 0.05, 0.95),
    (lambda images, bits: change.posterize(images, int(bits)), 4.0, 8.0),
    (lambda images, threshold: change.solarize(images, int(threshold)), 0.0, 255.0),
    (change.rotate, -30.0, 30.0),
    (lambda images, share: _shear(images, share, 0.0), -0.3, 0.3),
    (lambda images, share: _shear(images, 0.0, share), -0.3, 0.3),
    (lambda images, share: _translate(images, share, 0.0), -0.3, 0.3),
    (lambda images, share: _translate(images, 0.0, share), -0.3, 0.3),
)
"""What may be done to images, with the range of its magnitude."""


def strengthen(
    images: UInt8[Tensor, "batch c h w"], source: torch.Generator, *, first: int = 0, of: int | None = None
) -> UInt8[Tensor, "batch c h w"]:
    """Images changed strongly.

    Args:
        images: Grey or coloured.
        source: A generator of the CPU, wherever the images are.
        first: The first image's place in a batch of which these are a part.
        of: Images of that batch; None if these are all.

    Raises:
        UsageError: The images have neither one channel nor three.
    """
    if images.shape[1] not in (1, 3):
        raise UsageError(
            f"Strong augmentation is for images of one channel or three, and these have {images.shape[1]}.",
            "Choose a method that needs no strongly augmented view.",
        )
    count, rows = of or len(images), slice(first, first + len(images))
    for _ in range(_COUNT):
        drawn = torch.randint(len(CHANGES), (count,), generator=source)[rows]
        magnitudes = torch.rand(len(CHANGES), generator=source).tolist()
        changed = images.clone()
        for number, (apply, low, high) in enumerate(CHANGES):
            chosen = (drawn == number).nonzero().flatten().to(images.device, non_blocking=True)
            if len(chosen):
                changed[chosen] = apply(images[chosen], low + (high - low) * magnitudes[number])
        images = changed
    chances = torch.rand(3, count, 1, generator=source)[:, rows]
    return _cut(images, chances.to(images.device, non_blocking=True))


def _cut(images: Tensor, chances: Tensor) -> Tensor:
    _, channels, height, width = images.shape
    side, column, row = chances
    side = side * _LARGEST_CUT * width
    columns, rows = (torch.arange(n, device=images.device) for n in (width, height))
    left, top = (column * width - side / 2).clamp(min=0).floor(), (row * height - side / 2).clamp(min=0).floor()
    across = (columns >= left) & (columns <= left + side)
    down = (rows >= top) & (rows <= top + side)
    colour = _GREY if channels == 3 else (sum(_GREY) // 3,)
    grey = torch.tensor(colour, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
    return torch.where((down.unsqueeze(2) & across.unsqueeze(1)).unsqueeze(1), grey, images)
