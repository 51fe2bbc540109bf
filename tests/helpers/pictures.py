"""Folders of small pictures for tests of datasets that are the user's own."""

from pathlib import Path

import numpy as np
from PIL import Image


def coloured_noise(folder: Path, seed: int = 0) -> Path:
    """Write ten pictures of 8x8 pixels for each of two classes, cat and dog; returns the folder."""
    random = np.random.default_rng(seed)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder
