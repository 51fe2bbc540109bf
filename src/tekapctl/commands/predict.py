"""Classify any number of image files with a trained network, as fast as they are decoded."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import prod
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tekapctl.data.files.streaming import ImageFiles, stream_paths
from tekapctl.device import autocast, place, resolve_device, resolve_precision, set_float32_precision
from tekapctl.distributed.communicator import processors
from tekapctl.errors import UsageError, failures_in_words
from tekapctl.models.fusing import fold, fuse
from tekapctl.train.trained import Trained

_MAX_PIXELS = 2**22
"""Of a batch."""
_MAX_WORKERS = 16


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


Classify = Callable[[UInt8[Tensor, "batch c h w"]], Float[Tensor, "batch classes"]]
"""Maps decoded images, on the CPU, to the probabilities of the classes."""


class Predictor:
    """Classifies image files.

    Args:
        classify: The network.
        name: The network's name.
        classes: Names of its classes, in order.
        files: How files are decoded for it; it has no paths.
        batch_size: Most images of a forward pass; fewer if they are large.
        workers: Processes that decode images; None for one a CPU core where there are several batches of images.
        pinned: Whether images are copied to a GPU.
    """

    def __init__(
        self,
        classify: Classify,
        name: str,
        classes: tuple[str, ...],
        files: ImageFiles,
        *,
        batch_size: int = 64,
        workers: int | None = None,
        pinned: bool = False,
    ) -> None:
        self.name, self.classes = name, classes
        self._classify, self._files = classify, files
        self._batch_size = max(1, min(batch_size, _MAX_PIXELS // prod(files.size)))
        self._workers, self._pinned = workers, pinned

    def predict(self, images: Iterable[str], *, top: int = 5) -> Iterator[Prediction]:
        """Classify images, in order and as they come; an unreadable file yields a prediction with a problem.

        Memory does not grow with the number of images.

        Args:
            images: Paths of image files.
            top: Number of classes per image.
        """
        found, workers = self._with_workers(iter(images))
        files = replace(self._files, workers=workers)
        for paths, pixels, damaged in stream_paths(found, files, self._batch_size, pinned=self._pinned):
            problems = dict(damaged)
            with failures_in_words("the prediction"):
                best = self._classify(pixels).topk(min(top, len(self.classes)), dim=1)
            for path, values, numbers in zip(paths, best.values.tolist(), best.indices.tolist(), strict=True):
                if path in problems:
                    yield Prediction(path, problem=problems[path])
                else:
                    named = zip((self.classes[number] for number in numbers), values, strict=True)
                    yield Prediction(path, tuple(named))

    def _with_workers(self, images: Iterator[str]) -> tuple[Iterator[str], int]:
        """The same images, and how many processes decode them: starting some does not pay for a few images."""
        if self._workers is not None:
            return images, self._workers
        first = list(islice(images, 2 * self._batch_size + 1))
        workers = min(_MAX_WORKERS, processors()) if len(first) > 2 * self._batch_size else 0
        return chain(first, images), workers


def predictor_of(
    trained: Trained,
    *,
    device: str = "auto",
    precision: str = "float32",
    batch_size: int = 64,
    workers: int | None = None,
) -> Predictor:
    """The predictor of a trained network, which decodes images as its test images were.

    Args:
        trained: The network.
        device: Device to compute on.
        precision: Precision of the forward passes.
        batch_size: Most images of a forward pass.
        workers: Processes that decode images.

    Raises:
        UsageError: The network's file does not state its preprocessing or its classes.
    """
    preprocessing, names = trained.preprocessing, trained.classes
    if preprocessing is None or names is None:
        raise UsageError(
            f"{trained.reference.described} does not state its preprocessing and its classes.",
            "Name a run of `tekapctl runs list`.",
        )
    channels, target = trained.network.in_channels, resolve_device(device)
    set_float32_precision(precision, target)
    used = resolve_precision(precision, target, trained.network, trains=False)
    noise = torch.randint(256, (2, channels, *preprocessing.size), generator=torch.Generator().manual_seed(0)).byte()
    network = fold(trained.network, trained.network.normalize(noise)).network
    place(network, target)
    if target.type == "cpu":
        with autocast(target, used):
            fuse(network, network.normalize(noise))

    @torch.inference_mode()
    def classify(pixels: Tensor) -> Tensor:
        with autocast(target, used):
            found: Tensor = network(network.normalize(pixels.to(target, non_blocking=True)))
        return found.float().softmax(1)

    own = 1 if preprocessing.is_grey else channels
    files = ImageFiles((), own, preprocessing.size, preprocessing.crop_fraction, repeated=channels // own)
    pinned = target.type == "cuda"
    return Predictor(classify, trained.model, names, files, batch_size=batch_size, workers=workers, pinned=pinned)
