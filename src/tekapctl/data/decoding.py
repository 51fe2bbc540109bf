"""Image files as pixels."""

from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

_MOST_PIXELS = 2**28
"""Of one image, before it is made smaller."""


class DamagedImageError(Exception):
    """A file is no image that can be read; the message says why."""


def decode(path: Path, channels: int, size: tuple[int, int]) -> UInt8[Tensor, "c h w"]:
    """An image, turned as its camera says, made as small as `size` allows and cut to its middle.

    Args:
        path: The file, of any format that Pillow reads.
        channels: 1 for grey, 3 for colour.
        size: Height and width in pixels.

    Raises:
        DamagedImageError: It is missing, no image, damaged, or too large.
    """
    import numpy as np
    from PIL import Image, ImageOps

    height, width = size
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise DamagedImageError(f"{opened.width}x{opened.height} pixels are too many")
            opened.draft("RGB", (max(size), max(size)))  # JPEGs are decoded at a fitting scale
            plain = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
            fitted = ImageOps.fit(plain, (width, height), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(fitted))
    except DamagedImageError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise DamagedImageError(str(error)) from None
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1)
