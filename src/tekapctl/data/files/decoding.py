"""Image files as pixels."""

import math
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import UInt8
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

FORMATS = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "PPM": (".ppm",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""Formats that are opened, whatever a file is called, with their suffixes; none of them is a program, as EPS is."""
SUFFIXES = tuple(sorted(suffix for suffixes in FORMATS.values() for suffix in suffixes))
_MOST_PIXELS = 2**27
"""Of one image, before it is made smaller."""
_DEPTHS = (2**8 - 1.0, 2**12 - 1.0, 2**16 - 1.0)
"""The largest numbers of 8, 12 and 16 bits."""
_UNIT = {"F": (1.0,)}
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)

Box = tuple[float, float, float, float]
"""Left, top, right and lower edge in pixels."""
Choose = Callable[[int, int], Box]
"""Which part of an image of a width and a height is taken."""


class DamagedImageError(Exception):
    """A file is no image that can be read; the message says why."""


def decode(
    path: Path | str, channels: int, size: tuple[int, int], *, middle: float = 1.0, crop: int | None = None
) -> UInt8[Tensor, "c h w"]:
    """An image, turned as its camera says, of which the middle or a random part is brought to a size.

    Args:
        path: The file, of one of `FORMATS`.
        channels: 1 for grey, 3 for colour.
        size: Height and width in pixels.
        middle: How much of the largest middle part of the size's form is taken, as a share of its side.
        crop: Seed of a random part, taken instead: 8 to 100 % of the area at aspects from 3/4 to 4/3 (Szegedy et al.,
            "Going Deeper with Convolutions", CVPR 2015, section 6).

    Raises:
        DamagedImageError: It is missing, no image, damaged, or too large.
    """
    import numpy as np
    from PIL import Image, ImageOps

    height, width = size
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - many paths are texts
            raise DamagedImageError("it is not a regular file")
        with Image.open(path, formats=tuple(FORMATS)) as opened:
            across, down = opened.size
            if across * down > _MOST_PIXELS:
                raise DamagedImageError(f"{across}x{down} pixels are too many")
            if opened.getexif().get(_ORIENTATION) in _TURNED:
                across, down = down, across
            left, top, right, lower = _middle(across, down, size, middle) if crop is None else part(across, down, crop)
            # JPEGs are decoded at a fitting scale; what is added keeps whole numbers whole.
            needed = max(width / (right - left), height / (lower - top))
            wide, high = (max(1, math.floor(side * needed + 1e-6)) for side in opened.size)
            opened.draft("RGB", (wide, high))
            plain = _in_bytes(ImageOps.exif_transpose(opened)).convert("L" if channels == 1 else "RGB")
            x, y = plain.width / across, plain.height / down
            # Scaled edges may round to beyond the image.
            box = (left * x, top * y, min(right * x, plain.width), min(lower * y, plain.height))
            pixels = torch.from_numpy(np.array(plain.resize((width, height), Image.Resampling.BILINEAR, box=box)))
    except DamagedImageError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise DamagedImageError(str(error)) from None
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1)


def _in_bytes(image: "Image.Image") -> "Image.Image":
    """An image of more than 8 bits per channel in 8, by its range; Pillow would clip it.

    Non-negative images are scaled by the smallest of 8, 12 and 16 bits that holds their maximum, floating-point images
    also by 1. All others are scaled from their own minimum and maximum.

    Raises:
        DamagedImageError: A number is not finite.
    """
    import numpy as np
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DamagedImageError("it has pixels that are not finite")
    usual = next((most for most in (*_UNIT.get(image.mode, ()), *_DEPTHS) if high <= most), None)
    if low >= 0 and usual is not None:
        low, high = 0.0, usual
    scaled = (values - low) * (255 / (high - low or 1))
    return Image.fromarray(scaled.round().astype(np.uint8))


def _middle(across: int, down: int, size: tuple[int, int], share: float) -> Box:
    height, width = size
    if across * height >= down * width:
        w, h = share * down * width / height, share * down
    else:
        w, h = share * across, share * across * height / width
    left, top = (across - w) / 2, (down - h) / 2
    return left, top, left + w, top + h


def part(across: int, down: int, seed: int) -> Box:
    """A random part of an image.

    Args:
        across: The image's width in pixels.
        down: Its height.
        seed: Equal seeds give equal parts.
    """
    draw = random.Random(seed)
    for _ in range(_TRIES):
        area = across * down * draw.uniform(*_AREA)
        ratio = math.exp(draw.uniform(*map(math.log, _RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= across and 0 < h <= down:
            left, top = draw.randint(0, across - w), draw.randint(0, down - h)
            return float(left), float(top), float(left + w), float(top + h)
    # Of an image far from square, as much of the middle as the aspects allow.
    w, h = min(across, round(down * _RATIO[1])), min(down, round(across / _RATIO[0]))
    x, y = (across - w) / 2, (down - h) / 2
    return x, y, x + w, y + h
