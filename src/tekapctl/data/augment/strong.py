"""Strong augmentation for methods that compare two views of an image: two random operations and Cutout.

Sohn et al., "FixMatch", NeurIPS 2020, appendix D: RandAugment with random magnitudes. Images of a batch that draw
the same operation share its magnitude, so each operation is one call on the device.
"""

from collections.abc import Callable

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from tekapctl.data.augment.augmentation import Draws
from tekapctl.data.augment.operations import (
    check_channels,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)

_COUNT = 2
_LARGEST_CUT = 0.5
"""Largest side length of the cutout, relative to the image."""
_GREY = (125, 123, 114)
"""Colour of the cutout."""
OPERATIONS: tuple[tuple[Callable[[Tensor, float], Tensor], float, float], ...] = (
    (lambda images, _: images, 0.0, 1.0),
    (lambda images, _: tv.autocontrast(images), 0.0, 1.0),
    (lambda images, _: tv.equalize(images), 0.0, 1.0),
    (tv.adjust_brightness, 0.05, 0.95),
    (tv.adjust_saturation, 0.05, 0.95),
    (tv.adjust_contrast, 0.05, 0.95),
    (sharpness, 0.05, 0.95),
    (lambda images, bits: tv.posterize(images, int(bits)), 4.0, 8.0),
    (lambda images, threshold: tv.solarize(images, int(threshold)), 0.0, 255.0),
    (rotate, -30.0, 30.0),
    (shear_x, -0.3, 0.3),
    (shear_y, -0.3, 0.3),
    (lambda images, x: translate_x(images, float(round(x * images.shape[3]))), -0.3, 0.3),
    (lambda images, y: translate_y(images, float(round(y * images.shape[2]))), -0.3, 0.3),
)
"""Operations, with the ranges of their magnitudes."""


def augment_strongly(images: UInt8[Tensor, "batch c h w"], draws: Draws) -> UInt8[Tensor, "batch c h w"]:
    """Augment images strongly.

    Raises:
        UsageError: The images have neither one nor three channels.
    """
    check_channels(images)
    for _ in range(_COUNT):
        drawn = draws.integers(len(OPERATIONS))
        magnitudes = [draws.once() for _ in OPERATIONS]
        changed = images.clone()
        for number, (apply, low, high) in enumerate(OPERATIONS):
            chosen = (drawn == number).nonzero().flatten().to(images.device, non_blocking=True)
            if len(chosen):
                changed[chosen] = apply(images[chosen], low + (high - low) * magnitudes[number])
        images = changed
    return _cut(images, draws.uniform(3, 1).to(images.device, non_blocking=True))


def _cut(images: Tensor, chances: Tensor) -> Tensor:
    _, channels, height, width = images.shape
    side, column, row = chances.unbind(1)
    side = side * _LARGEST_CUT * width
    columns, rows = (torch.arange(n, device=images.device) for n in (width, height))
    left, top = (column * width - side / 2).clamp(min=0).floor(), (row * height - side / 2).clamp(min=0).floor()
    across = (columns >= left) & (columns <= left + side)
    down = (rows >= top) & (rows <= top + side)
    colour = _GREY if channels == 3 else (sum(_GREY) // 3,)
    grey = torch.tensor(colour, dtype=images.dtype).view(1, -1, 1, 1).to(images.device, non_blocking=True)
    return torch.where((down.unsqueeze(2) & across.unsqueeze(1)).unsqueeze(1), grey, images)
