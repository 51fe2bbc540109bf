"""Classify any number of image files with a trained network, as fast as they are decoded."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import torch
from jaxtyping import UInt8
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


class Predictor:
    """Classifies image files, decoded as the network's test images are.

    Args:
        trained: The network.
        device: Device to compute on.
        precision: Precision of the forward passes.
        batch_size: Most images of a forward pass; fewer if they are large.
        workers: Processes that decode images; None for one a CPU core where there are several batches of images.

    Raises:
        UsageError: The network's file does not state its preprocessing or its classes.
    """

    def __init__(
        self,
        trained: Trained,
        *,
        device: str = "auto",
        precision: str = "float32",
        batch_size: int = 64,
        workers: int | None = None,
    ) -> None:
        preprocessing, names = trained.preprocessing, trained.classes
        if preprocessing is None or names is None:
            raise UsageError(
                f"{trained.reference.described} does not state its preprocessing and its classes.",
                "Name a run of `tekapctl runs list`.",
            )
        height, width = preprocessing.size
        self.classes = names
        channels, network = trained.network.in_channels, trained.network
        self._device = resolve_device(device)
        set_float32_precision(precision, self._device)
        self._precision = resolve_precision(precision, self._device, network, trains=False)
        self._batch_size = max(1, min(batch_size, _MAX_PIXELS // (height * width)))
        self._workers = workers
        own = 1 if preprocessing.is_grey else channels
        self._files = ImageFiles((), own, preprocessing.size, preprocessing.crop_fraction, repeated=channels // own)
        noise = torch.randint(256, (2, channels, height, width), generator=torch.Generator().manual_seed(0))
        self._network = fold(network, network.normalize(noise.byte())).network
        place(self._network, self._device)
        if self._device.type == "cpu":
            with autocast(self._device, self._precision):
                fuse(self._network, self._network.normalize(noise.byte()))

    def predict(self, images: Iterable[str], *, top: int = 5) -> Iterator[Prediction]:
        """Classify images, in order and as they come; an unreadable file yields a prediction with a problem.

        Memory does not grow with the number of images.

        Args:
            images: Paths of image files.
            top: Number of classes per image.
        """
        is_cuda = self._device.type == "cuda"
        found, workers = self._with_workers(iter(images))
        files = replace(self._files, workers=workers)
        for paths, pixels, damaged in stream_paths(found, files, self._batch_size, pinned=is_cuda):
            problems = dict(damaged)
            with failures_in_words("the prediction"):
                best = self._best(pixels, min(top, len(self.classes)))
            for path, values, numbers in zip(paths, best.values.tolist(), best.indices.tolist(), strict=True):
                if path in problems:
                    yield Prediction(path, problem=problems[path])
                else:
                    named = zip((self.classes[number] for number in numbers), values, strict=True)
                    yield Prediction(path, tuple(named))

    @torch.inference_mode()
    def _best(self, pixels: UInt8[Tensor, "batch c h w"], count: int) -> "torch.return_types.topk":
        with autocast(self._device, self._precision):
            images = self._network.normalize(pixels.to(self._device, non_blocking=True))
            return self._network(images).float().softmax(1).topk(count, dim=1)

    def _with_workers(self, images: Iterator[str]) -> tuple[Iterator[str], int]:
        """The same images, and how many processes decode them: starting some does not pay for a few images."""
        if self._workers is not None:
            return images, self._workers
        first = list(islice(images, 2 * self._batch_size + 1))
        workers = min(_MAX_WORKERS, processors()) if len(first) > 2 * self._batch_size else 0
        return chain(first, images), workers
