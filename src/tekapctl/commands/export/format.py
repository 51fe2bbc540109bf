"""Export formats, one file each in this package, the network that they write, and how their files compare with it."""

import json
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tekapctl.data.batches import CPU, Batches
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.spec import DataSpec
from tekapctl.errors import TekapctlError, UsageError, require
from tekapctl.logging import silence_libraries
from tekapctl.models.external import Arguments
from tekapctl.models.folding import fold
from tekapctl.models.hooks import ExternalNetwork, ForwardHook
from tekapctl.registry import Registry
from tekapctl.store.weights import read_metadata
from tekapctl.train.metadata import Preprocessing
from tekapctl.train.trained import Trained

BATCH_SIZE = 100
"""Images per batch of checks and calibration."""


@dataclass(frozen=True)
class ExportSource:
    """A trained network with what its export needs.

    Attributes:
        trained: The network, on the CPU.
        data: Its data set.
        splits: The data set's images, with as many channels as the network takes.
        preprocessing: How images are prepared for the network.
        metadata: What is stored in the file: model, data set, classes, mean, std and more.
    """

    trained: Trained
    data: DataSpec
    splits: Splits
    preprocessing: Preprocessing
    metadata: dict[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order."""
        return self.splits.test.classes

    @property
    def example(self) -> Float[Tensor, "batch c h w"]:
        """Normalised images to trace the network with: two, as a batch of one would fix the batch size to one."""
        index = torch.arange(2) % len(self.splits.test)
        batches = Batches(self.splits.test, 2, device=CPU, padding=0, flip=False, seed=0)
        return self.trained.network.normalize(batches.at(index, torch.zeros_like(index)))

    def inference_module(self) -> nn.Module:
        """A module from images to logits for tracing, with batch norms folded where results stay the same."""
        folded = fold(self.trained.network, self.example).network
        if not isinstance(folded, ExternalNetwork):
            return folded
        # Tracers do not support the hooks that read feature maps, and the export does not need them.
        for module in folded.network.modules():
            for key, hook in list(module._forward_hooks.items()):
                if isinstance(hook, ForwardHook):
                    del module._forward_hooks[key]
        return folded.network

    def normalized(self, images: ImageSet) -> Iterator[Float[Tensor, "_batch c h w"]]:
        """Normalised images in batches, in order, on the CPU."""
        for batch in Batches(images, BATCH_SIZE, device=CPU, padding=0, flip=False, seed=0).in_order():
            yield self.trained.network.normalize(batch.images).contiguous()

    def tracing_error(self, error: Exception) -> TekapctlError:
        """The error for a network that PyTorch's tracer rejects."""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        return TekapctlError(
            f"PyTorch cannot trace {self.trained.model}: {reason}.",
            "Use the format safetensors; `debug` shows where it failed.",
        )


Runner = Callable[[Tensor], Tensor]
"""Maps normalised float32 images `[batch, c, h, w]` on the CPU to logits `[batch, classes]`."""


def run_module(module: Callable[[Tensor], Tensor]) -> Runner:
    """A runner of a module or network, without gradients."""
    return torch.inference_mode()(lambda images: module(images))


def export_source(loaded: Trained, spec: DataSpec, splits: Splits, model_args: Arguments | None) -> ExportSource:
    """A network with what its export needs; `model_args` are those that an external model was built with."""
    reference, normalization = loaded.reference, loaded.network.normalization
    assert normalization is not None
    channels, height, width = splits.test.image_shape
    height, width = normalization.size or (height, width)
    preprocessing = Preprocessing((height, width), normalization.mean, normalization.std, splits.test.center_crop)
    stated = read_metadata(reference.path) if reference.path.suffix == ".safetensors" else {}
    metadata = {
        "model_args": json.dumps(dict(model_args or {})),
        **stated,
        "format": "tekapctl weights 1",
        "model": loaded.model,
        "dataset": spec.name,
        "num_classes": str(len(splits.test.classes)),
        "classes": json.dumps(splits.test.classes),
        "in_channels": str(channels),
        "image_size": f"{height}x{width}",
        "mean": json.dumps(preprocessing.mean),
        "std": json.dumps(preprocessing.std),
        "middle": str(preprocessing.crop_fraction),
        "source_sha256": loaded.digest,
    }
    return ExportSource(loaded, spec, splits, preprocessing, metadata)


class Format(ABC):
    """A file format for trained networks."""

    suffix: ClassVar[str]
    """Suffix of its files."""
    note: ClassVar[str] = ""
    """What else its model card says about use, in Markdown; `{file}` stands for the file's name."""

    modules: ClassVar[tuple[str, ...]] = ()
    """Modules of the extra `export` that it needs."""

    def check_installed(self) -> None:
        """Check that its modules can be imported.

        Raises:
            UsageError: One is missing.
        """
        with silence_libraries():
            for module in self.modules:
                require("export", module)

    @abstractmethod
    def encode(self, source: ExportSource) -> bytes:
        """The content of the file.

        Raises:
            TekapctlError: The format cannot express the network.
        """

    def quantize(self, content: bytes, source: ExportSource, images: ImageSet) -> bytes:
        """The file in int8, calibrated on training images; formats that support it override this method."""
        raise NotImplementedError

    @property
    def supports_int8(self) -> bool:
        """Whether files can be quantised."""
        return type(self).quantize is not Format.quantize

    @abstractmethod
    def open(self, path: Path) -> Runner:
        """Load a file the way its users will, on the CPU."""

    @abstractmethod
    def runtime(self) -> str:
        """Name and version of the library that runs the file."""

    @abstractmethod
    def snippet(self, file: str) -> str:
        """Python for the model card that computes `classes` and `logits` from `images`, float32 `[batch, c, h, w]`."""


