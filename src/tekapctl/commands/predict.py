"""What a trained network says of image files: what `tekapctl predict` does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tekapctl.data.files.decoding import DamagedImageError, decode
from tekapctl.errors import UsageError
from tekapctl.train.trained import Trained

_TOGETHER = 64
_PIXELS = 2**22
"""Of the images that are classified at once, at most."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of an image.

    Attributes:
        image: The file, as it was named.
        classes: Names of classes with their probabilities, the likeliest first.
        problem: Why there are none.
    """

    image: str
    classes: tuple[tuple[str, float], ...] = ()
    problem: str | None = None


def predict_files(trained: Trained, images: Sequence[str], *, top: int = 5) -> Iterator[Prediction]:
    """The likeliest classes of image files; a file that cannot be read has a problem instead.

    Args:
        trained: The network.
        images: Paths.
        top: How many classes of each.

    Raises:
        UsageError: The network's file does not say how images are prepared, or what its classes are.
    """
    preparation, names = trained.preparation, trained.classes
    if preparation is None or names is None:
        raise UsageError(
            f"{trained.reference.described} does not say how its images are prepared and what its classes are.",
            "Name a run of `tekapctl runs list`.",
        )
    height, width = preparation.size
    together = max(1, min(_TOGETHER, _PIXELS // (height * width)))
    for start in range(0, len(images), together):
        read: dict[str, torch.Tensor] = {}
        problems: dict[str, str] = {}
        chosen = images[start : start + together]
        for image in chosen:
            try:
                read[image] = decode(
                    image, trained.network.in_channels, preparation.size, center_crop=preparation.middle
                )
            except DamagedImageError as error:
                problems[image] = str(error)
        said = {}
        if read:
            with torch.inference_mode():
                shares = trained.network(trained.network.normalize(torch.stack(list(read.values())))).softmax(1)
            best = shares.topk(min(top, len(names)), dim=1)
            for image, values, numbers in zip(read, best.values.tolist(), best.indices.tolist(), strict=True):
                said[image] = tuple((names[number], value) for number, value in zip(numbers, values, strict=True))
        for image in chosen:
            yield Prediction(image, said.get(image, ()), problems.get(image))
