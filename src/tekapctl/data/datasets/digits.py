"""The UCI optical digits, included in the package: 1,797 images of 8x8 pixels."""

from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.spec import DATASETS, DataSpec, Shape

TEST_IMAGES = 500


@DATASETS.register("digits")
class Digits(DataSpec):
    """Handwritten digits, which are never flipped."""

    name: Literal["digits"] = "digits"
    is_included: ClassVar[bool] = True
    transfers_to: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    padding: int = 1
    flip: bool = False

    def shape(self, downloads: Path) -> Shape:
        return Shape(1797 - TEST_IMAGES, TEST_IMAGES, 10, 1, 8, 8)

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Load both sets, split by a fixed seed."""
        with files("tekapctl.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
            # Pixels are counts from 0 to 16.
            images = torch.from_numpy((arrays["images"].astype(np.float32) * 255 / 16).round().astype(np.uint8))
            labels = torch.from_numpy(arrays["labels"].astype(np.int64))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        train, test = order[TEST_IMAGES:], order[:TEST_IMAGES]
        pixels = images[train].float() / 255
        mean, std = (float(pixels.mean()),), (float(pixels.std()),)
        classes = tuple(str(digit) for digit in range(10))

        def part(chosen: torch.Tensor) -> ImageSet:
            return ImageSet(images[chosen].unsqueeze(1), labels[chosen], classes, mean, std)

        return Splits(part(train), part(test))