FORMATS: Registry[type[Format]] = Registry("export format", "tekapctl.commands.export")


def choose(name: str | None, path: Path) -> tuple[str, Format]:
    """Name and instance of the format with this name, or of the one with the path's suffix.

    Raises:
        UsageError: There is none, or the suffix is not the format's.
    """
    if name is None:
        name = next((known for known in FORMATS if FORMATS[known].suffix == path.suffix), None)
    if name is None:
        known = ", ".join(f"{FORMATS[known].suffix} ({known})" for known in FORMATS)
        raise UsageError(f"No export format has the suffix of {path.name!r}.", f"Use one of {known}.")
    chosen = FORMATS[name]
    if path.suffix != chosen.suffix:
        raise UsageError(
            f"Files of the format {name} end in {chosen.suffix}, and {path.name!r} does not.",
            f"Write to {path.with_suffix(chosen.suffix).name!r}, or choose another format.",
        )
    return name, chosen()


@dataclass(frozen=True)
class Comparison:
    """An exported network compared with the PyTorch network on the same images; rates are fractions.

    Attributes:
        images: Number of images.
        batch_size: Images per forward pass.
        largest_difference: Largest absolute difference between two logits.
        largest_logit: Largest absolute logit of the PyTorch network.
        agreement: Fraction of images that both classify alike.
        top1: Top-1 accuracy of the exported network.
        torch_top1: Top-1 accuracy of the PyTorch network.
        images_per_second: Speed of the exported network on the CPU.
        torch_images_per_second: Speed of the PyTorch network on the CPU, in float32.
    """

    images: int
    batch_size: int
    largest_difference: float
    largest_logit: float
    agreement: float
    top1: float
    torch_top1: float
    images_per_second: float
    torch_images_per_second: float

    def check_logits(self, tolerance: float) -> None:
        """Check that the logits are equal up to a tolerance relative to the largest logit.

        Raises:
            TekapctlError: They are not.
        """
        # `not <=`, so that NaN fails.
        if not self.largest_difference <= tolerance * self.largest_logit:
            raise TekapctlError(
                f"The exported network differs: its logits are off by up to {self.largest_difference:.3g} on "
                f"{self.images:,} images, with logits up to {self.largest_logit:.3g} and a relative tolerance of "
                f"{tolerance:g}.",
                "Nothing was written. Choose another format, or a larger tolerance if that is good enough.",
            )

    def check_accuracy(self, max_drop: float) -> None:
        """Check that top-1 drops by at most a fraction of the images.

        Raises:
            TekapctlError: It drops by more.
        """
        if not self.torch_top1 - self.top1 <= max_drop:
            raise TekapctlError(
                f"The int8 network is less accurate than allowed: top-1 {100 * self.top1:.2f} % instead of "
                f"{100 * self.torch_top1:.2f} %, with a limit of {100 * max_drop:g} percentage points.",
                "Nothing was written. Export in float32, use more calibration images, or allow a larger accuracy drop.",
            )


class Results(NamedTuple):
    """A network's logits on images, in their order, and its speed from the median time of a batch."""

    logits: Float[Tensor, "n classes"]
    images_per_second: float


def run_all(runner: Runner, source: ExportSource, images: ImageSet) -> Results:
    """Run all images; the first batch runs once more beforehand, to warm up."""
    logits, seconds = [], []
    for number, batch in enumerate(source.normalized(images)):
        if number == 0:
            runner(batch)
        began = time.perf_counter()
        logits.append(runner(batch))
        seconds.append((time.perf_counter() - began) / len(batch))
    # The last batch may be too small to be timed well.
    return Results(torch.cat(logits).float(), 1 / statistics.median(seconds[:-1] or seconds))


def compare(found: Results, expected: Results, images: ImageSet) -> Comparison:
    """Compare an exported network's results with those of the PyTorch network."""
    classes, torch_classes = found.logits.argmax(1), expected.logits.argmax(1)

    def fraction(hits: Tensor) -> float:
        return hits.double().mean().item()

    return Comparison(
        images=len(images),
        batch_size=BATCH_SIZE,
        largest_difference=(found.logits - expected.logits).abs().amax().item(),
        largest_logit=expected.logits.abs().amax().item(),
        agreement=fraction(classes == torch_classes),
        top1=fraction(classes == images.labels),
        torch_top1=fraction(torch_classes == images.labels),
        images_per_second=found.images_per_second,
        torch_images_per_second=expected.images_per_second,
    )
