"""Operations on images with a magnitude, from which RandAugment and its relatives choose.

Names and ranges are torchvision's. Images that draw the same operation with the same magnitude share one call.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from tekapctl.data.augment.augmentation import Draws
from tekapctl.errors import UsageError


def moved(images: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a geometric function of torchvision that copies each pixel from one place.

    It is applied to the pixels' numbers on the CPU, since on a GPU it would wait for the device.

    Args:
        images: The images.
        move: The function; takes and returns one image with one channel.
    """
    height, width = images.shape[2:]
    numbers = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
    source = move(numbers).flatten().long().to(images.device, non_blocking=True)  # 0 is outside the image
    return F.pad(images.flatten(2), (1, 0)).index_select(2, source).view_as(images)


def _affine(images: Tensor, *, x: int = 0, y: int = 0, shear: list[float]) -> Tensor:
    center = [0.0, 0.0] if any(shear) else None
    return moved(images, lambda one: tv.affine(one, angle=0.0, translate=[x, y], scale=1.0, shear=shear, center=center))


def shear_x(images: Tensor, value: float) -> Tensor:
    """Shear by a fraction of the height."""
    return _affine(images, shear=[math.degrees(math.atan(value)), 0.0])


def shear_y(images: Tensor, value: float) -> Tensor:
    """Shear by a fraction of the width."""
    return _affine(images, shear=[0.0, math.degrees(math.atan(value))])


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Rotate around the centre."""
    return moved(images, lambda one: tv.rotate(one, degrees))


def sharpness(images: Tensor, factor: float) -> Tensor:
    """As torchvision's `adjust_sharpness`, with a kernel that is made on the device."""
    channels, height, width = images.shape[1:]
    if min(height, width) <= 2:
        return images
    kernel = torch.full((channels, 1, 3, 3), 1 / 13, device=images.device)
    kernel[:, :, 1, 1] = 5 / 13
    pixels = images.float()
    inner = pixels[:, :, 1:-1, 1:-1]
    blurred = F.conv2d(pixels, kernel, groups=channels).round_()
    inner.add_(blurred.sub_(inner), alpha=1 - factor)
    return pixels.clamp_(0, 255).to(images.dtype)


def translate_x(images: Tensor, pixels: float) -> Tensor:
    """Shift to the right."""
    return _affine(images, x=int(pixels), shear=[0.0, 0.0])


def translate_y(images: Tensor, pixels: float) -> Tensor:
    """Shift downwards."""
    return _affine(images, y=int(pixels), shear=[0.0, 0.0])


OPERATIONS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "Identity": lambda images, _: images,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
    "Brightness": lambda images, value: tv.adjust_brightness(images, 1 + value),
    "Color": lambda images, value: tv.adjust_saturation(images, 1 + value),
    "Contrast": lambda images, value: tv.adjust_contrast(images, 1 + value),
    "Sharpness": lambda images, value: sharpness(images, 1 + value),
    "Posterize": lambda images, bits: tv.posterize(images, int(bits)),
    "Solarize": tv.solarize,
    "AutoContrast": lambda images, _: tv.autocontrast(images),
    "Equalize": lambda images, _: tv.equalize(images),
}


@dataclass(frozen=True)
class Range:
    """The values of an operation, from the weakest to the strongest.

    Attributes:
        weakest: Value at magnitude 0.
        strongest: Value at magnitude 1.
        signed: Whether half of the images get the negative value.
        rounded: Whether it is an integer.
    """

    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False
    rounded: bool = False

    def value(self, magnitude: float, *, negative: bool) -> float:
        """The value at a magnitude from 0 to 1."""
        found = self.weakest + (self.strongest - self.weakest) * magnitude
        return float(round(found)) if self.rounded else -found if self.signed and negative else found


def ranges(
    *, shear: float, translate: tuple[float, float], rotate: float, enhance: float, bits: tuple[float, float]
) -> dict[str, Range]:
    """The ranges of all operations.

    Args:
        shear: Strongest shear.
        translate: Strongest shift in pixels, along the width and the height.
        rotate: Strongest rotation in degrees.
        enhance: Strongest change of brightness, saturation, contrast and sharpness.
        bits: Bits that the weakest and the strongest posterisation leave.
    """
    plain = {"Identity": Range(), "AutoContrast": Range(), "Equalize": Range()}
    moved = {"ShearX": shear, "ShearY": shear, "TranslateX": translate[0], "TranslateY": translate[1], "Rotate": rotate}
    changed = dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), enhance)
    signed = {name: Range(strongest=most, signed=True) for name, most in (moved | changed).items()}
    return {
        **plain,
        **signed,
        "Posterize": Range(*bits, rounded=True),
        "Solarize": Range(255.0, 0.0),
    }


def check_channels(images: Tensor) -> None:
    """Refuse images that these operations cannot take.

    Raises:
        UsageError: They have neither one nor three channels.
    """
    if images.shape[1] not in (1, 3):
        raise UsageError(
            f"Strong augmentation needs images with one or three channels; these have {images.shape[1]}.",
            "Choose a method and augmentations that do without it.",
        )


def random_operations(
    images: UInt8[Tensor, "batch c h w"],
    available: Mapping[str, Range],
    draws: Draws,
    magnitude: Callable[[], float],
    applies: Tensor | None = None,
) -> UInt8[Tensor, "batch c h w"]:
    """Apply one operation to each image, chosen at random.

    Args:
        images: The images.
        available: The operations, with their ranges.
        draws: Random numbers for the images.
        magnitude: Returns the magnitude of an operation, from 0 to 1; all images that draw it have the same.
        applies: Whether an image gets an operation; on the CPU. Default: all do.
    """
    check_channels(images)
    drawn, negative = draws.integers(len(available)), draws.integers(2).bool()
    changed = images.clone()
    for number, (name, span) in enumerate(available.items()):
        strength = magnitude()
        if name == "Identity":
            continue
        for sign in (False, True) if span.signed else (None,):
            is_chosen = drawn == number
            if sign is not None:
                is_chosen &= negative == sign
            if applies is not None:
                is_chosen &= applies
            chosen = is_chosen.nonzero().flatten().to(images.device, non_blocking=True)
            if len(chosen):
                changed[chosen] = OPERATIONS[name](images[chosen], span.value(strength, negative=bool(sign)))
    return changed
