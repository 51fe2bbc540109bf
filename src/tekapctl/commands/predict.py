"""Classify image files with a trained network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tekapctl.data.files.decoding import DamagedImageError, decode
from tekapctl.errors import UsageError
from tekapctl.train.trained import Trained

_MAX_IMAGES = 64
_MAX_PIXELS = 2**22
"""Limits of a forward pass."""


@dataclass(frozen=True)
class Prediction:
    """An image's most likely classes with their probabilities, best first, or why it cannot be read."""

    image: str
    classes: tuple[tuple[str, float], ...] = ()
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        classes = [{"class": name, "probability": probability} for name, probability in self.classes]
        return {"image": self.image, "classes": classes, "problem": self.problem}


def predict_files(trained: Trained, images: Sequence[str], *, top: int = 5) -> Iterator[Prediction]:
    """Classify image files into the `top` classes; an unreadable file yields a prediction with a problem.

    Raises:
        UsageError: The network's file does not state its preprocessing or its classes.
    """
    preprocessing, names = trained.preprocessing, trained.classes
    if preprocessing is None or names is None:
        raise UsageError(
            f"{trained.reference.described} does not state its preprocessing and its classes.",
            "Name a run of `tekapctl runs list`.",
        )
    height, width = preprocessing.size
    count = max(1, min(_MAX_IMAGES, _MAX_PIXELS // (height * width)))
    channels, crop = trained.network.in_channels, preprocessing.crop_fraction
    for start in range(0, len(images), count):
        pixels: dict[str, torch.Tensor] = {}
        found: dict[str, Prediction] = {}
        for image in images[start : start + count]:
            try:
                pixels[image] = decode(image, channels, preprocessing.size, center_crop=crop)
            except DamagedImageError as error:
                found[image] = Prediction(image, problem=str(error))
        if pixels:
            with torch.inference_mode():
                stacked = torch.stack(list(pixels.values()))
                best = trained.network(trained.network.normalize(stacked)).softmax(1).topk(min(top, len(names)), dim=1)
            for image, values, numbers in zip(pixels, best.values.tolist(), best.indices.tolist(), strict=True):
                classes = ((names[number], value) for number, value in zip(numbers, values, strict=True))
                found[image] = Prediction(image, tuple(classes))
        yield from (found[image] for image in images[start : start + count])
