"""The most confident mistakes of a network: images that it assigns to a wrong class with a high probability."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from tekapctl.commands.predict import Prediction
from tekapctl.data.batches import Batches
from tekapctl.data.files.streaming import ImageFiles
from tekapctl.data.image_set import ImageSet
from tekapctl.errors import UsageError
from tekapctl.models import Network
from tekapctl.train import evaluation


@dataclass(frozen=True)
class Mistake:
    """An image and the wrong class that a network assigns it to.

    Its name is its path, or its number in the test set; the picture is a file, or pixels from 0 to 255.
    """

    name: str
    label: str
    predicted: str
    confidence: float
    picture: Path | UInt8[Tensor, "c h w"]


class Mistakes:
    """Keeps the most confident mistakes of predictions that pass by.

    Attributes:
        images: Number of images with a label so far.
        wrong: Number of mistakes among them.
    """

    def __init__(self, classes: Iterable[str], most: int) -> None:
        self.images = self.wrong = 0
        self._classes = frozenset(classes)
        self._most = most
        self._heap: list[tuple[float, int, Prediction, str]] = []

    def passing(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """The same predictions; the label of an image is the name of the nearest folder above that names a class."""
        for each in predictions:
            label = self._label(each.image)
            if label is not None and each.problem is None:
                self.images += 1
                predicted, confidence = each.classes[0]
                if predicted != label:
                    self.wrong += 1
                    # The number keeps the order of equal confidences, and predictions from being compared.
                    entry = (confidence, -self.images, each, label)
                    (heapq.heappush if len(self._heap) < self._most else heapq.heappushpop)(self._heap, entry)
            yield each

    def worst(self) -> list[Mistake]:
        """The mistakes, most confident first.

        Raises:
            UsageError: No image is in a folder named after a class.
        """
        if not self.images:
            raise UsageError(
                "No image is in a folder named after one of the network's classes, so none has a label.",
                f"Name a folder with a folder for each class: {', '.join(sorted(self._classes)[:5])}, ...",
            )
        return [
            Mistake(each.image, label, each.classes[0][0], confidence, Path(each.image))
            for confidence, _, each, label in sorted(self._heap, reverse=True, key=lambda entry: entry[:2])
        ]

    def _label(self, image: str) -> str | None:
        parts = Path(image).parts[:-1]
        return next((name for name in reversed(parts) if name in self._classes), None)


def worst_of(network: Network, images: ImageSet, most: int, device: torch.device) -> list[Mistake]:
    """The most confident mistakes on an image set, most confident first."""
    batches = Batches(images, 250, device=device)
    logits, labels = evaluation.predict(network, batches)
    confidence, predicted = logits.softmax(1).max(1)
    is_wrong = predicted != labels
    order = torch.where(is_wrong, confidence, -1).argsort(descending=True, stable=True)[: int(is_wrong.sum())][:most]
    return [_of_set(images, number, int(predicted[number]), confidence[number].item()) for number in order.tolist()]


def _of_set(images: ImageSet, number: int, predicted: int, confidence: float) -> Mistake:
    name, picture = f"test image {number}", images.images
    if isinstance(picture, ImageFiles):
        name = picture.paths[number]
        shown: Path | Tensor = Path(name)
    else:
        shown = picture[number].cpu()
    return Mistake(name, images.classes[int(images.labels[number])], images.classes[predicted], confidence, shown)
