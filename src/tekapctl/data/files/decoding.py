"""Decodes image files."""

import math
import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
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
"""Formats that are opened, whatever the suffix of a file; none of them is a program, as EPS is."""
SUFFIXES = tuple(sorted(suffix for suffixes in FORMATS.values() for suffix in suffixes))
_MAX_PIXELS = 2**27
"""Of an image before it is resized."""
_DEPTHS = (2**8 - 1.0, 2**12 - 1.0, 2**16 - 1.0)
"""The largest numbers of 8, 12 and 16 bits."""
_UNIT = {"F": (1.0,)}
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10
_ORIENTATION = 0x0112
_ROTATED = (5, 6, 7, 8)

Box = tuple[float, float, float, float]
"""Left, top, right and lower edge in pixels."""


class DamagedImageError(Exception):
    """An image file cannot be read; the message says why."""


def decode(
    path: Path | str, channels: int, size: tuple[int, int], *, center_crop: float = 1.0, crop: int | None = None
) -> UInt8[Tensor, "c h w"]:
    """Decode an image, apply its EXIF orientation, crop it and resize the crop.

    Args:
        path: The file, in one of `FORMATS`.
        channels: 1 for grayscale, 3 for colour.
        size: Height and width in pixels.
        center_crop: Side length of the center crop, as a fraction of the largest one with this aspect ratio.
        crop: Seed of a random crop to take instead: 8 to 100 % of the area with an aspect ratio from 3/4 to 4/3
            (Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6).

    Raises:
        DamagedImageError: The file is missing, not an image, damaged or too large.
    """
    import numpy as np
    from PIL import Image

    height, width = size
    with _opened(path) as opened:
        across, down = opened.size
        if opened.getexif().get(_ORIENTATION) in _ROTATED:
            across, down = down, across
        left, top, right, lower = (
            _center(across, down, size, center_crop) if crop is None else random_crop(across, down, crop)
        )
        # JPEGs are decoded at a suitable scale; the small constant keeps whole numbers whole.
        needed = max(width / (right - left), height / (lower - top))
        wide, high = (max(1, math.floor(side * needed + 1e-6)) for side in opened.size)
        opened.draft("RGB", (wide, high))
        plain = _upright(opened, channels)
        x, y = plain.width / across, plain.height / down
        # Rounding may move scaled edges beyond the image.
        box = (left * x, top * y, min(right * x, plain.width), min(lower * y, plain.height))
        pixels = torch.from_numpy(np.array(plain.resize((width, height), Image.Resampling.BILINEAR, box=box)))
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1)


def decode_whole(path: Path | str, channels: int) -> UInt8[Tensor, "c h w"]:
    """Decode an image at its full size and apply its EXIF orientation.

    Raises:
        DamagedImageError: The file is missing, not an image, damaged or too large.
    """
    import numpy as np

    with _opened(path) as opened:
        pixels = torch.from_numpy(np.array(_upright(opened, channels)))
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1)


@contextmanager
def _opened(path: Path | str) -> "Iterator[Image.Image]":
    """Open an image; whatever goes wrong in the block is damage.

    Raises:
        DamagedImageError: The file is missing, not an image, damaged or too large.
    """
    from PIL import Image

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - most paths are strings
            raise DamagedImageError("it is not a regular file")
        with Image.open(path, formats=tuple(FORMATS)) as opened:
            across, down = opened.size
            if across * down > _MAX_PIXELS:
                raise DamagedImageError(f"{across}x{down} pixels are too many")
            yield opened
    except DamagedImageError:
        raise
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise DamagedImageError(str(error)) from None


def _upright(opened: "Image.Image", channels: int) -> "Image.Image":
    """The pixels in 8 bits, as the camera was held."""
    from PIL import ImageOps

    return _in_bytes(ImageOps.exif_transpose(opened)).convert("L" if channels == 1 else "RGB")


def _in_bytes(image: "Image.Image") -> "Image.Image":
    """Scale an image of more than 8 bits per channel to 8 bits; Pillow would clip it.

    Non-negative images are scaled by the smallest of 8, 12 and 16 bits that holds their maximum, floating-point images
    also by 1. All others are scaled from their own minimum and maximum.

    Raises:
        DamagedImageError: A pixel is not finite.
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


def _center(across: int, down: int, size: tuple[int, int], fraction: float) -> Box:
    height, width = size
    if across * height >= down * width:
        w, h = fraction * down * width / height, fraction * down
    else:
        w, h = fraction * across, fraction * across * height / width
    left, top = (across - w) / 2, (down - h) / 2
    return left, top, left + w, top + h


def random_crop(across: int, down: int, seed: int) -> Box:
    """A random crop of an image of a size in pixels, as torchvision's RandomResizedCrop chooses it.

    Equal seeds give equal crops.
    """
    draw = random.Random(seed)
    for _ in range(_ATTEMPTS):
        area = across * down * draw.uniform(*_AREA)
        ratio = math.exp(draw.uniform(*map(math.log, _RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= across and 0 < h <= down:
            left, top = draw.randint(0, across - w), draw.randint(0, down - h)
            return float(left), float(top), float(left + w), float(top + h)
    # Images far from square get the largest center crop that the aspect ratios allow.
    w, h = min(across, round(down * _RATIO[1])), min(down, round(across / _RATIO[0]))
    x, y = (across - w) / 2, (down - h) / 2
    return x, y, x + w, y + h
